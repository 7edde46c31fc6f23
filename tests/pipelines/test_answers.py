"""The work of evaluate: greedy answers with verdicts and the log-probability of each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from leaml.engine.interface import Completion, Request
from leaml.errors import DataError
from pipelines.evaluate import AnswerWork
from pipelines.predict import ReplyWork
from pipelines.shards import Item


class Parrot:
    """Answers the last word of the question in as many tokens as it has letters, each at log-probability -0.5."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        self.requests += requests
        words = [r.text.split()[-1].strip("?") for r in requests]
        return [[Completion(word, -0.5, "stop", len(word), "too long" if word == "cannot" else "")] for word in words]


def item(name: str, *questions: dict[str, object]) -> Item:
    return Item(name, Image.new("RGB", (4, 4)), list(questions))


def labeled(question: str, answer: str, **more: object) -> dict[str, object]:
    return {"question": question, "answer": answer, "question_type": None, "options": None, **more}


def test_every_answer_has_its_verdict_and_its_summed_log_probability() -> None:
    engine = Parrot()
    rows, counts = AnswerWork(7)(
        engine,
        [item("a", labeled("is it red?", "Red"), labeled("or blue?", "red")), item("b"), item("c", labeled("is it?", "it"))],
    )
    assert [row["image_id"] for row in rows] == ["a", "b", "c"]
    found = [(a["prediction"], a["correct"], a["logprob"]) for row in rows for a in row["answers"]]
    assert found == [
        ("red", True, pytest.approx(-1.5)),
        ("blue", False, pytest.approx(-2.0)),
        ("it", True, pytest.approx(-1.0)),
    ]
    assert (counts["questions"], counts["tokens"]) == (3, 9)
    assert [(r.image_id, r.temperature, r.max_tokens) for r in engine.requests] == [("a", 0.0, 7), ("a", 0.0, 7), ("c", 0.0, 7)]


def test_answers_cut_at_the_token_limit_are_counted() -> None:
    class Cut(Parrot):
        def generate(self, requests: list[Request]) -> list[list[Completion]]:
            return [
                [replace(c, finish_reason="length") for c in one] for one in super().generate(requests[:1])
            ] + super().generate(requests[1:])

    _, counts = AnswerWork(7)(Cut(), [item("a", labeled("is it red?", "red"), labeled("or blue?", "red"))])
    assert (counts["questions"], counts["replies cut at the token limit"]) == (2, 1)


def test_a_question_that_the_model_cannot_be_asked_is_no_wrong_answer() -> None:
    asked = item("a", labeled("is it red?", "red"), labeled("what if it cannot?", "red"))
    with pytest.raises(DataError, match=r"'what if it cannot\?' about image a has no answer: too long"):
        AnswerWork(7)(Parrot(), [asked])
    (row,), counts = ReplyWork(7)(Parrot(), [asked])
    assert [(r["question"], r.get("prediction"), r["error"]) for r in row["replies"]] == [
        ("is it red?", "red", None),
        ("what if it cannot?", None, "too long"),
    ]
    assert counts["questions"] == 2
