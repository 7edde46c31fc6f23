"""Questions made of captions: yes/no checks of single words, so that a model learns to find a new word, not only to say it, and
sentences with a blank, so that it finds what belongs to what it is told.

A model that has learned from captions to write "teal" may still deny that an image shows teal, since nothing in a caption asks
for it. Image-text matching (ALBEF, arXiv 2107.07651; BLIP, 2201.12086) trains that on whole captions; here one word is matched
at a time, which is what short questions ask. Gaps are the plainest of the questions that captions answer (VQ2A, 2205.01883).
"""

from __future__ import annotations

import random
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
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


def _frequency(captions: Mapping[str, str]) -> Counter[str]:
    """How many captions have each word."""
    return Counter(word for caption in captions.values() for word in _words(caption))


def _common(frequency: Counter[str], captions: int) -> frozenset[str]:
    """Words that more than `MOST_COMMON` of the captions have."""
    return frozenset(word for word, count in frequency.items() if count > MOST_COMMON * captions)


class _WordNumbers:
    """The words of captions as numbers, which have the order of the words: a set of texts for each would take kilobytes."""

    def __init__(self, captions: Mapping[str, str], frequency: Counter[str]) -> None:
        self.words = sorted(frequency)
        number = {word: n for n, word in enumerate(self.words)}
        self._ends, self._numbers = array("q", [0]), array("i")
        for caption in captions.values():
            self._numbers.extend(number[word] for word in _words(caption))
            self._ends.append(len(self._numbers))

    def __getitem__(self, caption: int) -> set[int]:
        """Those of the caption at this position."""
        return set(self._numbers[self._ends[caption] : self._ends[caption + 1]])


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
    frequency = _frequency(captions)
    common = _common(frequency, len(ids))
    of = _WordNumbers({image: captions[image] for image in ids}, frequency)
    unasked = {number for number, word in enumerate(of.words) if word in common}
    everyone = range(len(ids))
    for position, image in enumerate(ids):
        here = of[position]
        own = here - unasked
        others = [j for j in rng.sample(everyone, min(CANDIDATES, len(ids))) if of[j] - here - unasked]
        if own and others:
            yield WordCheck(image, of.words[rng.choice(sorted(own))], True)
            wrong = of[rng.choice(others)] - here - unasked
            yield WordCheck(image, of.words[rng.choice(sorted(wrong))], False)


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
    common = _common(_frequency(captions), len(captions))
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
