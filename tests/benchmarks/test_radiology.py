"""What the run on radiology is fed with, and how its memory is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import radiology
from leaml.config import load


def test_no_image_is_in_both_parts_and_no_question_is_lost(shared_folder: Path, tmp_path: Path) -> None:
    data = shared_folder / "data" / "vqa_rad"
    if not data.is_dir():
        pytest.skip("needs VQA-RAD")
    radiology.write_data(data, tmp_path)
    parts = {part: [json.loads(line) for line in (tmp_path / f"{part}.jsonl").open()] for part in ("train", "test", "captions")}
    images = {part: {row["image"] for row in rows} for part, rows in parts.items()}
    assert not images["train"] & images["test"]
    assert images["train"] | images["test"] == images["captions"]
    assert len(parts["train"]) + len(parts["test"]) == len(json.loads((data / "vqa_rad.json").read_text()))
    assert 0.15 < len(images["test"]) / len(images["captions"]) < 0.25
    assert {row["question_type"] for row in parts["test"]} == {"closed", "open"}
    assert all(isinstance(row["answer"], str) and row["answer"] for row in parts["train"])
    file = tmp_path / "radiology.yaml"
    file.write_text(json.dumps(radiology.config(data, tmp_path, "leaml-tiny", tmp_path / "runs", steps=3)))
    found = load(file)
    assert (found.finetune.steps, found.model.image_tiles, found.model.dtype) == (3, False, "bfloat16")


def test_memory_is_that_of_a_process_and_all_below_it() -> None:
    below = "import time; held = b'x' * (100 << 20); print('held', flush=True); time.sleep(60)"
    above = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {below!r}])"
    with subprocess.Popen([sys.executable, "-c", above], stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        taken = sum(radiology.family(psutil.Process(process.pid)).values())
        os.killpg(process.pid, 9)
    assert 100 << 20 < taken < 200 << 20
