"""How many pseudo pairs are right, by the labels of their images that the method did not get.

    python -m research.pair_precision RUN [--json FILE]

RUN is the folder of a run whose labeled source has questions about every image (easy-VQA, the sports set), of which the method
got a few. A pair is judged where its image has its very question there, normalised; the share of accepted pairs for which that
is so is `known`. Every `filter` step of the run's last command is a row.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from leaml.data import tables
from leaml.data.step_rows import StepRows
from leaml.data.tables import LabeledRow
from leaml.io import files
from leaml.run.records import read_run
from leaml.text.scoring import is_correct, normalise
from pipelines.table_rows import PseudoQaRow

_BATCH = 10_000
Truth = dict[tuple[str, str], LabeledRow]
"""Image and normalised question -> row of the LABELED table."""


class Worth(TypedDict):
    """What pairs are worth.

    Attributes:
        accepted: Number of accepted pairs; of several draws the mean.
        known: Share of them whose question the truth answers.
        right: Share of the known ones with the true answer; None without one.
        rejected_right: The same of the rejected pairs.
        by_type: The same of the accepted pairs, for each type of question.
    """

    accepted: float
    known: float
    right: float | None
    rejected_right: float | None
    by_type: dict[str, float]


def read_truth(labeled: str) -> Truth:
    """What the whole labeled source says; `labeled` is the folder of its ingest step."""
    return truth_of(tables.read(files.join(labeled, "labeled.parquet"), tables.LABELED).to_pylist())


def truth_of(rows: Iterable[LabeledRow]) -> Truth:
    """Rows of the LABELED table, to be looked up."""
    return {(row["image_id"], normalise(row["question"])): row for row in rows}


def precision(filtered: str, truth: Truth) -> Worth:
    """`judge` of the rows of a filter step."""
    return judge((row for rows in StepRows(filtered).batches(None, _BATCH) for row in rows.to_pylist()), truth)


def judge(rows: Iterable[PseudoQaRow], truth: Truth) -> Worth:
    """Accepted pairs (rows of the PSEUDO_QA table) against the truth."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    accepted = 0
    for row in rows:
        for pair in row["pairs"]:
            accepted += bool(pair["accepted"])
            known = truth.get((row["image_id"], normalise(pair["question"] or "")))
            if known is None:
                continue
            hit = is_correct(pair["answer"] or "", known["answer"], known["question_type"], known["options"])
            for key in ("accepted", known["question_type"] or "other") if pair["accepted"] else ("rejected",):
                verdicts[key].append(hit)
    shares = {key: sum(hits) / len(hits) for key, hits in sorted(verdicts.items())}
    return {
        "accepted": accepted,
        "known": len(verdicts["accepted"]) / max(1, accepted),
        "right": shares.pop("accepted", None),
        "rejected_right": shares.pop("rejected", None),
        "by_type": shares,  # what is left
    }


def of_run(run_folder: str) -> dict[str, Worth]:
    """`precision` of what the last command's fine-tunings read, by row: a filter step.
    Raises DataError where the folder holds no run."""
    steps = read_run(run_folder).steps
    labeled = next(step.folder for step in steps if (step.name, step.variant) == ("ingest", "labeled"))
    truth = read_truth(files.join(run_folder, labeled))
    made = {step.variant: files.join(run_folder, step.folder) for step in steps if step.name == "filter" and not step.round}
    return {row: precision(folder, truth) for row, folder in made.items()}


def markdown(found: dict[str, Worth]) -> str:
    """A line for each row; shares are blank where nothing was judged."""
    kinds = sorted({kind for row in found.values() for kind in row["by_type"]})

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    lines = [f"| pairs of | accepted | known | right | {' | '.join(kinds)} | rejected ones right |"]
    lines.append("|---" * (len(kinds) + 5) + "|")
    for name, row in found.items():
        types = " | ".join(share(row["by_type"].get(kind)) for kind in kinds)
        shown = f"{row['accepted']:.0f} | {share(row['known'])} | {share(row['right'])}"
        lines.append(f"| {name} | {shown} | {types} | {share(row['rejected_right'])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = of_run(given.run)
    print(markdown(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
