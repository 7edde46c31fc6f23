"""What Optuna is told of trials, and what of it outlives the process; Ray Tune's own part is in test_tune_stopped.py."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState
from ray import tune as ray_tune

from leaml.errors import StepError
from pipelines.proposals import Journal, PruningSearch

SPACE = {"select.ratio": ray_tune.uniform(0.0, 1.0)}


def searching(folder: str | Path, start: float | None = 0.25, validations: int | None = None) -> PruningSearch:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = PruningSearch(str(folder), None if start is None else {"select.ratio": start}, 0, validations)
    found.set_search_properties("objective", "max", SPACE)
    return found


def report(search: PruningSearch, name: str, *accuracies: float, end: bool = False) -> dict[str, Any]:
    """Reports of a trial, the last one that of its end if so; returns the last one."""
    last: dict[str, Any] = {}
    for number, accuracy in enumerate(accuracies, start=1):
        is_last = number == len(accuracies)
        last = {"objective": accuracy, "progress": number, "training_iteration": number, "end": end and is_last}
        search.on_trial_result(name, last)
    return last


def study(folder: str | Path) -> list[FrozenTrial]:
    """The trials that another process finds."""
    return optuna.load_study(study_name="optuna", storage=JournalStorage(Journal(str(folder)))).trials


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "study") if request.param == "disk" else f"{request.getfixturevalue('bucket')}/study"


def test_a_stopped_trial_is_pruned_and_a_finished_one_counts_by_its_last_measure(folder: str) -> None:
    search = searching(folder)
    for name in ("whole", "stopped", "failed"):
        search.suggest(name)
    search.on_trial_complete("whole", report(search, "whole", 0.5, 0.6, 0.9, end=True))
    search.on_trial_complete("stopped", report(search, "stopped", 0.95, 0.4))
    report(search, "failed", 0.3)
    search.on_trial_complete("failed", None, error=True)

    whole, stopped, failed = study(folder)
    assert (whole.state, whole.value, whole.params) == (TrialState.COMPLETE, 0.9, {"select.ratio": 0.25})
    assert (stopped.state, stopped.intermediate_values) == (TrialState.PRUNED, {1: 0.95, 2: 0.4})
    assert failed.state == TrialState.FAIL
    assert optuna.load_study(study_name="optuna", storage=JournalStorage(Journal(folder))).best_trial.number == whole.number


@pytest.mark.parametrize(("reports", "state"), [(4, TrialState.COMPLETE), (3, TrialState.PRUNED)])
def test_where_generators_are_judged_a_trial_is_whole_after_all_validations(
    tmp_path: Path, reports: int, state: TrialState
) -> None:
    search = searching(tmp_path, validations=4)
    search.suggest("a")
    search.on_trial_complete("a", report(search, "a", *[0.5] * reports))
    assert [trial.state for trial in study(tmp_path)] == [state]


def test_another_process_proposes_by_what_was_learned(folder: str) -> None:
    """Twelve trials say that small ratios are best; the process that knows them proposes no others, and the start not again."""
    first = searching(folder)
    for number in range(12):
        ratio = first.suggest(str(number))["select.ratio"]
        first.on_trial_complete(str(number), report(first, str(number), 1 - ratio, end=True))
    first.suggest("lost")

    second = searching(folder)
    assert [trial.state for trial in study(folder)][12:] == [TrialState.FAIL]  # nobody will end it
    learned = [second.suggest(str(number))["select.ratio"] for number in range(20, 26)]
    new = searching(f"{folder}-new", start=None)
    ignorant = [new.suggest(str(number))["select.ratio"] for number in range(6)]
    assert 0.25 not in learned
    assert max(learned) < 0.5 < max(ignorant)


def test_a_search_that_ray_tune_saved_goes_on_with_what_the_study_has_learned_since(tmp_path: Path) -> None:
    saved, folder = str(tmp_path / "searcher.pkl"), tmp_path / "study"
    begun = pickle.dumps(PruningSearch(str(folder), {"select.ratio": 0.25}, 0, None))  # what Ray Tune writes first
    search = searching(folder)
    for name in ("a", "b"):
        search.suggest(name)
    search.save(saved)
    search.on_trial_complete("a", report(search, "a", 0.5, 0.9, end=True))
    search.suggest("c")  # which Ray Tune had not saved when the process was killed

    again: PruningSearch = pickle.loads(begun)
    again.set_search_properties("objective", "max", SPACE)  # as Ray Tune does before it restores
    again.restore(saved)
    assert [trial.state for trial in study(folder)] == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.FAIL]
    again.on_trial_complete("a", report(again, "a", 0.1, 0.2, end=True))  # Ray Tune starts it again; what it was stands
    again.on_trial_complete("b", report(again, "b", 0.3))
    again.suggest("d")
    assert [trial.state for trial in study(folder)] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert study(folder)[0].value == 0.9


def test_two_processes_do_not_write_one_study(tmp_path: Path) -> None:
    one, other = searching(tmp_path), searching(tmp_path)
    other.suggest("a")
    with pytest.raises(StepError, match=r"another process writes .*; let it end"):
        one.suggest("b")
    assert len(study(tmp_path)) == 1
    assert all(json.loads(file.read_bytes()) for file in tmp_path.iterdir())
