"""What a search tells Ray Tune of a trial, without running one (tests/integration/test_tune.py does)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from leaml.config import Config, parse
from leaml.data import tables
from leaml.errors import ConfigError
from leaml.run.records import DoneRecord
from pipelines import steps, tune
from pipelines.method import StopHereError
from pipelines.run import Run, Step
from pipelines.sources import Labels
from pipelines.steps import METHOD, StepSpec

DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}


def config(tmp_path: Path, **sections: Any) -> Config:
    return parse({"data": DATA, "storage": str(tmp_path)} | sections)


def test_validations_of_a_step_that_another_trial_made_are_reported_too(tmp_path: Path) -> None:
    run = Run(config(tmp_path), noted=False)
    found = [{"step": 4, "accuracy": 0.5, "loss": 1.0}, {"step": 8, "accuracy": 0.6, "loss": 0.9}]
    step = run.step("distill", {}, [])
    run.execute(step, lambda: {"validations": found})
    assert tune._validations_of_reused(run, "distill") == []  # made by this trial, which reported them on its way
    later = Run(config(tmp_path), noted=False)
    later.execute(step, dict)
    assert tune._validations_of_reused(later, "distill") == found
    events = [tune.report_of(validation, every=4) for validation in found]
    assert [(e["progress"], e["objective"], e["end"]) for e in events] == [(1, 0.5, False), (2, 0.6, False)]
    assert not (Path(run.folder) / "status.json").exists()  # that of the process that holds the run


@pytest.mark.parametrize(
    ("judge", "finalist", "whole"), [("adapted", False, True), ("generator", False, False), ("generator", True, True)]
)
def test_where_generators_are_judged_only_finalists_are_adapted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: str, finalist: bool, whole: bool
) -> None:
    reported: list[dict[str, Any]] = []

    def steps(run: Run, sources: Any, labels: Any, until: str = "evaluate", judge: Any = None) -> Step:
        found = [{"step": 100, "accuracy": 0.7, "loss": 1.0}]
        distilled = run.execute(run.step("distill", {}, []), lambda: {"validations": found})
        if until == "distill":
            raise StopHereError
        return run.execute(run.step("finetune", {}, [distilled]), lambda: {"validations": [{"accuracy": 0.9}]})

    empty = pa.Table.from_pylist([], schema=tables.LABELED)
    monkeypatch.setattr(tune, "method", steps)
    monkeypatch.setattr(tune, "ingest", lambda run: None)
    monkeypatch.setattr(tune, "draw_labels", lambda run, sources: Labels(empty, empty, "few"))
    monkeypatch.setattr(tune, "start_ray", lambda resources: None)
    monkeypatch.setattr(tune, "forward_validations", lambda every: None)
    monkeypatch.setattr("ray.tune.report", reported.append)
    given = config(tmp_path, tune={"judge": judge, "space": {"select.ratio": {"choices": [0.1, 0.2]}}})
    point = {"select.ratio": 0.2}
    tune.run_trial({tune.LISTED: point | {tune.SEED: 0}} if finalist else point, tune.TrialSettings(given, "rows"))
    assert [(r["accuracy"], r["end"]) for r in reported] == ([(0.9, True)] if whole else [])


def test_hours_are_those_of_the_steps_that_depend_on_the_point(tmp_path: Path) -> None:
    run = Run(config(tmp_path, resources={"engines": 2, "train_workers": 4}), noted=False)
    for name in ("caption", "distill", "generate", "filter", "finetune"):
        step = run.step(name, {}, [])
        Path(step.folder).mkdir(parents=True)
        DoneRecord(name, "", 0, (), 900.0, 1, "x", {}).write(step.folder)
        run.execute(step, dict)
    assert tune._hours(run) == pytest.approx((4 + 2 + 4) * 900 / 3600)


def test_trials_share_the_machines_and_train_no_baselines(tmp_path: Path) -> None:
    given = config(tmp_path, tune={"concurrent": 3}, resources={"parallel_baselines": True})
    assert given.resources.lanes == 2
    assert tune._shared(given).resources.lanes == 3
    assert tune._shared(parse({"data": DATA, "storage": "runs"})).storage == str(Path("runs").resolve())
    assert given.resources.parallel_baselines  # the best configuration is written as it was given


@pytest.mark.parametrize(
    ("search", "count"), [({"search": "grid"}, 6), ({"search": "random", "trials": 5}, 5), ({"trials": 3}, 3)]
)
def test_number_of_trials(tmp_path: Path, search: dict[str, Any], count: int) -> None:
    space = {"select.ratio": {"choices": [0.1, 0.3, 1.0]}, "distill.qa_weight": {"choices": [0.5, 1.0]}}
    assert tune._count(config(tmp_path, tune={"space": space, **search})) == count


def test_a_logger_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tune.loggers has mlflow, which is not installed; pip install mlflow"):
        tune._check_loggers(config(tmp_path, tune={"loggers": ["mlflow"]}))
    tune._check_loggers(config(tmp_path, tune={"loggers": ["json", "tensorboard"]}))


def test_a_step_of_ones_own_before_the_judged_one_may_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config(tmp_path, tune={"judge": "generator", "space": {"data.seed": {"choices": [1, 2]}}})
    with pytest.raises(ConfigError, match=r"does not depend on data.seed"):
        tune._check_judge(given)
    monkeypatch.setattr(steps, "METHOD", (StepSpec("sizes", "", "driver", "data"), *METHOD))
    tune._check_judge(given)


def test_a_search_without_labels_for_validation_or_without_a_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tune.space is empty"):
        tune.tune(config(tmp_path))
    judged = {"judge": "generator", "space": {"select.ratio": {"choices": [0.1]}}}
    with pytest.raises(ConfigError, match=r"distill.skip is true, so no generator is judged"):
        tune.tune(config(tmp_path, tune=judged, distill={"skip": True}))
    unseen = judged | {"space": {"finetune.lr": {"choices": [1e-3, 1e-4]}, "select.ratio": {"choices": [0.1]}}}
    with pytest.raises(
        ConfigError, match=r"does not depend on finetune.lr, but on caption, warmup, score, select, distill; set"
    ):
        tune.tune(config(tmp_path, tune=unseen))
    assert not (tmp_path / "run").exists()
    space = {"tune": {"space": {"select.ratio": {"choices": [0.1, 0.3]}}}}
    sources = {role: source | {"limit": 5} for role, source in DATA.items()}
    with pytest.raises(ConfigError, match=r"data.budget.validation_fraction above 0"):
        tune.tune(config(tmp_path, data=sources | {"budget": {"validation_fraction": 0}}, **space))
