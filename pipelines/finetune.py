"""Finetune: the VQA model learns from labeled rows and accepted pseudo pairs; also the baselines on labels alone."""

from __future__ import annotations

from collections.abc import Mapping

from leaml.config import ModelConfig, TrainConfig
from leaml.data.step_rows import StepRows
from leaml.errors import StepError
from leaml.training.examples import write_examples
from pipelines.context import Context
from pipelines.ingest import labels_key
from pipelines.models import model_key, trained
from pipelines.run import Run, Step
from pipelines.sources import Labels, Sources
from pipelines.train import TaskFile, TrainJob, TrialValidation, run_training
from pipelines.training_set import PAIRS, draw, draw_captions
from pipelines.warmup import answer_examples


def finetune(context: Context) -> Step:
    """Fine-tune the base, or the generator, on labels and accepted pairs, `label_share` of every batch being labels."""
    run, sources, labels, filtered = context.run, context.sources, context.labels, context.made["filter"]
    config = run.config.finetune
    settings = {"finetune": config.identity(), "model": model_key(run.config.model), "seed": run.config.seed}
    selected = context.made["select"] if config.method == "neurons" else None
    step = context.step("finetune", settings, [filtered, labels_key(labels), *([selected] if selected else [])])

    def work() -> dict[str, object]:
        accepted = StepRows(filtered.folder).counts["accepted"]
        if not accepted and config.label_share < 1:
            msg = f"{filtered.label} accepted no pair; see the reasons in {filtered.folder} and loosen filter"
            raise StepError(msg)
        pairs = step.path("pseudo.arrow")
        drawn = draw(step.label, filtered, PAIRS, accepted, config, run.config.seed, pairs)
        tasks = [
            TaskFile("labels", _write_labels(step, labels), share=config.label_share),
            TaskFile("pseudo", pairs, share=1 - config.label_share),
        ]
        start = trained(context.generator, run.config.model) if config.start == "generator" else run.config.model
        selection = selected.folder if selected else None
        facts = {"pseudo_pairs": drawn}
        return _train(run, sources, step, tasks, config, start, selection, facts, context.judge)

    return run.execute(step, work)


def finetune_captions(run: Run, sources: Sources, labels: Labels, captions: Step, variant: str) -> Step:
    """A control: the base trained on labels and captions in place of pairs, else as `finetune`.

    Args:
        run: Its `finetune` section is the training's.
        sources: Whose images are read.
        labels: `label_share` of every batch.
        captions: The step that holds the teacher's captions.
        variant: Name of the control's row.
    """
    config = run.config.finetune
    settings = {"mixed": config.identity() | {"start": "base"}, "model": model_key(run.config.model), "seed": run.config.seed}
    step = run.step("finetune", settings, [captions, labels_key(labels)], variant=variant)

    def work() -> dict[str, object]:
        described = step.path("captions.arrow")
        draw_captions(step.label, captions, run.config, config, described)
        tasks = [
            TaskFile("labels", _write_labels(step, labels), share=config.label_share),
            TaskFile("captions", described, share=1 - config.label_share),
        ]
        return _train(run, sources, step, tasks, config)

    return run.execute(step, work)


def finetune_labels(run: Run, sources: Sources, labels: Labels, config: TrainConfig, variant: str) -> Step:
    """The base trained on labeled rows alone.

    Args:
        run: Whose base it is.
        sources: Whose images are read.
        labels: All that is learned; the part held out is for the choice of learning rates.
        config: The training, a baseline's own section for one.
        variant: Name of the row.
    """
    training = {key: value for key, value in config.identity().items() if key in TrainConfig.model_fields}
    settings = {"train": training, "model": model_key(run.config.model), "seed": run.config.seed}
    step = run.step("finetune", settings, [*sources.training, labels_key(labels)], variant=variant)

    def work() -> dict[str, object]:
        tasks = [TaskFile("labels", _write_labels(step, labels))]
        return _train(run, sources, step, tasks, config)

    return run.execute(step, work)


def _write_labels(step: Step, labels: Labels) -> str:
    return write_examples(step.path("labels.arrow"), answer_examples(labels))


def _train(
    run: Run,
    sources: Sources,
    step: Step,
    tasks: list[TaskFile],
    config: TrainConfig,
    start: ModelConfig | None = None,
    selection: str | None = None,
    facts: Mapping[str, object] | None = None,
    judge: TrialValidation | None = None,
) -> dict[str, object]:
    job = TrainJob(
        step.folder,
        start or run.config.model,
        tasks,
        sources.image_folders,
        config,
        selection=selection,
        scored_here=False,
        seed=run.config.seed,
        max_pixels=run.config.data.max_pixels,
        facts=facts or {},
        validation=judge.file if judge else None,
    )
    return run_training(step.label, job, run.config.resources)
