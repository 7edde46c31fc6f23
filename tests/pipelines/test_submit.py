"""`leaml adapt --submit` against a real cluster with a token: upload, log, exit codes, going away and coming back."""

from __future__ import annotations

import http.server
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_cluster import BIN, free_port, head

from leaml.config import Config
from pipelines import submit

TOKEN = "0123456789abcdef0123456789abcdef"
STAND_IN = """
import os, pathlib, sys, time, yaml
config = yaml.safe_load(pathlib.Path(sys.argv[2]).read_text())
print("command", sys.argv[1:2] + sys.argv[3:], "ratio", config["select"]["ratio"], "storage", config["storage"], flush=True)
print("tree", sorted(str(p) for p in pathlib.Path(".").rglob("*") if p.is_file() and "__pycache__" not in str(p)), flush=True)
marker = pathlib.Path(config["storage"], config["name"])
if config["name"] == "fails":
    sys.exit("no colour for you")
number = 0
while config["name"] == "waits" and not marker.exists():
    print("tick", number, flush=True)
    number += 1
    time.sleep(0.2)
print("the end", flush=True)
"""
"""Takes the place of pipelines/cli.py in the tree that travels, so that a job costs seconds."""


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A folder with a short name: the paths of Ray's sockets have a limit."""
    folder = Path(tempfile.mkdtemp(prefix="ls-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def environment(base: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{BIN}:{os.environ['PATH']}"  # of the jobs too: the cluster has leaml installed
    return kept | {
        "PATH": path,
        "TMPDIR": str(base),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture(scope="module")
def address(environment: dict[str, str]) -> Iterator[str]:
    """The dashboard of a cluster of this module's own, which asks for a token."""
    with head(environment) as dashboard:
        yield dashboard


@dataclass
class Tree:
    """A working tree with a stand-in for the command, and the way to submit from it."""

    folder: Path
    environment: dict[str, str]
    address: str

    def write(self, **changes: Any) -> None:
        source = {"format": "jsonl", "path": "data/rows.jsonl"}
        config = {"name": "x", "storage": "results", "data": {"labeled": source, "evaluation": source}}
        (self.folder / "my.yaml").write_text(yaml.safe_dump(config | changes))

    def start(self, *arguments: str, **variables: str | None) -> subprocess.Popen[str]:
        chosen = {name: value for name, value in (self.environment | variables).items() if value is not None}
        return subprocess.Popen(
            [str(BIN / "leaml"), "adapt", "my.yaml", *arguments, "--submit", self.address],
            cwd=self.folder,
            env=chosen,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **variables: str | None) -> tuple[int, str, str]:
        process = self.start(*arguments, **variables)
        try:
            out, err = process.communicate(timeout=140)
        finally:
            process.kill()
        return process.returncode, out, err


@pytest.fixture
def tree(base: Path, environment: dict[str, str], address: str) -> Iterator[Tree]:
    folder = Path(tempfile.mkdtemp(prefix="tree-", dir=base))
    for name, text in {
        "pipelines/__init__.py": "",
        "pipelines/cli.py": STAND_IN,
        "data/rows.jsonl": "{}\n",
        "runs/large.bin": "x" * 1000,
        ".venv/lib.py": "",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    found = Tree(folder, environment, address)
    found.write()
    until = time.time() + 60
    while True:  # the first test waits for the dashboard
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))):
                break
        assert time.time() < until
        time.sleep(0.2)
    yield found


def test_a_run_travels_and_its_log_comes_back(tree: Tree) -> None:
    code, out, err = tree.run("select.ratio=0.125")
    assert (code, err) == (0, ""), out + err
    assert f"command ['adapt', 'resources.address=auto'] ratio 0.125 storage {tree.folder / 'results'}" in out
    assert "tree ['data/rows.jsonl', 'my.yaml', 'pipelines/__init__.py', 'pipelines/cli.py']" in out
    assert out.index("submitted as job leaml-x-") < out.index("command") < out.index("the end") < out.index("is done; results:")


def test_who_goes_away_finds_the_job_again(tree: Tree) -> None:
    tree.write(name="waits")
    first = tree.start()
    wait_for(first, "tick 1")
    first.send_signal(signal.SIGINT)
    assert first.wait(30) == 130
    assert first.stdout is not None
    assert first.stderr is not None
    err = first.stderr.read()  # not communicate(): it forgets what the iteration has read ahead
    (job,) = re.findall(r"^interrupted; job (leaml-waits-\w{8}-1) runs on; .*; the same command goes on$", err, re.M)
    assert f"ray job stop --address {tree.address} {job}" in err
    assert "Traceback" not in err

    second = tree.start()
    assert "tick 0" in wait_for(second, "tick 4")  # from the beginning
    second.kill()  # as a laptop that is closed
    second.wait()

    code, _, err = tree.run("select.ratio=0.5")
    assert code == 2
    assert f"job {job} works on this run with another configuration" in err

    third = tree.start()
    text = wait_for(third, "tick 6")
    assert f"job {job} works on this run already" in text
    (tree.folder / "results").mkdir()
    (tree.folder / "results" / "waits").touch()
    text += wait_for(third, f"job {job} is done")
    assert third.wait(30) == 0
    ticks = re.findall(r"tick (\d+)", text)
    assert ticks == [str(n) for n in range(len(ticks))]  # each line once


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """What the process has written up to the line with `text`."""
    assert process.stdout is not None
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    lines = ""
    for line in process.stdout:
        lines += line
        if text in line:
            watchdog.cancel()
            return lines
    pytest.fail(f"no {text!r} in:\n{lines}\n{process.stderr.read() if process.stderr else ''}")


def test_a_failed_job_says_where_its_log_is_and_can_be_submitted_again(tree: Tree) -> None:
    tree.write(name="fails")
    code, out, err = tree.run()
    assert code == 1
    assert "no colour for you" in out
    (job,) = re.findall(r"error: job (leaml-fails-\w{8}-1) failed", err)
    assert f"ray job logs --address {tree.address} {job}" in err

    # the installed command refuses a data file that is nowhere, which is bad input here too
    source = {"format": "jsonl", "path": "/nowhere/rows.jsonl"}
    tree.write(name="fails", data={"labeled": source, "evaluation": source})
    code, out, err = tree.run("--from-image")
    assert code == 2, out + err
    assert "error: data.labeled: /nowhere/rows.jsonl does not exist" in out
    assert f"job {job[:-1]}2 refused its input. log: ray job logs" in err


def test_storage_of_this_machine_is_refused_elsewhere(tree: Tree, tmp_path: Path) -> None:
    """With another folder for temporary files, the cluster's session is not found on this machine."""
    code, _, err = tree.run(TMPDIR=str(tmp_path))
    assert code == 2
    assert f"storage {tree.folder / 'results'} is a folder, and the cluster" in err
    assert "s3://bucket/prefix" in err


class Elsewhere:
    address, here = "http://10.0.0.1:8265", False


class Here(Elsewhere):
    here = True


@pytest.mark.parametrize(
    ("cluster", "storage", "shared", "seen"),
    [
        (Elsewhere, "s3://bucket/runs", False, "s3://bucket/runs"),
        (Elsewhere, "/mnt/leaml/run", True, "/mnt/leaml/run"),
        (Here, "/tmp/runs", False, "/tmp/runs"),
        (Here, "runs", False, str(Path("runs").resolve())),
        (Elsewhere, "/mnt/leaml/run", False, None),
        (Elsewhere, "runs", True, None),
    ],
)
def test_where_a_job_finds_the_storage(cluster: Any, storage: str, shared: bool, seen: str | None) -> None:
    source = {"format": "easy_vqa"}
    config = Config.model_validate({"storage": storage, "data": {"labeled": source, "evaluation": source}})
    if seen is not None:
        assert submit._storage(config, cluster(), shared) == seen
        return
    with pytest.raises(submit.InputError, match="each node would write to a disk of its own"):
        submit._storage(config, cluster(), shared)


def test_a_token_is_asked_for(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(submit.ResourceError, match="asks for a token; set RAY_AUTH_TOKEN"):
        submit.Cluster(tree.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 32)
    with pytest.raises(submit.ResourceError, match="does not take this token") as refused:
        submit.Cluster(tree.address)
    assert "f" * 32 not in str(refused.value)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tree.folder / "token"))
    with pytest.raises(submit.InputError, match="cannot read the token"):
        submit.Cluster(tree.address)
    (tree.folder / "token").write_text(TOKEN + "\n")
    assert submit.Cluster(tree.address).client.list_jobs() is not None


def test_an_address_without_a_cluster_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(submit.ResourceError, match=f"no Ray cluster answers at http://{address}"):
        submit.Cluster(address)
    with pytest.raises(submit.InputError, match="give the address of Ray's dashboard"):
        submit.Cluster("ray://127.0.0.1:10001")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(submit.ResourceError, match=r"is not Ray's dashboard \(it answers 404\)"):
            submit.Cluster(f"http://127.0.0.1:{other.server_port}")
        other.shutdown()


def test_logs_are_quiet_only_while_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    config = Config.model_validate({"data": {"labeled": {"format": "easy_vqa"}, "evaluation": {"format": "easy_vqa"}}})
    with pytest.raises(submit.ResourceError, match="no Ray cluster answers"):
        submit.submit(config, f"127.0.0.1:{free_port()}")
    with caplog.at_level("INFO"):
        logging.getLogger("anything").info("said")
    assert "said" in caplog.text


def test_another_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reply:
        status_code = 200

        def json(self) -> dict[str, str]:
            return {"ray_version": "2.9.0", "session_name": "session_x"}

    monkeypatch.setattr(submit.requests, "get", lambda *a, **k: Reply())
    with pytest.raises(submit.ResourceError, match=r"has Ray 2\.9\.0, this LEAML needs 2\.60"):
        submit.Cluster("http://127.0.0.1:8265")
