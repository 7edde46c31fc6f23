"""Draws by a hash: the same whatever the order, the worker or the way that rows are cut into files."""

from __future__ import annotations

import hashlib


def uniform(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
