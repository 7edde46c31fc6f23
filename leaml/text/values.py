"""Single values of label rows: numbers as people write them, what counts as missing, and values cut for messages."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal

import numpy as np

from leaml.text.broken_text import is_blank, stripped

_SHOWN = 80
_MISSING = re.compile(
    r"[+-]?nan(?:\((?:ind|[qs]nan)\))?|-?1\.#(?:ind|inf|[qs]nan)\d*|(?:pd\.)?<na>|(?:np|numpy)\.nan|(?:pd|pandas)\.(?:na"
    r"|nat)|(?-i:NaT)"
    r"|#n/?a(?: n/?a)?!?|#(?:ref|value|div/0|num|null|spill|calc|field|blocked|connect|busy|unknown|error)[!?]"
    r"|#(?:name|field)\?|#getting_data|#{3,}|\\N|[(<\[]null[)>\]]"
    # in other languages: #WERT!, #¡VALOR!, #NOM?, #ДЕЛ/0!; their "not available" has no mark behind it
    r"|(?-i:#[¡¿]?(?![a-z])[^\W\d]+(?:/0)?[!?](?<=[^a-z][!?]))"
    r"|(?-i:#(?:NV|Н/Д|YOK|SAKNAS|PUUTTUU|HIÁNYZIK|NENÍ_K_DISPOZICI|N/[A-Z]|I/T))",
    re.I,
)
"""What pandas, NumPy, spreadsheets and databases write for a value that is missing or failed: no person answers so."""


class UnusableError(Exception):
    """A value of a label row cannot be used: `reason` is the kind of fault, the same for many rows, `detail` this one."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def shorten(value: object, most: int = _SHOWN) -> str:
    """A value for a message: its `repr`, cut to `most` characters."""
    # Cut before repr: an image in base64 is megabytes of text, and repr would copy it
    text = repr(value[: most + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= most else f"{text[:most]}..."


def is_missing(value: object) -> bool:
    """Whether a value stands for nothing: null, NaN, pandas' NA or NaT, a text with nothing to see, or only such values."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, float | np.floating | Decimal):
        return math.isnan(value)
    if isinstance(value, str):
        return is_blank(value)
    if isinstance(value, Mapping):
        return all(is_missing(v) for v in value.values())
    return isinstance(value, list | tuple) and all(is_missing(v) for v in value)


def marks_missing(text: str) -> bool:
    """Whether a text is a program's mark of a missing value: "nan", "<NA>", "NaT", "#N/A", "#REF!".

    Words that are answers as well ("None", "NA", "N/A", "null", "no") are not.
    """
    return _MISSING.fullmatch(stripped(text)) is not None


def text_of(value: object, what: str) -> str:
    """A text, or a number as people write it: 3.0, which tables make of 3 where a cell of the column is empty, is "3".

    A list of one is what it holds.

    Raises:
        UnusableError: A value of another kind, or one that stands for nothing; also a text that marks a missing one,
            as "nan" does.
    """
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    text = stripped(value) if isinstance(value, str) else None
    if is_missing(value) or (text is not None and marks_missing(text)):
        reason = f"no {what.split()[-1]}"
        raise UnusableError(reason, f"{what} is {'missing' if value is None else shorten(value)}")
    if text is not None:
        return text
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | Decimal | np.number):
        reason = f"{what.split()[-1]} is no text"
        raise UnusableError(reason, _no_text(value, what))
    return _number(value, what)


def _no_text(value: object, what: str) -> str:
    if isinstance(value, list | tuple):
        fix = (
            "write one list of texts" if what == "an option" else "a row has one: write the one that counts, or a row for each"
        )
        return f"{what} is a list of {len(value)}, {shorten(value)}; {fix}"
    if isinstance(value, Mapping):
        return f"{what} is an object, {shorten(value)}; write its text"
    return f"{what} is {shorten(value)}, not text"


def _number(value: int | float | Decimal | np.number, what: str) -> str:
    if not math.isfinite(value):
        reason = f"{what.split()[-1]} is no text"
        raise UnusableError(reason, f"{what} is {shorten(value)}, not a finite number")
    if value == int(value):
        return str(int(value))
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    return np.format_float_positional(value if isinstance(value, np.floating) else np.float64(value), trim="-")
