"""Questions made of captions: yes/no checks of single words, so that a model learns to find a new word, not only to say it, and
sentences with a blank, so that it finds what belongs to what it is told.

A model that has learned from captions to write "teal" may still deny that an image shows teal, since nothing in a caption asks
for it. Image-text matching (ALBEF, arXiv 2107.07651; BLIP, 2201.12086) trains that on whole captions; here one word is matched
at a time, which is what short questions ask. Gaps are the plainest of the questions that captions answer (VQ2A, 2205.01883).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
CANDIDATES = 32
"""Other captions that are looked at for a wrong word."""

MOST_COMMON = 0.5
"""A word in more than this share of the captions tells nothing about an image and is not asked."""


class WordCheck(NamedTuple):
    """Whether an image shows what a word of some caption says."""

    image_id: str
    word: str
    present: bool


def _common(words: Iterable[frozenset[str]], captions: int) -> frozenset[str]:
    """Words, given those of each caption, that more than `MOST_COMMON` of the captions have."""
    frequency = Counter(word for own in words for word in own)
    return frozenset(word for word, count in frequency.items() if count > MOST_COMMON * captions)


def _words(caption: str) -> frozenset[str]:
    return frozenset(_WORD.findall(caption.lower()))


def word_checks(captions: dict[str, str], seed: int) -> Iterator[WordCheck]:
    """For every image one word of its caption and one word that it lacks but a caption like its own has.

    The wrong word is drawn from one of `CANDIDATES` random captions, each weighted equally, so that it is as common as it is in
    the captions; yes and no are equally frequent over images that have both.

    Args:
        captions: image id -> caption. Fewer than two different captions give no check.
        seed: of the draw; the result depends on it and on the captions only.
    """
    rng = random.Random(seed)
    ids = sorted(captions)
    words = {i: _words(captions[i]) for i in ids}
    common = _common(words.values(), len(ids))
    for image in ids:
        own = words[image] - common
        others = [j for j in rng.sample(ids, min(CANDIDATES, len(ids))) if words[j] - words[image] - common]
        if own and others:
            yield WordCheck(image, rng.choice(sorted(own)), True)
            wrong = words[rng.choice(others)] - words[image] - common
            yield WordCheck(image, rng.choice(sorted(wrong)), False)


class Cloze(NamedTuple):
    """A sentence of a caption with a blank, and what the caption says there."""

    image_id: str
    sentence: str
    words: str


BLANK = "___"
PER_CAPTION = 4
"""Most clozes of one caption."""


def clozes(captions: dict[str, str], seed: int) -> Iterator[Cloze]:
    """Sentences of captions with one or two telling words left out, at most `PER_CAPTION` of each caption.

    A word tells something if no more than `MOST_COMMON` of the captions have it. A sentence that would be all blank has none.

    Args:
        captions: image id -> caption.
        seed: of the draw; the result depends on it and on the captions only.
    """
    rng = random.Random(seed)
    common = _common(map(_words, captions.values()), len(captions))
    for image in sorted(captions):
        found = [
            cloze for sentence in re.split(r"(?<=[.!?])\s+", captions[image].strip()) for cloze in _clozes(sentence, common)
        ]
        for sentence, words in rng.sample(found, min(PER_CAPTION, len(found))):
            yield Cloze(image, sentence, words)


def _clozes(sentence: str, common: frozenset[str]) -> Iterator[tuple[str, str]]:
    """A sentence with each telling word, and each two side by side, left out; and those words."""
    words = list(_WORD.finditer(sentence))
    telling = [word.group().lower() not in common for word in words]
    for index, word in enumerate(words):
        if not telling[index]:
            continue
        ends = [word.end()]
        if index + 1 < len(words) and telling[index + 1] and sentence[word.end() : words[index + 1].start()] == " ":
            ends.append(words[index + 1].end())
        for end in ends:
            before, after = sentence[: word.start()], sentence[end:]
            if before.strip() or len(after.strip()) > 1:
                yield f"{before}{BLANK}{after}", sentence[word.start() : end]
