"""What is said about a run whose process was killed, interrupted or goes on, and the time that its steps took in all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from leaml import __version__
from leaml import config as tree
from leaml.errors import DataError
from leaml.run.records import DONE, DoneRecord
from pipelines import cli, clock, estimates
from pipelines import status as shown
from pipelines.run import Run

DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}
PROGRAM = """
import sys, time
from leaml import config
from pipelines import clock, cli
from pipelines.run import Run

storage, seconds = sys.argv[1:]
clock.EVERY = 0.1
data = {"labeled": {"format": "easy_vqa"}, "evaluation": {"format": "easy_vqa"}}

def work():
    print("working", flush=True)
    try:
        time.sleep(float(seconds))
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None  # as ray.get does with whatever a handler of a signal has raised
    return {}

@cli.app.command()
def task() -> None:
    with Run(config.parse({"name": "mine", "storage": storage, "data": data})) as run:
        run.execute(run.step("ingest", {}, []), work)
        run.finish()

sys.argv = ["leaml", "task"]
cli.main()
"""


def begin(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that works on the run `mine` for so long."""
    done = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert done.stdout is not None
    for line in done.stdout:
        if line == "working\n":
            return done
    pytest.fail("it did not start: " + (done.communicate()[1] or ""))


def read(folder: Path) -> dict[str, Any]:
    done = CliRunner().invoke(cli.app, ["status", str(folder / "mine"), "--json"])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_a_killed_run_is_stopped_and_a_running_one_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = begin(tmp_path, 60)
    state = read(tmp_path)
    assert (state["state"], state["steps"][0]["state"]) == ("running", "running")
    assert "go_on" not in state
    process.kill()
    process.communicate()
    state = read(tmp_path)
    assert (state["state"], state["steps"][0]["state"]) == ("stopped", "stopped")
    shown.show(str(tmp_path / "mine"))
    out = capsys.readouterr().out
    assert out.startswith("run mine: stopped")
    assert "the same command goes on" in out


def test_a_damaged_run_is_named_and_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (
        ("bad", "{"),
        ("good", json.dumps({"run": "good", "state": "done", "updated": time.time(), "steps": []})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(text)
    shown.show(str(tmp_path))
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["unreadable", "bad"], ["done", "good"]]
    with pytest.raises(DataError, match=r"bad/status\.json is damaged"):
        shown.read(str(tmp_path / "bad"))


def test_a_holder_on_another_host_is_believed_while_it_beats(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    now = {"run": "mine", "state": "running", "updated": time.time(), "steps": []}
    (tmp_path / "mine" / "status.json").write_text(json.dumps(now))
    assert read(tmp_path)["state"] == "stopped"  # nobody holds it
    for beat, state in ((time.time(), "running"), (time.time() - 1000, "stopped")):
        lock = {"pid": 1, "host": "elsewhere", "token": "t", "beat": beat}
        (tmp_path / "mine" / "lock.json").write_text(json.dumps(lock))
        assert read(tmp_path)["state"] == state


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_say_what_is_kept(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = begin(tmp_path, 60)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines() == [
        "interrupted; finished steps and shards are kept, and the last checkpoint of a training in "
        f"{tmp_path}/mine (leaml status); the same command goes on"
    ]
    state = read(tmp_path)
    assert (state["state"], state["steps"][0]["state"]) == ("interrupted", "interrupted")
    assert "the same command goes on" in state["go_on"]
    assert not (tmp_path / "mine" / "lock.json").exists()


def test_time_of_a_step_is_the_sum_of_its_attempts(tmp_path: Path) -> None:
    """The first attempt is killed, the second interrupted."""
    process = begin(tmp_path, 60)
    time.sleep(1.0)
    process.kill()
    process.communicate()
    process = begin(tmp_path, 60)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert read(tmp_path)["steps"][0]["seconds"] >= 1.5
    process = begin(tmp_path, 0.3)
    process.communicate(timeout=60)
    assert process.returncode == 0
    (record,) = [json.loads(file.read_text()) for file in (tmp_path / "mine").glob(f"*/{DONE}")]
    assert record["attempts"] == 3
    assert record["seconds"] >= 1.8
    assert read(tmp_path)["steps"][0]["seconds"] == record["seconds"]


def test_a_step_in_a_thread_is_interrupted_with_the_run(tmp_path: Path) -> None:
    run = Run(tree.parse({"name": "mine", "storage": str(tmp_path), "data": DATA}))
    with pytest.raises(ValueError, match="broken"), run:
        run._note(run.step("caption", {}, []), "running", None)
        int("broken")
    state = read(tmp_path)
    assert (state["state"], state["steps"][0]["state"]) == ("failed", "interrupted")


def test_watch_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(["running", "running", "done"])
    folder = tmp_path / "mine"
    folder.mkdir()

    def advance(_: float = 0.0) -> None:
        (folder / "lock.json").write_text(json.dumps({"pid": os.getpid(), "host": "elsewhere", "beat": time.time()}))
        now = {"run": "mine", "state": next(states), "updated": time.time(), "steps": []}
        (folder / "status.json").write_text(json.dumps(now))

    advance()
    monkeypatch.setattr(shown.time, "sleep", advance)
    done = CliRunner().invoke(cli.app, ["status", str(folder), "--watch", "--json"])
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["running", "running", "done"]


def test_version() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"leaml {__version__}\n")


def test_rates_come_from_all_attempts() -> None:
    """A resumed step: two starts of 50 s each, 200 s of an engine, 400 images."""
    config = tree.parse({"data": DATA}).model_dump(mode="json")
    summary = {"images": 400, "engine_seconds": 200.0, "images_per_engine_s": 2.0}
    captioned = DoneRecord("caption", "", 0, (), 300.0, 2, "x", summary)
    assert estimates._speed(captioned, config) == (2.0, 50.0)
    trained = DoneRecord("warmup", "", 0, (), 300.0, 4, "x", {"seconds": 100.0})
    assert estimates._speed(trained, config) == (2.0, 50.0)
    scored = DoneRecord("score", "leaml", 0, (), 90.0, 1, "x", {"examples": 60, "seconds": 30.0})
    assert estimates._speed(scored, config) == (2.0, 0.0)


def test_a_clock_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / clock.FILE).write_text(json.dumps({"seconds": 100.0, "attempts": 1}))
    with clock.Clock(str(tmp_path)) as counted:
        assert 100.0 <= counted.seconds < 105.0
    assert json.loads((tmp_path / clock.FILE).read_text())["attempts"] == 2


def test_the_status_of_a_config_file_and_of_a_folder_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump({"name": "mine", "storage": "runs", "data": DATA}))
    for name in ("mine", "other"):
        with Run(tree.load("mine.yaml", [f"name={name}"])) as run:
            run.execute(run.step("exclude", {}, []), lambda: {"excluded": {"labeled": 1, "unlabeled": 20}})
            run.finish()

    def said(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, ["status", *arguments])
        assert done.exit_code == 0, done.exception
        return done.output

    whole = said("runs/mine")
    assert "1 labeled and 20 unlabeled images left out" in whole
    for same in (["mine.yaml"], ["runs/mine/config.yaml"]):
        assert [line.split() for line in said(*same).splitlines()][1:] == [line.split() for line in whole.splitlines()][1:]
    assert said("mine.yaml", "name=other").startswith("run other: done")
    listed = [line.split() for line in said("runs").splitlines()]
    assert [words[:2] for words in listed] == [["done", "mine"], ["done", "other"]]
    assert [state["run"] for state in json.loads(said("runs", "--json"))["runs"]] == ["mine", "other"]
    assert len(said("runs", "--watch").splitlines()) == 2
    for wrong, message in ((["runs/mine", "name=other"], "only a config file takes overrides"), (["."], "is not a run folder")):
        assert message in str(CliRunner().invoke(cli.app, ["status", *wrong]).exception)
