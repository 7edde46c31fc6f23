"""Files of labels that are of another kind, have keys twice or under other names, or name images that are not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from leaml.config import SourceConfig
from leaml.data import captions, json_text
from leaml.data.label_rows import DOUBLED, PLACEHOLDER, check, parse
from leaml.data.records import NO_QUESTION, Question, Record, RefusedRow
from leaml.data.registry import read
from leaml.errors import DataError

ROW = '{"image": "a.png", "question": "which?", "answer": "red"}'
PRETTY = json.dumps(json.loads(ROW), indent=2)


def written(folder: Path, text: str | bytes, name: str) -> str:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(folder / name)


def records(folder: Path, text: str | bytes, form: str, **more: Any) -> list[Record]:
    return list(read(SourceConfig(format=form, path=written(folder, text, f"labels.{form}"), **more)))


def refused(folder: Path, text: str, form: str = "jsonl") -> list[tuple[str, str]]:
    return [(row.reason, row.detail) for record in records(folder, text, form) for row in record.refused]


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("jsonl", f"[{ROW}]", r"labels\.jsonl: it is a JSON list: write each of its entries on a line .*format: jsonl"),
        ("jsonl", f"[\n  {ROW},\n  {ROW}\n]", r"labels\.jsonl: it is a JSON list"),
        ("jsonl", '[{"image": "a.png", "conversations": []}]', "it is a JSON list: set format: conversations"),
        ("jsonl", '[\n{"image": "a.png", "conversations": []}\n]', "it is a JSON list: set format: conversations"),
        ("jsonl", '{\n  "image": "a.png"\n}', "one JSON object over several lines"),
        ("jsonl", f"{PRETTY}\n{PRETTY}\n", r"labels\.jsonl: its JSON objects stand over several lines; write each row"),
        ("jsonl", f"{ROW}\n{PRETTY}", r"labels\.jsonl: its JSON objects stand over several lines"),
        ("jsonl", f"[\n{ROW},\n{ROW},\n]", r"it is a JSON list: .*; before that, remove the comma before its closing bracket$"),
        ("jsonl", ROW[:-1] + ",}", r"labels\.jsonl:1: not valid JSON \(remove the comma before the closing bracket: column"),
        ("jsonl", f"{ROW}\n{ROW[:-1]},}}\n{ROW}", r"labels\.jsonl:2: .*remove the comma before the closing bracket"),
        ("jsonl", f"{ROW},\n{ROW}\n", r"labels\.jsonl:1: not valid JSON \(remove the comma behind the value: column \d+\)"),
        ("jsonl", f"{ROW}\n{ROW} {ROW}\n", r"labels\.jsonl:2: several JSON values on one line; write each row on a line"),
        ("jsonl", ROW.replace('"', "'"), r"labels\.jsonl:1: not valid JSON \(it is Python, and JSON has double quotes"),
        ("conversations", '[\n{"image": "a,]b.png", "conversations": []},\n]', r"labels.*:2: .*remove the comma before"),
        ("jsonl", "image,question,answer\na.png,q,a\n", "it looks like a table: set format: csv"),
        ("jsonl", b"PAR1\xff\xff", "a Parquet file: set format: parquet"),
        ("jsonl", b"\x1f\x8b\x08\xff", "a gzip file: unpack it"),
        ("jsonl", "[" * 100_000, r"labels\.jsonl:1: .*nested too deep"),
        ("jsonl", '{"image": ' + "1" * 5000 + "}", r"labels\.jsonl:1: .*not valid JSON"),
        ("csv", ROW + "\n", "it looks like JSON Lines: set format: jsonl"),
        ("csv", f"[{ROW}]", "it is a JSON list"),
        ("csv", b"PK\x03\x04\xff", "an Excel or zip file: save it as CSV"),
        ("csv", b"\xff\xfei\0", "UTF-16: save it as UTF-8"),
        ("csv", "Image,Question,Answer\na.png,q,a\n", "write 'image' for 'Image', 'question' for 'Question', 'answer' for"),
        ("csv", "img;q;a\na.png;q;a\n", "write 'image' for 'img', 'question' for 'q', 'answer' for 'a'"),
        ("csv", "File Name\tquestion\tanswer\n", "write 'image' for 'File Name'$"),
        ("csv", "image,question,answer\n", "holds no row below its line of column names"),
        ("jsonl", "\n\n", "holds no row; write one"),
        ("conversations", "[]", "holds no conversation"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_named_with_the_fix(tmp_path: Path, form: str, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as stopped:
        records(tmp_path, text, form)
    assert len(str(stopped.value)) < 600


@pytest.mark.parametrize("form", ["jsonl", "csv", "conversations"])
def test_a_folder_given_as_a_file_is_called_one(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match=r"is a folder; give the path of a file$"):
        read(SourceConfig(format=form, path=str(tmp_path)))


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("jsonl", ROW + "\n" + ROW[:-1] + ', "answer": "blue"}', r"labels\.jsonl:2: the key 'answer' occurs twice"),
        ("jsonl", '{"image": "a.png", "options": {"A": "x", "A": "y"}}', r"labels\.jsonl:1: the key 'A' occurs twice"),
        ("conversations", '[{"image": "a.png", "image": "b.png"}]', "the key 'image' occurs twice"),
        ("sportu", '[{"id": "a", "id": "b"}]', "the key 'id' occurs twice"),
        ("csv", "image,answer,question,answer\na.png,x,q,y\n", r"\.csv:1: the columns 'answer' and 'answer' have one name"),
        ("csv", "image,question,answer, Answer\na.png,q,x,y\n", "the columns 'answer' and 'Answer' have one name"),
    ],
)  # fmt: skip
def test_doubled_keys_are_refused(tmp_path: Path, form: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        records(tmp_path, text, form)


def test_doubled_keys_of_options_and_captions_are_refused_and_unnamed_columns_are_none(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "A"}
    for options in ('{"A": "red", "A": "blue"}', "{'A': 'red', 'A': 'blue'}", "{'A': 'red', 'B': 'x', 'A': 'blue'}"):
        found = parse(row | {"options": options}, "f:1")
        assert isinstance(found, RefusedRow) and "occurs twice" in found.detail
    for names in ({"answer": "A", "Answer": "B"}, {"answer": "A", " options": ["x"], "options": ["a", "b"]}):
        found = parse({"question": "q"} | names, "f:1")
        assert isinstance(found, RefusedRow) and found.reason == DOUBLED
    with pytest.raises(DataError, match="have one name"):
        captions.read(written(tmp_path, "image,caption,caption\na,b,c\n", "c.csv"))
    with pytest.raises(DataError, match="'a' occurs twice"):
        captions.read(written(tmp_path, '{"a": "x", "a": "y"}', "c.json"))
    with pytest.raises(json_text.DuplicateJsonKeyError):
        json_text.loads('[{"b": {"": 1, "": 1}}]')
    (record,) = records(tmp_path, ",image,question,answer,,\n0,a.png,q,x,,\n", "csv")
    assert record.questions == (Question("q", "x"),)


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("image,question,answer,", "a.png,Is it red, or blue?,red"),
        ("image,question,answer,,", "a.png,q,x,,y"),
        (",image,question,answer, ", "0,a.png,q,x,y"),
        ("image;question;answer;", "a.png;Is it red; or blue?;red"),
        ("image,question,answer", "a.png,q,x,"),
    ],
)
def test_cells_without_a_named_column_are_not_dropped(tmp_path: Path, head: str, row: str) -> None:
    with pytest.raises(DataError, match=r"labels\.csv:2: more cells than columns"):
        records(tmp_path, f"{head}\n{row}\n", "csv")


def test_cells_of_captions_without_a_named_column_are_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"c\.csv:3: more cells than columns"):
        captions.read(written(tmp_path, "image,caption,\na.png,red,\nb.png,red, and blue\n", "c.csv"))
    assert captions.read(written(tmp_path, ",image,caption,\n0,a.png,red,\n", "c.csv")) is not None


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (
            {"annotations": [{"question": "q", "answer": "a"}]},
            "'annotations': write a row with 'question' and 'answer' for each",
        ),
        ({"qas": []}, "'qas': write a row"),
        ({"query": "q", "response": "a"}, "key 'query': did you mean 'question'?, key 'response': did you mean 'answer'?"),
        ({"Q": "q", "A": "a"}, "key 'Q': did you mean 'question'?, key 'A': did you mean 'answer'?"),
        ({"conversations": []}, "read by format: conversations"),
        ({"dialogue": []}, "did you mean 'conversations'?"),
        ({"Question": "q", "Answer": "a"}, "key 'Question': did you mean 'question'?"),
    ],
)
def test_labels_under_other_keys_are_refused_with_a_suggestion(tmp_path: Path, row: dict[str, Any], hint: str) -> None:
    ((reason, detail),) = refused(tmp_path, json.dumps({"image": "a.png"} | row))
    assert reason == "no question" and hint in detail


def test_rows_of_other_keys_are_counted_and_images_alone_are_no_rows(tmp_path: Path) -> None:
    assert refused(tmp_path, '{"image": "a.png", "width": 3, "label": 7}') == [
        (NO_QUESTION, "only the keys ['width', 'label']")
    ]
    assert refused(tmp_path, '{"image": "a.png", "split": "x"}\n{"image": "b.png", "question": null, "answer": null}') == []
    ((reason, detail),) = refused(tmp_path, '{"image": "a.png", "question": "q", "response": "a"}')
    assert reason == "no answer" and "key 'response': did you mean 'answer'?" in detail
    with pytest.raises(DataError, match=r"key 'img_path': did you mean 'image'\?"):
        records(tmp_path, '{"img_path": "a.png", "question": "q", "answer": "a"}', "jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.png", "images": ["b.png"]}, "'image' is 'a.png' and 'images' 'b.png'"),
        ({"image": "a.png", "Image": "b.png"}, "keys 'image' and 'Image'"),
        ({"image": "a\0.png"}, "holds '\\x00'"),
        ({"image": "\ud83d.png"}, "holds '\\ud83d'"),
    ],
)
def test_two_images_and_names_that_are_none_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    good = ROW + "\n"
    ((_, detail),) = refused(tmp_path, good + json.dumps(row | {"question": "q", "answer": "a"}))
    assert message in detail


@pytest.mark.parametrize(
    ("name", "there", "fix"),
    [
        ("A.PNG", "a.png", "there is 'a.png': write upper and lower case"),
        ("a.jpg", "a.png", "there is 'a.png': correct the ending"),
        ("a", "a.png", "there is 'a.png': correct the ending"),
        ("sub\\a.png", "a.png", r"write / for \ in its name"),
        ("b.png", "a.png", "set `images` of this source (data.labeled.images, ...)"),
        ("sub", "sub/a.png", "is a folder; write the name of a file"),
    ],
)
def test_an_image_that_is_not_there_is_named_with_its_line_and_the_fix(tmp_path: Path, name: str, there: str, fix: str) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_bytes(b"x")
    rows = [json.dumps({"image": n, "question": "q", "answer": "a"}) for n in (there, name, name)]
    *_, record = records(tmp_path, "\n".join(rows), "jsonl")
    assert record.error is not None
    assert record.error.startswith(f"{tmp_path}/labels.jsonl:2: the image {tmp_path}/{name} ")
    assert fix in record.error and "config" not in record.error


def test_an_image_outside_of_the_folder_is_named_with_its_line(tmp_path: Path) -> None:
    (record,) = records(tmp_path, '{"image": "/etc/passwd"}', "jsonl")
    assert re.match(r".*labels\.jsonl:1: /etc/passwd is outside of the folder", str(record.error))


@pytest.mark.parametrize(
    "mark",
    [
        *("<image>", "<|image_pad|>", "<|vision_start|>", "<|image|>", "<|image_1|>", "<image 1>", "<image_1>", "<image1>"),
        *("[IMG_BREAK]", "[image]", "<image_soft_token>", "<start_of_image>", "<IMG_CONTEXT>", "<img>", "</img>"),
        *("<fake_token_around_image>", "<row_1_col_2>", "<global-img>", "<|video_pad|>", "<im_start>", "<im_patch>", "\ufffc"),
        *("<|begin_of_image|>", "<images>", "<|image_start|>", "[IMG]", "<ImageHere>", "<image/>", "<img />"),
    ],
)  # fmt: skip
def test_10_placeholders_of_every_family_are_refused(mark: str) -> None:
    for row in ({"question": f"is it {mark} red?"}, {"answer": f"{mark}"}, {"options": [f"a {mark}", "b"]}):
        found = check(parse({"question": "q", "answer": "a"} | row, "f:1"))
        assert isinstance(found, RefusedRow) and found.reason == PLACEHOLDER, mark


@pytest.mark.parametrize(
    "text", ["x < image size > y?", "is the image <b>red</b>?", "[imaging] shows", "a <imagine> b", "3 < 4", "[1]"]
)
def test_words_about_images_are_text(text: str) -> None:
    assert isinstance(check(parse({"question": text, "answer": "a"}, "f:1")), Question)
