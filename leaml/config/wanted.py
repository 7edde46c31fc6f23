"""What a key may be, in plain words, from the type of its field; and how a value that it may not be is fixed."""

from __future__ import annotations

import difflib
import itertools
import math
import types
from dataclasses import dataclass
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

_NUMBERS: dict[object, str] = {int: "a whole number", float: "a number"}
_WORDS: dict[object, str] = {bool: "true or false", str: "text", object: "any value"}
_LIST = "written [a, b]"


@dataclass(frozen=True)
class Spelled:
    """In the annotation of a field with a pattern: what the pattern says, in words."""

    words: str


def wanted(field: FieldInfo) -> str:
    """What the field may be: "a number from 0 to 1, or null"."""
    return _words(field.annotation, field.metadata)


def fix(field: FieldInfo, key: str, value: object) -> str:
    """How to write what was probably meant, where that is plain: "; 30 % is 0.3".

    Args:
        field: The field that refused the value.
        key: Its dotted key, for a fix that repeats it.
        value: What was given.

    Returns:
        Text that ends the message; empty where no fix is plain.
    """
    kinds = _kinds(field.annotation)
    if isinstance(value, str) and "," in value and {list, tuple} & kinds:
        return f"; write {key}=[{value}]"

    if choices := [str(c) for c in _choices(field.annotation)]:
        near = difflib.get_close_matches(str(value).lower(), choices, 1)
        return f"; did you mean {near[0]!r}?" if near else ""

    if kinds <= {str, type(None)}:
        return "" if isinstance(value, str | list | dict) or value is None else f"; put it in quotes: '{value}'"
    if not {int, float} & kinds or isinstance(value, bool):
        return ""

    number, percent = _number(value)
    if number is None:
        return ""
    if not math.isfinite(number):
        return "; it must be finite"
    if float in kinds and 0 < number <= 100 and (percent or number > 1) and _upper(field.metadata) == 1:
        return f"; {number:g} % is {number / 100:g}"
    if float not in kinds and isinstance(value, str) and number.is_integer():
        return f"; write {int(number)}"
    return ""


def _number(value: object) -> tuple[float | None, bool]:
    """The number in a value, and whether it is a percentage."""
    text = str(value).strip()
    try:
        return float(text.removesuffix("%")), text.endswith("%")
    except ValueError:
        return None, False


def is_number(annotation: object) -> bool:
    """Whether a value of this type may be a number, and none of them true or false."""
    kinds = _kinds(annotation)
    return bool({int, float} & kinds) and bool not in kinds


def _words(annotation: object, metadata: list[object]) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        parts = [each.metadata if isinstance(each, FieldInfo) else [each] for each in more]
        return _words(inner, [*metadata, *itertools.chain(*parts)])

    if spelled := [m.words for m in metadata if isinstance(m, Spelled)]:
        return spelled[0]

    if origin in (Union, types.UnionType):
        return _either([_words(a, metadata) for a in get_args(annotation)])
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    if origin in (list, tuple):
        return f"a list, {_LIST}, of {_words(get_args(annotation)[0], [])}"
    if origin is dict:
        return "a mapping, written {key: value},"

    if annotation is type(None):
        return "null"
    if annotation is str and (patterns := [p for m in metadata if (p := getattr(m, "pattern", None))]):
        return f"text of the form {patterns[0]}"
    if annotation in _NUMBERS:
        return f"{_NUMBERS[annotation]}{_bounds(metadata)}"
    return _WORDS.get(annotation, "text")


def _either(parts: list[str]) -> str:
    """The parts of a union; a list of what may also stand alone is "a list of such"."""
    first, *others = parts
    return ", or ".join([first, *(f"a list of such, {_LIST}" if p.endswith(f"of {first}") else p for p in others)])


def _bounds(metadata: list[object]) -> str:
    limits = [(name, getattr(m, name, None)) for m in metadata for name in ("gt", "ge", "lt", "le")]
    found = {name: limit for name, limit in limits if limit is not None}
    if {"ge", "le"} <= set(found):
        return f" from {found['ge']:g} to {found['le']:g}"
    names = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    parts = [f"{words} {found[name]:g}" for name, words in names.items() if name in found]
    return f" {' and '.join(parts)}" if parts else ""


def _upper(metadata: list[object]) -> float | None:
    return next((v for m in metadata for name in ("lt", "le") if (v := getattr(m, name, None)) is not None), None)


def _kinds(annotation: object) -> set[object]:
    """The types in an annotation, those of entries left out."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*(_kinds(a) for a in get_args(annotation)))
    return {origin or annotation}


def _choices(annotation: object) -> list[object]:
    """The values of a Literal, also inside a list or a union."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for a in get_args(annotation) for choice in _choices(a)]
