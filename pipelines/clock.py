"""Time that a step and its engines took over all attempts, kept in its folder, so that a kill loses a few seconds of it."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from typing import TypedDict

from leaml.engine.interface import Occupied
from leaml.errors import DataError
from leaml.io import files

FILE = "time.json"
EVERY = 10.0
"""Seconds between two writes of the file."""


class ClockRecord(TypedDict):
    """Content of `time.json`."""

    seconds: float
    attempts: int


class Clock:
    """`with Clock(folder) as clock:` counts on from earlier attempts; a thread writes how far it is."""

    def __init__(self, folder: str) -> None:
        self._file = files.join(folder, FILE)
        before: ClockRecord = (
            json.loads(files.read_bytes(self._file)) if files.exists(self._file) else {"seconds": 0.0, "attempts": 0}
        )
        self.attempts = int(before["attempts"]) + 1
        self._before = float(before["seconds"])
        self._stop = threading.Event()

    @property
    def seconds(self) -> float:
        """Of this attempt and those before."""
        return self._before + time.time() - self._began

    def __enter__(self) -> Clock:
        self._began = time.time()
        self._write()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._write()

    def _beat(self) -> None:
        while not self._stop.wait(EVERY):
            self._write()

    def _write(self) -> None:
        content: ClockRecord = {"seconds": round(self.seconds, 1), "attempts": self.attempts}
        with contextlib.suppress(DataError):  # the step itself will say what is wrong with the storage
            files.write_bytes(self._file, json.dumps(content).encode())


class EngineClock:
    """Seconds in which an engine's process had work, in whatever number of threads, and in which the engine had free places."""

    def __init__(self, engine: object) -> None:
        self._engine = engine if isinstance(engine, Occupied) else None
        self._lock, self._working, self._counted, self._full = threading.Lock(), 0, 0.0, 0.0

    def begin(self) -> None:
        """A thread has work."""
        with self._lock:
            self._counted = self._counted if self._working else time.time()
            self._working += 1

    def end(self) -> tuple[float, float]:
        """A thread has none any more.

        Returns:
            Seconds with work since it was last asked, and those of them with free places; nan where the engine does not say.
        """
        with self._lock:
            self._working -= 1
            now = time.time()
            seconds, self._counted = now - self._counted, now
            if self._engine is None:
                return seconds, math.nan
            full = self._engine.full_seconds
            free, self._full = max(0.0, seconds - (full - self._full)), full
            return seconds, free


class Spent:
    """Images and the seconds that engines took for them, over all attempts; kept in `engines.json` beside the rows.

    A kill loses both numbers of a few seconds, so the rate stays right.
    """

    def __init__(self, output: str) -> None:
        self._file = f"{output}/engines.json"
        found = json.loads(files.read_bytes(self._file)) if files.exists(self._file) else {}
        self.images: int = found.get("images", 0)
        self.engine_seconds: float = found.get("engine_seconds", 0.0)
        self.free_seconds: float = found.get("free_seconds", math.nan if self.engine_seconds else 0.0)
        self._wall: float = found.get("wall_seconds", 0.0)
        self._began = self._saved = time.time()

    @property
    def wall_seconds(self) -> float:
        return self._wall + time.time() - self._began

    @property
    def free_share(self) -> float | None:
        """Of the engines' time, the share in which they had free places; None: not known."""
        if math.isnan(self.free_seconds) or not self.engine_seconds:
            return None
        return self.free_seconds / self.engine_seconds

    def add(self, images: int, seconds: float, free: float) -> None:
        """One more shard is done."""
        self.images += images
        self.engine_seconds += seconds
        self.free_seconds += free
        if time.time() - self._saved > EVERY:
            self.save()

    def save(self) -> None:
        """Write the numbers."""
        numbers = {"images": self.images, "engine_seconds": self.engine_seconds, "wall_seconds": self.wall_seconds}
        if self.free_share is not None:
            numbers["free_seconds"] = self.free_seconds
        files.write_bytes(self._file, json.dumps(numbers).encode())
        self._saved = time.time()
