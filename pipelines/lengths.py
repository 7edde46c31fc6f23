"""Refuses rows that the model's context cannot hold, before captions and trainings are paid for that end at them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from leaml.config import Config
from leaml.data import store
from leaml.data.tables import LabeledRow
from leaml.errors import DataError
from leaml.generation import prompts
from leaml.text.scoring import answer_text, ask
from leaml.vlm.lengths import Length, Lengths, context
from pipelines.evaluate import evaluation_rows
from pipelines.ingest import draw_labels
from pipelines.run import Run, Step
from pipelines.sources import Labels, Sources

_SHARE = 8
"""A text of at most an eighth of the context is not looked at, since no model's image takes the rest."""
_SHOWN = 5


def refuse_long_rows(run: Run, sources: Sources, labels: Labels, asked: bool = True) -> None:
    """Refuse labels and evaluation questions that with image and answer are longer than the model's context.

    A tokenizer is loaded for long texts only, so that this takes no time with others.

    Args:
        run: The run.
        sources: Its sources, ingested.
        labels: Its labels.
        asked: Whether the evaluation's questions are known.

    Raises:
        DataError: With file and line of the first rows, and their tokens.
    """
    config = run.config
    limit = context(config.model)
    if limit is None:
        return
    learned = [row for row, _ in labels.rows()]
    if learned and any(row.all_labels for row in config.controls):
        learned = [row for row, _ in draw_labels(run, sources, everything=True).rows()]
    answered = min(limit, config.engine.max_model_len or limit)
    parts: dict[int, list[tuple[Step, list[LabeledRow], bool]]] = {limit: [(sources.labeled, learned, True)]}
    parts.setdefault(answered, []).append((sources.evaluation, evaluation_rows(run, sources) if asked else [], False))

    lengths: Lengths | None = None
    for most, of_sources in parts.items():
        found: list[tuple[LabeledRow, Length]] = []
        short = most // _SHARE if most == limit else 0  # of a length that a user gives an image may take all
        for step, rows, trained in of_sources:
            long = [row for row in rows if len(f"{ask(row)}{row['answer']}".encode()) > short]
            if long:
                lengths = lengths or Lengths.of_model(config.model)
                found += _too_long(config, lengths, step, long, trained, most, short)
        if found:
            own = (f"the model {config.model.name!r} takes", "take another model")
            raise DataError(_refusal(found, most, *(own if most == limit else ("engine.max_model_len allows", "raise that"))))


def _too_long(
    config: Config, lengths: Lengths, step: Step, rows: list[LabeledRow], trained: bool, limit: int, short: int
) -> list[tuple[LabeledRow, Length]]:
    """Those of the rows that do not fit, with their tokens; texts of at most `short` tokens do."""

    def forms(row: LabeledRow) -> list[tuple[str, str]]:
        """Requests and replies in which the row occurs."""
        pair = [(prompts.GENERATE, prompts.qa_reply(row["question"], answer_text(row)))] if trained else []
        return [(ask(row), row["answer"]), *pair]

    rows = [row for row in rows if any(sum(lengths.texts(*form)) > short for form in forms(row))]
    sizes = _sizes(step, {row["image_id"] for row in rows}) if rows else {}
    found = []
    for row in rows:
        for form in forms(row):
            length = lengths.of(*form, sizes[row["image_id"]])
            written = length.reply if trained else min(length.reply, config.evaluate.max_tokens)
            if length.image + length.text + written > limit:
                found.append((row, replace(length, reply=written)))
                break
    return found


def _sizes(step: Step, ids: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Width and height of images of a source, by id."""
    found = store.rows_of(step.path("images"), ids, ["width", "height"])
    return {image_id: (row["width"], row["height"]) for image_id, row in found.items()}


def _refusal(found: list[tuple[LabeledRow, Length]], limit: int, of_whom: str, fix: str) -> str:
    row, first = max(found, key=lambda each: each[1].image + each[1].text + each[1].reply)
    total = first.image + first.text + first.reply
    where = "; ".join(str(each["where"]) for each, _ in found[:_SHOWN])
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (
        f"{len(found)} label rows are longer than the {limit:,} tokens that {of_whom}, the longest "
        f"at {row['where']}: {total:,} tokens, {first.image:,} of them for the image, {first.text:,} for the request and "
        f"{first.reply:,} for the answer; shorten them, leave them out or {fix}: {where}{more}"
    )
