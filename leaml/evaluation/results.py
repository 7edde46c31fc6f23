"""From predictions to `metrics.json`: accuracy with intervals per row, and the comparison with the best baseline."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from leaml.data import tables
from leaml.errors import DataError
from leaml.evaluation import resampling
from leaml.evaluation.metrics import Comparison, Difference, Metrics, RowMetrics
from leaml.evaluation.templates import templates
from leaml.rows import names_of
from leaml.text import scoring

UNTYPED = "untyped"
"""Name in `by_type` of questions without a type, where others have one."""
_DIGITS = 6


def judged(row: Mapping[str, Any], prediction: str, logprob: float | None = None) -> tables.Prediction:
    """A prediction row (without image id) with its verdict.

    Args:
        row: Its `question`, and where it has them `answer`, `question_type` and `options`.
        prediction: The reply to judge.
        logprob: Sum of natural log-probabilities over the reply's tokens; None: not a model's.

    Returns:
        `correct` is None where `row` has no answer.
    """
    answer, kind = row.get("answer"), row.get("question_type")
    return {
        "question": row["question"],
        "answer": answer,
        "prediction": prediction,
        "correct": None if answer is None else scoring.is_correct(prediction, answer, kind, row.get("options")),
        "question_type": kind,
        "logprob": logprob,
    }


def evaluate(rows: Iterable[Mapping[str, Any]], resamples: int = 2000, seed: int = 0) -> RowMetrics:
    """Accuracy of answers from anywhere, scored and summarised as a run does it.

    Args:
        rows: One mapping a question: `image_id` (any name of the image; answers about one image are one cluster), `question`,
            `answer` (the right one), `prediction`, and where there are some `options` (list of texts) and `question_type`.
        resamples: Bootstrap draws (over images) behind the interval.
        seed: Seed of the draws.

    Returns:
        As `summarise`.

    Raises:
        DataError: No rows, or one that lacks a key or an answer; it says which.
    """
    made = []
    for number, row in enumerate(rows, 1):
        missing = [key for key in ("image_id", "question", "answer", "prediction") if row.get(key) is None]
        if missing:
            msg = f"row {number} has no {' and no '.join(missing)}; it has {', '.join(map(str, row)) or 'nothing'}"
            raise DataError(msg)
        made.append({"image_id": str(row["image_id"]), **judged(row, str(row["prediction"]))})
    return summarise(tables.table(made, tables.PREDICTIONS), resamples, seed)


def summarise(predictions: pa.Table, resamples: int = 2000, seed: int = 0) -> RowMetrics:
    """Accuracy of one row of the results.

    Args:
        predictions: Table of schema `tables.PREDICTIONS`, one row per question.
        resamples: Bootstrap draws (over images) behind the interval.
        seed: Seed of the draws.

    Returns:
        `accuracy`, `ci95` (two ends), `n` (questions), `images`, `by_type` (accuracy per question type, in alphabetical order;
        empty when no question has a type) and `n_by_type` (questions of each). Without types `by_template` and `n_by_template`
        are the same for the templates of the questions (`leaml.evaluation.templates`). Accuracies lie between 0 and 1.

    Raises:
        DataError: No predictions, or some are not scored.
    """
    correct, images = _scored(predictions, "predictions")
    types = np.array([kind or UNTYPED for kind in predictions["question_type"].to_pylist()])
    typed = set(types) != {UNTYPED}
    by_type, n_by_type = _broken_down(correct, types if typed else types[:0])
    found: RowMetrics = {
        "accuracy": round(float(correct.mean()), _DIGITS),
        "ci95": _rounded(resampling.bootstrap_interval(correct, images, resamples, seed)),
        "n": len(correct),
        "images": len(set(images)),
        "by_type": by_type,
        "n_by_type": n_by_type,
    }
    if not typed:
        questions = predictions["question"].to_pylist()
        template_of = templates(questions)
        kinds = np.array([template_of[question] for question in questions])
        found["by_template"], found["n_by_template"] = _broken_down(correct, kinds)
    return found


def _broken_down(correct: np.ndarray, kinds: np.ndarray) -> tuple[dict[str, float], dict[str, int]]:
    """Accuracy and number of questions of each kind; `kinds` is (n,) or empty."""
    names = sorted(set(kinds))
    accuracies = {str(name): round(float(correct[kinds == name].mean()), _DIGITS) for name in names}
    return accuracies, {str(name): int((kinds == name).sum()) for name in names}


def compare(
    metrics_rows: Mapping[str, RowMetrics],
    predictions_by_row: Mapping[str, pa.Table],
    ours: str = "leaml",
    baselines: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    permutations: int = 10_000,
) -> Comparison:
    """Compare one row with every baseline that was run, on the same questions.

    Args:
        metrics_rows: `summarise` of each row; the best baseline is the one with the highest accuracy here.
        predictions_by_row: Predictions of each row, in any order.
        ours: The row that claims to be better.
        baselines: Rows it must beat, None for all of this role; those that were not run are left out.
        resamples: Bootstrap draws behind the intervals.
        seed: Seed of draws and permutations.
        permutations: Sign flips behind the p-values.

    Returns:
        `ours`, `best_baseline`, and against it `difference` (accuracy of ours minus its), `ci95` of the difference (cluster
        bootstrap over images) and `p_value` (paired permutation test over images). `baselines` holds the same per
        baseline, with `p_holm`, the p-value adjusted for testing all of them.

    Raises:
        DataError: A row is missing, no baseline was run, or two rows answer different questions.
    """
    rivals = names_of("baseline") if baselines is None else baselines
    run = [name for name in rivals if name in metrics_rows and name != ours]
    missing = [name for name in (ours, *run) if name not in predictions_by_row]
    if not run or missing:
        msg = f"cannot compare {ours!r}: baselines run: {run or 'none'}; rows without predictions: {missing or 'none'}"
        raise DataError(msg)

    mine = _sorted(predictions_by_row[ours])
    against: dict[str, Difference] = {}
    for name in run:
        other = _sorted(predictions_by_row[name])
        _check_same_questions(mine, other, ours, name)
        a, images = _scored(mine, ours)
        b, _ = _scored(other, name)
        against[name] = {
            "difference": round(float(a.mean() - b.mean()), _DIGITS),
            "ci95": _rounded(resampling.bootstrap_interval(a - b, images, resamples, seed)),
            "p_value": resampling.paired_permutation_test(a, b, images, permutations, seed),
        }

    for name, adjusted in resampling.holm({name: found["p_value"] for name, found in against.items()}).items():
        against[name]["p_holm"] = adjusted
    best = max(run, key=lambda name: metrics_rows[name]["accuracy"])
    return {
        "ours": ours,
        "best_baseline": best,
        "difference": against[best]["difference"],
        "p_value": against[best]["p_value"],
        "ci95": against[best]["ci95"],
        "baselines": against,
    }


def metrics_json(
    dataset: str,
    labels: int,
    rows: Mapping[str, RowMetrics],
    comparison: Comparison | None = None,
    text: Mapping[str, Mapping[str, float]] | None = None,
    warnings: Sequence[str] = (),
) -> Metrics:
    """The content of `evaluation/metrics.json`.

    Args:
        dataset: Name of the evaluation data.
        labels: Number of labeled images used.
        rows: `summarise` of each row by name.
        comparison: `compare`, left out when None.
        text: `textmetrics.text_metrics` of each row by name, as key `text_metrics`; left out when None.
        warnings: Where the comparison means little, as `comparisons.of_evaluation` says it; left out when there is nothing.

    Raises:
        DataError: A row lacks a key, or a number is not finite.
    """
    for name, row in rows.items():
        if absent := {"accuracy", "ci95", "n", "images", "by_type", "n_by_type"} - set(row):
            msg = f"row {name!r} of the metrics lacks {sorted(absent)}"
            raise DataError(msg)
    content: Metrics = {"dataset": dataset, "labels": labels, "rows": dict(rows)}
    if comparison is not None:
        content["comparison"] = comparison
    if text is not None:
        content["text_metrics"] = {name: dict(found) for name, found in text.items()}
    if warnings:
        content["warnings"] = list(warnings)
    try:
        copy: Metrics = json.loads(json.dumps(content, allow_nan=False))
    except ValueError as error:
        msg = f"the metrics of {dataset!r} hold a number that JSON cannot: {error}"
        raise DataError(msg) from None
    return copy


def _scored(predictions: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) 0/1 as float, and (n,) image ids."""
    column = predictions["correct"]
    if not len(column) or column.null_count:
        msg = f"{name}: {len(column)} predictions, {column.null_count} of them not scored; all must be, and at least one"
        raise DataError(msg)
    return np.array(column.to_pylist(), dtype=np.float64), np.array(predictions["image_id"].to_pylist())


def _sorted(predictions: pa.Table) -> pa.Table:
    """In the order of the questions; answers that differ keep repeated questions of an image apart."""
    checked = tables.check(predictions, tables.PREDICTIONS, "predictions")
    return checked.sort_by([(key, "ascending") for key in ("image_id", "question", "answer", "prediction")])


def _check_same_questions(a: pa.Table, b: pa.Table, first: str, second: str) -> None:
    keys = ["image_id", "question", "answer"]
    if not a.select(keys).equals(b.select(keys)):
        msg = (
            f"rows {first!r} ({a.num_rows} answers) and {second!r} ({b.num_rows}) do not answer the same questions; "
            "evaluate both on the same data"
        )
        raise DataError(msg)


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, _DIGITS) for end in interval]
