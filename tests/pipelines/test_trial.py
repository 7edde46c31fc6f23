"""`leaml adapt --dry-run` refuses what `leaml adapt` refuses before an engine starts, in the same words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pictures import scene
from typer.testing import CliRunner

from leaml.config import load
from leaml.errors import InputError, ResourceError
from pipelines import adapt, cli, trial
from pipelines.plan import rehearse
from pipelines.run import Run

Tree = dict[str, Any]


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


def dry_run(recipe: Path, *overrides: str) -> Any:
    return CliRunner().invoke(cli.app, ["adapt", str(recipe), *overrides, "--dry-run"])


def started(recipe: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `leaml adapt` says when it refuses this; it must do so before Ray starts."""
    monkeypatch.setattr(adapt, "start_ray", lambda *_: pytest.fail("Ray was started"))
    with pytest.raises(InputError) as refused:
        adapt.adapt(load(recipe, overrides))
    return str(refused.value)


def broken_line(folder: Path) -> list[str]:
    file = folder / "train" / "rows.jsonl"
    file.write_text(file.read_text().replace('"answer"', "answer", 1))
    return []


def line_without_an_answer(folder: Path) -> list[str]:
    with (folder / "test" / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"image": "10.png", "question": "how many?"}) + "\n")
    return []


def evaluation_image_among_the_frames(folder: Path) -> list[str]:
    (folder / "frames" / "copied.png").write_bytes((folder / "test" / "11.png").read_bytes())
    return []


def unreadable_frames(folder: Path) -> list[str]:
    for number in range(3):
        (folder / "frames" / f"torn{number}.jpg").write_bytes(b"no image")
    return []


def no_images(folder: Path) -> list[str]:
    (folder / "empty").mkdir()
    return [f"data.unlabeled.path={folder}/empty"]


CASES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "format": (lambda _: ["data.unlabeled.format=foldr"], "unknown format 'foldr': did you mean 'folder'?"),
    "absent": (lambda f: [f"data.labeled.path={f}/none.jsonl"], "none.jsonl does not exist"),
    "absent in evaluation": (lambda f: [f"data.evaluation.path={f}/none.jsonl"], "none.jsonl does not exist"),
    "json": (broken_line, "rows.jsonl:1: not valid JSON"),
    "no answer": (line_without_an_answer, "rows.jsonl:3"),
    "same file": (
        lambda f: [f"data.evaluation.path={f}/train/rows.jsonl"],
        "4 evaluation images are also in the labeled source",
    ),
    "one image": (evaluation_image_among_the_frames, "1 evaluation images are also in the unlabeled source"),
    "unreadable": (unreadable_frames, "3 of 6 images of"),
    "empty": (no_images, "found no images"),
    "no images": (lambda f: [f"data.labeled.images={f}/nowhere"], "4 of 4 images of"),
    "budget": (lambda _: ["data.budget.count=9"], "data.budget.count is 9 images, but the labeled source has 4"),
    "model": (lambda _: ["model.name=leaml-tyni"], "'leaml-tyni'"),
    "teacher": (lambda _: ["caption.teacher.name=./nowhere"], "nowhere"),
    "split": (lambda _: ["data.labeled.split=trian"], "no line has split 'trian'"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_run_refuses_the_dry_run_refuses_in_the_same_words(
    case: str, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, expected = CASES[case]
    overrides = make(recipe.parent)
    done = dry_run(recipe, *overrides)
    assert isinstance(done.exception, InputError), done.output
    assert expected in str(done.exception)
    assert not (recipe.parent / "runs").exists()
    assert str(done.exception) == started(recipe, overrides, monkeypatch)


@pytest.mark.parametrize("key", ["data.labeled", "data.unlabeled", "data.evaluation", "caption.file"])
def test_a_path_that_is_not_there_is_named_with_its_key(key: str, recipe: Path) -> None:
    path = key if key == "caption.file" else f"{key}.path"
    found = str(dry_run(recipe, f"{path}={recipe.parent}/none.jsonl").exception)
    assert found.startswith(f"{key}: {recipe.parent}/none.jsonl does not exist")


def test_what_a_run_takes_is_planned_and_leaves_no_trace(recipe: Path) -> None:
    before = sorted(recipe.parent.rglob("*"))
    done = dry_run(recipe)
    assert done.exit_code == 0, done.output
    assert "plan of tried" in done.output
    assert sorted(recipe.parent.rglob("*")) == before


def test_near_duplicates_are_refused_before_ray_starts(recipe: Path) -> None:
    scene(10, 50).save(recipe.parent / "frames" / "smaller.png")
    found = dry_run(recipe, "data.near_duplicate_bits=6").exception
    assert isinstance(found, InputError)
    assert "1 images of the unlabeled source are near duplicates of evaluation images" in str(found)
    assert "smaller.png is like" in str(found)


def test_a_finished_ingest_is_looked_at_and_not_read_again(recipe: Path) -> None:
    evaluation_image_among_the_frames(recipe.parent)
    with pytest.raises(InputError), Run(load(recipe)) as run:
        adapt.ingest(run)
    for file in (recipe.parent / "frames").iterdir():
        file.unlink()
    scene(1).save(recipe.parent / "frames" / "another.png")  # a folder's content does not make it anew
    assert "1 evaluation images are also in the unlabeled source" in str(dry_run(recipe).exception)


def test_of_a_large_source_the_beginning_is_looked_at_and_that_is_said(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.Trial, "first", 3)
    done = dry_run(recipe, "data.budget.count=4")
    assert done.exit_code == 0, done.output
    assert "of the labeled source the first" in done.output
    assert "of the evaluation source" not in done.output


def test_a_plan_that_this_machine_cannot_hold_is_shown_and_refused(recipe: Path) -> None:
    done = dry_run(recipe, "resources.engines=4000")
    assert "plan of tried" in done.output
    assert isinstance(done.exception, ResourceError)
    assert "resources.engines needs 4001 CPU" in str(done.exception)
    cluster = dry_run(recipe, "resources.engines=4000", "resources.address=auto")
    assert cluster.exit_code == 0, cluster.output


def test_a_configuration_runs_from_any_folder_and_its_steps_are_the_same(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also after the project has moved."""
    tree = yaml.safe_load(recipe.read_text().replace(f"{recipe.parent}/", ""))
    recipe.write_text(yaml.safe_dump(tree))
    assert tree["data"]["labeled"]["path"] == "train/rows.jsonl"
    folders = []
    moved = tmp_path_factory.mktemp("moved") / "project"
    for here, file in ((recipe.parent, recipe), (tmp_path_factory.mktemp("here"), recipe), (moved.parent, moved / recipe.name)):
        if file != recipe:
            shutil.copytree(recipe.parent, moved)
        monkeypatch.chdir(here)
        done = dry_run(file)
        assert done.exit_code == 0, done.output
        run, _, _ = rehearse(load(file))
        assert run.folder == f"{file.parent}/runs/tried"
        folders.append([Path(folder).name for folder in run.planned])
    assert folders[0] == folders[1] == folders[2]
    absent = dry_run(recipe, "data.labeled.path=none.jsonl").exception
    assert f"{moved.parent}/none.jsonl does not exist" in str(absent)
