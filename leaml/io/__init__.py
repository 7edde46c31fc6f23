"""Files on disks and in S3: read, listed and published atomically."""
