"""Filters that need the pairs of all images: how often a question is asked, and how one-sided its answers are.

Two passes over the pairs: `count` every pair that the filters of its own image accept, then ask `reason` about each. Which
pairs go is decided by a hash of the pair, so it does not depend on the order of the images or on how they are cut into files
(with `similar_questions`, on which wording of a group comes first). A question with few pairs is never thinned, so only those
need be counted whose bucket (`bucket`), a hash, has many: memory grows with them and their answers, not with all questions.
With `similar_questions` it grows with all distinct ones.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from leaml.config import FilterConfig
from leaml.generation.draws import uniform
from leaml.text import scoring

if TYPE_CHECKING:
    from datasketch import MinHash

PERMUTATIONS = 128
"""Hash functions of a MinHash; the standard error of its similarity is 1 / sqrt(128) = 0.09 at most."""
FLOOR = 20
"""Pairs of one question and answer that balancing leaves in any case: shares of a handful of pairs say nothing."""
BUCKETS = 1 << 24
"""Of questions: of 10^8 that differ, one in 10^6 shares its bucket with more than `FLOOR` others."""
ANSWER, QUESTION = "answer too common", "question too common"


def grams(question: str) -> set[str]:
    """Character 3-grams of the normalised question, with a space at both ends."""
    text = f" {scoring.normalise(question)} "
    return {text[i : i + 3] for i in range(max(1, len(text) - 2))}


def similarity(a: set[str], b: set[str]) -> float:
    """Jaccard similarity |a and b| / |a or b|; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


def bucket(question: str) -> int:
    """The bucket of a question, the same for every spelling that is normalised to one text."""
    return int(uniform(scoring.normalise(question)) * BUCKETS)


class QuestionGroups:
    """Numbers groups of questions: the same normalised text, or with a threshold nearly the same text.

    A new question joins the group of the most similar question that founded one, if their 3-grams have at least `threshold` in
    common by MinHash (Broder 1997), found through locality-sensitive hashing; otherwise it founds a group.
    """

    def __init__(self, threshold: float | None) -> None:
        self.threshold = threshold
        self.numbers: dict[str, int] = {}
        self.founders: list[MinHash] = []
        if threshold is not None:
            from datasketch import MinHashLSH

            self.index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)

    def __getitem__(self, question: str) -> int:
        text = scoring.normalise(question)
        if text not in self.numbers:
            self.numbers[text] = len(self.numbers) if self.threshold is None else self._nearest(text)
        return self.numbers[text]

    def __contains__(self, question: str) -> bool:
        return scoring.normalise(question) in self.numbers

    def _nearest(self, text: str) -> int:
        from datasketch import MinHash

        mine = MinHash(num_perm=PERMUTATIONS)
        mine.update_batch([gram.encode() for gram in sorted(grams(text))])
        found = [(mine.jaccard(self.founders[number]), -number) for number in self.index.query(mine)]
        best, number = max(found, default=(0.0, 0))
        if best >= (self.threshold or 0.0):
            return -number
        self.founders.append(mine)
        self.index.insert(len(self.founders) - 1, mine)
        return len(self.founders) - 1


class PairSet:
    """Thins questions asked too often and answers given too often. `count` all pairs first, then ask `reason`."""

    def __init__(self, config: FilterConfig) -> None:
        self.config = config
        self.groups = QuestionGroups(config.similar_questions)
        self.counts: dict[int, Counter[frozenset[str]]] = defaultdict(Counter)
        self._shares: dict[int, tuple[int, float]] = {}

    @property
    def active(self) -> bool:
        """Whether any filter of the whole set is switched on."""
        return self.config.max_per_question is not None or self.config.max_answer_share is not None

    @property
    def thins_above(self) -> int:
        """Pairs of a question up to which none of them is left out."""
        limits = [self.config.max_per_question, None if self.config.max_answer_share is None else FLOOR]
        return min(limit for limit in limits if limit is not None)

    def count(self, question: str, answer: str, times: int = 1) -> None:
        """Count a pair that the filters of its image accept.

        Args:
            question: Joins its group of similar questions, or founds one.
            answer: Compared as `scoring.canonical`.
            times: How often the pair occurs.
        """
        self.counts[self.groups[question]][scoring.canonical(answer)] += times

    def reason(self, image_id: str, question: str, answer: str) -> str:
        """Why this pair is left out; empty when it stays, as one does whose question was not counted.

        Args:
            image_id: With the seed, the question and the answer it decides what is drawn.
            question: As it was counted.
            answer: As it was counted.
        """
        if question not in self.groups:
            return ""
        group = self.groups[question]
        if group not in self._shares:
            self._shares[group] = self._settle(self.counts[group])
        cap, share = self._shares[group]
        kept = min(1.0, cap / self.counts[group][scoring.canonical(answer)])
        draw = uniform(f"{self.config.seed}:{image_id}:{question}:{answer}")
        if draw >= kept:
            return ANSWER
        return QUESTION if draw >= kept * share else ""

    def _settle(self, answers: Counter[frozenset[str]]) -> tuple[int, float]:
        """The most pairs that one answer keeps, and the share of all remaining pairs of the question that stays."""
        cap = max(answers.values())
        if (most := self.config.max_answer_share) is not None:
            cap = max(FLOOR, balanced_cap(list(answers.values()), most))
        left = sum(min(cap, n) for n in answers.values())
        limit = self.config.max_per_question
        return cap, 1.0 if limit is None else min(1.0, limit / left)


def balanced_cap(counts: list[int], most: float) -> int:
    """The largest c such that, with every count cut to c, none is more than `most` of their sum; 0 if there is none.

    The sum of min(n, c) over c falls as c grows, so the answer is found by bisection.
    """
    low, high = 0, max(counts)
    while low < high:
        middle = math.ceil((low + high) / 2)
        if middle <= most * sum(min(n, middle) for n in counts) + 1e-9:
            low = middle
        else:
            high = middle - 1
    return low
