"""Accuracy rows, the comparison, and the fixed schema of metrics.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from leaml.data import tables
from leaml.errors import DataError
from leaml.evaluation import results


def predictions(
    correct: list[bool] | np.ndarray, per_image: int = 4, types: tuple[str | None, ...] = ("count", "yes/no")
) -> pa.Table:
    rows: list[dict[str, object]] = [
        {
            "image_id": f"image{row // per_image:04d}",
            "question": f"question {row % per_image}",
            "answer": "yes",
            "prediction": "yes" if right else "no",
            "correct": bool(right),
            "question_type": types[row % len(types)],
        }
        for row, right in enumerate(correct)
    ]
    return tables.table(rows, tables.PREDICTIONS)


def rows_and_tables(**accuracy: float) -> tuple[dict[str, dict[str, Any]], dict[str, pa.Table]]:
    """Rows over 400 questions of 100 images; higher accuracies answer a superset of the questions right."""
    luck = np.random.default_rng(0).random(400)
    found = {name: predictions(luck < np.quantile(luck, rate)) for name, rate in accuracy.items()}
    return {name: results.summarise(table, 200) for name, table in found.items()}, found


def test_summary_golden() -> None:
    found = results.summarise(predictions([True, False, True, True, True, False, True, False]), 500, 0)
    assert found["accuracy"] == 0.625
    assert found["n"] == 8
    assert found["by_type"] == {"count": 1.0, "yes/no": 0.25}
    assert found["n_by_type"] == {"count": 4, "yes/no": 4}
    assert found["images"] == 2
    assert found["ci95"] == [0.5, 0.75]  # two images: 3 of 4 and 2 of 4


def test_interval_is_over_images_not_questions() -> None:
    correct = np.repeat(np.random.default_rng(1).random(100) < 0.5, 4)
    wide = results.summarise(predictions(correct, per_image=4), 1000)["ci95"]
    narrow = results.summarise(predictions(correct, per_image=1), 1000)["ci95"]
    assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) == pytest.approx(2.0, rel=0.15)


def test_missing_types() -> None:
    untyped = results.summarise(predictions([True, False, False], types=(None,)), 10)
    assert (untyped["by_type"], untyped["n_by_type"]) == ({}, {})
    assert untyped["by_template"] == {"question 0": 1.0, "question 1": 0.0, "question 2": 0.0}
    assert untyped["n_by_template"] == {"question 0": 1, "question 1": 1, "question 2": 1}
    mixed = results.summarise(predictions([True, False], types=("count", None)), 10)
    assert mixed["by_type"] == {"count": 1.0, "untyped": 0.0}


def test_files_of_earlier_versions_have_no_log_probabilities_and_still_read(tmp_path: Path) -> None:
    old = predictions([True, False]).drop_columns(["logprob"])
    tables.write(str(tmp_path / "old.parquet"), old)
    found = tables.read(str(tmp_path / "old.parquet"), tables.PREDICTIONS)
    assert found["logprob"].to_pylist() == [None, None]
    assert found.drop_columns(["logprob"]).equals(old)
    struct = pa.struct([f for f in tables.ANSWERS.field("answers").type.value_type if f.name != "logprob"])
    rows = [
        {"image_id": "a", "answers": [{"question": "q", "prediction": "x", "correct": True}]},
        {"image_id": "b", "answers": []},
    ]
    schema = pa.schema([("image_id", pa.string()), ("answers", pa.list_(struct))])
    tables.write(str(tmp_path / "nested.parquet"), pa.Table.from_pylist(rows, schema=schema))
    nested = tables.read(str(tmp_path / "nested.parquet"), tables.ANSWERS).to_pylist()
    assert [[a["logprob"] for a in row["answers"]] for row in nested] == [[None], []]
    assert nested[0]["answers"][0]["prediction"] == "x"


def test_comparison_with_the_best_baseline() -> None:
    rows, found = rows_and_tables(leaml=0.8, lora_labels=0.6, finetune_labels=0.7, zero_shot=0.2, full_labels=0.95)
    result = results.compare(rows, found, resamples=500, permutations=2000)
    assert result["best_baseline"] == "finetune_labels"
    assert result["difference"] == pytest.approx(0.1)
    low, high = result["ci95"]
    assert 0.05 < low < 0.1 < high < 0.15
    assert result["p_value"] == pytest.approx(1 / 2001)
    assert list(result["baselines"]) == ["zero_shot", "finetune_labels", "lora_labels"]
    assert result["baselines"]["finetune_labels"]["p_holm"] == pytest.approx(3 / 2001)
    assert result["baselines"]["zero_shot"]["difference"] == pytest.approx(0.6)


def test_the_comparison_resamples_images() -> None:
    gain, loss = np.repeat(np.random.default_rng(3).random((2, 100)) < [[0.4], [0.3]], 4, axis=1)  # whole images differ
    compared = []
    for per_image in (4, 1):
        found = {"leaml": predictions(gain, per_image), "zero_shot": predictions(loss, per_image)}
        rows = {name: results.summarise(table, 10) for name, table in found.items()}
        compared.append(results.compare(rows, found, resamples=1000, permutations=5000))
    width = [result["ci95"][1] - result["ci95"][0] for result in compared]
    assert width[0] / width[1] == pytest.approx(2.0, rel=0.15)
    assert compared[0]["p_value"] > 10 * compared[1]["p_value"]


def test_a_loss_is_reported_as_one() -> None:
    rows, found = rows_and_tables(leaml=0.5, blind_prior=0.65)
    result = results.compare(rows, found, resamples=300, permutations=500)
    assert result["difference"] == pytest.approx(-0.15)
    assert result["ci95"][1] < 0
    assert result["p_value"] < 0.01


def test_no_difference_is_not_significant() -> None:
    rows, found = rows_and_tables(leaml=0.5, zero_shot=0.5)
    result = results.compare(rows, found, resamples=100, permutations=100)
    assert (result["difference"], result["p_value"], result["ci95"]) == (0.0, 1.0, [0.0, 0.0])


def test_order_of_the_tables_does_not_matter() -> None:
    rows, found = rows_and_tables(leaml=0.6, zero_shot=0.55)
    expected = results.compare(rows, found, resamples=200, permutations=200)
    for seed, name in enumerate(found):
        found[name] = found[name].take(pa.array(np.random.default_rng(seed).permutation(400)))
    assert results.compare(rows, found, resamples=200, permutations=200) == expected


def test_repeated_questions_with_conflicting_answers_are_compared() -> None:
    base: dict[str, object] = {"image_id": "x", "question": "q", "prediction": "a", "question_type": None}
    table = tables.table(
        [{**base, "answer": "a", "correct": True}, {**base, "answer": "b", "correct": False}], tables.PREDICTIONS
    )
    flipped = table.take(pa.array([1, 0]))
    rows = {"leaml": {"accuracy": 0.5}, "zero_shot": {"accuracy": 0.5}}
    assert results.compare(rows, {"leaml": table, "zero_shot": flipped}, resamples=10, permutations=10)["difference"] == 0


def test_uncomparable_rows_are_errors() -> None:
    rows, found = rows_and_tables(leaml=0.6, zero_shot=0.5)
    with pytest.raises(DataError, match="do not answer the same questions"):
        results.compare(rows, {**found, "zero_shot": found["zero_shot"].slice(1)})
    with pytest.raises(DataError, match="rows without predictions: \\['leaml'\\]"):
        results.compare(rows, {"zero_shot": found["zero_shot"]})
    with pytest.raises(DataError, match="baselines run: none"):
        results.compare({"leaml": rows["leaml"]}, found)
    with pytest.raises(DataError, match="0 predictions"):
        results.summarise(predictions([]))
    unscored = found["leaml"].set_column(4, "correct", pa.array([None] * 400, pa.bool_()))
    with pytest.raises(DataError, match="400 of them not scored"):
        results.summarise(unscored)


def test_metrics_json_schema() -> None:
    rows, found = rows_and_tables(leaml=0.6, zero_shot=0.5)
    content = results.metrics_json("easy-vqa", 64, rows)
    assert list(content) == ["dataset", "labels", "rows"]
    assert set(content["rows"]["leaml"]) == {"accuracy", "ci95", "n", "images", "by_type", "n_by_type"}
    comparison = results.compare(rows, found, resamples=50, permutations=50)
    full = results.metrics_json("easy-vqa", 64, rows, comparison, {"leaml": {"bleu": 0.5}})
    assert list(full) == ["dataset", "labels", "rows", "comparison", "text_metrics"]
    assert json.loads(json.dumps(full)) == full
    assert results.metrics_json("x", 1, rows, warnings=["few"])["warnings"] == ["few"]
    with pytest.raises(DataError, match="lacks \\['ci95', 'images', 'n', 'n_by_type'\\]"):
        results.metrics_json("x", 1, {"leaml": {"accuracy": 1.0, "by_type": {}}})
    with pytest.raises(DataError, match="JSON cannot"):
        results.metrics_json("x", 1, rows, {"difference": float("nan")})
