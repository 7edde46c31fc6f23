"""The option that answers a question: its replies, their probabilities, and what settles the choice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaml.errors import DataError
from leaml.text.choice import Choice, check_options, choose, named, replies, settled

COLOURS = ["red", "blue"]


def test_an_option_has_its_letter_its_text_and_both() -> None:
    assert replies(COLOURS) == [["A", "red", "A. red"], ["B", "blue", "B. blue"]]


def test_a_text_that_is_the_letter_of_another_option_is_no_reply_of_its_own() -> None:
    found = replies(["B", "A"])
    assert (found[0][0], found[1][0]) == ("A", "B")
    assert not set(found[0]) & set(found[1])


@pytest.mark.parametrize(("reply", "index"), [("b", 1), ("Blue.", 1), ("(A)", 0), ("circle", None), ("A, B", None), ("", None)])
def test_named(reply: str, index: int | None) -> None:
    assert named(reply, COLOURS) == index


def test_a_greedy_reply_with_most_of_the_probability_settles_it() -> None:
    found = settled("B", math.log(0.51), COLOURS)
    assert found is not None
    assert (found.index, found.own, found.logprob) == (1, True, math.log(0.51))
    assert settled("B", math.log(0.49), COLOURS) is None
    assert settled("circle", math.log(0.99), COLOURS) is None


def test_a_reply_that_is_no_option_gives_way_to_the_most_probable_one_by_all_its_replies() -> None:
    scored = [[math.log(0.02), math.log(0.001), -math.inf], [math.log(0.01), math.log(0.015), -math.inf]]
    found = choose("circle", math.log(0.9), COLOURS, scored)
    assert (found.index, found.own) == (1, False)
    assert found.logprob == pytest.approx(math.log(0.025 / 0.046))
    assert sum(math.exp(each) for each in found.others) == pytest.approx(1)


def test_a_greedy_reply_that_is_less_probable_than_another_option_is_not_the_answer() -> None:
    found = choose("A", math.log(0.3), COLOURS, [[math.log(0.3)], [math.log(0.25), math.log(0.2)]])
    assert (found.index, found.own) == (1, False)


def test_no_other_option_is_more_probable_than_the_answer() -> None:
    """The greedy reply "A" has 0.3, and the two of the other option 0.2 each: their sum would stand above it."""
    scored = [[math.log(0.3), math.log(0.2)], [math.log(0.2), math.log(0.2)]]
    found = choose("A", math.log(0.3), COLOURS, scored)
    assert (found.index, found.own) == (0, False)
    assert found.logprob == max(found.others) == pytest.approx(math.log(5 / 9))
    assert choose("A", math.log(0.6), COLOURS, scored) == Choice(0, math.log(0.6), True, found.others)


@given(st.lists(st.lists(st.floats(-30, -2), min_size=1, max_size=3), min_size=2, max_size=26))
def test_probabilities_among_the_options_sum_to_one(scored: list[list[float]]) -> None:
    options = [f"option {n}" for n in range(len(scored))]
    found = choose("none of these", -0.1, options, scored)
    assert found.index == max(range(len(scored)), key=lambda i: found.others[i])
    assert sum(math.exp(each) for each in found.others) == pytest.approx(1)


@pytest.mark.parametrize(
    "options", [["red", "Red."], ["red", " red"], ["1", "one"], ["dog", "the dog"], ["red", "blue", "red"], ["+", "+"]]
)
def test_options_that_are_one_answer_are_refused(options: list[str]) -> None:
    with pytest.raises(DataError, match="same answer"):
        check_options(options)


def test_different_options_are_taken() -> None:
    check_options(["hepatitis A", "hepatitis B", "-1", "1", "10", "10 %"])
