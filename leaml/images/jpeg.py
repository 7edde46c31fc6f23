"""Checks the scans of a JPEG file before libjpeg decodes them."""

from __future__ import annotations

import re

MAX_SCANS = 100
"""Scans of one image. Progressive files have about 10, odd ones up to 60; libtiff stops at 100 too. Each may go over all
pixels: 10,000 of 12 bytes take 14 s at 16 megapixels, in a thread that nothing can stop."""
MAX_SEGMENTS = 10_000
"""Segments of one image; profiles and metadata of 600 MB fit in."""

_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
"""The next marker with a segment, past image data: there 0xFF is followed by 0, by fill (0xFF) or by a restart (D0 to D7)."""
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA


def too_many_scans(data: bytes) -> bool:
    """Whether the first image of a JPEG file has more than `MAX_SCANS` scans or `MAX_SEGMENTS` segments.

    A thumbnail inside a segment, and what stands behind the end of the image (more images, a video), does not count.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    offset, scans, segments = 2, 0, 0
    while found := _MARKER.search(data, offset):
        marker = found[1][0]
        if marker in (_SOI, _EOI):  # a second start is an error to libjpeg
            return False
        scans, segments = scans + (marker == _SOS), segments + 1
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            return True
        offset = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    return False
