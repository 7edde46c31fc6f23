"""Filters of the whole set: which questions are one, how far answers are thinned, and that the order of images is no matter."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from leaml.config import FilterConfig
from leaml.generation.dataset_filters import ANSWER, FLOOR, QUESTION, PairSet, QuestionGroups, balanced_cap, grams, similarity

Row = tuple[str, str, str]


def kept(rows: list[Row], seed: int = 0, **filters: float) -> tuple[set[Row], Counter[str]]:
    """The pairs that stay, and how often each reason was given."""
    pairs = PairSet(FilterConfig.model_validate(filters | {"seed": seed}))
    assert pairs.active
    for _, question, answer in rows:
        pairs.count(question, answer)
    reasons = {row: pairs.reason(*row) for row in rows}
    return {row for row, reason in reasons.items() if not reason}, Counter(r for r in reasons.values() if r)


def rows_of(question: str, **answers: int) -> list[Row]:
    return [(f"{answer}{n}", question, answer) for answer, count in answers.items() for n in range(count)]


def test_similarity_of_wordings() -> None:
    assert grams("Is it?") == {" is", "is ", "s i", " it", "it "}
    assert similarity(grams("Is it red?"), grams("is it RED")) == 1.0
    assert similarity(grams("is it red?"), grams("what shape")) == 0.0


def test_nearly_the_same_questions_are_one_group_only_with_a_threshold() -> None:
    wordings = ["Is there a polyp in the picture?", "is there a polyp in this picture", "Is there a polyp in the pictures?"]
    others = ["What colour is the polyp?", "How many instruments are there?"]
    close = QuestionGroups(0.6)
    assert [close[q] for q in [*wordings, *others, *wordings]] == [0, 0, 0, 1, 2, 0, 0, 0]
    exact = QuestionGroups(None)
    assert [exact[q] for q in [*wordings, *others, "is there a polyp in the picture"]] == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize(
    ("counts", "most", "cap"),
    [
        ([90, 10], 0.5, 10),
        ([90, 10], 0.75, 30),
        ([50, 50], 0.5, 50),
        ([60, 20, 20], 0.4, 26),
        ([70], 0.9, 0),
        ([5, 5, 5], 0.2, 0),
    ],
)
def test_cap_is_the_largest_that_keeps_every_share(counts: list[int], most: float, cap: int) -> None:
    assert balanced_cap(counts, most) == cap
    for c, holds in ((cap, True), (cap + 1, False)):
        cut = [min(n, c) for n in counts]
        assert (max(cut) <= most * sum(cut) + 1e-9) is (holds or cut == counts)


def test_common_answers_are_thinned_to_the_share() -> None:
    rows = rows_of("is there a polyp?", no=9000, yes=1000) + rows_of("how many?", one=15, two=1)
    stay, reasons = kept(rows, max_answer_share=0.6)
    answers = Counter(answer for _, _, answer in stay)
    assert answers["yes"] == 1000
    assert answers["no"] == pytest.approx(1500, rel=0.1)
    assert (answers["one"], answers["two"]) == (15, 1)  # fewer than FLOOR say nothing
    assert reasons == Counter({ANSWER: 9000 - answers["no"]})


def test_a_question_with_one_answer_keeps_a_few() -> None:
    stay, _ = kept(rows_of("is there a polyp?", no=5000), max_answer_share=0.6)
    assert 0 < len(stay) < 3 * FLOOR


def test_frequent_questions_are_thinned_and_their_answers_keep_their_shares() -> None:
    rows = rows_of("is there a polyp?", no=6000, yes=2000) + rows_of("Is there a polyp", yes=2000) + rows_of("where?", left=50)
    stay, reasons = kept(rows, max_per_question=1000)
    answers = Counter(answer for _, _, answer in stay)
    assert answers["left"] == 50
    assert answers["no"] + answers["yes"] == pytest.approx(1000, rel=0.15)
    assert answers["no"] / answers["yes"] == pytest.approx(1.5, rel=0.2)
    assert set(reasons) == {QUESTION}


def test_what_stays_depends_on_the_pair_and_the_seed_alone() -> None:
    rows = rows_of("is there a polyp?", no=900, yes=100) + rows_of("is there any polyp?", no=500)
    settings = {"max_answer_share": 0.7, "max_per_question": 200, "similar_questions": 0.6}
    stay, _ = kept(rows, **settings)
    mixed = rows.copy()
    random.Random(1).shuffle(mixed)
    assert kept(mixed, **settings)[0] == stay
    assert kept(rows, seed=1, **settings)[0] != stay
