"""Aggregation over label draws and budgets, on metrics made up here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.label_efficiency import curve, gap_closed, markdown, plot, report, summarise


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


def test_gap_closed_and_report(tmp_path: Path) -> None:
    one, two = metrics(0.9, 0.7), metrics(0.8, 0.75)
    assert gap_closed(one) is None
    for draw, full in ((one, 0.95), (two, 0.85)):
        draw["rows"]["full_labels"] = {"accuracy": full, "by_type": {"color": full, "yes_no": full}}
        draw["rows"]["leaml"]["ci95"] = [0.1, 0.2]
    assert gap_closed(one) == pytest.approx(0.2 / 0.25)
    found = report([one, two])
    assert found["gap_closed"] == pytest.approx((0.8 + 0.5) / 2)
    assert (found["domain"], found["labels"]) == ("made-up", 40)
    assert found["methods"]["leaml"]["accuracy"] == pytest.approx(0.85)
    assert report([one])["methods"]["leaml"]["ci95"] == [0.1, 0.2]
    one["rows"]["full_labels"]["accuracy"] = 0.6
    assert gap_closed(one) is None
    curve([found, found | {"labels": 80}], tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").read_text().count('id="line2d') > 2
