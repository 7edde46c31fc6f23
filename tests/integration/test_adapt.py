"""The whole job on real input: easy-VQA, real Ray Data, vLLM and Ray Train, small budgets; then everything reused."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from command_line import leaml as leaml_here
from open_sockets import Seen, own_shell, watched
from safetensors.torch import load_file

from leaml.config import Config, parse
from leaml.data import tables
from leaml.evaluation.calibration import confidence
from leaml.rows import titles
from leaml.text.scoring import is_correct
from leaml.training.examples import read_examples
from pipelines.rehearsal import rehearse

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1500)


NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
KEY = "sk-open-doors-0123456789"


def settings(storage: Path) -> dict[str, Any]:
    """Those of the notebook, which is run on this run."""
    given = yaml.safe_load(NOTEBOOK.with_suffix(".yaml").read_text())
    return {**given, "name": "small", "storage": str(storage), "select": {"ratio": 0.2}}


def python(
    *arguments: str, folder: Path = ROOT, packages: Path = ROOT, timeout: float = 1300
) -> subprocess.CompletedProcess[str]:
    """Run a program, and see that nothing of it can be reached from other machines."""
    command, environment = [sys.executable, *arguments], os.environ | {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}
    with watched(environment) as seen:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    assert seen.beyond_loopback() == set(), arguments
    return done


def leaml(*arguments: str, packages: Path = ROOT, timeout: float = 1300) -> subprocess.CompletedProcess[str]:
    return python("-m", "pipelines.cli", *arguments, packages=packages, timeout=timeout)


def write_config(folder: Path) -> Path:
    file = folder / "small.yaml"
    file.write_text(json.dumps(settings(folder / "runs")))  # JSON is YAML
    return file


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A user's home, with a short name: the paths of Ray's sockets have a limit."""
    with tempfile.TemporaryDirectory(prefix="la-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def watched_run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Seen]:
    """The folder in which `leaml adapt` has run, what it printed, and what it showed to others on the way."""
    folder = tmp_path_factory.mktemp("adapt")
    command = [sys.executable, "-m", "pipelines.cli", "adapt", str(write_config(folder))]
    environment = own_shell(home, LEAML_API_KEYS=KEY)
    with watched(environment) as seen:
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=1300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout, seen


@pytest.fixture(scope="module")
def run(watched_run: tuple[Path, str, Seen]) -> tuple[Path, Config, str]:
    folder, output, _ = watched_run
    return folder / "runs" / "small", parse(settings(folder / "runs")), output


@pytest.fixture(scope="module")
def notebook(run: tuple[Path, Config, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The run folder of the notebook, a copy of the run's, and what each cell showed."""
    folder = tmp_path_factory.mktemp("notebook")
    shutil.copytree(run[0], folder / "runs" / "notebook")
    shutil.copy(NOTEBOOK.with_suffix(".yaml"), folder)
    shown = folder / "shown.json"
    done = python(str(Path(__file__).with_name("notebook_cells.py")), str(NOTEBOOK), str(shown), folder=folder, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "notebook", json.loads(shown.read_text())


def step(run_folder: Path, label: str) -> Path:
    steps = json.loads((run_folder / "status.json").read_text())["steps"]
    return run_folder / next(s["folder"] for s in steps if s["label"] == label)


def test_nothing_of_a_running_adapt_listens_beyond_this_machine(watched_run: tuple[Path, str, Seen], home: Path) -> None:
    _, _, seen = watched_run
    seen.is_an_adapt_on_loopback(KEY, home)


def test_metrics_and_report(run: tuple[Path, Config, str]) -> None:
    folder, _, output = run
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert set(metrics["rows"]) == {"blind_prior", "zero_shot", "finetune_labels", "lora_labels", "leaml"}
    for row in metrics["rows"].values():
        assert 100 <= row["n"] <= 150
        assert row["ci95"][0] <= row["accuracy"] <= row["ci95"][1]
    assert metrics["labels"] == 30
    calibration = json.loads((folder / "evaluation" / "calibration.json").read_text())
    assert calibration["n"] == metrics["rows"]["leaml"]["n"]
    assert calibration["model"] == metrics["model"] == step(folder, "finetune leaml").name
    assert 0.05 <= calibration["temperature"] <= 20
    assert 0 <= calibration["ece"] < 0.3
    answered = tables.read(str(step(folder, "evaluate leaml") / "predictions.parquet"), tables.PREDICTIONS)
    assert all(-50 < value <= 0 for value in answered["logprob"].to_pylist())
    assert len(set(answered["logprob"].to_pylist())) > 50
    assert metrics["rows"]["finetune_labels"]["accuracy"] > metrics["rows"]["zero_shot"]["accuracy"]
    page = (folder / "report" / "index.html").read_text()
    assert titles()["finetune_labels"] in page
    assert "data:image/png;base64," in page
    assert "Expected calibration error" in page
    assert "lora_labels" in output


def test_a_dry_run_afterwards_finds_every_step_finished(run: tuple[Path, Config, str]) -> None:
    """The plan's addresses are the run's: nothing is missing, and nothing was made that is not planned."""
    folder, config, _ = run
    rehearsed, _, _ = rehearse(config)
    assert {p.step.label: rehearsed.state(p.step) for p in rehearsed.planned.values()} == {
        p.step.label: "finished" for p in rehearsed.planned.values()
    }
    assert {Path(f).name for f in rehearsed.planned} == {file.parent.name for file in folder.glob("*/_DONE.json")}


def test_distillation_moved_selected_rows_only(run: tuple[Path, Config, str]) -> None:
    folder, _, _ = run
    before = load_file(step(folder, "warmup") / "model" / "model.safetensors")
    after = load_file(step(folder, "distill leaml") / "model" / "model.safetensors")
    selection = load_file(step(folder, "select leaml") / "selection.safetensors")
    moved = 0
    for name, weight in before.items():
        rows = selection.get(name.removesuffix(".weight").removesuffix(".bias"), torch.tensor([], dtype=torch.int64))
        others = torch.ones(weight.shape[0], dtype=torch.bool)
        others[rows] = False
        assert torch.equal(weight[others], after[name][others]), name
        moved += int((weight[rows] != after[name][rows]).any()) if len(rows) else 0
    assert moved > 20


def test_only_accepted_pairs_are_trained_on(run: tuple[Path, Config, str]) -> None:
    folder, _, _ = run
    made = [tables.read(str(f)).to_pylist() for f in sorted((step(folder, "filter leaml") / "rows").iterdir())]
    pairs = [(r["image_id"], p) for part in made for r in part for p in r["pairs"]]
    assert len({i for i, _ in pairs}) == 72
    accepted = {(i, p["question"], p["answer"]) for i, p in pairs if p["accepted"]}
    rejected = [p for _, p in pairs if not p["accepted"]]
    assert rejected
    assert all(p["reason"] for p in rejected)
    trained = read_examples(str(step(folder, "finetune leaml") / "pseudo.arrow"))
    assert {(e.image_id, e.request, e.reply) for e in trained} == accepted


def test_inspect_tells_the_story_of_one_image(run: tuple[Path, Config, str]) -> None:
    folder, _, _ = run
    made = tables.read(str(sorted((step(folder, "filter leaml") / "rows").iterdir())[0])).to_pylist()[0]
    found = leaml_here("inspect", folder, "--image", made["image_id"][:12])
    assert found.code == 0, found.err
    caption = next(
        row["caption"]
        for file in (step(folder, "caption") / "rows").iterdir()
        for row in tables.read(str(file)).to_pylist()
        if row["image_id"] == made["image_id"]
    )
    story = " ".join(found.out.split())
    for part in (f"image {made['image_id']}", caption, f"made by {step(folder, 'distill leaml').name} of leaml-tiny"):
        assert part in story
    assert story.count("accepted") == sum(p["accepted"] for p in made["pairs"])
    tested = tables.read(str(step(folder, "ingest evaluation") / "labeled.parquet"))["image_id"][0].as_py()
    answers = leaml_here("inspect", folder, "--image", tested).out
    for row in ("zero_shot", "finetune_labels", "lora_labels", "leaml"):
        assert f"  {row}: " in answers
    missing = leaml_here("inspect", folder, "--image", "zzz")
    assert missing.code == 2
    assert "no image 'zzz' in this run" in missing.err


def test_the_notebook_shows_what_the_run_made(notebook: tuple[Path, dict[str, str]]) -> None:
    folder, shown = notebook
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())
    values = {
        cell: ast.literal_eval(shown[cell].splitlines()[-1]) for cell in ("config", "adapt", "evaluate")
    }  # behind the log
    assert values["config"] == ("leaml-tiny", 30, str(folder))
    assert values["adapt"] == {name: row["accuracy"] for name, row in metrics["rows"].items()}
    made = [tables.read(str(f)).to_pylist() for f in (step(folder, "filter leaml") / "rows").iterdir()]
    reasons = Counter(pair["reason"] for part in made for row in part for pair in row["pairs"])
    for reason, count in reasons.items():
        assert re.search(rf"^{re.escape(reason)} +{count}$", shown["reasons"], re.MULTILINE), shown["reasons"]
    answers = pq.read_table(folder / "asked" / "answers.parquet").to_pylist()
    accuracy, (low, high) = values["evaluate"]
    assert accuracy == pytest.approx(sum(is_correct(a["prediction"], a["answer"]) for a in answers) / len(answers), abs=1e-5)
    assert low < accuracy < high
    trained, of = (int(number.replace(",", "")) for number in re.findall(r"params: ([\d,]+)", shown["neurons"]))
    assert 0.03 < trained / of < 0.15  # a tenth of the rows, without embeddings


def test_offline_batches_answer_as_the_evaluation_did(notebook: tuple[Path, dict[str, str]]) -> None:
    """The evaluation's questions about its images as files: the same answers, with the run's calibrated confidence."""
    folder, _ = notebook
    evaluated = tables.read(str(step(folder, "evaluate leaml") / "predictions.parquet"), tables.PREDICTIONS).to_pylist()
    known = {(row["image_id"], row["question"]): row for row in evaluated}
    asked = [json.loads(line) for line in (folder / "asked" / "questions.jsonl").read_text().splitlines()]
    answered = pq.read_table(folder / "asked" / "answers.parquet").to_pylist()
    assert [(r["file"], r["question"], r["answer"]) for r in answered] == [tuple(row.values()) for row in asked]
    pairs = [(row, known[row["image_id"], row["question"]]) for row in answered if (row["image_id"], row["question"]) in known]
    assert len(pairs) >= len(known) >= 100
    same = [(made, row) for made, row in pairs if made["prediction"] == row["prediction"]]
    assert len(same) >= 0.97 * len(pairs)  # sums of floats depend on the batch, so near ties may turn
    temperature = json.loads((folder / "evaluation" / "calibration.json").read_text())["temperature"]
    for made, row in same:
        assert made["logprob"] == pytest.approx(row["logprob"], abs=0.05)
        assert made["confidence"] == pytest.approx(confidence(made["logprob"], temperature), abs=1e-4)


def test_no_evaluation_image_was_captioned_or_trained_on(run: tuple[Path, Config, str]) -> None:
    folder, _, _ = run
    tested = set(tables.read(str(step(folder, "ingest evaluation") / "labeled.parquet"))["image_id"].to_pylist())
    for label in ("caption", "generate leaml"):
        for file in (step(folder, label) / "rows").iterdir():
            assert not tested & set(tables.read(str(file))["image_id"].to_pylist())


def test_a_second_run_reuses_every_step(notebook: tuple[Path, dict[str, str]]) -> None:
    folder, _ = notebook
    states = {s["state"] for s in json.loads((folder / "status.json").read_text())["steps"]}
    assert states == {"reused"}


def test_an_interrupted_and_a_killed_run_resume_at_their_checkpoints(run: tuple[Path, Config, str], tmp_path: Path) -> None:
    """Both in the warm-up. That such runs finish is shown by test_cluster_adapt."""
    folder, _, _ = run
    config = write_config(tmp_path)
    # captions are shared work: with the finished steps copied the run begins with the warm-up
    target = tmp_path / "runs" / "small"
    target.mkdir(parents=True)
    for name in ("ingest labeled", "ingest evaluation", "caption"):
        source = step(folder, name)
        subprocess.run(["cp", "-r", str(source), str(target / source.name)], check=True)
    warmed = target / step(folder, "warmup").name

    def begin() -> subprocess.Popen[str]:
        """The warm-up, which has just written another checkpoint."""
        command = [sys.executable, "-m", "pipelines.cli", "warmup", str(config)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        before, deadline = set(warmed.glob("checkpoints/checkpoint_*")), time.time() + 240
        while not {file.parent for file in warmed.glob("checkpoints/checkpoint_*/state.json")} - before:
            assert process.poll() is None
            assert time.time() < deadline
            time.sleep(0.2)
        return process

    process = begin()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"the last checkpoint of a training in {target}" in said
    assert json.loads((target / "status.json").read_text())["state"] == "interrupted"

    process = begin()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (warmed / "_DONE.json").exists()
    done = leaml("warmup", str(config))
    assert done.returncode == 0, done.stderr
    assert {s["state"] for s in json.loads((target / "status.json").read_text())["steps"]} <= {"done", "reused"}
    resumed = json.loads((warmed / "training.json").read_text())
    whole = json.loads((step(folder, "warmup") / "training.json").read_text())
    assert [s for s, _ in resumed["losses"]] == [s for s, _ in whole["losses"]]
    assert resumed["losses"][-1][1] == pytest.approx(whole["losses"][-1][1], rel=1e-3)


def test_other_filters_filter_anew_and_ask_no_model(run: tuple[Path, Config, str], tmp_path: Path) -> None:
    """Another threshold, and a filter of another package, which Ray's workers find too."""
    folder, _, _ = run
    (tmp_path / "no_no.py").write_text("no_no = lambda candidate, config: 'says no' if candidate.answer == 'no' else None\n")
    installed = tmp_path / "no_no-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: no-no\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[leaml.filters]\nno_no = no_no:no_no\n")
    before = {file: file.read_bytes() for file in (step(folder, "generate leaml") / "rows").iterdir()}
    filtered, generator = step(folder, "filter leaml"), step(folder, "distill leaml") / "model"
    generator.rename(generator.with_name("away"))  # no engine could start
    try:
        changes = ["filter.max_answer_chars=3", "filter.plugins=[no_no]"]
        again = leaml("filter", str(folder.parents[1] / "small.yaml"), *changes, packages=tmp_path)
    finally:
        generator.with_name("away").rename(generator)
    assert again.returncode == 0, again.stdout + again.stderr
    states = {s["label"]: s["state"] for s in json.loads((folder / "status.json").read_text())["steps"]}
    assert (states["generate leaml"], states["filter leaml"]) == ("reused", "done")
    assert {file: file.read_bytes() for file in before} == before
    made = [row for file in (step(folder, "filter leaml") / "rows").iterdir() for row in tables.read(str(file)).to_pylist()]
    assert step(folder, "filter leaml") != filtered
    accepted = {p["answer"] for row in made for p in row["pairs"] if p["accepted"]}
    assert max(map(len, accepted)) <= 3 and "no" not in accepted
    assert {"answer too long", "says no"} <= {p["reason"] for row in made for p in row["pairs"]}
