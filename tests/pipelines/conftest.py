"""Data that several tests of pipelines begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pictures import labeled


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A configuration that `leaml adapt` takes: four labeled images, three unlabeled ones, two for the evaluation."""
    for role, seeds in {"train": range(4), "frames": range(4, 7), "test": range(10, 12)}.items():
        labeled(tmp_path / role, seeds, "noise")
    data = {
        "labeled": {"format": "jsonl", "path": str(tmp_path / "train" / "rows.jsonl")},
        "unlabeled": {"format": "folder", "path": str(tmp_path / "frames")},
        "evaluation": {"format": "jsonl", "path": str(tmp_path / "test" / "rows.jsonl")},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"name": "tried", "storage": str(tmp_path / "runs"), "data": data}))
    return path
