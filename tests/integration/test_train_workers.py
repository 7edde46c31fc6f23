"""Ray Train workers: their number does not matter, and a training whose worker is killed ends as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from open_sockets import MARK, Seen, watched
from safetensors.torch import load_file

from leaml.config import ModelConfig, ResourcesConfig, TrainConfig, parse, resolve_model
from leaml.data import tables
from leaml.training.batches import Example
from leaml.training.examples import write_examples
from pipelines.ingest import ingest
from pipelines.run import Run
from pipelines.train import TaskFile, TrainJob, run_training

Result = tuple[dict[str, Any], dict[str, torch.Tensor]]

DATA = {
    "labeled": {"format": "easy_vqa", "split": "train", "limit": 12},
    "evaluation": {"format": "easy_vqa", "split": "test", "limit": 2},
}


def workers() -> list[int]:
    """Process ids of Ray Train workers below this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            if "".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                found.append(process.pid)
    return sorted(found)


def kill_one_after_the_first_checkpoint(folder: Path, killed: list[int]) -> None:
    deadline = time.time() + 240
    while time.time() < deadline and not list(folder.glob("checkpoints/checkpoint_*/state.json")):
        time.sleep(0.1)
    killed.extend(workers())
    os.kill(killed[-1], signal.SIGKILL)


@dataclass
class Training:
    """Trains the shipped model on the labels of 12 images, each time in a folder of its own."""

    folder: Path
    images: list[str]
    examples: str

    def __call__(self, name: str, workers: int, sharding: bool = False) -> Result:
        config = TrainConfig(steps=20, lr=1e-3, batch_size=6, save_every=5, precision="float32")
        job = TrainJob(
            folder=str(self.folder / name),
            model=ModelConfig(name="leaml-tiny"),
            tasks=[TaskFile("labels", self.examples)],
            images=self.images,
            config=config,
        )
        summary = run_training(name, job, ResourcesConfig(train_workers=workers, train_cpus=0.5, train_sharding=sharding))
        return summary, load_file(f"{job.folder}/model/model.safetensors")


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """What Ray and its workers, which start after it, show to others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, "")  # undone at the end
        with watched(os.environ) as looked:
            yield looked


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, seen: Seen, ray_own: None) -> Training:
    folder = tmp_path_factory.mktemp("train")
    with Run(parse({"storage": str(folder), "data": DATA})) as run:
        sources = ingest(run)
    rows = tables.read(sources.labeled.path("labeled.parquet"), tables.LABELED).to_pylist()
    examples = [Example(r["image_id"], r["question"], r["answer"]) for r in rows]
    return Training(folder, sources.image_folders, write_examples(str(folder / "rows.parquet"), examples))


def same(found: Result, expected: Result) -> None:
    """Two trainings have the same losses and weights, but for the order in which floats were added.

    Biases of keys are left out: softmax cancels them, so their gradient is rounding alone, which AdamW scales up.
    """
    losses = [dict(result[0]["losses"]) for result in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    start = load_file(Path(resolve_model("leaml-tiny")) / "model.safetensors")
    for name, value in expected[1].items():
        if not name.endswith("k_proj.bias"):
            moved = (value.float() - start[name].float()).norm()
            assert (found[1][name].float() - value.float()).norm() <= 0.01 * moved, name


@pytest.mark.timeout(300)
def test_training_whose_worker_is_killed_ends_as_the_uninterrupted_one_of_another_number_of_workers(
    train: Training, seen: Seen
) -> None:
    """The one with two workers, each with a part of every weight, as the one with a single worker."""
    one = train("one", 1)
    assert sorted(step for step, _ in one[0]["losses"]) == [0, 10, 19]
    killed: list[int] = []
    killer = threading.Thread(target=kill_one_after_the_first_checkpoint, args=(train.folder / "killed", killed))
    killer.start()
    resumed = train("killed", 2, sharding=True)
    killer.join()
    assert len(killed) == 2
    assert not Path(f"/proc/{killed[-1]}").exists()
    same(resumed, one)
    assert not (train.folder / "killed" / "checkpoints").exists()
    assert json.loads((train.folder / "killed" / "training.json").read_text())["lr"] == 1e-3
    listening = {name for name, _, _ in seen.sockets}
    assert any("RayTrainWorker" in name for name in listening), listening  # the group of two and torch's store
    assert seen.beyond_loopback() == set()
