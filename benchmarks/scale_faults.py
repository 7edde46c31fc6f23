"""What is lost or made twice when something fails: for `benchmarks.scale`.

One small run of the method after the other, each with one fault, from its images to what the trainings learn from; engines and
trainings are null, ingest, Ray, the tables and the S3 server are real. A run whose driver ends is given the same command again.
Every row of every table is compared with those of a run without a fault: `lost` are rows that are missing, `duplicated` rows
that are there too often, or that the other run does not have.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

from PIL import Image

from benchmarks.image_store import server
from benchmarks.scale_fault_run import PART, PHASES, Fault, Job, driven, finished
from leaml.data import tables
from leaml.io import files

sys.path += [str(Path(__file__).parents[1] / "tests" / folder) for folder in ("", "integration")]
from faulty import Plan, Proxy
from teacher_server import Reply, completion, refusal, serving

IMAGES = 1_000
LABELED = 20
PATIENCE = 300.0
"""Seconds after which a driver is given up."""
AGAIN = 4
"""Times that a command is given, at most."""
NULL_EACH = 50
"""Of so many images the teacher says nothing about one."""


class Watching(Proxy):
    """A proxy that counts how often each object of the source is read."""

    def __init__(self, upstream: str) -> None:
        self.read = Counter[str]()
        super().__init__(upstream)

    def draw(self, method: str, path: str) -> str | None:
        if method == "GET" and (found := re.search(r"/frames/(\d+\.png)", path)):
            self.read[found[1]] += 1
        return super().draw(method, path)


@dataclass
class Ended:
    """How the attempts of a run ended.

    Attributes:
        rows: Of each table, what the run has made; empty: it was not finished.
        seconds: Of each phase in the last attempt.
        codes: Exit codes of the drivers, in order.
    """

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    codes: list[int | None] = field(default_factory=list)


class Driver:
    """A process that runs the method, once; `ended` waits for it."""

    def __init__(self, job: Job, fault: Fault) -> None:
        self._here, there = get_context("spawn").Pipe()
        self._process = get_context("spawn").Process(target=driven, args=(job, fault, there))
        self._process.start()
        there.close()

    def ended(self, into: Ended, killed: Callable[[], bool] = lambda: False) -> None:
        """Wait for its end and note it; it is killed as soon as `killed()`."""
        said: dict[str, Any] = {}
        end = time.monotonic() + PATIENCE
        with contextlib.suppress(EOFError):  # it was killed, or failed
            while not self._here.poll(0.02):
                if killed() or time.monotonic() > end:
                    self._process.kill()
            said = self._here.recv()
        self._process.join(30)
        self._process.kill()
        self._process.join()
        into.codes.append(self._process.exitcode)
        if said:
            into.rows, into.seconds = said["rows"], said["seconds"]


def attempts(job: Job, fault: Fault, killed: Callable[[], bool] = lambda: False) -> Ended:
    """The method with a fault, or with a driver that is killed at some time, then without until it is finished."""
    ended = Ended()
    Driver(job, fault).ended(ended, killed)
    while not ended.rows and len(ended.codes) < AGAIN:
        Driver(job, Fault()).ended(ended)
    return ended


def compared(expected: Mapping[str, Counter[str]], found: Mapping[str, Counter[str]]) -> dict[str, int]:
    """Rows lost, and rows duplicated or different, over all tables."""
    missing = {name: rows - found.get(name, Counter()) for name, rows in expected.items()}
    more = {name: rows - expected[name] for name, rows in found.items()}
    return {"lost": sum(map(Counter.total, missing.values())), "duplicated": sum(map(Counter.total, more.values()))}


class Faults:
    """The arms; each returns rows lost and duplicated, and what shows that its fault took place."""

    def __init__(self, bucket: str, proxy: Watching, folder: Path, images: int) -> None:
        self.bucket, self.proxy, self.folder, self.images = bucket, proxy, folder, images
        self.redone: int | None = None
        self._write_source()
        self.proxy.read.clear()
        began = time.perf_counter()
        self.undisturbed = attempts(self._job("undisturbed"), Fault())
        if len(self.undisturbed.codes) > 1 or not self.undisturbed.rows:
            msg = f"the run without a fault has failed (exit codes {self.undisturbed.codes}), see above"
            raise RuntimeError(msg)
        self.reads = Counter(self.proxy.read)
        counted = {name: rows.total() for name, rows in self.undisturbed.rows.items()}
        _say(f"without a fault: {counted} rows, {time.perf_counter() - began:.0f} s")

    def _job(self, name: str, **more: Any) -> Job:
        return Job(f"{self.bucket}/{name}", f"{self.bucket}/source", tempfile.mkdtemp(prefix="marks-", dir=self.folder), **more)

    def _write_source(self) -> None:
        """Images that are all different, and label files of the first and of the last of them."""

        def write(number: int) -> None:
            files.write_bytes(f"{self.bucket}/source/frames/{number:05d}.png", picture(number))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(self.images)))
        for role, first in (("labeled", 0), ("evaluation", self.images)):
            rows = []
            for number in range(first, first + LABELED):
                files.write_bytes(f"{self.bucket}/source/{role}/{number:05d}.png", picture(number))
                rows.append({"image": f"{role}/{number:05d}.png", "question": "What is it?", "answer": "red"})
            files.write_bytes(f"{self.bucket}/source/{role}.jsonl", "\n".join(map(json.dumps, rows)).encode())

    def _compared(self, ended: Ended) -> dict[str, Any]:
        return {**compared(self.undisturbed.rows, ended.rows), "exit_codes": ended.codes}

    def driver_killed(self, phase: str) -> dict[str, Any]:
        """The driver is killed (SIGKILL) in the middle of a phase."""
        after = self.undisturbed.seconds[phase] / 2
        ended = attempts(self._job(f"driver-{phase.replace(' ', '-')}"), Fault("driver_killed", phase, after))
        return self._compared(ended) | {"happened": ended.codes[0] == -signal.SIGKILL}

    def ingest_killed(self) -> dict[str, Any]:
        """The driver is killed when half of the images are read."""
        self.proxy.read.clear()
        ended = attempts(self._job("driver-ingest"), Fault(), killed=lambda: self.proxy.read.total() >= self.images / 2)
        self.redone = (self.proxy.read - self.reads).total()
        more = {"images_read_again": self.redone, "happened": ended.codes[0] == -signal.SIGKILL}
        return self._compared(ended) | more

    def engine(self, kind: str) -> dict[str, Any]:
        """An engine fails, or its process is killed, in the middle of captions and of pairs; the driver goes on."""
        job = self._job(kind)
        ended = attempts(job, Fault(kind))
        died = {mark.name for mark in Path(job.marks).glob("died-*")}
        return self._compared(ended) | {"happened": died == {"died-caption", "died-generate"}}

    def node_killed(self) -> dict[str, Any]:
        """One of the nodes of a cluster dies while an engine on it writes captions."""
        job = self._job("node", nodes=3)
        ended = attempts(job, Fault("node_killed", "caption"))
        return self._compared(ended) | {"happened": Path(job.marks, "node-killed").exists()}

    def two_commits_at_once(self) -> dict[str, Any]:
        """Two drivers that both take themselves for the run's owner begin at the same time; either may end with an error."""
        job, ended = self._job("two", locked=False), Ended()
        both = [Driver(job, Fault()) for _ in range(2)]
        found = [Ended() for _ in both]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda pair: pair[0].ended(pair[1]), zip(both, found, strict=True)))
        ended.codes = [code for each in found for code in each.codes]
        Driver(job, Fault()).ended(ended)  # whatever they left, the command given again must end well
        results = [self._compared(each) for each in (*found, ended) if each.rows]
        worst = {key: max(each[key] for each in results) for key in ("lost", "duplicated")}
        return worst | {"exit_codes": ended.codes, "happened": bool(ended.rows)}

    def commit_reply_lost(self) -> dict[str, Any]:
        """Of every write that makes something count the storage does it, and its reply is lost."""
        self.proxy.clear()
        self.proxy.plan = Plan(1.0, ("lost_reply",), only=r"PUT .*(/_versions/|_DONE|/rows/|/part-|\.arrow)", most=1)
        ended = attempts(self._job("reply"), Fault())
        lost = self.proxy.faults["lost_reply"]
        self.proxy.clear()
        return self._compared(ended) | {"replies_lost": lost, "happened": lost > 0}

    def teacher_429_503_null(self) -> dict[str, Any]:
        """A teacher by URL is too busy for some images at first, or still loading, and says nothing about others.

        Rows expected are those of all images that it says something about; the others must be in the quarantine.
        """
        stumbles = (refusal(429, "slow down", **{"Retry-After": "0.05"}), refusal(503, "loading"), None, None)
        nulls = set(range(0, self.images, NULL_EACH))

        def reply(body: dict[str, Any], tries: int) -> Reply:
            number = number_of(body["messages"][0]["content"])
            if tries == 1 and (first := stumbles[number % len(stumbles)]):
                return first
            return completion(None if number in nulls else f"There is a thing of number {number}.")

        with serving(reply) as teacher:
            job = self._job("teacher", teacher=teacher.url, until="caption")
            ended = attempts(job, Fault())
        described, silent = (Counter(rows) for rows in self._expected(nulls))
        expected = {"caption": described, "caption, quarantined": silent}
        found = {name: ended.rows.get(name, Counter()) for name in expected}
        asked = Counter(teacher.tries.values())
        return compared(expected, found) | {"exit_codes": ended.codes, "asked_twice": asked[2], "happened": asked[2] > 0}

    def _expected(self, nulls: set[int]) -> tuple[list[str], list[str]]:
        """Rows of captions and of the quarantine that `teacher_429_503_null` is to end with."""
        ids = {number: tables.image_id(picture(number)) for number in range(self.images)}
        described = [finished(i, f"There is a thing of number {n}.") for n, i in ids.items() if n not in nulls]
        return described, [finished(ids[number]) for number in nulls]


def picture(number: int) -> bytes:
    """A PNG whose one colour tells its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number // 65536, number // 256 % 256, number % 256)).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(content: list[dict[str, Any]]) -> int:
    """The number of the `picture` in a message to the teacher."""
    data = content[0]["image_url"]["url"].partition(",")[2]
    red, green, blue = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return int(red * 65536 + green * 256 + blue)


def arms(found: Faults) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and measurement of every arm."""
    for kind in ("engine_exception", "engine_killed"):
        yield kind, lambda kind=kind: found.engine(kind)  # type: ignore[misc]
    yield "node_killed", found.node_killed
    yield f"driver_killed: {PHASES[0]}", found.ingest_killed
    for phase in PHASES[1:]:
        yield f"driver_killed: {phase}", lambda phase=phase: found.driver_killed(phase)  # type: ignore[misc]
    for measure in (found.two_commits_at_once, found.commit_reply_lost, found.teacher_429_503_null):
        yield measure.__name__, measure


def faults(images: int = IMAGES) -> dict[str, Any]:
    """Every fault: `{name: {"lost", "duplicated", ...}}`, and the images that a killed ingest read again."""
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as place:
        proxy = Watching(os.environ["AWS_ENDPOINT_URL"])
        is_quiet = mock.patch.object(threading, "excepthook", lambda _: None)  # of connections of killed drivers
        with is_quiet, mock.patch.dict(os.environ, AWS_ENDPOINT_URL=proxy.endpoint):
            measured = Faults(f"{place.folder}/faults", proxy, Path(folder), images)
            results: dict[str, dict[str, Any]] = {}
            for name, measure in arms(measured):
                began = time.perf_counter()
                results[name] = measure()
                _say(f"{name}: {results[name]}, {time.perf_counter() - began:.0f} s")
        proxy.stop()
    return {
        "faults": results,
        "resumed_rows_redone": measured.redone,
        "rows_of_a_shard_of_ingest": PART,
        "rows_without_a_fault": {name: rows.total() for name, rows in measured.undisturbed.rows.items()},
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
