"""Training images that nearly repeat evaluation images stop the run, with names and what to do; on real Ray Data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pictures import scene
from PIL import Image

from leaml.config import Config, parse
from leaml.errors import DataError
from pipelines.contamination import screen_near_duplicates
from pipelines.ingest import ingest
from pipelines.run import Run

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(300)]


def config(folder: Path, bits: int | None) -> Config:
    """Five training and three unlabeled images, five for evaluation."""
    for role, seeds in {"train": range(5), "frames": range(5, 8), "test": range(10, 15)}.items():
        (folder / role).mkdir(exist_ok=True)
        lines = []
        for seed in seeds:
            scene(seed).save(folder / role / f"{seed}.png")
            lines.append(json.dumps({"image": f"{seed}.png", "question": "what?", "answer": "noise"}))
        (folder / role / "rows.jsonl").write_text("\n".join(lines))
    data = {
        "labeled": {"format": "jsonl", "path": str(folder / "train" / "rows.jsonl")},
        "unlabeled": {"format": "folder", "path": str(folder / "frames")},
        "evaluation": {"format": "jsonl", "path": str(folder / "test" / "rows.jsonl")},
        "near_duplicate_bits": bits,
    }
    return parse({"storage": str(folder / "runs"), "data": data})


def test_a_rescaled_copy_of_an_evaluation_image_is_refused_by_name(tmp_path: Path) -> None:
    settings = config(tmp_path, 4)
    Image.open(tmp_path / "test" / "12.png").resize((120, 120)).save(tmp_path / "frames" / "copy.png")
    with Run(settings) as run, pytest.raises(DataError, match="1 images of the unlabeled source are near dup") as refused:
        screen_near_duplicates(run, ingest(run))
    assert "copy.png is like" in str(refused.value)
    assert "12.png (" in str(refused.value)
    with Run(settings.model_copy(update={"data": settings.data.model_copy(update={"near_duplicate_bits": None})})) as run:
        screen_near_duplicates(run, ingest(run))  # off: nothing is hashed
        assert "contamination" not in {s.name for s in run.steps()}


def test_other_images_pass_and_are_not_hashed_again(tmp_path: Path) -> None:
    for state in ("done", "reused"):
        with Run(config(tmp_path, 4)) as run:
            screen_near_duplicates(run, ingest(run))
            (step,) = [s for s in run.steps() if s.name == "contamination"]
            assert step.state == state
    record = json.loads(Path(run.folder, step.folder, "_DONE.json").read_text())
    assert record["summary"] == {"evaluation_images": 5, "training_images": 8}
