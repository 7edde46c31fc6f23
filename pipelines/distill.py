"""Step 4, distill: the teacher's captions move only the selected neurons of the generator, held in place by the QA loss."""

from __future__ import annotations

from typing import Any

from leaml import prompts
from leaml.checks import word_checks
from leaml.training import Example
from pipelines.caption import read_captions
from pipelines.ingest import Sources
from pipelines.models import trained
from pipelines.run import Run, Step
from pipelines.train import Judge, TaskFile, TrainJob, run_training, write_examples
from pipelines.warmup import qa_tasks


def check_examples(captions: dict[str, str], seed: int) -> list[Example]:
    """Yes/no questions about words of captions (image id -> caption)."""
    return [
        Example(c.image_id, prompts.CHECK.format(word=c.word), "yes" if c.present else "no")
        for c in word_checks(captions, seed)
    ]


def distill(
    run: Run,
    sources: Sources,
    captions: Step,
    warmed: Step,
    scored: Step,
    variant: str = "leaml",
    judge: Judge | None = None,
) -> Step:
    """Caption loss + qa_weight x QA loss; captions, pairs, answers and word checks share every batch as configured."""
    config = run.config.distill
    settings = {"distill": config.model_dump(), "seed": run.config.seed}
    version = 3 if run.config.score.unit == "ffn" else 2  # columns are trained since 3; rows as in 2
    step = run.step("distill", settings, [captions, warmed, scored], version, label=f"distill {variant}")

    def work() -> dict[str, Any]:
        request = run.config.caption.prompt or prompts.CAPTION
        texts = read_captions(captions)
        examples = [Example(i, request, c) for i, c in texts.items()]
        tasks = [TaskFile("captions", write_examples(step.path("captions.parquet"), examples))]
        if config.check_share:
            checks = check_examples(texts, run.config.seed)
            tasks.append(TaskFile("checks", write_examples(step.path("checks.parquet"), checks), share=config.check_share))
        if config.qa_weight:
            tasks += qa_tasks(warmed, config.qa_weight, config.qa_share)
        job = TrainJob(
            step.folder,
            trained(warmed, run.config.model),
            tasks,
            sources.image_folders,
            config,
            method="neurons",
            selection=scored.folder,
            seed=run.config.seed,
            max_pixels=run.config.data.max_pixels,
            validation=judge.file if judge else None,
            validations=judge.times if judge else 1,
        )
        return run_training(step.label, job, run.config.resources, judge.callbacks if judge else ())

    return run.execute(step, work)
