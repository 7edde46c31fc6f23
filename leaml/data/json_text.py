"""JSON of people's files: like `json.loads`, but a key that occurs twice, and what it cannot hold, are errors of one kind."""

from __future__ import annotations

import ast
import json
import re
import warnings

_LONGEST_PYTHON = 100_000
"""Characters of a text of which it is found out whether it is Python."""
_CLOSING_COMMA = re.compile(r'("(?:[^"\\\n]|\\.)*")|,(?=\s*[}\]])')
_BETWEEN = re.compile(r"[\s,]*")


class ExplainedError(json.JSONDecodeError):
    """The text is not JSON for a reason that is plain; the message is what to do."""


class DuplicateJsonKeyError(ValueError):
    """An object has a key twice: one of the two values would be lost without a word."""


def loads(text: str | bytes) -> object:
    """The value that a JSON text holds.

    Raises:
        json.JSONDecodeError: It is not JSON; an ExplainedError where it is plain why.
        DuplicateJsonKeyError: An object in it has a key twice.
        ValueError: Any other reason: nested too deep, a number too long, bytes that are not UTF-8.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise _explained(error) from None
    except RecursionError:
        msg = "nested too deep"
        raise ValueError(msg) from None


def values(text: str) -> list[object]:
    """Values that stand behind one another, with commas between them or without. Raises ValueError as `loads` does."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    found: list[object] = []
    position = _end_of_gap(text, 0)
    try:
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            position = _end_of_gap(text, position)
            found.append(value)
    except RecursionError:
        msg = "nested too deep"
        raise ValueError(msg) from None
    return found


def without_closing_commas(text: str) -> str:
    """The text without commas that stand before a closing bracket, where many languages allow one and JSON does not."""
    return _CLOSING_COMMA.sub(lambda match: match[1] or "", text)


def _end_of_gap(text: str, position: int) -> int:
    found = _BETWEEN.match(text, position)
    return found.end() if found else position


def _explained(error: json.JSONDecodeError) -> json.JSONDecodeError:
    text = error.doc
    if _is_json(without_closing_commas(text)):
        position = next(match.start() for match in _CLOSING_COMMA.finditer(text) if not match[1])
        return ExplainedError("remove the comma before the closing bracket", text, position)
    end = text.rstrip()
    if end.endswith(",") and _is_json(end[:-1]):
        return ExplainedError("remove the comma behind the value", text, len(end) - 1)
    if _is_python(text):
        return ExplainedError("it is Python, and JSON has double quotes, true, false and null", text, error.pos)
    return error


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_python(text: str) -> bool:
    if len(text) > _LONGEST_PYTHON or text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        with warnings.catch_warnings(action="ignore"):
            return isinstance(ast.literal_eval(text.strip()), dict | list)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return False


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"the key {twice!r} occurs twice in one object; remove one"
        raise DuplicateJsonKeyError(msg)
    return found
