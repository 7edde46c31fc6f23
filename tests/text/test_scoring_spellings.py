"""Spellings of one answer count as equal, different answers stay different, and replies say which option they choose."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from leaml.text.scoring import answer_key, canonical, chosen_letters, is_correct, normalise

ANIMALS = ["cat", "dog", "bird", "fish"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.5", ".5"),
        ("-0.5", "–.5"),
        ("3.0", "3"),
        ("0.10", "0.1"),
        ("zero", "0.0"),
        ("1,000", "1000"),
        ("12,345.60", "12345.6"),
        ("1,00,000", "100000"),
        ("1\u202f000", "1000"),
        ("1’000", "1000"),
        ("–5", "-5"),
        ("−5", "-5"),
        ("5-10", "5–10"),
        ("5 – 10 mm", "5-10mm"),
        ("upper–left", "upper-left"),
        ("- 5", "-5"),
        ("– 5 mm", "-5mm"),
        ("− .5", "-0.5"),
        ("- $5", "-$5"),
        ("- €5", "-€5"),
        ("(- 5)", "(-5)"),
        ("'- 5'", "-5"),
        ("x = - 5", "x = -5"),
        ("+ 5", "+5"),
        ("± 5", "±5"),
        ("- a", "-a"),
        ("- x.", "-x"),
        ("- (x+1)", "-(x+1)"),
        ("- √2", "-√2"),
        ("5 - 10", "5-10"),
        ("- a polyp", "polyp"),
        ("- red", "red"),
        ("- .NET", ".NET"),
        ("Python 3.0", "Python 3"),
        ("about 3.50", "about 3.5"),
        ("width 3.50 mm", "width 3.5mm"),
        ("2.50 x 3.50", "2.5 x 3.5"),
        ("3.00 pm", "3 pm"),
        ("10 %", "10%"),
        ("١٠٪", "10%"),
        ("37℃", "37 °C"),
        ("½", "1/2"),
        ("1½", "1 1/2"),
        ("10²", "10^2"),
        ("10⁻³", "10^-3"),
        ("cm²", "cm2"),
        ("H₂O", "H2O"),
        ("Gram -", "Gram-"),
        ("Gram −.", "Gram (-)"),
        ("Rh +", "Rh+"),
        ("(Rh -)", "Rh-"),
        ("HER2 (+)", "HER2+"),
        ("- red -", "red"),
        ("...red", "red"),
        ('"f"', "f"),
        ("dogs'", "dogs"),
        (".NET.", ".net"),
        ("f′", "f'"),
        ("Ca²⁺", "Ca2+"),
        ("5″", '5"'),
        ("٣", "3"),
        ("ＨＥＲ２－", "HER2-"),
        ("１，０００", "1000"),
        ("红色。", "红色"),
        ("红色；粉色", "粉色;红色"),
        ("—red—", "red"),
        ("*A*", "A"),
        ('"5"', "5"),
        ("soft\u00adhyphen", "softhyphen"),
        (r"\boxed{red}", "red"),
        (r"$\boxed{\frac{1}{2}}$", "1/2"),
        (r"\(5\)", "5"),
        ("<answer>red</answer>", "red"),
        ("<think>blue? no</think> red", "red"),
        ("it is blue? no</think>\nred", "red"),
        ("≥5", ">=5"),
        ("≥ 5 mm", ">=5mm"),
        ("≧5", "≥ 5"),
        ("⩽5", "<= 5"),
        ("≤ -5", "<=-5"),
        ("< 5", "<5"),
        ("＞＝５", "≥5"),
        ("＜ 5", "<5"),
        ("≠ 5", "!=5"),
        ("x > 5", "x >5"),
        ("3 < 5", "3<5"),
        ("5 +/- 2", "5±2"),
        ("5 ± 2", "5 ±2"),
        ("+/-5", "± 5"),
        ("5x3", "5 × 3"),
        ("5×3.50 mm", "5 x 3.5mm"),
        ("10x20x30", "10 × 20 × 30"),
        ("5–10 cm²", "5-10 cm^2"),
        ("3—5", "3-5"),
        ("50 percent", "50%"),
        ("50 per cent", "50 %"),
        ("12:30 PM", "12:30pm"),
        ("12:30 p.m.", "12:30 pm"),
        ("3 P.M.", "3pm"),
        ("3:00 pm", "3 pm"),
        ("03:15 AM", "3:15am"),
        ("at 9:05:07 a.m.", "at 9:05:07am"),
        ("１２：３０ＰＭ", "12:30 pm"),
    ],
)
def test_two_spellings_of_one_answer(one: str, other: str) -> None:
    assert is_correct(one, other)
    assert is_correct(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (".5", "5"),
        ("–5", "5"),
        ("-$5", "$5"),
        ("- 5", "5"),
        ("– 5 mm", "5 mm"),
        ("- .5", "0.5"),
        ("- $5", "$5"),
        ("- €5", "€5"),
        ("- a", "a"),
        ("- x", "x"),
        ("(- 5)", "5"),
        ("- (x+1)", "x+1"),
        ("- √2", "√2"),
        ("- 5", "+5"),
        ("Python 3.10", "Python 3.1"),
        ("python-3.20", "python-3.2"),
        ("Fig. 3.10", "Fig. 3.1"),
        ("3.30 pm", "3.3 pm"),
        ("3.30 p.m.", "3.3 p.m."),
        ("1.5", "15"),
        ("1,5", "15"),
        ("1,000", "1"),
        ("1.2.0", "1.2"),
        ("v3.0", "v3"),
        ("10²", "102"),
        ("10₂", "102"),
        ("10⁻³", "10-3"),
        ("1½", "11/2"),
        ("A-", "A"),
        ("A+", "A"),
        ("A*", "A"),
        ("O–", "O"),
        ("HER2-", "HER2"),
        ("Gram -", "Gram"),
        ("Gram (-)", "Gram"),
        ("(Rh -)", "Rh"),
        ("Rh −", "Rh"),
        ("Rh −", "Rh +"),
        ("protein +/-", "protein +"),
        ("f'", "f"),
        ("AB'", "AB"),
        ("f''", "f'"),
        (".NET", "NET"),
        ("(.csv)", "csv"),
        ("-x", "x"),
        ("-(x+1)", "x+1"),
        ("C#", "C"),
        ("C++", "C"),
        ("5'", '5"'),
        ("5'", "5"),
        ("5°", "5"),
        ("10%", "10"),
        ("10‰", "10%"),
        ("<think>red", "red"),
        ("<think>red</think>blue", "red"),
        (r"\boxed{red}, so not \boxed{blue}", "red"),
        (">5", ">=5"),
        ("≥5", "5"),
        ("≥5", "≤5"),
        (">5", "<5"),
        ("≠5", "=5"),
        ("≈5", "5"),
        ("±5", "5"),
        ("±5", "+5"),
        ("5±2", "5-2"),
        ("+/-", "+"),
        ("5x3", "53"),
        ("5x3", "3x5"),
        ("0x10", "0 x 10"),
        ("12:30 pm", "12:30 am"),
        ("12:30 pm", "12:30"),
        ("3:05 pm", "3:50 pm"),
        ("3 pm", "3 am"),
        ("10:30 pm", "1:30 pm"),
        ("3:00 pm", "3:00:30 pm"),
        ("3.30 pm", "3 pm"),
        ("cm²", "cm³"),
        ("50 percentile", "50%"),
        ("50 percent", "50"),
    ],
)
def test_different_answers_stay_different(one: str, other: str) -> None:
    assert not is_correct(one, other)
    assert not is_correct(other, one)


def test_a_grouped_number_is_one_item_of_a_list() -> None:
    assert canonical("1,000, 20", "color") == {"1000", "20"}
    assert canonical("红色、粉色", "color") == canonical("粉色，红色", "color")


@pytest.mark.parametrize(
    ("reply", "letters"),
    [
        ("B。", "B"),
        ("（B）", "B"),
        ("Ｂ", "B"),
        ("【B】", "B"),
        ("「Ｂ」", "B"),
        ("B．狗", "B"),
        ("答案：B", "B"),
        ("正确答案是Ｂ。", "B"),
        ("选B", "B"),
        ("B选项", "B"),
        ("A、C", "AC"),
        ("A，C", "AC"),
        ("A和C", "AC"),
        ("选A与C", "AC"),
        ("ＡＣ", "AC"),
        (r"\boxed{B}", "B"),
        (r"The answer is $\boxed{\text{B}}$.", "B"),
        (r"\boxed{A}? No: \boxed{B}", "B"),
        (r"\boxed{A, C}", "AC"),
        ("<answer>B</answer>", "B"),
        ("<think>A?</think>B", "B"),
        ("<THINKING>C, or A</THINKING>\n(B)", "B"),
        ("Both A and C", "AC"),
        ("A and C are correct", "AC"),
        ("Only B", "B"),
        ("B is correct.", "B"),
        ("Antwort: B", "B"),
        ("B (dog)", "B"),
        ("B, dog", "B"),
        ("B – dog", "B"),
        ("**B.** dog", "B"),
        ("C. it is a bird", "C"),
        ("A. cat; C. bird", "AC"),
        ("C. birds", "C"),
        ("C. it is a bird, not a dog", "C"),
        ("C) these are two birds.", "C"),
        ("C. because of its wings", "C"),
        ("C. a dogma", "C"),
        ("C.bird", "C"),
    ],
)
def test_replies_that_name_options(reply: str, letters: str) -> None:
    assert chosen_letters(reply, ANIMALS) == set(letters)


@pytest.mark.parametrize(
    "reply",
    ["C. dog", "C: dog", "C) dog", "(C) dog", "C - dog", "C, dog", "C (dog)", "C\ndog", "C. the dog.", "C. dog and cat",
     "cat and C", "C. It is a dog", "C. dogs", "C) the dog is brown", "C: fishes", "C - two dogs", "Answer: C. It is a dog",
     "C.dogs", "A或C", "either A or C", "All except: B", "not B", "B+", "B#", "B-", "a.m.", "<think>B", "E. dog"],
)  # fmt: skip
def test_replies_that_contradict_themselves_or_name_no_option(reply: str) -> None:
    assert chosen_letters(reply, ANIMALS) is None


def test_an_explanation_is_read_by_its_longest_option_and_without_spaces_between_words() -> None:
    assert chosen_letters("B. a deliberate hand ball", ["ball", "hand ball"]) == {"B"}
    assert chosen_letters("A. a deliberate hand ball", ["ball", "hand ball"]) is None
    assert chosen_letters("B。这是狗", ["猫", "狗"]) == {"B"}
    assert chosen_letters("A。这是狗", ["猫", "狗"]) is None
    assert chosen_letters("A. it flies", ["fly", "walk"]) == {"A"}


def test_answers_of_one_meaning_have_one_key() -> None:
    assert answer_key("B", None, ANIMALS) == answer_key("dog", None, ANIMALS) == answer_key("B. dog", None, ANIMALS) == {"dog"}
    assert answer_key("horse", None, ANIMALS) == answer_key("Horse.") == {"horse"}


def test_marks_that_belong_to_an_option_are_not_stripped() -> None:
    assert chosen_letters("C#", ["Java", "C#", "C", "Go"]) == {"B"}
    assert chosen_letters("10²", ["102", "10²"]) == {"B"}
    assert chosen_letters("- 5", ["5", "-5"]) == chosen_letters("answer: - 5", ["5", "-5"]) == {"B"}
    assert chosen_letters("Both A and C", ["x", "y", "z", "Both A and C"]) == {"D"}


numbers = st.decimals(min_value=-(10**9), max_value=10**9, places=3, allow_nan=False)
dashes = st.sampled_from("-‐‑–−")


@given(numbers, st.booleans(), dashes, st.integers(0, 3))
def test_a_number_equals_itself_however_it_is_written(number, grouped: bool, dash: str, zeros: int) -> None:
    plain = f"{number:f}".rstrip("0").rstrip(".")
    written = f"{number:,f}" if grouped else f"{number:f}"
    assert is_correct(written.replace("-", dash) + "0" * zeros, plain)


@given(st.decimals(min_value=1, max_value=10**6, places=2), dashes)
def test_a_spaced_minus_is_the_minus_of_its_number(number, dash: str) -> None:
    assert is_correct(f"{dash} {number:f} mm", f"-{number:f} mm")
    assert not is_correct(f"{dash} {number:f} mm", f"{number:f} mm")


@given(numbers, numbers)
def test_different_numbers_differ(one, other) -> None:
    assume(one != other)
    assert not is_correct(f"{one:,f}", f"{other:f}")


@given(st.text(st.characters(categories=["L", "Nd", "Zs", "P", "S", "No"]), max_size=12), st.sampled_from(["NFC", "NFD"]))
def test_a_text_equals_itself_however_it_is_composed_and_spaced(text: str, form: str) -> None:
    assert is_correct(text, text) == bool(canonical(text))
    assert normalise(f" {unicodedata.normalize(form, text)}\t") == normalise(text)


FORMS = ["{}", "({})", "（{}）", "{}。", "{}.", "答案：{}", "answer: {}", "**{}**", "【{}】", "the answer is {}"]
FORMS += ["\\boxed{{{}}}", "<think>A or D</think>{}"]


@given(st.sampled_from("ABCD"), st.sampled_from(FORMS))
def test_every_form_names_its_letter(letter: str, form: str) -> None:
    wide = chr(ord(letter) + ord("Ａ") - ord("A"))
    for written in (letter, letter.lower(), wide):
        assert chosen_letters(form.format(written), ANIMALS) == {letter}


@given(st.permutations(range(4)), st.sampled_from([". ", ") ", ": ", " - ", ", "]))
def test_a_letter_with_the_text_of_another_option_names_none(order: list[int], between: str) -> None:
    letter, text = order[0], order[1]
    assert chosen_letters("ABCD"[letter] + between + ANIMALS[text], ANIMALS) is None
    assert chosen_letters("ABCD"[letter] + between + ANIMALS[letter], ANIMALS) == {"ABCD"[letter]}


@pytest.mark.parametrize(
    "reply",
    [
        "**Answer: B**",
        "**Answer:** B. dog",
        "#### B",
        "B\n\nExplanation: it barks",
        "It's B",
        "I choose option B",
        "Svar: B",
        "答：B",
    ],
)
def test_11_a_letter_is_read_through_markdown_and_with_a_reason_behind_it(reply: str) -> None:
    assert chosen_letters(reply, ["cat", "dog", "bird", "fish"]) == {"B"}
