"""The generator's reply format: what is written is read back, and nothing else is taken for a pair."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaml.generation import prompts

PAIRS = [
    ("What colour is it?", "red"),
    ("What is it?", "a red circle, left of a square"),
    ("Is 3 > 2?", "yes"),
    ("Where is the Caption: sign?", "left"),
    ("Quelle est la couleur de l’image ?", "vert foncé"),
    ("何色ですか？", "赤"),
    ("What does the question say", "no Question here"),
    ("a (b) [c] {d} \\ |", "1.5 %"),
    ("Q", "A"),
]
CAPTIONS = [None, "a red circle", "Two lines.\nA blue dot", "It shows an answer: none. The question is open", "何か。"]


@pytest.mark.parametrize("caption", CAPTIONS)
@pytest.mark.parametrize("pair", PAIRS)
def test_reply_is_read_back(pair: tuple[str, str], caption: str | None) -> None:
    assert prompts.parse_qa(prompts.qa_reply(*pair, caption)) == pair


@pytest.mark.parametrize("pair", PAIRS)
def test_reply_behind_the_forced_caption_is_read_back(pair: tuple[str, str]) -> None:
    # as generated: the prefix is forced, the model goes on with a space
    forced = prompts.caption_prefix("a red  circle\n")
    assert forced == "Caption: a red circle"
    assert prompts.qa_reply(*pair, "a red circle") == f"{forced} {prompts.qa_reply(*pair)}"
    assert prompts.parse_qa(f" {prompts.qa_reply(*pair)}") == pair


def test_white_space_is_normalised() -> None:
    assert prompts.parse_qa("\n Question:  What\n is it? \tAnswer:\n a  dot \n") == ("What is it?", "a dot")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "a red circle",
        "Question: What is it?",
        "Answer: red",
        "Answer: red Question: What is it?",
        "Question: Answer: red",
        "Question: What is it? Answer:",
        "Question: What is it? Answer:   \n",
        "question: what is it? answer: red",
        "Here you go. Question: What is it? Answer: red",
        "Question: What? Answer: red Question: Where? Answer: left",
        "Question: What? Question: Where? Answer: left",
        "Question: What? Answer: red Answer: blue",
        "Caption: a dot",
        "Caption: a dot Question: What is it?",
        "Caption: a dot Answer: red",
    ],
)
def test_text_without_exactly_one_pair_is_none(text: str) -> None:
    assert prompts.parse_qa(text) is None


@pytest.mark.parametrize(
    "pair",
    [
        ("What is the score?", "2:1"),
        ("T2-weighted: which plane?", "axial"),
        ("What time is it: 10:30?", "10:30:15"),
        ("Which number: a or b?", "A: red"),
        ("Which region: left?", "caption: none"),
        ("Where?", "https://x.org"),
    ],
)
def test_structured_replies_may_hold_colons(pair: tuple[str, str]) -> None:
    assert re.fullmatch(prompts.pair_pattern(200, 100), prompts.qa_reply(*pair))


WORDS = ["Question:", "Answer:", "Question", "Answer", "question:", " ", ":", "r:", "er:", "on:", "stion", "swer", "x", "\n"]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), st.lists(st.sampled_from(WORDS), min_size=1, max_size=6))
def test_every_structured_reply_is_read(question: list[str], answer: list[str]) -> None:
    reply = f"Question: {''.join(question)} Answer: {''.join(answer)}"
    if re.fullmatch(prompts.pair_pattern(200, 100), reply):
        assert prompts.parse_qa(reply) is not None


def test_a_thought_before_a_pair_is_no_part_of_it() -> None:
    assert prompts.parse_qa("<think>\nhm\n</think>\nQuestion: What? Answer: red") == ("What?", "red")
    assert prompts.parse_qa("<think>Question: What? Answer: red") is None
