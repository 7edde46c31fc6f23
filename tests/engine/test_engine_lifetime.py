"""The engine core and its asker end together, whichever is killed; here with plain processes, tests/serve has the real ones."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points

import psutil
import pytest

from leaml.engine import lifetime

ASKER = """
import multiprocessing, sys, time
from leaml.engine import lifetime

def core():
    lifetime.die_with_parent()
    print("watches", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=core, daemon=True)
    child.start()
    let_die = lifetime.die_with_children()
    print(child.pid, flush=True)
    sys.stdin.readline()
    if sys.argv[1] == "close":
        let_die()
        child.kill()
        child.join()
        print("closed", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def asker(tmp_path):
    """Starts the script above; gives the process and its core's pid."""
    file = tmp_path / "asker.py"
    file.write_text(ASKER)
    started = []

    def start(argument, dies="1"):
        environment = os.environ | {lifetime.DIES: dies}
        process = subprocess.Popen(
            [sys.executable, str(file), argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        started.append(process)
        core = int(process.stdout.readline())
        assert process.stdout.readline() == "watches\n"
        return process, core

    yield start
    for process in started:
        process.kill()
        process.wait(30)


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_core_ends_with_its_asker(asker):
    process, core = asker("stay")
    assert psutil.pid_exists(core)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    gone = time.time() + 10
    while psutil.pid_exists(core) and time.time() < gone:
        time.sleep(0.1)
    assert not psutil.pid_exists(core)


def test_core_outlives_its_asker_unless_told(asker):
    process, core = asker("stay", dies="0")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    time.sleep(1)
    assert psutil.pid_exists(core)
    os.kill(core, signal.SIGKILL)


def test_asker_ends_with_its_core(asker):
    process, core = asker("stay")
    os.kill(core, signal.SIGKILL)
    assert process.wait(10) == 1


def test_an_asker_outlives_a_core_that_it_ends_on_purpose(asker):
    process, core = asker("close")
    go_on(process)
    assert process.stdout.readline() == "closed\n"
    time.sleep(1)
    go_on(process)
    assert process.wait(60) == 0
    assert not psutil.pid_exists(core)


def test_an_asker_that_ends_by_itself_does_not_fail(asker):
    process, core = asker("end")
    go_on(process)
    assert process.wait(60) == 0
    assert not psutil.pid_exists(core)


def _core_that_dies():
    os.environ[lifetime.DIES] = "1"
    lifetime.die_with_parent()
    try:
        msg = "CUDA error: out of memory"
        raise RuntimeError(msg)
    except RuntimeError:
        logging.getLogger("vllm.v1.engine.core").exception("EngineCore encountered a fatal error.")


def test_a_core_leaves_its_last_words():
    last_words = lifetime.listen()
    assert last_words() == ""
    core = multiprocessing.get_context("spawn").Process(target=_core_that_dies)
    core.start()
    core.join(60)
    assert last_words() == "RuntimeError: CUDA error: out of memory"
    os.environ.pop(lifetime.LAST_WORDS)


def test_vllm_finds_the_watch():
    found = {entry.name: entry.load() for entry in entry_points(group="vllm.general_plugins")}
    assert found["leaml_die_with_parent"] is lifetime.die_with_parent
