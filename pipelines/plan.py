"""`leaml plan CONFIG`: what each step of a run takes, makes, costs and needs, what is reused, and the total; nothing is run.

Rates come from steps that earlier runs in the storage, or this one, have measured, else from assumptions that are printed
(pipelines/estimates.py). `leaml adapt --dry-run` checks the data first (pipelines/trial.py) and prints the same plan.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from leaml.config import Config
from leaml.data.count import Count
from leaml.errors import InputError, ResourceError
from leaml.io import files
from leaml.run.records import DONE
from pipelines import estimates, image_tokens, training_memory
from pipelines.adapt import doubts
from pipelines.amounts import FILE_IMAGES, Amounts, Tree, Workload
from pipelines.image_tokens import ImageTokens
from pipelines.plan_totals import FINISHED, Prices, StepPlan, Sum, Total, grows
from pipelines.progress import console
from pipelines.rehearsal import Planned, Rehearsal, measure, rehearse, with_frames
from pipelines.run import UNKNOWN, Step
from pipelines.steps import ENGINE_REQUESTS, EXAMPLE_REQUESTS, FILTER_REQUESTS, LAST, STEPS, kind_of
from pipelines.training_memory import Need

UNTIL_INGEST = "unknown until ingest"
RECENT = 300
"""Finished steps of the storage that are looked at for measured rates, the latest."""


@dataclass(frozen=True)
class RunPlan:
    """The steps of a run in order, the totals for each number of images that was asked for, and how much there is."""

    run: str
    folder: str
    steps: tuple[StepPlan, ...]
    totals: tuple[Total, ...]
    amounts: Amounts
    images: tuple[ImageTokens, ...]
    doubts: tuple[str, ...]

    def tree(self, prices: Prices) -> dict[str, object]:
        """As plain data, with what the prices make of it."""
        found = asdict(self) | {"prices": asdict(prices), "assumed": asdict(estimates.ASSUMED)}
        for tree, total in zip(found["totals"], self.totals, strict=True):
            tree |= {"nodes": total.nodes(prices), "money": total.money(prices)}
        return found


def make(config: Config, amounts: Amounts | None = None, frames: Sequence[int] = ()) -> RunPlan:
    """The plan of a run.

    Args:
        config: The run.
        amounts: How much there is of everything, where that was found out; None: what is cheap to find out.
        frames: Numbers of unlabeled images to plan for instead of those that there are; the steps are those of the last.

    Raises:
        InputError: A number of images is not positive, or the configuration alone is refused.
    """
    if wrong := [count for count in frames if count < 1]:
        msg = f"{wrong[0]} frames cannot be planned; give a number above 0"
        raise InputError(msg)
    run, sources, labels = rehearse(config, amounts.captioned if amounts else None)
    amounts = amounts or measure(run, sources, labels)
    known = _known_rates(run)
    sizes = [with_frames(amounts, count) for count in frames] or [amounts]
    images = image_tokens.of_plan(config, amounts.image_size)
    counted = {one.key: one.tokens for one in images if one.tokens is not None}
    steps = [tuple(_step(run, planned, size, known, counted) for planned in run.planned.values()) for size in sizes]
    totals = tuple(Total.of(each, size.rest) for each, size in zip(steps, sizes, strict=True))
    found = _too_large(config, amounts) + doubts(
        config, amounts.asked, amounts.asked_images, amounts.label_images, amounts.validation
    )
    return RunPlan(config.name, run.folder, steps[-1], totals, sizes[-1], images, tuple(found))


def _too_large(config: Config, amounts: Amounts) -> list[str]:
    """What `leaml adapt` refuses for its memory, where this is the machine that it will run on."""
    try:
        training_memory.refuse_large(config, amounts.largest_image)
    except ResourceError as error:
        return [str(error)]
    return []


def _step(run: Rehearsal, planned: Planned, amounts: Amounts, known: estimates.Known, image_tokens: dict[str, int]) -> StepPlan:
    step, tree, spec = planned.step, planned.tree, STEPS.get(planned.step.name)
    source = _source(step, amounts)
    work = Workload(source.images, source.questions) if source else spec.work(tree, amounts) if spec else Workload()
    name, variant = step.name, step.variant
    assumed = estimates.ASSUMED
    if tokens := spec and image_tokens.get(spec.model):
        assumed = replace(assumed, image_tokens=tokens)
    anew = amounts.frames and grows(name)  # what is finished is of other images
    return StepPlan(
        name,
        step.label,
        "to run" if anew else run.state(step),
        f"{name}-{UNKNOWN}" if step.hash.endswith(UNKNOWN) else Path(step.folder).name,
        _count_text(source) if source else _takes(planned, work, amounts),
        work,
        spec.makes if spec else "",
        _made(name, tree, work),
        *estimates.workers(name, tree),
        estimates.memory(name, variant, tree, known),
        _need(name, variant, tree, amounts),
        estimates.estimate(name, variant, tree, work, known, assumed),
        *estimates.requests(name, variant, tree, work),
    )


def _need(name: str, variant: str, tree: Tree, amounts: Amounts) -> Need | None:
    if kind_of(name) not in ("train", "gradients"):
        return None
    section = estimates.train_section(name, variant, tree) if kind_of(name) == "train" else tree[STEPS[name].section]
    return training_memory.of_step(name, section, tree, amounts.largest_image)


def _source(step: Step, amounts: Amounts) -> Count | None:
    """What an ingest reads; None for other steps."""
    if step.name != "ingest":
        return None
    return {"labeled": amounts.labeled, "evaluation": amounts.evaluation}.get(step.variant, amounts.unlabeled) or Count()


def _made(name: str, tree: Tree, work: Workload) -> int | None:
    if name == LAST:
        return work.questions
    if grows(name):
        return None if work.images is None else work.images * STEPS[name].each(tree)
    return 1


def _takes(planned: Planned, work: Workload, amounts: Amounts) -> str:
    name, tree = planned.step.name, planned.tree
    if kind_of(name) == "train":
        section = estimates.train_section(name, planned.step.variant, tree)
        rates = section["lr"] if isinstance(section["lr"], list) else [section["lr"]]
        which = "rates then the best" if work.held_out else "rates, of which the first: no labels are held out to choose by"
        sweep = f", {len(rates)} {which}" if len(rates) > 1 else ""
        return f"{section['steps']:,} steps x {section['batch_size']} examples{sweep}"
    text = STEPS[name].describe(tree, amounts) if name in STEPS else ""
    if kind_of(name) in ("data", "driver") and work.images is None:
        return text
    count = _text((work.images, "examples" if kind_of(name) == "gradients" else "images"), (work.questions, "questions"))
    return f"{count}; {text}" if text else count


def _known_rates(run: Rehearsal) -> estimates.Known:
    """Measured rates of the run's finished steps and of the latest of other runs in its storage, where that is local."""
    folders = [planned.step.folder for planned in run.planned.values() if run.done(planned.step)]
    storage = run.config.storage
    if not files.is_remote(storage):
        found = sorted(((f.stat().st_mtime, str(f.parent)) for f in Path(storage).glob(f"*/*/{DONE}")), reverse=True)
        folders += [folder for _, folder in found[:RECENT]]
    return estimates.earlier(folders)


def show(
    config: Config,
    amounts: Amounts | None = None,
    frames: Sequence[int] = (),
    prices: Prices | None = None,
    as_json: bool = False,
) -> None:
    """Print the plan: data, resources, steps, the arithmetic, the total, and what is doubtful.

    Args:
        config: The run.
        amounts: As of `make`.
        frames: As of `make`; the totals are printed for each.
        prices: Of GPU-hours and requests, and the deadline; None: the defaults of `Prices`.
        as_json: Print all of it as one JSON object.

    Raises:
        InputError: As `make`.
    """
    plan, prices = make(config, amounts, frames), prices or Prices()
    if as_json:
        print(json.dumps(plan.tree(prices), indent=1))
        return
    print_line(f"plan of {plan.run} in {plan.folder}; nothing is run\n")
    _print_data(config, plan)
    _print_steps(plan)
    _print_totals(plan, config, prices)
    for doubt in plan.doubts:
        print_line(f"warning: {doubt}")


def _print_data(config: Config, plan: RunPlan) -> None:
    amounts, data, budget = plan.amounts, config.data, config.data.budget
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
    drawn = _text((amounts.label_images, "images"), (amounts.label_rows, "rows"))
    share = f"{100 * budget.validation_fraction:g} % of them for validation"
    print_line(f"{'labels':11} {size} {budget.of}, draw {budget.seed}: {drawn}; {share}")
    if amounts.guessed:
        guessed = ", ".join(f"{name.replace('_', ' ')} {getattr(amounts, name):,}" for name in amounts.guessed)
        print_line(f"{'assumed':11} {guessed}: only ingest can tell")
    for one in plan.images:
        print_line(f"{'an image':11} in {one.key} {one.text(measured=amounts.image_size is not None)}")


def _print_steps(plan: RunPlan) -> None:
    head = ("state", "step", "folder", "takes", "makes", "on", "memory of each", "rate", "hours", "GPU-hours")
    print_line("\nsteps in order (finished ones are reused, begun ones go on)")
    _print_columns([head, *map(_row, plan.steps)])
    if any(step.folder.endswith(UNKNOWN) for step in plan.steps):
        print_line("  folders with ? depend on the images that are captioned: ingest finds them; what is finished is reused")
    todo = [step for step in plan.steps if step.state != FINISHED and step.cost.how]
    if todo:
        print_line("\narithmetic")
    for how in dict.fromkeys(step.cost.how for step in todo):
        print_line(f"  {', '.join(step.label for step in todo if step.cost.how == how)}: {how}")
    rates = estimates.ASSUMED
    if any(step.cost.rate == "assumed" for step in todo):
        print_line(
            f"  assumed: {rates.tflops:g} TFLOP/s a GPU (an A100), of it {rates.reading:g} reading, {rates.writing:g} writing, "
            f"{rates.training:g} training; {rates.image_tokens:,} tokens an image where none are given above, "
            f"{rates.text_tokens} a text (all of it is in pipelines/estimates.py)"
        )
    if any(step.cost.rate in ("assumed", "unknown") for step in todo):
        print_line(
            "  for measured rates, let the same models finish a small run in the same local storage: "
            f"leaml adapt CONFIG name={plan.run}-small caption.max_images=500 generate.max_images=500"
        )
    print_line(
        "  memory: of engines weights, on which caches come on top, and images of a megapixel, one of data.max_pixels; of "
        "trainings and the scoring what one micro-batch of the largest image takes, or what a finished one has measured"
    )
    needs = [(step.label, training_memory.parts_text(step.training)) for step in plan.steps if step.training]
    for text in dict.fromkeys(text for _, text in needs):
        print_line(f"  GiB of {', '.join(dict.fromkeys(label for label, other in needs if other == text))}: {text}")


def _row(step: StepPlan) -> tuple[str, ...]:
    kind = kind_of(step.name)
    each = "engine" if kind == "engine" else "worker"
    on = "CPU tasks" if kind == "data" else "driver"
    if step.workers:
        on = f"{step.workers} {each}{'s' if step.workers > 1 else ''} x {step.gpus:g} GPU"
    memory, cost = "", step.cost
    if step.memory and step.memory.peak:
        memory = f"{_gib(step.memory.peak)} GiB measured"
    elif step.memory and step.training:
        least = "at least " if step.training.at_least else ""
        of_what = "pass" if kind == "gradients" else "training"
        memory = f"{of_what} {least}{_gib(step.training.peak)}, images {_gib(step.memory.images)} GiB"
    elif step.memory:
        memory = f"weights {_gib(step.memory.weights)}, images {_gib(step.memory.images)} GiB"
    rate, hours, gpu_hours = cost.rate, "", "0"
    if step.state == FINISHED:
        rate, hours, gpu_hours = "", "reused", ""
    elif cost.how:
        hours = "unknown" if cost.hours is None else f"~{cost.hours:.2f}"
        gpu_hours = "unknown" if cost.gpu_hours is None else f"~{cost.gpu_hours:.2f}" if cost.gpu_hours else "0"
    makes = _text((step.made, step.makes)) if step.makes else ""
    return step.state, step.label, step.folder, step.takes, makes, on, memory, rate, hours, gpu_hours


def _print_totals(plan: RunPlan, config: Config, prices: Prices) -> None:
    head = ("images", "hours", "GPU-hours", "of it fixed", f"nodes for {prices.deadline:g} h", "PUTs", "GETs", "money")
    rows = []
    for one in plan.totals:
        nodes, money, none = one.nodes(prices), one.money(prices), one.gpu_hours == Sum(0, True)
        rows.append(
            (
                "unknown" if one.images is None else f"{one.images:,}",
                *(each.text() for each in (one.hours, one.gpu_hours, one.fixed)),
                "none" if none else "not in time" if one.late(prices) else "unknown" if nodes is None else f"{nodes:,}",
                *(f"{one.puts:,}", f"{one.gets:,}"),
                "unknown" if money is None else f"{money:,.0f}",
            )
        )
    print_line("\nestimated total of what is not finished, not promised")
    _print_columns([head, *rows])
    if unclear := [step.label for step in plan.steps if step.state != FINISHED and step.cost.how and step.cost.hours is None]:
        print_line(f"  without the hours of {len(unclear)} steps that cannot be estimated yet: {', '.join(unclear)}")
    if plan.amounts.training is None or plan.amounts.asked is None:
        print_line("  after `leaml ingest CONFIG` the numbers of images and questions are known, and these estimates with them")
    if plan.totals[-1].gpu_hours == Sum(0, True):
        print_line("  no step asks for a GPU, so there are no GPU-hours to plan")
    print_line(
        f"  images: those without labels. hours: one step after the other. fixed: trainings and answers to the evaluation, "
        f"whatever the number of images. Nodes have {prices.node_gpus} GPUs. Money: {prices.gpu_hour:g} a GPU-hour, "
        f"{prices.puts:g} a thousand PUTs, {prices.gets:g} a thousand GETs; storage and CPU nodes come on top"
    )
    print_line(_requests_text(config.resources.images_per_shard))


def _requests_text(shard: int) -> str:
    """What requests are counted for, in words."""
    (puts, gets), (_, example) = ENGINE_REQUESTS.shard, EXAMPLE_REQUESTS.image
    others = [(spec.name, spec.requests.shard) for spec in STEPS.values() if spec.requests and any(spec.requests.shard)]
    own = "".join(f", {each[0]} and {each[1]} in {name}" for name, each in others)
    filtered = FILTER_REQUESTS.image_file
    return (
        f"  requests: {puts} PUTs and {gets} GETs a shard of {shard} images and step with engines{own}; {filtered[0]} and "
        f"{filtered[1]} for {FILE_IMAGES:,} images in filter; a GET for each image read in; at most {example} an example of "
        f"training"
    )


def _text(*counted: tuple[int | None, str]) -> str:
    """Numbers with what they count, `unknown` once if none is known."""
    known = [f"{number:,} {what}" for number, what in counted if number is not None]
    return ", ".join(known) or UNTIL_INGEST


def _count_text(found: Count | None) -> str:
    if found is None or found.images is None:
        return UNTIL_INGEST + (f" ({found.why})" if found and found.why else "")
    about = "about " if found.about else ""
    return about + _text((found.images, "images"), (found.questions, "questions"))


def _gib(size: float | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f}"


def _print_columns(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print_line("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_line(text: str) -> None:
    console.print(text, markup=False)
