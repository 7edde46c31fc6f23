"""The run folder: content addresses, what makes a step finished, status.json, and one process per run."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from leaml import config as tree
from leaml.errors import DataError, InputError, StepError
from pipelines import run as run_module
from pipelines.run import BackgroundTask, Run, Step

DATA = {"labeled": {"format": "easy_vqa", "split": "train"}, "evaluation": {"format": "easy_vqa", "split": "test"}}


def make_run(folder: Path, **changes: Any) -> Run:
    return Run(tree.parse({"name": "mine", "storage": str(folder), "data": DATA, **changes}))


class Work:
    """Counts its calls."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls, self.error = 0, error

    def __call__(self) -> dict[str, Any]:
        self.calls += 1
        if self.error:
            raise self.error
        return {"calls": self.calls}


def status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "mine" / "status.json").read_text())


# --- content addresses -------------------------------------------------------------------------------------------------


def test_folder_holds_the_name_and_the_hash(tmp_path: Path) -> None:
    step = make_run(tmp_path).step("score", {"ratio": 0.3}, [])
    assert step.folder == f"{tmp_path}/mine/score-{step.hash}"
    assert step.path("a", "b") == f"{step.folder}/a/b"


def test_same_settings_in_any_order_give_the_same_folder_in_any_run(tmp_path: Path) -> None:
    one = make_run(tmp_path).step("score", {"ratio": 0.3, "nested": {"a": 1, "b": 2}}, [])
    other = make_run(tmp_path, seed=7).step("score", {"nested": {"b": 2, "a": 1}, "ratio": 0.3}, [], variant="again")
    assert one.folder == other.folder


@pytest.mark.parametrize(
    "change",
    [
        lambda run, a, b: run.step("other", {"ratio": 0.3}, [a, b]),
        lambda run, a, b: run.step("score", {"ratio": 0.31}, [a, b]),
        lambda run, a, b: run.step("score", {"ratio": 0.3, "seed": 0}, [a, b]),
        lambda run, a, b: run.step("score", {"ratio": 0.3}, [a]),
        lambda run, a, b: run.step("score", {"ratio": 0.3}, [b, a]),
        lambda run, a, b: run.step("score", {"ratio": 0.3}, [a, run.step("b", {"x": 1}, [])]),
        lambda run, a, b: run.step("score", {"ratio": 0.3}, [a, b], version=2),
    ],
)
def test_every_change_gives_another_folder(tmp_path: Path, change: Callable[[Run, Step, Step], Step]) -> None:
    run = make_run(tmp_path)
    a, b = run.step("a", {}, []), run.step("b", {}, [])
    assert change(run, a, b).folder != run.step("score", {"ratio": 0.3}, [a, b]).folder


def test_another_code_version_gives_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_run(tmp_path).step("score", {}, [])
    monkeypatch.setattr(run_module, "__version__", "999")
    assert make_run(tmp_path).step("score", {}, []).folder != before.folder


def test_a_change_upstream_changes_everything_downstream(tmp_path: Path) -> None:
    run = make_run(tmp_path)

    def chain(ratio: float) -> list[Step]:
        warm = run.step("warmup", {}, [])
        scored = run.step("score", {"ratio": ratio}, [warm])
        return [warm, scored, run.step("distill", {}, [warm, scored])]

    one, other = chain(0.3), chain(0.4)
    assert [a.folder == b.folder for a, b in zip(one, other, strict=True)] == [True, False, False]


def test_variant_shares_steps_status_and_finished_work(tmp_path: Path) -> None:
    run, work = make_run(tmp_path), Work()
    view = run.variant(run.config.model_copy(update={"seed": 5}))
    run.execute(run.step("warmup", {}, []), work)
    view.execute(view.step("warmup", {}, [], variant="again"), work)
    view.execute(view.step("score", {"seed": view.config.seed}, []), Work())
    assert work.calls == 1
    assert (run.config.seed, view.config.seed) == (0, 5)
    assert [s.label for s in run.steps()] == ["warmup again", "score"]


# --- finished, failed, reused ------------------------------------------------------------------------------------------


def test_finished_step_is_reused_and_keeps_its_summary(tmp_path: Path) -> None:
    work = Work()
    for _ in range(3):
        run = make_run(tmp_path)
        step = run.execute(run.step("score", {"ratio": 0.3}, []), work)
        assert run.summary(step) == {"calls": 1}
    assert work.calls == 1
    assert status(tmp_path)["steps"][0]["state"] == "reused"
    other = Work()
    run.execute(run.step("score", {"ratio": 0.4}, []), other)
    assert other.calls == 1


def test_finished_step_holds_its_configuration_and_version(tmp_path: Path) -> None:
    run = make_run(tmp_path, seed=3)
    step = run.execute(run.step("score", {}, []), Work())
    saved = yaml.safe_load(Path(step.path("config.yaml")).read_text())
    assert saved.pop("leaml_version") == run_module.__version__
    assert tree.parse(saved) == run.config
    assert json.loads(Path(step.path("_DONE.json")).read_text())["code"] == run_module.__version__


@pytest.mark.parametrize("error", [StepError("broken"), ValueError("x"), KeyboardInterrupt()])
def test_failed_work_is_not_finished_and_is_done_again(tmp_path: Path, error: BaseException) -> None:
    run = make_run(tmp_path)
    step = run.step("score", {}, [])
    with pytest.raises(type(error)):
        run.execute(step, Work(error))
    assert not run.done(step)
    assert not Path(step.path("_DONE.json")).exists()
    ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    assert status(tmp_path)["steps"][0]["state"] == ended
    with pytest.raises(DataError, match="'score' is not finished"):
        run.summary(step)
    again = Work()
    run.execute(step, again)
    assert (again.calls, run.done(step), status(tmp_path)["steps"][0]["state"]) == (1, True, "done")


def test_summary_that_cannot_be_written_leaves_no_done(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    step = run.step("score", {}, [])
    with pytest.raises(TypeError):
        run.execute(step, lambda: {"bad": object()})
    assert not run.done(step)
    assert status(tmp_path)["steps"][0]["state"] == "failed"


def test_status_tells_every_step_in_order_and_the_running_one(tmp_path: Path) -> None:
    before = time.time()
    with make_run(tmp_path) as run:
        first, second = run.step("ingest", {}, [], variant="labeled"), run.step("caption", {}, [])
        run.execute(first, lambda: time.sleep(0.2) or {})
        seen: list[dict[str, Any]] = []
        run.execute(second, lambda: seen.append(status(tmp_path)) or {})
        assert [s["state"] for s in seen[0]["steps"]] == ["done", "running"]
        assert (seen[0]["state"], seen[0]["steps"][1]["seconds"]) == ("running", None)
        run.finish()
    found = status(tmp_path)
    assert (found["run"], found["state"]) == ("mine", "done")
    assert before <= found["updated"] <= time.time()
    assert found["steps"][0] == {
        "name": "ingest",
        "variant": "labeled",
        "round": 0,
        "label": "ingest labeled",
        "folder": f"ingest-{first.hash}",
        "state": "done",
        "seconds": pytest.approx(0.2, abs=0.15),
        "config": seen[0]["steps"][0]["config"],
        "inputs": [],
        "summary": {},
    }
    assert found["steps"][1]["folder"] == f"caption-{second.hash}"


def test_run_that_raises_is_marked_failed_and_unlocked(tmp_path: Path) -> None:
    with pytest.raises(StepError), make_run(tmp_path) as run:
        run.execute(run.step("score", {}, []), Work(StepError("broken")))
    assert status(tmp_path)["state"] == "failed"
    assert not (tmp_path / "mine" / "lock.json").exists()
    with make_run(tmp_path):
        pass


def test_entering_writes_the_configuration(tmp_path: Path) -> None:
    with make_run(tmp_path, seed=9) as run:
        saved = yaml.safe_load((tmp_path / "mine" / "config.yaml").read_text())
        assert saved.pop("leaml_version")
        assert tree.parse(saved) == run.config


# --- the lock ----------------------------------------------------------------------------------------------------------


def lock(folder: Path, pid: int, host: str | None = None, age: float = 0.0) -> Path:
    file = folder / "mine" / "lock.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"pid": pid, "host": host or socket.gethostname(), "beat": time.time() - age}))
    return file


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def live_pid() -> Any:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process.pid
    process.kill()
    process.wait()


def test_lock_of_a_living_process_is_respected(tmp_path: Path, live_pid: int) -> None:
    file = lock(tmp_path, live_pid)
    before = file.read_text()
    with pytest.raises(InputError, match=rf"pid {live_pid} on .*choose another name"), make_run(tmp_path):
        pytest.fail("entered")
    assert file.read_text() == before
    assert not (tmp_path / "mine" / "config.yaml").exists()  # the holder's stays


def test_second_run_of_the_same_process_is_refused_and_another_name_is_not(tmp_path: Path) -> None:
    with make_run(tmp_path), pytest.raises(InputError, match=str(os.getpid())), make_run(tmp_path):
        pytest.fail("entered")
    with make_run(tmp_path), make_run(tmp_path, name="other"):
        pass


def test_lock_on_another_machine_holds_while_it_beats(tmp_path: Path, dead_pid: int) -> None:
    lock(tmp_path, dead_pid, host="elsewhere", age=30)
    with pytest.raises(InputError, match="elsewhere"), make_run(tmp_path):
        pytest.fail("entered")
    lock(tmp_path, dead_pid, host="elsewhere", age=61)
    with make_run(tmp_path):
        pass


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path, dead_pid: int) -> None:
    file = lock(tmp_path, dead_pid)
    with make_run(tmp_path):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert not file.exists()


def test_lock_whose_process_hangs_or_whose_pid_is_used_again_is_taken_over(tmp_path: Path, live_pid: int) -> None:
    lock(tmp_path, live_pid, age=61)
    with make_run(tmp_path):
        pass


def test_lock_beats_while_held_and_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "HEARTBEAT", 0.02)
    file = tmp_path / "mine" / "lock.json"
    for _ in range(20):
        with make_run(tmp_path):
            first = json.loads(file.read_text())["beat"]
            deadline = time.time() + 10
            while json.loads(file.read_text())["beat"] == first:
                assert time.time() < deadline
                time.sleep(0.005)
        assert not file.exists()
    time.sleep(0.1)
    assert not file.exists()


def test_of_two_that_take_over_a_dead_lock_one_wins(tmp_path: Path, dead_pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one takes it over between our look at the old lock and our own taking."""
    file = lock(tmp_path, dead_pid)
    looked = run_module._dead

    def slow(holder: dict[str, Any]) -> bool:
        dead = looked(holder)
        if holder["pid"] == dead_pid:
            monkeypatch.setattr(run_module, "_dead", looked)
            other.enter_context(make_run(tmp_path))
        return dead

    monkeypatch.setattr(run_module, "_dead", slow)
    with ExitStack() as other:
        with pytest.raises(InputError, match=f"pid {os.getpid()} on"), make_run(tmp_path):
            pytest.fail("both entered")
        assert file.exists()
    assert not file.exists()


def test_lock_that_another_has_taken_over_at_the_same_moment_is_theirs(
    tmp_path: Path, dead_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw the dead holder; the other one removed our new lock instead of the old one."""
    file = lock(tmp_path, dead_pid)

    def meanwhile(_: float) -> None:
        lock(tmp_path, dead_pid, host="elsewhere")

    monkeypatch.setattr(run_module.time, "sleep", meanwhile)
    with pytest.raises(InputError, match="just taken this run over"), make_run(tmp_path):
        pytest.fail("both entered")
    assert json.loads(file.read_text())["host"] == "elsewhere"


def test_holder_whose_lock_was_taken_over_is_stopped(tmp_path: Path, live_pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was cut off from the storage, or its machine slept, for longer than its lock is respected.

    The other takes it over just before a beat looks: a beat that had looked before would write over the other's lock, which
    gives up then.
    """
    monkeypatch.setattr(run_module, "HEARTBEAT", 0.05)
    looked, silent, theirs = run_module.Lock._holder, threading.Event(), list[str]()

    def look(mine: run_module.Lock) -> dict[str, Any] | None:
        if silent.is_set() and not theirs:
            theirs.append(lock(tmp_path, live_pid, host="elsewhere").read_text())
        return looked(mine)

    monkeypatch.setattr(run_module.Lock, "_holder", look)
    began = time.monotonic()
    with (
        pytest.raises(StepError, match=rf"another took the run over \(pid {live_pid} on elsewhere"),
        make_run(tmp_path) as mine,
    ):
        mine.finish("running")
        status = (tmp_path / "mine" / "status.json").read_text()
        silent.set()
        time.sleep(30)
        pytest.fail("not interrupted")
    assert [(tmp_path / "mine" / "lock.json").read_text()] == theirs
    assert (tmp_path / "mine" / "status.json").read_text() == status
    assert time.monotonic() - began < 10  # also out of a call that waits


def test_work_beside_hands_on_what_it_returned_or_raised() -> None:
    gate = threading.Event()
    work = BackgroundTask(lambda: gate.wait(30) and "made")
    gate.set()
    assert work.result() == "made"

    def fail() -> None:
        msg = "no labels"
        raise InputError(msg)

    with pytest.raises(InputError, match="no labels"):
        BackgroundTask(fail).result()


def test_steps_noted_by_two_threads_are_all_in_the_status(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:

        def many(name: str) -> None:
            for number in range(30):
                run.execute(run.step(name, {"n": number}, []), dict)

        work = BackgroundTask(lambda: many("a"))
        many("b")
        work.result()
        status = json.loads(Path(run.folder, "status.json").read_text())
    assert sorted(s["name"] for s in status["steps"]) == ["a"] * 30 + ["b"] * 30


def test_a_step_names_what_it_was_made_from(tmp_path: Path) -> None:
    with make_run(tmp_path) as run:
        first = run.execute(run.step("a", {}, []), dict)
        labels = Step("labels", "", "x", "")  # known by its hash alone
        second = run.execute(run.step("b", {}, [first, labels]), dict)
        assert json.loads(Path(second.path("_DONE.json")).read_text())["inputs"] == [Path(first.folder).name]
