"""Rows of the table that look at no image: what the labels alone say about the questions, the image's source and the options.

They show what a score on the data is worth. `blind_prior` and `letter_prior` know what every baseline knows, the labels and the
question, so they are baselines. `source_prior` is told the source of each image, which no model is told: it is a reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pyarrow as pa

from leaml.data import store, tables
from leaml.data.tables import LabeledRow
from leaml.evaluation.priors import BlindPrior
from leaml.evaluation.results import judged
from leaml.rows import Row
from pipelines.evaluate import evaluation_rows
from pipelines.run import Run
from pipelines.sources import Labels, Sources


def blind_prior(run: Run, sources: Sources, labels: Labels, row: Row) -> pa.Table:
    """The most common training answer to the question; of options, the most common right text among those offered."""
    return _predicted(_known(labels), evaluation_rows(run, sources))


def letter_prior(run: Run, sources: Sources, labels: Labels, row: Row) -> pa.Table | None:
    """The most common right letter of the question's options; None where there are no options."""
    known, asked = _known(labels), evaluation_rows(run, sources)
    if not any(each["options"] for each in known) or not any(each["options"] for each in asked):
        return None
    return _predicted(known, asked, by="letter")


def source_prior(run: Run, sources: Sources, labels: Labels, row: Row) -> pa.Table | None:
    """The blind prior per question and source of the image; None where the labeled images are of one source."""
    origin = image_sources(sources.labeled.path("images"), labels.image_ids)
    if len(set(origin.values())) < 2:
        return None
    asked = evaluation_rows(run, sources)
    origin |= image_sources(sources.evaluation.path("images"), {each["image_id"] for each in asked})
    return _predicted(_known(labels), asked, origin)


def image_sources(folder: str, ids: Iterable[str]) -> dict[str, str]:
    """Source of each image of an images table that is among `ids`."""
    return {image_id: str(row["source"]) for image_id, row in store.rows_of(folder, ids, ["source"]).items()}


def _known(labels: Labels) -> list[LabeledRow]:
    """What is counted: the labels with the part held out for validation."""
    return [row for row, _ in labels.rows()]


def _predicted(
    known: list[LabeledRow],
    asked: list[LabeledRow],
    origin: dict[str, str] | None = None,
    by: Literal["letter", "text"] = "text",
) -> pa.Table:
    """The prior learned from the rows `known`, asked the rows `asked`, as a PREDICTIONS table."""
    context = None if origin is None else [origin.get(row["image_id"]) for row in known]
    questions, answers = [row["question"] for row in known], [row["answer"] for row in known]
    prior = BlindPrior.fit(questions, answers, context=context, options=[row["options"] for row in known])
    rows: list[dict[str, object]] = []
    for row in asked:
        told = None if origin is None else origin.get(row["image_id"])
        guess = prior.predict(row["question"], context=told, options=row["options"], by=by)
        rows.append({"image_id": row["image_id"], **judged(row, guess)})
    return tables.table(rows, tables.PREDICTIONS)
