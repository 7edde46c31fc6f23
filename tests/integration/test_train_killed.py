"""One of two Ray Train workers is killed in the middle of a training: it resumes and ends as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from leaml import tables
from leaml.config import ModelConfig, ResourcesConfig, TrainConfig, parse
from leaml.training import Example
from pipelines.ingest import ingest
from pipelines.run import Run
from pipelines.train import TaskFile, TrainJob, run_training, write_examples

Result = tuple[dict[str, Any], dict[str, torch.Tensor]]
"""What training.json says, and the weights."""
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
    while time.time() < deadline and not list(folder.glob("checkpoints/checkpoint_*/state.pt")):
        time.sleep(0.1)
    killed.extend(workers())
    os.kill(killed[-1], signal.SIGKILL)


@dataclass
class Training:
    """Trains the shipped model on the labels of 12 images, each time in a folder of its own."""

    folder: Path
    images: list[str]
    examples: str

    def __call__(self, name: str, workers: int, steps: int) -> Result:
        job = TrainJob(
            folder=str(self.folder / name),
            model=ModelConfig(name="leaml-tiny"),
            tasks=[TaskFile("labels", self.examples)],
            images=self.images,
            config=TrainConfig(steps=steps, lr=1e-3, batch_size=8, save_every=10),
        )
        summary = run_training(name, job, ResourcesConfig(train_workers=workers, train_cpus=0.5))
        return summary, load_file(f"{job.folder}/model/model.safetensors")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Training:
    folder = tmp_path_factory.mktemp("train")
    with Run(parse({"storage": str(folder), "data": DATA})) as run:
        sources = ingest(run)
    rows = tables.read(sources.labeled.path("labeled.parquet"), tables.LABELED).to_pylist()
    examples = [Example(r["image_id"], r["question"], r["answer"]) for r in rows]
    return Training(folder, sources.image_folders, write_examples(str(folder / "rows.parquet"), examples))


def same(one: Result, other: Result) -> None:
    """Two trainings have the same losses and weights, but for the order in which floats were added."""
    (found, weights), (summary, expected) = one, other
    assert [step for step, _ in found["losses"]] == [step for step, _ in summary["losses"]]
    assert [loss for _, loss in found["losses"]] == pytest.approx([loss for _, loss in summary["losses"]], rel=1e-3)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.timeout(500)
def test_killed_worker_recovers_and_the_result_is_the_uninterrupted_one(train: Training) -> None:
    whole = train("whole", 2, 60)
    folder = train.folder / "killed"
    killed: list[int] = []
    killer = threading.Thread(target=kill_one_after_the_first_checkpoint, args=(folder, killed))
    killer.start()
    resumed = train("killed", 2, 60)
    killer.join()
    assert len(killed) == 2
    assert not Path(f"/proc/{killed[-1]}").exists()
    same(resumed, whole)
    assert not (folder / "checkpoints").exists()
    assert json.loads((folder / "training.json").read_text())["lr"] == 1e-3
