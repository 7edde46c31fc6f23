"""Evaluate: every model answers the evaluation questions; accuracy by type beside honest baselines."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import closing
from functools import partial
from typing import TypeVar

import pyarrow as pa

from leaml.config import ModelConfig
from leaml.data import store, tables
from leaml.data.step_rows import StepRows
from leaml.data.tables import LabeledRow
from leaml.engine.interface import Completion, Engine, Longest, Request, most_tokens
from leaml.errors import DataError
from leaml.evaluation.results import judged
from leaml.text import scoring
from pipelines.models import engine_spec, model_key
from pipelines.run import Run, Step
from pipelines.shard import make_shards
from pipelines.shards import Item, ShardStep, replied, run_in_turn
from pipelines.sources import Sources
from pipelines.steps import EVALUATE
from pipelines.table_rows import AskedRow, OutputRow

QuestionRow = TypeVar("QuestionRow", bound=AskedRow)
Questioned = Item[list[QuestionRow] | None]
"""An image with the questions about it."""
Examined = tuple[ModelConfig, Step | None]
"""A model and the step that made it; the base is made by none."""


def ask_all(
    engine: Engine, items: list[Questioned[QuestionRow]], max_tokens: int
) -> list[tuple[Questioned[QuestionRow], QuestionRow, Completion]]:
    """The greedy reply to each question of each image, in order.

    Args:
        engine: Is given all questions in one call.
        items: Images with their questions.
        max_tokens: Longest reply.

    Returns:
        The image, the question's row and the reply, for each question.
    """
    asked = [(item, row) for item in items for row in item.extra or []]
    requests = [Request(i.image, i.image_id, scoring.ask(row), max_tokens=max_tokens) for i, row in asked]
    return [(*each, completion) for each, (completion,) in zip(asked, engine.generate(requests), strict=True)]


class AnswerWork:
    """Greedy answers to the questions of each image; those whose right answer is known are scored at once."""

    schema = tables.ANSWERS

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, engine: Engine, items: list[Questioned[LabeledRow]]) -> tuple[list[OutputRow], Counter[str]]:
        answers: dict[str, list[tables.Prediction]] = {item.image_id: [] for item in items}
        counts = Counter[str]()
        for item, row, completion in ask_all(engine, items, self.max_tokens):
            if completion.error:  # to count it as a wrong answer would be a lie
                msg = f"the question {row['question'][:80]!r} about image {item.image_id} has no answer: {completion.error}"
                raise DataError(msg)
            answers[item.image_id].append(judged(row, completion.text, completion.mean_logprob * completion.tokens))
            counts.update(replied([completion]))
            counts["questions"] += 1
        return [{"image_id": i, "answers": a} for i, a in answers.items()], counts


def evaluation_rows(run: Run, sources: Sources) -> list[LabeledRow]:
    """The evaluation questions: whole images in an order fixed by the seed, up to `data.evaluation_questions`.

    Raises:
        DataError: every image has more questions than that.
    """
    rows: list[LabeledRow] = tables.read(sources.evaluation.path("labeled.parquet"), tables.LABELED).to_pylist()
    limit = run.config.data.evaluation_questions
    if limit is None or len(rows) <= limit:
        return rows
    by_image: dict[str, list[LabeledRow]] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], []).append(row)
    chosen: list[LabeledRow] = []
    for image in sorted(by_image, key=lambda i: hashlib.sha256(f"{run.config.seed}:{i}".encode()).hexdigest()):
        if len(chosen) + len(by_image[image]) <= limit:
            chosen += by_image[image]
    if not chosen:
        least = min(map(len, by_image.values()))
        msg = f"data.evaluation_questions is {limit}, and whole images are asked about, of at least {least} questions; raise it"
        raise DataError(msg)
    return chosen


def predict(run: Run, sources: Sources, models: Mapping[str, Examined]) -> dict[str, Step]:
    """Answers of models to every evaluation question, as the PREDICTIONS table `predictions.parquet` of a step for each.

    One pool of engines answers for a model after the other, since a process that imports vLLM costs more than an engine.

    Args:
        run: The run.
        sources: Its data.
        models: By row of the table.
    """
    steps = {row: _step(run, sources, row, *examined) for row, examined in models.items()}
    missing = {step.folder: (step, models[row][0]) for row, step in steps.items() if not run.done(step)}
    with closing(_answered(run, sources, list(missing.values()))) as totals:

        def work(step: Step) -> dict[str, float]:
            summary = next(summary for folder, summary in totals if folder == step.folder)
            nested = StepRows(step.folder).columns(None).to_pylist()
            flat = [{"image_id": n["image_id"], **answer} for n in nested for answer in n["answers"]]
            tables.write(step.path("predictions.parquet"), tables.table(flat, tables.PREDICTIONS))
            return summary | {"accuracy": sum(r["correct"] for r in flat) / max(1, len(flat))}

        return {row: run.execute(step, partial(work, step)) for row, step in steps.items()}


def _step(run: Run, sources: Sources, row: str, model: ModelConfig, made_by: Step | None) -> Step:
    data, config = run.config.data, run.config.evaluate
    settings = {
        "questions": data.evaluation_questions,
        "seed": run.config.seed if data.evaluation_questions else None,
        "max_tokens": config.max_tokens,
        "model": None if made_by else model_key(model),
    } | run.config.engine.identity()
    inputs = [sources.evaluation, *([made_by] if made_by else [])]
    return run.step("evaluate", settings, inputs, EVALUATE.version, row)


def _answered(
    run: Run, sources: Sources, missing: list[tuple[Step, ModelConfig]]
) -> Generator[tuple[str, dict[str, float]], None, None]:
    """Let each model answer; yields the folder and the totals of its step."""
    config, resources = run.config, run.config.resources
    questions: dict[str, list[LabeledRow]] = {}
    for question in evaluation_rows(run, sources):
        questions.setdefault(question["image_id"], []).append(question)
    refs = store.index(sources.evaluation.path("images")).only(questions)
    shards = make_shards("evaluate", refs, questions, resources.images_per_shard)
    work = AnswerWork(config.evaluate.max_tokens)
    texts = (scoring.ask(row) for rows in questions.values() for row in rows)
    longest = Longest(most_tokens(texts), config.evaluate.max_tokens)
    specs = [(step, engine_spec(model, resources, config.engine, longest)) for step, model in missing]
    asked = [ShardStep(step.label, shards, spec, work, step.folder) for step, spec in specs]
    limits = (config.data.max_pixels, config.data.max_quarantined)
    for (step, _), summary in zip(missing, run_in_turn(asked, resources, *limits), strict=True):
        yield step.folder, summary


def read_predictions(step: Step) -> pa.Table:
    """The PREDICTIONS table of a finished evaluate step."""
    return tables.read(step.path("predictions.parquet"), tables.PREDICTIONS)
