"""Configurations by name: which file a name means, where its paths count from, and what is said about an unknown one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import leaml
from leaml import config as tree
from leaml.errors import ConfigError
from leaml.run.records import RunRecord
from pipelines import cli, recipes

CONFIGS = Path(cli.__file__).parent / "configs"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*arguments: str) -> str:
    """What a command prints; its refusal, where it refuses."""
    done = CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": "200"})
    return str(done.exception) if done.exit_code else done.output


def test_a_name_is_the_shipped_file_and_its_paths_count_from_the_current_folder(here: Path) -> None:
    demo = recipes.load("demo", ["select.ratio=0.1"])
    assert (demo.run_folder, demo.select.ratio) == (f"{here}/runs/demo", 0.1)
    folder = leaml.load_config("folder")
    assert (folder.storage, folder.data.labeled.path) == (f"{here}/runs", f"{here}/data/train.jsonl")
    assert recipes.load(CONFIGS / "folder.yaml").storage == f"{CONFIGS}/runs", "given as a path it is a file like others"
    assert sorted(recipes.shipped()) == sorted(file.stem for file in CONFIGS.iterdir())


def test_a_file_of_ones_own_goes_before_a_shipped_one_and_a_folder_does_not(here: Path) -> None:
    (here / "folder").mkdir()
    assert recipes.load("folder").name == "mine"
    (here / "demo").write_text(yaml.safe_dump(recipes.load("demo", ["name=own"]).model_dump(mode="json")))
    assert recipes.load("demo").name == "own"


@pytest.mark.parametrize("command", ["adapt", "plan", "tune", "config", "warmup", "select"])
def test_an_unknown_name_is_refused_with_the_known_ones(here: Path, command: str) -> None:
    found = said(command, "dmo")
    assert found == (
        "'dmo' is no file and no shipped configuration; did you mean 'demo'? "
        "give the path of a YAML file or one of demo, eight_gpus, folder, kvasir_vqa, laptop, one_gpu, sportu"
    )


@pytest.mark.parametrize("path", ["demo.yml", "configs/demo", "/demo"])
def test_a_path_is_no_name(here: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot read the config file '{path}': No such file"):
        recipes.load(path)


def test_status_and_report_take_the_name_too(here: Path) -> None:
    RunRecord("demo", "partial").write(str(here / "runs" / "demo"))
    RunRecord("other", "partial").write(str(here / "runs" / "other"))
    assert said("status", "demo").startswith("run demo: partial")
    assert said("status", "demo", "name=other").startswith("run other: partial")
    assert f"{here}/runs/demo has no evaluation/metrics.json yet" in said("report", "demo")
    RunRecord("beside", "partial").write(str(here / "demo"))
    assert said("status", "demo").startswith("run beside: partial"), "a folder that is there is the run"


def test_a_shipped_file_is_printed_to_be_copied(here: Path) -> None:
    assert said("config", "folder", "--source") == (CONFIGS / "folder.yaml").read_text()
    assert yaml.safe_load(said("config", "demo")) == tree.load(CONFIGS / "demo.yaml").model_dump(mode="json")
    assert "takes no overrides" in said("config", "folder", "name=x", "--source")
