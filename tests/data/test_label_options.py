"""Options of label rows: letters never shift, whatever they are written as."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from rows import made, words

from leaml.data import label_rows
from leaml.data.label_rows import parse
from leaml.data.records import Question, RefusedRow
from leaml.text.scoring import normalise, option_letters

NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        ({"A": "black", "B": None, "C": "red", "D": "blue"}, "C", None),  # case 5: a gap shifts the letters behind it
        (["black", None, "green", "blue"], "C", None),
        (["black", NAN, "green"], "A", None),
        ({"A": "black", "C": "red", "D": "blue"}, "C", None),
        ({"B": "green", "A": "red", "a": "x"}, "B", None),
        ({"B": "green", "A": "red"}, "B", "green"),
        ({"A": "blue", "B": "red", "C": None, "D": None}, "B", "red"),  # a table pads the shorter ones
        ([{"label": "A", "text": "x"}, {"label": "C", "text": "y"}], "C", None),
        (["A. black", "C. red"], "C", None),
        ("['red', 'blue']", "B", "blue"),  # case 6: forms of options
        ('["red", "blue"]', "B", "blue"),
        ('{"A": "red", "B": "blue"}', "B", "blue"),
        ("['red' 'blue']", "B", "blue"),  # as NumPy prints an array
        ("red|green", "B", "green"),
        ("red, blue", "B", "blue"),
        ("red, blue", "blue", "blue"),
        ("red, blue", "purple", None),
        ("A. red B. blue", "B", "blue"),
        ("A) red\nB) blue, or not", "B", "blue, or not"),
        ("(A) red (B) blue", "A", "red"),
        ("1. red 2. blue", "2", "blue"),
        ("1. red 2. blue", "B", "blue"),
        ("1) red 2) blue", "blue", "blue"),
        ("(1) red, dark (2) blue", "1", "red, dark"),
        ("0: red 1: blue", "1", "blue"),
        ("1. 1.5 cm 2. 2.5 cm", "2", "2.5 cm"),
        ("1) 10:30 2) 11:45", "2", "11:45"),
        ("1. red 3. blue", "A", None),
        ("1. red 2. blue 2. pink", "A", None),
        ("2. red 3. blue", "A", None),
        ([["red", "blue"]], "B", "blue"),
        ([["red"], ["blue"]], "B", "blue"),
        ([["red", "blue"], ["pink"]], "A", None),
        ("red", "A", None),
        ("[red, blue", "A", None),
        (["B. x", "A. y"], "B", "x"),
        ([{"label": "A", "text": "black"}, {"label": "B", "text": "red"}], "B", "red"),
        ([{"id": "a1", "text": "black"}, {"id": "a2", "text": "red"}], "a2", "red"),  # names of their own
        ({"id": ["x-17", "x-18"], "text": ["black", "red"]}, "x-18", "red"),
        ([{"id": "a1", "text": "a2"}, {"id": "a2", "text": "red"}], "a2", "a2"),  # a text is meant before a name
        ([{"A": "black"}, {"B": "red"}], "B", "red"),
        ({"text": ["black", "red"], "label": ["A", "B"]}, "B", "red"),
        ([{"colour": {"x": 1}}, {"colour": {"x": 2}}], "A", None),
        ({str(n): f"c{n}" for n in range(1, 12)}, "10", "c10"),
        ({str(n): f"c{n}" for n in range(1, 12)}, 2, "c2"),
        ({"10": "ten", "2": "two", "1": "one"}, "10", "ten"),
        ({"10": "ten", "2": "two", "1": "one"}, "two", "two"),
        ({"1": "2", "2": "1"}, "1", None),  # the number of one, the text of another
        (["red", "green"], "E", None),
        (["red", "green"], "b", "green"),
        (["red", "green"], "(b)", "green"),
        (["red", "green"], "A, C", None),
        (["red", "green"], "B. green", "green"),
        (["red", "green"], "A. green", None),
        (["red", "green", "blue"], 1, None),  # counted from 0 or from 1?
        ([1, 2, 3.0], 3, "3"),
        (["B", "A"], "A", None),  # a letter, and the text of another option
        (["red", " Red "], "A", None),
        (7, "A", None),
        ([], "A", None),
        (NAN, "A", None),  # case 8
        *((["a) red", "b) green", "c) x"], "c", "x"), (["a) red", "c) green", "d) x"], "c", None)),  # labels of a list
        *((["b) blue", "a) red"], "b", "blue"), (["(b) red", "(c) blue"], "B", None), (["A. x", "A. y"], "A", None)),
        *((["A：red", "B：blue"], "B", "blue"), (["Ａ. red", "Ｂ. blue"], "B", "blue"), (["A、红", "B、蓝"], "B", "蓝")),
        *((["Ｂ：red", "Ｃ：blue"], "B", None), (["[A] red", "[B] blue"], "B", "blue"), (["[B] blue", "red"], "A", None)),
        *(
            (["A - red", "B – blue"], "B", "blue"),
            (["B - blue", "red"], "B", None),
            (["Option A: red", "Option B: x"], "B", "x"),
        ),
        *((["**A.** red", "**B.** x"], "B", "x"), (["Ⓐ red", "Ⓑ x"], "B", "x"), (["① red", "② x"], "2", "x")),
        *((["A.red", "B.x"], "B", "x"), (["A) red", "green", "C) x"], "C", None), (["red", "D) x"], "B", None)),
        *((["i) red", "ii) x"], "A", None), (["甲、红", "乙、蓝"], "A", None), (["A. red", "2. x"], "A", None)),
        *((["A. red", "B.", "C. x"], "C", None), (["A. red", "B. x", "C."], "B", "x"), (["A.", "B."], "B", "B.")),
        *((["A red", "B x"], "B", "x"), (["B x", "A red"], "B", None), (["a red", "c green", "d x"], "c", None)),
        *((["1. red", "2. x"], "2", "x"), (["1. red", "2. x"], "2. x", "x"), (["1. red", "2. x"], "1. x", None)),
        *((["2) x", "1) red"], "2", "x"), (["1. red", "3. x"], "B", None), (["A", "B"], "B", "B")),
        *((["A lines", "B lines"], "B", "B lines"), (["A dog", "Cat"], "B", "Cat"), (["1.5 mm", "2.5 mm"], "B", "2.5 mm")),
        *((["10:30", "11:30"], "B", "11:30"), (["a.m.", "p.m."], "B", "p.m."), (["5 - 10", "2 - 3"], "B", "2 - 3")),
        *(
            (["E. coli", "S. aureus"], "E. coli", "E. coli"),
            (["E. coli", "S. aureus"], "B", None),
            (["H. pylori", "Ulcer"], "B", "Ulcer"),
        ),
        *(
            (["B" + sep + "blue", "A" + sep + "red"], "B", None)
            for sep in ("/ ", "= ", "> ", "|", "_", "-", "\t", " → ", "; ", "· ")
        ),
        *((["B" + sep + "blue", "A" + sep + "red"], "B", "blue") for sep in ("). ", ".) ", "... ", ":", " — ")),
        *(
            (["“B” blue", "“A” red"], "B", None),
            (["Option B", "Option A"], "B", None),
            (["(Option B) x", "(Option A) y"], "A", None),
        ),
        *((["A red", "C green"], "B", None), (["T cell", "B cell"], "B", "B cell"), (["X-ray", "T-scan"], "B", "T-scan")),
        *((["(A) -5", "(B) .5"], "A", "-5"), (["(A) -5", "(B) .5"], "B", ".5"), (["A. *p", "B. q"], "A", "*p")),
        *(("- red\n- blue", "B", "blue"), ("red,\nblue", "A", "red"), ("B=blue|A=red", "B", None)),
        *((["red", "blue"], said, None) for said in ("A, blue", "blue (A)", "blue A")),
        *((["C. x", "E. y"], "A", None), (["c red", "d x"], "A", None), ({"A": "E. coli", "B": "S. aureus"}, "B", "S. aureus")),
        *((["C. difficile", "x", "y"], "C", None), ({"A": "C. difficile", "B": "x", "C": "y"}, "C", "y")),
        *(({"A": "A. red", "B": "B. x"}, "B", "x"), ({"A": "B. x", "B": "A. red"}, "B", None)),
        *(({"0": None, "1": "red", "2": "blue"}, "B", None), ({"1": "red", "2": "blue", "3": None}, "B", "blue")),
        *((f"a) red{sep}b) x{sep}d) y", "b", None) for sep in "|\n;, "),  # options in a text
        *((f"a) red{sep}b) x{sep}c) y", "b", "x") for sep in "|\n;, "),
        *(("1,000, 2,500", "B", "2,500"), ("100,200,300", "100", None), ("1,5, 2,5", "2,5", "2,5"), ("1,2,3", "C", "3")),
        *(
            ("('red','blue')", "B", "blue"),
            ("array(['red', 'blue'], dtype=object)", "B", "blue"),
            ("Index(['a', 'b'])", "A", None),
        ),
        *(('"red","blue"', "B", "blue"), ("'red'|'blue'", "B", "blue"), ('red|"a|b"', "B", "a|b"), ('5", 6"', "B", '6"')),
        *(("red, blue, and green", "C", "green"), ("red, blue and green", "B", None), ("red, or blue", "B", "blue")),
        *(("|red|blue", "B", None), ("|red|blue|", "B", "blue"), ("red||blue", "A", None), ("red|blue|", "B", "blue")),
        *(("A. red C. green", "A", None), ("A. red, B. blue, D. x", "B", None), ("A. red, B. blue, green", "B", None)),
        *(("1) red, orange 2) blue", "A", "red, orange"), ("red (dark, x), blue", "A", None), ("Ａ．红 Ｂ．蓝", "B", "蓝")),
        *(('{"A": "x", "A": "y", "B": "z"}', "A", None), ("{'A': 'x', 'A': 'y', 'B': 'z'}", "A", None)),
        ([{"index": "B", "text": "blue"}, {"index": "A", "text": "red"}], "B", "blue"),  # objects
        ([{"mark": "B", "text": "blue"}, {"mark": "A", "text": "red"}], "B", None),
        ([{"mark": "A", "text": "red"}, {"mark": "B", "text": "blue"}], "B", "blue"),
        ([{"pos": 2, "text": "blue"}, {"pos": 1, "text": "red"}], "B", None),
        ([{"score": 5, "text": "red"}, {"score": 3, "text": "blue"}], "B", "blue"),
        ([{"label": "red", "value": "A"}, {"label": "blue", "value": "B"}], "B", "blue"),
        ([{"choice": "red", "answer": "yes"}, {"choice": "blue", "answer": "no"}], "B", None),
        ([{"text": "red", "correct": True}, {"text": "blue", "correct": False}], "B", "blue"),
        ([{"label": "A", "text": "x"}, {"text": "y"}], "B", None),
        *((pair, "A", None) for pair in (["one", "1"], ["3", "3.0"], ["1,000", "1000"], ["m²", "m2"], ["½", "1/2"])),  # equal
        *((["red", "blue"], said, None) for said in ("A.blue", "Option C", "C) x", "answer: C", "B. It is red", "[A] blue")),
        *((["red", "blue"], said, "blue") for said in ("Option B", "Ｂ", "[b]", "B.blue", "B. it is blue")),
        ([f"o{n}" for n in range(26)], "Z", "o25"),
        ([f"o{n}" for n in range(30)], "o29", None),  # case 10
    ],
)
def test_options_are_read_as_meant_or_the_row_is_refused(options: Any, answer: Any, right: str | None) -> None:
    assert words(options=options, answer=answer) == right


def test_a_list_is_called_one_and_a_list_of_one_is_what_it_holds() -> None:
    assert words(answer=["red"]) == "red"
    assert words(answer=("B",), options=["red", "blue"]) == "blue"
    for row, said in (
        ({"answer": ["red", "blue"]}, "the answer is a list of 2, ['red', 'blue']; a row has one: write the one that counts"),
        ({"answer": {"text": "red"}}, "the answer is an object, {'text': 'red'}; write its text"),
        ({"options": [["red", "blue"], ["pink"]]}, "an option is a list of 2, ['red', 'blue']; write one list of texts"),
    ):
        found = made(**row)
        assert isinstance(found, RefusedRow)
        assert said in found.detail


def test_6_numbered_options_are_in_the_order_of_their_numbers() -> None:
    found = made(options={"10": "ten", "2": "two", "1": "one"}, answer="10")
    assert isinstance(found, Question)
    assert (found.options, found.answer) == (("one", "two", "ten"), "C")


LETTERED = st.lists(
    st.text("abcdefgh xyz", min_size=1).filter(str.strip), min_size=2, max_size=26, unique_by=lambda t: normalise(f"colour {t}")
)


@hypothesis.given(texts=LETTERED, data=st.data())
def test_5_6_whatever_the_form_a_letter_means_its_own_option_or_the_row_is_refused(
    texts: list[str], data: st.DataObject
) -> None:
    texts = [f"colour {text.strip()}" for text in texts]
    letters = option_letters(len(texts))
    place = data.draw(st.integers(0, len(texts) - 1))
    pairs = data.draw(st.permutations(list(zip(letters, texts, strict=True))))
    forms = [
        texts,
        dict(pairs),
        [{"label": letter, "text": text} for letter, text in pairs],
        [f"{letter}. {text}" for letter, text in pairs],
        json.dumps(dict(pairs)),
        repr(texts),
        "|".join(texts),
        " ".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True)),
        [*texts, None],
    ]
    for form in forms:
        assert words(options=form, answer=letters[place]) == texts[place], form
    lost = data.draw(st.integers(0, len(texts) - 2))
    gaps = [
        [None if n == lost else text for n, text in enumerate(texts)],
        {letter: None if n == lost else text for n, (letter, text) in enumerate(zip(letters, texts, strict=True))},
        {letter: text for n, (letter, text) in enumerate(zip(letters, texts, strict=True)) if n != lost},
    ]
    for form in gaps:
        assert words(options=form, answer=letters[place]) is None, form


STYLES = [
    "{}. {}",
    "{}) {}",
    "({}) {}",
    "[{}] {}",
    "{}: {}",
    "{}：{}",
    "（{}）{}",
    "{}．{}",
    "{} - {}",
    "{} – {}",
    "{}] {}",
    "{}、{}",
]
STYLES += ["【{}】{}", "Option {}: {}", "**{}.** {}", "{}.{}", "{}){}"]


@hypothesis.given(
    st.sampled_from(STYLES), st.booleans(), st.lists(st.booleans(), min_size=3, max_size=6), st.randoms(use_true_random=False)
)
def test_letters_never_shift_whatever_the_style_of_labels_and_whatever_is_lost(
    style: str, small: bool, kept: list[bool], random: Any
) -> None:
    letters = option_letters(len(kept))
    labeled = {key: style.format(key.lower() if small else key, f"colour {key}{key}") for key in letters}
    left = [key for key, keep in zip(letters, kept, strict=True) if keep]
    random.shuffle(left)
    for answer in letters:
        # None: refused, as it may be where options are lost
        assert words(options=[labeled[key] for key in left], answer=answer) in (
            {f"colour {answer}{answer}"}
            if sorted(left) == letters
            else {f"colour {answer}{answer}", None}
            if left
            else {answer, None}
        )
        lost = [text if random.random() < 0.5 else f"colour {key}{key}" for key, text in labeled.items()]
        assert words(options=lost, answer=answer) in (f"colour {answer}{answer}", None)


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"choices": ["red", "blue"]}, "'choices'"),
        ({"Answer Choices": "red|blue"}, "'Answer Choices'"),
        ({"optoins": ["red", "blue"]}, "'optoins'"),
        ({"A": "red", "B": "blue", "C": None}, "'A', 'B'"),
        ({"option_a": "red", "option_b": "blue"}, "'option_a', 'option_b'"),
        ({"choice1": "red", "choice2": "blue"}, "'choice1', 'choice2'"),
    ],
)
def test_options_under_another_key_are_refused_and_not_dropped(row: dict[str, Any], shown: str) -> None:
    found = made(**row)
    assert isinstance(found, RefusedRow)
    assert found.reason == label_rows.LOST
    assert shown in found.detail and "'options'" in found.detail
    assert words(**row, options=["x", "y"]) == "x"
    assert words(**dict.fromkeys(row)) == "A"


@pytest.mark.parametrize(
    "row",
    [
        {"opa": "red", "opb": "blue", "opc": None, "cop": 1},
        {"(A)": "red", "(B)": "blue"},
        {"A)": "red", "B)": "blue"},
        {"A.": "red", "B.": "blue", "C.": "x"},
        {"option_a_text": "red", "option_b_text": "blue"},
        {"a_text": "red", "b_text": "blue"},
        {"answer1": "red", "answer2": "blue"},
        *({name: ["red", "blue"]} for name in ("endings", "variants", "ans_choices", "labels", "answers", "x")),
        {"options_dict": {"A": "red", "B": "blue"}},
        {"metadata": {"options": ["red", "blue"]}},
        {"variants": [{"label": "C", "text": "red"}, {"label": "D", "text": "blue"}]},
        {"variants": "red|blue"},
        {"variants": '["red", "blue"]'},
    ],
)
@pytest.mark.parametrize("answer", ["B", "b", "(B)"])
def test_a_letter_is_refused_where_its_options_may_stand_under_any_name(row: dict[str, Any], answer: str) -> None:
    found = made(**row, answer=answer)
    assert isinstance(found, RefusedRow)
    assert repr(next(iter(row))) in found.detail and "'options'" in found.detail
    assert words(**row, options=["x", "y"], answer=answer) == "y"
    assert words(**dict.fromkeys(row), answer="B") == "B"


@pytest.mark.parametrize(
    "row", [{"answers": ["B", "B", "8"]}, {"box": [1, 2, 3, 4]}, {"id": "xy", "note": "one"}, {"tags": ["x"]}, {"split": "a|b"}]
)
def test_a_letter_that_is_read_in_the_image_is_an_answer(row: dict[str, Any]) -> None:
    assert words(**row, answer="B") == "B"


@pytest.mark.parametrize("row", [{"a": "x", "q": "y"}, {"answer1": "x", "answer2": "y"}, {"A": "x"}, {"choice_id": 3}])
def test_other_keys_are_no_options(row: dict[str, Any]) -> None:
    assert words(**row, answer="red") == "red"


def test_columns_of_a_table_are_seen_though_only_known_ones_are_read() -> None:
    found = parse({"question": "which?", "answer": "A"}, "x.parquet, row 3", ["image", "question", "answer", "choices"])
    assert isinstance(found, RefusedRow) and found.reason == label_rows.LOST


@pytest.mark.parametrize(
    ("options", "answer"),
    [(["red", "blue"], "C"), (["red", "blue"], "7"), (["red", "blue"], "A. blue"), ({"3": "x", "7": "y"}, "A"), ("red|x", "y")],
)
def test_a_refused_answer_is_told_how_to_write_it(options: Any, answer: str) -> None:
    found = made(options=options, answer=answer)
    assert isinstance(found, RefusedRow)
    assert " of an option, or its text" in found.detail


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"A": "red", "B": "", "C": "green", "answer": "C"}, "'A', 'C'"),
        ({"A": None, "B": "blue", "C": "green", "answer": "B"}, "'B', 'C'"),
        ({"opt1": "red", "opt2": None, "opt3": "green", "answer": "3"}, "'opt1', 'opt3'"),
        ({"choice1": "red", "choice2": NAN, "choice3": "green", "answer": 3}, "'choice1', 'choice3'"),
    ],
)
def test_5_columns_of_options_with_a_gap_are_refused_as_those_without_one(row: dict[str, Any], columns: str) -> None:
    found = made(**row)
    assert isinstance(found, RefusedRow) and found.detail.startswith(f"no 'options', but {columns};")


def test_columns_of_options_that_are_all_empty_are_none() -> None:
    assert isinstance(made(A="", B=None, answer="red"), Question)


@pytest.mark.parametrize(
    "options",
    [["red (B)", "blue (A)"], ["red [B]", "blue [A]"], ["red - B", "blue - A"], ["red: B", "blue: A"], ["red=B", "x"]],
)
def test_5_6_a_letter_is_ambiguous_where_other_ones_stand_behind_the_options(options: list[str]) -> None:
    refused = made(options=options, answer="B")
    assert isinstance(refused, RefusedRow) and refused.reason == label_rows.AMBIGUOUS
    assert words(options=options, answer=options[1]) == options[1]


@pytest.mark.parametrize("options", [["red (A)", "blue (B)"], ["vitamin B", "vitamin A"], ["hepatitis B", "flu"]])
def test_letters_behind_options_that_are_theirs_or_no_labels_stay(options: list[str]) -> None:
    assert words(options=options, answer="A") == options[0]
