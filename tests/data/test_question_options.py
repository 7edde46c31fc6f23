"""Options in the text of a question: an answer is checked against them as against a list, and the request stays as it is."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from rows import made

from leaml.data import label_rows, question_options
from leaml.data.question_options import options_in
from leaml.data.questions import read
from leaml.data.records import Question, RefusedRow
from leaml.errors import DataError
from leaml.text.scoring import answer_text, ask, is_correct

SHARED = Path(__file__).parents[3] / "shared"
RED_BLUE = (
    "Which?\nA. red\nB. blue",
    "Which?\n\na) red\nb) blue",
    "Which? A. red B. blue",
    "Which? (A) red (B) blue",
    "Which colour: A: red, B: blue",
    "Which?\n(A) red\n(B) blue\nAnswer with the option's letter from the given choices directly.",
    "Which? A. red B. blue. Answer with the letter.",
    "Which?\nOption A: red\nOption B: blue",
    "Which?\n**A.** red\n**B.** blue",
    "Is it (A) red or (B) blue?",
    "Which?\nＡ．red\nＢ．blue",
    "A - red\nB - blue\nPlease select one",
)
NO_OPTIONS = (
    "Which of the vitamins A. or B.?",
    "Is hepatitis A or B shown?",
    "Who is it, J. A. Smith or B. Jones?",
    "Fig A. shows a lung, B. shows a heart. Which?",
    "The image shows 1. a dog, 2. a cat. Which?",
    "1. a dog\n2. a cat\nWhich is larger?",
    "Is the A. C. joint widened?",
    "What is at 3 a.m.?",
)


def row(question: str, answer: str, **more: Any) -> Question | RefusedRow:
    found = made(question=question, answer=answer, **more)
    assert found is not None
    return found


def used(question: str, answer: str, **more: Any) -> dict[str, Any]:
    found = row(question, answer, **more)
    assert isinstance(found, Question), found
    assert found.doubts == (), found.doubts
    return {"question": found.question, "answer": found.answer, "options": list(found.options or ())}


@pytest.mark.parametrize("question", RED_BLUE)
def test_5_6_letters_and_texts_mean_the_options_in_the_question(question: str) -> None:
    for answer in ("B", "b", "(B)", "B. blue", "blue"):
        found = used(question, answer)
        assert answer_text(found) == "blue"
        assert ask(found) == found["question"] == question
        assert is_correct("blue", found["answer"], None, found["options"])
        assert not is_correct("A", found["answer"], None, found["options"])


@pytest.mark.parametrize("question", RED_BLUE)
@pytest.mark.parametrize("answer", ["E", "C", "E. green", "A. blue", "A, E", "2"])
def test_5_6_an_answer_beyond_the_options_in_the_question_is_refused(question: str, answer: str) -> None:
    found, listed = row(question, answer), row("Which?", answer, options=["red", "blue"])
    assert isinstance(found, RefusedRow) and isinstance(listed, RefusedRow)
    assert found == listed


def test_an_answer_that_is_none_of_the_options_in_the_question_is_doubted() -> None:
    found = row(RED_BLUE[0], "purple")
    assert isinstance(found, Question) and found.doubts == (label_rows.OUTSIDE,)


@pytest.mark.parametrize("question", ["Which?\nA: red\nC: blue", "Which? (A) red (C) blue", "Which? A. red B. blue D. x"])
def test_5_a_gap_among_the_options_in_the_question_is_refused(question: str) -> None:
    found = row(question, "C")
    assert isinstance(found, RefusedRow) and found.reason == "missing option"
    assert f"is missing in the question {question!r}" in found.detail
    assert isinstance(row(question, "red"), Question)


@pytest.mark.parametrize("question", RED_BLUE)
def test_6_the_same_options_beside_the_question_are_asked_once(question: str) -> None:
    both = (["red", "blue"], {"A": "red", "B": "blue"}, "red|blue", ["A. red", "B. blue"], {"1": "red", "2": "blue"})
    for options in (*both, ["A", "B"]):
        found = used(question, "B", options=options)
        assert (ask(found), answer_text(found)) == (question, "blue")


@pytest.mark.parametrize("question", RED_BLUE)
def test_6_other_options_beside_the_question_are_refused(question: str) -> None:
    for options in (["blue", "red"], ["red", "green"], ["red", "blue", "green"], ["x", "y"], ["A", "B", "C"]):
        found = row(question, "A", options=options)
        assert isinstance(found, RefusedRow) and found.reason == question_options.CONTRADICTION
        assert "write them once" in found.detail
    found = used(question, "blue", options=["blue", "red"])
    assert (ask(found), found["options"]) == (question, ["red", "blue"])
    assert isinstance(row(question, "A. blue", options=["blue", "red"]), RefusedRow)


def test_lettered_things_that_are_asked_about_are_no_other_options() -> None:
    panels = "Panels:\nA. lung\nB. heart\nWhich is abnormal?"
    assert used(panels, "B", options=["only one", "both"])["options"] == ["only one", "both"]
    assert used(panels, "neither")["options"] == []
    assert answer_text(used(panels, "B")) == "heart"


@pytest.mark.parametrize("question", NO_OPTIONS)
def test_what_only_looks_like_options_is_none(question: str) -> None:
    assert options_in(question) is None
    assert ask(used(question, "the lung")) == question
    assert ask(used(question, "red", options=["red", "blue"])) == f"{question}\nA. red\nB. blue"


@pytest.mark.parametrize(
    ("question", "texts"),
    [
        ("Which?\nA. red  B. blue\nC. green  D. white", ("red", "blue", "green", "white")),
        ("Which?\nA. E. coli\nB. S. aureus\nC. B. cereus", ("E. coli", "S. aureus", "B. cereus")),
        ("Choose: A) vitamin C. B) vitamin D.", ("vitamin C.", "vitamin D.")),
        ("Which?\nA. red\n   and bright\nB. blue", ("red and bright", "blue")),
        ("Which?\nA. 5 mm\nB. 10 mm\nC. none", ("5 mm", "10 mm", "none")),
    ],
)
def test_options_in_questions_are_read_whole(question: str, texts: tuple[str, ...]) -> None:
    found = options_in(question)
    assert found is not None and found.texts == texts
    assert ask({"question": question, "options": texts}) == question


WORDS = st.from_regex(r"[b-z]{2,6}( [b-z]{2,6})?", fullmatch=True)


STYLES = st.sampled_from(["{}. {}", "{}) {}", "({}) {}", "{}: {}"])


@hypothesis.given(st.lists(WORDS, min_size=2, max_size=26, unique=True), STYLES)
def test_whatever_the_options_a_letter_in_the_question_means_its_own(texts: list[str], style: str) -> None:
    hypothesis.assume(not {"or", "and", "und", "et", "ou", "oder"} & {word for text in texts for word in text.split()})
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(texts)]
    for between in ("\n", "  "):
        lines = between.join(style.format(*pair) for pair in zip(letters, texts, strict=True))
        found = options_in(f"Which of these?\n{lines}")
        assert found is not None and (found.texts, found.lost) == (tuple(texts), "")
        assert ask({"question": lines, "options": texts}) == lines


def test_questions_to_predict_have_the_options_that_they_end_in(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    for question in RED_BLUE:
        path.write_text(json.dumps({"question": question}))
        (asked,) = read(str(path))
        assert (asked.question, asked.options) == (question, ("red", "blue"))
        path.write_text(json.dumps({"question": question, "options": ["blue", "red"]}))
        with pytest.raises(DataError, match=r"q\.jsonl:1: 'options': the question .* shows other options"):
            read(str(path))
    path.write_text("".join(json.dumps({"question": question}) + "\n" for question in NO_OPTIONS))
    assert [asked.options for asked in read(str(path))] == [None] * len(NO_OPTIONS)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs shared/data")
def test_real_questions_show_no_options() -> None:
    with (SHARED / "data" / "kvasir_vqa_rows.csv").open(newline="") as stream:
        asked = {line["question"] for line in csv.DictReader(stream)}
    asked |= {str(each["question"]) for each in json.loads((SHARED / "data" / "vqa_rad" / "vqa_rad.json").read_text())}
    assert len(asked) > 1000
    assert [question for question in asked if options_in(question)] == []


@pytest.mark.parametrize(
    ("question", "texts"),
    [
        ("Options: A) red B) blue C) green. Which one is it?", ("red", "blue", "green")),
        ("What? A. red B. blue C. green. The image was taken in 2020.", ("red", "blue", "green")),
        ("What? A. red B. blue C. green [difficulty: easy]", ("red", "blue", "green")),
        ("What? A) red; B) blue; (assume daylight)", ("red", "blue")),
        ("What? A. red B. blue C. green Your answer is?", ("red", "blue", "green")),
        ("颜色？ A. 红 B. 蓝 C. 绿 请选择", ("红", "蓝", "绿")),
        # what belongs to the options stays
        ("Who? A. Dr. Jones B. Dr. Lee C. Dr. Smith", ("Dr. Jones", "Dr. Lee", "Dr. Smith")),
        ("Who? A. Jones B. Lee C. St. Louis", ("Jones", "Lee", "St. Louis")),
        ("What? A. It is red. It moves. B. It is blue. It stands.", ("It is red. It moves.", "It is blue. It stands.")),
        ("Which? A) dog (small) B) cat (large)", ("dog (small)", "cat (large)")),
    ],
)
def test_5_6_what_stands_behind_the_last_option_is_no_part_of_it(question: str, texts: tuple[str, ...]) -> None:
    shown = options_in(question)
    assert shown is not None and (shown.texts, shown.last) == (texts, True)


def test_a_question_behind_lettered_names_leaves_it_open_whether_they_are_options() -> None:
    shown = options_in("A. red B. blue. What colour is the ball?")
    assert shown is not None and (shown.texts, shown.last) == (("red", "blue"), False)
