"""JSON of people's files: like `json.loads`, but a key that occurs twice, and what it cannot hold, are errors of one kind."""

from __future__ import annotations

import json
from typing import Any


class DoubledKeyError(ValueError):
    """An object has a key twice: one of the two values would be lost without a word."""


def loads(text: str | bytes) -> Any:
    """The value that a JSON text holds.

    Raises:
        json.JSONDecodeError: It is not JSON.
        DoubledKeyError: An object in it has a key twice.
        ValueError: Any other reason: nested too deep, a number too long, bytes that are not UTF-8.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        msg = "nested too deep"
        raise ValueError(msg) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"the key {twice!r} occurs twice in one object; remove one"
        raise DoubledKeyError(msg)
    return found
