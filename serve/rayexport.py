"""The endpoint's metrics through Ray's metrics agent, where one scrape of a node has all its replicas."""

from __future__ import annotations

from typing import Any

from ray.serve import metrics

from pipelines.metrics import Gauges
from serve.observe import COUNTERS, GAUGES, HISTOGRAMS, SECONDS


class RayExporter:
    """Ray's metrics, which carry deployment and replica by themselves."""

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {}
        keys: Any  # Ray declares a tuple of one
        for name, (text, keys) in COUNTERS.items():
            self._metrics[name] = metrics.Counter(name, description=text, tag_keys=keys)
        for name, (text, keys) in HISTOGRAMS.items():
            self._metrics[name] = metrics.Histogram(name, description=text, boundaries=list(SECONDS), tag_keys=keys)
        for name, (text, _) in GAUGES.items():
            self._metrics[name] = metrics.Gauge(name, description=text)
        self._gauges = Gauges(lambda name, value: self._metrics[name].set(value))

    def add(self, name: str, value: float, labels: dict[str, str]) -> None:
        metric = self._metrics[name]
        if name in HISTOGRAMS:
            metric.observe(value, tags=labels)
        elif value > 0:
            metric.inc(value, tags=labels)

    def set(self, name: str, value: float) -> None:
        self._gauges.set(name, value)
