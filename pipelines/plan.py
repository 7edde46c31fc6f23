"""`leaml adapt CONFIG --dry-run`: what a run would do, from the same code that does it, without doing any of it.

The steps are made by the functions of the real run on a `Rehearsal`, which notes them: names, order and content addresses are
those of the run. Nothing is written, Ray is not started and no hub is asked; what a run would refuse is found by `trial`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leaml.config import Config, SourceConfig
from leaml.data.budget import held_out
from leaml.data.count import Count, count
from leaml.io import files
from leaml.run.records import DONE
from pipelines import estimates
from pipelines.adapt import asked_of, baseline_steps, check_steps, doubts, method_steps
from pipelines.amounts import Amounts, Work
from pipelines.contamination import screen_near_duplicates
from pipelines.estimates import ENGINES, GRADIENTS, TRAININGS, Estimate
from pipelines.ingest import Labels, Sources, draw_labels, source_steps, training_images
from pipelines.method import method
from pipelines.progress import console
from pipelines.run import UNKNOWN, Run, Step
from pipelines.steps import STEPS

UNTIL_INGEST = "unknown until ingest"
RECENT = 300
"""Finished steps of the storage that are looked at for measured rates, the latest."""


@dataclass(frozen=True)
class Planned:
    """A step of the run and the configuration it has, which is another one in a control."""

    step: Step
    tree: dict[str, Any]


class Rehearsal(Run):
    """A run that notes its steps instead of doing them.

    What depends on images that are not ingested yet has no address, unless the caller has found out which they are.
    """

    dry = True

    def __init__(self, config: Config, captioned: str | None = None) -> None:
        super().__init__(config)
        self.captioned = captioned
        self.planned: dict[str, Planned] = {}

    def step(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: list[Step],
        version: int = 1,
        variant: str = "",
        round_number: int = 0,
    ) -> Step:
        """The run's step; one with an unknown input has a hash that no step of a run has."""
        made = super().step(name, settings, inputs, version, variant, round_number)
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


def show(config: Config, amounts: Amounts | None = None) -> None:
    """Print the plan: data, resources, steps with state, address, work and estimate, the arithmetic, and what is doubtful.

    Args:
        config: The run.
        amounts: How much there is of everything, where that was found out; None: what is cheap to find out.
    """
    run, sources, labels = rehearse(config, amounts.captioned if amounts else None)
    amounts = amounts or measure(run, sources, labels)
    known = known_rates(run)
    print_line(f"plan of {config.name} in {run.folder}; nothing is run\n")
    _print_data(config, amounts)
    _print_resources(config)
    lines, costs = [], {}
    arithmetic: dict[str, list[str]] = {}
    for planned in run.planned.values():
        step, state = planned.step, run.state(planned.step)
        work = work_of(planned, amounts)
        found = estimates.estimate(step.name, step.variant, planned.tree, work, known)
        text = _work_text(planned, amounts)
        lines.append((state, step.label, _folder_text(step), text, _on(planned), *_cost(state, found)))
        if state == "finished" or not found.how:
            continue
        arithmetic.setdefault(found.how, []).append(step.label)
        costs[step.label] = found
    print_line("\nsteps in order (finished ones are reused, begun ones go on)")
    print_columns([("state", "step", "folder", "work", "on", "hours", "GPU-hours"), *lines])
    if any(planned.step.hash.endswith(UNKNOWN) for planned in run.planned.values()):
        print_line("  folders with ? depend on the images that are captioned: ingest finds them; what is finished is reused")
    _print_estimates(arithmetic, costs)
    if amounts.training is None or amounts.asked is None:
        print_line("  after `leaml ingest CONFIG` the numbers of images and questions are known, and these estimates with them")
    print_doubts(config, amounts)


def print_doubts(config: Config, amounts: Amounts) -> None:
    """A word about data that are too few to compare anything, as far as their numbers are known."""
    sizes = (amounts.asked, amounts.asked_images, amounts.label_images, amounts.validation)
    for doubt in doubts(config, *sizes):
        print_line(f"warning: {doubt}")


def known_rates(run: Rehearsal) -> estimates.Known:
    """Measured rates of the run's finished steps and of the latest of other runs in its storage."""
    own = [planned.step.folder for planned in run.planned.values() if run.done(planned.step)]
    return estimates.earlier(own + finished(run.config.storage))


def measure(run: Run, sources: Sources, labels: Labels) -> Amounts:
    """Count everything: exactly what is ingested, cheaply what lies on this machine."""
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
    return Amounts(labeled, unlabeled, evaluation, images, rows, training, asked, asked_images, validation, excluded)


def _whole(run: Run, step: Step) -> bool:
    """Whether a source was read, to its end."""
    return run.done(step) and "first" not in run.summary(step)


def _count(run: Run, step: Step, source: SourceConfig) -> Count:
    if not _whole(run, step):
        return count(source)
    summary = run.summary(step)
    return Count(summary["images"], summary["rows"])


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


def work_of(planned: Planned, amounts: Amounts) -> Work:
    """How many images, examples and questions a step has before it."""
    spec = STEPS.get(planned.step.name)
    return Work() if spec is None else spec.work(planned.tree, amounts)


def finished(storage: str) -> list[str]:
    """Folders of the latest finished steps of every run in a local storage."""
    if files.is_remote(storage):
        return []
    found = [(file.stat().st_mtime, str(file.parent)) for file in Path(storage).glob(f"*/*/{DONE}")]
    return [folder for _, folder in sorted(found, reverse=True)[:RECENT]]


def _folder_text(step: Step) -> str:
    return f"{step.name}-{UNKNOWN}" if step.hash.endswith(UNKNOWN) else Path(step.folder).name


def _work_text(planned: Planned, amounts: Amounts) -> str:
    step, tree = planned.step, planned.tree
    work = work_of(planned, amounts)
    if step.name == "ingest":
        return _count_text({"labeled": amounts.labeled, "evaluation": amounts.evaluation}.get(step.variant, amounts.unlabeled))
    if step.name in TRAININGS:
        section = estimates.train_section(step.name, step.variant, tree)
        rates = section["lr"] if isinstance(section["lr"], list) else [section["lr"]]
        which = "rates then the best" if work.held_out else "rates, of which the first: no labels are held out to choose by"
        sweep = f", {len(rates)} {which}" if len(rates) > 1 else ""
        return f"{section['steps']:,} steps x {section['batch_size']} examples{sweep}"
    if step.name not in STEPS:
        return ""
    text = STEPS[step.name].describe(tree, work)
    if step.name not in ENGINES | GRADIENTS:
        return text
    count = _amount((work.images, "examples" if step.name in GRADIENTS else "images"), (work.questions, "questions"))
    if step.name == "caption" and tree["caption"]["file"]:
        text = "captions of the file" if amounts.given is None else f"{amounts.given:,} captions of the file"
    return f"{count}; {text}" if text else count


def _on(planned: Planned) -> str:
    number, gpus = estimates.workers(planned.step.name, planned.tree)
    if not number:
        return "driver"
    kind = "engine" if planned.step.name in ENGINES else "worker"
    return f"{number} {kind}{'s' if number > 1 else ''} x {gpus:g} GPU"


def _cost(state: str, found: Estimate) -> tuple[str, str]:
    """Hours and GPU-hours as shown."""
    if state == "finished":
        return "reused", ""
    if not found.how:
        return "", "0"
    hours = "unknown" if found.hours is None else f"~{found.hours:.2f}"
    return hours, "unknown" if found.gpu_hours is None else f"~{found.gpu_hours:.2f}" if found.gpu_hours else "0"


def _amount(*counted: tuple[int | None, str]) -> str:
    """Numbers with what they count, `unknown` once if none is known."""
    known = [f"{number:,} {what}" for number, what in counted if number is not None]
    return ", ".join(known) or UNTIL_INGEST


def _count_text(found: Count | None) -> str:
    if found is None or found.images is None:
        return UNTIL_INGEST + (f" ({found.why})" if found and found.why else "")
    about = "about " if found.about else ""
    return about + _amount((found.images, "images"), (found.questions, "questions"))


def _print_data(config: Config, amounts: Amounts) -> None:
    data, budget = config.data, config.data.budget
    for role, source, found in (
        ("labeled", data.labeled, amounts.labeled),
        ("unlabeled", data.unlabeled, amounts.unlabeled),
        ("evaluation", data.evaluation, amounts.evaluation),
    ):
        where = " ".join(part for part in (source.format, source.path, source.split) if part) if source else ""
        print_line(f"{role:11} {where}: {_count_text(found)}" if source else f"{role:11} the labeled source's other images")
    if data.exclude_evaluation:
        left_out = UNTIL_INGEST if amounts.excluded is None else f"{amounts.excluded:,} images that are in the evaluation too"
        print_line(f"{'left out':11} {left_out}")
    size = f"{budget.count:,}" if budget.count else f"{100 * budget.fraction:g} % of the" if budget.fraction else "all"
    share = f"{100 * budget.validation_fraction:g} % of them for validation"
    drawn = _amount((amounts.label_images, "images"), (amounts.label_rows, "rows"))
    print_line(f"{'labels':11} {size} {budget.of}, draw {budget.seed}: {drawn}; {share}")


def _print_resources(config: Config) -> None:
    found, teacher = config.resources, config.resources.teacher
    engines = f"{found.engines} engines x {found.engine_gpus:g} GPU, {found.engine_cpus:g} CPU"
    engines += f", growing to {found.max_engines}" if found.max_engines else ""
    captions = f"{teacher.engines} engines x {teacher.engine_gpus:g} GPU"
    training = f"{found.train_workers} workers x {found.train_gpus:g} GPU, {found.train_cpus:g} CPU"
    beside = "; baselines beside the method and controls in pairs, with as much again" if found.parallel_baselines else ""
    print_line(f"{'resources':11} {engines}; for captions {captions}; training {training}{beside}")
    print_line(f"{'Ray':11} {found.address or 'started on this machine'}; {found.images_per_unit} images a unit")


def _print_estimates(arithmetic: dict[str, list[str]], costs: dict[str, Estimate]) -> None:
    gpu_hours, hours = ([getattr(cost, name) for cost in costs.values()] for name in ("gpu_hours", "hours"))
    gpus = (
        "no GPU-hours, as nothing asks for a GPU" if costs and not any_gpus(gpu_hours) else f"{sum_text(gpu_hours)} GPU-hours"
    )
    print_line(f"\nestimated, not promised: {gpus} to go, {sum_text(hours)} hours one step after the other")
    if unclear := [label for label, cost in costs.items() if cost.hours is None]:
        print_line(f"  without {len(unclear)} steps that cannot be estimated yet: {', '.join(unclear)}")
    for how, labels in arithmetic.items():
        print_line(f"  {', '.join(labels)}: {how}")
    if any("assumed" in how for how in arithmetic):
        print_line(f"  {assumptions()}")


def any_gpus(gpu_hours: list[float | None]) -> bool:
    """Whether any of the steps takes GPUs; one that takes none takes 0.0 GPU-hours for certain."""
    return any(value is None or value > 0 for value in gpu_hours)


def sum_text(values: list[float | None]) -> str:
    """A sum of which some parts are not known."""
    known = [value for value in values if value is not None]
    if len(known) == len(values):
        return f"{sum(known):.2f}"
    return f"at least {sum(known):.2f}" if sum(known) >= 0.005 else "unknown"


def assumptions() -> str:
    """What estimates assume where nothing was measured, in words."""
    rates = estimates.ASSUMED
    return (
        f"assumed: {rates.tflops:g} TFLOP/s a GPU (an A100), of it {rates.reading:g} reading, {rates.writing:g} writing, "
        f"{rates.training:g} training; {rates.image_tokens:,} tokens an image, {rates.text_tokens} a text; all of it is in "
        "pipelines/estimates.py, and a finished step's measured rate replaces it"
    )


def print_columns(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print_line("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_line(text: str) -> None:
    console.print(text, markup=False)
