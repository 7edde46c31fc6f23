"""Limits of images that hold for the configuration and for the code that decodes."""

MAX_PIXELS = 25_000_000
"""Default limit, in pixels; Pillow itself only warns at 89 million."""
MAX_SIDE = 32_768
"""Default limit of width and height, in pixels."""
MAX_ASPECT = 100.0
"""Default limit of the longer side over the shorter one. Panoramas reach 10, crops of text lines 60. Far above, processors that
scale the shorter side up make gigabytes of an image of a few pixels, and Qwen's refuses at 200."""
