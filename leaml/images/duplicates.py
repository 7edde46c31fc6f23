"""Near-duplicate images by perceptual hash: a frame scaled, recompressed or slightly changed has nearly the same hash."""

from __future__ import annotations

import imagehash
import numpy as np
from PIL import Image

CHUNK = 2**24
"""Pairs compared at a time, which bounds memory to some 200 MiB."""


def perceptual_hash(image: Image.Image) -> int:
    """64 bits: which of the 8 x 8 lowest DCT coefficients of the grey 32 x 32 image are above their median (pHash)."""
    bits = imagehash.phash(image).hash.flatten()
    return int(np.packbits(bits).view(">u8")[0])


def near_pairs(tested: np.ndarray, others: np.ndarray, bits: int) -> list[tuple[int, int, int]]:
    """`(index in tested, index in others, bits that differ)` of all pairs that differ in at most `bits` bits.

    Args:
        tested: uint64 (n,) hashes.
        others: uint64 (m,) hashes.
        bits: 0 to 64.
    """
    found = []
    step = max(1, CHUNK // max(1, len(tested)))
    for start in range(0, len(others), step):
        distance = np.bitwise_count(tested[:, None] ^ others[None, start : start + step])
        for row, column in np.argwhere(distance <= bits):
            found.append((int(row), int(start + column), int(distance[row, column])))
    return found
