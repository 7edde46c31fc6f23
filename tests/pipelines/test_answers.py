"""The work of evaluate: greedy answers with verdicts and the log-probability of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted import images_table

from leaml.config import ModelConfig, parse
from leaml.data import step_rows, tables
from leaml.engine.interface import Completion, Request
from leaml.errors import DataError
from pipelines import evaluate
from pipelines.evaluate import AnswerWork
from pipelines.predict import ReplyWork
from pipelines.run import Run, Step
from pipelines.shards import Item, ShardStep
from pipelines.sources import Sources


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


def test_rows_that_are_missing_answer_in_one_pool_and_finished_ones_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows of one model are one step."""
    easy = {role: {"format": "easy_vqa", "split": split} for role, split in (("labeled", "train"), ("evaluation", "test"))}
    run = Run(parse({"name": "rows", "storage": str(tmp_path), "data": easy}))
    refs = images_table(tmp_path / "asked" / "images", 4)
    rows = [{"image_id": ref.image_id, **labeled("is it red?", "red")} for ref in refs]
    tables.write(f"{tmp_path}/asked/labeled.parquet", tables.table(rows, tables.LABELED))
    sources = Sources(
        Step("ingest", "labeled", "a" * 12, ""), None, Step("ingest", "evaluation", "b" * 12, f"{tmp_path}/asked")
    )
    pools: list[list[str]] = []

    def in_turn(steps: Sequence[ShardStep[Any]], *_: object) -> Iterator[dict[str, float]]:
        pools.append([step.spec.model for step in steps])
        for step in steps:
            correct = step.spec.model.endswith("good")
            answers = [{**labeled("is it red?", "red"), "prediction": "x", "correct": correct, "logprob": -1.0}]
            made = [{"image_id": ref.image_id, "answers": answers} for ref in refs]
            step_rows.write(step.output, made, tables.ANSWERS)
            yield {"images": 4.0}

    def model(name: str) -> tuple[ModelConfig, Step]:
        return ModelConfig(name=f"somebody/{name}"), Step("finetune", name, name, str(tmp_path))

    monkeypatch.setattr(evaluate, "run_in_turn", in_turn)
    evaluate.predict(run, sources, {"one": model("good")})
    made = evaluate.predict(
        run, sources, {name: model(of) for name, of in (("a", "bad"), ("b", "good"), ("c", "bad"), ("d", "worse"))}
    )
    assert pools == [["somebody/good"], ["somebody/bad", "somebody/worse"]]
    assert [run.summary(made[name])["accuracy"] for name in "abcd"] == [0, 1, 0, 0]
    assert made["a"].folder == made["c"].folder
    assert evaluate.read_predictions(made["d"]).num_rows == 4
