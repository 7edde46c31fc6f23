"""`leaml tune` on real Ray Tune: a search that is killed and goes on, trials that share steps, and one that fails."""

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
from command_line import leaml
from open_sockets import watched

from leaml.config import load

SETTINGS: dict[str, Any] = {
    "name": "search",
    "data": {
        "labeled": {"format": "easy_vqa", "split": "train", "limit": 36},
        "evaluation": {"format": "easy_vqa", "split": "test", "limit": 5},
        "budget": {"count": 16},
    },
    "warmup": {"steps": 20, "batch_size": 8, "lr": 1e-3},
    "distill": {"skip": True},
    "generate": {"pairs_per_image": 2, "votes": 0},
    "filter": {"round_trip": False, "min_votes": None},
    "finetune": {"steps": 6, "batch_size": 8, "lr": 1e-3},
    "tune": {
        "space": {"finetune.lr": {"choices": [1e-3, 1e-5, 1e30]}},
        "search": "grid",
        "finalists": 1,
        "seeds": 1,
        "loggers": ["json", "tensorboard"],
    },
}


def command(config: Path) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", "tune", str(config)]


def kill_when(pattern: str, config: Path) -> None:
    """Search until a file below the run matches the pattern, then end the process with SIGKILL."""
    process = subprocess.Popen(
        command(config), cwd=config.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.time() + 600
    while time.time() < deadline and not list((config.parent / "runs" / "search").glob(pattern)):
        assert process.poll() is None
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.timeout(1700)
def test_a_killed_search_goes_on_and_one_failing_trial_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS, "storage": "runs"}))  # relative paths mean the same in every trial
    run = tmp_path / "runs" / "search"
    kill_when("finetune-*/labels.arrow", config)
    generated = {f: f.stat().st_mtime for f in run.glob("generate-*/rows/*.parquet")}
    assert generated

    environment = dict(os.environ)
    with watched(environment) as seen:
        done = subprocess.run(
            command(config), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1000, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"raylet", "gcs_server"} <= {name for name, _, _ in seen.sockets}
    assert seen.beyond_loopback() == set()
    assert {f: f.stat().st_mtime for f in run.glob("generate-*/rows/*.parquet")} == generated  # all trials share them
    assert len(list(run.glob("warmup-*"))) == 1
    assert len(list(run.glob("finetune-*/training.json"))) == 2
    record = json.loads((run / "tune" / "trials.json").read_text())
    by_rate = {t["point"]["finetune.lr"]: t for t in record["trials"]}
    assert by_rate.keys() == {1e-3, 1e-5, 1e30}
    assert [by_rate[rate]["finished"] for rate in (1e-3, 1e-5, 1e30)] == [True, True, False]
    assert "not finite" in by_rate[1e30]["error"]
    assert by_rate[1e-3]["hours"] > 0
    best = max((1e-3, 1e-5), key=lambda rate: by_rate[rate]["objective"])
    assert load(run / "tune" / "best.yaml").finetune.lr == best
    assert "failed: " in (run / "tune" / "trials.md").read_text()
    assert "failed: " in done.stdout
    assert (run / "tune" / "plot.svg").read_bytes().startswith(b"<?xml")
    assert list(run.glob("tune-*/ray/search/*/events.out.tfevents*"))
    monkeypatch.chdir(tmp_path)
    again = leaml("tune", config)
    assert (again.code, "tune: finished before, reused" in again.out + again.err) == (0, True)
