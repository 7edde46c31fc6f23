"""Values of label rows: the text that people write, or none; numbers are cases, as in test_label_rows.py."""

from __future__ import annotations

from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from rows import made, words

from leaml.data import kvasir
from leaml.data.records import RefusedRow

NAN = float("nan")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        *(
            (NAN, None),
            (float("inf"), None),
            ("nan", None),
            (" ", None),
            (True, None),
            (["x"], "x"),
            (["x", "y"], None),
            (b"x", None),
        ),
        *((2.0, "2"), (3, "3"), (2.5, "2.5"), (np.float32(0.1), "0.1"), (np.float16(0.1), "0.1"), (0.1, "0.1")),
        *((0.00001, "0.00001"), (-1.5e-7, "-0.00000015"), (np.float32(1e-5), "0.00001"), (2.0**-15, "0.000030517578125")),
        *(("['red']", "red"), ('["red"]', "red"), ("['red', 'blue']", None), ("[1, 2]", "[1, 2]"), ("[red]", "[red]")),
        *(("None", "None"), ("NA", "NA"), ("null", "null"), (" red ", "red")),
    ],
)
def test_8_15_values_become_the_text_that_people_write_or_are_refused(answer: Any, text: str | None) -> None:
    assert words(answer=answer) == text


@pytest.mark.parametrize(
    "mark",
    [
        *("nan", "NaN", " -nan ", "<NA>", "NaT", "pd.NA", "np.nan", "1.#QNAN", "-1.#IND", "#N/A", "#NA", "#N/A N/A", "#REF!"),
        *("#DIV/0!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!", "#SPILL!", "#CALC!", "#ERROR!", "########"),
        *("\\N", "(null)", "<null>", "-nan(ind)"),
        *(
            "#WERT!",
            "#BEZUG!",
            "#NV",
            "#VALEUR!",
            "#NOM?",
            "#¡VALOR!",
            "#¿NOMBRE?",
            "#N/D",
            "#ДЕЛ/0!",
            "#Н/Д",
            "#DEĞER!",
            "#ÉRTÉK!",
        ),
    ],
)
def test_8_marks_of_missing_values_are_no_text(mark: str) -> None:
    assert words(answer=mark) is words(question=mark) is words(options=[mark, "red"]) is None
    assert kvasir.parse("Is there text?", mark) is None


@pytest.mark.parametrize(
    "word",
    [
        "#1",
        "#wow!",
        "#Nice!",
        "#5!",
        "NV",
        "#NVIDIA",
        "#a?",
        "None",
        "no",
        "N/A",
        "n/a",
        "NA",
        "null",
        "nat",
        "NAT",
        "Nathan",
        "#",
        "N",
        "C#",
        "-1.5",
    ],
)
def test_15_words_that_are_answers_are_no_marks_of_missing_values(word: str) -> None:
    assert words(answer=word) == word


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff \u2060", "\u3164", "\u2800", "\u200d", "\0", "\u00a0\t"])
def test_texts_with_nothing_to_see_are_missing(blank: str) -> None:
    for key in ("question", "answer"):
        found = made(**{key: blank})
        assert isinstance(found, RefusedRow) and found.reason == f"no {key}"
    assert words(options=["red", blank, "blue"], answer="C") is None
    assert made(question=blank, answer=blank) is not None


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("\ufeffred\u200b", "red"),
        ("\u200f\u05d0\u05d3\u05d5\u05dd\u200e", "\u05d0\u05d3\u05d5\u05dd"),
        *(
            (t, t)
            for t in (
                "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
                "\U0001f468\u200d\U0001f469",
                "\u2764\ufe0f",
                "two\n\tlines",
                "a\xa0b",
            )
        ),
    ],
)
def test_marks_at_the_ends_are_left_out_and_joiners_of_scripts_stay(text: str, right: str) -> None:
    assert words(answer=text) == words(answer="B", options=["x", text]) == right


@hypothesis.given(st.text(st.characters(), max_size=8))
def test_every_text_is_taken_as_it_is_seen_or_refused(text: str) -> None:
    taken_as = words(answer=text)
    if taken_as is not None:
        taken_as.encode()
        assert taken_as.strip() == taken_as and taken_as in text


@hypothesis.given(st.floats(allow_nan=False, allow_infinity=False))
def test_8_a_number_is_written_without_change_of_value(value: float) -> None:
    text = words(answer=value)
    assert text is not None
    assert float(text) == value
    assert text == str(int(value)) if value == int(value) else not text.endswith(".0")
