"""One of two Ray Train workers is killed in the middle of a training: it resumes and ends as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
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


@pytest.mark.timeout(500)
@pytest.mark.usefixtures("ray_local")
def test_killed_worker_recovers_and_the_result_is_the_uninterrupted_one(tmp_path: Path) -> None:
    with Run(parse({"storage": str(tmp_path), "data": DATA})) as run:
        sources = ingest(run)
    rows = tables.read(sources.labeled.path("labeled.parquet"), tables.LABELED).to_pylist()
    examples = write_examples(
        str(tmp_path / "rows.parquet"), [Example(r["image_id"], r["question"], r["answer"]) for r in rows]
    )
    resources = ResourcesConfig(train_workers=2, train_cpus=0.5)

    def train(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        job = TrainJob(
            folder=str(tmp_path / name),
            model=ModelConfig(name="leaml-tiny"),
            tasks=[TaskFile("labels", examples)],
            images=sources.image_folders,
            config=TrainConfig(steps=60, lr=1e-3, batch_size=8, save_every=10),
        )
        return run_training(name, job, resources), load_file(f"{job.folder}/model/model.safetensors")

    whole, expected = train("whole")
    killed: list[int] = []
    killer = threading.Thread(target=kill_one_after_the_first_checkpoint, args=(tmp_path / "killed", killed))
    killer.start()
    resumed, found = train("killed")
    killer.join()
    assert len(killed) == 2
    assert not Path(f"/proc/{killed[-1]}").exists()
    assert [step for step, _ in resumed["losses"]] == [step for step, _ in whole["losses"]]
    assert [loss for _, loss in resumed["losses"]] == pytest.approx([loss for _, loss in whole["losses"]], rel=1e-3)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
    assert not (tmp_path / "killed" / "checkpoints").exists()
    assert json.loads((tmp_path / "killed" / "training.json").read_text())["lr"] == 1e-3
