"""What steps reported when they finished (`summary` in `_DONE.json`, `training.json`), for the steps that look at it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from leaml.data.label_counts import LabelCounts
from leaml.io import files
from leaml.run.records import QUARANTINED, REJECTED


@dataclass(frozen=True)
class IngestSummary:
    """Of an ingest.

    Attributes:
        images: That can be used.
        rows: Label rows that can be used.
        seen: Images that the source has.
        quarantined: Images that cannot be used.
        labels: What became of the label rows.
        largest: Width and height of the largest images, one of each shape.
        first: Images that were looked at, where those were not all.
    """

    images: int
    rows: int
    seen: int
    quarantined: int
    labels: LabelCounts
    largest: list[tuple[int, int]]
    first: int | None

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> IngestSummary:
        """The same as plain data. Raises KeyError for that of another step."""
        return cls(
            summary["images"],
            summary["rows"],
            summary["seen"],
            summary["quarantined"],
            LabelCounts.of(summary["labels"]),
            [(width, height) for width, height in summary["largest"]],
            summary.get("first"),
        )

    def within(self, limit: float, role: str) -> bool:
        """Whether no larger share than `limit` of a source, which is read as `role`, cannot be used."""
        few = self.quarantined <= limit * max(1, self.seen)
        return few and (role == "unlabeled" or not self.labels.too_many(limit))


PROMPT_TOKENS = "prompt_tokens"
"""Tokens of the requests to a server, by its own count, which it charges for beside `tokens`, those that it wrote."""

TRAINING = "training.json"
"""In the folder of a training step: its summary as plain data."""


@dataclass(frozen=True)
class TrainingSummary:
    """Of a training.

    Attributes:
        lr: The learning rate of the final phase.
        losses: `(step, loss)` of the final phase.
        sweep: `(learning rate, accuracy)` of those that were compared.
        pseudo_pairs: Accepted pairs that it learned from; None where it had none to learn from.
    """

    lr: float
    losses: list[tuple[int, float]]
    sweep: tuple[tuple[float, float], ...]
    pseudo_pairs: int | None

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> TrainingSummary:
        """The same as plain data. Raises KeyError for that of another step."""
        return cls(
            summary["lr"],
            [(int(step), float(loss)) for step, loss in summary["losses"]],
            tuple((tried["lr"], tried["accuracy"]) for tried in summary["sweep"]),
            summary.get("pseudo_pairs"),
        )

    @classmethod
    def read(cls, folder: str) -> TrainingSummary:
        """Of the training in a step's folder. Raises DataError where there is none."""
        return cls.of(json.loads(files.read_bytes(files.join(folder, TRAINING))))


class ValidationRecord(TypedDict):
    """What a validation during a training found."""

    step: int
    accuracy: float
    loss: float


def validations_of(summary: Mapping[str, Any]) -> list[ValidationRecord]:
    """Of a training with validations on the way, the last one at its end."""
    return list(summary["validations"])


def excluded_counts(summary: Mapping[str, Any]) -> dict[str, int]:
    """Of a step that leaves images out: how many of each source."""
    return dict(summary["excluded"])


def describe(summary: Mapping[str, float]) -> str:
    """The summary in a line: images, pairs and why they were rejected, tokens, rate, what a million images would take."""
    parts = [f"{summary.get(name, 0)} {name}" for name in ("images", "quarantined", "pairs", "tokens") if summary.get(name)]
    if paid := summary.get(PROMPT_TOKENS):
        parts.append(f"{paid} tokens of requests")
    if summary.get("pairs"):
        parts.append(f"{100 * summary.get('accepted', 0) / summary['pairs']:.0f} % accepted")
    parts += [f"{n} {k}" for k, n in summary.items() if k.startswith(("captions ", "replies "))]
    for kind in (REJECTED, QUARANTINED):
        parts += [f"{n} {k}" for n, k in sorted(((n, k) for k, n in summary.items() if k.startswith(kind)), reverse=True)]
    if "images_per_engine_s" in summary:
        rate, hours = summary["images_per_engine_s"], summary["engine_hours_per_million_images"]
        parts.append(f"{rate:.1f} images/s per engine, {hours:.1f} engine-hours per million")
    if "engine_free_share" in summary:
        parts.append(f"engines had free places for {100 * summary['engine_free_share']:.0f} % of the time")
    return ", ".join(parts)
