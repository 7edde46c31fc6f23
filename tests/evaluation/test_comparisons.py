"""Where a comparison means little is said, with how much it can show; where it means something nothing is said."""

from __future__ import annotations

import math
from typing import Any

import pytest

from leaml.evaluation import comparisons
from leaml.evaluation.comparisons import Training
from leaml.evaluation.resampling import paired_permutation_test
from leaml.rows import titles

LEVEL = [(step, 3 * math.exp(-step / 20) + 0.01 * (-1) ** (step // 10)) for step in range(0, 300, 10)]
FALLING = [(step, 3 - step / 150 + 0.01 * (-1) ** (step // 10)) for step in range(0, 300, 10)]


def training(**changes: Any) -> Training:
    settings: dict[str, Any] = {"title": "LoRA on labels", "steps": 30, "batch_size": 8, "losses": LEVEL, "lr": 1e-3}
    return Training(**settings | changes)


def test_six_questions_are_the_least_that_show_a_difference() -> None:
    import numpy as np

    assert comparisons.least_questions() == 6
    assert comparisons.least_questions(10) == 9
    for images, significant in ((5, False), (6, True)):
        p = paired_permutation_test(np.ones(images), np.zeros(images), np.arange(images), 20_000)
        assert (p < comparisons.SIGNIFICANT) == significant
    assert comparisons.smallest_difference(5, 1.0, 0.0) > 1
    assert comparisons.smallest_difference(6, 1.0, 0.0) == 1.0
    assert comparisons.smallest_difference(0, 0.5, 0.5) == math.inf


def test_what_a_number_of_questions_can_show() -> None:
    assert comparisons.smallest_difference(1000, 0.5, 0.5) == pytest.approx(1.96 * math.sqrt(2 * 0.25 / 1002), abs=1e-4)
    found = [comparisons.smallest_difference(n, 0.8, 0.7) for n in (10, 100, 1000)]
    assert found == sorted(found, reverse=True)
    assert comparisons.smallest_difference(100, 0.8, 0.7, comparisons=10) > found[1]


@pytest.mark.parametrize("questions", [1, 2, 5])
def test_a_best_point_of_hardly_any_question_is_chance(questions: int) -> None:
    (found,) = comparisons.of_points([1.0, 0.0], questions, 2)
    noun = "1 validation question cannot" if questions == 1 else f"{questions} validation questions cannot"
    assert found.startswith(f"{noun} show a difference between 2 points, however large (at least 6 are needed)")
    assert "data.budget.validation_fraction" in found


def test_points_that_may_be_as_good_are_counted() -> None:
    (found,) = comparisons.of_points([0.80, 0.78, 0.40], 200, 3)
    assert found.startswith("1 of the 2 other points compared at the end may be as good as the best: 200 validation questions")
    assert "the best leads the next by 2.0" in found
    assert comparisons.of_points([0.80, 0.50], 200, 2) == []
    assert comparisons.of_points([0.80, 0.67], 200, 2) == []
    assert len(comparisons.of_points([0.80, 0.67], 200, 40)) == 1  # the best of forty leads by luck
    (priced,) = comparisons.of_points([0.80, 0.82], 200, 2)
    assert "is 2.0 behind the most accurate" in priced
    assert comparisons.of_points([0.9], 200, 1) == ["Only one point came to its end, so it was compared with no other."]


def test_a_baseline_of_fewer_steps_is_told_with_whether_it_was_at_its_end() -> None:
    ours = training(title="LEAML", steps=30)
    (found,) = comparisons.of_trainings(ours, training(steps=10, losses=[(0, 3.0), (9, 2.0)]))
    assert found == (
        "LoRA on labels was trained for 10 steps of 8 examples, the last training of LEAML for 30 of 8, and was not at its "
        "end: 25 % of the whole fall of its loss came in the last quarter of its steps."
    )
    (found,) = comparisons.of_trainings(ours, training(steps=10))
    assert found.endswith("for 30 of 8, but its loss had levelled off.")
    assert len(comparisons.of_trainings(ours, training(batch_size=4))) == 1
    assert comparisons.of_trainings(ours, training()) == comparisons.of_trainings(ours, training(steps=60, batch_size=4)) == []


def test_a_loss_that_still_falls_is_told_even_after_as_many_steps() -> None:
    (found,) = comparisons.of_trainings(training(title="LEAML"), training(losses=FALLING))
    assert found.startswith("LoRA on labels may be trained too little: ")
    assert comparisons.last_fall(FALLING) == pytest.approx(0.25 / 0.875, abs=0.02)  # a quarter of what lies before its middle


@pytest.mark.parametrize(
    "losses",
    [
        LEVEL,
        [],
        [(0, 1.0)],
        [(0, 1.0), (9, 1.2)],
        [(0, 1.0), (9, math.nan)],
        [(0, 2.0), (10, 0.5), (20, 0.4), (30, 0.4), (39, 0.4)],
        [(step, 1 + 0.5 * math.sin(37.0 * step)) for step in range(0, 300, 10)],
    ],
)
def test_a_loss_that_is_level_or_noise_or_unknown_is_not_told(losses: list[tuple[int, float]]) -> None:
    assert comparisons.last_fall(losses) == 0.0


def test_a_learning_rate_at_the_edge_or_chosen_by_chance() -> None:
    swept = training(lr=3e-3, sweep=((1e-3, 0.5), (3e-3, 0.9)))
    (edge,) = comparisons.of_rates(swept, 200)
    assert edge == "LoRA on labels, learning rate: 0.003 is the highest of the values tried; a higher one may be better."
    inside = training(lr=3e-3, sweep=((1e-3, 0.5), (3e-3, 0.9), (1e-2, 0.3)))
    (untried,) = comparisons.of_rates(training(lr=1e-3, rates=3), 0)
    assert "its 3 learning rates were not compared, as no labels were held out to choose by; the first, 0.001," in untried
    assert comparisons.of_rates(inside, 200) == comparisons.of_rates(training(), 200) == []
    (chance,) = comparisons.of_rates(training(lr=3e-3, sweep=((1e-3, 0.5), (3e-3, 0.6), (1e-2, 0.45))), 20)
    assert "the 3 learning rates tried differ by 15.0 points at most, and 20 validation questions show differences of" in chance
    (none,) = comparisons.of_rates(swept, 3)
    assert "3 validation questions can show no difference, however large" in none


def metrics(n: int, images: int, difference: float, half: float, p: float) -> dict[str, Any]:
    against = {"difference": difference, "ci95": [difference - half, difference + half], "p_value": p, "p_holm": p}
    rows = {name: {"accuracy": 0.5, "n": n, "images": images} for name in ("leaml", "lora_labels")}
    return {
        "rows": rows,
        "comparison": {"ours": "leaml", "best_baseline": "lora_labels", "baselines": {"lora_labels": against}},
    }


def of_evaluation(found: dict[str, Any]) -> list[str]:
    return comparisons.of_evaluation(found, titles(), training(title="LEAML"), [training()], 100)


def test_an_evaluation_says_what_its_questions_can_show() -> None:
    assert of_evaluation(metrics(1500, 300, 0.10, 0.02, 0.001)) == []
    (found,) = of_evaluation(metrics(60, 20, 0.03, 0.12, 0.5))
    assert found == (
        "60 questions of 20 images do not tell LEAML and LoRA on labels apart: they show differences of 30.0 points or more, "
        "and this one is 3.0; about 6000 questions like these would show it."
    )
    (found,) = of_evaluation(metrics(100, 5, 0.9, 0.0, 0.06))
    assert found.startswith("100 questions of 5 images cannot show a difference, however large: at least 6 images are needed.")
    (found,) = of_evaluation(metrics(1500, 300, 0.0, 0.02, 1.0))
    assert found.endswith("this one is 0.0.")
    assert of_evaluation({"rows": {}}) == []


@pytest.mark.parametrize(
    ("left_out", "others", "end"),
    [
        (["lora_labels"], [training()], "LoRA on labels; the best baseline may be better than those shown."),
        (["finetune_labels", "lora_labels"], [], "LoRA on labels, and nothing shows what the labels alone bring."),
    ],
)
def test_baselines_that_were_left_out_are_told(left_out: list[str], others: list[comparisons.Training], end: str) -> None:
    (found,) = comparisons.of_evaluation({"rows": {}}, titles(), training(title="LEAML"), others, 100, left_out)
    assert found.startswith("Left out (evaluate.leave_out): ")
    assert found.endswith(end)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((100, 100, 40, 10, {"a": 2, "b": 1}), []),
        ((100, 5, 40, 10, {}), ["at least 6 images are needed"]),
        ((100, 100, 1, 0, {"a": 1}), ["1 labeled image cannot be split"]),
        ((100, 100, 40, 0, {"a": 2, "b": 3, "c": 2}), ["of the 2 learning rates of a, c", "of the 3 learning rates of b"]),
        ((100, 100, 40, 6, {"a": 2, "b": 3}), ["6 validation questions cannot show a difference between the 3 learning"]),
    ],
)  # fmt: skip
def test_data_that_are_too_few_are_told_before_a_run(sizes: tuple[int, int, int, int, dict[str, int]], said: list[str]) -> None:
    found = comparisons.of_sizes(*sizes)
    assert len(found) == len(said)
    for text, words in zip(found, said, strict=True):
        assert words in text
