"""Templates of questions: their words with the parts that vary masked, to break a result down where rows have no type."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from leaml.text import scoring

LIMIT = 12
"""Most templates; a longer table is not read."""
MASK = "…"
OTHER = "other questions"
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”")
_HELD = "quotedtext"  # stands for a mask while a question is normalised, which drops punctuation at the ends
_NUMBER = re.compile(r"\S*\d\S*")

_Words = tuple[str, ...]


def templates(questions: Iterable[str], limit: int = LIMIT) -> dict[str, str]:
    """A template for each question, at most `limit` different ones.

    Up to `limit` different questions are their own templates. Else what is in quotes or has a digit is masked, then one
    position after another: always those that most different words fill while the rest of the question stays the same, so that
    "the colour of the ..." and "the size of the ..." stay separate as long as colours and sizes are fewer than what they are
    of. Where no position is left and there are still too many, questions go by their first words, and at last the rarest are
    `OTHER`. The order of the questions does not matter.
    """
    now: dict[str, _Words] = {question: tuple(scoring.normalise(question).split()) for question in set(questions)}
    if len(set(now.values())) > limit:
        now = {question: _without_literals(question) for question in now}
    while len(kinds := set(now.values())) > limit:
        masked = _mask_fullest(kinds)
        if not masked:
            break
        now = {question: masked.get(words, words) for question, words in now.items()}
    return _shortened(now, limit)


def _without_literals(question: str) -> _Words:
    """The words of a question, with a mask for what is in quotes or has a digit."""
    text = scoring.normalise(_QUOTED.sub(f" {_HELD} ", question)).replace(_HELD, MASK)
    return _merged(tuple(_NUMBER.sub(MASK, text).split()))


def _mask_fullest(kinds: set[_Words]) -> dict[_Words, _Words]:
    """The kinds whose word at some position varies most, with a mask there; empty where no position varies."""
    filled: dict[_Words, set[_Words]] = defaultdict(set)
    for words in kinds:
        for position, word in enumerate(words):
            if word != MASK:
                filled[(*words[:position], MASK, *words[position + 1 :])].add(words)
    most = max((len(fillers) for fillers in filled.values()), default=0)
    if most < 2:
        return {}
    found: dict[_Words, _Words] = {}
    for pattern in sorted(filled):
        if len(filled[pattern]) > most // 2:  # all that vary about as much, so that it takes few turns
            for words in filled[pattern]:
                found.setdefault(words, _merged(pattern))
    return found


def _merged(words: _Words) -> _Words:
    """Neighbouring masks are one."""
    return tuple(word for position, word in enumerate(words) if word != MASK or position == 0 or words[position - 1] != MASK)


def _shortened(now: dict[str, _Words], limit: int) -> dict[str, str]:
    """The templates as text; of too many the first words, as many of them as the limit allows."""
    for length in (None, 4, 3, 2, 1):
        kinds = {question: _beginning(words, length) for question, words in now.items()}
        if len(set(kinds.values())) <= limit:
            return kinds
    sizes: dict[str, int] = defaultdict(int)
    for kind in kinds.values():
        sizes[kind] += 1
    kept = set(sorted(sizes, key=lambda kind: (-sizes[kind], kind))[: limit - 1])
    return {question: kind if kind in kept else OTHER for question, kind in kinds.items()}


def _beginning(words: _Words, length: int | None) -> str:
    cut = length is not None and len(words) > length
    return " ".join(_merged((*words[:length], MASK)) if cut else words)
