"""Text metrics against values worked out by hand."""

import pytest

from leaml.errors import DataError
from leaml.evaluation.textmetrics import text_metrics


def test_golden_sentence() -> None:
    found = text_metrics(["A polyp is seen in the colon"], ["the polyps are seen in the colon"])
    assert found["bleu"] == pytest.approx((4 / 7 * 3 / 6 * 2 / 5 * 1 / 4) ** 0.25, abs=1e-4)
    assert found["rouge1"] == pytest.approx(4 / 7, abs=1e-4)
    assert found["rouge2"] == pytest.approx(3 / 6, abs=1e-4)
    assert found["rougeL"] == pytest.approx(4 / 7, abs=1e-4)
    # polyp/polyps match by stem (5 of 7 words, in two chunks); is/are are left apart
    assert found["meteor"] == pytest.approx(5 / 7 * (1 - 0.5 * (2 / 5) ** 3), abs=1e-4)


def test_synonyms_do_not_match() -> None:
    assert text_metrics(["big automobile"], ["large car"])["meteor"] == 0.0


def test_answers_of_one_word_have_exact_match_and_no_text_metrics() -> None:
    assert text_metrics(["a red polyp", "Red"], ["polyp", "red"]) == {}


def test_rouge_2_is_over_references_that_have_two_words() -> None:
    found = text_metrics(["red and pink", "red", "one"], ["red and pink", "red", "two"])
    assert found["rouge2"] == 1.0
    assert found["rouge1"] == pytest.approx(2 / 3, abs=1e-4)
    assert "rouge2" not in text_metrics(["ja, да"], ["да да"])
    assert text_metrics(["polyp", "red", "a b"], ["polyp", "pink", "a b"])["bleu"] == pytest.approx(
        0.75**0.5, abs=1e-4
    )  # words, pairs of words


def test_means_over_rows_and_range() -> None:
    found = text_metrics(["red and pink", ""], ["red and pink", "none"])
    assert found["rouge1"] == found["rougeL"] == 0.5
    assert found["rouge2"] == 1.0  # of the reference that has pairs of words
    assert found["meteor"] == pytest.approx((1 - 0.5 / 27) / 2, abs=1e-4)
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], ["a", "b"])])
def test_unusable_lists_are_errors(predictions: list[str], references: list[str]) -> None:
    with pytest.raises(DataError, match="as many references"):
        text_metrics(predictions, references)
