"""The option that answers a question: its replies, their probabilities, and what settles the choice."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaml.errors import DataError
from leaml.text.choice import Choice, Said, check_options, choose, named, replies, settled

COLOURS = ["red", "blue"]


NOTHING = Said("circle", math.log(0.001))


def said(text: str, probability: float, **more: Any) -> Said:
    return Said(text, math.log(probability), **more)


def scored(options: list[str], greedy: Said, model: dict[str, float]) -> list[list[Said]]:
    """What a model that gives these probabilities to these replies, and almost none to others, says to each of the replies."""
    return [[said(text, model.get(text, 1e-9)) for text in group] for group in replies(options, greedy)]


def chosen(options: list[str], model: dict[str, float], **greedy: Any) -> tuple[str, Choice]:
    """The answer of a model whose greedy reply is the most probable one."""
    text = max(model, key=lambda reply: model[reply])
    first = said(text, model[text], **greedy)
    found = choose(first, options, scored(options, first, model))
    return options[found.index], found


def test_an_option_has_its_letter_its_text_and_both() -> None:
    assert replies(COLOURS, NOTHING) == [["A", "red", "A. red"], ["B", "blue", "B. blue"]]


@pytest.mark.parametrize(
    ("option", "texts"),
    [
        ("Red", ["Red", "red"]),
        ("RED", ["RED", "red"]),
        ("red.", ["red.", "red"]),
        ("The red one.", ["The red one.", "the red one.", "red one"]),
        (" 3.5 cm ", ["3.5 cm"]),
    ],
)
def test_the_text_of_an_option_is_looked_for_as_a_model_may_spell_it(option: str, texts: list[str]) -> None:
    (found, _) = replies([option, "blue"], NOTHING)
    assert found == ["A", *texts, f"A. {option.strip()}"]


@pytest.mark.parametrize(
    ("greedy", "others"),
    [
        ("Red", ("Red", "Blue")),
        ("Red.", ("Red.", "Blue.")),
        ("(a)", ("(a)", "(b)")),
        ("Answer: A) RED", ("Answer: A) RED", "Answer: B) BLUE")),
        ("the answer is red.", ("the answer is red.", "the answer is blue.")),
        ("A because of it", None),
    ],
)
def test_every_option_is_looked_for_in_the_form_in_which_the_model_speaks(greedy: str, others: tuple[str, str] | None) -> None:
    found = replies(COLOURS, said(greedy, 0.3))
    assert [group[3:] for group in found] == [[other] for other in others or ()] or (others is None and len(found[0]) == 3)


def test_a_text_that_is_the_letter_of_another_option_is_no_reply_of_its_own() -> None:
    found = replies(["B", "A"], NOTHING)
    assert (found[0][0], found[1][0]) == ("A", "B")
    assert not set(found[0]) & set(found[1])


@pytest.mark.parametrize(("reply", "index"), [("b", 1), ("Blue.", 1), ("(A)", 0), ("circle", None), ("A, B", None), ("", None)])
def test_named(reply: str, index: int | None) -> None:
    assert named(reply, COLOURS) == index


def test_a_greedy_reply_with_most_of_the_probability_settles_it() -> None:
    found = settled(said("B", 0.51), COLOURS)
    assert found is not None
    assert (found.index, found.own, found.logprob) == (1, True, math.log(0.51))
    assert settled(said("B", 0.49), COLOURS) is None
    assert settled(said("circle", 0.99), COLOURS) is None


@pytest.mark.parametrize(
    ("options", "model", "answer", "share"),
    [
        # of a model that was taught "red", of which the other options are written as it never would
        (["Red", "Blue"], {"red": 0.4866, "blue": 0.001, "Blue": 0.02}, "Red", 0.4866 / 0.5076),
        (["Red", "Blue", "Green", "Yellow"], {"red": 0.346, "Yellow": 0.05}, "Red", 0.346 / 0.396),
        (["RED", "blue"], {"red": 0.45, "blue": 0.05}, "RED", 0.9),
        (["red.", "blue."], {"red": 0.45, "blue": 0.05}, "red.", 0.9),
        (["red", "blue"], {"red": 0.45, "blue": 0.05}, "red", 0.9),
        # one that writes capitals, which counts for both options
        (["red", "blue"], {"Red": 0.4, "Blue": 0.35, "B": 0.1}, "blue", 0.45 / 0.85),
        # a form that is none of those which are always looked for
        (["red", "blue"], {"the answer is red": 0.3, "B": 0.1}, "red", 0.75),
    ],
)
def test_what_the_model_says_by_itself_counts_however_the_option_is_written(
    options: list[str], model: dict[str, float], answer: str, share: float
) -> None:
    text, found = chosen(options, model)
    assert (text, found.own) == (answer, False)
    assert math.exp(found.logprob) == pytest.approx(share, abs=1e-6)
    assert sum(map(math.exp, found.others)) == pytest.approx(1)


def test_the_other_options_of_a_settled_answer_have_no_more_than_they_would_be_said_with() -> None:
    text, found = chosen(["RED", "blue"], {"red": 0.9, "blue": 0.0002})
    assert (text, found.own, found.logprob) == ("RED", True, math.log(0.9))
    assert math.exp(found.others[1]) == pytest.approx(0.0002 / 0.9002, abs=1e-6)


def test_no_reply_counts_twice() -> None:
    """Neither the greedy one, which is also scored, nor one that a tokenizer makes the same tokens of as of another."""
    _, found = chosen(["red", "blue"], {"red": 0.3, "blue": 0.2})
    assert math.exp(found.logprob) == pytest.approx(0.6)
    both = [[said("A", 0.1), said("Red", 0.3, tokens=(1,)), said("red", 0.3, tokens=(1,))], [said("B", 0.39, tokens=(2,))]]
    found = choose(said("circle", 0.2), ["Red", "blue"], both)
    assert (found.index, math.exp(found.others[0])) == (0, pytest.approx(40 / 79))


def test_an_option_that_begins_as_another_takes_nothing_of_it() -> None:
    options = ["red", "red wine"]
    assert not set(replies(options, NOTHING)[0]) & set(replies(options, NOTHING)[1])
    text, found = chosen(options, {"red": 0.3, "red wine": 0.2})
    assert (text, math.exp(found.logprob)) == ("red", pytest.approx(0.6))
    # cut there it may have become either of them: only the scored ones count
    text, found = chosen(options, {"red": 0.49, "red wine": 0.48}, ended=False)
    assert (text, math.exp(found.logprob)) == ("red", pytest.approx(49 / 97))
    assert settled(said("red", 0.97, ended=False), options) is None
    assert settled(said("red", 0.97, ended=True), options) is not None


def test_a_reply_that_was_cut_counts_with_the_replies_that_it_begins() -> None:
    """The model writes "A", "A. red" and more behind the letter, all of which is in the probability of the cut reply."""
    greedy = said("A", 0.4, ended=False)
    found = choose(greedy, COLOURS, scored(COLOURS, greedy, {"A": 0.2, "A. red": 0.15, "B": 0.4, "red": 0.1}))
    assert (found.index, math.exp(found.logprob)) == (0, pytest.approx(0.5 / 0.9))


def test_a_reply_that_is_no_option_gives_way_to_the_most_probable_one_by_all_its_replies() -> None:
    text, found = chosen(COLOURS, {"circle": 0.9, "A": 0.02, "red": 0.001, "B": 0.01, "blue": 0.015})
    assert (text, found.own) == ("blue", False)
    assert math.exp(found.logprob) == pytest.approx(0.025 / 0.046, abs=1e-6)


def test_a_greedy_reply_that_is_less_probable_than_another_option_is_not_the_answer() -> None:
    text, found = chosen(COLOURS, {"A": 0.3, "B": 0.25, "blue": 0.2})
    assert (text, found.own) == ("blue", False)


def test_no_other_option_is_more_probable_than_the_answer() -> None:
    """The greedy reply "A" has 0.3, and the two of the other option 0.2 each: their sum would stand above it."""
    text, found = chosen(COLOURS, {"A": 0.3, "red": 0.2, "B": 0.2, "blue": 0.2})
    assert (text, found.own) == ("red", False)
    assert found.logprob == max(found.others) == pytest.approx(math.log(5 / 9))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["red", "Red wine", "BLUE.", "the dog", "B", "a cat", "7"]), min_size=2, max_size=7, unique=True),
    st.sampled_from(["red", "Red.", "(b)", "A. red", "the answer is blue", "dog", "", "none of these", "a"]),
    st.floats(-20, -0.7),
    st.booleans(),
    st.data(),
)
def test_probabilities_among_the_options_sum_to_one(
    options: list[str], reply: str, logprob: float, ended: bool, data: st.DataObject
) -> None:
    greedy = Said(reply, logprob, ended=ended)
    groups = [[Said(text, data.draw(st.floats(-30, -2))) for text in group] for group in replies(options, greedy)]
    found = choose(greedy, options, groups)
    assert found.index == max(range(len(options)), key=lambda i: found.others[i])
    assert sum(math.exp(each) for each in found.others) == pytest.approx(1)
    texts = [text for group in groups for text in group]
    assert len({each.text for each in texts}) == len(texts)


@pytest.mark.parametrize(
    "options", [["red", "Red."], ["red", " red"], ["1", "one"], ["dog", "the dog"], ["red", "blue", "red"], ["+", "+"]]
)
def test_options_that_are_one_answer_are_refused(options: list[str]) -> None:
    with pytest.raises(DataError, match="same answer"):
        check_options(options)


def test_different_options_are_taken() -> None:
    check_options(["hepatitis A", "hepatitis B", "-1", "1", "10", "10 %"])
