"""Images that ingest cannot use: counted in log and status, known to inspect; another limit reads nothing again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from leaml.config import Config, parse
from leaml.data import registry
from leaml.data.questions import Asked
from leaml.errors import DataError, InputError
from pipelines import ingest as ingest_module
from pipelines import inspect_image, status
from pipelines.ingest import ingest, training_images
from pipelines.predict import _resolve
from pipelines.run import Run


def config(folder: Path, **data: Any) -> Config:
    """Six frames, of which two are torn and one is too large; files that are no images by the rule for folders."""
    for role, colours in {"train": range(3), "test": range(3, 5), "frames": range(5, 8)}.items():
        (folder / role).mkdir(exist_ok=True)
        lines = []
        for colour in colours:
            Image.new("RGB", (16, 16), (colour, 0, 0)).save(folder / role / f"{colour}.png")
            lines.append(json.dumps({"image": f"{colour}.png", "question": "what?", "answer": "red"}))
        (folder / role / "rows.jsonl").write_text("\n".join(lines))
    frames = folder / "frames"
    (frames / "torn.jpg").write_bytes(b"no image")
    (frames / "empty.PNG").write_bytes(b"")
    Image.new("RGB", (200, 200)).save(frames / "large.png")
    (frames / "DCIM0001").write_bytes((frames / "5.png").read_bytes())
    (frames / "._5.png").write_bytes(b"resource fork")
    (frames / ".thumbs").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (99, 0, 0)).save(frames / ".thumbs" / "5.png")
    sources = {
        "labeled": {"format": "jsonl", "path": str(folder / "train" / "rows.jsonl")},
        "unlabeled": {"format": "folder", "path": str(frames)},
        "evaluation": {"format": "jsonl", "path": str(folder / "test" / "rows.jsonl")},
        "max_pixels": 10_000,
    }
    return parse({"name": "mine", "storage": str(folder / "runs"), "data": sources | data})


def test_counts_and_reasons_are_said_and_in_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # also when the step is reused
        with Run(config(tmp_path, max_quarantined=0.5)) as run:
            sources = ingest(run)
            run.finish()
        assert "ingest unlabeled: 3 images quarantined (" in capsys.readouterr().out
    (step,) = [s for s in run.steps() if "quarantined" in s.summary]
    counts = dict(step.summary)
    assert step.label == "ingest unlabeled"
    assert counts.pop("quarantined") == 3 == sum(counts.values())
    assert run.summary(sources.training[1])["images"] == 3
    assert len(training_images(sources)) == 6
    status.show(run.folder)
    assert "3 images quarantined (" in capsys.readouterr().out


def limited(found: Config, most: float) -> Run:
    """A run with another limit over the data as they lie."""
    return Run(found.model_copy(update={"data": found.data.model_copy(update={"max_quarantined": most})}))


def test_another_limit_reads_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = config(tmp_path)
    with limited(found, 0.4) as run, pytest.raises(DataError, match=r"3 of 6 images of .* over the limit of 40%"):
        ingest(run)
    monkeypatch.setattr(ingest_module, "ingest_source", only_the_evaluation(ingest_module.ingest_source))
    with limited(found, 0.5) as run:
        assert len(training_images(ingest(run))) == 6
    with limited(found, 0.3) as run, pytest.raises(DataError, match=r"3 of 6 images of .* over the limit of 30%"):
        ingest(run)  # a limit that is lowered afterwards holds too


def only_the_evaluation(read: Any) -> Any:
    """What the refused run had not come to yet may be read, nothing else."""

    def check(source: Any, *arguments: Any, **more: Any) -> Any:
        assert Path(source.path).parent.name == "test", f"{source.path} is read again"
        return read(source, *arguments, **more)

    return check


def test_data_that_was_mended_is_read_again(tmp_path: Path) -> None:
    found = config(tmp_path, max_quarantined=0.4)
    with Run(found) as run, pytest.raises(DataError, match=r"3 of 6 images"):
        ingest(run)
    (tmp_path / "frames" / "torn.jpg").unlink()
    (tmp_path / "frames" / "empty.PNG").unlink()
    with Run(found) as run:
        assert run.summary(ingest(run).training[1])["quarantined"] == 1


@pytest.mark.parametrize("role", ["labeled", "unlabeled"])
def test_data_that_was_mended_is_read_again_under_a_higher_limit_too(tmp_path: Path, role: str) -> None:
    """The refusal names both ways out, and some people take both."""
    frames = tmp_path / "frames"
    names = ["5.png", "torn.jpg", "empty.PNG", "large.png", "absent.png"]
    rows = [json.dumps({"image": name, "question": "what?", "answer": "red"}) for name in names]
    (tmp_path / "many.jsonl").write_text("\n".join(rows))
    named = {"labeled": {"format": "jsonl", "path": f"{tmp_path}/many.jsonl", "images": str(frames)}}
    found = config(tmp_path, **(named if role == "labeled" else {}))
    with limited(found, 0.4) as run, pytest.raises(DataError, match="cannot be used"):
        ingest(run)
    for place, name in enumerate(["torn.jpg", "absent.png"]):
        Image.new("RGB", (16, 16), (0, place, 90)).save(frames / name)
    with limited(found, 0.9) as run:
        sources = ingest(run)
    assert run.summary(sources.labeled if role == "labeled" else sources.training[1])["quarantined"] == 2


def test_what_a_run_writes_is_no_change_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the runs are kept among the images."""
    found = config(tmp_path).model_copy(update={"storage": f"{tmp_path}/frames/runs"})
    with limited(found, 0.4) as run, pytest.raises(DataError, match="3 of 6"):
        ingest(run)
    monkeypatch.setattr(ingest_module, "ingest_source", only_the_evaluation(ingest_module.ingest_source))
    with limited(found, 0.5) as run:
        assert len(training_images(ingest(run))) == 6


def test_inspect_knows_what_was_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run(config(tmp_path, max_quarantined=0.5)) as run:
        ingest(run)
    capsys.readouterr()
    inspect_image.show(run.folder, "torn.jpg")
    out = capsys.readouterr().out
    assert f"uri: {tmp_path}/frames/torn.jpg" in out
    assert "ingest unlabeled: not used, " in out
    with Run(config(tmp_path, max_quarantined=0.1)) as run, pytest.raises(DataError):
        ingest(run)
    capsys.readouterr()
    inspect_image.show(run.folder, "large.png")  # also of a run that was refused for it
    assert "not used, " in capsys.readouterr().out


def test_ingest_and_predict_take_the_same_files_of_a_folder(tmp_path: Path) -> None:
    found = config(tmp_path)
    asked = _resolve([Asked(None, "what?", None)], str(tmp_path / "frames"))
    names = sorted(Path(file).name for file, _ in asked)
    assert names == ["5.png", "6.png", "7.png", "empty.PNG", "large.png", "torn.jpg"]
    assert found.data.unlabeled is not None
    assert sorted(Path(r.uri).name for r in registry.read(found.data.unlabeled)) == names


def test_an_image_that_is_gone_stops_nothing_below_the_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no id; reading it back from the quarantine ended every run and every `inspect`."""
    chosen = config(tmp_path, max_quarantined=0.8)
    with (tmp_path / "train" / "rows.jsonl").open("a") as rows:
        rows.write('\n{"image": "gone.png", "question": "what?", "answer": "red"}')
    (tmp_path / "frames" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    for _ in range(2):  # also when the step is reused
        with Run(chosen) as run:
            sources = ingest(run)
            run.finish()
    assert run.summary(sources.labeled)["images"] == 3
    assert len(training_images(sources)) == 6
    for name, reason in (
        ("gone.png", "does not exist"),
        ("nowhere.png", "not read"),
        ("torn.jpg", "not an image"),
        ("0.png", ""),
    ):
        capsys.readouterr()
        inspect_image.show(run.folder, name)
        said = " ".join(capsys.readouterr().out.split())
        assert reason in said


def test_copies_are_counted_and_every_name_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = config(tmp_path, max_quarantined=0.5)
    (tmp_path / "frames" / "cut.png").write_bytes((tmp_path / "frames" / "5.png").read_bytes())
    for _ in range(2):  # also when the step is reused
        with Run(found) as run:
            sources = ingest(run)
            run.finish()
        said = " ".join(capsys.readouterr().out.split())
        assert "ingest unlabeled: 1 copies of other images under other names" in said
    (step,) = [s for s in run.steps() if "copies" in s.summary]
    assert step.summary["copies"] == 1
    assert run.summary(sources.training[1])["images"] == 3
    status.show(run.folder)
    assert "1 copies of other images under other names" in " ".join(capsys.readouterr().out.split())
    stories = []
    for name in ("5.png", "cut.png"):
        inspect_image.show(run.folder, name)
        stories.append(capsys.readouterr().out.splitlines()[0])
    assert stories[0] == stories[1]
    with pytest.raises(InputError, match=r"no image 'other\.png' in this run"):
        inspect_image.show(run.folder, "other.png")
