"""What the endpoint tells about itself: Prometheus metrics and one line of JSON a request, neither with any of its content."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

log = logging.getLogger("leaml.serve")

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

_Table = dict[str, tuple[str, tuple[str, ...]]]
COUNTERS: _Table = {
    "leaml_requests": ("Requests by route and status.", ("route", "status")),
    "leaml_rejects": ("Refused requests by reason.", ("reason",)),
    "leaml_tokens": ("Tokens read (prompt) and written (reply).", ("kind",)),
    "leaml_images": ("Decoded images.", ()),
}
HISTOGRAMS: _Table = {"leaml_request_seconds": ("Time from a request's headers to its reply's end.", ("route",))}
GAUGES: _Table = {
    "leaml_receiving": ("Requests whose bodies are on their way.", ()),
    "leaml_running": ("Requests worked on.", ()),
    "leaml_waiting": ("Requests that wait to be worked on.", ()),
}


class _Exporter(Protocol):
    def add(self, name: str, value: float, labels: dict[str, str]) -> None: ...
    def set(self, name: str, value: float) -> None: ...


class EndpointMetrics:
    """Counters of this replica, for GET /metrics; `exporter` gets the same values (Ray's metrics agent, for all replicas)."""

    def __init__(self, replica: str = "", exporter: _Exporter | None = None) -> None:
        self._registry, self._exporter = CollectorRegistry(), exporter
        self._replica = replica
        self._counters = {
            name: Counter(name, text, ("replica", *labels), registry=self._registry)
            for name, (text, labels) in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(name, text, ("replica", *labels), registry=self._registry, buckets=SECONDS)
            for name, (text, labels) in HISTOGRAMS.items()
        }
        self._gauges = {
            name: Gauge(name, text, ("replica", *labels), registry=self._registry) for name, (text, labels) in GAUGES.items()
        }

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Count, or put a time into a histogram.

        Args:
            name: Key of `COUNTERS` or `HISTOGRAMS`.
            value: Added to the count; of a histogram the seconds.
            labels: All that the metric has, in the order of its declaration.
        """
        values = (self._replica, *labels.values())
        if name in HISTOGRAMS:
            self._histograms[name].labels(*values).observe(value)
        else:
            self._counters[name].labels(*values).inc(value)
        if self._exporter:
            self._exporter.add(name, value, labels)

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        self._gauges[name].labels(self._replica).set(value)
        if self._exporter:
            self._exporter.set(name, value)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; of an exception the type and the lines of code, since its message can hold a prompt."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {"time": round(record.created, 3), "level": record.levelname, "event": record.getMessage()}
        entry |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            entry["exception"] = type(record.exc_info[1]).__name__
            entry["where"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(record.exc_info[2])]
        return json.dumps(entry)


def log_json() -> None:
    """Let this process write the endpoint's log to stderr."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class AccessRecord:
    """What is known about one request, written when it ends."""

    def __init__(self, request_id: str, method: str) -> None:
        self.began = time.perf_counter()
        self.request_id, self.method = request_id, method
        self.route, self.status, self.reason = "other", 0, ""
        self.fields: dict[str, object] = {}

    def end(self, metrics: EndpointMetrics) -> None:
        """Log and count."""
        seconds = time.perf_counter() - self.began
        status = str(self.status or 499)  # nothing sent: the client went away
        metrics.add("leaml_requests", route=self.route, status=status)
        metrics.add("leaml_request_seconds", seconds, route=self.route)
        if self.reason:
            metrics.add("leaml_rejects", reason=self.reason)
        fields: dict[str, object] = {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": int(status),
        }
        fields |= {"ms": round(1000 * seconds, 1), **({"reason": self.reason} if self.reason else {}), **self.fields}
        log.info("request", extra={"fields": fields})
