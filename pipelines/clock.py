"""Time that a step has taken over all its attempts, kept in its folder, so that a kill loses a few seconds of it at most."""

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
