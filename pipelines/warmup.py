"""Step 2, warm-up: the QA generator (image -> question + answer) learns from the labeled rows."""

from __future__ import annotations

from typing import Any

from leaml import prompts
from leaml.training import Example
from pipelines.caption import read_captions
from pipelines.ingest import Labels, Sources, labels_key
from pipelines.run import Run, Step
from pipelines.train import TaskFile, TrainJob, run_training, write_examples


def generator_examples(labels: Labels, captions: dict[str, str]) -> list[Example]:
    """Labeled rows as the generator writes them; an image's caption, if given, stands before the pair without loss."""
    examples = []
    for row, held_out in labels.rows():
        prefix = prompts.caption_prefix(captions[row["image_id"]]) if row["image_id"] in captions else ""
        reply = prompts.qa_reply(row["question"], row["answer"])
        reply = f" {reply}" if prefix else reply
        examples.append(Example(row["image_id"], prompts.GENERATE, reply, prefix, held_out))
    return examples


def warmup(run: Run, sources: Sources, labels: Labels, captions: Step | None) -> Step:
    """Train the generator on the labels; with captions it learns to describe first."""
    config = run.config.warmup
    use = captions if config.describe_first else None
    settings = {"warmup": config.model_dump(), "model": run.config.model.model_dump(), "seed": run.config.seed}
    inputs = [*sources.training, labels_key(labels), *([use] if use else [])]
    step = run.step("warmup", settings, inputs, label="warmup" if use else "warmup without captions")

    def work() -> dict[str, Any]:
        examples = generator_examples(labels, read_captions(use) if use else {})
        file = write_examples(step.path("labels.parquet"), examples)
        job = TrainJob(
            step.folder,
            run.config.model,
            [TaskFile("labels", file)],
            sources.image_folders,
            config,
            seed=run.config.seed,
            max_pixels=run.config.data.max_pixels,
        )
        return run_training(step.label, job, run.config.resources)

    return run.execute(step, work)
