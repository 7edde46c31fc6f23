"""Regular expressions written as the lists of phrases that they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

_BEGINNINGS = (r"^[^\w\n]*", r"\b")
"""What many phrases begin with."""


def either(*alternatives: str) -> str:
    """A group that matches any of these; each may itself be several, divided by `|`."""
    return f"(?:{'|'.join(alternatives)})"


def any_of(alternatives: Iterable[str]) -> str:
    """Is found where one of these is; what many of them begin with stands before them once.

    So a search gives a place up after one look where no word and no line begins, and does not try every phrase there. Which of
    two phrases is found at a place may differ from `either`.

    Args:
        alternatives: Each may itself be several, divided by `|`.
    """
    groups: dict[str, list[str]] = {beginning: [] for beginning in (*_BEGINNINGS, "")}
    for each in alternatives:
        for phrase in _phrases(each):
            beginning = next(b for b in groups if phrase.startswith(b))
            groups[beginning].append(phrase.removeprefix(beginning))
    return "|".join(beginning + either(*phrases) for beginning, phrases in groups.items() if phrases)


def _phrases(pattern: str) -> Iterator[str]:
    """What is divided by `|` in a pattern, also where all of that stands in one group."""
    begins, closed, depth = [0], list[int](), 0
    for position, character in _signs(pattern):
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            begins.append(position + 1)
        if depth == 0 and character == ")":
            closed.append(position)
    if len(begins) > 1:
        for begin, behind in itertools.pairwise([*begins, len(pattern) + 1]):
            yield from _phrases(pattern[begin : behind - 1])
    elif pattern.startswith("(?:") and closed == [len(pattern) - 1]:
        yield from _phrases(pattern[3:-1])
    else:
        yield pattern


def _signs(pattern: str) -> Iterator[tuple[int, str]]:
    """Place and character of what has a meaning of its own outside of sets of characters."""
    is_escaped = is_in_set = False
    for position, character in enumerate(pattern):
        if is_escaped or character == "\\":
            is_escaped = not is_escaped
        elif is_in_set or character == "[":
            is_in_set = character != "]"
        else:
            yield position, character
