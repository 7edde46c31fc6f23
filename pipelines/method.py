"""The steps of the method in order, and the same with one part replaced (controls).

A control shares every step with the method that its replacement does not touch.
"""

from __future__ import annotations

from dataclasses import replace

from leaml.config import Config
from leaml.errors import InputError
from leaml.runs.records import LEAML
from pipelines.caption import caption
from pipelines.context import Context
from pipelines.filter import filter_pairs
from pipelines.finetune import finetune, finetune_captions, finetune_labels
from pipelines.generate import generate
from pipelines.ingest import Labels, Sources, draw_labels
from pipelines.run import Run, Step
from pipelines.steps import LAST, METHOD, STEPS
from pipelines.train import Judge


class StopHereError(Exception):
    """The step asked for on the command line is done."""


def method(
    run: Run,
    sources: Sources,
    labels: Labels,
    variant: str = LEAML,
    until: str = LAST,
    judge: Judge | None = None,
) -> Step:
    """All steps of the method, those after the captions `rounds` times; returns the step that holds the adapted model.

    From the second round on the generator starts as the model that the round before adapted, and its neurons are scored anew.
    With `finetune.start: base` fine-tuning starts at the base every time, so that errors of one round's pairs stay there.

    Raises StopHereError after the step `until`, in the last round.
    """
    context = Context(run, sources, labels, variant)
    for number in range(1, run.config.rounds):
        made = _round(replace(context, round=number))
        context = replace(context, start=made["finetune"], made={name: made[name] for name in made if STEPS[name].once})
    return _round(replace(context, judge=judge), until)["finetune"]


def _round(context: Context, until: str = LAST) -> dict[str, Step]:
    """The steps that the configuration has, in order."""
    for spec in METHOD:
        if spec.when(context.run.config) and spec.name not in context.made:
            context = context.with_made(**{spec.name: spec.make(context)})
        if spec.name == until:
            raise StopHereError
    return context.made


def control(run: Run, sources: Sources, labels: Labels, name: str) -> Step:
    """Train a control; returns the fine-tuning step that holds its model. Raises InputError for an unknown name."""
    config = run.config
    if name == "full_labels":  # as many steps and rates as LEAML's own fine-tuning
        everything = draw_labels(run, sources, everything=True)
        return finetune_labels(run, sources, everything, config.finetune, name)
    if name == "captions_mixed":  # the teacher's captions beside the labels, no pairs
        return finetune_captions(run, sources, labels, caption(Context(run, sources, labels)), name)
    if name == "self_training":
        teacher = finetune_labels(run, sources, labels, config.evaluate.baselines.finetune_labels, "finetune_labels")
        asking = Context(run.variant(self_training(config, labels)), sources, labels, name, made={"warmup": teacher})
        asking = asking.with_made(generate=generate(asking))
        return finetune(asking.with_made(filter=filter_pairs(asking)))
    return method(run.variant(replaced(config, name)), sources, labels, name)


def self_training(config: Config, labels: Labels) -> Config:
    """The model fine-tuned on labels answers the labeled questions about every image, and its answers are learned."""
    questions = sorted({row["question"] for row, _ in labels.rows()})
    changes = {"questions": questions, "pairs_per_image": 0, "caption": "none"}
    return config.model_copy(update={"generate": config.generate.model_copy(update=changes)})


def replaced(config: Config, name: str) -> Config:
    """The configuration of a control that is the method with other settings."""
    if name in ("random_neurons", "magnitude_neurons", "lowest_neurons"):
        return config.model_copy(update={"score": config.score.model_copy(update={"method": name.removesuffix("_neurons")})})
    if name == "all_neurons":
        return config.model_copy(update={"select": config.select.model_copy(update={"ratio": 1.0})})
    if name == "no_captions":  # SelTDA, arXiv 2306.03932: no captions, no mask
        steps = config.evaluate.baselines.no_captions_warmup or config.warmup.steps
        changes = {
            "warmup": config.warmup.model_copy(update={"describe_first": False, "steps": steps}),
            "distill": config.distill.model_copy(update={"skip": True}),
            "generate": config.generate.model_copy(update={"caption": "none"}),
        }
        return config.model_copy(update=changes)
    msg = f"unknown control {name!r}"
    raise InputError(msg)
