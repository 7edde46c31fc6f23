"""Answers that must count as right, and near misses that must not."""

import pytest

from leaml.errors import DataError
from leaml.text import scoring

OPTIONS = ["Offside", "Hand ball", "No foul", "A dive, or none"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Polyp. ", "polyp"),
        ("Two polyps!", "2 polyps"),
        ("Zero", "0"),
        ("twenty", "20"),
        ("ＡＢＣ　①", "abc 1"),
        ("“an apple a day”", "apple day"),
        ("`red`", "red"),
        ("Hepatitis A", "hepatitis a"),
        ("A", "a"),
        (">20mm", ">20mm"),
        ("-5", "-5"),
        ("- red", "red"),
        ("50%", "50%"),
        ("?!", "?!"),
        ("", ""),
        ("center-left", "center-left"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert scoring.normalise(text) == expected
    assert scoring.normalise(expected) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "question_type", "expected"),
    [
        ("Yes.", "yes", None, True),
        ("yes, it is", "yes", None, False),
        ("three", "3", "count", True),
        ("red; pink", "pink; red", None, True),
        ("red; pink; red", "pink; red", None, True),
        ("red", "pink; red", None, False),
        ("red; pink; white", "pink; red", None, False),
        ("red, pink", "pink; red", "color", True),
        ("red, pink", "pink, red", "multiple choice", True),
        ("Upper-Left,center", "center; upper-left", "location", True),
        ("red, pink", "pink; red", None, False),
        ("1,000", "000, 1", "count", False),
        ("", "none", None, False),
        ("", "", None, False),
        (" ;", ";", None, False),
        (">20mm", "20mm", None, False),
        ("hepatitis", "hepatitis A", None, False),
    ],
)
def test_exact_and_set_match(prediction: str, answer: str, question_type: str | None, expected: bool) -> None:
    assert scoring.is_correct(prediction, answer, question_type) is expected
    assert scoring.is_correct(answer, prediction, question_type) is expected


@pytest.mark.parametrize(
    "reply",
    [
        "B",
        "b",
        "B.",
        "(B)",
        "[b]",
        "**B**",
        "answer: B",
        "The answer is B.",
        "the correct option is (b)",
        "B. Hand ball",
        "B) hand ball",
        "Hand ball",
        "the hand ball.",
        "B. Because the arm moved, deliberately",
        "Answer: Hand ball",
        *("I choose B.", "I think it's B", "I'd say the answer is B", "Die Antwort ist B.", "La réponse est B"),
        *("La respuesta correcta es B", "A resposta é B.", "故选B", "B选项正确", "정답은 B입니다", "답: B", "正解はBです。"),
    ],
)
def test_letter_forms(reply: str) -> None:
    assert scoring.is_correct(reply, "B", options=OPTIONS)
    assert scoring.is_correct(reply, "Hand ball", options=OPTIONS)
    assert not scoring.is_correct(reply, "C", options=OPTIONS)


@pytest.mark.parametrize(
    "reply",
    [
        "A, C",
        "c;a",
        "A and C",
        "AC",
        "CA",
        "A C",
        "(A)(C)",
        "(A), (C)",
        "answers: A & C",
        "Offside; no foul",
        "A. Offside; C. No foul",
        "A.\nC.",
    ],
)
def test_several_letters_are_a_set(reply: str) -> None:
    assert scoring.is_correct(reply, "A, C", options=OPTIONS)
    assert not scoring.is_correct(reply, "A", options=OPTIONS)
    assert not scoring.is_correct(reply, "A, B, C", options=OPTIONS)


@pytest.mark.parametrize("reply", ["", "E", "AE", "B. No foul", "A or B", "a bad tackle", "ab", "none of these"])
def test_replies_that_name_no_option(reply: str) -> None:
    assert scoring.chosen_letters(reply, OPTIONS) is None
    assert not any(scoring.is_correct(reply, letter, options=OPTIONS) for letter in "ABCD")


def test_option_text_with_a_comma_or_an_article_is_one_option() -> None:
    assert scoring.chosen_letters("A dive, or none", OPTIONS) == {"D"}
    assert scoring.chosen_letters("A", ["Hepatitis", "A"]) == {"A"}


def test_answer_outside_its_options_falls_back_to_text() -> None:
    assert scoring.is_correct("Penalty.", "penalty", options=OPTIONS)
    assert not scoring.is_correct("A", "penalty", options=OPTIONS)


def test_option_letters() -> None:
    assert scoring.option_letters(3) == ["A", "B", "C"]
    assert scoring.option_letters(26)[-1] == "Z"
    with pytest.raises(DataError, match="27 options"):
        scoring.option_letters(27)
