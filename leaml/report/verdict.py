"""What the comparison with the best baseline comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from leaml.evaluation.comparisons import SIGNIFICANT
from leaml.evaluation.metrics import Metrics, RowMetrics
from leaml.report.formats import percent
from leaml.rows import rows as all_rows


@dataclass(frozen=True)
class Verdict:
    """The comparison of our row with the best baseline.

    Attributes:
        tone: "better" or "worse" where the difference is statistically significant, else "flat".
        ours: Name of our row.
        best: Name of the best baseline.
        difference: Of their accuracies, a share.
        ci95: Its interval.
        p_value: Of its test.
        accuracies: Of those of the two rows that were evaluated, by name.
        warning: Of the first row with one that our row does not exceed, and that row's accuracy; None where it exceeds all.
    """

    tone: Literal["better", "worse", "flat"]
    ours: str
    best: str
    difference: float
    ci95: Sequence[float]
    p_value: float
    accuracies: dict[str, float]
    warning: tuple[str, float] | None


def judge(metrics: Metrics) -> Verdict | None:
    """The verdict on the content of `metrics.json`; None where nothing was compared."""
    comparison, rows = metrics.get("comparison"), metrics.get("rows") or {}
    if not comparison:
        return None

    accuracies = {name: row["accuracy"] for name, row in rows.items()}
    ours, best = comparison.get("ours", "leaml"), comparison["best_baseline"]
    difference, p = comparison["difference"], comparison["p_value"]
    mine = accuracies.get(ours)
    warnings = [(row.warning, accuracies[name]) for name, row in all_rows().items() if row.warning and name in accuracies]
    return Verdict(
        tone="flat" if p >= SIGNIFICANT else "better" if difference > 0 else "worse",
        ours=ours,
        best=best,
        difference=difference,
        ci95=comparison["ci95"],
        p_value=p,
        accuracies={name: accuracies[name] for name in (ours, best) if name in accuracies},
        warning=None if mine is None else next((warning for warning in warnings if mine <= warning[1]), None),
    )


def row_notes(rows: Mapping[str, RowMetrics]) -> list[str]:
    """The notes of those rows that have one, each with its accuracy."""
    return [f"{row.note}: {percent(rows[name]['accuracy'])}." for name, row in all_rows().items() if row.note and name in rows]
