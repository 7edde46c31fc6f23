"""How sure a model is of an answer: from the log-probabilities of its tokens to a calibrated confidence.

The confidence of a greedy answer is the probability that it is right. The raw signal is p = exp(sum of the log-probabilities of
its tokens, the end of the reply included), calibrated by temperature scaling (Guo et al. 2017, arXiv 1706.04599) of the event
"the answer is right": confidence = sigmoid(logit(p) / T). T is fitted by the negative log-likelihood of the verdicts of an
evaluation. The sum, not the mean over tokens: docs/method.md has the measurement.

The expected calibration error (ECE) has 15 bins of equal width, as in that paper. The reported one is cross-fitted: half of the
images fit the temperature that the other half is measured with, both ways. The temperature that is handed on is fitted on all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from leaml.errors import DataError
from leaml.evaluation.metrics import Bin, Calibration

BINS = 15
TEMPERATURES = (0.05, 20.0)
"""Bounds of a fit: where all answers are right, or all wrong, the likelihood alone has no optimum."""

_CERTAIN = -1e-7  # float32 log-probabilities closer to 0 than this are rounding; the logit of 1 is infinite
_DIGITS = 6


def confidence(logprob_sum: float, temperature: float) -> float:
    """Probability that an answer is right, between 0 and 1.

    Args:
        logprob_sum: Sum of the natural log-probabilities of the answer's tokens; 0 and -inf are fine.
        temperature: From `fit` or `calibrate`; 1 gives exp(logprob_sum) itself.

    Raises:
        DataError: The log-probability is above 0 or not a number, or the temperature is not above 0.
    """
    return float(_confidences(_logits([logprob_sum]), temperature)[0])


def fit(logprobs: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray) -> float:
    """The temperature within `TEMPERATURES` with the least negative log-likelihood.

    The likelihood is convex in 1 / T, so its slope has one zero.

    Args:
        logprobs: (n,) sum of log-probabilities of each answer.
        correct: (n,) whether it was right.

    Raises:
        DataError: No answers, different lengths, or values that `confidence` refuses.
    """
    return _fit(*_checked(logprobs, correct))


def ece(confidences: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray) -> float:
    """Expected calibration error: the mean over answers of |accuracy - mean confidence| of their bin (15 of equal width).

    Raises:
        DataError: No answers, or different lengths.
    """
    return sum(bin_["n"] * abs(bin_["accuracy"] - bin_["confidence"]) for bin_ in bins(confidences, correct)) / len(correct)


def bins(confidences: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray) -> list[Bin]:
    """The reliability diagram: per bin that holds answers `low`, `high`, `n`, mean `confidence` and `accuracy`.

    Raises:
        DataError: As `ece`.
    """
    sure, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if not len(sure) or sure.shape != right.shape:
        msg = f"calibration needs one verdict per answer and at least one answer, got {sure.shape} and {right.shape}"
        raise DataError(msg)
    numbers = np.minimum((sure * BINS).astype(int), BINS - 1)
    return [
        {
            "low": round(number / BINS, _DIGITS),
            "high": round((number + 1) / BINS, _DIGITS),
            "n": int((numbers == number).sum()),
            "confidence": round(float(sure[numbers == number].mean()), _DIGITS),
            "accuracy": round(float(right[numbers == number].mean()), _DIGITS),
        }
        for number in np.unique(numbers).tolist()
    ]


def calibrate(
    image_ids: Sequence[str], logprobs: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray
) -> Calibration:
    """The content of a run's `evaluation/calibration.json`.

    Args:
        image_ids: (n,) image of each answer; answers about one image stay in one half.
        logprobs: (n,) sum of log-probabilities of each answer.
        correct: (n,) whether it was right.

    Returns:
        `temperature` fitted on all answers, cross-fitted `ece` (None with a single image), `ece_uncalibrated` of exp(sum of
        log-probabilities), `n`, and `bins` of the cross-fitted confidences as the function `bins` (of the fitted ones with a
        single image).

    Raises:
        DataError: As `fit`.
    """
    logits, right = _checked(logprobs, correct)
    if len(image_ids) != len(right):
        msg = f"calibration needs the image of each answer, got {len(image_ids)} images and {len(right)} answers"
        raise DataError(msg)
    temperature = _fit(logits, right)
    order = sorted(set(image_ids), key=lambda name: hashlib.sha256(name.encode()).digest())
    halves = {name: position % 2 for position, name in enumerate(order)}
    half = np.array([halves[name] for name in image_ids])
    sure = _confidences(logits, temperature)
    if len(order) > 1:
        for side in (0, 1):
            sure[half == side] = _confidences(logits[half == side], _fit(logits[half != side], right[half != side]))
    return {
        "temperature": round(temperature, _DIGITS),
        "ece": round(ece(sure, right), _DIGITS) if len(order) > 1 else None,
        "ece_uncalibrated": round(ece(_confidences(logits, 1.0), right), _DIGITS),
        "n": len(right),
        "bins": bins(sure, right),
    }


def _checked(logprobs: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, right = _logits(logprobs), np.asarray(correct, dtype=np.float64)
    if not len(logits) or logits.shape != right.shape:
        msg = f"calibration needs one verdict per answer and at least one answer, got {logits.shape} and {right.shape}"
        raise DataError(msg)
    return logits, right


def _logits(logprobs: Sequence[float] | np.ndarray) -> np.ndarray:
    """(n,) log(p / (1 - p)) of p = exp(logprobs), finite above."""
    values = np.asarray(logprobs, dtype=np.float64)
    if np.isnan(values).any() or (values > 1e-3).any():
        msg = f"log-probabilities must be numbers of at most 0, got {values[np.isnan(values) | (values > 1e-3)][0]}"
        raise DataError(msg)
    values = np.minimum(values, _CERTAIN)
    return values - np.log(-np.expm1(values))


def _confidences(logits: np.ndarray, temperature: float) -> np.ndarray:
    if not 0 < temperature < math.inf:
        msg = f"the temperature of a calibration must be above 0 and finite, got {temperature}"
        raise DataError(msg)
    found: np.ndarray = expit(logits / temperature)
    return found


def _fit(logits: np.ndarray, right: np.ndarray) -> float:
    bounded = np.maximum(logits, -1e6)  # -inf times the slope's residual of 0 would be no number

    def slope(log_temperature: float) -> float:
        """Of the loss, over 1 / T."""
        return float(np.mean(bounded * (_confidences(bounded, math.exp(log_temperature)) - right)))

    low, high = (math.log(end) for end in TEMPERATURES)
    if slope(low) <= 0:
        return TEMPERATURES[0]
    return TEMPERATURES[1] if slope(high) >= 0 else math.exp(brentq(slope, low, high, xtol=1e-14))
