"""Time that a step and its engines took over all attempts, kept in its folder, so that a kill loses a few seconds of it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TypedDict

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


class Spent:
    """Images and the seconds that engines took for them, over all attempts; kept in `engines.json` beside the rows.

    A kill loses both numbers of a few seconds, so the rate stays right.
    """

    def __init__(self, output: str) -> None:
        self._file = f"{output}/engines.json"
        found = json.loads(files.read_bytes(self._file)) if files.exists(self._file) else {}
        self.images: int = found.get("images", 0)
        self.engine_seconds: float = found.get("engine_seconds", 0.0)
        self._wall: float = found.get("wall_seconds", 0.0)
        self._began = self._saved = time.time()

    @property
    def wall_seconds(self) -> float:
        return self._wall + time.time() - self._began

    def add(self, images: int, seconds: float) -> None:
        """One more shard is done."""
        self.images += images
        self.engine_seconds += seconds
        if time.time() - self._saved > EVERY:
            self.save()

    def save(self) -> None:
        """Write the numbers."""
        numbers = {"images": self.images, "engine_seconds": self.engine_seconds, "wall_seconds": self.wall_seconds}
        files.write_bytes(self._file, json.dumps(numbers).encode())
        self._saved = time.time()
