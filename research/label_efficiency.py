"""Accuracy over labels: LEAML beside its baselines and controls, through the very pipeline that `leaml adapt` runs.

    python -m research.label_efficiency --quick            one budget, one draw, baselines, LEAML and full labels
    python -m research.label_efficiency --draws 3          the same with three draws and the controls of --controls
    python -m research.label_efficiency --full             five budgets, every control; 1 %: five draws, every filter
        [--config pipelines/configs/demo.yaml | --sports] [--json FILE] [--svg FILE] [--curve FILE] [a.b=value ...]

Any configuration is a domain; --sports is one that is made at the first call (research/sports.yaml). Every draw labels other
images; captions and zero-shot answers are shared between draws. All runs go to one run folder, so the program can be stopped
and started again. `gap_closed` is (LEAML - best label-only baseline) / (full labels - best label-only baseline); baselines are
the priors, zero-shot, fine-tuning and LoRA on the labels.

Each row is tested against LEAML over all draws of a budget together: a paired permutation test that exchanges all answers about
an image, of every draw, at once (`p_value`), corrected by Holm for the number of rows (`p_holm`). Pseudo pairs are judged by
the labels that the method did not get (research/pair_precision.py). With --full every method chooses its fine-tuning's
learning rate among three on the labels held out, as the baselines always do.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa

matplotlib.use("svg")
from matplotlib import pyplot
from scipy import stats

from leaml import config
from leaml.data import tables
from leaml.evaluation import resampling, results
from leaml.io import files
from leaml.rows import names_of
from leaml.run.records import read_run
from pipelines.adapt import adapt
from research import curves, pair_precision
from research.pair_precision import Worth

CONTROLS = ["no_captions", "random_neurons", "all_neurons", "full_labels"]
FULL_CONTROLS = [
    "no_captions",
    "captions_mixed",
    "self_training",
    "all_neurons",
    "random_neurons",
    "magnitude_neurons",
    "lowest_neurons",
    "full_labels",
]
FILTERS = {
    "no_filters": [
        "round_trip=false",
        "min_votes=null",
        "duplicates=false",
        "max_question_chars=null",
        "max_answer_chars=null",
    ],
    "no_round_trip": ["round_trip=false"],
    "no_votes": ["min_votes=null"],
    "duplicates_kept": ["duplicates=false"],
    "mean_logprob": ["min_mean_logprob=-0.5"],
    "similar_questions": ["similar_questions=0.8"],
    "hardness": ["hardness=true"],
    "answer_balance": ["max_answer_share=0.5"],
}
"""Rows `leaml_<name>`: LEAML with these keys of `filter` changed."""
FULL_BUDGETS = {0.005: 1, 0.01: 5, 0.02: 1, 0.05: 1, 0.1: 1}
"""Share of the labeled images -> label draws. 100 % is the row `full_labels` of each: nothing is left to write pairs for."""
TUNED = ["finetune.lr=[3.0e-4, 6.0e-4, 1.0e-3]"]
"""What `--full` changes in the configuration: all methods choose among as many rates as the baselines do."""
FILTERS_AT = 0.01
"""The budget at which `--full` tries each filter."""


def run_draw(
    file: Path,
    overrides: list[str],
    draw: int,
    controls: list[str],
    budget: float | None = None,
    filters: Mapping[str, list[str]] | None = None,
) -> dict[str, Any]:
    """One `leaml adapt` with this draw's labels (by default as many as the configuration says), and one for each of `filters`.

    Returns its metrics, with each row's predictions (`tables.PREDICTIONS`) as "predictions" and what its pseudo pairs are worth
    (`pair_precision.precision`) as "pairs".
    """
    own = [f"data.budget.seed={draw}", f"evaluate.controls={json.dumps(controls)}"]
    if budget is not None:
        own += ["data.budget.count=null", f"data.budget.fraction={budget}"]
    metrics = _adapted(file, [*overrides, *own])
    for name, keys in (filters or {}).items():
        changed = _adapted(file, [*overrides, *own, "evaluate.controls=[]", *(f"filter.{key}" for key in keys)])
        for part in ("rows", "predictions", "pairs"):
            metrics[part][f"leaml_{name}"] = changed[part]["leaml"]
    return metrics


def _adapted(file: Path, overrides: list[str]) -> dict[str, Any]:
    loaded = config.load(file, ["name=label_efficiency", *overrides])
    metrics = adapt(loaded)
    assert metrics is not None
    return metrics | {"predictions": read_predictions(loaded.run_folder), "pairs": pair_precision.of_run(loaded.run_folder)}


def read_predictions(run_folder: str) -> dict[str, pa.Table]:
    """Predictions of the models of the run's last `leaml adapt`, by row."""
    folders = {step.variant: step.folder for step in read_run(run_folder).steps if step.name == "evaluate"}
    order = [(key, "ascending") for key in ("image_id", "question", "answer")]
    return {
        row: tables.read(files.join(run_folder, folder, "predictions.parquet"), tables.PREDICTIONS).sort_by(order)
        for row, folder in folders.items()
    }


def compare(draws: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """`p_value` and `p_holm` of "this row is as good as LEAML" for every row that is a model, over all draws together."""

    def answers(row: str, column: str) -> np.ndarray:
        return np.concatenate([np.array(d["predictions"][row][column].to_pylist()) for d in draws])

    images, ours = answers("leaml", "image_id"), answers("leaml", "correct").astype(float)
    others = [row for row in draws[0]["predictions"] if row != "leaml"]
    found = {row: resampling.paired_permutation_test(ours, answers(row, "correct").astype(float), images) for row in others}
    adjusted = resampling.holm(found)
    return {row: {"p_value": found[row], "p_holm": adjusted[row]} for row in others}


def gap_closed(metrics: dict[str, Any]) -> float | None:
    """Share of the way from the best label-only baseline to all labels; None without the row `full_labels` or a gap."""
    rows = metrics["rows"]
    if "full_labels" not in rows:
        return None
    best = max(rows[name]["accuracy"] for name in names_of("baseline") if name in rows)
    gap = rows["full_labels"]["accuracy"] - best
    return (rows["leaml"]["accuracy"] - best) / gap if gap > 0 else None


def summarise(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy per row over the draws, and LEAML's lead over each other row."""
    rows: dict[str, Any] = {}
    ours = [d["rows"]["leaml"]["accuracy"] for d in draws]
    for name in draws[0]["rows"]:
        accuracies = [d["rows"][name]["accuracy"] for d in draws]
        kinds = draws[0]["rows"][name]["by_type"]
        rows[name] = {
            "mean": statistics.mean(accuracies),
            "draws": accuracies,
            "by_type": {k: statistics.mean(d["rows"][name]["by_type"][k] for d in draws) for k in kinds},
            "leaml_lead": [a - b for a, b in zip(ours, accuracies, strict=True)],
        }
    return dict(sorted(rows.items(), key=lambda item: item[1]["mean"]))


def mean_pairs(draws: list[dict[str, Any]]) -> dict[str, Worth]:
    """What each row's pseudo pairs are worth, the mean over the draws where there is something to judge."""

    def mean(values: list[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return statistics.mean(known) if known else None

    found: dict[str, Worth] = {}
    for name in draws[0]["pairs"]:
        each: list[Worth] = [d["pairs"][name] for d in draws]
        kinds = sorted({kind for row in each for kind in row["by_type"]})
        found[name] = {
            "accepted": statistics.mean(row["accepted"] for row in each),
            "known": statistics.mean(row["known"] for row in each),
            "right": mean([row["right"] for row in each]),
            "rejected_right": mean([row["rejected_right"] for row in each]),
            "by_type": {k: statistics.mean(row["by_type"][k] for row in each if k in row["by_type"]) for k in kinds},
        }
    return found


def markdown(rows: dict[str, Any], compared: dict[str, dict[str, Any]]) -> str:
    """The table of docs/benchmarks.md, from `summarise` and the `methods` of `report`."""
    kinds = sorted({k for r in rows.values() for k in r["by_type"]})
    lines = [
        f"| row | mean | 95 % | draws | {' | '.join(kinds)} | LEAML leads by (points) | p (Holm) | p over draws |",
        "|---|---|---|---|" + "---|" * (len(kinds) + 3),
    ]
    for name, row in rows.items():
        draws = " ".join(f"{a:.3f}" for a in row["draws"])
        types = " | ".join(f"{row['by_type'].get(k, float('nan')):.3f}" for k in kinds)
        lead = " ".join(f"{100 * x:+.1f}" for x in row["leaml_lead"])
        found = [compared[name].get(key) for key in ("p_holm", "p_draws")]
        tested = ["" if p is None else "<0.0001" if p < 0.0001 else f"{p:.4f}" for p in found]
        ends = " to ".join(f"{end:.3f}" for end in compared[name].get("ci95") or [])
        cells = [name, f"{row['mean']:.3f}", ends, draws, types, lead if name != "leaml" else "", *tested]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: dict[str, Any], file: Path, title: str) -> None:
    """Bars of mean accuracy with one dot per draw."""
    matplotlib.rcParams["svg.hashsalt"] = "leaml"
    figure, axes = pyplot.subplots(figsize=(8, 0.42 * len(rows) + 1))
    for place, (name, row) in enumerate(rows.items()):
        axes.barh(place, row["mean"], color="#2b6cb0" if name == "leaml" else "#c5ccd6", height=0.66)
        axes.plot(row["draws"], [place] * len(row["draws"]), "o", color="#1a202c", markersize=3.5)
        axes.text(max(row["draws"]) + 0.012, place, f"{row['mean']:.3f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("accuracy (bar: mean, dots: label draws)")
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def interval(draws: list[dict[str, Any]], row: str) -> list[float] | None:
    """95 % interval of a row's mean accuracy: of one draw the run's own, of several a bootstrap over the images, each with the
    answers of all draws. What other labels would give is in the draws themselves."""
    if len(draws) == 1:
        return draws[0]["rows"][row].get("ci95")
    asked = [d["predictions"].get(row) for d in draws]
    return None if None in asked else results.summarise(pa.concat_tables(asked))["ci95"]


def over_draws(leads: list[float]) -> float | None:
    """p-value of "LEAML's lead is chance" over the draws of the labels (paired t-test, two-sided); None of fewer than two
    draws, or where all leads are the same."""
    return float(stats.ttest_1samp(leads, 0).pvalue) if len({round(lead, 9) for lead in leads}) > 1 else None


def report(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """What the JSON file holds of one budget. `p_value` and `p_holm` ask for other images, `p_draws` for other labels."""
    rows, compared = summarise(draws), compare(draws)
    methods = {
        name: compared.get(name, {})
        | {
            "accuracy": row["mean"],
            "ci95": interval(draws, name),
            "by_type": row["by_type"],
            "draws": row["draws"],
            "leaml_lead": row["leaml_lead"],
            "p_draws": over_draws(row["leaml_lead"]),
        }
        for name, row in rows.items()
    }
    for name, pairs in mean_pairs(draws).items():
        methods[name]["pairs"] = pairs
    closed = [share for d in draws if (share := gap_closed(d)) is not None]
    found = {"domain": draws[0]["dataset"], "labels": draws[0]["labels"], "methods": methods}
    return found | {"gap_closed": statistics.mean(closed) if closed else None, "gap_closed_draws": closed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("pipelines/configs/demo.yaml"))
    parser.add_argument("--sports", action="store_true", help="research/sports.yaml; makes frames and teacher where missing")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--controls", nargs="*", default=CONTROLS)
    parser.add_argument("--filters", action="store_true", help="LEAML with each filter changed, too")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--curve", type=Path)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    if given.sports:
        from research import sports_teacher  # needs the emulator

        sports_teacher.prepare(Path("runs/sports"))
        given.config = Path(__file__).with_name("sports.yaml")
    controls = FULL_CONTROLS if given.full else ["full_labels"] if given.quick else given.controls
    overrides = [*(TUNED if given.full else []), *given.overrides]
    plan: dict[float | None, int] = {None: 1 if given.quick else given.draws}
    found, draws = [], []
    for budget, count in (FULL_BUDGETS if given.full else plan).items():
        filters = FILTERS if given.filters or (given.full and budget == FILTERS_AT) else {}
        draws = [run_draw(given.config, overrides, d, controls, budget, filters) for d in range(count)]
        found.append(report(draws))
        print(f"{found[-1]['domain']}, {found[-1]['labels']} labeled images, {count} draws")
        print(markdown(summarise(draws), found[-1]["methods"]))
        print(pair_precision.markdown(mean_pairs(draws)))
        print(f"gap closed: {' '.join(f'{g:.2f}' for g in found[-1]['gap_closed_draws']) or 'unknown, no full_labels'}")
        if given.json:  # after every budget, since the whole takes days
            given.json.write_text(json.dumps(found[0] if len(found) == 1 else {"budgets": found}, indent=1) + "\n")
    if given.svg:
        title = f"{found[-1]['domain']}, {found[-1]['labels']} labeled images, {len(draws)} label draws"
        plot(summarise(draws), given.svg, title)
    if given.curve:
        curves.draw([found], given.curve)


if __name__ == "__main__":
    main()
