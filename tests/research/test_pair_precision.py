"""Pseudo pairs against the labels that the method did not get, on steps written here."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaml.data import step_rows, tables
from leaml.errors import DataError
from leaml.run.records import RunRecord, StepRecord
from research import pair_precision

LABELED = [
    ("a", "What color is the shape?", "teal", "color"),
    ("a", "Is there a circle?", "yes", "yes_no"),
    ("b", "What is shown? Check all.", "ball; player", "multiple_choice"),
]


def pair(question: str | None, answer: str | None, accepted: bool = True) -> dict:
    return {"question": question, "answer": answer, "accepted": accepted}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    columns = ("image_id", "question", "answer", "question_type")
    rows = [dict(zip(columns, row, strict=True)) for row in LABELED]
    tables.write(f"{tmp_path}/ingest-1/labeled.parquet", tables.table(rows, tables.LABELED))
    of_a = [
        pair("what color is the shape", "Teal."),
        pair("is there a circle?", "no"),
        pair("is there a square?", "no"),  # not in the truth
        pair("What color is the shape?", "teal", accepted=False),
        pair(None, None, accepted=False),
    ]
    of_b = [pair("What is shown? Check all.", "player; ball"), pair("Is there a circle?", "yes")]
    rows = [{"image_id": "a", "pairs": of_a}, {"image_id": "b", "pairs": of_b}]
    step_rows.write(f"{tmp_path}/filter-1", rows, tables.PSEUDO_QA)
    steps = (("ingest", "labeled"), ("filter", "leaml"), ("evaluate", "leaml"))
    listed = (StepRecord(name, variant, folder=f"{name}-1") for name, variant in steps)
    RunRecord("mine", "done", steps=tuple(listed)).write(str(tmp_path))
    return tmp_path


def test_a_pair_is_judged_where_its_image_has_its_question(run: Path) -> None:
    assert pair_precision.of_run(str(run)) == {
        "leaml": {
            "accepted": 5,
            "known": 3 / 5,
            "right": pytest.approx(2 / 3),
            "rejected_right": 1.0,
            "by_type": {"color": 1.0, "multiple_choice": 1.0, "yes_no": 0.0},
        }
    }


def test_nothing_judged_is_blank_and_no_run_is_said(run: Path, tmp_path: Path) -> None:
    found = pair_precision.of_run(str(run))
    found["empty"] = {"accepted": 0, "known": 0.0, "right": None, "rejected_right": None, "by_type": {}}
    assert pair_precision.markdown(found).splitlines()[2:] == [
        "| leaml | 5 | 0.600 | 0.667 | 1.000 | 1.000 | 0.000 | 1.000 |",
        "| empty | 0 | 0.000 |  |  |  |  |  |",
    ]
    with pytest.raises(DataError, match="is not a run folder"):
        pair_precision.of_run(str(tmp_path / "nowhere"))
