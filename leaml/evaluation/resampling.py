"""Intervals and tests that respect that questions about one image are not independent.

Everything resamples or flips whole images ("groups"), never single questions.
"""

from __future__ import annotations

import numpy as np

from leaml.errors import DataError

_CHUNK = 4_000_000  # random numbers held at once


def bootstrap_interval(
    correct: np.ndarray, groups: np.ndarray, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a mean over questions, from a cluster bootstrap over images.

    Images are drawn with replacement and bring all their questions, so both the sum and the number of questions vary (a
    ratio estimate). With one image, or with all values equal, the interval has width zero and says nothing.

    Args:
        correct: (n,) 0/1 or any number per question; the difference of two models for a paired interval.
        groups: (n,) image of each question, of any sortable type.
        resamples: Bootstrap draws.
        seed: Seed of the draws; equal seeds give equal intervals.
        level: Coverage, between 0 and 1.

    Returns:
        Lower and upper end.

    Raises:
        DataError: The arrays are empty or of different length.
    """
    from scipy.stats import bootstrap  # half a second to import

    sums, counts = _per_group(correct, groups)
    if len(sums) == 1:
        return float(sums[0] / counts[0]), float(sums[0] / counts[0])
    found = bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        n_resamples=resamples,
        batch=_at_once(len(sums)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_permutation_test(
    a: np.ndarray, b: np.ndarray, groups: np.ndarray, permutations: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value of "a and b are equally good", exchanging the two models' answers image by image.

    The statistic is the absolute difference of the sums; each permutation flips the sign of a random set of images. The
    observed arrangement counts as one of them: p = (hits + 1) / (permutations + 1), never zero (Phipson and Smyth, 2010).
    Where fewer than `permutations` arrangements exist, all of them are taken and p is exact.

    Args:
        a: (n,) 0/1 or any number per question, of one model.
        b: (n,) the same questions answered by the other.
        groups: (n,) image of each question.
        permutations: Random sign flips.
        seed: Seed of the flips.

    Raises:
        DataError: The arrays are empty or of different length.
    """
    if np.shape(a) != np.shape(b):
        msg = f"a paired test needs the same questions on both sides, got {np.shape(a)} and {np.shape(b)}"
        raise DataError(msg)
    from scipy.stats import permutation_test

    differences, _ = _per_group(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), groups)
    differences = differences[differences != 0]  # flipping a zero changes nothing
    if len(differences) < 2:  # with one image nothing can be said
        return 1.0
    found = permutation_test(
        (differences,),
        lambda differences, axis: np.abs(differences.sum(axis)),
        permutation_type="samples",  # of one sample: signs are flipped
        n_resamples=permutations,
        batch=_at_once(len(differences)),
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(pvalues: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment for several tests (family-wise error); same keys, same order, values at most 1."""
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, name in enumerate(sorted(pvalues, key=lambda key: pvalues[key])):
        running = max(running, min(1.0, (len(pvalues) - rank) * pvalues[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in pvalues}


def _per_group(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, groups = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if not len(values) or values.shape != groups.shape:
        msg = f"statistics need one group per value and at least one value, got {values.shape} and {groups.shape}"
        raise DataError(msg)
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index).astype(np.float64)


def _at_once(groups: int) -> int:
    """How many draws of so many images are held at once."""
    return max(1, _CHUNK // max(1, groups))
