"""The published rows of Kvasir-VQA through the project's own mapping, scoring and priors, against numbers counted here by hand.

Needs `kvasir_vqa_rows.csv` (half of the public rows, not redistributed) in the folder `shared` beside the repository.
"""

from __future__ import annotations

import csv
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from kvasir_csv import records

from leaml.config import LabelBudget, parse
from leaml.data import budget, image_table, tables
from leaml.data.kvasir import QUESTION_TYPES
from leaml.text.scoring import is_correct
from pipelines.rows import predict_without_model
from pipelines.run import Run, Step
from pipelines.sources import Labels, Sources

DRAWS = 5
Row = dict[str, str]


@pytest.fixture(scope="module")
def file(shared_folder: Path) -> Path:
    path = shared_folder / "data" / "kvasir_vqa_rows.csv"
    if not path.is_file():
        pytest.skip(f"needs {path}, 29,307 rows of Kvasir-VQA, which are not redistributed")
    return path


@pytest.fixture(scope="module")
def counted(file: Path) -> list[Row]:
    """The rows as they stand in the file, read without the project."""
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def source_of(file: Path) -> dict[str, str]:
    return {record.uri: record.source for record in records(file)}


@pytest.fixture(scope="module")
def labeled(file: Path) -> pa.Table:
    """The rows as ingest writes them, the image's name in place of its hash."""
    rows = [
        {"image_id": record.uri, "question": q.question, "answer": q.answer, "question_type": q.question_type, "options": None}
        for record in records(file)
        for q in record.questions
    ]
    return tables.table(rows, tables.LABELED)


def items(row: Row) -> frozenset[str]:
    """The answer as a set, without the project."""
    return frozenset(part.strip().lower() for part in row["answer"].split(";"))


def looked_up(train: list[Row], test: list[Row], *keys: str) -> float:
    """Percent of `test` that the most common answer of equal rows of `train` gets right; unknown ones get the most common."""
    counts: dict[tuple[str, ...], Counter[frozenset[str]]] = defaultdict(Counter)
    for row in train:
        counts[tuple(row[k] for k in keys)][items(row)] += 1
        counts[()][items(row)] += 1
    best = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}
    right = [best.get(tuple(row[k] for k in keys), best[()]) == items(row) for row in test]
    return 100 * sum(right) / len(right)


def priors(folder: Path, labels: pa.Table, labeled: pa.Table, source_of: dict[str, str]) -> dict[str, float]:
    """Percent that each prior row of a run gets right on all rows, learned from `labels`."""
    run = Run(
        parse({"storage": str(folder), "data": {"labeled": {"format": "easy_vqa"}, "evaluation": {"format": "easy_vqa"}}})
    )
    step = Step("ingest", "ingest", "0" * 12, str(folder / "ingested"))
    if not (folder / "ingested").exists():
        images = [{"image_id": i, "uri": i, "source": s} for i, s in source_of.items()]
        image_table.write(step.path("images"), images)
        tables.write(step.path("labeled.parquet"), labeled)
    found = predict_without_model(run, Sources(step, None, step), Labels(labels, labels.slice(0, 0), "key"))
    assert all(predictions.num_rows == labeled.num_rows for predictions in found.values())
    return {name: 100 * pa.compute.mean(predictions["correct"]).as_py() for name, predictions in found.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kvasir")


def test_every_row_keeps_its_type_and_missing_answers_are_dropped(
    counted: list[Row], labeled: pa.Table, file: Path, tmp_path: Path
) -> None:
    kept = [row for row in counted if row["answer"].strip().lower() not in ("", "nan")]
    assert labeled.num_rows == len(kept) == 29_307
    assert labeled["question_type"].null_count == 0
    types = Counter(labeled["question_type"].to_pylist())
    assert types == Counter(QUESTION_TYPES[row["question"].strip()] for row in kept)
    assert len(types) == 6
    lines = file.read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join([*lines[:3], "Polyps,Is there text?,nan,x", "Polyps,Is there text?, NaN ,x"]))
    assert [len(r.questions) for r in records(tmp_path / "some.csv")] == [2, 0]


def test_answers_of_several_parts_are_compared_as_sets(counted: list[Row]) -> None:
    lists = [row for row in counted if ";" in row["answer"]]
    assert 0.12 < len(lists) / len(counted) < 0.14
    for row in lists:
        turned = "; ".join(reversed([part.strip() for part in row["answer"].split(";")]))
        kind = QUESTION_TYPES[row["question"]]
        assert is_correct(turned, row["answer"], kind)
        if len(items(row)) > 1:
            assert not is_correct(row["answer"].split(";")[0], row["answer"], kind)


def test_priors_learned_from_all_rows(counted: list[Row], labeled: pa.Table, source_of: dict[str, str], folder: Path) -> None:
    found = priors(folder, labeled, labeled, source_of)
    by_hand = {
        "blind_prior": looked_up(counted, counted, "question"),
        "source_prior": looked_up(counted, counted, "question", "source"),
    }
    print(found, by_hand)
    assert found == pytest.approx(by_hand, abs=0.1)
    assert 64.5 < found["blind_prior"] < 65.5
    assert 82.5 < found["source_prior"] < 83.5


@pytest.mark.parametrize("of", ["images", "rows"])
def test_priors_learned_from_one_percent(
    of: Any, counted: list[Row], labeled: pa.Table, source_of: dict[str, str], folder: Path
) -> None:
    found: dict[str, list[float]] = defaultdict(list)
    by_hand: dict[str, list[float]] = defaultdict(list)
    for seed in range(DRAWS):
        drawn = budget.draw(labeled, LabelBudget(fraction=0.01, of=of, seed=seed, validation_fraction=0))
        assert (len(drawn.image_ids) if of == "images" else drawn.train.num_rows) == (52 if of == "images" else 293)
        known = [row | {"source": source_of[row["image_id"]]} for row in drawn.train.to_pylist()]
        for name, percent in priors(folder, drawn.train, labeled, source_of).items():
            found[name].append(percent)
        by_hand["blind_prior"].append(looked_up(known, counted, "question"))
        by_hand["source_prior"].append(looked_up(known, counted, "question", "source"))
    means = {name: statistics.mean(values) for name, values in found.items()}
    print(of, means, {name: statistics.stdev(values) for name, values in found.items()})
    print("by hand", {name: statistics.mean(values) for name, values in by_hand.items()})
    # Of 20 draws: 64.0 +- 1.3 and 79.6 +- 1.3 with images, 63.6 +- 1.4 and 79.6 +- 1.2 with rows
    assert 62.7 < means["blind_prior"] < 64.7
    assert 78.5 < means["source_prior"] < 81.0
    # Back-off and ties differ: by hand an unknown source gets the most common answer of all questions
    assert means["blind_prior"] == pytest.approx(statistics.mean(by_hand["blind_prior"]), abs=1.0)
    assert means["source_prior"] >= statistics.mean(by_hand["source_prior"]) - 0.5
