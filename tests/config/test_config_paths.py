"""Paths of a configuration: whose folder they are relative to, and what is a name and no path."""

import os
from pathlib import Path

import pytest
import yaml

from leaml import config

DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with relative paths in one folder, and the current folder, which is another one."""
    project, here = tmp_path / "project", tmp_path / "here"
    for folder in (project / "models" / "mine", project / "saved", here):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    content = {
        "storage": "runs",
        "model": {"name": "models/mine"},
        "caption": {"teacher": {"name": "org/teacher"}},
        "data": {
            "labeled": {"format": "jsonl", "path": "data/train.jsonl", "images": "../pictures/"},
            "unlabeled": {"format": "huggingface", "path": "saved"},
            "evaluation": {"format": "huggingface", "path": "org/set"},
        },
        "tune": {"space": {"model.name": {"choices": ["models/mine", "leaml-tiny", "org/model"]}, "seed": {"choices": [1, 2]}}},
    }
    (project / "run.yaml").write_text(yaml.safe_dump(content))
    return project


def test_paths_of_a_file_are_relative_to_it_and_names_stay(elsewhere: Path) -> None:
    found = config.load(elsewhere / "run.yaml")
    assert found.run_folder == f"{elsewhere}/runs/run"
    assert found.data.labeled.path == f"{elsewhere}/data/train.jsonl"
    assert found.data.labeled.images == f"{elsewhere.parent}/pictures/"
    assert found.model.name == f"{elsewhere}/models/mine"
    assert found.caption.teacher.name == "org/teacher"
    assert found.data.unlabeled is not None
    assert (found.data.unlabeled.path, found.data.evaluation.path) == (f"{elsewhere}/saved", "org/set")
    assert found.tune.space["model.name"].choices == [f"{elsewhere}/models/mine", "leaml-tiny", "org/model"]
    assert found.tune.space["seed"].choices == [1, 2]


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("data.labeled.path=x.jsonl", "{here}/x.jsonl"),
        ("data.labeled={format: jsonl, path: ./a/../x.jsonl}", "{here}/x.jsonl"),
        ("data.labeled.path=/data/x.jsonl", "/data/x.jsonl"),
        ("data.labeled.path=s3://bucket/x.jsonl", "s3://bucket/x.jsonl"),
        ("data.labeled.path=s3:/bucket/x.jsonl", "s3:/bucket/x.jsonl"),  # refused as what it is, and not as a file that is gone
        ("data.labeled={format: jsonl, path: 'http:x'}", "http:x"),
        ("data.labeled={format: jsonl, path: './s3:x'}", "{here}/s3:x"),
        ("data.labeled.path=~/x.jsonl", "{home}/x.jsonl"),
    ],
)
def test_paths_on_the_command_line_are_relative_to_the_current_folder(elsewhere: Path, override: str, path: str) -> None:
    found = config.load(elsewhere / "run.yaml", [override])
    assert found.data.labeled.path == path.format(here=Path.cwd(), home=os.path.normpath(Path.home()))
    assert found.model.name == f"{elsewhere}/models/mine"  # what the file gives is not looked for here


def test_a_shipped_model_is_no_path_even_where_a_folder_has_its_name(elsewhere: Path) -> None:
    (elsewhere / "leaml-tiny").mkdir()
    (elsewhere / "run.yaml").write_text(yaml.safe_dump({"data": DATA, "model": {"name": "leaml-tiny"}}))
    assert config.load(elsewhere / "run.yaml").model.name == "leaml-tiny"
    (elsewhere / "run.yaml").write_text(yaml.safe_dump({"data": DATA, "model": {"name": "./leaml-tiny"}}))
    assert config.load(elsewhere / "run.yaml").model.name == f"{elsewhere}/leaml-tiny"


def test_what_was_resolved_resolves_to_itself_anywhere(elsewhere: Path) -> None:
    """As the best configuration of a search does, which lies in the run's folder."""
    found = config.load(elsewhere / "run.yaml")
    (elsewhere / "models" / "best.yaml").write_text(yaml.safe_dump(found.model_dump(mode="json")))
    assert config.load(elsewhere / "models" / "best.yaml") == found


def test_paths_in_the_working_tree_can_be_made_relative_to_it(elsewhere: Path) -> None:
    found = config.load(elsewhere / "run.yaml")
    sent = config.parse(config.with_paths(found.model_dump(mode="json"), config.relative_to(elsewhere)))
    assert (sent.data.labeled.path, sent.model.name) == ("data/train.jsonl", "models/mine")
    assert sent.data.labeled.images == f"{elsewhere.parent}/pictures/"
    assert sent.data.evaluation.path == "org/set"
