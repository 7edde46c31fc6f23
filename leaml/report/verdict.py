"""What the comparison with the best baseline comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from leaml.evaluation.comparisons import SIGNIFICANT
from leaml.evaluation.metrics import Metrics, RowMetrics
from leaml.report.formats import percent

_PRIORS = {
    "blind_prior": "Blind prior: the most common labeled answer to each question, without the image",
    "letter_prior": "Letter prior: the most common labeled letter of each question, without the image or the options' text",
    "source_prior": "Prior by source: the most common labeled answer per question and source of the image; no baseline, since "
    "no model is told the source",
}


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
        prior: Name and accuracy of the first prior that our row does not exceed; None where it exceeds all.
    """

    tone: Literal["better", "worse", "flat"]
    ours: str
    best: str
    difference: float
    ci95: Sequence[float]
    p_value: float
    accuracies: dict[str, float]
    prior: tuple[str, float] | None


def judge(metrics: Metrics) -> Verdict | None:
    """The verdict on the content of `metrics.json`; None where nothing was compared."""
    comparison, rows = metrics.get("comparison"), metrics.get("rows") or {}
    if not comparison:
        return None

    accuracies = {name: row["accuracy"] for name, row in rows.items()}
    ours, best = comparison.get("ours", "leaml"), comparison["best_baseline"]
    difference, p = comparison["difference"], comparison["p_value"]
    mine = accuracies.get(ours)
    priors = [(name, accuracies[name]) for name in _PRIORS if name in accuracies]
    return Verdict(
        tone="flat" if p >= SIGNIFICANT else "better" if difference > 0 else "worse",
        ours=ours,
        best=best,
        difference=difference,
        ci95=comparison["ci95"],
        p_value=p,
        accuracies={name: accuracies[name] for name in (ours, best) if name in accuracies},
        prior=None if mine is None else next((prior for prior in priors if mine <= prior[1]), None),
    )


def prior_notes(rows: Mapping[str, RowMetrics]) -> list[str]:
    """What the priors among the rows are and how far they go, one sentence each."""
    return [f"{text}: {percent(rows[name]['accuracy'])}." for name, text in _PRIORS.items() if name in rows]
