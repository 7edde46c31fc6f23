"""Each filter rejects what it is for, keeps near misses, and can be switched off."""

import math

import pytest

from leaml.config import FilterConfig
from leaml.data import tables
from leaml.generation import filters, prompts
from leaml.generation.candidates import Candidate, from_answers, of_row, questions

CONFIG = FilterConfig()
OFF = FilterConfig(
    max_question_chars=None, max_answer_chars=None, min_mean_logprob=None, round_trip=False, min_votes=None, duplicates=False
)


def pair(question: str = "What shape is it?", answer: str = "circle", logprob: float = -0.5, **rest: object) -> Candidate:
    return Candidate(question, answer, logprob, **rest)  # type: ignore[arg-type]


def reason(candidate: Candidate, config: FilterConfig = CONFIG) -> str:
    return filters.decide(candidate, config).reason


def test_good_pair_is_accepted() -> None:
    decision = filters.decide(pair(reanswers=["Circle.", "a circle", "square"]), CONFIG)
    assert decision == filters.Decision(True, "", pytest.approx(2 / 3), "Circle.")


def test_answers_cut_at_the_token_limit_make_no_pair() -> None:
    whole, half = "a small polyp", "a small polyp with a"
    (corrected,) = from_answers("What is it?", [], [half], [-0.01], 0.5, cut=[True])
    assert (corrected.answer, reason(corrected, OFF)) == (half, "cut at the token limit")
    (given,) = from_answers("What is it?", [], [half, whole, whole], [-0.1] * 3, cut=[True, False, False])
    assert (given.answer, reason(given, OFF)) == (whole, "")


def test_replies_are_parsed_and_broken_ones_keep_their_text() -> None:
    good = Candidate.from_reply("Caption: a dot. Question: What is it? Answer: a dot", -1.0)
    assert (good.question, good.answer, reason(good)) == ("What is it?", "a dot", "")
    thought = Candidate.from_reply("<think>\nhm\n</think>\nQuestion: What is it? Answer: a dot", -1.0)
    assert (thought.question, thought.answer, reason(thought)) == ("What is it?", "a dot", "")
    broken = Candidate.from_reply("Question: What is it?", -1.0)
    assert reason(broken, OFF) == "unparsable"
    assert filters.apply([broken], CONFIG)[0]["question"] == "Question: What is it?"


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (pair(question=" "), "empty question"),
        (pair(answer=""), "empty answer"),
        (pair(question="q" * 200), ""),
        (pair(question="q" * 201), "question too long"),
        (pair(answer="a" * 100), ""),
        (pair(answer="a" * 101), "answer too long"),
        (pair(question=prompts.GENERATE), "prompt echo"),
        (pair(question="write a question about the image and answer it please"), "prompt echo"),
        (pair(answer="describe  the image"), "prompt echo"),
        (pair(answer="red <|assistant|>"), "prompt echo"),
        (pair(question="Does it describe the image quality?"), ""),
        (pair(answer="As an AI, no eyes"), "refusal"),
        (pair(answer="I cannot see it"), "refusal"),
        (pair(question="I’m unable to see. What is it?"), "refusal"),
        (pair(answer="Cannot determine"), "refusal"),
        (pair(question="What cannot be seen?", answer="an aide"), ""),
        (pair(answer="yes, no"), "yes and no"),
        (pair(answer="Yes and NO"), "yes and no"),
        (pair(answer="no, nothing"), ""),
        (pair(answer="yes/no"), "yes and no"),
        (pair(answer="Yes, it is. No, it is not."), "yes and no"),
        (pair(answer="Yes, no polyps remain"), ""),
        (pair(answer="NO YES switch"), ""),
        (pair(answer="SORRY WE ARE CLOSED"), ""),
        (pair(answer="I cannot stop"), ""),
        (pair(answer="timeout"), ""),
        (pair(answer="type I cannot be excluded"), ""),
        (pair(answer="human"), ""),
        (pair(answer="x < y"), ""),
        (pair(answer="+"), ""),
        (pair(question="描述", answer="对不起，我无法回答"), "refusal"),
        (pair(answer="Lo siento, no puedo ver la imagen."), "refusal"),
        (pair(answer="?"), "empty answer"),
        (pair(question="...?"), "empty question"),
        (pair(answer="[/INST]"), "prompt echo"),
        (pair(answer="red<eos>"), "prompt echo"),
        (pair(answer="yes, a nose"), ""),
    ],
)
def test_text_filters(candidate: Candidate, expected: str) -> None:
    assert reason(candidate) == expected


def test_limits_can_be_switched_off() -> None:
    assert reason(pair(question="q" * 999, answer="a" * 999, reanswers=["b", "c"]), OFF) == ""


def test_log_probability() -> None:
    strict = FilterConfig(min_mean_logprob=-1.0)
    assert reason(pair(logprob=-1.0), strict) == ""
    assert reason(pair(logprob=-1.01), strict) == "low log-probability"
    assert reason(pair(logprob=math.nan), strict) == "low log-probability"
    assert reason(pair(logprob=-99.0)) == ""


def test_round_trip_takes_the_most_common_reanswer() -> None:
    only = FilterConfig(min_votes=None)
    assert reason(pair(reanswers=["square", "The circle", "circle."]), only) == ""
    assert reason(pair(reanswers=["circle", "square", "square"]), only) == "round trip disagrees"
    assert reason(pair(reanswers=["square", "circle"]), only) == "round trip disagrees"  # a tie goes to the first
    assert reason(pair(answer="red; pink", reanswers=["pink; red"]), only) == ""
    assert filters.winning_reanswer(["b", "A box", "box"]) == "A box"


def test_votes() -> None:
    only = FilterConfig(round_trip=False, min_votes=0.6)
    assert reason(pair(reanswers=["circle"] * 3 + ["x", "y"]), only) == ""
    assert reason(pair(reanswers=["circle"] * 2 + ["x", "y"]), only) == "few votes"
    decision = filters.decide(pair(reanswers=["circle", "x", "y", "z"]), OFF)
    assert (decision.accepted, decision.votes, decision.roundtrip) == (True, 0.25, "circle")


def test_without_reanswers_their_filters_do_not_apply() -> None:
    decision = filters.decide(pair(), FilterConfig(round_trip=True, min_votes=1.0))
    assert decision == filters.Decision(True, "", None, None)


def test_duplicates_keep_the_best_accepted_pair() -> None:
    candidates = [
        pair("What shape is it?", "circle", -0.9, reanswers=["circle"]),
        pair("what shape is  it", "square", -0.1, reanswers=["circle"]),
        pair("What shape is it", "round", -0.2, reanswers=["round"]),
        pair("What size is it?", "big", -3.0, reanswers=["big"]),
    ]
    rows = filters.apply(candidates, CONFIG)
    assert [row["reason"] for row in rows] == ["duplicate question", "round trip disagrees", "", ""]
    assert [row["accepted"] for row in filters.apply(candidates, OFF)] == [True] * 4


def test_more_votes_beat_a_higher_log_probability() -> None:
    rows = filters.apply(
        [
            pair(logprob=math.nan, reanswers=["circle"] * 3),
            pair(logprob=-0.1, reanswers=["circle", "circle", "x"]),
            pair(logprob=-2.0, reanswers=["circle"] * 3),
        ],
        CONFIG,
    )
    assert [row["accepted"] for row in rows] == [False, False, True]


def test_a_rejected_pair_does_not_crowd_out_an_accepted_one() -> None:
    candidates = [pair(answer="yes, no", logprob=0.0, reanswers=["yes, no"]), pair(answer="no", logprob=-1.0, reanswers=["no"])]
    assert [row["reason"] for row in filters.apply(candidates, CONFIG)] == ["yes and no", ""]


def test_rows_fit_the_table_and_none_is_lost() -> None:
    candidates = [pair(), pair(answer=""), Candidate.from_reply("nonsense", math.nan), pair(reanswers=["square"])]
    rows = filters.apply(candidates, CONFIG)
    assert [set(row) for row in rows] == [{field.name for field in tables.PAIR}] * 4
    table = tables.table([{"image_id": "x", "caption": None, "pairs": rows}], tables.PSEUDO_QA)
    stored = table.to_pylist()[0]["pairs"]
    assert [row["reason"] for row in stored] == ["", "empty answer", "unparsable", "round trip disagrees"]
    assert stored[3]["votes"] == 0.0
    assert stored[0]["votes"] is stored[0]["roundtrip"] is None
    assert filters.apply([], CONFIG) == []


def test_every_filter_is_reachable() -> None:
    hit = {
        reason(candidate, FilterConfig(min_mean_logprob=-5.0, round_trip=round_trip, hardness=True))
        for round_trip in (True, False)
        for candidate in (
            Candidate.from_reply("x", 0.0),
            Candidate.from_reply("Question: What is it? Answer: a red", 0.0, cut=True),
            pair(answer=""),
            pair(answer="<image>"),
            pair(question="a??eo red shape"),
            pair(answer="I cannot"),
            pair(answer="yes no"),
            pair(logprob=-6.0),
            pair(reanswers=["x"]),
            pair(base="Circle."),
        )
    }
    assert len(hit) == len(filters.FILTERS)


def test_a_sure_reanswer_that_no_pair_has_becomes_a_pair_of_its_own() -> None:
    wrong = [pair("Is it teal?", "no", reanswers=["Yes."]), pair("Is it teal?", "No", reanswers=["Yes."])]
    (corrected,) = from_answers(wrong[0].question, wrong, wrong[0].reanswers, [math.log(0.98)], above=0.97)
    assert (corrected.question, corrected.answer, corrected.reanswers) == ("Is it teal?", "Yes.", ["Yes."])
    assert corrected.mean_logprob == pytest.approx(math.log(0.98))
    rows = filters.apply([*wrong, corrected], CONFIG)
    assert [(r["answer"], r["accepted"], r["reason"]) for r in rows] == [
        ("no", False, "round trip disagrees"),
        ("No", False, "round trip disagrees"),
        ("Yes.", True, ""),
    ]
    assert from_answers(wrong[0].question, wrong, wrong[0].reanswers, [math.log(0.96)], above=0.97) == []


def test_nothing_is_corrected_when_a_pair_has_the_answer_or_the_votes_differ() -> None:
    agreed = [pair("Is it teal?", "no", reanswers=["yes"]), pair("Is it teal?", "yes", reanswers=["yes"])]
    assert from_answers(agreed[0].question, agreed, agreed[0].reanswers, [0.0], above=0.5) == []
    split = [pair("Is it teal?", "no", reanswers=["yes", "yes", "no"])]
    assert from_answers(split[0].question, split, split[0].reanswers, [0.0, 0.0, 0.0], above=0.7) == []
    (kept,) = from_answers(split[0].question, split, split[0].reanswers, [-0.1, -0.3, 0.0], above=0.5)
    assert kept.mean_logprob == pytest.approx(-0.2)


@pytest.mark.parametrize("silence", ["", " ; "])
def test_a_question_that_the_model_says_nothing_to_is_a_rejected_pair(silence: str) -> None:
    given = from_answers("What colour is the ball?", [], [silence, silence, "red"], [-0.1, -0.3, -0.1])
    corrected = from_answers("Is it teal?", [pair("Is it teal?", "no")], [silence], [0.0], above=0.97)
    for candidates in (given, corrected):
        (row,) = filters.apply(candidates, CONFIG)
        assert (row["answer"], row["accepted"], row["reason"]) == (silence, False, "empty answer")
    assert given[0].mean_logprob == pytest.approx(-0.2)


def test_a_row_of_candidates_makes_sampled_pairs_corrections_and_given_pairs() -> None:
    def reply(text: str, logprob: float = -0.01, cut: bool = False) -> dict[str, object]:
        return {"text": text, "mean_logprob": logprob, "cut": cut}

    row = {
        "replies": [reply("Question: Is it teal? Answer: no"), reply("Question: What is it? Answer: a dot"), reply("rubbish")],
        "answers": [
            {"question": "Where is it?", "given": True, "replies": [reply("left", -2.0)]},
            {"question": "Is it teal?", "given": False, "replies": [reply("yes")]},
            {"question": "What is it?", "given": False, "replies": [reply("dot")]},
        ],
        "base": [{"question": "Is it teal?", "answer": "yes"}],
    }
    assert questions(row) == ["Where is it?", "Is it teal?", "What is it?"]
    found = of_row(row, 0.97)
    assert [(c.question, c.answer, c.reanswers, c.base) for c in found] == [
        ("Is it teal?", "no", ["yes"], "yes"),
        ("What is it?", "a dot", ["dot"], None),
        ("", "", [], None),
        ("Where is it?", "left", ["left"], None),
        ("Is it teal?", "yes", ["yes"], "yes"),  # the sure answer that no sampled pair gives
    ]
    assert len(of_row(row, None)) == 4 and len(of_row(row, 0.995)) == 4
    verdicts = [filters.decide(c, FilterConfig(hardness=True)).reason for c in found]
    assert verdicts == ["round trip disagrees", "", "unparsable", "", "base answers it"]
    assert len(of_row(row | {"answers": None, "base": None}, 0.97)) == 3


def test_similar_questions_about_one_image_leave_the_better_pair() -> None:
    candidates = [
        pair("is there a polyp in the image?", "yes", -0.5, reanswers=["yes"]),
        pair("is there a polyp in this image?", "yes", -0.1, reanswers=["yes"]),
        pair("is there a polyp in the image", "yes", -0.9, reanswers=["yes"]),
        pair("what colour is the polyp?", "pink", -0.9, reanswers=["pink"]),
    ]
    reasons = [row["reason"] for row in filters.apply(candidates, FilterConfig(similar_questions=0.7))]
    assert reasons == ["similar question", "", "similar question", ""]
    assert [row["reason"] for row in filters.apply(candidates, CONFIG)] == ["", "", "duplicate question", ""]
    assert {row["reason"] for row in filters.apply(candidates, FilterConfig(similar_questions=0.7, duplicates=False))} == {""}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How would you describe the lesions?", "round"),
        ("Can you provide the color of the ball?", "red"),
        ("What is on screen?", "No results found"),
        ("Is x<y and z>w?", "yes"),
        ("Which note: F#,G#?", "F#"),
    ],
)
def test_questions_that_resemble_refusals_and_marks_are_kept(question: str, answer: str) -> None:
    assert filters.apply([Candidate(question, answer, -0.1)], FilterConfig())[0]["accepted"]
