"""A real vLLM whose core raises, and one whose core is killed, in the middle of a step: others take its work over."""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from leaml.config import CaptionConfig, ModelConfig, ResourcesConfig
from leaml.data import image_table, store, tables
from leaml.engine.interface import Completion, Engine, Request
from leaml.engine.spec import EngineSpec
from leaml.engine.vllm_engine import VllmEngine
from pipelines.caption import CaptionWork
from pipelines.models import engine_spec
from pipelines.shard import make_shards
from pipelines.shards import run_shards
from research.tiny import world

COUNT, SIZE, AT_A_TIME = 24, 2, 2
RAISES, KILLED = 0, 1
"""Numbers of the engines that die; the third lives."""


@dataclass(frozen=True)
class DyingSpec(EngineSpec):
    """`folder` gets a file for each start, for each call with its image ids, and for each death with what is published."""

    folder: str = ""

    def build(self) -> Engine:
        number = len(list(Path(self.folder).glob("start-*")))
        Path(self.folder, f"start-{number}").touch()
        spec = EngineSpec(**{key: value for key, value in vars(self).items() if key != "folder"})
        engine = replace(spec, separate_process=number == KILLED).build()
        assert isinstance(engine, VllmEngine)
        return DyingEngine(engine, number, Path(self.folder))


class DyingEngine:
    """vLLM, which dies when three shards that it has made are published and others are under way."""

    def __init__(self, engine: VllmEngine, number: int, folder: Path) -> None:
        self.engine, self.number, self.folder = engine, number, folder
        llm: Any = engine._driver.llm
        self.before = len(self._published())
        if number == RAISES:
            executor = llm.llm_engine.engine_core.engine_core.model_executor
            executor.execute_model = self._watched(executor.execute_model, self._raise)
        if number == KILLED:
            llm.llm_engine.step = self._watched(llm.llm_engine.step, self._kill)

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        Path(self.folder, f"call-{self.number}-{uuid.uuid4().hex}").write_text(json.dumps([r.image_id for r in requests]))
        return self.engine.generate(requests)

    def _watched(self, step: Callable[..., Any], die: Callable[[], None]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **keywords: Any) -> Any:
            if len(done := self._published()) >= self.before + 3 * SIZE:
                Path(self.folder, f"death-{self.number}").write_text(json.dumps(done))
                die()
            return step(*arguments, **keywords)

        return stepped

    def _published(self) -> list[str]:
        return [i for file in (self.folder / "out").glob("rows/*.parquet") for i in pq.read_table(file)["image_id"].to_pylist()]

    def _raise(self) -> None:
        msg = "CUDA error: an illegal memory access was encountered"
        raise RuntimeError(msg)

    def _kill(self) -> None:
        for core in multiprocessing.active_children():
            core.kill()


def _images(folder: Path) -> dict[str, world.Scene]:
    rng, rows, scenes = random.Random(5), [], {}
    for number in range(COUNT):
        scene = world.sample_scene(rng, world.TEACHER)
        file = folder / f"{number}.png"
        world.render(scene).save(file)
        data = file.read_bytes()
        rows.append({"image_id": tables.image_id(data), "uri": file.name, "bytes": data})
        scenes[tables.image_id(data)] = scene
    image_table.write(f"{folder}/images", rows)
    return scenes


@pytest.mark.timeout(600)
def test_engines_whose_core_raises_or_is_killed_are_replaced_and_nothing_is_lost_or_made_twice(
    tmp_path: Path, ray_local: None
) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    scenes = _images(tmp_path)
    made = engine_spec(ModelConfig(name="leaml-tiny-teacher"), ResourcesConfig())
    spec = DyingSpec(**vars(made) | {"folder": str(tmp_path)})
    shards = make_shards("caption", store.index(f"{tmp_path}/images"), {}, SIZE)
    resources = ResourcesConfig(engine_shards=AT_A_TIME, images_per_shard=SIZE)

    output = tmp_path / "out"
    summary = run_shards("caption", shards, spec, CaptionWork(CaptionConfig()), str(output), resources, 10**6)

    assert sorted(file.name for file in tmp_path.glob("start-*")) == ["start-0", "start-1", "start-2"]
    assert sorted(file.name for file in tmp_path.glob("death-*")) == ["death-0", "death-1"]
    rows = [row for file in output.glob("rows/*.parquet") for row in pq.read_table(file).to_pylist()]
    assert Counter(row["image_id"] for row in rows) == Counter(list(scenes))
    assert summary["images"] == COUNT
    right = [scenes[row["image_id"]].colour in row["caption"] for row in rows]
    assert sum(right) >= COUNT - 1  # each caption is of its own image
    for death in (RAISES, KILLED):
        done = set(json.loads((tmp_path / f"death-{death}").read_text()))
        later = [file for file in tmp_path.glob("call-*") if int(file.name.split("-")[1]) > death]
        again = done & {i for file in later for i in json.loads(file.read_text())}
        assert len(again) <= AT_A_TIME * SIZE  # of shards whose end Ray had not heard of yet; their files took their own place
