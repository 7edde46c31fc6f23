"""The same rows are the same labels, refused rows and doubts in every format that holds them."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from leaml.config import SourceConfig
from leaml.data.label_rows import LETTER_ALONE, LOST
from leaml.data.records import NO_QUESTION, Record
from leaml.data.registry import read
from leaml.data.row_files import SEVERAL

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(seed: int = 1) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (seed, 0, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def jsonl(folder: Path, row: Row) -> SourceConfig:
    (folder / "a.png").write_bytes(png())
    (folder / "rows.jsonl").write_text(json.dumps({"image": "a.png"} | row))
    return SourceConfig(format="jsonl", path=f"{folder}/rows.jsonl")


def table(folder: Path, row: Row) -> SourceConfig:
    (folder / "a.png").write_bytes(png())
    cells = {name: json.dumps(cell) if isinstance(cell, list | dict) else cell for name, cell in row.items()}
    with (folder / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["image", *cells])
        writer.writeheader()
        writer.writerow({"image": "a.png"} | cells)
    return SourceConfig(format="csv", path=f"{folder}/rows.csv")


def parquet(folder: Path, row: Row) -> SourceConfig:
    pq.write_table(pa.Table.from_pylist([{"bytes": png()} | row]), folder / "rows.parquet")
    return SourceConfig(format="parquet", path=f"{folder}/rows.parquet")


def hub(folder: Path, row: Row) -> SourceConfig:
    columns = {"image": [{"bytes": png(), "path": None}]} | {name: [value] for name, value in row.items()}
    datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).save_to_disk(f"{folder}/set")
    return SourceConfig(format="huggingface", path=f"{folder}/set")


def beside(folder: Path, row: Row) -> SourceConfig:
    """A folder of images with metadata.jsonl."""
    (folder / "set").mkdir()
    (folder / "set" / "a.png").write_bytes(png())
    (folder / "set" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png"} | row))
    return SourceConfig(format="huggingface", path=f"{folder}/set")


def shard(folder: Path, row: Row) -> SourceConfig:
    with tarfile.open(folder / "0.tar", "w") as archive:
        for name, data in (("a.png", png()), ("a.json", json.dumps(row).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return SourceConfig(format="webdataset", path=f"{folder}/0.tar")


FORMATS: dict[str, Callable[[Path, Row], SourceConfig]] = {
    "csv": table,
    "parquet": parquet,
    "data set": hub,
    "folder": beside,
    "webdataset": shard,
}
ASKED = {"question": "which?", "answer": "A"}
EMPTY = "no label row"
ROWS: dict[str, tuple[Row, str | None]] = {
    "plain": (ASKED | {"options": ["red", "blue"], "question_type": "colour"}, None),
    "numbers": ({"question": "how many?", "answer": 3, "width": 8}, None),
    "options under another name": (ASKED | {"choices": ["red", "blue"]}, LOST),
    "options of no known name": (ASKED | {"said": ["red", "blue"]}, LETTER_ALONE),
    "options in columns of no known name": (ASKED | {"opa": "red", "opb": "blue"}, LETTER_ALONE),
    "a list of answers": (ASKED | {"people": ["A", "B"]}, None),
    "empty columns of options": (ASKED | {"answer": "red", "option_a": None, "option_b": None}, None),
    "one column of options beside an empty one": (ASKED | {"option_a": "red", "option_b": None}, LOST),
    "no options, but others": ({"question": "q", "answer": "red", "options": None, "optoins": ["red", "blue"]}, LOST),
    "an empty key that is misspelt": (ASKED | {"answer": "red", "optoins": None}, None),
    "a misspelt key": ({"question": "q", "anwser": "red"}, "no answer"),
    "a misspelt key beside an empty one": ({"question": "q", "answer": None, "response": "red"}, "no answer"),
    "a doubt": ({"question": "q", "answer": "red", "question_typ": "x"}, None),
    "no question": ({"width": 3, "label": "seven"}, NO_QUESTION),
    "an image alone": ({"source": "x", "image_id": "7", "caption": "red"}, EMPTY),
    "labels of another data set": ({"query": "q", "response": "red"}, "no question"),
}


def said(record: Record) -> tuple[Any, ...]:
    return record.error, record.questions, [q.doubts for q in record.questions], [(r.reason, r.detail) for r in record.refused]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ROWS)
def test_a_row_is_the_same_in_every_format(tmp_path: Path, kind: str, form: str) -> None:
    row, reason = ROWS[kind]
    (tmp_path / "first").mkdir()
    (wanted,) = read(jsonl(tmp_path / "first", row))
    (found,) = read(FORMATS[form](tmp_path, row))
    if form == "webdataset" and reason in (NO_QUESTION, EMPTY):  # it counts every member without a label
        assert ([r.reason for r in found.refused], found.questions) == ([NO_QUESTION], ())
    else:
        assert said(found) == said(wanted)
        assert [r.reason for r in found.refused] == ([reason] if reason not in (None, EMPTY) else [])


@pytest.mark.parametrize("form", ["parquet", "data set"])
def test_columns_of_bytes_are_not_read_and_may_be_the_options(tmp_path: Path, form: str) -> None:
    (record,) = read(FORMATS[form](tmp_path, ASKED | {"option_a": b"x", "option_b": b"y", "mask": b"z"}))
    assert [row.reason for row in record.refused] == [LOST]


HALF, SINGLE = pa.float16(), pa.float32()
TYPED = {
    "float16": (pa.array([0.1], HALF), None, "0.1"),
    "float16 of whole numbers": (pa.array([3.0], HALF), None, "3"),
    "float16 of great whole numbers": (pa.array([4112.0], HALF), None, "4112"),
    "float32 of great whole numbers": (pa.array([100000008.0], SINGLE), None, "100000008"),
    "float64 of great whole numbers": (pa.array([1e16]), None, "10000000000000000"),
    "small float64": (pa.array([1e-10]), None, "0.0000000001"),
    "decimal": (pa.array([Decimal("3.0")]), None, "3"),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['"red"'])), None, "red"),
    "float32": (pa.array([1.1], SINGLE), None, "1.1"),
    "float64 that is a float32 as well": (pa.array([2.0**-15]), None, "0.000030517578125"),
    "dictionary": (pa.array([0.1], SINGLE).dictionary_encode(), None, "0.1"),
    "list": (pa.array(["A"]), pa.array([[0.1, 0.2]], pa.list_(HALF)), "A"),
    "object": (pa.array(["A"]), pa.array([{"A": 0.1, "B": 0.2}], pa.struct([("A", HALF), ("B", SINGLE)])), "A"),
    "map": (pa.array(["A"]), pa.array([[("A", 0.1), ("B", 0.2)]], pa.map_(pa.string(), SINGLE)), "A"),
    "bytes": (pa.array(["blå".encode()], pa.large_binary()), None, "blå"),
    "bytes in a list": (pa.array([b"A"]), pa.array([[b"0.1", b"0.2"]]), "A"),
}


def put(folder: Path, answer: pa.Array, form: str, **others: pa.Array) -> SourceConfig:
    columns = {"image_id": pa.array(["1"]), "question": pa.array(["which?"]), "answer": answer} | others
    if form == "contract":
        pq.write_table(pa.table({"image_id": ["1"], "bytes": [png()]}), folder / "images.parquet")
        pq.write_table(pa.table(columns), folder / "labeled.parquet")
        return SourceConfig(format="parquet", path=str(folder))
    if form == "parquet":
        pq.write_table(pa.table(columns | {"bytes": pa.array([png()])}), folder / "rows.parquet")
        return SourceConfig(format="parquet", path=f"{folder}/rows.parquet")
    image = pa.array([{"bytes": png(), "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    made = datasets.Dataset(pa.table(columns | {"image": image})).cast_column("image", datasets.Image())
    made.save_to_disk(f"{folder}/set")
    return SourceConfig(format="huggingface", path=f"{folder}/set")


HELD = [(kind, form) for kind in TYPED for form in ("parquet", "data set", "contract")]
HELD = [(kind, form) for kind, form in HELD if form != "data set" or kind != "map"]  # datasets has no maps


@pytest.mark.parametrize(("kind", "form"), HELD)
def test_8_values_of_typed_columns_are_what_was_written(tmp_path: Path, kind: str, form: str) -> None:
    answer, options, text = TYPED[kind]
    others = {} if options is None else {"options": options}
    source = put(tmp_path, answer, form, question=pa.array([b"which?"]), **others)
    (record,) = read(source)
    assert [(q.question, q.answer, q.options) for q in record.questions] == [
        ("which?", text, None if options is None else ("0.1", "0.2"))
    ], record.refused


TIMES = {
    "an unknown zone": pa.array([0], pa.timestamp("us", "Asia/Beijing")),
    "after the year 9999": pa.array([2**62], pa.timestamp("us")),
    "a long duration": pa.array([2**62], pa.duration("s")),
    "a late date": pa.array([2**30], pa.date32()),
}
NO_TEXTS = TIMES | {
    "infinite": pa.array([float("inf")]),
    "a duration": pa.array([5123456], pa.duration("us")),
    "a date": pa.array([1], pa.date32()),
    "true or false": pa.array([True]),
}


@pytest.mark.parametrize("form", ["parquet", "data set", "contract"])
@pytest.mark.parametrize("kind", NO_TEXTS)
def test_8_values_that_are_no_texts_are_refused_alike(tmp_path: Path, kind: str, form: str) -> None:
    (record,) = read(put(tmp_path, NO_TEXTS[kind], form))
    assert [(row.reason, row.where.rpartition(", ")[2]) for row in record.refused] == [("answer is no text", "row 0")]


@pytest.mark.parametrize("form", ["parquet", "data set", "contract"])
@pytest.mark.parametrize("kind", TIMES)
def test_8_a_time_that_python_cannot_hold_in_another_column_ends_nothing(tmp_path: Path, kind: str, form: str) -> None:
    (record,) = read(put(tmp_path, pa.array(["red"]), form, created=TIMES[kind]))
    assert [question.answer for question in record.questions] == ["red"], record.refused


@pytest.mark.parametrize("form", ["parquet", "contract"])  # datasets does not know the type
def test_8_months_of_pandas_are_no_numbers(tmp_path: Path, form: str) -> None:
    months = pa.array(pd.Series(pd.period_range("2020", periods=1, freq="M")))
    (record,) = read(put(tmp_path, months, form))
    assert [(row.reason, "period" in row.detail) for row in record.refused] == [("answer is no text", True)]


@pytest.mark.parametrize("form", ["parquet", "data set"])
def test_8_ids_may_be_bytes(tmp_path: Path, form: str) -> None:
    (record,) = read(put(tmp_path, pa.array(["red"]), form, image_id=pa.array([b"scan 7"])))
    assert (record.uri.rpartition("#")[2], [question.answer for question in record.questions]) == ("scan 7", ["red"])


@pytest.mark.parametrize("form", ["parquet", "data set"])
def test_8_an_answer_of_bytes_that_are_no_text_is_refused_as_such(tmp_path: Path, form: str) -> None:
    (record,) = read(FORMATS[form](tmp_path, {"question": "which?", "answer": b"\xff\xd8"}))
    found = [(row.reason, row.detail) for row in record.refused]
    assert found == [("answer is no text", r"the answer is b'\xff\xd8', not text")]


CLASSES = datasets.ClassLabel(names=["red", "blue"])
NUMBERS = datasets.Value("int64")
FEATURES = {
    "list": (datasets.List(CLASSES), [0, 1]),
    "list of objects": (datasets.List({"label": CLASSES}), [{"label": 0}, {"label": 1}]),
    "object of lists": (datasets.Sequence({"id": NUMBERS, "text": CLASSES}), {"id": [0, 1], "text": [0, 1]}),
    "object": ({"A": CLASSES, "B": CLASSES}, {"A": 0, "B": 1}),
    "list of objects with more": (
        datasets.List({"id": NUMBERS, "text": CLASSES}),
        [{"text": 0, "id": 0}, {"text": 1, "id": 1}],
    ),
}


@pytest.mark.parametrize("form", ["parquet", "data set"])
@pytest.mark.parametrize("kind", FEATURES)
def test_classes_inside_of_lists_and_objects_are_their_names(tmp_path: Path, kind: str, form: str) -> None:
    feature, options = FEATURES[kind]
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": CLASSES, "options": feature}
    )
    rows = {"image": [{"bytes": png(), "path": None}], "question": ["q"], "answer": [1], "options": [options]}
    made = datasets.Dataset.from_dict(rows, features)
    if form == "parquet":
        made.to_parquet(f"{tmp_path}/rows.parquet")
    else:
        made.save_to_disk(f"{tmp_path}/rows.parquet")
    source = SourceConfig(format="parquet" if form == "parquet" else "huggingface", path=f"{tmp_path}/rows.parquet")
    (record,) = read(source)
    assert [(q.answer, q.options) for q in record.questions] == [("blue", ("red", "blue"))], record.refused


ROUNDS = [
    {"user": "What is it?", "assistant": "A dog.", "source": "vqa"},
    {"user": "Which colour?", "assistant": "Red.", "source": "vqa"},
]
TWO = [("What is it?", "A dog."), ("Which colour?", "Red.")]


def cauldron(folder: Path, texts: Any, form: str, images: int = 1) -> SourceConfig:
    """A row as The Cauldron has them: `images`, a list, and `texts`."""
    held = [{"bytes": png(n), "path": None} for n in range(images)]
    if form in ("jsonl", "conversations"):
        for n in range(images):
            (folder / f"{n}.png").write_bytes(png(n))
        row = {"images": [f"{n}.png" for n in range(images)], "texts": texts}
        (folder / "rows.json").write_text(json.dumps(row))
        return SourceConfig(format=form, path=f"{folder}/rows.json")
    if form == "webdataset":
        return shard(folder, {"texts": texts})
    made = datasets.Dataset.from_dict({"images": [held], "texts": [texts]})
    made = made.cast_column("images", datasets.List(datasets.Image()))
    if form == "parquet":
        made.to_parquet(f"{folder}/rows.parquet")
        return SourceConfig(format=form, path=f"{folder}/rows.parquet")
    made.save_to_disk(f"{folder}/set")
    return SourceConfig(format=form, path=f"{folder}/set")


@pytest.mark.parametrize("form", ["conversations", "parquet", "huggingface", "webdataset"])
def test_the_rounds_of_the_cauldron_are_questions_and_answers(tmp_path: Path, form: str) -> None:
    (record,) = read(cauldron(tmp_path, ROUNDS, form))
    assert [(q.question, q.answer) for q in record.questions] == TWO
    assert (record.refused, record.error) == ((), None) and record.data


@pytest.mark.parametrize("form", ["parquet", "huggingface", "webdataset", "conversations"])
def test_a_round_without_a_reply_is_refused_and_the_others_are_read(tmp_path: Path, form: str) -> None:
    rounds = [ROUNDS[0], {"user": "And?", "assistant": None, "source": "vqa"}, ROUNDS[1]]
    (record,) = read(cauldron(tmp_path, rounds, form))
    assert [(q.question, q.answer) for q in record.questions] == TWO
    assert [row.reason for row in record.refused] == ["turn without its counterpart"]


@pytest.mark.parametrize("form", ["parquet", "huggingface"])
def test_rounds_about_several_images_are_in_quarantine(tmp_path: Path, form: str) -> None:
    (record,) = read(cauldron(tmp_path, ROUNDS, form, images=2))
    assert record.data is None and str(record.error).startswith(f"{SEVERAL}: 2 in the column 'images'")
    assert [(q.question, q.answer) for q in record.questions] == TWO  # counted with their image


def test_rounds_about_several_images_and_of_a_file_of_rows_are_refused(tmp_path: Path) -> None:
    source = cauldron(tmp_path, ROUNDS, "conversations", images=2)
    rows = [json.loads((tmp_path / "rows.json").read_text()), {"images": ["0.png"], "texts": ROUNDS}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (record,) = read(source)
    assert [(q.question, q.answer) for q in record.questions] == TWO
    assert [row.reason for row in record.refused] == [SEVERAL] * 2  # one for each round
    ((refused,),) = [record.refused for record in read(cauldron(tmp_path, ROUNDS, "jsonl"))]
    assert refused.reason == "no question" and "key 'texts': format: conversations reads it" in refused.detail


@pytest.mark.parametrize("form", ["parquet", "huggingface"])
def test_texts_that_are_no_rounds_do_not_hide_a_question(tmp_path: Path, form: str) -> None:
    row = {"question": "q", "answer": "red", "texts": ["what", "a sign", "says"], "conversations": None}
    (record,) = read(FORMATS["parquet" if form == "parquet" else "data set"](tmp_path, row))
    assert [(q.question, q.answer) for q in record.questions] == [("q", "red")]


@pytest.mark.parametrize("form", ["parquet", "data set"])
@pytest.mark.parametrize("key", ["conversations", "messages"])
def test_chats_in_tables_are_read(tmp_path: Path, key: str, form: str) -> None:
    names = ("from", "value", "human", "gpt") if key == "conversations" else ("role", "content", "user", "assistant")
    turns = [
        {names[0]: who, names[1]: text} for who, text in zip(names[2:] * 2, ("What?", "A dog.", "Red?", "No."), strict=True)
    ]
    (record,) = read(FORMATS[form](tmp_path, {key: turns}))
    assert [(q.question, q.answer) for q in record.questions] == [("What?", "A dog."), ("Red?", "No.")]
