"""How much of the processors other programs take while a test measures time: other tests may run beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil


@dataclass
class Crowd:
    """What was found when the block ended."""

    factor: float = 1.0
    """How many times as long work takes as it would with the processors to itself, at most 8."""


def _seconds(processes: Collection[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def crowding(ours: Collection[psutil.Process]) -> Iterator[Crowd]:
    """Measure the share of the processors that is left to `ours`: what they used, and what nobody did."""
    found, before, began = Crowd(), psutil.cpu_times(), _seconds(ours)
    yield found
    after = psutil.cpu_times()
    whole = sum(after) - sum(before)
    left = _seconds(ours) - began + (after.idle - before.idle)
    if whole > 0:
        found.factor = min(8.0, max(1.0, whole / max(left, whole / 8)))
