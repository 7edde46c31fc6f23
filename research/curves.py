"""Learning curves: accuracy over labeled images, a panel for each domain, from the files of the label-efficiency benchmarks.

    python -m research.curves OUT.svg FILE.json [FILE.json ...] [--names NAME ...]

FILE.json is what `research.label_efficiency --json` or `research.ensemble.show --json` wrote.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from leaml.rows import titles

Report = dict[str, Any]
"""One budget: `domain`, `labels` (images), `methods`: name -> `accuracy`, `draws`."""

SHOWN = {
    "leaml": "#2b6cb0",
    "no_captions": "#c05621",
    "finetune_labels": "#2f855a",
    "lora_labels": "#805ad5",
    "zero_shot": "#718096",
    "blind_prior": "#a0aec0",
}
"""Colours of the main rows. Every other one that several budgets have gets a line too; all labels are a level line."""


def draw(domains: list[list[Report]], file: Path, names: list[str] | None = None) -> None:
    """Mean accuracy over labeled images, one line a row, a dot for every draw; of reports about one number of labels the first.

    Panels are called by `names`, by default as the reports call their domain.
    """
    matplotlib.rcParams["svg.hashsalt"] = "leaml"
    figure, axes = pyplot.subplots(1, len(domains), figsize=(5.4 * len(domains) + 1.6, 4.4), squeeze=False)
    for place, reports, name in zip(axes[0], domains, names or [r[0]["domain"] for r in domains], strict=True):
        _panel(place, {r["labels"]: r for r in reversed(reports)})
        place.set_title(name, fontsize=10, loc="left")
    axes[0][0].set_ylabel("accuracy")
    handles = {label: handle for panel in axes[0] for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, fontsize=8, frameon=False, loc="center right")
    figure.tight_layout(rect=(0, 0, 1 - 1.75 / figure.get_figwidth(), 1))
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _panel(axes: Axes, by_labels: dict[int, Report]) -> None:
    reports = [by_labels[labels] for labels in sorted(by_labels)]
    for name in dict.fromkeys([*SHOWN, *(name for r in reports for name in r["methods"])]):
        known = [r for r in reports if name in r["methods"]]
        if name == "full_labels" or len(known) < (1 if name in SHOWN else 2):
            continue
        points = [(r["labels"], r["methods"][name]["accuracy"]) for r in known]
        style = {"color": SHOWN.get(name), "linewidth": 2.5 if name == "leaml" else 1.2, "label": titles().get(name, name)}
        (line,) = axes.plot(*zip(*points, strict=True), marker="o", markersize=3, **style)
        for r in known:
            draws = r["methods"][name]["draws"]
            axes.plot([r["labels"]] * len(draws), draws, "o", color=line.get_color(), markersize=2.5, alpha=0.5, linewidth=0)
    full = [r["methods"]["full_labels"]["accuracy"] for r in reports if "full_labels" in r["methods"]]
    if full:
        axes.axhline(sum(full) / len(full), color="#1a202c", linestyle="--", linewidth=1, label=titles()["full_labels"])
    axes.set_xscale("log")
    axes.set_xticks([r["labels"] for r in reports], [str(r["labels"]) for r in reports], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("labeled images")
    axes.set_ylim(0, 1.02)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--names", nargs="+", help="titles of the panels")
    given = parser.parse_args()
    read = [json.loads(file.read_text()) for file in given.files]
    draw([found.get("budgets", [found]) for found in read], given.out, given.names)


if __name__ == "__main__":
    main()
