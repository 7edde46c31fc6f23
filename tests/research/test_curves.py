"""Learning curves: which rows and budgets are drawn, and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot

from research import curves


def report(labels: int, leaml: list[float], full: float) -> dict[str, Any]:
    methods = {"leaml": leaml, "random_neurons": [0.1], "full_labels": [full], "lora_labels": [0.5]}
    methods |= {"all_neurons": [0.2]} if labels == 40 else {}
    rows = {name: {"accuracy": sum(draws) / len(draws), "draws": draws} for name, draws in methods.items()}
    return {"domain": "made-up", "labels": labels, "methods": rows}


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The lines of every panel by label (the first of each), and its title, as `draw` leaves them."""
    panels: list[dict[str, Any]] = []

    def keep(figure: Any) -> None:
        for axes in figure.axes:
            lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()}
            panels.append({"title": axes.get_title(loc="left"), **{k: v for k, v in lines.items() if not k.startswith("_")}})

    monkeypatch.setattr(pyplot, "close", keep)
    return panels


def test_a_line_a_row_over_the_labels_and_all_labels_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panels = drawn(monkeypatch)
    reports = [report(40, [0.8, 0.9], 1.0), report(40, [0.7], 0.9), report(20, [0.6], 0.8)]
    one = tmp_path / "one.json"
    one.write_text(json.dumps(report(40, [0.4], 0.5)))
    several = tmp_path / "several.json"
    several.write_text(json.dumps({"budgets": reports}))
    out = tmp_path / "curves.svg"
    monkeypatch.setattr("sys.argv", ["curves", str(out), str(several), str(one), "--names", "first", "second"])
    curves.main()
    first, second = panels
    assert (first.pop("title"), second.pop("title")) == ("first", "second")
    assert first["LEAML"] == [(20, 0.6), (40, pytest.approx(0.85))]
    assert [y for _, y in first["All labels (ceiling)"]] == [pytest.approx(0.9)] * 2
    assert first["LEAML, random neurons"] == [(20, 0.1), (40, 0.1)]
    assert first.keys() == {
        "LEAML",
        "LoRA on labels",
        "LEAML, random neurons",
        "All labels (ceiling)",
    }  # one budget is no curve
    assert second.keys() == {"LEAML", "LoRA on labels", "All labels (ceiling)"}
    assert second["LEAML"] == [(40, 0.4)]
    assert "<svg" in out.read_text()
