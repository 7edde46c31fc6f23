"""What a file seems to be that is not what its format says, and what to do about it."""

from __future__ import annotations

_BINARY = {
    b"PAR1": "a Parquet file: set format: parquet",
    b"PK\x03\x04": "an Excel or zip file: save it as CSV in UTF-8 (format: csv)",
    b"\x1f\x8b": "a gzip file: unpack it",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8",
    b"\x89PNG": "an image: set format: folder, and path to its folder",
    b"\xff\xd8\xff": "an image: set format: folder, and path to its folder",
}
_SEPARATORS = (",", "\t", ";")


def of_bytes(head: bytes) -> str:
    """What the first bytes of a file that is no text in UTF-8 say, to follow a message; empty if nothing."""
    found = next((kind for start, kind in _BINARY.items() if head.startswith(start)), None)
    return f"; it looks like {found}" if found else ""


def of_text(head: str) -> str:
    """What the beginning of a text says, to follow a message: JSON Lines, a JSON list, or a table; empty if nothing."""
    start = head.lstrip("\ufeff \t\r\n")
    if start.startswith("{"):
        return "; it looks like JSON Lines: set format: jsonl, or end its name in .jsonl"
    if start.startswith("["):
        return f"; {of_list(head)}"
    line = start.partition("\n")[0]
    if any(separator in line for separator in _SEPARATORS):
        return "; it looks like a table: set format: csv, or end its name in .csv"
    return ""


def of_list(head: str) -> str:
    """What to do with a file that is a JSON list, by its beginning."""
    fix = "write each of its entries on a line of its own (jq -c '.[]' does), and set format: jsonl"
    if '"conversations"' in head or '"messages"' in head:
        fix = "set format: conversations"
    return f"it is a JSON list: {fix}"
