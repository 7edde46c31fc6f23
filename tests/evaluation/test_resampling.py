"""Golden numbers and properties (coverage, level, power) of the interval and the test."""

import numpy as np
import pytest

from leaml.errors import DataError
from leaml.evaluation.resampling import bootstrap_interval, holm, paired_permutation_test


def clustered(rng: np.random.Generator, images: int, per_image: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Questions whose accuracy depends on the image: Beta(2m, 2(1-m)) per image, strongly clustered."""
    rates = rng.beta(2 * mean, 2 * (1 - mean), images)
    return rng.random(images * per_image) < np.repeat(rates, per_image), np.repeat(np.arange(images), per_image)


def test_two_images_have_three_possible_means() -> None:
    correct, images = np.array([1, 1, 1, 0]), np.array(["x", "x", "x", "y"])
    # both x: 1, both y: 0, one of each: 3 of 4 questions; probabilities 1/4, 1/4, 1/2
    assert bootstrap_interval(correct, images, 4000, 0, level=0.6) == (0.0, 1.0)
    assert bootstrap_interval(correct, images, 4000, 0, level=0.4) == (0.75, 0.75)


def test_matches_the_normal_approximation() -> None:
    rng = np.random.default_rng(1)
    correct = rng.random(2000) < 0.7
    low, high = bootstrap_interval(correct, np.arange(2000), 4000, 3)
    half = 1.96 * np.sqrt(correct.mean() * (1 - correct.mean()) / 2000)
    assert (low, high) == pytest.approx((correct.mean() - half, correct.mean() + half), abs=0.002)


def test_clusters_widen_the_interval() -> None:
    correct, images = clustered(np.random.default_rng(2), 150, 10, 0.6)
    low, high = bootstrap_interval(correct, images, 1000)
    naive_low, naive_high = bootstrap_interval(correct, np.arange(len(correct)), 1000)
    assert (high - low) / (naive_high - naive_low) == pytest.approx(np.sqrt(1 + 9 / 3), rel=0.15)  # design effect


def test_coverage() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for trial in range(300):
        correct, images = clustered(rng, 60, 5, 0.65)
        low, high = bootstrap_interval(correct, images, 400, trial)
        inside += low <= 0.65 <= high
    assert 0.90 <= inside / 300 <= 0.98


def test_seed_order_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    correct, images = clustered(np.random.default_rng(4), 40, 3, 0.5)
    expected = bootstrap_interval(correct, images, 500, 7), paired_permutation_test(correct, ~correct, images, 500, 7)
    assert bootstrap_interval(correct, images, 500, 8) != expected[0]
    order = np.random.default_rng(5).permutation(len(correct))
    monkeypatch.setattr("leaml.evaluation.resampling._CHUNK", 1000)
    again = (
        bootstrap_interval(correct[order], images[order], 500, 7),
        paired_permutation_test(correct[order], ~correct[order], images[order], 500, 7),
    )
    assert again == expected


def test_exact_p_value_of_five_images() -> None:
    a, b = np.ones(5), np.zeros(5)
    p = paired_permutation_test(a, b, np.arange(5), 200_000, 0)
    assert p == 2 / 32
    assert paired_permutation_test(a, b, np.arange(5), 20) == pytest.approx(2 / 32, abs=0.2)
    assert paired_permutation_test(a, b, np.zeros(5), 1000) == 1.0  # one image: nothing can be said
    assert paired_permutation_test(a, a, np.arange(5), 1000) == 1.0


def test_smallest_p_is_one_over_permutations_plus_one() -> None:
    assert paired_permutation_test(np.ones(200), np.zeros(200), np.arange(200), 999) == 1 / 1000


def test_p_is_roughly_uniform_under_the_null() -> None:
    rng = np.random.default_rng(6)
    pvalues = []
    for trial in range(400):
        images = np.repeat(np.arange(60), 4)
        shared = np.repeat(rng.random(60), 4)
        a, b = rng.random(240) < shared, rng.random(240) < shared
        pvalues.append(paired_permutation_test(a, b, images, 300, trial))
    assert 0.02 <= np.mean(np.array(pvalues) <= 0.05) <= 0.085
    assert 0.42 <= np.mean(np.array(pvalues) <= 0.5) <= 0.58


def test_questions_of_one_image_do_not_multiply_the_evidence() -> None:
    rng = np.random.default_rng(7)
    better = rng.random(12) < 0.75
    a, b = np.repeat(better, 50).astype(float), np.repeat(~better, 50).astype(float)
    images = np.repeat(np.arange(12), 50)
    assert paired_permutation_test(a, b, images, 2000) > 0.02
    assert paired_permutation_test(a, b, np.arange(600), 2000) == 1 / 2001


def test_strong_effect_is_found() -> None:
    rng = np.random.default_rng(8)
    images = np.repeat(np.arange(100), 5)
    assert paired_permutation_test(rng.random(500) < 0.8, rng.random(500) < 0.6, images, 2000) < 0.001


def test_holm_golden() -> None:
    found = holm({"c": 0.03, "a": 0.01, "d": 0.04, "b": 0.005})
    assert found == pytest.approx({"c": 0.06, "a": 0.03, "d": 0.06, "b": 0.02})
    assert list(found) == ["c", "a", "d", "b"]
    assert holm({"x": 0.7, "y": 0.6}) == {"x": 1.0, "y": 1.0}
    assert holm({}) == {}


def test_unusable_arrays_are_errors() -> None:
    with pytest.raises(DataError, match="one group per value"):
        bootstrap_interval(np.ones(3), np.arange(2))
    with pytest.raises(DataError, match="at least one value"):
        bootstrap_interval(np.ones(0), np.arange(0))
    with pytest.raises(DataError, match="same questions"):
        paired_permutation_test(np.ones(3), np.ones(2), np.arange(3))
