"""Points of a search, what they are compared by, and what is written about them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from leaml.config import Config, RangeConfig, parse
from leaml.errors import ConfigError
from leaml.run import search
from leaml.run.search import SearchResult, Trial
from pipelines.steps import ONCE, had_by

DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}
SPACE: dict[str, Any] = {"select.ratio": {"choices": [0.1, 0.3, 1.0]}, "distill.lr": {"low": 1e-4, "high": 1e-2, "log": True}}


def config(space: dict[str, Any] | None = None, **tune: Any) -> Config:
    return parse({"data": DATA, "seed": 7, "tune": {"space": SPACE if space is None else space, **tune}})


def trial(ratio: float, objective: float, seed: int = 0, **more: Any) -> Trial:
    settings: dict[str, Any] = {"accuracy": objective, "objective": objective, "hours": 0.5, "finished": True} | more
    return Trial({"select.ratio": ratio, "distill.lr": 1e-3}, seed, **settings)


def test_a_point_is_the_configuration_with_its_values() -> None:
    found = search.at(config(), {"select.ratio": 0.1, "distill.lr": 2e-3}, seed=2)
    assert (found.select.ratio, found.distill.lr, found.seed) == (0.1, 2e-3, 9)
    assert not found.tune.space
    assert found.model_copy(update={"seed": 7}) == parse(
        {"data": DATA, "seed": 7, "select": {"ratio": 0.1}, "distill": {"lr": 2e-3}}
    )


def test_the_configurations_own_values_are_a_point_when_they_lie_in_the_space() -> None:
    assert search.base_point(config()) == {"select.ratio": 0.3, "distill.lr": 5e-4}
    assert search.base_point(config({"select.ratio": {"choices": [0.1, 0.2]}})) is None
    assert search.base_point(config({"distill.lr": {"low": 1e-3, "high": 1e-2}})) is None


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "tune.space is empty"),
        ({"select.ration": {"choices": [1]}}, "tune.space has the key 'select.ration', which the configuration does not"),
        ({"tune.trials": {"choices": [1]}}, "tune.space has the key 'tune.trials'"),
        (
            {"select.ratio": {"choices": [0.5, 1.5]}},
            r"tune.space at {\"select.ratio\": 1.5}: select.ratio: a number from 0 to 1 is needed \(got 1.5\); 1.5 % is 0.015",
        ),
        ({"select.ratio": {"low": -0.5, "high": 1}}, r"select.ratio: a number from 0 to 1 is needed \(got -0.5\)"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search.check_space(config(space))
    search.check_space(config())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give either choices or both low and high"),
        ({"low": 1}, "give either choices or both low and high"),
        ({"choices": [1], "low": 1, "high": 2}, "give either choices or both low and high"),
        ({"low": 2, "high": 1}, "low 2.0 must be less than high 1.0"),
        ({"low": 0, "high": 1, "log": True}, "log needs low above 0, not 0.0"),
    ],
)
def test_a_range_is_choices_or_an_interval(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config({"select.ratio": values})


def test_a_grid_needs_choices() -> None:
    with pytest.raises(ConfigError, match=r"search grid needs choices for every key, not low and high as for distill.lr"):
        config(search="grid")


def test_the_best_is_the_finalist_with_the_best_median() -> None:
    found = SearchResult([trial(0.1, 0.9), trial(0.3, 0.8), trial(1.0, 0.95, finished=False)], questions=100)
    assert found.best == {"select.ratio": 0.1, "distill.lr": 1e-3}
    found.trials += [trial(0.1, 0.6, seed=1), trial(0.1, 0.5, seed=2), trial(0.3, 0.7, seed=1), trial(0.3, 0.9, seed=2)]
    found.settle(2)
    assert sorted(found.finalists.values()) == [0.6, 0.8]
    assert found.best == {"select.ratio": 0.3, "distill.lr": 1e-3}
    cheap = SearchResult([trial(0.1, 0.9), trial(0.3, 0.9, hours=0.1)], 100)
    assert cheap.ranked[0].point["select.ratio"] == 0.3
    assert SearchResult([trial(0.1, 0.0, finished=False, error="no")], 100).best is None


def test_where_generators_are_judged_finalists_are_the_best_of_them_and_only_adapted_models_decide() -> None:
    generators = [trial(r, a, finished=False, distilled=True) for r, a in ((0.1, 0.9), (0.3, 0.95), (0.5, 0.7))]
    found = SearchResult([*generators, trial(1.0, 0.99, finished=False)], questions=100, judge="generator")
    assert [t.point["select.ratio"] for t in found.ranked] == [0.3, 0.1, 0.5]  # not the one that was stopped
    assert found.best == {"select.ratio": 0.3, "distill.lr": 1e-3}
    found.trials += [trial(0.3, 0.8), trial(0.1, 0.85)]
    found.settle(2)
    assert found.best == {"select.ratio": 0.1, "distill.lr": 1e-3}
    assert [line.split("|")[-2].strip() for line in search.table(found).splitlines()[2:]] == [
        "finished", "finished", "stopped", "generator", "generator", "generator",
    ]  # fmt: skip


def test_the_table_has_every_trial_and_hides_no_failure() -> None:
    found = SearchResult(
        [trial(1.0, 0.0, finished=False, error="loss nan"), trial(0.1, 0.6, finished=False), trial(0.3, 0.8)], 100
    )
    lines = search.table(found).splitlines()
    assert lines[0] == "| distill.lr | select.ratio | seed | validation accuracy | 95 % | hours | state |"
    assert lines[2] == "| 0.001 | 0.3 | 0 | 0.800 | 0.711 to 0.867 | 0.500 | finished |"
    assert lines[3] == "| 0.001 | 0.1 | 0 | 0.600 | 0.502 to 0.691 |  | stopped |"  # its hours are not counted
    assert lines[4] == "| 0.001 | 1.0 | 0 |  |  |  | failed: loss nan |"


def test_wilson_interval() -> None:
    assert search.wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert search.wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)


def test_the_best_configuration_is_one_that_adapt_takes() -> None:
    text = search.best_yaml(config(), {"select.ratio": 1.0, "distill.lr": 1e-4})
    tree = yaml.safe_load(text)
    assert "tune" not in tree
    assert parse(tree) == search.at(config(), {"select.ratio": 1.0, "distill.lr": 1e-4})


def test_importances_and_plot() -> None:
    space = {key: RangeConfig(**values) for key, values in SPACE.items()}
    trials = [
        Trial({"select.ratio": ratio, "distill.lr": lr}, 0, ratio / 2, ratio / 2 + lr, 0.1, True)
        for ratio in (0.1, 0.3, 1.0)
        for lr in (1e-4, 3e-4, 1e-3, 1e-2)
    ]
    found = SearchResult([*trials, Trial({"select.ratio": 1.0, "distill.lr": 1e-3}, 0, 0, 0, 0, False, "failed")], 50)
    shares = search.importances(found, space)
    assert shares["select.ratio"] > shares["distill.lr"] >= 0
    assert search.importances(SearchResult(trials[:3], 50), space) == {}
    picture = search.plot(found, space)
    assert picture.startswith(b"<?xml")
    assert picture == search.plot(found, space)


@pytest.mark.parametrize(
    ("keys", "changes", "expected"),
    [
        (["select.ratio"], {}, "score"),
        (["select.ratio", "select.scope"], {}, "score"),
        (["score.method", "select.ratio"], {}, "warmup"),
        (["finetune.lr", "distill.qa_weight"], {}, "select"),
        (["generate.top_p"], {}, "distill"),
        (["filter.min_votes"], {}, "generate"),
        (["generate.top_p"], {"distill": {"skip": True}}, "warmup"),
        (["warmup.lr"], {"distill": {"skip": True}}, None),
        (["finetune.lr"], {"rounds": 2}, "caption"),
        (["caption.max_images"], {}, None),
        (["seed"], {}, None),
    ],
)
def test_last_step_that_trials_share(keys: list[str], changes: dict[str, Any], expected: str | None) -> None:
    space = {key: {"choices": [0.1, 0.2]} for key in keys}
    found = parse({"data": DATA, "tune": {"space": space}} | changes)
    assert search.last_shared_step(found, had_by(found), ONCE) == expected


@pytest.mark.parametrize(
    ("rounds", "once", "key", "expected"),
    [
        (2, {"caption", "warmup"}, "finetune.lr", "warmup"),
        (2, {"score"}, "finetune.lr", "score"),
        (2, {"caption", "score"}, "warmup.lr", "caption"),
        (2, set(), "finetune.lr", None),
        (1, set(), "finetune.lr", "score"),
    ],
)
def test_with_more_rounds_trials_share_what_no_later_round_has_again(
    rounds: int, once: set[str], key: str, expected: str | None
) -> None:
    found = parse({"data": DATA, "rounds": rounds, "tune": {"space": {key: {"choices": [0.1, 0.2]}}}})
    steps = dict.fromkeys(("caption", "warmup", "score", "finetune"), True)
    assert search.last_shared_step(found, steps, once) == expected


def test_a_best_of_one_validation_question_is_called_chance_wherever_it_is_named() -> None:
    found = SearchResult([trial(0.1, 1.0), trial(0.3, 0.0), trial(1.0, 0.0, finished=False)], questions=1)
    (warning,) = found.warnings()
    assert warning.startswith("1 validation question cannot show a difference between 2 points, however large")
    assert f"What limits this comparison:\n\n- {warning}" in search.page(found)
    written = search.best_yaml(config(), {"select.ratio": 0.1}, found.warnings())
    assert written.splitlines()[1] == f"# {warning}"
    assert yaml.safe_load(written)["select"]["ratio"] == 0.1
    many = SearchResult([trial(0.1, 0.9), trial(0.3, 0.5)], questions=400)
    assert many.warnings() == []
    assert search.page(many) == search.table(many) + "\n"


def test_finalists_are_compared_by_their_median_and_luck_grows_with_the_points_tried() -> None:
    trials = [trial(ratio / 100, 0.6) for ratio in range(1, 21)] + [trial(0.5, 0.9), trial(0.7, 0.88)]
    found = SearchResult([*trials, trial(0.5, 0.78, seed=1), trial(0.7, 0.72, seed=1)], questions=200)
    found.settle(2)
    (warning,) = found.warnings()
    assert warning.startswith(
        "1 of the 1 other points compared at the end may be as good as the best: 200 validation questions"
    )
    assert "the best leads the next by 4.0" in warning
    assert SearchResult([], 10).warnings() == []


def test_a_learning_rate_at_the_edge_of_those_tried_is_told_and_a_ratio_of_all_is_not() -> None:
    def at(ratio: float, lr: float, accuracy: float) -> Trial:
        return Trial({"select.ratio": ratio, "finetune.lr": lr}, 0, accuracy, accuracy, 0.1, True)

    edge = SearchResult([at(1.0, 1e-2, 0.9), at(0.1, 1e-3, 0.3)], questions=500)
    assert edge.warnings() == ["finetune.lr: 0.01 is the highest of the values tried; a higher one may be better."]
    inside = SearchResult([at(1.0, 1e-3, 0.9), at(0.1, 1e-2, 0.3), at(0.1, 1e-4, 0.3)], questions=500)
    assert inside.warnings() == []
