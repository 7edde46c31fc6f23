"""The rows that look at no image: which there are for which data, what they answer, and what they are compared as."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from leaml.config import parse
from leaml.data import image_table, tables
from leaml.evaluation import results
from leaml.report.content import ReportData
from leaml.report.page import write_report
from leaml.text.scoring import answer_text
from pipelines import report as printed
from pipelines.rows import predict_without_model
from pipelines.run import Run, Step
from pipelines.sources import Labels, Sources
from pipelines.warmup import answer_examples, pair_examples

SOURCE = {"format": "easy_vqa"}


def row(image: str, answer: str, options: list[str] | None = None, question: str = "What is it?") -> dict[str, Any]:
    return {"image_id": image, "question": question, "answer": answer, "question_type": None, "options": options}


def labels_of(rows: list[dict[str, Any]]) -> Labels:
    return Labels(tables.table(rows, tables.LABELED), tables.LABELED.empty_table(), "key")


def predicted(
    folder: Path, known: list[dict[str, Any]], asked: list[dict[str, Any]], origin: dict[str, str]
) -> dict[str, list[str]]:
    """Predictions of every prior row, in the order of `asked`."""
    steps = []
    for role, rows in (("labeled", known), ("evaluation", asked)):
        step = Step("ingest", role, role, str(folder / role))
        images = [{"image_id": i, "uri": i, "source": origin[i]} for i in sorted({r["image_id"] for r in rows})]
        image_table.write(step.path("images"), images)
        tables.write(step.path("labeled.parquet"), tables.table(rows, tables.LABELED))
        steps.append(step)
    run = Run(parse({"storage": str(folder), "data": {"labeled": SOURCE, "evaluation": SOURCE}}))
    found = predict_without_model(run, Sources(steps[0], None, steps[1]), labels_of(known))
    return {name: predictions["prediction"].to_pylist() for name, predictions in found.items()}


def test_one_source_and_no_options_have_the_blind_prior_alone(tmp_path: Path) -> None:
    found = predicted(
        tmp_path, [row("a", "red"), row("b", "red"), row("c", "blue")], [row("x", "blue")], dict.fromkeys("abcx", "s")
    )
    assert found == {"blind_prior": ["red"]}


def test_prior_by_source_backs_off_to_the_question(tmp_path: Path) -> None:
    known = [row("a", "none"), row("b", "none"), row("c", "none"), row("d", "polyp")]
    origin = {"a": "Normal", "b": "Normal", "c": "Normal", "d": "Polyps", "x": "Polyps", "y": "Normal", "z": "Instrument"}
    found = predicted(tmp_path, known, [row(i, "polyp") for i in "xyz"], origin)
    assert found == {"blind_prior": ["none"] * 3, "source_prior": ["polyp", "none", "none"]}


def test_letter_prior_beside_the_text_of_the_right_option(tmp_path: Path) -> None:
    known = [
        row("a", "B", ["push", "none"]),
        row("b", "A", ["none", "trip"]),
        row("c", "B", ["push", "trip"]),
        row("d", "a long story", question="Explain."),
    ]
    asked = [row("x", "A", ["none", "push"]), row("y", "B", ["hold", "slap"]), row("z", "story", question="Explain.")]
    found = predicted(tmp_path, known, asked, dict.fromkeys("abcdxyz", "sportu"))
    assert found == {"blind_prior": ["A", "B", "long story"], "letter_prior": ["B", "B", "long story"]}


def test_letter_prior_is_a_baseline_and_the_prior_by_source_is_none() -> None:
    def table(right: int) -> pa.Table:
        rows = [row(str(n), "a") | {"prediction": "a", "correct": n < right} for n in range(20)]
        return tables.table([{k: r.get(k) for k in tables.PREDICTIONS.names} for r in rows], tables.PREDICTIONS)

    tables_of = {"leaml": table(12), "blind_prior": table(9), "letter_prior": table(11), "source_prior": table(18)}
    rows = {name: results.summarise(found, 50) for name, found in tables_of.items()}
    found = results.compare(rows, tables_of, permutations=100)
    assert found["best_baseline"] == "letter_prior"
    assert set(found["baselines"]) == {"blind_prior", "letter_prior"}


METRICS = {
    "dataset": "kvasir",
    "labels": 52,
    "rows": {
        name: {"accuracy": accuracy, "ci95": [accuracy, accuracy], "n": 100, "by_type": {"yes_no": accuracy}}
        for name, accuracy in {"blind_prior": 0.637, "source_prior": 0.798, "letter_prior": 0.4, "leaml": 0.767}.items()
    },
    "comparison": {"best_baseline": "blind_prior", "difference": 0.13, "ci95": [0.1, 0.16], "p_value": 0.001},
}


def test_the_report_has_both_priors_as_lines_and_says_what_they_are() -> None:
    html = write_report(ReportData("r", "kvasir", 52, METRICS)).replace("\u00a0", " ")
    for phrase in ("Blind prior (no image)", "Prior by source (no image)", "Letter prior (no image)"):
        assert f"<td>{phrase}</td>" in html
    assert "most common labeled answer to each question, without the image: 63.7 %." in html
    assert "no baseline, since no model is told the source: 79.8 %." in html
    assert "<b>76.7</b>" in html  # bold as the best of its type, the prior by source aside
    assert "the best of each type is bold, not counting Prior by source (no image)." in html
    assert "A source-only prior does at least as well (79.8 %)." in html


def test_the_console_table_names_the_priors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(printed, "console", Console(file=stream, width=160, soft_wrap=True))
    printed.print_table(METRICS)
    text = stream.getvalue().replace("\u00a0", " ")
    assert "source_prior" in text
    assert "Prior by source: the most common labeled answer per question and source of the image" in text


def test_a_table_in_a_file_breaks_no_cell() -> None:
    kinds = ("color", "count", "location", "multiple_choice", "single_choice", "yes_no")
    rows = {
        name: {"accuracy": 0.5, "ci95": [0.4, 0.6], "n": 100, "by_type": dict.fromkeys(kinds, 0.5)}
        for name in ("finetune_labels", "leaml")
    }
    program = "import json, sys; from pipelines.report import print_table; print_table(json.load(sys.stdin))"
    given = json.dumps({"dataset": "sports", "labels": 40, "rows": rows})
    unset = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, input=given, env=unset, capture_output=True, text=True, check=True)
    (line,) = [line for line in ended.stdout.splitlines() if "finetune_labels" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["finetune_labels", "0.500", "0.400 to 0.600", "100", *["0.500"] * 6]


def test_pairs_of_multiple_choice_rows_hold_the_text_and_answers_the_letter() -> None:
    known = [row("a", "B", ["push", "none of the above"], "Which foul?"), row("b", "red")]
    assert [answer_text(r) for r in known] == ["none of the above", "red"]
    assert answer_text(row("a", "A, C", ["x", "y", "z"])) == "x; z"
    assert answer_text(row("a", "dive", ["push", "trip"])) == "dive"
    labels = labels_of(known)
    assert pair_examples(labels, {})[0].reply == "Question: Which foul? Answer: none of the above"
    assert answer_examples(labels)[0].reply == "B"
    assert answer_examples(labels)[0].request == "Which foul?\nA. push\nB. none of the above"
