"""Which texts are addresses and which are local paths; nothing here is opened."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_NO_SLASHES = re.compile(r"^(s3[an]?|https?|ftps?|file|gs|gcs|hdfs|az|abfss?|hf):(?!//)", re.IGNORECASE)
"""Schemes that nobody gives a file as its name; others with a colon (`12:30.png`) are local."""


def scheme(text: str) -> str | None:
    """The scheme of an address in small letters; None of a local path, and of an address that lacks a slash."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else None


def lacks_slash(text: str) -> bool:
    """Whether a text begins as an address does, without the two slashes: `s3:key`, `s3:/bucket/key`, `http:/host`."""
    return _NO_SLASHES.match(text) is not None
