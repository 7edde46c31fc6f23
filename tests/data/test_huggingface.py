"""Hugging Face data sets on disk, and the Kvasir-VQA schema on exactly shaped and on real rows."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from kvasir_csv import records as kvasir_records
from PIL import Image

from leaml.config import SourceConfig
from leaml.data.kvasir import QUESTION_TYPES, parse
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


def test_9_rows_without_an_image_are_counted_each(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": png(1), "path": None}, *[None] * 80], "question": ["q"] * 81, "answer": ["a"] * 81}
    found = records(path=save(tmp_path / "set", columns))
    assert [r.error for r in found] == [None, *["the row has no image"] * 80]


@pytest.mark.parametrize("ids", [["x", None, None], [0, None, 2]])
def test_rows_without_an_id_are_told_apart_by_their_images(tmp_path: Path, ids: list[Any]) -> None:
    images = [{"bytes": png(n), "path": None} for n in (1, 2, 3)]
    columns = {"image": images, "img_id": ids, "question": ["q0", "q1", "q2"], "answer": ["a"] * 3}
    found = records(path=save(tmp_path / "set", columns))
    assert [(r.data, r.questions[0].question) for r in found] == [(png(n + 1), f"q{n}") for n in range(3)]


@pytest.mark.parametrize("name", ["img_id", "image_id"])
def test_another_image_under_one_id_is_quarantined_with_both_places(tmp_path: Path, name: str) -> None:
    images = [None, *({"bytes": png(n), "path": "same.png"} for n in (1, 2, 1, 2))]
    columns = {"image": images, name: ["x"] * 5, "question": [f"q{n}" for n in range(5)], "answer": ["a"] * 5}
    path = save(tmp_path / "set", columns)
    first, other = records(path=path)
    assert (first.data, [q.question for q in first.questions]) == (png(1), ["q0", "q1", "q3"])
    assert (other.data, [q.question for q in other.questions]) == (None, ["q2", "q4"])
    assert str(other.error).startswith(f"{path}, row 2 and {path}, row 1 have different images under the {name} 'x'")
    assert first.uri != other.uri


def test_the_name_of_an_image_in_a_folder_does_not_say_where_the_folder_lies(tmp_path: Path) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / "1.png").write_bytes(png(1))
    (tmp_path / "set" / "train" / "metadata.csv").write_text("file_name,question,answer\n1.png,q,a\n")
    (found,) = records(path=str(tmp_path / "set"))
    assert (found.data, found.questions) == (png(1), (Question("q", "a"),))
    assert found.uri == f"{tmp_path}/set#train/1.png"


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
    found = list(kvasir_records(ROWS))
    questions = [q for r in found for q in r.questions]
    assert len(found) == 5178
    assert len(questions) == 29307
    assert {q.question for q in questions} == set(QUESTION_TYPES)
    templates = Counter(QUESTION_TYPES.values())
    assert templates == {"yes_no": 5, "single_choice": 3, "multiple_choice": 3, "color": 2, "location": 3, "count": 3}
    assert all(q.question_type is not None for q in questions)
    assert {r.source for r in found} == {"Normal", "Polyps", "Esophagitis", "Ulcerative Colitis", "Instrument"}
    assert Counter(q.answer for q in questions if q.question == "Have all polyps been removed?")["not relevant"] == 1393


ANSWERS = ["007", "None", "NA", "null", "2020-01-01", "1e5", "true", "3.10", "N/A"]


def folder_of_images(path: Path, name: str, prefix: str = "", above: bool = False) -> str:
    (path / "train").mkdir(parents=True)
    folder = path if above else path / "train"
    rows = []
    for n, answer in enumerate(ANSWERS):
        (path / "train" / f"{n}.png").write_bytes(png(n))
        row = {"file_name": f"{prefix}{'train/' if above else ''}{n}.png", "question": f"q{n}", "answer": answer}
        rows += [row | {"img_id": f"0{n}"}]
    if name.endswith(".jsonl"):
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    else:
        (folder / name).write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    return str(path)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("prefix", ["", "./", ".//", "././"])
def test_15_texts_of_a_metadata_file_are_those_that_are_written(tmp_path: Path, name: str, prefix: str) -> None:
    path = folder_of_images(tmp_path / "set", name, prefix)
    found = records(path=path)
    assert [(r.data, [q.answer for q in r.questions]) for r in found] == [(png(n), [a]) for n, a in enumerate(ANSWERS)]
    assert [Path(str(r.questions[0].where)).name for r in found[:2]] == (
        [f"{name}:{n}" for n in ((1, 2) if name.endswith("jsonl") else (2, 3))]
    )
    assert [r.uri.rpartition("#")[2] for r in found[:2]] == ["00", "01"]


def test_15_a_linked_folder_and_a_file_above_the_images_are_read_alike(tmp_path: Path) -> None:
    path = folder_of_images(tmp_path / "set", "metadata.csv", above=True)
    (tmp_path / "link").symlink_to(path)
    for place in (path, str(tmp_path / "link"), f"{path}/", f"{tmp_path}/link/../set"):
        assert [r.questions[0].answer for r in records(path=place)] == ANSWERS


def test_15_other_rows_of_one_image_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.png").write_bytes(png(1))
    (tmp_path / "set" / "metadata.csv").write_text("file_name,question,answer\n1.png,q0,01\n./1.png,q1,02\n1.png,q2,\n")
    (found,) = records(path=str(tmp_path / "set"))
    assert found.questions == (Question("q0", "01"), Question("q1", "02"))
    assert [(Path(row.where).name, row.reason) for row in found.refused] == [("metadata.csv:4", "no answer")]


@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "labels.csv"])
def test_15_csv_files_that_pandas_reads_are_refused_with_the_format(tmp_path: Path, name: str) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "set").mkdir()
    cells = [["image", "question", "answer"], [str(tmp_path / "1.png"), "q", "007"]]
    (tmp_path / "set" / name).write_text("".join(("\t" if "tsv" in name else ",").join(row) + "\n" for row in cells))
    with pytest.raises(DataError, match="set format: csv and path to that file"):
        records(path=str(tmp_path / "set"))


def test_two_columns_of_images_are_an_error(tmp_path: Path) -> None:
    image = {"bytes": png(1), "path": None}
    columns: dict[str, list[Any]] = {"image": [image], "images": [[image]], "question": ["q"], "answer": ["a"]}
    with pytest.raises(DataError, match="the columns 'image' and 'images': which one"):
        records(path=save(tmp_path / "set", columns))
