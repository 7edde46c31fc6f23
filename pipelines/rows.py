"""How the models of the table's rows are made that are not the method itself (leaml/rows.py declares the rows)."""

from __future__ import annotations

import pyarrow as pa

from leaml.config import Config
from leaml.plugins import function_of
from leaml.rows import Row, rows
from pipelines.caption import caption
from pipelines.context import Context
from pipelines.filter import filter_pairs
from pipelines.finetune import finetune, finetune_captions, finetune_labels
from pipelines.generate import generate
from pipelines.ingest import draw_labels
from pipelines.method import method
from pipelines.run import Run, Step
from pipelines.sources import Labels, Sources


def row_step(run: Run, sources: Sources, labels: Labels, name: str) -> Step | None:
    """Train the model of a row.

    Args:
        run: Its configuration is changed as the row says.
        sources: Its data.
        labels: The labels that may be used.
        name: Of the row.

    Returns:
        The step that holds the model; None where the row is the base as it is.
    """
    row = rows()[name]
    if row.change is not None:
        return method(run.variant(row.change(run.config)), sources, labels, name)
    if not row.make:
        return None
    made: Step = function_of(row.make)(run, sources, labels, row)
    return made


def predict_without_model(run: Run, sources: Sources, labels: Labels) -> dict[str, pa.Table]:
    """Predictions of the rows that no model answers, such as the priors, where the data has something for them.

    Args:
        run: Its configuration switches optional rows on.
        sources: Its data; the evaluation's questions are answered.
        labels: The labels that may be used.

    Returns:
        A PREDICTIONS table by row name, in the order of the table.
    """
    found = {
        row.name: function_of(row.predict)(run, sources, labels, row)
        for row in rows().values()
        if row.predict and (not row.optional or row.name in run.config.evaluate.controls)
    }
    return {name: predictions for name, predictions in found.items() if predictions is not None}


def on_labels(run: Run, sources: Sources, labels: Labels, row: Row) -> Step:
    """The base trained on the labels alone."""
    return finetune_labels(run, sources, labels, row.section(run.config), row.name)


def full_labels(run: Run, sources: Sources, labels: Labels, row: Row) -> Step:
    """The base trained on all labels of the source, with as many steps and rates as LEAML's own fine-tuning."""
    return finetune_labels(run, sources, draw_labels(run, sources, everything=True), row.section(run.config), row.name)


def captions_mixed(run: Run, sources: Sources, labels: Labels, row: Row) -> Step:
    """The base trained on the labels and the teacher's captions beside each other; no pairs."""
    return finetune_captions(run, sources, labels, caption(Context(run, sources, labels)), row.name)


def self_training(run: Run, sources: Sources, labels: Labels, row: Row) -> Step:
    """The model fine-tuned on the labels answers the labeled questions about every image, and its answers are learned."""
    teacher = on_labels(run, sources, labels, rows()["finetune_labels"])
    asking = Context(run.variant(asked_of_labels(run.config, labels)), sources, labels, row.name, made={"warmup": teacher})
    asking = asking.with_made(generate=generate(asking))
    return finetune(asking.with_made(filter=filter_pairs(asking)))


def asked_of_labels(config: Config, labels: Labels) -> Config:
    """The configuration with the questions of the labels as the given ones, and no others."""
    questions = sorted({row["question"] for row, _ in labels.rows()})
    changes = {"questions": questions, "pairs_per_image": 0, "caption": "none"}
    return config.model_copy(update={"generate": config.generate.model_copy(update=changes)})
