"""A map step that can be watched, killed and broken from outside; its engine answers at once or after a set time."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import scripted
from scripted import MAX_PIXELS, RESOURCES, CaptionLike, ScriptedEngine, ScriptedSpec, calls, images_table, published

from leaml.data import store
from leaml.data.step_rows import StepRows
from leaml.engine.interface import Completion, Engine, Request
from pipelines.shard import make_shards
from pipelines.shards import Item, run_shards

PATIENCE = 120.0
"""Seconds after which a test gives up waiting for another process."""
EVENTS = {"driver": "marks/driver-*", "engine": "marks/engine-*", "asked": "log/*", "committed": "out/rows/*.parquet"}
"""What can be waited for, as files in a step's folder."""
STARTER = multiprocessing.get_context("forkserver")
"""Starts drivers from a process that has imported Ray: 4 s less of a processor for each."""
STARTER.set_forkserver_preload(["ray.data", "pipelines.shards"])
HURRY = "hurry"
"""The mark that lets calls of the engine take no time any more."""


@dataclass(frozen=True)
class WatchedSpec(ScriptedSpec):
    """`marks` gets a file for each engine, named by its process, with its node; a call takes `seconds`, on the node with
    the id `slow_node` `slowness` times as many."""

    marks: str = ""
    seconds: float = 0.0
    slow_node: str = ""
    slowness: float = 1.0

    def build(self) -> Engine:
        return WatchedEngine(self)


class WatchedEngine(ScriptedEngine):
    """Logs whole calls only, since it may be killed at any moment; a log's name begins with the process."""

    spec: WatchedSpec

    def __init__(self, spec: WatchedSpec) -> None:
        import ray

        super().__init__(spec)
        node = ray.get_runtime_context().get_node_id()
        self.seconds = spec.seconds * (spec.slowness if node == spec.slow_node else 1)
        Path(spec.marks, f"engine-{os.getpid()}").write_text(node)

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        call = Path(self.spec.marks, uuid.uuid4().hex)
        call.write_text(json.dumps([r.image_id for r in requests]))
        call.rename(Path(self.spec.log, f"{os.getpid()}-{call.name}"))
        if not Path(self.spec.marks, HURRY).exists():
            time.sleep(self.seconds)
        return [[Completion(text, -0.5, "stop", 3) for text in self._texts(r)] for r in requests]


class Faulty(CaptionLike):
    """From its third shard on, fails when a file of `folder` is "written" to disk or has been "published" there.

    Where `folder` is "engine", before the engine is asked. The disk is full then, or with `driver` that process and this
    worker are killed (kill -9).
    """

    def __init__(self, folder: str, moment: str, driver: int | None = None) -> None:
        self.folder, self.moment, self.driver, self.shards = folder, moment, driver, 0

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[dict[str, Any]], Counter[str]]:
        self.shards += 1
        if self.shards == 3:
            if self.folder == "engine":
                self._fail()
            sync = os.fsync

            def fail_or_sync(handle: int) -> None:
                synced = Path(f"/proc/self/fd/{handle}").readlink()  # the temporary file, then its folder with the new name
                if (self.folder, self.moment) in ((synced.parent.name, "written"), (synced.name, "published")):
                    self._fail()
                sync(handle)

            os.fsync = fail_or_sync
        return super().__call__(engine, items)

    def _fail(self) -> None:
        if self.driver is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(self.driver, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def register() -> None:
    """Workers get the tests' modules by value: the tests' folder is on no path of theirs."""
    import ray

    for module in (scripted, sys.modules[__name__]):
        ray.cloudpickle.register_pickle_by_value(module)


def drive(address: str, folder: Path, size: int, seconds: float, where: str, moment: str) -> None:
    """The driver process that is killed: joins the test's Ray, runs the step in `folder`, then waits for its death."""
    import ray

    with (folder / "driver.txt").open("wb") as text:
        for stream in (1, 2):
            os.dup2(text.fileno(), stream)
    ray.init(address=address, log_to_driver=False)
    register()
    step = Step(folder, size, seconds)
    Path(step.marks, f"driver-{os.getpid()}").touch()
    step.run(Faulty(where, moment, os.getpid()) if where else None)
    signal.pause()


class Step:
    """A folder with images, the step's output, a log of the engine's calls and marks of drivers and engines."""

    def __init__(self, folder: Path, size: int, seconds: float = 0.0) -> None:
        self.folder, self.size, self.seconds = folder, size, seconds
        self.images, self.output, self.log, self.marks = (folder / name for name in ("images", "out", "log", "marks"))
        self.refs = store.index(str(self.images))
        self.ids = [r.image_id for r in self.refs]

    @classmethod
    def make(cls, folder: Path, count: int, size: int, corrupt: tuple[int, ...] = (), seconds: float = 0.0) -> Step:
        """A step with new images in an empty folder."""
        images_table(folder / "images", count, corrupt)
        for name in ("log", "marks"):
            (folder / name).mkdir()
        return cls(folder, size, seconds)

    def run(
        self, work: Any = None, size: int | None = None, slow_node: str = "", slowness: float = 1.0, **resources: float
    ) -> dict[str, Any]:
        """The step in this process."""
        log, marks = str(self.log), str(self.marks)
        spec = WatchedSpec("x", log=log, marks=marks, seconds=self.seconds, slow_node=slow_node, slowness=slowness)
        shards = make_shards("caption", self.refs, {}, size or self.size)
        plan = RESOURCES.model_copy(update=resources)
        return run_shards("caption", shards, spec, work or CaptionLike(), str(self.output), plan, MAX_PIXELS)

    @contextlib.contextmanager
    def driver(self, where: str = "", moment: str = "") -> Iterator[BaseProcess]:
        """The step in a process of its own, killed at the latest when the context is left."""
        import ray

        arguments = (ray.get_runtime_context().gcs_address, self.folder, self.size, self.seconds, where, moment)
        process = STARTER.Process(target=drive, args=arguments, daemon=True)
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join()

    def kill_driver(self, event: str, count: int, delay: float) -> None:
        """Start a driver and kill it `delay` seconds after the `count`-th `event` since then."""
        goal = self.seen(event) + count
        with self.driver() as process:
            wait(lambda: self.seen(event) >= goal or not process.is_alive(), f"{count} x {event}")
            time.sleep(delay)
            assert process.is_alive(), self.said()
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL

    def hurry(self) -> None:
        """What was to be seen is seen; the rest of the step may take no time."""
        Path(self.marks, HURRY).touch()

    def seen(self, event: str) -> int:
        """How often an event has happened."""
        return len(list(self.folder.glob(EVENTS[event])))

    def said(self) -> str:
        """The end of the last driver's output."""
        return (self.folder / "driver.txt").read_text()[-3000:]

    @contextlib.contextmanager
    def exactly_once(self) -> Iterator[None]:
        """Whatever happens inside: no image twice, and what was committed before stays as it is and is not asked for again."""
        files, ids, asked = self.committed(), published(self.output), calls(self.log)
        yield
        self.bury_engines()
        found, after = published(self.output), calls(self.log)
        assert not {i: n for i, n in found.items() if n > 1}
        assert found.keys() <= set(self.ids)
        assert {path: path.read_bytes() for path in files} == files
        assert {i: after[i] for i in ids} == {i: asked[i] for i in ids}

    def committed(self) -> dict[Path, bytes]:
        """All files of the shards that are done."""
        done = {path.stem for path in self.output.glob("rows/*.parquet")}
        return {path: path.read_bytes() for path in self.output.glob("*/*") if path.stem in done}

    def undone(self, folder: str) -> int:
        """Number of files in `folder` whose shard is not done."""
        return len(
            {p.stem for p in self.output.glob(f"{folder}/shard*")} - {p.stem for p in self.output.glob("rows/*.parquet")}
        )

    def bury_engines(self) -> None:
        """Wait until the engines are gone: they live on for a second after their driver's death and may publish a shard."""
        for mark in self.marks.glob("engine-*"):
            process = Path("/proc", mark.name.partition("-")[2])
            wait(lambda process=process: not process.exists(), f"the end of {process}")
            mark.unlink()

    def check_finished(self, summary: dict[str, Any], corrupt: tuple[int, ...] = ()) -> None:
        """Every image is in exactly one committed file, with its own reply, and the counts are those of one run."""
        assert published(self.output) == Counter(self.ids)
        rows = StepRows(str(self.output)).columns(None).to_pylist()
        expected = [(i, f"image {n},0 sample 0 extra None") for n, i in enumerate(self.ids) if n not in corrupt]
        assert sorted((r["image_id"], r["caption"]) for r in rows) == sorted(expected)
        counts = (summary["images"], summary["quarantined"], summary["tokens"])
        assert counts == (len(expected), len(corrupt), 3 * len(expected))


def wait(condition: Any, what: str) -> None:
    """Return as soon as `condition()` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE:.0f} s in vain for {what}"
        time.sleep(0.02)
