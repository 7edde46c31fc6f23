"""The endpoint's metrics through Ray's metrics agent, where one scrape of a node has all its replicas."""

from __future__ import annotations

from typing import cast

from ray.serve import metrics

from pipelines.metrics import Gauges
from serve.observe import COUNTERS, GAUGES, HISTOGRAMS, SECONDS


class RayExporter:
    """Ray's metrics, which carry deployment and replica by themselves."""

    def __init__(self) -> None:
        self._counters: dict[str, metrics.Counter] = {}
        self._histograms: dict[str, metrics.Histogram] = {}
        for name, (text, keys) in COUNTERS.items():
            self._counters[name] = metrics.Counter(name, description=text, tag_keys=_declared(keys))
        for name, (text, keys) in HISTOGRAMS.items():
            bounds = list(SECONDS)
            self._histograms[name] = metrics.Histogram(name, text, boundaries=bounds, tag_keys=_declared(keys))
        told = {name: metrics.Gauge(name, description=text) for name, (text, _) in GAUGES.items()}
        self._gauges = Gauges(lambda name, value: told[name].set(value))

    def add(self, name: str, value: float, labels: dict[str, str]) -> None:
        """Count, or put a time into a histogram; as `EndpointMetrics.add`.

        Args:
            name: Key of `COUNTERS` or `HISTOGRAMS`.
            value: Added to the count, 0 left out; of a histogram the seconds.
            labels: Values by name.
        """
        if name in HISTOGRAMS:
            self._histograms[name].observe(value, tags=labels)
        elif value > 0:
            self._counters[name].inc(value, tags=labels)

    def set(self, name: str, value: float) -> None:
        self._gauges.set(name, value)


def _declared(keys: tuple[str, ...]) -> tuple[str]:
    """The keys as Ray declares them, a tuple of one; it takes any number."""
    return cast(tuple[str], keys)
