"""The blind prior on made-up rows and on the published Kvasir-VQA numbers."""

import csv
from pathlib import Path

import pytest

from leaml.errors import DataError
from leaml.evaluation.priors import BlindPrior
from leaml.text import scoring

KVASIR = Path(__file__).parents[3] / "shared" / "data" / "kvasir_vqa_rows.csv"


@pytest.fixture(scope="module")
def kvasir() -> list[dict[str, str]]:
    if not KVASIR.exists():
        pytest.skip("shared/data/kvasir_vqa_rows.csv (29,307 rows of Kvasir-VQA, not redistributed) is absent")
    with KVASIR.open(newline="") as file:
        return list(csv.DictReader(file))


def accuracy(rows: list[dict[str, str]], use_source: bool) -> float:
    sources = [row["source"] if use_source else None for row in rows]
    prior = BlindPrior.fit([row["question"] for row in rows], [row["answer"] for row in rows], context=sources)
    asked = [(row["question"], source) for row, source in zip(rows, sources, strict=True)]
    guesses = {key: prior.predict(key[0], context=key[1]) for key in set(asked)}
    right = [scoring.is_correct(guesses[key], row["answer"]) for key, row in zip(asked, rows, strict=True)]
    return 100 * sum(right) / len(right)


def test_kvasir_question_prior(kvasir: list[dict[str, str]]) -> None:
    assert len(kvasir) == 29307
    assert accuracy(kvasir, use_source=False) == pytest.approx(65.0, abs=0.5)


def test_kvasir_question_and_source_prior(kvasir: list[dict[str, str]]) -> None:
    assert accuracy(kvasir, use_source=True) == pytest.approx(83.0, abs=0.5)


def test_most_common_normalised_answer() -> None:
    prior = BlindPrior.fit(["What colour?"] * 4, ["Blue", "red; pink", "Pink; red.", "green"])
    assert prior.predict("what  colour") == "pink; red"


def test_ties_go_to_the_smallest() -> None:
    assert BlindPrior.fit(["q"] * 4, ["b", "a", "b", "a"]).predict("q") == "a"


def test_back_off_by_type_then_overall() -> None:
    questions = ["is it red?", "is it blue?", "is it big?", "how many?", "where?", "where?", "where?", "where?"]
    answers = ["no", "no", "yes", "3", "left", "left", "left", "left"]
    types = ["yes_no"] * 3 + ["count", None, None, None, None]
    prior = BlindPrior.fit(questions, answers, types)
    assert prior.predict("is it big?", "yes_no") == "yes"
    assert prior.predict("is it new?", "yes_no") == "no"
    assert prior.predict("how old?", "count") == "3"
    assert prior.predict("who?") == prior.predict("who?", "person") == "left"


def test_context_before_question_before_type_with_context() -> None:
    prior = BlindPrior.fit(["q"] * 5, ["none", "none", "none", "polyp", "polyp"], ["t"] * 5, ["normal"] * 3 + ["sick"] * 2)
    assert prior.predict("q", context="sick") == "polyp"
    assert prior.predict("q", context="unknown") == prior.predict("q") == "none"
    assert prior.predict("new", "t", "sick") == "polyp"
    assert prior.predict("new", "t") == "none"


def test_option_letters() -> None:
    four, two = ["w", "x", "y", "z"], ["w", "x"]
    prior = BlindPrior.fit(
        ["foul?"] * 5 + ["who?"] * 2,
        ["D", "(D)", "z", "B", "x", "A, C", "C, A"],
        options=[four] * 4 + [two] + [four] * 2,
    )
    assert prior.predict("foul?", options=four) == "D"
    assert prior.predict("foul?", options=two) == "B"  # D is not offered
    assert scoring.is_correct(prior.predict("who?", options=four), "A; C", options=four)
    assert prior.predict("unseen?", options=four) == "D"
    assert BlindPrior.fit(["q"], ["yes"]).predict("q", options=two) == "A"


def test_letters_and_texts_do_not_mix() -> None:
    prior = BlindPrior.fit(["q", "q", "q"], ["B", "B", "yes"], options=[["u", "v"], ["u", "v"], None])
    assert prior.predict("q") == "yes"
    assert prior.predict("q", options=["u", "v"]) == "B"


def test_unusable_rows_are_errors() -> None:
    with pytest.raises(DataError, match="at least one training row"):
        BlindPrior.fit([], [])
    with pytest.raises(DataError, match="'answers': 1"):
        BlindPrior.fit(["q", "q"], ["a"])
    with pytest.raises(DataError, match="'context': 3"):
        BlindPrior.fit(["q"], ["a"], context=["x", "y", "z"])
