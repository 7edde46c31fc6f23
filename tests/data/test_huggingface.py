"""Hugging Face data sets on disk, and the Kvasir-VQA schema on exactly shaped and on real rows."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from leaml.config import SourceConfig
from leaml.data.kvasir import QUESTION_TYPES, kvasir_rows_csv, parse
from leaml.data.records import Question, Record, hash_split
from leaml.data.registry import read
from leaml.errors import DataError

ROWS = Path(__file__).parents[2] / ".." / "shared" / "data" / "kvasir_vqa_rows.csv"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (seed, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def save(path: Path, columns: dict[str, list[Any]], split: str | None = None) -> str:
    data = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    (data if split is None else datasets.DatasetDict({split: data})).save_to_disk(str(path))
    return str(path)


def records(**source: Any) -> list[Record]:
    return list(read(SourceConfig(format="huggingface", **source)))


def test_generic_columns_group_equal_images(tmp_path: Path) -> None:
    images = [{"bytes": png(n), "path": None} for n in (1, 2, 1)]
    columns = {"image": images, "question": ["q0", "q1", "q2"], "answer": ["A", "x", "B"], "options": [["x", "y"]] * 3}
    first, second = records(path=save(tmp_path / "set", columns))
    assert (first.data, second.data) == (png(1), png(2))
    assert first.questions == (Question("q0", "A", None, ("x", "y")), Question("q2", "B", None, ("x", "y")))
    assert len(records(path=str(tmp_path / "set"), limit=1)) == 1


def test_rows_without_an_image_are_error_records(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": png(1), "path": None}, None], "question": ["q", "q"], "answer": ["a", "a"]}
    good, bad = records(path=save(tmp_path / "set", columns))
    assert good.data == png(1)
    assert bad.error == "the row has no image"


def test_splits_have_to_be_named_where_there_are_several(tmp_path: Path) -> None:
    def part(n: int) -> datasets.Dataset:
        return datasets.Dataset.from_dict({"image": [{"bytes": png(n), "path": None}]}).cast_column("image", datasets.Image())

    datasets.DatasetDict({"train": part(1), "val": part(2)}).save_to_disk(str(tmp_path / "set"))
    assert [(r.data, r.split) for r in records(path=str(tmp_path / "set"), split="val")] == [(png(2), "val")]
    for split in (None, "test"):
        with pytest.raises(DataError, match=rf"split is {split!r}; it has train, val"):
            records(path=str(tmp_path / "set"), split=split)


def test_missing_data_set_and_missing_column_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot load the data set"):
        records(path=str(tmp_path / "gone"))
    datasets.Dataset.from_dict({"text": ["x"]}).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(DataError, match=r"no column 'image'; it has \['text'\]"):
        records(path=str(tmp_path / "text"))


def kvasir_columns(images: int) -> dict[str, list[Any]]:
    rows = [
        ("Is there text?", "yes"),
        ("What color is the abnormality? If more than one separate with ;", "red; pink"),
        ("How many instrumnets are in the image?", "0"),
        ("Have all polyps been removed?", "nan"),
        ("Is this finding easy to detect?", ""),
    ]
    return {
        "image": [{"bytes": png(n), "path": None} for n in range(images) for _ in rows],
        "source": ["Polyps" if n % 2 else "Normal" for n in range(images) for _ in rows],
        "question": [q for _ in range(images) for q, _ in rows],
        "answer": [a for _ in range(images) for _, a in rows],
        "img_id": [f"img{n}" for n in range(images) for _ in rows],
    }


def test_kvasir_schema(tmp_path: Path) -> None:
    path = save(tmp_path / "kvasir", kvasir_columns(20), "raw")
    found = records(path=path)
    assert [r.data for r in found] == [png(n) for n in range(20)]
    assert found[1].source == "Polyps"
    assert found[1].questions == (
        Question("Is there text?", "yes", "yes_no"),
        Question("What color is the abnormality? If more than one separate with ;", "red; pink", "color"),
        Question("How many instrumnets are in the image?", "0", "count"),
    )
    train, test = records(path=path, split="train"), records(path=path, split="test")
    assert sorted(r.uri for r in train + test) == sorted(r.uri for r in found)
    assert train and test
    assert all(hash_split(r.uri.rpartition("#")[2]) == "test" == r.split for r in test)
    assert len(records(path=path, split="raw")) == 20


def test_kvasir_parse() -> None:
    assert parse("Is there text?", " NaN ") is None
    assert parse("Is there text?", None) is None
    assert parse("What else?", "x") == Question("What else?", "x", None)


def test_kvasir_real_rows() -> None:
    if not ROWS.exists():
        pytest.skip("needs kvasir_vqa_rows.csv (half of the public rows) in ../shared/data, which is not part of the project")
    found = list(kvasir_rows_csv(str(ROWS)))
    questions = [q for r in found for q in r.questions]
    assert len(found) == 5178
    assert len(questions) == 29307
    assert {q.question for q in questions} == set(QUESTION_TYPES)
    templates = Counter(QUESTION_TYPES.values())
    assert templates == {"yes_no": 5, "single_choice": 3, "multiple_choice": 3, "color": 2, "location": 3, "count": 3}
    assert all(q.question_type is not None for q in questions)
    assert {r.source for r in found} == {"Normal", "Polyps", "Esophagitis", "Ulcerative Colitis", "Instrument"}
    assert Counter(q.answer for q in questions if q.question == "Have all polyps been removed?")["not relevant"] == 1393
    with pytest.raises(DataError, match="needs the columns"):
        list(kvasir_rows_csv(__file__))
