"""The steps of a run, from the same code that does them, without doing any; and how much there is of everything.

The steps are made by the functions of the real run on a `Rehearsal`, which notes them: names, order and content addresses are
those of the run. Nothing is written, Ray is not started and no hub is asked; what a run would refuse is found by `trial`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from leaml.config import Config, SourceConfig
from leaml.data.budget import held_out
from leaml.data.count import Count, count
from leaml.io import files
from pipelines.adapt import asked_of, baseline_steps, check_steps, method_steps
from pipelines.amounts import GUESSES, Amounts, Tree
from pipelines.contamination import screen_near_duplicates
from pipelines.image_tokens import largest_size, median_size
from pipelines.ingest import draw_labels, source_steps, training_images
from pipelines.method import method
from pipelines.run import UNKNOWN, Run, Step
from pipelines.sources import Labels, Sources
from pipelines.summaries import IngestSummary


@dataclass(frozen=True)
class Planned:
    """A step of the run and the configuration it has, which is another one in a control."""

    step: Step
    tree: Tree


class Rehearsal(Run):
    """A run that notes its steps instead of doing them.

    What depends on images that are not ingested yet has no address, unless the caller has found out which they are.
    """

    dry = True

    def __init__(self, config: Config, captioned: str | None = None) -> None:
        super().__init__(config)
        self.captioned = captioned
        self.planned: dict[str, Planned] = {}

    def _located(self, made: Step, inputs: list[Step]) -> Step:
        """The run's step; one with an unknown input has a hash that no step of a run has."""
        if any(step.hash.endswith(UNKNOWN) for step in inputs):
            return replace(made, hash=made.hash + UNKNOWN, folder=made.folder + UNKNOWN)
        return made

    def execute(self, step: Step, work: object) -> Step:
        """Note the step; one that several rows share is noted once."""
        self.planned.setdefault(step.folder, Planned(step, self.config.model_dump(mode="json")))
        return step

    def state(self, step: Step) -> str:
        """`finished` steps are reused, `begun` ones go on from what they have published."""
        if self.done(step):
            return "finished"
        return "begun" if files.exists(step.folder) else "to run"


def rehearse(config: Config, captioned: str | None = None) -> tuple[Rehearsal, Sources, Labels]:
    """All steps of `leaml adapt` in order, with their addresses. Raises what the configuration alone gets refused for.

    Args:
        config: The run.
        captioned: `captioned_key` of its images, for the time before ingest.
    """
    check_steps(config)
    run = Rehearsal(config, captioned)
    sources = source_steps(run)
    sources = screen_near_duplicates(run, sources)
    labels = draw_labels(run, sources)
    adapted = method(run, sources, labels)
    baseline_steps(run, sources, labels)
    method_steps(run, sources, labels, adapted)
    return run, sources, labels


def measure(run: Run, sources: Sources, labels: Labels) -> Amounts:
    """Count everything: exactly what is ingested, cheaply what lies on this machine.

    Args:
        run: The run, or one that only plans; its configuration has the label budget and limits.
        sources: Its steps, finished or not.
        labels: As drawn; without any rows they are estimated from the budget.
    """
    data = run.config.data
    labeled = _count(run, sources.labeled, data.labeled)
    unlabeled = None if sources.unlabeled is None or data.unlabeled is None else _count(run, sources.unlabeled, data.unlabeled)
    evaluation = _count(run, sources.evaluation, data.evaluation)
    images, rows = labels.images or None, len(labels.rows()) or None
    validation: int | None = labels.validation.num_rows
    if images is None or rows is None:
        images, rows = _budget(run.config, labeled)
        validation = _held_out(run.config, images, rows)
    parts = [labeled.images, *([unlabeled.images] if unlabeled else [])]
    training = None if None in parts else sum(n for n in parts if n is not None)
    if all(_whole(run, s) for s in sources.training):
        training = len(training_images(sources))  # images in both sources count once
    asked, asked_images = asked_of(run, sources) if _whole(run, sources.evaluation) else _asked(run.config, evaluation)
    known = data.exclude_evaluation and all(_whole(run, s) for s in (*sources.training, sources.evaluation)) and not run.dry
    excluded = len(sources.excluded) if known or sources.excluded else None
    median, largest = median_size(run, sources.training), largest_size(run, sources.training)
    counts = (labeled, unlabeled, evaluation, images, rows, training, asked, asked_images, validation, excluded)
    return Amounts(*counts, image_size=median, largest_image=largest)


def with_frames(amounts: Amounts, frames: int) -> Amounts:
    """The same with so many unlabeled images, and with `GUESSES` where only ingest can tell."""
    guessed = tuple(name for name in GUESSES if getattr(amounts, name) is None)

    def filled(name: str) -> int:
        known: int | None = getattr(amounts, name)
        return GUESSES[name] if known is None else known

    found = replace(
        amounts,
        label_images=filled("label_images"),
        label_rows=filled("label_rows"),
        asked=filled("asked"),
        asked_images=filled("asked_images"),
        frames=frames,
        guessed=guessed,
    )
    training = frames + (found.label_images or 0)
    if found.unlabeled is None:
        return replace(found, training=training, labeled=replace(found.labeled, images=training))
    return replace(found, training=training, unlabeled=Count(frames))


def _whole(run: Run, step: Step) -> bool:
    """Whether a source was read, to its end."""
    return run.done(step) and "first" not in run.summary(step)


def _count(run: Run, step: Step, source: SourceConfig) -> Count:
    if not _whole(run, step):
        return count(source)
    summary = IngestSummary.of(run.summary(step))
    return Count(summary.images, summary.rows)


def _budget(config: Config, labeled: Count) -> tuple[int | None, int | None]:
    """About how many images and rows the label budget will take."""
    budget = config.data.budget
    if not labeled.images or not labeled.questions:
        return (budget.count, None) if budget.of == "images" else (None, budget.count)
    each = labeled.questions / labeled.images
    available = labeled.images if budget.of == "images" else labeled.questions
    wanted = budget.count or (available if budget.fraction is None else max(1, round(budget.fraction * available)))
    return (wanted, round(wanted * each)) if budget.of == "images" else (max(1, round(wanted / each)), wanted)


def _held_out(config: Config, images: int | None, rows: int | None) -> int | None:
    """About how many rows of the labels will be held out."""
    fraction = config.data.budget.validation_fraction
    if not fraction or (images is not None and not held_out(fraction, images)):
        return 0
    if images is None or rows is None:
        return None
    return math.ceil(rows * held_out(fraction, images) / images)


def _asked(config: Config, found: Count) -> tuple[int | None, int | None]:
    """About how many questions the evaluation will ask, and about how many images, of which some may have no question."""
    limit, questions, images = config.data.evaluation_questions, found.questions, found.images
    if questions is None or images is None:
        return questions, images
    images = min(images, questions)
    if limit is None or limit >= questions:
        return questions, images
    return limit, max(1, round(images * limit / questions))
