"""Checks the directory of a TIFF file before Pillow reads it."""

from __future__ import annotations

import struct

MAX_VALUES = 262_144
"""Numbers of one entry. An image of 32,768 rows in strips of one row and three planes has 98,304, and the transfer function of
an RGB image of 16 bits 196,608; Pillow takes 9 s for the two million strips that a file of 8 MB can list."""

_BYTES = {1, 2, 6, 7}
"""Types of entries that hold bytes or text, which may be long: profiles and metadata."""


def too_many_values(data: bytes) -> bool:
    """Whether an entry of the first directory of a TIFF or BigTIFF lists more than `MAX_VALUES` numbers."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return False
    try:
        return max(_counts(data, order), default=0) > MAX_VALUES
    except struct.error:  # cut off: the reader says how
        return False


def _counts(data: bytes, order: str) -> list[int]:
    """Numbers of each entry of the first directory."""
    if struct.unpack_from(f"{order}H", data, 2)[0] == 43:  # BigTIFF
        start, entry, long = struct.unpack_from(f"{order}Q", data, 8)[0], 20, "Q"
    else:
        start, entry, long = struct.unpack_from(f"{order}L", data, 4)[0], 12, "L"
    head = "Q" if long == "Q" else "H"
    entries = min(struct.unpack_from(f"{order}{head}", data, start)[0], len(data) // entry)
    first = start + struct.calcsize(f"{order}{head}")
    found = (struct.unpack_from(f"{order}HH{long}", data, first + index * entry) for index in range(entries))
    return [count for _, kind, count in found if kind not in _BYTES]
