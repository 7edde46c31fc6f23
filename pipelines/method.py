"""The steps of the method in order.

A row of the table that is the method with other settings shares every step that these do not touch.
"""

from __future__ import annotations

from dataclasses import replace

from leaml.run.records import LEAML
from pipelines.context import Context
from pipelines.run import Run, Step
from pipelines.sources import Labels, Sources
from pipelines.steps import LAST, METHOD, ONCE
from pipelines.train import TrialValidation


class StopHereError(Exception):
    """The step asked for on the command line is done."""


def method(
    run: Run,
    sources: Sources,
    labels: Labels,
    variant: str = LEAML,
    until: str = LAST,
    judge: TrialValidation | None = None,
) -> Step:
    """All steps of the method, those after the captions `rounds` times.

    From the second round on the generator starts as the model that the round before adapted, and
    its neurons are scored anew. With `finetune.start: base` fine-tuning starts at the base every
    time, so that errors of one round's pairs stay there.

    Args:
        run: With the configuration of the row.
        sources: Its data.
        labels: The labels that may be used.
        variant: Row of the table that the steps are for.
        until: The last step that is made.
        judge: What a search judges models of the last round by; None: nobody does.

    Returns:
        The step that holds the adapted model.

    Raises:
        StopHereError: After the step `until`, in the last round that has it; not after "evaluate".
    """
    context = Context(run, sources, labels, variant)
    for number in range(1, run.config.rounds):
        made = _round(replace(context, round=number), until if until in ONCE else LAST)
        context = replace(context, start=made["finetune"], made={name: made[name] for name in made if name in ONCE})
    return _round(replace(context, judge=judge), until)["finetune"]


def _round(context: Context, until: str = LAST) -> dict[str, Step]:
    """The steps that the configuration has, in order."""
    for spec in METHOD:
        if spec.when(context.run.config) and spec.name not in context.made:
            context = context.with_made(**{spec.name: context.make(spec)})
        if spec.name == until:
            raise StopHereError
    return context.made
