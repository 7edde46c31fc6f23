"""Parquet: every row of a table is used, refused or quarantined, and belongs to its own image."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from leaml.config import SourceConfig
from leaml.data import tables
from leaml.data.ingest import IngestResult, QuarantineError, ingest
from leaml.data.records import Record
from leaml.data.registry import read
from leaml.errors import DataError


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (seed, 0, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def table(path: Path, **columns: list[Any]) -> str:
    size = len(next(iter(columns.values())))
    columns.setdefault("question", [f"q{n}" for n in range(size)])
    columns.setdefault("answer", ["a"] * size)
    pq.write_table(pa.table(columns), path)
    return str(path)


def asked(path: str, **source: Any) -> list[tuple[bytes | None, list[str]]]:
    return [(r.data, [q.question for q in r.questions]) for r in found(path, **source)]


def found(path: str, **source: Any) -> list[Record]:
    return list(read(SourceConfig(format="parquet", path=path, **source)))


def ingested(path: str, folder: Path) -> IngestResult:
    try:
        return ingest(SourceConfig(format="parquet", path=path), f"{folder}/images", f"{folder}/labeled.parquet")
    except QuarantineError as error:
        return error.result


NAN = float("nan")


@pytest.mark.parametrize("ids", [[1, None, None], ["x", None, ""], [0, None, 0], [1.0, NAN, None]])
@pytest.mark.parametrize("column", ["image_id", "uri"])
def test_rows_without_an_id_are_told_apart_by_their_images(tmp_path: Path, ids: list[Any], column: str) -> None:
    path = table(tmp_path / "a.parquet", **{column: ids}, bytes=[png(1), png(2), png(1 if ids[0] == 0 else 3)])
    if ids[0] == 0:
        assert asked(path) == [(png(1), ["q0", "q2"]), (png(2), ["q1"])]
    else:
        assert asked(path) == [(png(1), ["q0"]), (png(2), ["q1"]), (png(3), ["q2"])]


@pytest.mark.parametrize("nothing", [None, b""])
def test_rows_without_id_and_image_are_counted_each(tmp_path: Path, nothing: bytes | None) -> None:
    path = table(tmp_path / "a.parquet", image_id=["1", *[None] * 4], bytes=[png(1), *[nothing] * 4])
    result = ingested(path, tmp_path / "out")
    assert (result.images, result.seen, len(result.quarantined)) == (1, 5, 4)
    assert (result.labels.rows, result.labels.used, sum(result.labels.refused.values())) == (5, 1, 4)


def test_the_image_may_stand_in_any_row_of_its_id(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", image_id=["1", "2", "1", "1"], bytes=[None, png(2), png(1), None])
    assert asked(path) == [(png(2), ["q1"]), (png(1), ["q0", "q2", "q3"])]


@pytest.mark.parametrize("column", ["image_id", "uri"])
@pytest.mark.parametrize("form", ["bytes", "image", "struct", "base64"])
def test_another_image_under_one_id_is_quarantined_with_both_places(tmp_path: Path, column: str, form: str) -> None:
    images: list[Any] = [png(1), png(2), png(1), png(2)]
    if form == "struct":
        images = [{"bytes": image, "path": "same.png"} for image in images]
    if form == "base64":
        images = [base64.b64encode(image).decode() for image in images]
    path = table(tmp_path / "a.parquet", **{column: ["x"] * 4, "bytes" if form == "bytes" else "image": images})
    first, other = found(path)
    assert (first.data, [q.question for q in first.questions]) == (png(1), ["q0", "q2"])
    assert other.data is None
    assert [q.question for q in other.questions] == ["q1", "q3"]
    assert str(other.error).startswith(f"{path}, row 1 and {path}, row 0 have different images under the {column} 'x'")
    result = ingested(path, tmp_path / "out")
    assert (result.images, len(result.quarantined), result.labels.rows, result.labels.used) == (1, 1, 4, 2)


def test_other_names_under_one_id_are_other_images(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(png(int(name[0])))
    path = table(tmp_path / "a.parquet", image_id=["x", "x"], image=["1.png", "2.png"])
    first, other = found(path)
    assert first.data == png(1)
    assert "different images under the image_id 'x'" in str(other.error)


def test_a_name_may_hold_a_hash(tmp_path: Path) -> None:
    (tmp_path / "a#1.png").write_bytes(png(1))
    assert asked(table(tmp_path / "a.parquet", image=["a#1.png"])) == [(png(1), ["q0"])]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([1, 2, None])), min_size=1, max_size=8))
def test_every_row_is_used_or_refused_with_its_own_image(tmp_path: Path, rows: list[tuple[str | None, int | None]]) -> None:
    path = tmp_path / "any.parquet"
    columns = {
        "image_id": pa.array([name for name, _ in rows], pa.string()),
        "bytes": pa.array([seed and png(seed) for _, seed in rows], pa.binary()),
        "question": [f"q{n}" for n in range(len(rows))],
        "answer": ["a"] * len(rows),
    }
    pq.write_table(pa.table(columns), path)
    records = found(str(path))
    assert sorted(q.question for r in records for q in r.questions) == sorted(f"q{n}" for n in range(len(rows)))
    for record in records:
        for question in record.questions:
            name, seed = rows[int(question.question[1:])]
            if seed is not None and record.error is None:
                assert record.data == png(seed)
            if seed is None and name is None:
                assert record.error == "the row has no image"


def contract(folder: Path, images: list[dict[str, Any]], labels: list[tuple[str, str]]) -> str:
    for number, row in enumerate(images):
        (folder / "images").mkdir(exist_ok=True, parents=True)
        pq.write_table(tables.table([row], tables.IMAGES), folder / "images" / f"part-{number:05d}.parquet")
    rows: list[dict[str, object]] = [{"image_id": name, "question": text, "answer": "a"} for name, text in labels]
    pq.write_table(tables.table(rows, tables.LABELED), folder / "labeled.parquet")
    return str(folder)


def test_labels_whose_image_is_in_no_table_are_refused(tmp_path: Path) -> None:
    path = contract(tmp_path, [{"image_id": "1", "bytes": png(1)}], [("1", "q0"), ("2", "q1"), ("2", "q2")])
    (record,) = found(path)
    assert [q.question for q in record.questions] == ["q0"]
    assert [(row.reason, "image_id '2'" in row.detail) for row in record.refused] == [("no image", True)] * 2


def test_labels_of_another_split_are_not_of_this_source(tmp_path: Path) -> None:
    images = [{"image_id": str(n), "bytes": png(n), "split": "ab"[n]} for n in range(2)]
    path = contract(tmp_path, images, [("0", "q0"), ("1", "q1"), ("9", "q9")])
    (record,) = found(path, split="a")
    assert [q.question for q in record.questions] == ["q0"]
    assert [row.detail[-3:] for row in record.refused] == ["'9'"]


def test_labels_of_an_id_with_several_images_are_refused_with_both_places(tmp_path: Path) -> None:
    images = [{"image_id": "1", "bytes": png(n)} for n in (1, 2)] + [{"image_id": "2", "bytes": png(3)}] * 2
    path = contract(tmp_path, images, [("1", "q0"), ("2", "q1")])
    records = found(path)
    assert [(r.data, [q.question for q in r.questions]) for r in records] == [
        (png(1), []),
        (png(2), []),
        (png(3), ["q1"]),
        (png(3), []),
    ]
    ((refused),) = [row for record in records for row in record.refused]
    assert refused.reason == "several images under one image_id"
    assert f"{path}/images/part-00000.parquet, row 0 and {path}/images/part-00001.parquet, row 0" in refused.detail


RED, BLUE = png(1), png(2)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "columns",
    [
        {"bytes": RED, "image": BLUE},
        {"bytes": RED, "image": {"bytes": BLUE, "path": "1.png"}},
        {"bytes": RED, "image": base64_of(BLUE)},
        {"bytes": RED, "uri": base64_of(BLUE)},
        {"image": RED, "images": [RED, BLUE]},
        {"image": RED, "images": BLUE},
        {"image": RED, "images": [BLUE]},
        {"images": [RED, BLUE]},
        {"image": [RED, BLUE]},
        {"image": ["1.png", "2.png"]},
        {"image": [{"bytes": RED, "path": "1.png"}, {"bytes": BLUE, "path": "2.png"}]},
        {"image": "1.png", "uri": "2.png"},
        {"image": "1.png", "images": ["2.png"]},
        {"image": "1.png", "uri": "2.png", "bytes": RED},
        {"image": {"bytes": None, "path": "1.png"}, "uri": "2.png"},
        {"image": "a/1.png", "uri": "b/1.png"},
    ],
)
@pytest.mark.parametrize("ids", [False, True])
def test_a_row_of_several_images_is_quarantined(tmp_path: Path, columns: dict[str, Any], ids: bool) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(png(int(name[0])))
    same = {"image_id": ["x", "x"]} if ids else {}
    path = table(tmp_path / "a.parquet", **same, **{name: [value, value] for name, value in columns.items()})
    assert [(r.data, str(r.error).partition(":")[0]) for r in found(path)] == [(None, "several images")] * 2
    result = ingested(path, tmp_path / "out")
    assert (result.images, len(result.quarantined), result.labels.rows, result.labels.used) == (0, 2, 2, 0)


@pytest.mark.parametrize(
    "columns",
    [
        {"bytes": RED, "image": RED},
        {"bytes": RED, "image": base64_of(RED)},
        {"image": RED, "images": [RED]},
        {"image": RED, "images": []},
        {"image": [RED]},
        {"images": [RED]},
        {"image": [{"bytes": RED, "path": None}]},
        {"image": ["1.png"]},
        {"image": "./1.png", "uri": "1.png"},
        {"image": "1.png", "uri": "s3://bucket/1.png", "bytes": RED},
        {"image": {"bytes": RED, "path": "0001.png"}, "uri": "1.png"},
        {"image": {"bytes": None, "path": None}, "bytes": RED},
    ],
)
def test_an_image_that_stands_in_a_row_twice_is_one(tmp_path: Path, columns: dict[str, Any]) -> None:
    (tmp_path / "1.png").write_bytes(RED)
    assert asked(table(tmp_path / "a.parquet", **{name: [value] for name, value in columns.items()})) == [(RED, ["q0"])]


@pytest.mark.parametrize(
    "names",
    [
        ("image", "image"),
        ("image", "Image"),
        ("image_id", "image_id"),
        ("answer", "answer"),
        ("bytes", "Bytes"),
        ("split", "split"),
    ],
)
def test_two_columns_of_one_name_are_an_error(tmp_path: Path, names: tuple[str, str]) -> None:
    others = [name for name in ("bytes", "question", "answer") if name not in names]
    arrays = [pa.array([RED if name.lower() in ("bytes", "image") else "x"]) for name in (*others, *names)]
    pq.write_table(pa.table(arrays, names=[*others, *names]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=rf"the columns '{names[0]}' and '{names[1]}' have one name; rename or remove"):
        found(str(tmp_path / "a.parquet"))


def test_two_columns_of_one_name_in_a_table_of_images_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    arrays = [pa.array(["1"]), pa.array(["2"]), pa.array([RED])]
    pq.write_table(pa.table(arrays, names=["image_id", "image_id", "bytes"]), tmp_path / "images" / "0.parquet")
    with pytest.raises(DataError, match=r"0\.parquet: column 'image_id' occurs twice"):
        found(str(tmp_path))


def classed(path: Path, noted: bytes, **columns: Any) -> str:
    made = pa.table({"bytes": [RED, BLUE], "question": ["q0", "q1"], "answer": ["a", "b"]} | columns)
    pq.write_table(made.replace_schema_metadata({b"huggingface": noted}), path)
    return str(path)


@pytest.mark.parametrize(
    "noted",
    [
        b"{",
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"info": []}',
        b'{"info": {"features": [1]}}',
        b'{"info": {"features": {"answer": {"_type": "ClassLabel"}}}}',
        b'{"info": {"features": {"answer": {"_type": "ClassLabel", "names": 2}}}}',
    ],
)
def test_metadata_that_cannot_be_read_is_an_error(tmp_path: Path, noted: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.parquet: the names of its classes cannot be read: .*write the file again"):
        found(classed(tmp_path / "a.parquet", noted))


def test_8_classes_are_names_in_every_column(tmp_path: Path) -> None:
    def feature(*names: str) -> str:
        return f'{{"_type": "ClassLabel", "names": {list(names)}}}'.replace("'", '"')

    features = f'"split": {feature("train", "test")}, "source": {feature("here", "there")}, "answer": {feature("red", "blue")}'
    features += f', "options": {{"_type": "Sequence", "feature": {feature("red", "blue")}}}, "bytes": {{"_type": "Value"}}'
    noted = f'{{"info": {{"features": {{{features}}}}}}}'.encode()
    path = classed(tmp_path / "a.parquet", noted, answer=[1, 0], options=[[0, 1], [1, 0]], split=[0, 1], source=[0, 1])
    for split, data, place in (("train", RED, "here"), ("test", BLUE, "there")):
        (record,) = found(path, split=split)
        assert (record.data, record.split, record.source) == (data, split, place)
        (question,) = record.questions
        assert (question.answer, question.options) == (
            ("blue", ("red", "blue")) if split == "train" else ("red", ("blue", "red"))
        )
    with pytest.raises(DataError, match=r"no row has split 'val', only test, train; correct or remove split"):
        found(path, split="val")


def test_a_split_that_no_row_has_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", bytes=[RED, BLUE], split=["train", "test"])
    with pytest.raises(DataError, match=r"no row has split 'tset', only test, train; correct or remove split"):
        found(path, split="tset")
    assert asked(table(tmp_path / "b.parquet", bytes=[RED, BLUE], split=[1, 2]), split="2") == [(BLUE, ["q1"])]
    folder = contract(tmp_path / "set", [{"image_id": "1", "bytes": RED, "split": "train"}], [("1", "q0")])
    with pytest.raises(DataError, match=r"no row has split 'tset', only train; correct or remove split"):
        found(folder, split="tset")
