"""Numbers of the running steps for Prometheus, through the metrics endpoint that Ray has on every node.

The driver exports what it shows: it hears of every finished shard and reads the progress of training workers. Rates and shares
are left to queries (`rate(ray_leaml_step_images_total[5m])`), which the boards in cluster/grafana hold. Ray puts `ray_` before
every name and `_total` behind counters. The names here and those of serve/observe.py are all that there are; the tests compare
boards and alerts with them.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from leaml.run.records import REJECTED, by_reason
from pipelines.progress import TrainingProgress

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge

TAGS = ("run", "step", "label")
"""Of every metric: the run's name, the step (caption, score, ...) and its variant for people (`finetune random_neurons`)."""

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "leaml_step_images": ("Images whose rows are committed, by this process.", ()),
    "leaml_step_quarantined": ("Images without a result: not decoded, or without a usable reply.", ()),
    "leaml_step_tokens": ("Tokens written by engines.", ()),
    "leaml_step_pairs": ("Generated pairs by verdict: accepted, or the filter that rejected them.", ("verdict",)),
    "leaml_step_engine_seconds": ("Seconds engines worked, without their start; hours of them times a price are the cost.", ()),
    "leaml_step_engine_free_seconds": ("Of these, seconds in which engines of vLLM had places free for more sequences.", ()),
}
GAUGES: dict[str, str] = {
    "leaml_step_running": "1 while the step runs, 0 afterwards.",
    "leaml_step_done": "Images (map steps), optimizer steps (training) or examples (score) done, earlier runs' included.",
    "leaml_step_total": "How many of them there are.",
    "leaml_step_loss": "Training loss.",
    "leaml_step_steps_per_second": "Optimizer steps, or scored examples, a second.",
    "leaml_step_wait_share": "Of the time of a training, that in which its model waited for images and tensors, 0 to 1.",
    "leaml_step_peak_memory_bytes": "Most memory of the first training worker: its GPU's, or without one its process's.",
}


REFRESH = 5.0
"""Seconds after which a gauge is told again: Ray's endpoint forgets one that it has not heard of for 20."""


class Gauges:
    """Values that Ray is told, again and again by a thread of their own until they are closed."""

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        self._tell, self._now, self._stop = tell, dict[str, float](), threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)
        self._thread.start()

    def set(self, name: str, value: float) -> None:
        self._now[name] = value
        self._tell(name, value)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _refresh(self) -> None:
        while not self._stop.wait(REFRESH):
            for name, value in list(self._now.items()):
                self._tell(name, value)


class StepMetrics:
    """The metrics of one step while it runs; as a context manager it says when that is."""

    def __init__(self, folder: str, label: str) -> None:
        """`folder` is the step's, `<storage>/<run>/<step>-<hash>`."""
        run, _, step = folder.rstrip("/").rpartition("/")
        self.tags = {"run": run.rpartition("/")[2], "step": step.rpartition("-")[0] or step, "label": label}

    def __enter__(self) -> StepMetrics:
        self._gauges = Gauges(self._tell)
        self._gauges.set("leaml_step_running", 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._gauges.close()
        self._tell("leaml_step_running", 0)

    def progress(self, done: int, total: int) -> None:
        """So many of all are done."""
        self._gauges.set("leaml_step_done", done)
        self._gauges.set("leaml_step_total", total)

    def shard(self, counts: Mapping[str, int], seconds: float, free: float = math.nan) -> None:
        """One more shard, made in `seconds` of an engine, for `free` of which it had free places; nan: not known."""
        for name in ("images", "quarantined", "tokens"):
            self._add(f"leaml_step_{name}", counts.get(name, 0))
        self._add("leaml_step_engine_seconds", seconds)
        self._add("leaml_step_engine_free_seconds", free)
        if counts.get("pairs"):
            for verdict, number in (by_reason(counts, REJECTED) | {"accepted": counts.get("accepted", 0)}).items():
                self._add("leaml_step_pairs", number, verdict=verdict)

    def training(self, now: TrainingProgress) -> None:
        """What a training worker wrote into progress.json."""
        speed, memory = now.get("steps_per_s"), now.get("peak_memory")
        values = {"loss": now.get("loss"), "steps_per_second": speed, "peak_memory_bytes": memory}
        values["wait_share"] = now.get("wait_share")
        for name, value in values.items():
            if value is not None:
                self._gauges.set(f"leaml_step_{name}", value)

    def _tell(self, name: str, value: float) -> None:
        if _ray_runs():
            _gauge(name).set(value, self.tags)

    def _add(self, name: str, value: float, **more: str) -> None:
        if value > 0 and _ray_runs():  # Ray's counters refuse 0
            _counter(name).inc(value, self.tags | more)


def _ray_runs() -> bool:
    import ray

    return bool(ray.is_initialized())


@functools.cache
def _gauge(name: str) -> Gauge:
    from ray.util.metrics import Gauge

    return Gauge(name, GAUGES[name], tag_keys=TAGS)


@functools.cache
def _counter(name: str) -> Counter:
    from ray.util.metrics import Counter

    text, more = COUNTERS[name]
    return Counter(name, text, tag_keys=(*TAGS, *more))
