"""Columns of a table of questions that nothing here reads: they come out beside the answers, as they went in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

GIVEN = "given_"
"""In front of the name of a column that the output has already."""


def names(rows: Sequence[Mapping[str, object]], taken: Collection[str]) -> dict[str, str]:
    """Every key of the rows, in order of first mention, with the name of its column.

    Args:
        rows: What the rows hold beside what is read.
        taken: Names that the output has already.
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    found: dict[str, str] = {}
    for key in keys:
        name = key
        while name in taken or name in found.values() or (name != key and name in keys):
            name = GIVEN + name
        found[key] = name
    return found


def column(values: Sequence[object]) -> pa.Array:
    """One column: whole numbers, numbers or truth values where all are such, else texts, with JSON for what is no text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds and (kinds <= {int, float} or kinds == {bool}):
        with contextlib.suppress(pa.ArrowInvalid, OverflowError):  # over 64 bits
            return pa.array(values, pa.int64() if kinds == {int} else pa.bool_() if kinds == {bool} else pa.float64())
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode()  # a half character, which a table cannot hold
