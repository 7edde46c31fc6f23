"""`leaml select --plot` behind the step itself: the selection that a run made, drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from saved_selections import write_two

from leaml.errors import DataError
from leaml.run.records import RunRecord, StepRecord
from pipelines.selection import draw


def test_run_without_a_select_step_cannot_be_drawn(tmp_path: Path) -> None:
    write_two(tmp_path)
    steps = [StepRecord("select", "random_neurons", folder="ffn")]
    RunRecord("mine", "done", steps=tuple(steps)).write(str(tmp_path))
    with pytest.raises(DataError, match="has selected no neurons"):
        draw(str(tmp_path), str(tmp_path / "out.svg"))
    steps.append(StepRecord("select", "leaml", folder="rows"))
    RunRecord("mine", "done", steps=tuple(steps)).write(str(tmp_path))
    draw(str(tmp_path), str(tmp_path / "out.svg"))
    assert "mean score / mean of all" in (tmp_path / "out.svg").read_text()
