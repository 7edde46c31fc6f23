"""The packages in examples/ as a user has them: installed, named in a configuration, used by `leaml`.

The notebook is run by tests/integration/test_adapt.py, the clients by tests/integration/test_serving.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from leaml.config import load, parse
from leaml.data import tables
from leaml.errors import ConfigError
from leaml.run.records import read_run
from pipelines import cli
from pipelines.filter import decided

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / "examples" / name for name in ("reader", "filter", "row", "score_method")]


INSTALL = """
import os, sys, zipfile
from setuptools import build_meta

site, *packages = sys.argv[1:]
for package in packages:
    os.chdir(package)
    zipfile.ZipFile(os.path.join(package, build_meta.build_wheel(package))).extractall(site)
"""
"""What `pip install --target` does with folders; pip itself takes seconds."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the packages are installed in; it is on no path."""
    folder = tmp_path_factory.mktemp("packages")
    copies = [shutil.copytree(package, folder / package.name) for package in PACKAGES]  # a build leaves files in its folder
    command = [sys.executable, "-c", INSTALL, str(folder / "site"), *map(str, copies)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A configuration whose sources are folders named after what is on their images."""
    for role, numbers in (("train", range(6)), ("test", range(6, 8))):
        for kind in ("cat", "dog"):
            (tmp_path / role / kind).mkdir(parents=True)
            for number in numbers:
                colour = (20 * number, 200 if kind == "cat" else 0, 0)
                Image.new("RGB", (16, 16), colour).save(tmp_path / role / kind / f"{number}.jpg")
    read = {"format": "named_folders"}
    sources = {"labeled": read | {"path": "train"}, "evaluation": read | {"path": "test"}}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "storage": "runs", "data": sources}))
    return file


def test_an_installed_reader_is_a_format_like_others(mine: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = CliRunner().invoke(cli.app, ["ingest", str(mine)])
    assert "unknown format 'named_folders'" in str(before.exception)
    monkeypatch.syspath_prepend(str(installed))
    done = CliRunner().invoke(cli.app, ["ingest", str(mine)])
    assert done.exit_code == 0, (done.output, done.exception)
    run = mine.parent / "runs" / "mine"
    (ingested,) = (step for step in read_run(str(run)).steps if step.variant == "labeled")
    rows = tables.read(str(run / ingested.folder / "labeled.parquet"), tables.LABELED).to_pylist()
    assert {row["question"] for row in rows} == {"what is it?"}
    assert Counter(row["answer"] for row in rows) == {"cat": 6, "dog": 6}
    assert len({row["image_id"] for row in rows}) == 12


def replied(text: str) -> dict[str, Any]:
    return {"text": text, "mean_logprob": -0.1, "cut": False}


def test_an_installed_filter_is_asked_where_a_configuration_names_it(
    mine: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ["filter.plugins=[one_word]"]
    with pytest.raises(ConfigError, match=r"no installed package has the filter 'one_word' \(none is installed\)"):
        load(mine, named)
    monkeypatch.syspath_prepend(str(installed))
    replies = [replied("Question: What is it? Answer: a cat"), replied("Question: Which animal? Answer: cat")]
    row = {"image_id": "x", "caption": None, "replies": replies, "answers": [], "base": None}
    for overrides, reasons in ((None, ["", ""]), (named, ["more than a word", ""])):
        pairs = decided(row, load(mine, overrides).filter)["pairs"]
        assert [pair["reason"] for pair in pairs] == reasons
    with pytest.raises(ConfigError, match=r"no installed package has the filter 'two_words' \(installed are one_word\)"):
        load(mine, ["filter.plugins=[one_word, two_words]"])


def test_an_installed_row_shares_with_the_method_what_it_does_not_change(mine: Path, installed: Path) -> None:
    """In a process of its own: rows are known when `leaml` starts."""
    with pytest.raises(ConfigError, match="half_neurons"):
        parse(yaml.safe_load(mine.read_text()) | {"evaluate": {"controls": ["half_neurons"]}})
    command = [sys.executable, "-m", "pipelines.cli", "plan", str(mine), "evaluate.controls=[half_neurons]", "--json"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    labels = [step["label"] for step in json.loads(done.stdout)["steps"]]
    own = {label.removesuffix(" half_neurons") for label in labels if label.endswith(" half_neurons")}
    assert own == {"select", "distill", "generate", "filter", "finetune", "evaluate"}
    assert {"caption", "warmup", "score leaml", "select leaml"} <= set(labels)


SCORED = """
import sys

import torch
from torch import nn

import leaml
from leaml.config import load
from leaml.neurons import scores
from leaml.neurons.gradients import ExampleBatch

assert load(sys.argv[1], ["score.method=largest_gradient"]).score.method == "largest_gradient"
assert leaml.NeuronConfig(selection="largest_gradient", ratio=0.5).score_method == "largest_gradient"

layer, x = nn.Linear(3, 2, bias=False), torch.randn(4, 5, 3)
collate = lambda part: ExampleBatch(len(part), lambda: layer(x[part]).square().sum((1, 2)))
found = scores.score({"layer": layer}, "largest_gradient", scores.Data([0, 1, 2, 3], collate, 2))["layer"]
alone = [torch.autograd.grad(layer(each).square().sum(), layer.weight)[0].abs().amax(-1) for each in x]
torch.testing.assert_close(found, torch.stack(alone).mean(0))
print("scored")
"""


def test_an_installed_score_is_a_method_like_others(mine: Path, installed: Path) -> None:
    """In a process of its own: scores are known when `leaml` starts."""
    with pytest.raises(ConfigError, match=r"score.method: .*'largest_gradient'"):
        load(mine, ["score.method=largest_gradient"])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    command = [sys.executable, "-c", SCORED, str(mine)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "scored\n", done.stderr


def test_no_example_is_part_of_the_package() -> None:
    taken = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert taken and not any(fnmatch(name, pattern) for name in ("examples", "examples.reader") for pattern in taken)
