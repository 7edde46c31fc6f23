"""Steps that take turns in one pool of engines, on a real Ray: each with its own model, in processes that are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted
from scripted import MAX_PIXELS, RESOURCES, ScriptedSpec, Signed, calls, images_table, published

from leaml.data.step_rows import StepRows
from leaml.data.store import ImageIndex
from leaml.errors import ModelError
from pipelines.runtime import quiet_data
from pipelines.shard import make_shards
from pipelines.shards import ShardStep, run_in_turn

COUNT, SIZE = 12, 3
MODELS = ("red", "green", "blue")


@pytest.fixture(scope="module", autouse=True)
def workers(ray_local: None) -> None:
    """Workers get the scripted module by value: the tests' folder is on no path of theirs."""
    import ray

    ray.cloudpickle.register_pickle_by_value(scripted)
    quiet_data(False)


class Steps:
    """Three steps on the same images, each with a model, an output and an engine log of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.life = folder, folder / "life"
        self.refs: ImageIndex = images_table(folder / "images", COUNT)
        self.ids = [r.image_id for r in self.refs]
        for model in MODELS:
            (folder / f"log-{model}").mkdir()

    def run(self, plan: dict[str, int] | None = None, size: int = SIZE, **faults: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Faults are those of the engine with the model of their name."""
        shards = make_shards("caption", self.refs, {}, size)
        steps = [
            ShardStep(
                m, shards, ScriptedSpec(m, log=self.log(m), life=str(self.life), **faults.get(m, {})), Signed(), self.output(m)
            )
            for m in MODELS
        ]
        return run_in_turn(steps, RESOURCES.model_copy(update=plan or {}), MAX_PIXELS)

    def log(self, model: str) -> str:
        return str(self.folder / f"log-{model}")

    def output(self, model: str) -> str:
        return str(self.folder / f"out-{model}")

    def answers(self, model: str) -> dict[str, str]:
        """Of each image, from the published files."""
        return {r["image_id"]: r["caption"] for r in StepRows(self.output(model)).columns(None).to_pylist()}

    def lives(self) -> list[list[str]]:
        """Event, model and process of each line."""
        return [line.split() for line in self.life.read_text().splitlines()]


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path)


@pytest.mark.parametrize("plan", [{}, {"engine_shards": 2}])
def test_one_process_has_the_engine_of_one_step_at_a_time(steps: Steps, plan: dict[str, int]) -> None:
    for model, totals in zip(MODELS, steps.run(plan), strict=True):
        assert (totals["images"], totals["tokens"]) == (COUNT, 3 * COUNT)
        assert steps.answers(model) == dict.fromkeys(steps.ids, model)
        assert calls(Path(steps.log(model))) == Counter(steps.ids)
    events = [(event, model) for event, model, _ in steps.lives()]
    assert events == [
        ("built", "red"),
        ("closed", "red"),
        ("built", "green"),
        ("closed", "green"),
        ("built", "blue"),
    ]
    assert len({process for _, _, process in steps.lives()}) == 1


def test_several_engines_share_the_shards_of_each_step(steps: Steps) -> None:
    for model, _ in zip(MODELS, steps.run({"engines": 2}), strict=True):
        assert steps.answers(model) == dict.fromkeys(steps.ids, model)
        assert calls(Path(steps.log(model))) == Counter(steps.ids)
    built = Counter((model, process) for event, model, process in steps.lives() if event == "built")
    assert max(built.values()) == 1  # none went back to a step
    assert len({process for _, process in built}) == 2


def test_an_engine_that_dies_is_started_again_with_the_model_of_its_step(steps: Steps) -> None:
    list(steps.run(green={"exit_once": steps.ids[4]}))
    for model in MODELS:
        assert steps.answers(model) == dict.fromkeys(steps.ids, model)
        assert Counter(dict.fromkeys(steps.ids, 1)) == published(Path(steps.output(model)))
    built = [(model, process) for event, model, process in steps.lives() if event == "built"]
    assert [model for model, _ in built] == ["red", "green", "green", "blue"]
    (_, first), (_, second), (_, third), (_, last) = built
    assert first == second != third == last


def test_a_model_that_cannot_be_served_stops_at_its_step_and_the_next_run_goes_on_there(steps: Steps) -> None:
    totals = steps.run(green={"build_error": "no green today"})
    assert next(totals)["images"] == COUNT
    with pytest.raises(ModelError, match="no green today"):
        next(totals)
    asked = calls(Path(steps.log("red")))
    again = list(steps.run())
    assert [each["images"] for each in again] == [COUNT] * 3
    assert calls(Path(steps.log("red"))) == asked
    assert [steps.answers(model) for model in MODELS] == [dict.fromkeys(steps.ids, model) for model in MODELS]
