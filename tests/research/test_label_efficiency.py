"""Aggregation over label draws and budgets, on metrics made up here."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from leaml.config import Config, load
from leaml.data import tables
from leaml.run.records import RunRecord, StepRecord
from research import label_efficiency
from research.label_efficiency import (
    FILTERS,
    compare,
    gap_closed,
    markdown,
    plot,
    read_predictions,
    report,
    run_draw,
    summarise,
)

ROOT = Path(__file__).resolve().parents[2]


def metrics(leaml: float, labels: float) -> dict:
    def row(accuracy: float) -> dict:
        return {"accuracy": accuracy, "by_type": {"color": accuracy + 0.05, "yes_no": accuracy - 0.05}}

    rows = {"leaml": leaml, "finetune_labels": labels}
    made = {"dataset": "made-up", "labels": 40, "rows": {name: row(accuracy) for name, accuracy in rows.items()}}
    color = {"color": leaml}
    worth = {"accepted": 100 * leaml, "known": 0.5, "right": leaml, "rejected_right": None, "by_type": color}
    return made | {"predictions": {name: predictions(accuracy) for name, accuracy in rows.items()}, "pairs": {"leaml": worth}}


def predictions(accuracy: float) -> pa.Table:
    """Four questions on each of 50 images; the first images' are answered rightly."""
    rows: list[dict[str, object]] = [
        {"image_id": f"{n // 4}", "question": f"q{n % 4}", "answer": "a", "prediction": "a", "correct": n < 200 * accuracy}
        for n in range(200)
    ]
    return tables.table(rows, tables.PREDICTIONS)


def test_lead_is_taken_draw_by_draw() -> None:
    rows = summarise([metrics(0.9, 0.7), metrics(0.8, 0.75)])
    assert list(rows) == ["finetune_labels", "leaml"]
    assert rows["finetune_labels"]["leaml_lead"] == pytest.approx([0.2, 0.05])
    assert rows["leaml"]["mean"] == pytest.approx(0.85)
    assert rows["leaml"]["by_type"] == pytest.approx({"color": 0.9, "yes_no": 0.8})


def test_table_and_plot(tmp_path: Path) -> None:
    rows = summarise([metrics(0.9, 0.7), metrics(0.8, 0.75)])
    tested = {"p_holm": 0.03, "p_draws": 0.00001, "ci95": [0.7, 0.76]}
    line = "| finetune_labels | 0.725 | 0.700 to 0.760 | 0.700 0.750 | 0.775 | 0.675 | +20.0 +5.0 | 0.0300 | <0.0001 |"
    assert line in markdown(rows, {"finetune_labels": tested, "leaml": {}}).splitlines()
    for name in "ab":
        plot(rows, tmp_path / f"{name}.svg", "title")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_rows_are_compared_over_all_draws_image_by_image() -> None:
    """The same lead is chance on a few images and is not on many, or in many draws."""
    one = metrics(0.75, 0.69)
    few, many = compare([one])["finetune_labels"]["p_value"], compare([one] * 3)["finetune_labels"]["p_value"]
    assert few == pytest.approx(many, abs=0.05)  # the same four images again are no more evidence
    assert 0.1 < few < 0.15  # 2 of the 2**4 signs of four images
    assert compare([metrics(0.75, 0.55)])["finetune_labels"]["p_value"] < 0.01
    three = one | {"predictions": one["predictions"] | {"blind": predictions(0.3)}}
    found = compare([three])
    assert found["blind"]["p_holm"] == pytest.approx(2 * found["blind"]["p_value"])
    assert found["finetune_labels"]["p_holm"] == found["finetune_labels"]["p_value"]


def test_predictions_are_those_of_the_runs_last_adapt(tmp_path: Path) -> None:
    steps = (StepRecord(name, "lora_labels", folder=f"{name}-1") for name in ("evaluate", "finetune"))
    RunRecord("mine", "done", steps=tuple(steps)).write(str(tmp_path))
    tables.write(f"{tmp_path}/evaluate-1/predictions.parquet", predictions(0.5).take([3, 1, 0, 2]))
    found = read_predictions(str(tmp_path))
    assert list(found) == ["lora_labels"]
    assert found["lora_labels"]["question"].to_pylist() == ["q0", "q1", "q2", "q3"]


def test_each_filter_is_a_row_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def adapt(found: Config) -> dict:
        seen.append(found)
        row = {"accuracy": 0.5 + 0.1 * found.filter.round_trip, "by_type": {}}
        worth = {"leaml": {"right": row["accuracy"]}}
        monkeypatch.setattr(label_efficiency.pair_precision, "of_run", lambda folder: worth)
        step = StepRecord("evaluate", "leaml", folder="evaluate-1")
        RunRecord("mine", "done", steps=(step,)).write(found.run_folder)
        tables.write(f"{found.run_folder}/evaluate-1/predictions.parquet", predictions(row["accuracy"]))
        return {"dataset": "made-up", "labels": 40, "rows": {"leaml": row}}

    monkeypatch.setattr(label_efficiency, "adapt", adapt)
    demo, storage = ROOT / "pipelines/configs/demo.yaml", f"storage={tmp_path}"
    found = run_draw(demo, [storage], 3, ["full_labels"], 0.02, {"off": ["round_trip=false", "min_votes=null"]})
    assert {name: row["accuracy"] for name, row in found["rows"].items()} == {"leaml": 0.6, "leaml_off": 0.5}
    assert sum(found["predictions"]["leaml_off"]["correct"].to_pylist()) == 100
    assert found["pairs"] == {"leaml": {"right": 0.6}, "leaml_off": {"right": 0.5}}
    assert [c.evaluate.controls for c in seen] == [["full_labels"], []]
    assert {(c.data.budget.seed, c.data.budget.fraction) for c in seen} == {(3, 0.02)}
    assert seen[1].filter.min_votes is None


@pytest.mark.parametrize("name", FILTERS)
def test_filters_of_the_full_table_are_keys_of_the_configuration(name: str) -> None:
    keys = [f"filter.{key}" for key in FILTERS[name]]
    changed, plain = (load(ROOT / "pipelines/configs/demo.yaml", overrides) for overrides in (keys, []))
    assert changed.filter != plain.filter


def test_gap_closed_and_report() -> None:
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
    assert found["methods"]["leaml"]["pairs"]["right"] == pytest.approx(0.85)
    assert found["methods"]["leaml"]["pairs"]["by_type"] == {"color": pytest.approx(0.85)}
    assert found["methods"]["leaml"]["pairs"]["rejected_right"] is None
    assert "pairs" not in found["methods"]["full_labels"]
    assert report([one])["methods"]["leaml"]["ci95"] == [0.1, 0.2]
    low, high = found["methods"]["finetune_labels"]["ci95"]  # over both draws: 50 images, right in 0.725 of the questions
    assert 0.5 < low < 0.725 < high < 0.9 and found["methods"]["full_labels"]["ci95"] is None
    (alone,) = {tuple(report([two] * count)["methods"]["finetune_labels"]["ci95"]) for count in (2, 5)}  # no more images
    assert alone == pytest.approx((low, high), abs=0.06)
    # leads of 20 and 5 points: t = 12.5 / 7.5 with one degree of freedom
    assert found["methods"]["finetune_labels"]["p_draws"] == pytest.approx(1 - 2 / math.pi * math.atan(12.5 / 7.5))
    assert found["methods"]["leaml"]["p_draws"] is None and report([one])["methods"]["finetune_labels"]["p_draws"] is None
    one["rows"]["full_labels"]["accuracy"] = 0.6
    assert gap_closed(one) is None
