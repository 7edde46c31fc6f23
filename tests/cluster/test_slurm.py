"""The Slurm script: linted, and run for real with a stand-in for Slurm that starts both nodes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from manifests import CLUSTER

SCRIPT = CLUSTER / "slurm" / "leaml.sbatch"
BIN = Path(sys.executable).parent
STAND_INS = {
    # nodes are processes here; what srun is told about nodes is dropped, and Ray told to stay on loopback
    "srun": """while [[ $1 == --* ]]; do shift; done
        if [[ $1 == hostname ]]; then echo "127.0.0.1 "; exit; fi
        exec "$@" --object-store-memory=80000000 $([[ $* == *--head* ]] || echo --node-ip-address=127.0.0.1)""",
    "scontrol": """if [[ $1 == show ]]; then printf 'a\\nb\\n'; else echo "$@" >>"$HERE/scontrol.log"; fi""",
    "ray": f'exec {BIN / "ray"} "$@"',
    "leaml": f'exec {sys.executable} "$HERE/run.py" "$@"',
}
RUN = """
import os, sys, time
import ray
ray.init(address=sys.argv[-1].partition("=")[2], log_to_driver=False)
print("arguments", sys.argv[1:-1], "CPUs", ray.cluster_resources()["CPU"], "token", os.environ["RAY_AUTH_MODE"], flush=True)
try:
    time.sleep(float(sys.argv[3].partition("=")[2]))
except KeyboardInterrupt:
    print("left in order", flush=True)
    sys.exit(1)
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a job on two nodes with two CPUs each."""
    for name, body in STAND_INS.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/usr/bin/env bash\n{body}\n")
        file.chmod(0o755)
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "my.yaml").write_text("name: x\n")
    (tmp_path / "t").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    yield kept | {
        "HERE": str(tmp_path),
        "LEAML_BIN": str(tmp_path / "bin"),
        "LEAML_WAIT": "90",
        "TMPDIR": str(tmp_path / "t") if len(str(tmp_path)) < 30 else "/tmp",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "[a-b]",
        "SLURM_CPUS_PER_TASK": "2",
    }


def test_it_is_linted(tmp_path: Path) -> None:
    def lint(file: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(BIN / "shellcheck"), str(file)], capture_output=True, text=True, check=False, timeout=60)

    assert lint(SCRIPT).stdout == ""
    worse = tmp_path / "worse.sh"
    worse.write_text(SCRIPT.read_text().replace('rm -rf "$TEMP"', "rm -rf $TEMPORARY"))
    assert "SC2086" in lint(worse).stdout


def test_a_job_starts_all_nodes_and_leaves_nothing(slurm: dict[str, str], tmp_path: Path) -> None:
    job = subprocess.run(
        ["bash", str(SCRIPT), "my.yaml", "select.ratio=0.1", "wait=0"],
        cwd=tmp_path,
        env=slurm,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert job.returncode == 0, job.stdout + job.stderr
    assert "arguments ['adapt', 'my.yaml', 'select.ratio=0.1', 'wait=0'] CPUs 4.0 token token" in job.stdout
    assert_clean(tmp_path)
    assert not (tmp_path / "scontrol.log").exists()


def test_near_the_time_limit_it_goes_back_into_the_queue(slurm: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    with out.open("w") as stream:
        job = subprocess.Popen(
            ["bash", str(SCRIPT), "my.yaml", "wait=60"], cwd=tmp_path, env=slurm, stdout=stream, stderr=stream
        )
        until = time.time() + 100
        while "arguments" not in out.read_text() and time.time() < until and job.poll() is None:
            time.sleep(0.2)
        job.send_signal(signal.SIGUSR1)
        code = job.wait(timeout=60)
    text = out.read_text()
    assert code == 1, text
    assert "back into the queue" in text
    assert "left in order" in text
    assert (tmp_path / "scontrol.log").read_text().split() == ["requeue", str(os.getpid())]
    assert_clean(tmp_path)


def test_a_missing_configuration_starts_nothing(slurm: dict[str, str], tmp_path: Path) -> None:
    for arguments, message in (([], "usage: sbatch"), (["no.yaml"], "no.yaml does not exist")):
        job = subprocess.run(
            ["bash", str(SCRIPT), *arguments], cwd=tmp_path, env=slurm, capture_output=True, text=True, check=False, timeout=20
        )
        assert job.returncode == 2
        assert message in job.stderr
    assert_clean(tmp_path)


def assert_clean(folder: Path) -> None:
    """No process of the job and no folder of it is left."""
    until = time.time() + 20
    while left := [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("HERE") == str(folder)]:
        assert time.time() < until, [p.cmdline() for p in left if p.is_running()]
        time.sleep(0.2)
    assert not list(folder.glob(".leaml-*"))
    assert not list(folder.glob("t/leaml-*"))
    assert not list(Path("/tmp").glob(f"leaml-{os.getpid()}-*"))
