"""Steps 2 to 8 of the method in order, and the same with one part replaced (controls).

A control shares every step with the method that its replacement does not touch.
"""

from __future__ import annotations

from leaml.config import Config
from leaml.errors import InputError
from leaml.records import LEAML
from pipelines.caption import caption
from pipelines.distill import distill
from pipelines.filter import filter_pairs
from pipelines.finetune import finetune, finetune_captions, finetune_labels
from pipelines.generate import generate
from pipelines.hardness import hardness
from pipelines.ingest import Labels, Sources, draw_labels
from pipelines.run import Run, Step
from pipelines.score import score
from pipelines.selection import select
from pipelines.train import Judge
from pipelines.warmup import warmup


class StopHereError(Exception):
    """The step asked for on the command line is done."""


def method(
    run: Run,
    sources: Sources,
    labels: Labels,
    variant: str = LEAML,
    until: str = "evaluate",
    judge: Judge | None = None,
) -> Step:
    """Steps 1 to 8, the last seven `rounds` times; returns the fine-tuning step that holds the adapted model.

    From the second round on the generator starts as the model that the round before adapted, and its neurons are scored anew.
    With `finetune.start: base` fine-tuning starts at the base every time, so that errors of one round's pairs stay there.

    Raises StopHereError after the step `until`, in the last round.
    """
    captions, adapted = None, None
    if not run.config.distill.skip:
        captions = caption(run, sources, labels)
        if until == "caption":
            raise StopHereError
    for number in range(1, run.config.rounds):
        adapted = _round(run, sources, labels, captions, adapted, variant, number)
    return _round(run, sources, labels, captions, adapted, variant, 0, until, judge)


def _round(
    run: Run,
    sources: Sources,
    labels: Labels,
    captions: Step | None,
    adapted: Step | None,
    variant: str,
    number: int,
    until: str = "evaluate",
    judge: Judge | None = None,
) -> Step:
    """Steps 2 to 8, the generator starting as the model `adapted` (none: the base)."""

    def stop_after(name: str, step: Step) -> Step:
        if until == name:
            raise StopHereError
        return step

    generator = stop_after("warmup", warmup(run, sources, labels, captions, adapted, number))
    if captions is not None:
        scored = stop_after("score", score(run, sources, generator, variant, number))
        selected = stop_after("select", select(run, scored, variant, number))
        generator = stop_after("distill", distill(run, sources, captions, generator, selected, variant, number, judge))
    written = stop_after("generate", generate(run, sources, labels, captions, generator, variant, number))
    if run.config.filter.hardness:
        written = hardness(run, sources, written, variant, number)
    pairs = stop_after("filter", filter_pairs(run, written, variant, number))
    return stop_after("finetune", finetune(run, sources, labels, generator, pairs, variant, number, judge))


def control(run: Run, sources: Sources, labels: Labels, name: str) -> Step:
    """Train a control; returns the fine-tuning step that holds its model. Raises InputError for an unknown name."""
    config = run.config
    if name == "full_labels":  # as many steps and rates as LEAML's own fine-tuning
        everything = draw_labels(run, sources, everything=True)
        return finetune_labels(run, sources, everything, config.finetune, name)
    if name == "captions_mixed":  # the teacher's captions beside the labels, no pairs
        return finetune_captions(run, sources, labels, caption(run, sources, labels), name)
    if name == "self_training":
        teacher = finetune_labels(run, sources, labels, config.evaluate.baselines.finetune_labels, "finetune_labels")
        asking = run.variant(self_training(config, labels))
        answered = filter_pairs(asking, generate(asking, sources, labels, None, teacher, name), name)
        return finetune(asking, sources, labels, teacher, answered, name)
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
