"""A run folder and its content-addressed steps.

A step's folder is `<storage>/<run>/<step>-<hash>`; the hash covers its settings, its code version and its inputs' hashes. A
step is finished when its `_DONE.json` exists, which is written last. A finished step is never redone; another setting gives
another folder.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Generic, TypedDict, TypeVar

import yaml

from leaml import __version__
from leaml.config import Config
from leaml.errors import DataError, InputError, StepError
from leaml.io import files
from leaml.run.records import CONFIG, DONE, DoneRecord, RunRecord, StepRecord, label_of, noted, read_done
from pipelines import earlier
from pipelines.clock import Clock
from pipelines.progress import say

T = TypeVar("T")

LOCK = "lock.json"
RUNNING = "running"
PARTIAL = "partial"
"""State of a run whose last command was asked for some of its steps only, and others have not been run."""
UNKNOWN = "?"
"""Hash of an input that only ingest can tell, in a plan; the hashes of what is made from it end with it."""
KEPT = "finished steps and shards are kept, and the last checkpoint of a training"
"""What a run that ends early leaves behind."""
HEARTBEAT = 10.0
"""Seconds between signs of life of the process that holds a run."""
SETTLE = 2.0
"""Seconds after which a lock that was taken over must still be ours."""


@dataclass(frozen=True)
class Step:
    """One step of one run.

    Attributes:
        name: caption, finetune, ...
        variant: What tells it from others of this name: a row of the table, the role of a source, or nothing.
        hash: Of its settings, its code version and its inputs' hashes.
        folder: Where it is; empty for what stands for a part of the data.
        round: Of the method's rounds, from 1; 0 for the last, or only, one.
        inputs: Folders, inside the run, of the steps it was made from.
        also: Further ones that its hash depends on.
    """

    name: str
    variant: str
    hash: str
    folder: str
    round: int = field(default=0, compare=False)
    inputs: tuple[str, ...] = field(default=(), compare=False)
    also: tuple[str, ...] = field(default=(), compare=False)

    @property
    def label(self) -> str:
        """For people: "finetune random_neurons"."""
        return label_of(self.name, self.variant, self.round)

    @property
    def name_of_folder(self) -> str:
        """The folder's name inside the run; empty where the step has none."""
        return self.folder.rsplit("/", 1)[-1]

    def path(self, *parts: str) -> str:
        """A file or folder inside the step's folder."""
        return files.join(self.folder, *parts)


class Run:
    """The folder of one run: makes steps, runs those that are not finished, keeps `status.json` and `config.yaml`."""

    dry = False
    """Whether steps are planned only, so that their addresses are known and what they make is not."""
    first: int | None = None
    """Images of each source that are read, to find out what is refused; None: all."""
    captioned: str | None = None
    """Key of the images to be captioned where sources are planned only and something else has told it."""

    def __init__(self, config: Config, noted: bool = True) -> None:
        """With `noted` false the process works in a run that another one holds, and leaves status.json to that."""
        self.config, self._noted = config, noted
        self.folder = files.absolute(config.run_folder)
        self._steps: dict[str, StepRecord] = {}
        self._earlier: list[StepRecord] = []
        self._tree, self._whole = self._config_tree(), ""
        self._noting = threading.Lock()
        self._state = RUNNING

    def variant(self, config: Config) -> Run:
        """The same run seen through another configuration: steps with equal settings are shared, status and lock too."""
        view = copy.copy(self)
        view.config = config
        return view

    def step(
        self,
        name: str,
        settings: Mapping[str, object],
        inputs: list[Step],
        version: int = 1,
        variant: str = "",
        round_number: int = 0,
    ) -> Step:
        """The step of these settings, inputs and `version` (of its code), hashed with its name; the others label it."""
        key = {"step": name, "code": f"{__version__}/{version}", "settings": settings, "inputs": [i.hash for i in inputs]}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:12]
        made_from = tuple(i.name_of_folder for i in inputs if i.folder)
        made_from += tuple(dict.fromkeys(folder for i in inputs for folder in i.also))
        made = Step(name, variant, digest, files.join(self.folder, f"{name}-{digest}"), round_number, made_from)
        return self._located(made, inputs)

    def _located(self, made: Step, inputs: list[Step]) -> Step:
        """The step where this run has it; a run that only looks ahead has some elsewhere."""
        return made

    def done(self, step: Step) -> bool:
        """Whether the step is finished."""
        return files.exists(step.path(DONE))

    def summary(self, step: Step) -> dict[str, object]:
        """What a finished step reported. Raises DataError when it is not finished."""
        if not self.done(step):
            msg = f"step {step.label!r} is not finished ({step.folder}); run it first"
            raise DataError(msg)
        return read_done(step.folder).summary

    def execute(self, step: Step, work: Callable[[], Mapping[str, object]]) -> Step:
        """Run `work` unless the step is finished, then mark it finished with the summary `work` returns."""
        if self.done(step):
            record = read_done(step.folder)
            self._note(step, "reused", record.seconds, record.summary)
            say(f"{step.label}: finished before, reused")
            return step

        with Clock(step.folder) as clock:
            before = f"goes on, {clock.seconds:.0f} s were spent on it before" if clock.attempts > 1 else "started"
            say(f"{step.label}: {before}")
            self._note(step, RUNNING, None)

            try:
                summary = dict(work())
                seconds = round(clock.seconds, 1)
                files.write_bytes(step.path(CONFIG), self._config_yaml())
                made = (step.name, step.variant, step.round, step.inputs, seconds, clock.attempts, __version__, summary)
                DoneRecord(*made).write(step.folder)
            except BaseException as error:
                with contextlib.suppress(DataError):  # must not hide why the step failed
                    self._note(step, _ended_by(error), clock.seconds)
                raise

        self._note(step, "done", seconds, summary)
        say(f"{step.label}: done in {seconds:.0f} s")
        return step

    def lasts(self, step: Step) -> bool:
        """Whether what the step makes stays, so that its files may be named."""
        return True

    def steps(self) -> list[StepRecord]:
        """Every step touched by this process, in order."""
        return list(self._steps.values())

    def finish(self, state: str = "done") -> None:
        """Write the final state to `status.json`; a step that still runs in a thread ends with the process.

        With `PARTIAL` the run is done all the same when the whole of it was before, and everything of that still belongs to it.
        """
        with self._noting:
            whole, kept = earlier.whole(self._tree), earlier.split(self._earlier, self.steps(), self._tree)[0]
            evaluated = any(step.is_last("evaluate") for step in (*self.steps(), *kept))
            if state == "done" and evaluated:
                self._whole = whole
            elif state == PARTIAL and evaluated and self._whole == whole:
                state = "done"
            self._state = state
            for folder, step in self._steps.items():
                if step.state == RUNNING:
                    self._steps[folder] = replace(step, state="interrupted")
            self._write_status()

    def _note(self, step: Step, state: str, seconds: float | None, summary: dict[str, object] | None = None) -> None:
        with self._noting:
            record = StepRecord(step.name, step.variant, step.round, step.name_of_folder, state)
            self._steps[step.folder] = replace(
                record,
                seconds=None if seconds is None else round(seconds, 1),
                config=earlier.digest(self._tree, record),
                inputs=step.inputs,
                summary=noted(summary or {}),
            )
            self._write_status()

    def _write_status(self) -> None:
        if not self._noted:
            return
        kept, others = earlier.split(self._earlier, self.steps(), self._tree)
        steps = (*self.steps(), *kept)
        RunRecord(self.config.name, self._state, 0.0, steps, tuple(others), self._whole).write(self.folder)

    def _config_tree(self) -> dict[str, object]:
        return {"leaml_version": __version__, **self.config.model_dump(mode="json")}

    def _config_yaml(self) -> bytes:
        return yaml.safe_dump(self._config_tree(), sort_keys=False).encode()

    def __enter__(self) -> Run:
        self._lock = Lock(files.join(self.folder, LOCK))
        self._lock.take()
        try:
            self._earlier, self._whole = earlier.read(self.folder)
            files.write_bytes(files.join(self.folder, CONFIG), self._config_yaml())
        except BaseException as error:
            self._leave(error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if self._lock.lost is not None:  # status.json is the other process's now
            raise self._lock.lost
        if error is None:
            self._lock.release()
            return
        self._leave(error)
        if isinstance(error, KeyboardInterrupt):
            error.add_note(f"{KEPT} in {self.folder} (leaml status)")

    def _leave(self, error: BaseException) -> None:
        """Ends a run that failed or was interrupted; a storage that fails as well must not hide why."""
        for end in (lambda: self.finish(_ended_by(error)), self._lock.release):
            with contextlib.suppress(DataError):
                end()


class BackgroundTask(Generic[T]):
    """Work that runs in a thread beside the caller's own; it ends with the process when the caller fails or is interrupted."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work, self._done = work, Future[T]()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._done.set_result(self._work())
        except BaseException as error:
            self._done.set_exception(error)

    def result(self) -> T:
        """Wait for the work; returns what it returned or raises what it raised."""
        return self._done.result()


class LockHolder(TypedDict):
    """Content of `lock.json`; without a token where another version wrote it."""

    pid: int
    host: str
    token: str
    beat: float


class Lock:
    """One process per run: `lock.json` with host, pid, a token and a heartbeat; a dead holder's lock is taken over.

    A holder that was cut off for so long that another took its lock over is interrupted, with the reason in `lost`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.token = uuid.uuid4().hex
        self.stop = threading.Event()
        self.lost: StepError | None = None

    def take(self) -> None:
        over = False
        while not files.write_bytes(self.uri, self._content(), if_absent=True):
            found = self._holder()
            if found is None:
                continue  # its holder has just ended
            if not _dead(found):
                msg = f"another process works on this run ({self._named(found)}); wait for it, or choose another name"
                raise InputError(msg)
            if self._holder() == found:  # else another process took it over meanwhile
                files.delete_tree(self.uri)
                over = True
        if over:
            time.sleep(SETTLE)  # another process may have found the same dead holder, and removed this lock for its own
            if (found := self._holder()) is None or found["token"] != self.token:
                msg = f"another process has just taken this run over (lock {self.uri}); wait for it, or choose another name"
                raise InputError(msg)
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()

    def __enter__(self) -> Lock:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        if self.lost is not None:  # what the lock is for is the other process's now
            raise self.lost
        self.release()

    def release(self) -> None:
        self.stop.set()
        self.thread.join()  # a beat under way would bring the lock back
        files.delete_tree(self.uri)

    def _beat(self) -> None:
        while not self.stop.wait(HEARTBEAT):
            with contextlib.suppress(DataError):  # the next beat may get through; without beats the lock is taken for dead
                found = self._holder()
                if found is not None and found["token"] != self.token:
                    self.lost = StepError(
                        f"this process was silent for more than {6 * HEARTBEAT:.0f} s and another took the run over "
                        f"({self._named(found)}); finished shards and steps are kept, the other goes on from them"
                    )
                    _interrupt_main()
                    return
                files.write_bytes(self.uri, self._content())

    def _holder(self) -> LockHolder | None:
        if not files.exists(self.uri):
            return None
        found: LockHolder = json.loads(files.read_bytes(self.uri))
        found.setdefault("token", "")
        return found

    def _named(self, holder: LockHolder) -> str:
        return f"pid {holder['pid']} on {holder['host']}, lock {self.uri}"

    def _content(self) -> bytes:
        holder: LockHolder = {"pid": os.getpid(), "host": socket.gethostname(), "token": self.token, "beat": time.time()}
        return json.dumps(holder).encode()


def _interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main thread, also out of Ray or a sleep.

    It takes a real signal, since interrupt_main would wait until such a call comes back; and one that arrives just before the
    call waits is not noticed there, so it is sent again while the main thread stays where it was.
    """
    main = threading.main_thread().ident or 0
    while (position := _position(main)) is not None:
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(1.0)
        if _position(main) != position:
            return


def _position(thread: int) -> tuple[int, int] | None:
    frame = sys._current_frames().get(thread)
    return None if frame is None else (id(frame), frame.f_lasti)


def is_held(uri: str) -> bool:
    """Whether a process that is alive, as far as can be told from here, holds the lock at `uri`."""
    if not files.exists(uri):
        return False
    try:
        return not _dead(json.loads(files.read_bytes(uri)))
    except DataError:  # released in between
        return False


def _ended_by(error: BaseException) -> str:
    """State of what ended with this error."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _dead(holder: LockHolder) -> bool:
    if time.time() - holder["beat"] > 6 * HEARTBEAT:
        return True
    if holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
