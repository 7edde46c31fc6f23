"""The command line as a user meets it: bad input ends fast, with exit code 2 and one message."""

import functools
import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image
from transformers import LlamaConfig

from leaml import config as tree

SLOW = 8.0
"""Seconds of the processor. Measured: 0.2 for the configuration, 3.7 for a model."""


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float


def _processor_seconds() -> float:
    """Of this process's ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@functools.cache
def slow() -> float:
    """The limit as this machine is now: other work on the core, and a slower one, stretch its seconds."""
    before = _processor_seconds()
    program = "import torch; from transformers import AutoModelForImageTextToText, AutoProcessor"
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120)
    return max(SLOW, 2 * (_processor_seconds() - before))


def leaml(*arguments: str | Path) -> Ended:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    before = _processor_seconds()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    seconds = _processor_seconds() - before
    print(f"leaml {arguments[0]}: exit {done.returncode} after {seconds:.1f} s of the processor")
    return Ended(done.returncode, done.stdout, done.stderr, seconds)


def message(ended: Ended) -> str:
    """The one line on stderr of a refused command."""
    lines = ended.err.splitlines()
    assert ended.code == 2, ended
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ended.err + ended.out
    assert ended.seconds < SLOW or ended.seconds < slow()
    return lines[0]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A configuration that `leaml` accepts: JSONL labels, a folder of images, the shipped models."""
    (tmp_path / "images").mkdir()
    rows = []
    for n in range(4):
        Image.new("RGB", (16, 16), (n, 0, 0)).save(tmp_path / "images" / f"{n}.png")
        rows.append({"image": f"images/{n}.png", "question": "What is it?", "answer": "red"})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:2]))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[2:]))
    content = {
        "name": "refused",
        "storage": str(tmp_path / "runs"),
        "data": {
            "labeled": {"format": "jsonl", "path": str(tmp_path / "train.jsonl")},
            "unlabeled": {"format": "folder", "path": str(tmp_path / "images")},
            "evaluation": {"format": "jsonl", "path": str(tmp_path / "test.jsonl")},
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    folder = tmp_path / "llama"
    LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32).save_pretrained(folder)
    return folder


def test_wrong_key(recipe: Path) -> None:
    assert "unknown key 'select.ration': did you mean 'ratio'?" in message(leaml("adapt", recipe, "select.ration=0.1"))


def test_missing_image_folder(recipe: Path) -> None:
    found = message(leaml("adapt", recipe, f"data.unlabeled.path={recipe.parent}/nowhere"))
    assert f"{recipe.parent}/nowhere does not exist" in found
    assert not (recipe.parent / "runs").exists()


def test_missing_image_folder_of_a_label_file(recipe: Path) -> None:
    found = message(leaml("adapt", recipe, f"data.labeled.images={recipe.parent}/nowhere"))
    assert f"{recipe.parent}/nowhere" in found


def test_torn_labels(recipe: Path) -> None:
    labels = recipe.parent / "train.jsonl"
    labels.write_text(labels.read_text()[:-20])
    found = message(leaml("warmup", recipe))
    assert f"{labels}:2: the last line, perhaps torn" in found
    assert not (recipe.parent / "runs").exists()


def test_model_without_a_vision_tower(recipe: Path, text_model: Path) -> None:
    found = message(leaml("adapt", recipe, f"model.name={text_model}"))
    assert f"'{text_model}' (llama) has no vision tower" in found
    assert not (recipe.parent / "runs").exists()


def test_unknown_reader(recipe: Path) -> None:
    assert "unknown format 'jsnl': did you mean 'jsonl'?" in message(leaml("ingest", recipe, "data.labeled.format=jsnl"))


def test_images_in_training_and_evaluation(recipe: Path) -> None:
    """Found while ingesting; nothing after that is started."""
    found = message(leaml("ingest", recipe))
    assert "2 evaluation images are also in the unlabeled source" in found
    assert json.loads((recipe.parent / "runs" / "refused" / "status.json").read_text())["state"] == "failed"


def test_missing_recipe(tmp_path: Path) -> None:
    assert "none.yaml" in message(leaml("adapt", tmp_path / "none.yaml"))


def test_status_and_report_of_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert f"{tmp_path} is not a run folder: it has no status.json" in message(leaml("status", tmp_path))
    assert "no evaluation/metrics.json" in message(leaml("report", tmp_path / "nowhere"))


def test_picture_of_an_unknown_format(recipe: Path) -> None:
    """Refused before the first step."""
    assert "'neurons.gif': the name must end in .svg or .png" in message(leaml("select", recipe, "--plot", "neurons.gif"))
    assert not (recipe.parent / "runs").exists()


def test_status_lists_steps_and_the_progress_of_the_running_one(tmp_path: Path) -> None:
    steps = [
        {"name": "ingest", "variant": "labeled", "folder": "ingest-1", "state": "done", "seconds": 12.4},
        {"name": "warmup", "folder": "warmup-2", "state": "running", "seconds": None},
    ]
    state = {"run": "mine", "state": "running", "updated": time.time() - 7, "steps": steps}
    (tmp_path / "status.json").write_text(json.dumps(state))
    lock = {"pid": os.getpid(), "host": socket.gethostname(), "beat": time.time()}
    (tmp_path / "lock.json").write_text(json.dumps(lock))
    (tmp_path / "warmup-2").mkdir()
    progress = {"step": 30, "steps": 200, "steps_per_s": 2.5, "loss": 1.0, "phase": 0}
    (tmp_path / "warmup-2" / "progress.json").write_text(json.dumps(progress))
    shown = leaml("status", tmp_path)
    lines = shown.out.splitlines()
    assert (shown.code, len(lines)) == (0, 3)
    assert lines[0].startswith("run mine: running, ")
    assert lines[1].split() == ["done", "ingest", "labeled", "12", "s", "ingest-1"]
    assert "step 30/200, 2.5 steps/s" in lines[2]


def test_config_explains_every_key() -> None:
    shown = leaml("config", "--explain")
    assert (shown.code, shown.err) == (0, "")
    for key, default, description in tree.explain():
        assert f"{key} = {default}\n    {description}\n" in shown.out


def test_config_prints_a_file_as_it_resolves(recipe: Path) -> None:
    shown = leaml("config", recipe, "select.ratio=0.125")
    assert shown.code == 0
    assert tree.parse(yaml.safe_load(shown.out)) == tree.load(recipe, ["select.ratio=0.125"])
