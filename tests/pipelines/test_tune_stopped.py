"""Trials that a search stops early give back what their training held; Ray Tune is real, the trials are made up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from leaml.config import parse
from pipelines import tune
from pipelines.run import Run

DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}


def holding(values: dict[str, Any], plan: tune.Plan) -> None:
    """A trial that holds a CPU as Ray Train's workers do, and gets better with `score.ratio`."""
    import ray
    from ray import tune as ray_tune

    group = ray.util.placement_group([{"CPU": 1}])
    ray.get(group.ready(), timeout=30)
    for step in range(1, plan.config.tune.validations + 1):
        found = {"step": step, "accuracy": values["score.ratio"], "loss": 0.0}
        ray_tune.report(tune._event(found, 1, group.id.hex()))


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("ray_local")
def test_stopped_trials_give_back_their_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ratios = [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    settings = {"space": {"score.ratio": {"choices": ratios}}, "search": "grid", "judge": "generator", "validations": 4}
    config = parse({"storage": str(tmp_path), "data": DATA, "tune": settings})
    monkeypatch.setattr(tune, "run_trial", holding)
    found = tune._tuned(tune.Plan(config, "", ""), Run(config).step("tune", {}, []), "search", tune._space(config))
    assert [t.error for t in found] == [""] * len(ratios)  # the fourth would have waited for a CPU in vain
    by_ratio = {t.point["score.ratio"]: t.state for t in found}
    assert by_ratio == {0.7: "generator"} | dict.fromkeys(ratios[1:], "stopped")
    groups = ray.util.placement_group_table().values()
    assert {g["state"] for g in groups} == {"REMOVED"}
