"""`import leaml`: what a notebook needs, imported at its first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import leaml
from leaml.data import step_rows, tables
from leaml.errors import DataError, InputError
from leaml.run.records import RunRecord, StepRecord


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys, leaml; print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'pyarrow', 'pydantic', 'ray'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_name_is_there_and_others_are_refused_with_those() -> None:
    for name in set(leaml.__all__) - {"__version__"}:
        found = getattr(leaml, name)
        assert callable(found) and found.__doc__, name
    assert set(leaml.__all__) <= set(dir(leaml))
    with pytest.raises(AttributeError, match="no attribute 'adopt'; it has Config, "):
        _ = leaml.adopt


def test_pairs_of_a_run_are_a_table(tmp_path: Path) -> None:
    RunRecord("mine", "partial").write(str(tmp_path))
    with pytest.raises(InputError, match="has no pairs of the row 'leaml' yet; run `leaml filter`"):
        leaml.read_pairs(str(tmp_path))
    pair = {"question": "q?", "answer": "a", "mean_logprob": -0.5, "accepted": True, "reason": ""}
    rows = [{"image_id": "x", "caption": None, "pairs": [pair, pair | {"accepted": False, "reason": "few votes"}]}]
    step_rows.write(f"{tmp_path}/filter-1", rows, tables.PSEUDO_QA)
    RunRecord("mine", "partial", steps=(StepRecord("filter", "leaml", folder="filter-1"),)).write(str(tmp_path))
    found = leaml.read_pairs(str(tmp_path))
    assert found.select(["image_id", "accepted", "reason"]).to_pylist() == [
        {"image_id": "x", "accepted": True, "reason": ""},
        {"image_id": "x", "accepted": False, "reason": "few votes"},
    ]


def test_answers_from_anywhere_are_scored_as_a_run_does_it() -> None:
    asked = {"image_id": 1, "question": "Which colour?", "answer": "red"}
    rows = [asked | {"prediction": "Red."}, asked | {"image_id": 2, "prediction": "blue"}]
    rows.append(asked | {"image_id": 2, "answer": "B", "options": ["blue", "red"], "prediction": "red"})
    found = leaml.evaluate(rows)
    assert (found["accuracy"], found["n"], found["images"]) == (0.666667, 3, 2)
    assert found["ci95"][0] == 0.5 and found["ci95"][1] == 1.0
    with pytest.raises(DataError, match="row 2 has no answer and no prediction; it has image_id, question"):
        leaml.evaluate([rows[0], {"image_id": 3, "question": "?"}])
