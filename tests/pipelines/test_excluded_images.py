"""Evaluation images among the others: named when the run is refused, or left out, counted and listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pictures import scene

from leaml.config import Config, parse
from leaml.data import tables
from leaml.errors import DataError
from pipelines.contamination import screen_near_duplicates
from pipelines.ingest import EXCLUDED, draw_labels, ingest, training_images
from pipelines.rehearsal import rehearse
from pipelines.run import Run
from pipelines.sources import Sources
from pipelines.trial import refuse


def config(folder: Path, **data: Any) -> Config:
    """Five labeled images, four frames, three evaluation images: one of them is labeled, two are frames of another name."""
    groups = {"train": [0, 1, 2, 3, 10], "frames": [4, 5, 10, 11], "test": [10, 11, 12]}
    for role, seeds in groups.items():
        (folder / role).mkdir(exist_ok=True)
        lines = []
        for seed in seeds:
            name = f"{role}_{seed}.png"
            scene(seed).save(folder / role / name)
            lines.append(json.dumps({"image": name, "question": "what?", "answer": f"number {seed}"}))
        (folder / role / "rows.jsonl").write_text("\n".join(lines))
    sources = {
        "labeled": {"format": "jsonl", "path": str(folder / "train" / "rows.jsonl")},
        "unlabeled": {"format": "folder", "path": str(folder / "frames")},
        "evaluation": {"format": "jsonl", "path": str(folder / "test" / "rows.jsonl")},
    }
    return parse({"storage": str(folder / "runs"), "data": sources | data})


def listed(run: Run, name: str) -> list[tuple[str, str]]:
    (step,) = [s for s in run.steps() if s.name == name]
    rows = tables.read(f"{run.folder}/{step.folder}/{EXCLUDED}", tables.QUARANTINE).to_pylist()
    return sorted((Path(row["uri"]).name, row["reason"]) for row in rows)


def test_the_refusal_names_the_files_of_both_sides_and_the_key(tmp_path: Path) -> None:
    with Run(config(tmp_path)) as run, pytest.raises(DataError) as refused:
        ingest(run)
    message = str(refused.value)
    assert f"{tmp_path}/train/train_10.png (evaluation: {tmp_path}/test/test_10.png)" in message
    assert "data.exclude_evaluation=true" in message


def test_they_are_left_out_of_labels_and_frames_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for state in ("done", "reused"):
        with Run(config(tmp_path, exclude_evaluation=True)) as run:
            sources = ingest(run)
            labels = draw_labels(run, sources)
            (step,) = [s for s in run.steps() if s.name == "exclude"]
            assert step.state == state
        out = capsys.readouterr().out
        assert "labeled: 1 images left out" in out
        assert "unlabeled: 2 images left out" in out
    assert sorted(row["answer"] for row, _ in labels.rows()) == [f"number {n}" for n in range(4)]
    assert len(training_images(sources)) == 6
    record = json.loads(Path(run.folder, step.folder, "_DONE.json").read_text())
    assert record["summary"] == {"excluded": {"labeled": 1, "unlabeled": 2}}
    assert listed(run, "exclude") == [
        ("frames_10.png", "unlabeled: also in the evaluation"),
        ("frames_11.png", "unlabeled: also in the evaluation"),
        ("train_10.png", "labeled: also in the evaluation"),
    ]


def test_the_evaluation_itself_stays_whole(tmp_path: Path) -> None:
    with Run(config(tmp_path, exclude_evaluation=True)) as run:
        assert len(tables.read(ingest(run).evaluation.path("labeled.parquet"), tables.LABELED)) == 3


def test_what_is_left_out_changes_what_is_made_from_the_sources(tmp_path: Path) -> None:
    """Another evaluation leaves other images out, so captions and labels of before must not be taken for those of now."""
    first = config(tmp_path, exclude_evaluation=True)
    with Run(first) as run:
        one = ingest(run)
        key = draw_labels(run, one).key
    with (tmp_path / "test" / "rows.jsonl").open("a") as file:
        scene(5).save(tmp_path / "test" / "test_5.png")
        file.write("\n" + json.dumps({"image": "test_5.png", "question": "what?", "answer": "more"}))
    with Run(first) as run:
        other = ingest(run)
    assert [s.folder for s in one.training] == [s.folder for s in other.training]  # nothing is read again
    assert not {s.hash for s in one.training} & {s.hash for s in other.training}
    assert draw_labels(run, other).key != key
    assert len(training_images(other)) == 5


def test_planned_addresses_are_those_of_the_run(tmp_path: Path) -> None:
    found = config(tmp_path, exclude_evaluation=True)
    before = list(rehearse(found, refuse(found).amounts.captioned)[0].planned)
    with Run(found) as run:
        ingest(run)
    assert list(rehearse(found)[0].planned) == before
    assert not any("?" in folder for folder in before)


def screened(folder: Path, **data: Any) -> tuple[Run, Sources]:
    scene(12, 120).save(folder / "frames" / "smaller.png")
    with Run(config(folder, near_duplicate_bits=4, **data)) as run:
        return run, screen_near_duplicates(run, ingest(run), mapped=map)


def test_near_duplicates_are_left_out_too(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    run, sources = screened(tmp_path, exclude_evaluation=True)
    assert len(training_images(sources)) == 6
    assert listed(run, "contamination") == [("smaller.png", "unlabeled: near duplicates of evaluation images")]
    assert len(sources.excluded) == 3


def test_labels_that_are_all_evaluation_images_are_refused(tmp_path: Path) -> None:
    found = config(tmp_path, exclude_evaluation=True)
    same = found.data.model_copy(update={"evaluation": found.data.labeled})
    with Run(found.model_copy(update={"data": same})) as run, pytest.raises(DataError, match="every labeled image is an eval"):
        draw_labels(run, ingest(run))
