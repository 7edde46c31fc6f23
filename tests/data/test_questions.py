"""Files of questions without answers: JSON Lines and CSV, and what is wrong with them by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leaml.data import carried
from leaml.data.questions import Asked, UnaskableError, as_asked, read
from leaml.errors import DataError

BASE64 = "iVBORw0KGgoAAAANSUhEUgAA" * 4
"""Begins as a PNG in base64 does."""


def written(folder: Path, text: str, name: str = "questions.jsonl") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_json_lines_and_csv_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"image": "a b.png", "question": "Red, or blue?", "options": ["red", "blue"]},
        {"image": "sub/b.png", "question": 'is it "new"?'},
    ]
    lines = written(tmp_path, "\n".join(json.dumps(row) for row in rows) + "\n\n")
    table = 'image,question,options\r\na b.png,"Red, or blue?",red | blue\r\nsub/b.png,"is it ""new""?",\r\n'
    expected = [Asked("a b.png", "Red, or blue?", ("red", "blue")), Asked("sub/b.png", 'is it "new"?')]
    assert read(lines) == expected
    assert read(written(tmp_path, "\ufeff" + table, "Questions.CSV")) == expected


@pytest.mark.parametrize(
    "options",
    [
        '["a) red", "b) blue"]',
        '"red|blue"',
        '{"A": "red", "B": "blue"}',
        '"A. red B. blue"',
        '"1. red 2. blue"',
        '"A) red B) blue"',
        '[["red", "blue"]]',
    ],
)
def test_options_are_those_that_training_shows_whatever_their_form(tmp_path: Path, options: str) -> None:
    (asked,) = read(written(tmp_path, f'{{"question": "what colour?", "options": {options}}}'))
    assert asked.options == ("red", "blue")


def test_a_file_of_labels_is_one_of_questions_and_keeps_what_else_it_holds(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "image": "a.png",
        "question": "<image>\nwhich?</s>",
        "answer": "B",
        "question_type": "colour",
        "split": "test",
    }
    (asked,) = read(written(tmp_path, json.dumps(row | {"options": {"A": "red", "B": "blue"}})))
    assert asked == Asked("a.png", "which?", ("red", "blue"))
    assert asked.others == {"id": 7, "answer": "B", "question_type": "colour", "split": "test"}
    table = "image,question,answer,question_type,note\na.png,what?,blue,,\n"
    assert read(written(tmp_path, table, "q.csv"))[0].others == {"answer": "blue"}
    assert read(written(tmp_path, '{"images": ["a.png"], "question": "what?", "answer": "x"}'))[0].image == "a.png"


def test_the_columns_that_are_carried_keep_names_order_and_kind() -> None:
    rows: list[dict[str, Any]] = [{"answer": "yes", "id": 1, "file": "f"}, {"id": 2, "tags": ["a"], "given_file": "g"}]
    assert carried.names(rows, ("file", "error")) == {
        "answer": "answer",
        "id": "id",
        "file": "given_given_file",
        "tags": "tags",
        "given_file": "given_file",
    }
    for values, kind, kept in (
        ([1, None], "int64", [1, None]),
        ([1, 2.5], "double", [1, 2.5]),
        ([True, None], "bool", [True, None]),
        (["1", 1, ["a"], {"b": None}], "string", ["1", "1", '["a"]', '{"b": null}']),
        ([2**70], "string", [str(2**70)]),
        (["\ud83d"], "string", ["?"]),
        ([None], "string", [None]),
    ):
        made = carried.column(values)
        assert (str(made.type), made.to_pylist()) == (kind, kept)


def test_questions_alone_are_about_every_image(tmp_path: Path) -> None:
    assert read(written(tmp_path, '{"question": "what?"}')) == [Asked(None, "what?")]
    assert read(written(tmp_path, '{"question": "what is a.png?", "id": 7, "answer": "a.png"}'))[0].image is None
    assert read(written(tmp_path, "question\nwhat?\nwhere?\n", "q.csv")) == [Asked(None, "what?"), Asked(None, "where?")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.jsonl", "", "holds no question"),
        ("q.jsonl", '{"question": "a"}\n{"question": ', r"q\.jsonl:2: the last line, perhaps torn"),
        ("q.jsonl", '["a"]', r"q\.jsonl:1: not an object"),
        ("q.jsonl", '{"question": " "}', r"q\.jsonl:1: 'question' must be text that is not empty"),
        ("q.jsonl", '{"image": 3, "question": "a"}', r"q\.jsonl:1: the image is 3, not a path"),
        ("q.jsonl", '{"question": "a"}\n{"question": "is \\ud83d red?"}', r"q\.jsonl:2: 'question' holds '\\ud83d'"),
        ("q.jsonl", '{"question": "re\\u200bd?"}', r"q\.jsonl:1: 'question' holds '\\u200b'"),
        ("q.jsonl", '{"question": "\\u200b"}', r"q\.jsonl:1: 'question' must be text that is not empty"),
        ("q.jsonl", '{"image": "\\ud83d.png", "question": "a"}', r"q\.jsonl:1: the image .* holds '\\ud83d'"),
        ("q.jsonl", '{"question": "a", "options": ["b", "c\\u0000"]}', r"q\.jsonl:1: 'options' holds '\\x00'"),
        ("q.jsonl", '{"image": "\\u0000.png", "question": "a"}', r"q\.jsonl:1: the image .* holds '\\x00'"),
        ("q.jsonl", '{"query": "a", "answer": "b"}', r"q\.jsonl:1: 'question' must be .*key 'query': did you mean 'question'"),
        ("q.jsonl", '{"conversations": []}', r"q\.jsonl:1: 'question' must be .*read by format: conversations"),
        ("q.jsonl", '{"question": "a", "Question": "b"}', r"q\.jsonl:1: keys 'question' and 'Question'; remove one"),
        ("q.jsonl", '{"question": "a", "choices": ["b", "c"]}', r"q\.jsonl:1: no 'options', but 'choices'; name it 'options'"),
        ("q.jsonl", '{"question": "a", "optoins": ["b", "c"]}', r"q\.jsonl:1: no 'options', but 'optoins'; name it 'options'"),
        ("q.csv", "question,A,B\nwhat?,red,blue\n", r"q\.csv:2: no 'options', but 'A', 'B'; write 'options'"),
        ("q.csv", "file,question\na.png,what?\n", r"q\.csv:2: no 'image', but 'file'; name it 'image', or remove it"),
        ("q.csv", "image_id,question\n0a1b,what?\n", r"q\.csv:2: no 'image', but 'image_id'; write the file name"),
        ("q.jsonl", '{"img_id": 7, "question": "a"}', r"q\.jsonl:1: no 'image', but 'img_id'; write the file name"),
        ("q.jsonl", '{"Image URL": "x", "question": "a"}', r"q\.jsonl:1: no 'image', but 'Image URL'; write the file name"),
        ("q.csv", "uri,question\n/a/b,what?\n", r"q\.csv:2: no 'image', but 'uri'; write the file name"),
        ("q.csv", "Bild,question\na.PNG,what?\n", r"q\.csv:2: no 'image', but 'Bild'; name it 'image'"),
        ("q.csv", "image_id,file,question\n0a1b,a.png,what?\n", r"q\.csv:2: no 'image', but 'file'; name it 'image'"),
        ("q.jsonl", '{"image": null, "image_id": "0a1b", "question": "a"}', r"q\.jsonl:1: no 'image', but 'image_id'"),
        ("q.jsonl", '{"image": ["a.png", "b.png"], "question": "a"}', r"q\.jsonl:1: 2 images; write a row for each"),
        ("q.jsonl", json.dumps({"image": BASE64, "question": "a"}), r"q\.jsonl:1: 'image' is .*\.\.\., an image in base64"),
        ("q.jsonl", '{"image": "data:image/png;base64,AA", "question": "a"}', r"q\.jsonl:1: 'image' is .*, an image in base64"),
        ("q.jsonl", json.dumps({"image": "PDF" * 102, "question": "a"}), r"q\.jsonl:1: the image .* a text of 306 characters"),
        ("q.jsonl", '{"question": "a", "options": ["b"]}', r"q\.jsonl:1: 'options' must be 2 to 26 texts .*, got 1: \['b'\]"),
        ("q.jsonl", json.dumps({"question": "a", "options": [f"o{n}" for n in range(27)]}), "2 to 26 texts .*, got 27: "),
        ("q.jsonl", '{"question": "a"}\n{"question": "[IMG] a"}', r"q\.jsonl:2: 'question' holds '\[IMG\]', which stands for"),
        ("q.jsonl", '{"question": "is <image> red?"}', r"q\.jsonl:1: 'question': .* has '<image>' between words"),
        (
            "q.jsonl",
            '{"question": "a", "options": ["<image>", "b"]}',
            r"q\.jsonl:1: 'options' holds '<image>', which stands for",
        ),
        ("q.csv", "question\nNaN\n", r"q\.csv:2: 'question': the question is 'NaN'"),
        ("q.jsonl", '{"question": "a?\\nA. b\\nC. c"}', r"q\.jsonl:1: 'question': option B is missing in the question"),
        ("q.jsonl", '{"question": "a?\\nA. b\\nB. b"}', r"q\.jsonl:1: 'question': the options 'b' and 'b' are the same answer"),
        ("q.jsonl", '{"question": "a", "options": "b"}', r"q\.jsonl:1: .*one option at most"),
        ("q.jsonl", '{"question": "a", "options": ["A. b", "C. c"]}', r"q\.jsonl:1: .*option B is missing"),
        ("q.jsonl", '{"question": "a", "options": {"A": null, "B": "c"}}', r"q\.jsonl:1: missing option"),
        (
            "q.jsonl",
            '{"question": "a"}\n{"image": "x.png", "question": "b"}',
            "1 of 2 questions name an image; all must, or none",
        ),
        ("q.csv", "", r"q\.csv has no column 'question'"),
        ("q.csv", "image;text\na;b\n", "has no column 'question' in its first line, but"),
        ("q.csv", "image,question\na.png,what, or where?\n", r"q\.csv:2: more cells than columns"),
        ("q.csv", "image,question\n,what?\n", r"q\.csv:2: 'image' must be a file name"),
        ("q.csv", 'question\n"what?\n', r"q\.csv:2: not valid CSV"),
    ],
)
def test_faults_are_named_with_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(written(tmp_path, text, name))
    with pytest.raises(DataError) as refused:
        read(written(tmp_path, text, name))
    assert len(str(refused.value).replace(str(tmp_path), "")) < 400


@pytest.mark.parametrize(
    ("question", "options", "column"),
    [
        ("nan", None, "question"),
        ("", ("a", "b"), "question"),
        ("x?", ("nan", "y"), "options"),
        ("x?", ("y", " "), "options"),
        ("x?", ("y", "Y."), "options"),
        ("x?\nA. y\nB. Y.", ("A", "B"), "options"),
    ],
)
def test_what_nobody_can_be_asked_is_refused_wherever_it_comes_from(
    question: str, options: tuple[str, ...] | None, column: str
) -> None:
    with pytest.raises(UnaskableError) as refused:
        as_asked(question, options)
    assert refused.value.column == column


def test_files_that_are_missing_or_not_text(tmp_path: Path) -> None:
    for name in ("no.csv", "no.jsonl"):
        with pytest.raises(DataError, match="does not exist"):
            read(str(tmp_path / name))
        (tmp_path / f"bytes-{name}").write_bytes(b'{"question": "\xff"}')
        with pytest.raises(DataError, match="not UTF-8"):
            read(str(tmp_path / f"bytes-{name}"))


def test_5_columns_of_options_with_a_gap_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "asked.csv"
    file.write_text("image,question,A,B,C\na.png,which?,red,,green\n")
    with pytest.raises(DataError, match=r"asked.csv:2: no 'options', but 'A', 'C'"):
        read(str(file))
