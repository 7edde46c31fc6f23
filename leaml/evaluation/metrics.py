"""What `metrics.json` and `calibration.json` of a run's evaluation hold.

Accuracies are shares, from 0 to 1, and their differences lie from -1 to 1.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class RowMetrics(TypedDict):
    """One row of the table of results, see `leaml.evaluation.results.summarise`; `ci95` has two ends."""

    accuracy: float
    ci95: list[float]
    n: int
    images: int
    by_type: dict[str, float]
    n_by_type: dict[str, int]
    by_template: NotRequired[dict[str, float]]
    n_by_template: NotRequired[dict[str, int]]


class Difference(TypedDict):
    """Our accuracy minus a baseline's; `p_holm` is the p-value adjusted for testing all baselines."""

    difference: float
    ci95: list[float]
    p_value: float
    p_holm: NotRequired[float]


class Comparison(TypedDict, total=False):
    """Our row against the best baseline, and in `baselines` against each; empty where nothing was compared."""

    ours: str
    best_baseline: str
    difference: float
    p_value: float
    ci95: list[float]
    baselines: dict[str, Difference]


class Metrics(TypedDict, total=False):
    """The whole file; empty before an evaluation. A run adds `label_rows`, `written` (UTC) and `model`, the evaluated step."""

    dataset: str
    labels: int
    rows: dict[str, RowMetrics]
    comparison: Comparison
    text_metrics: dict[str, dict[str, float]]
    warnings: list[str]
    label_rows: int
    written: str
    model: str


class Bin(TypedDict):
    """Answers of a reliability diagram whose confidence lies from `low` to `high`: their number and means."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


class Calibration(TypedDict, total=False):
    """`evaluation/calibration.json`, see `leaml.evaluation.calibration`; empty without log-probabilities.

    A run adds `model`, the evaluated step.
    """

    temperature: float
    ece: float | None
    ece_uncalibrated: float
    n: int
    bins: list[Bin]
    model: str
