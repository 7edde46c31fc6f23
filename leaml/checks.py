"""Word checks: yes/no questions about single words of captions, so that a model learns to find a new word, not only to say it.

A model that has learned from captions to write "teal" may still deny that an image shows teal, since nothing in a caption asks
for it. Image-text matching (ALBEF, arXiv 2107.07651; BLIP, 2201.12086) trains that on whole captions; here one word is matched
at a time, which is what short questions ask.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

CANDIDATES = 32
"""Other captions that are looked at for a wrong word."""

MOST_COMMON = 0.5
"""A word in more than this share of the captions tells nothing about an image and is not asked."""


class Check(NamedTuple):
    """Whether an image shows what a word of some caption says."""

    image_id: str
    word: str
    present: bool


def word_checks(captions: dict[str, str], seed: int) -> Iterator[Check]:
    """For every image one word of its caption and one word that it lacks but a caption like its own has.

    The wrong word is drawn from one of `CANDIDATES` random captions, each weighted equally, so that it is as common as it is in
    the captions; yes and no are equally frequent over images that have both.

    Args:
        captions: image id -> caption. Fewer than two different captions give no check.
        seed: of the draw; the result depends on it and on the captions only.
    """
    rng = random.Random(seed)
    ids = sorted(captions)
    words = {i: frozenset(re.findall(r"[^\W_]+(?:['-][^\W_]+)*", captions[i].lower())) for i in ids}
    frequency = Counter(word for own in words.values() for word in own)
    common = {word for word, count in frequency.items() if count > MOST_COMMON * len(ids)}
    for image in ids:
        own = words[image] - common
        others = [j for j in rng.sample(ids, min(CANDIDATES, len(ids))) if words[j] - words[image] - common]
        if own and others:
            yield Check(image, rng.choice(sorted(own)), True)
            wrong = words[rng.choice(others)] - words[image] - common
            yield Check(image, rng.choice(sorted(wrong)), False)
