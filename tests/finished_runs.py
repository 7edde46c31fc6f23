"""A finished run as its files say it, without having been run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from leaml.config import resolve_model
from leaml.run.records import RunRecord, StepRecord

ROWS = {
    "zero_shot": {"accuracy": 0.5, "ci95": [0.48, 0.52], "n": 1500, "by_type": {"color": 0.1}},
    "leaml": {"accuracy": 0.9, "ci95": [0.88, 0.92], "n": 1500, "by_type": {"color": 0.8}},
    "my_control": {"accuracy": 0.6, "ci95": [0.5, 0.7], "n": 1500, "by_type": {}},
}
METRICS = {
    "dataset": "/data/secret place/test.jsonl",
    "labels": 40,
    "label_rows": 371,
    "rows": ROWS,
    "comparison": {"ours": "leaml", "best_baseline": "zero_shot", "difference": 0.4, "ci95": [0.3, 0.5], "p_value": 0.0001},
    "written": "2026-11-23T12:00:00Z",
    "model": "finetune-abc",
}
CALIBRATION = {"temperature": 1.7, "ece": 0.02, "ece_uncalibrated": 0.09, "n": 1500, "bins": [], "model": "finetune-abc"}
CONFIG = {
    "leaml_version": "0.1.0",
    "name": "mine",
    "model": {"name": "leaml-tiny", "revision": None, "dtype": "bfloat16", "trust_remote_code": False},
    "data": {
        "labeled": {"format": "jsonl", "path": "/data/secret place/train.jsonl", "split": "train"},
        "unlabeled": None,
        "evaluation": {"format": "huggingface", "path": "org/set", "split": "test"},
        "max_pixels": 1000,
    },
    "score": {"method": "squared"},
    "select": {"ratio": 0.3, "scope": "module"},
    "evaluate": {"max_tokens": 11},
}


def write_run(
    folder: Path,
    state: str = "done",
    metrics: dict[str, Any] | None = METRICS,
    calibration: dict[str, Any] | None = CALIBRATION,
    steps: tuple[tuple[str, str], ...] = (("finetune_labels", "finetune-base"), ("leaml", "finetune-abc")),
    weights: bool = False,
) -> Path:
    """A run folder whose adapted model is the shipped base (its weights too with `weights`)."""
    model = folder / "finetune-abc" / "model"
    model.mkdir(parents=True)
    for file in Path(resolve_model("leaml-tiny")).iterdir():
        if weights or file.name == "config.json":
            shutil.copy(file, model)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    listed = [StepRecord("finetune", variant, folder=name, state=state, seconds=1.0) for variant, name in steps]
    RunRecord("mine", state, steps=tuple(listed)).write(str(folder))
    (folder / "evaluation").mkdir()
    for name, content in (("metrics", metrics), ("calibration", calibration)):
        if content is not None:
            (folder / "evaluation" / f"{name}.json").write_text(json.dumps(content))
    return folder
