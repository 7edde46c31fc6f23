"""The options of a labeled row, in whatever form a file has them: lettered texts in order, or why they cannot be read.

A letter names its option by place, so a lost option shifts the letters behind it: whatever is not plain is refused.
"""

from __future__ import annotations

import ast
import contextlib
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leaml.data import json_text
from leaml.data.values import UnusableError, is_missing, shorten, text_of

UNREADABLE, GAP = "unreadable options", "missing option"
"""Reasons for which a row is refused."""

MOST_OPTIONS = 26
"""One letter each."""

_KEY = re.compile(r"^[\s(]*(?:option|choice|answer|opt)?[\s_.-]*([A-Za-z]|\d{1,3})[\s).:]*$", re.I)
_LETTERED = re.compile(r"^\s*(?:\(([A-Z])\)|([A-Z])[).:])\s*(.*\S)\s*$", re.S)
_LETTER_HERE = re.compile(r"(?:^|(?<=[\s,;|]))(?:\(([A-Z])\)|([A-Z])[).:])\s*")
_LABELS = ("label", "letter", "key", "id", "name", "option")
_TEXTS = ("text", "value", "content", "answer", "choice", "option", "label")
_SEPARATORS = ("|", "\n", ";", ",")


@dataclass(frozen=True)
class Options:
    """Texts in the order of their letters A, B, C, ...

    Attributes:
        texts: What the options say.
        keys: Numbers by which the row's answer may name them, where the file numbers them.
        split: Whether they were one text, cut at separators: then the answer has to be among them.
    """

    texts: tuple[str, ...]
    keys: tuple[str, ...] = ()
    split: bool = False


def parse_options(value: Any) -> Options | None:
    """The options in `value`; None if there are none (absent, NaN, empty).

    Read are lists of texts, of lettered texts ("A. red") and of objects ({"label": "A", "text": "red"}); objects by letter
    or by number; Arrow's {"label": [...], "text": [...]}; and texts that hold JSON, a Python list, lettered options
    ("A. red B. blue"), or options separated by "|", line ends, ";" or ",".

    Raises:
        UnusableError: An option is missing in between, a key occurs twice, or the form is none of these.
    """
    split = False
    if isinstance(value, str):
        value, split = _from_text(value.strip())
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        columns = _columns(value)
        found = _keyed(value) if columns is None else _entries(columns)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        found = _listed(list(value))
    else:
        raise UnusableError(UNREADABLE, f"options are {shorten(value)}, not a list")
    return replace(found, split=split) if found is not None and found.texts else None


def _from_text(text: str) -> tuple[Any, bool]:
    """The value that a text holds (an object or list written out, lettered or separated options); was it cut at separators?"""
    if text[:1] in ("[", "{"):
        for read in (_json, _python_literal):
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                return read(text), False
        raise UnusableError(UNREADABLE, f"options are {shorten(text)}, neither valid JSON nor a Python list")
    if not text:
        return None, False
    if (lettered := _split_letters(text)) is not None:
        return lettered, False
    for separator in _SEPARATORS:
        parts = [part.strip() for part in text.strip(separator).split(separator)]
        if len(parts) > 1:
            return parts, True
    raise UnusableError(UNREADABLE, f"options are the text {shorten(text)}, with one option at most")


def _json(text: str) -> Any:
    try:
        return json_text.loads(text)
    except json_text.DoubledKeyError as error:
        raise UnusableError(UNREADABLE, f"options are {shorten(text)}: {error}") from None


def _python_literal(text: str) -> Any:
    # NumPy prints its arrays without commas, and Python joins neighbouring texts to one
    tree = ast.parse(re.sub(r"""(['"])\s+(?=['"])""", r"\1, ", text), mode="eval")
    for node in ast.walk(tree):
        keys = [ast.dump(key) for key in node.keys if key is not None] if isinstance(node, ast.Dict) else []
        if len(set(keys)) < len(keys):
            raise UnusableError(UNREADABLE, f"options are {shorten(text)}: a key occurs twice in one object; remove one")
    return ast.literal_eval(tree)


def _split_letters(text: str) -> list[str] | None:
    """`A. red B. blue` as two lettered texts; None unless the text begins with A and goes on letter by letter."""
    starts = list(_LETTER_HERE.finditer(text))
    wanted = iter(string.ascii_uppercase)
    due, places = next(wanted), []
    for match in starts:
        if (match[1] or match[2]) == due:
            places.append(match.start())
            due = next(wanted, "")
    if len(places) < 2 or places[0] != 0:
        return None
    return [text[start:end].strip(" \t\n,;|") for start, end in zip(places, [*places[1:], len(text)], strict=True)]


def _listed(values: list[Any]) -> Options | None:
    values = _without_tail(values)
    if values and all(isinstance(value, Mapping) for value in values):
        return _entries(values)
    if any(is_missing(value) for value in values):
        place = next(n for n, value in enumerate(values) if is_missing(value))
        raise UnusableError(GAP, f"option {_letter(place)} is missing among {shorten(values)}")
    texts = [text_of(value, "an option") for value in values]
    lettered = [_LETTERED.match(text) for text in texts]
    if len(texts) > 1 and all(lettered):
        return _by_letter([((m[1] or m[2]), m[3]) for m in lettered if m], texts)
    return Options(tuple(texts))


def _entries(entries: list[Any]) -> Options | None:
    """Options as objects with a label and a text, or as objects of one key each."""
    if all(len(entry) == 1 and _KEY.match(str(next(iter(entry)))) for entry in entries):
        merged = [(key, value) for entry in entries for key, value in entry.items()]
        return _pairs(merged, entries)
    pairs: list[tuple[Any, Any]] = []
    for entry in entries:
        label = next((key for key in _LABELS if key in entry and _KEY.match(str(entry[key]))), None)
        text = next((key for key in _TEXTS if key in entry and key != label), None)
        if text is None or (pairs and (label is None) != (pairs[0][0] is None)):
            raise UnusableError(UNREADABLE, f"options are {shorten(entries)}; write texts, or label and text of each")
        pairs.append((None if label is None else entry[label], entry[text]))
    if pairs and pairs[0][0] is None:
        return _listed([text for _, text in pairs])
    return _pairs(pairs, entries)


def _columns(value: Mapping[Any, Any]) -> list[dict[str, Any]] | None:
    """The entries of an object of equally long lists, as `datasets` stores a list of objects; None if it is not one."""
    lists = [column for column in value.values() if isinstance(column, list)]
    if len(value) < 2 or len(lists) != len(value) or len({len(column) for column in lists}) != 1:
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]


def _keyed(value: Mapping[Any, Any]) -> Options | None:
    return _pairs(list(value.items()), value)


def _pairs(pairs: list[tuple[Any, Any]], shown: Any) -> Options | None:
    """Options by letter or by number, in the order of these."""
    keys = []
    for key, _ in pairs:
        match = _KEY.match(str(key))
        if match is None:
            raise UnusableError(UNREADABLE, f"key {shorten(key)} of the options is neither a letter nor a number")
        keys.append(match[1].upper())
    if len(set(keys)) != len(keys):
        raise UnusableError(UNREADABLE, f"a key occurs twice in the options {shorten(shown)}")
    values = [value for _, value in pairs]
    if all(key.isdigit() for key in keys):
        kept = sorted((int(key), value) for key, value in zip(keys, values, strict=True) if not is_missing(value))
        return Options(tuple(text_of(value, "an option") for _, value in kept), tuple(str(number) for number, _ in kept))
    if any(key.isdigit() for key in keys):
        raise UnusableError(UNREADABLE, f"the options {shorten(shown)} are named by letters and by numbers")
    return _by_letter([(key, value) for key, value in zip(keys, values, strict=True) if not is_missing(value)], shown)


def _by_letter(pairs: list[tuple[str, Any]], shown: Any) -> Options:
    pairs = sorted(pairs, key=lambda pair: pair[0])
    for place, (letter, _) in enumerate(pairs):
        if letter != _letter(place):
            raise UnusableError(GAP, f"option {_letter(place)} is missing among {shorten(shown)}")
    return Options(tuple(text_of(value, "an option") for _, value in pairs))


def _without_tail(values: list[Any]) -> list[Any]:
    """Without missing values at the end: a table pads lists of unequal length with them."""
    end = len(values)
    while end and is_missing(values[end - 1]):
        end -= 1
    return values[:end]


def _letter(place: int) -> str:
    return string.ascii_uppercase[place] if place < MOST_OPTIONS else f"number {place + 1}"
