"""Trials that a search stops early give back what their training held; Ray Tune is real, the trials are made up."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from leaml.config import parse
from leaml.run.search import Trial
from pipelines import tune
from pipelines.run import Run

RATIOS = [0.5, 0.4, 0.3, 0.2, 0.1]
DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}


def holding(values: dict[str, Any], settings: tune.TrialSettings) -> None:
    """A trial that holds a CPU as Ray Train's workers do, and is the better, the larger `select.ratio` is; at the first
    validation, the worse."""
    import ray
    from ray import tune as ray_tune

    group = ray.util.placement_group([{"CPU": 1}])
    ray.get(group.ready(), timeout=30)
    for step in range(1, settings.config.tune.validations + 1):
        ratio = values["select.ratio"]
        found = {"step": step, "accuracy": ratio if step > 1 else 1 - ratio, "loss": 0.0}
        ray_tune.report(tune.report_of(found, 1, group.id.hex()))


def searched(folder: Path, ratios: list[float], **settings: Any) -> list[Trial]:
    space = {"select.ratio": {"choices": ratios}}
    given = {"space": space, "search": "grid", "judge": "generator", "validations": 4, **settings}
    config = parse({"storage": str(folder), "data": DATA, "tune": given})
    return tune._tuned(tune.TrialSettings(config, ""), Run(config).step("tune", {}, []), "search", tune._space(config))


@pytest.fixture(autouse=True)
def trials_are_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(tune, "run_trial", holding)


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("ray_local")
def test_stopped_trials_give_back_their_cpus(tmp_path: Path) -> None:
    import ray

    found = searched(tmp_path, RATIOS)
    assert [t.error for t in found] == [""] * len(RATIOS)  # the fourth would have waited for a CPU in vain
    by_ratio = {t.point["select.ratio"]: t.state for t in found}
    assert by_ratio == {0.5: "generator"} | dict.fromkeys(RATIOS[1:], "stopped")
    groups = ray.util.placement_group_table().values()
    assert {g["state"] for g in groups} == {"REMOVED"}


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("ray_local")
def test_optuna_is_told_that_stopped_trials_were_pruned_with_their_values(tmp_path: Path) -> None:
    from optuna.trial import TrialState

    found = searched(tmp_path, RATIOS, search="optuna", trials=6)
    trials = optuna_trials(tmp_path)
    told = [(t.params["select.ratio"], t.state) for t in trials]
    states = {"generator": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    assert sorted(told) == sorted((t.point["select.ratio"], states[t.state]) for t in found)
    assert {state for _, state in told} == set(states.values())
    for trial in trials:
        ratio = trial.params["select.ratio"]
        reached = {1: 1 - ratio} | dict.fromkeys(range(2, len(trial.intermediate_values) + 1), ratio)
        assert trial.intermediate_values == reached
        assert len(reached) == 4 or trial.state == TrialState.PRUNED


KILLED = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
import ray
import test_tune_stopped as made
from pipelines import local_ray, tune

ray.cloudpickle.register_pickle_by_value(made)
tune.run_trial = made.holding
local_ray.start(num_cpus=4, object_store_memory=200_000_000)
made.searched(Path({folder!r}), made.RATIOS, search="optuna", trials=5)
"""


def optuna_trials(folder: Path) -> list[Any]:
    import optuna
    from optuna.storages import JournalStorage

    from pipelines.proposals import Journal

    found = list(folder.glob("run/tune-*/study"))
    return optuna.load_study(study_name="optuna", storage=JournalStorage(Journal(str(found[0])))).trials if found else []


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_local")
def test_a_killed_search_goes_on_with_what_it_has_learned(tmp_path: Path) -> None:
    code = KILLED.format(path=[str(Path(__file__).parent), *sys.path], folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while len([t for t in optuna_trials(tmp_path) if t.state.is_finished()]) < 2:
        assert process.poll() is None
        time.sleep(0.2)
    process.kill()
    process.wait()
    before = [t for t in optuna_trials(tmp_path) if t.state.is_finished()]

    found = searched(tmp_path, RATIOS, search="optuna", trials=5)
    after = optuna_trials(tmp_path)
    assert [after[t.number] for t in before] == before
    assert len(found) == 5 and all(t.state in ("generator", "stopped") for t in found)
    assert len([t for t in after if t.state.name in ("COMPLETE", "PRUNED")]) >= 5
    assert not [t for t in after if not t.state.is_finished()]


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(("grace", "to_the_end"), [(1, 1), (2, 2)])
def test_no_trial_is_stopped_before_the_grace(tmp_path: Path, grace: int, to_the_end: int) -> None:
    """Each is behind at the first validation, and ahead from the second on."""
    found = searched(tmp_path, [0.1, 0.2], grace=grace)
    assert [t.state for t in found].count("generator") == to_the_end
