"""Options written as one text, and labels that stand in their texts as well as in the keys of the file."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from rows import made, words

from leaml.data.records import RefusedRow
from leaml.text.scoring import option_letters


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        ("""['"red" "blue"', 'x']""", "A", '"red" "blue"'),
        ("""["it's 'a' 'b'", 'c']""", "A", "it's 'a' 'b'"),
        ("""["it's 'a' 'b'" 'c']""", "B", "c"),
        ("[' ', 'x']", "A", None),
        ("[' ', 'x']", "B", None),
        ("['it''s', 'x']", "B", None),
        ("['red'\n 'blue'\n 'x']", "C", "x"),
        ("['red' 'blue', 'x']", "C", "x"),
        ("['red' 'blue", "A", None),
        (r"red\|pink|blue", "B", None),
        (r"red\;pink;blue", "B", None),
        (r"red\, pink, blue", "B", None),
        (r"1\,000, 20", "B", None),
        (r"red\,pink|blue", "A", r"red\,pink"),
    ],
)
def test_options_written_as_text_keep_what_stands_in_quotes(options: str, answer: str, right: str | None) -> None:
    assert words(options=options, answer=answer) == right


@pytest.mark.parametrize(
    "labels",
    [
        *(("Opción B: ", "Opción A: "), ("选项B：", "选项A："), ("選択肢B：", "選択肢A："), ("보기 B: ", "보기 A: ")),
        *(("Вариант B: ", "Вариант A: "), ("Choix B : ", "Choix A : "), ("Antwort B: ", "Antwort A: "), ("B : ", "A : ")),
    ],
)
def test_labels_in_other_languages_and_another_order_name_their_options(labels: tuple[str, str]) -> None:
    options = [f"{labels[0]}red", f"{labels[1]}blue"]
    assert (words(options=options, answer="B"), words(options=options, answer="A")) == ("red", "blue")


@hypothesis.given(
    st.lists(st.text("ab'\"\\ ,|\n", min_size=1).filter(lambda t: t.strip() == t), min_size=2, max_size=5, unique=True)
)
def test_a_python_list_as_text_is_that_list(texts: list[str]) -> None:
    assert words(options=repr(texts), answer="A") == words(options=texts, answer="A")


@pytest.mark.parametrize("answer", ["A", "b", "(A)", "Option B", "A. red", "A. blue"])
def test_options_whose_order_is_not_that_of_their_numbers_have_no_letters(answer: str) -> None:
    forms: list[Any] = [
        ["2. red", "1. blue"],
        [{"id": 2, "text": "red"}, {"id": 1, "text": "blue"}],
        {"2": "red", "1": "blue"},
        {"label": [2, 1], "text": ["red", "blue"]},
        "2. red\n1. blue",
    ]
    for form in forms:
        assert words(options=form, answer=answer) is None, form
        assert (words(options=form, answer="1"), words(options=form, answer="red")) == ("blue", "red")
    assert words(options={"1": "red", "2": "blue"}, answer="b") == "blue"


LABELED_TWICE = [
    *((["A. red", "C. green", "D. x"], "C"), (["B. red", "A. blue"], "B"), (["B) red", "A) blue", "x"], "A")),
    *((["A. red", "B. x", "D. y"], "B"), (["B red", "A blue"], "B"), (["B/ red", "A/ blue"], "A"), (["B. red", "C. x"], "B")),
]


@pytest.mark.parametrize(("texts", "answer"), LABELED_TWICE)
def test_keys_of_the_file_and_labels_in_the_texts_that_differ_are_refused(texts: list[str], answer: str) -> None:
    numbers = [str(n + 1) for n in range(len(texts))]
    forms = [
        dict(zip(numbers, texts, strict=True)),
        dict(zip("ABC", texts, strict=False)),
        dict(enumerate(texts)),
        [f"{n}. {text}" for n, text in zip(numbers, texts, strict=True)],
        [f"({letter}) {text}" for letter, text in zip("ABC", texts, strict=False)],
        [{"id": int(n), "text": text} for n, text in zip(numbers, texts, strict=True)],
        [{"label": n, "text": text} for n, text in zip("ABC", texts, strict=False)],
        {"label": numbers, "text": texts},
        "\n".join(f"{n}. {text}" for n, text in zip(numbers, texts, strict=True)),
        json.dumps(dict(zip("abc", texts, strict=False))),
    ]
    for form in forms:
        assert words(options=form, answer=answer) is None, form


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        ({"1": "A. red", "2": "B. blue"}, "B", "blue"),
        ({"1": "A. red", "2": "B. blue"}, "2", "blue"),
        ({"1": "1. red", "2": "2. blue"}, "2", "blue"),
        ({"0": "1. red", "1": "2. blue"}, "1", None),
        ({"A": "E. coli", "B": "C. difficile", "C": "S. aureus"}, "C", "S. aureus"),
        ({"A": "C. elegans", "B": "D. melanogaster"}, "B", None),
        ({"A": "C. elegans", "B": "D. melanogaster"}, "D. melanogaster", "D. melanogaster"),
        ({"A": "T cell", "B": "B cell"}, "A", "T cell"),
        ({"A": "B", "B": "A"}, "A", None),
        (["B-mode", "M-mode"], "A", "B-mode"),  # names that begin with letters: only those letters are not plain
        (["B-mode", "M-mode"], "B", None),
        (["B-cell", "T-cell"], "A", "B-cell"),
        (["T-cell", "B-cell"], "A", "T-cell"),
        (["A-line", "V-neck"], "A", "A-line"),
        (["A-line", "V-neck"], "B", "V-neck"),
        (["D-shape", "A-shape"], "B", "A-shape"),
        (["D-shape", "A-shape"], "A", None),
        (["A-red", "C-green"], "B", None),
        (["B-mode", "M-mode"], "M-mode", "M-mode"),
        (["E. coli", "B. subtilis"], "E. coli", "E. coli"),
        (["E. coli", "B. subtilis"], "B. subtilis", "B. subtilis"),
        (["E. coli", "B. subtilis"], "B", None),
        (["C. elegans", "D. melanogaster"], "c. elegans", "C. elegans"),
        (["C. elegans", "D. melanogaster"], "elegans", None),
        (["A. baumannii", "A. niger"], "A. niger", "A. niger"),
        (["C. difficile", "Rotavirus", "Norovirus"], "Rotavirus", "Rotavirus"),
        (["C. difficile", "Rotavirus", "Norovirus"], "B", None),
        (["A dog", "A cat"], "A", "A dog"),
    ],
)
def test_letters_in_front_of_texts_are_labels_or_initials(options: Any, answer: str, right: str | None) -> None:
    assert words(options=options, answer=answer) == right


@hypothesis.given(st.sampled_from(["{}. {}", "{}) {}", "({}) {}", "{}: {}"]), st.data())
def test_letters_never_shift_under_keys_of_the_file(style: str, data: st.DataObject) -> None:
    labels = data.draw(st.permutations("ABCDE")) if data.draw(st.booleans()) else list("ABCDE")
    kept = labels[: data.draw(st.integers(2, 5))]
    texts = [style.format(label, f"colour {label}{label}") for label in kept]
    for keys in (option_letters(len(kept)), [str(n + 1) for n in range(len(kept))], list(range(len(kept)))):
        for answer in kept:
            found = words(options=dict(zip(keys, texts, strict=True)), answer=answer)
            assert found in (f"colour {answer}{answer}", None)


def test_a_map_of_arrow_is_an_object_of_options() -> None:
    assert words(options=[("A", "red"), ("B", "blue")], answer="B") == "blue"
    assert words(options=[("A", "red"), ("A", "blue")], answer="A") is None


@pytest.mark.parametrize("answer", ["[PAD]", "</s>", "<|im_end|>"])
def test_an_answer_that_is_a_special_token_alone_is_shown(answer: str) -> None:
    found = made(answer=answer)
    assert isinstance(found, RefusedRow) and found.reason == "no answer"
    assert f"the answer is {answer!r}, a special token" in found.detail
