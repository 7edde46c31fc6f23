"""Aggregation over label draws, on metrics made up here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.label_draws import markdown, plot, summarise


def metrics(leaml: float, labels: float) -> dict:
    def row(accuracy: float) -> dict:
        return {"accuracy": accuracy, "by_type": {"color": accuracy + 0.05, "yes_no": accuracy - 0.05}}

    return {"dataset": "made-up", "labels": 40, "rows": {"leaml": row(leaml), "finetune_labels": row(labels)}}


def test_lead_is_taken_draw_by_draw() -> None:
    rows = summarise([metrics(0.9, 0.7), metrics(0.8, 0.75)])
    assert list(rows) == ["finetune_labels", "leaml"]
    assert rows["finetune_labels"]["leaml_lead"] == pytest.approx([0.2, 0.05])
    assert rows["leaml"]["mean"] == pytest.approx(0.85)
    assert rows["leaml"]["by_type"] == pytest.approx({"color": 0.9, "yes_no": 0.8})


def test_table_and_plot(tmp_path: Path) -> None:
    rows = summarise([metrics(0.9, 0.7), metrics(0.8, 0.75)])
    assert "| finetune_labels | 0.725 | 0.700 0.750 | 0.775 | 0.675 | +20.0 +5.0 |" in markdown(rows)
    for name in "ab":
        plot(rows, tmp_path / f"{name}.svg", "title")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
