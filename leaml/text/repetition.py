"""Whether a text goes round in circles, as a model does that found no end: learned, it would teach to do the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
"""A word, or a character of a script without spaces between words."""
_ITEM = re.compile(r"^[\s>#*-]*\d+[.):]\s*", re.M)
_PERIODS = 60
"""Words of the longest phrase that is looked for; longer ones are sentences."""
_COPIES = 3
_ONE_WORD = 8
"""Times that one word may not be all of a text."""
_ONE_CHARACTER = re.compile(r"([^\W\d_])\1{11}")
_REPEATED_WORDS = 12
"""Words that must repeat what stands before them: short phrases have to come more often ("red, red, red" is a row of balls)."""


def is_repetitive(text: str, sentences: Sequence[str]) -> bool:
    """Whether a phrase or a sentence comes three times in a row, under half of four or more sentences differ, or all is a word.

    Args:
        text: The text.
        sentences: Its sentences, which may begin with the number of a list item.
    """
    plain = [" ".join(_WORD.findall(_ITEM.sub("", sentence).lower())) for sentence in sentences]
    if len(plain) > _COPIES and 2 * len(set(plain)) < len(plain):
        return True
    if any(len(set(plain[start : start + _COPIES])) == 1 for start in range(len(plain) - _COPIES + 1)):
        return True
    words = _WORD.findall(_ITEM.sub("", text).lower())
    if (len(words) >= _ONE_WORD and len(set(words)) == 1) or _ONE_CHARACTER.search(text):
        return True
    return any(_repeats(words, period) for period in range(1, min(_PERIODS, len(words) // _COPIES) + 1))


def _repeats(words: Sequence[str], period: int) -> bool:
    """Whether words of one length come in a row as often as it takes."""
    needed, run = max((_COPIES - 1) * period, _REPEATED_WORDS), 0
    for word, earlier in zip(words[period:], words, strict=False):
        run = run + 1 if word == earlier else 0
        if run >= needed:
            return True
    return False
