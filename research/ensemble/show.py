"""The table of `research.label_efficiency` from experiments on ensembles.

    python -m research.ensemble.show FILE.npz FOUND.json [--json FILE] [--curve FILE]

A budget whose later draws have fewer rows is shown twice: all draws with the rows that all have, and the first ones with every
row. Of a plan without the row `leaml`, a line for each choice: what its models answer right about unlabeled images.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any, TypedDict

from leaml.data import tables
from leaml.evaluation.results import summarise
from pipelines.table_rows import PredictionRow
from research import curves, label_efficiency, pair_precision
from research.ensemble.domain import Case, Domain


class Outcome(TypedDict):
    """A result as `research.ensemble.experiments` writes it.

    Attributes:
        correct: A 1 or a 0 for each evaluation question.
        development: Share of questions about unlabeled images that the final model answers right.
        generator: The same of the generator.
        pairs: Of `pair_precision.Worth`, and `counts`; empty where no pairs were made.
    """

    name: str
    case: str
    correct: str
    development: float | None
    generator: float | None
    pairs: dict[str, Any]


Found = dict[str, dict[str, Outcome]]
"""Case -> name of the experiment -> its result."""


def read(file: Path) -> Found:
    """Results by case and name; a model that was asked nothing is left out."""
    by_case: Found = defaultdict(dict)
    for result in json.loads(file.read_text())["results"]:
        if result["correct"]:
            by_case[result["case"]][result["name"]] = result
    return by_case


def draw(given: Domain, case: Case, results: dict[str, Outcome], names: list[str]) -> dict[str, Any]:
    """What `label_efficiency` keeps of one draw: metrics, predictions and pairs of the rows `names`, and the priors."""
    correct = {name: [bit == "1" for bit in results[name]["correct"]] for name in names}
    predictions = {}
    for name, verdicts in (case.priors | correct).items():
        answered: list[PredictionRow] = [
            {
                "image_id": row["image_id"],
                "question": row["question"],
                "answer": row["answer"],
                "question_type": row["question_type"],
                "prediction": "",
                "correct": hit,
                "logprob": None,
            }
            for row, hit in zip(given.asked, verdicts, strict=True)
        ]
        predictions[name] = tables.table(answered, tables.PREDICTIONS)
    pairs = {
        name: {k: v for k, v in results[name]["pairs"].items() if k != "counts"} for name in names if results[name]["pairs"]
    }
    rows = {name: summarise(table) for name, table in predictions.items()}
    dataset = given.config.data.evaluation.path or given.config.data.evaluation.format
    return {"dataset": dataset, "labels": given.labels(case).images, "rows": rows, "predictions": predictions, "pairs": pairs}


def budgets(given: Domain, found: Found) -> list[list[dict[str, Any]]]:
    """The draws of every budget, those with fewer labels first, with the rows that all have; then those that have more rows."""
    shown = []
    by_budget: dict[float, list[Case]] = defaultdict(list)
    for name in found:
        by_budget[given.cases[name].budget].append(given.cases[name])
    for _, cases in sorted(by_budget.items()):
        most = max((list(found[c.name]) for c in cases), key=len)
        common = [name for name in most if all(name in found[c.name] for c in cases)]
        shown.append([draw(given, c, found[c.name], common) for c in cases])
        if len(common) < len(most):
            shown.append([draw(given, c, found[c.name], most) for c in cases if set(most) <= set(found[c.name])])
    return shown


def choices(found: Found) -> str:
    """A line for each experiment: what its generator and its adapted model know of unlabeled images, and its pairs."""
    rows: dict[str, list[Outcome]] = defaultdict(list)
    for results in found.values():
        for name, result in results.items():
            rows[name].append(result)
    lines = ["| choice | generator | adapted | pairs right | accepted | test |", "|---|---|---|---|---|---|"]
    for name, each in rows.items():
        columns: list[list[float | None]] = [
            [r["generator"] for r in each],
            [r["development"] for r in each],
            [r["pairs"].get("right") for r in each],
            [r["pairs"].get("accepted") for r in each],
            [r["correct"].count("1") / len(r["correct"]) for r in each],
        ]
        cells = []
        for values in columns:
            known = [v for v in values if v is not None]
            cells.append(
                "" if not known else f"{statistics.mean(known):.0f}" if known[0] > 1 else f"{statistics.mean(known):.3f}"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", type=Path)
    parser.add_argument("found", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--curve", type=Path)
    asked = parser.parse_args()
    given, found = Domain.read(asked.domain), read(asked.found)
    if not any("leaml" in results for results in found.values()):
        print(choices(found))
        return
    reports = []
    for draws in budgets(given, found):
        reports.append(label_efficiency.report(draws))
        print(f"{reports[-1]['domain']}, {reports[-1]['labels']} labeled images, {len(draws)} draws")
        print(label_efficiency.markdown(label_efficiency.summarise(draws), reports[-1]["methods"]))
        print(pair_precision.markdown(label_efficiency.mean_pairs(draws)))
        print(f"gap closed: {' '.join(f'{g:.2f}' for g in reports[-1]['gap_closed_draws']) or 'unknown'}\n")
    if asked.json:
        asked.json.write_text(json.dumps({"budgets": reports}, indent=1) + "\n")
    if asked.curve:
        curves.draw([reports], asked.curve)


if __name__ == "__main__":
    main()
