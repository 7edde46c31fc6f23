"""LEAML beside its baselines and controls over several label draws, through the very pipeline that `leaml adapt` runs.

    python -m benchmarks.label_draws [--config pipelines/configs/demo.yaml] [--draws 3] [--controls random_neurons ...]
        [--json FILE] [--svg FILE] [a.b=value ...]

Every draw labels other images; captions and zero-shot answers are shared between draws. All runs go to one run folder, so the
program can be stopped and started again. Reports mean accuracy, the draws, and LEAML's lead over each row draw by draw.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from leaml import config
from pipelines.adapt import adapt

CONTROLS = ["no_captions", "random_neurons", "all_neurons", "full_labels"]


def run_draw(file: Path, overrides: list[str], draw: int, controls: list[str]) -> dict[str, Any]:
    """One `leaml adapt` with this draw's labels; returns its metrics."""
    own = [f"data.budget.seed={draw}", f"evaluate.controls={json.dumps(controls)}"]
    metrics = adapt(config.load(file, ["name=label_draws", *overrides, *own]))
    assert metrics is not None
    return metrics


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


def markdown(rows: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    kinds = sorted({k for r in rows.values() for k in r["by_type"]})
    lines = [
        f"| row | mean | draws | {' | '.join(kinds)} | LEAML leads by (points) |",
        "|---|---|---|" + "---|" * (len(kinds) + 1),
    ]
    for name, row in rows.items():
        draws = " ".join(f"{a:.3f}" for a in row["draws"])
        types = " | ".join(f"{row['by_type'].get(k, float('nan')):.3f}" for k in kinds)
        lead = " ".join(f"{100 * x:+.1f}" for x in row["leaml_lead"])
        lines.append(f"| {name} | {row['mean']:.3f} | {draws} | {types} | {lead if name != 'leaml' else ''} |")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("pipelines/configs/demo.yaml"))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--controls", nargs="*", default=CONTROLS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    draws = [run_draw(arguments.config, arguments.overrides, d, arguments.controls) for d in range(arguments.draws)]
    rows = summarise(draws)
    print(markdown(rows))
    if arguments.json:
        result = {"dataset": draws[0]["dataset"], "labels": draws[0]["labels"], "rows": rows, "metrics": draws}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.svg:
        plot(rows, arguments.svg, f"{draws[0]['dataset']}, {draws[0]['labels']} labeled images, {len(draws)} label draws")


if __name__ == "__main__":
    main()
