"""Progress with rate and time to go: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import NotRequired, TypedDict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FILE_WIDTH = 200
"""Columns of a table where there is no terminal: a file or a log has no width of 80 that its cells must be broken for."""
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else FILE_WIDTH)
PROGRESS = "progress.json"
"""In the folder of a running training: its latest metrics."""
LINE_EVERY = 15.0
"""Seconds between progress lines where there is no terminal."""
WAITING = 0.05
"""Share of the time for which a model may wait for its input without a word."""


class TrainingProgress(TypedDict):
    """Content of `progress.json`: `step` of the `steps` of a `phase` of `phases`, bytes of memory, and the share of the time in
    which the model waited for its input."""

    step: int
    steps: int
    steps_per_s: float
    phase: NotRequired[int]
    phases: NotRequired[int]
    loss: NotRequired[float]
    wait_share: NotRequired[float]
    peak_memory: NotRequired[int]


def note_of(now: TrainingProgress) -> str:
    """What a bar says beside the rate: the loss, and that the model waits where it does."""
    notes = [f"loss {now['loss']:.3f}"] if "loss" in now else []
    if now.get("wait_share", 0.0) >= WAITING:
        notes.append(f"waits {100 * now['wait_share']:.0f} % of the time for its input (resources.train_inputs)")
    return ", ".join(notes)


def say(message: str) -> None:
    """One line about what happens now, with the time of day."""
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {message}")
    sys.stdout.flush()


def warn(message: str) -> None:
    """One line about something that the reader should know before trusting a number."""
    console.print(f"warning: {message}", style="yellow", markup=False)
    sys.stdout.flush()


_live: list[Progress] = []
"""The bars shown on the terminal now: none, or one display that all open bars share."""
_open = 0
_lock = threading.Lock()


def _join_live() -> Progress:
    """The shared display, started with its first bar."""
    global _open
    with _lock:
        _open += 1
        if not _live:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
            _live.append(Progress(*columns, TimeRemainingColumn(), console=console, transient=True))
            _live[0].start()
        return _live[0]


def _leave_live() -> None:
    """Stop the shared display with its last bar."""
    global _open
    with _lock:
        _open -= 1
        if not _open:
            _live.pop().stop()


class Bar:
    """`with Bar("caption", 4000, "images") as bar: bar.update(done)`; prints rate and ETA; none without a total (0)."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.first = label, total, unit, done
        self.done = done
        self.started = self.printed = time.time()
        self.live: Progress | None = None

    def __enter__(self) -> Bar:
        if console.is_terminal:
            self.live = _join_live()
            self.task = self.live.add_task(self.label, total=self.total or None, completed=self.done, rate="")
        return self

    def begin(self, done: int, total: int | None = None) -> None:
        """Measure the rate from here on: earlier work was another run's, or start-up. `total` replaces the first one."""
        self.first, self.started = done, time.time()
        if total is not None:
            self.total = total
            if self.live is not None:
                self.live.update(self.task, total=total or None)

    def update(self, done: int, note: str = "") -> None:
        """Set the number done so far; `note` is shown beside the rate."""
        self.done = done
        now = time.time()
        rate = (done - self.first) / max(1e-6, now - self.started)
        text = f"{rate:.1f} {self.unit}/s {note}" if rate > 0 else note
        if self.live is not None:
            self.live.update(self.task, completed=done, rate=text)
        elif now - self.printed >= LINE_EVERY and done:
            self.printed = now
            left = f" ETA {(self.total - done) / rate:.0f} s" if rate > 0 and self.total else ""
            whole = f"/{self.total}" if self.total else ""
            say(f"{self.label}: {done}{whole} {text}{left}")

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.remove_task(self.task)
            _leave_live()
