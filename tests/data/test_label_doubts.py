"""Texts of labels that are used, with a warning, because they look damaged or say nothing."""

from __future__ import annotations

import pytest

from leaml.data import label_rows
from leaml.data.label_rows import checked, parse
from leaml.data.records import Question, Record


@pytest.mark.parametrize(
    "text",
    [
        "re\ufffdd",
        "\u00c3\u00bcber",
        "a??eo",
        "red &amp; blue",
        "l&#39;eau",
        "<p>red</p>",
        "a<br/>b",
        '<span class="x">y</span>',
    ],
)
def test_texts_that_look_damaged_are_used_with_a_warning(text: str) -> None:
    rows = [
        Question(text, "yes", where="l:1"),
        Question("what?", text, where="l:2"),
        Question("which?", "yes", None, (text, "yes"), "l:3"),
    ]
    found = checked(Record("1.png", "folder", None, b"x", questions=tuple(rows))).questions
    assert [row.doubts for row in found] == [(label_rows.DAMAGED,)] * 3


@pytest.mark.parametrize("text", ["-", "?", "...", "—", "_"])
def test_answers_without_a_word_are_used_with_a_warning_or_refused(text: str) -> None:
    found = checked(Record("1.png", "folder", None, b"x", questions=(Question("what?", text),)))
    assert [q.doubts for q in found.questions] in ([(label_rows.NO_WORD,)], [])
    assert len(found.questions) + len(found.refused) == 1


@pytest.mark.parametrize(
    ("answer", "doubts"), [("3.0", (label_rows.WHOLE,)), ("-1.0", (label_rows.WHOLE,)), ("3.05", ()), ("3", ())]
)
def test_whole_numbers_as_pandas_writes_them_are_warned_of(answer: str, doubts: tuple[str, ...]) -> None:
    found = parse({"question": "how many?", "answer": answer}, "l:1")
    assert isinstance(found, Question)
    assert [q.doubts for q in checked(Record("1.png", "folder", None, b"x", questions=(found,))).questions] == [doubts]


@pytest.mark.parametrize("text", ["a < b > c", "yes", "+", "50 %", "R&D", "café", "§ 5", "10 °C", "<5 mm>", "x<y and y>z", "♥"])
def test_texts_that_are_whole_give_no_warning(text: str) -> None:
    assert [
        q.doubts
        for q in checked(Record("1.png", "folder", None, b"x", questions=(Question(f"is it {text} ?", text),))).questions
    ] == [()]


@pytest.mark.parametrize(
    ("key", "warned"),
    [("image2", True), ("image_2", True), ("second_image", True), ("img-b", True), ("image_id", False), ("image_20", False)],
)
def test_another_image_of_a_row_is_warned_of(key: str, warned: bool) -> None:
    found = parse({"image": "a.png", "question": "q?", "answer": "yes", key: "b.png"}, "l:1")
    assert isinstance(found, Question)
    assert found.doubts == ((f"{label_rows.MORE_IMAGES}: {key!r}",) if warned else ())
    assert parse({"image": "a.png", "question": "q?", "answer": "yes", key: None}, "l:1").doubts == ()  # type: ignore[union-attr]
