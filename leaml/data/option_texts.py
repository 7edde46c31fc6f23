"""Options that are one text: a list or an object written out, lettered options, or options with separators between them."""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import re
import tokenize

from leaml.data import json_text
from leaml.data.label_marks import UNREADABLE, mark, split
from leaml.text.values import UnusableError, shorten

_FIX = 'write a list: ["red", "blue"], or red|blue'
_ARRAY = re.compile(r"^(?:(?:np|numpy)\.)?array\((\[.*\])(?:,\s*dtype=[\w.'\"<>]+)?\s*\)$", re.S)
_NUMBER_COMMA = re.compile(r"(?<=\d),(?=\d)")
_GROUPED = re.compile(r"\d,\d{3}(?!\d)")
_JOINED = re.compile(r"^(?:and|or|und|oder|et|ou)\s+(?=\S)", re.I)
_JOINED_INSIDE = re.compile(r"\s(?:and|or|und|oder|et|ou|&)\s", re.I)
_BULLET = re.compile(r"^[-*•]\s+(?=\S)")
_BRACKETS = ("()", "[]", "{}")


def from_text(text: str) -> tuple[object, bool]:
    """The value that a text holds, and whether it was cut at separators, so that an answer has to be among its parts.

    Raises:
        UnusableError: It is not plain where one option ends and the next begins.
    """
    if not text:
        return None, False
    if match := _ARRAY.match(text):
        text = match[1]
    if text[0] in "[{('\"":
        for read in (_json, _python_literal):
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                if not isinstance(found := read(text), str):
                    return found, False
    for separator in "|\n;":
        if separator in text and (parts := _cut(text, separator)):
            return parts, True
    if text[0] != "{" and (lettered := split(text)) is not None:
        return lettered, False
    parts = _cut_at_commas(text)
    if len(parts) < 2:
        raise UnusableError(UNREADABLE, f"options are the text {shorten(text)}, with one option at most; {_FIX}")
    return parts, True


def list_in(text: str) -> list[str] | None:
    """The texts of a list that a text is, as pandas and labeling tools write one into a cell; None where it is another text.

    Numbers in brackets are none: a box or a point is an answer.
    """
    if text[:1] != "[" or text[-1:] != "]":
        return None
    for read in (_json, _python_literal):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError, UnusableError):
            found = read(text)
            if isinstance(found, list) and found and all(isinstance(each, str) for each in found):
                return found
    return None


def _json(text: str) -> object:
    try:
        return json_text.loads(text)
    except json_text.DuplicateJsonKeyError as error:
        raise UnusableError(UNREADABLE, f"options are {shorten(text)}: {error}; give each a letter of its own") from None


def _python_literal(text: str) -> object:
    tree = ast.parse(_with_commas(text), mode="eval")
    for node in ast.walk(tree):
        keys = [ast.dump(key) for key in node.keys if key is not None] if isinstance(node, ast.Dict) else []
        if len(set(keys)) < len(keys):
            raise UnusableError(UNREADABLE, f"a key occurs twice in the options {shorten(text)}; give each a letter of its own")
    return ast.literal_eval(tree)


def _with_commas(text: str) -> str:
    """The text with a comma between neighbouring strings: NumPy prints none, and Python would join them to one."""
    lines = io.StringIO(text).readlines()
    before: tokenize.TokenInfo | None = None
    parts, done = [], (1, 0)
    try:
        tokens = [token for token in tokenize.generate_tokens(iter([*lines, ""]).__next__) if token.type != tokenize.NL]
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from None
    for token in tokens:
        if before is not None and before.type == token.type == tokenize.STRING:
            if before.end == token.start:
                raise UnusableError(
                    UNREADABLE, f"options are {shorten(text)}: are {shorten(before.string + token.string)} one? {_FIX}"
                )
            parts += [_between(lines, done, before.end), ","]
            done = before.end
        before = token
    return "".join([*parts, _between(lines, done, (len(lines), len(lines[-1])))])


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text from one position to another, each a line, from 1, and a column."""
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    return "".join([lines[first - 1][left:], *lines[first : last - 1], lines[last - 1][:right]])


def _cut(text: str, separator: str) -> list[str]:
    """The parts between separators; a separator at the end, or at both ends, has no option behind it."""
    if f"\\{separator}" in text:
        raise UnusableError(UNREADABLE, f"options are the text {shorten(text)}: does \\{separator} separate them? {_FIX}")
    if text.startswith(separator) and text.endswith(separator):
        text = text[1:]
    text = text.removesuffix(separator)

    if '"' in text and separator != "\n":
        try:
            parts = next(csv.reader([text.replace("\n", " ")], delimiter=separator, skipinitialspace=True, strict=True), [])
        except csv.Error:
            parts = text.split(separator)
    else:
        parts = text.split(separator)

    parts = [part.strip() for part in parts]
    if separator == "\n":
        if all(_BULLET.match(part) for part in parts):
            parts = [_BULLET.sub("", part) for part in parts]
        for end in ",;":
            if all(part.endswith(end) for part in parts[:-1]):
                parts = [part.removesuffix(end) for part in parts]

    for quote in "'\"":
        if all(len(part) > 2 and part[0] == part[-1] == quote for part in parts):
            parts = [part[1:-1].strip() for part in parts]

    if any(_is_torn(part) for part in parts):
        raise UnusableError(UNREADABLE, f"options are the text {shorten(text)}, cut inside of brackets or quotes; {_FIX}")
    return parts


def _is_torn(part: str) -> bool:
    found = mark(part)  # that of "a) red" closes a bracket that nothing opened
    text = part if found is None else found.text
    uneven = any(text.count(pair[0]) != text.count(pair[1]) for pair in _BRACKETS)
    return uneven or (part[:1] == '"') != (part[-1:] == '"' and not part[-2:-1].isdigit())


def _cut_at_commas(text: str) -> list[str]:
    """The parts between commas, but for those of numbers: "1,000, 2,500" are two."""
    if _NUMBER_COMMA.search(text):
        if re.search(r",\s", text):
            parts = [part.replace("\0", ",") for part in _cut(_NUMBER_COMMA.sub("\0", text), ",")]
            return _unjoined(parts, text)
        if _GROUPED.search(text):
            raise UnusableError(UNREADABLE, f"options are the text {shorten(text)}: do the commas group digits? {_FIX}")
    return _unjoined(_cut(text, ","), text)


def _unjoined(parts: list[str], text: str) -> list[str]:
    """Without the word before the last part: "red, blue, and green"."""
    *before, last = parts
    last = _JOINED.sub("", last) if before else last
    if before and _JOINED_INSIDE.search(last):
        raise UnusableError(UNREADABLE, f"options are the text {shorten(text)}: is {shorten(last)} one option or two? {_FIX}")
    return [*before, last]
