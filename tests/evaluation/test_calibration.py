"""Confidence of answers: temperature scaling, its fit, and an honest calibration error."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from leaml.errors import DataError
from leaml.evaluation import calibration


def answers(count: int, temperature: float, seed: int = 0, per_image: int = 4) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Answers of a model whose true confidence is sigmoid(logit(p) / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(2.0, 3.0, count)
    right = rng.random(count) < 1 / (1 + np.exp(-logits / temperature))
    return [f"image{n // per_image}" for n in range(count)], -np.log1p(np.exp(-logits)), right


def test_confidence_at_temperature_one_is_the_probability() -> None:
    for p in (0.001, 0.3, 0.5, 0.999):
        assert calibration.confidence(math.log(p), 1.0) == pytest.approx(p, rel=1e-9)
    assert calibration.confidence(math.log(0.9), 2.0) == pytest.approx(0.75, rel=1e-9)  # the root of the odds 9 : 1 is 3 : 1


def test_certain_and_impossible_answers_are_finite() -> None:
    assert 0.9999 < calibration.confidence(0.0, 1.0) < 1
    assert 0.9 < calibration.confidence(0.0, 5.0) < calibration.confidence(0.0, 2.0)
    assert calibration.confidence(-1e4, 1.0) == 0
    assert calibration.confidence(-math.inf, 3.0) == 0
    assert calibration.confidence(1e-9, 1.0) == calibration.confidence(0.0, 1.0)  # float rounding of a server


@pytest.mark.parametrize(("logprob", "temperature"), [(math.nan, 1.0), (0.5, 1.0), (-1.0, 0.0), (-1.0, math.inf)])
def test_what_is_no_probability_is_refused(logprob: float, temperature: float) -> None:
    with pytest.raises(DataError):
        calibration.confidence(logprob, temperature)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_fit_finds_the_temperature_that_made_the_verdicts(temperature: float) -> None:
    _, logprobs, right = answers(20_000, temperature)
    assert calibration.fit(logprobs, right) == pytest.approx(temperature, rel=0.06)


def test_fit_has_the_least_loss() -> None:
    _, logprobs, right = answers(300, 1.7, seed=3)

    def loss(temperature: float) -> float:
        sure = np.array([calibration.confidence(value, temperature) for value in logprobs])
        return -float(np.log(np.where(right, sure, 1 - sure)).mean())

    best = calibration.fit(logprobs, right)
    assert loss(best) <= min(loss(best * factor) for factor in (0.8, 0.95, 1.05, 1.25))


def test_fit_of_one_sided_verdicts_stays_within_its_bounds() -> None:
    low, high = calibration.TEMPERATURES
    assert calibration.fit([-0.1, 0.0], [True, True]) == pytest.approx(low, rel=1e-6)
    assert calibration.fit([-0.1, 0.0], [False, False]) == pytest.approx(high, rel=1e-6)
    assert low <= calibration.fit([-math.inf, 0.0], [True, False]) <= high


def test_ece_golden() -> None:
    # bin 0.8 to 0.867: sure 0.85 and right half the time; bin 0 to 0.067: sure 0.05 and never right
    assert calibration.ece([0.85, 0.85, 0.05, 0.05], [True, False, False, False]) == pytest.approx(0.5 * 0.35 + 0.5 * 0.05)
    assert calibration.ece([1.0, 0.0], [True, False]) == 0
    assert calibration.ece(np.array([1.0]), np.array([False])) == 1


def test_bins_hold_every_answer_once() -> None:
    sure = [0.0, 0.02, 0.5, 0.999, 1.0]
    found = calibration.bins(sure, [False, True, True, True, False])
    assert [(b["low"], b["n"], b["accuracy"]) for b in found] == [(0.0, 2, 0.5), (0.466667, 1, 1.0), (0.933333, 2, 0.5)]
    assert found[2]["confidence"] == pytest.approx(0.9995)


def test_calibration_mends_an_overconfident_model() -> None:
    found = calibration.calibrate(*answers(4_000, 3.0))
    assert found["temperature"] == pytest.approx(3.0, rel=0.1)
    assert found["n"] == 4_000
    assert found["ece"] < 0.03 < 0.1 < found["ece_uncalibrated"]
    assert sum(b["n"] for b in found["bins"]) == 4_000


def test_the_reported_error_is_not_measured_on_the_answers_of_the_fit() -> None:
    """Images of one half disagree with the other: a fit on all looks better than either half can do for the other."""
    ids = [f"image{n}" for n in range(400)]
    logprobs = np.full(400, math.log(0.7))
    hashed = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())
    order = {name: place % 2 for place, name in enumerate(hashed)}
    right = np.array([order[name] == 0 for name in ids])
    found = calibration.calibrate(ids, logprobs, right)
    fitted = [calibration.confidence(value, found["temperature"]) for value in logprobs]
    assert calibration.ece(fitted, right) < 0.05  # all together: about 0.5, and half of them are right
    assert found["ece"] > 0.4  # one half says "always", the other "never"


def test_answers_about_one_image_are_in_one_half() -> None:
    """A single image has no second half: its error cannot be measured."""
    found = calibration.calibrate(["a"] * 6, [-0.1] * 6, [True] * 5 + [False])
    assert (found["ece"], found["n"]) == (None, 6)
    assert calibration.confidence(-0.1, found["temperature"]) == pytest.approx(5 / 6, abs=0.01)


def test_the_order_of_the_answers_changes_nothing() -> None:
    ids, logprobs, right = answers(200, 2.0, seed=5)
    order = np.random.default_rng(1).permutation(200)
    again = calibration.calibrate([ids[n] for n in order], logprobs[order], right[order])
    assert again == calibration.calibrate(ids, logprobs, right)


@pytest.mark.parametrize(
    ("ids", "logprobs", "right"), [([], [], []), (["a"], [-1.0], [True, False]), (["a", "b"], [-1.0], [True])]
)
def test_no_answers_or_uneven_columns_are_refused(ids: list[str], logprobs: list[float], right: list[bool]) -> None:
    with pytest.raises(DataError, match="calibration needs"):
        calibration.calibrate(ids, logprobs, right)
