"""Data that several tests of pipelines begin with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pictures import scene


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A configuration that `leaml adapt` takes: four labeled images, three unlabeled ones, two for the evaluation."""
    for role, seeds in {"train": range(4), "frames": range(4, 7), "test": range(10, 12)}.items():
        (tmp_path / role).mkdir()
        for seed in seeds:
            scene(seed).save(tmp_path / role / f"{seed}.png")
        rows = [{"image": f"{seed}.png", "question": "what?", "answer": "noise"} for seed in seeds]
        (tmp_path / role / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "labeled": {"format": "jsonl", "path": str(tmp_path / "train" / "rows.jsonl")},
        "unlabeled": {"format": "folder", "path": str(tmp_path / "frames")},
        "evaluation": {"format": "jsonl", "path": str(tmp_path / "test" / "rows.jsonl")},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"name": "tried", "storage": str(tmp_path / "runs"), "data": data}))
    return path
