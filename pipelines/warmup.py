"""Warm-up: the QA generator learns from the labeled rows, to write pairs and to answer."""

from __future__ import annotations

from leaml.generation import prompts
from leaml.text.scoring import answer_text, ask
from leaml.training.batches import Example
from leaml.training.examples import write_examples
from pipelines.caption import captions_of
from pipelines.context import Context
from pipelines.ingest import labels_key
from pipelines.models import model_key, trained
from pipelines.run import Step
from pipelines.sources import Labels
from pipelines.train import TaskFile, TrainJob, run_training

QA_TASKS = ("pairs", "answers")
"""The QA loss has two equal parts: writing the labeled pairs, and answering their questions as a user asks them."""


def pair_examples(labels: Labels, captions: dict[str, str]) -> list[Example]:
    """Labeled rows as the generator writes them; an image's caption, if given, stands before the pair without loss.

    A pair has no options, so the answer of a multiple-choice row is the right option's text: a letter alone says nothing.
    """
    examples = []
    for row, held_out in labels.rows():
        prefix = prompts.caption_prefix(captions[row["image_id"]]) if row["image_id"] in captions else ""
        reply = prompts.qa_reply(row["question"], answer_text(row))
        reply = f" {reply}" if prefix else reply
        examples.append(Example(row["image_id"], prompts.GENERATE, reply, prefix, held_out))
    return examples


def answer_examples(labels: Labels) -> list[Example]:
    """Labeled rows as a user asks them: the question, answered."""
    return [Example(r["image_id"], ask(r), r["answer"], held_out=held_out) for r, held_out in labels.rows()]


def qa_tasks(warmed: Step, weight: float = 1.0, share: float = 1.0) -> list[TaskFile]:
    """The QA loss of a warm-up step, for the steps that use it again.

    Args:
        warmed: The warm-up, which has written the examples.
        weight: Of each of the two tasks in the loss.
        share: Of each of them in a batch, relative to the shares of other tasks.
    """
    return [TaskFile(name, warmed.path(f"{name}.arrow"), share=share, weight=weight) for name in QA_TASKS]


def warmup(context: Context) -> Step:
    """Train the generator on the labels, from the base or from the model that the round before adapted.

    With `describe_first` it writes its pairs after a caption.
    """
    run, sources, labels, start = context.run, context.sources, context.labels, context.start
    config = run.config.warmup
    use = context.captions if config.describe_first else None
    settings = {"warmup": config.identity(), "model": model_key(run.config.model), "seed": run.config.seed}
    inputs = [*sources.training, labels_key(labels), *(s for s in (use, start) if s)]
    step = context.step("warmup", settings, inputs)

    def work() -> dict[str, object]:
        write_examples(step.path("pairs.arrow"), pair_examples(labels, captions_of(use, labels.image_ids) if use else {}))
        write_examples(step.path("answers.arrow"), answer_examples(labels))
        job = TrainJob(
            step.folder,
            trained(start, run.config.model) if start else run.config.model,
            qa_tasks(step),
            sources.image_folders,
            config,
            seed=run.config.seed,
            max_pixels=run.config.data.max_pixels,
        )
        return run_training(step.label, job, run.config.resources)

    return run.execute(step, work)
