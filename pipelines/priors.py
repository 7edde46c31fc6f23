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
from pipelines.evaluate import evaluation_rows
from pipelines.ingest import Labels, Sources
from pipelines.run import Run

PRIORS = ("blind_prior", "source_prior", "letter_prior")
"""Rows that are made here."""


def predict_priors(run: Run, sources: Sources, labels: Labels) -> dict[str, pa.Table]:
    """Predictions of each prior that the data has, by row name.

    `blind_prior`: the most common training answer to the question; of options, the most common
    right text among those offered. `source_prior`: the same per question and source of the image,
    where the labeled images are of several sources. `letter_prior`: the most common right letter of
    the question's options, where there are options.

    Args:
        run: Whose evaluation questions are answered.
        sources: They tell the source of each image.
        labels: What is counted, with the part held out for validation.

    Returns:
        A PREDICTIONS table for each.
    """
    known = [row for row, _ in labels.rows()]
    asked = evaluation_rows(run, sources)
    found = {"blind_prior": _predicted(known, asked)}
    origin = image_sources(sources.labeled.path("images"), labels.image_ids)
    if len(set(origin.values())) > 1:
        origin |= image_sources(sources.evaluation.path("images"), {row["image_id"] for row in asked})
        found["source_prior"] = _predicted(known, asked, origin)
    if any(row["options"] for row in known) and any(row["options"] for row in asked):
        found["letter_prior"] = _predicted(known, asked, by="letter")
    return found


def image_sources(folder: str, ids: Iterable[str]) -> dict[str, str]:
    """Source of each image of an images table that is among `ids`."""
    return {image_id: str(row["source"]) for image_id, row in store.rows_of(folder, ids, ["source"]).items()}


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
