"""Regular expressions written as the lists of phrases that they are."""

from __future__ import annotations


def either(*alternatives: str) -> str:
    """A group that matches any of these; each may itself be several, divided by `|`."""
    return f"(?:{'|'.join(alternatives)})"
