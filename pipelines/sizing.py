"""`leaml plan CONFIG`: GPU-hours, nodes, S3 requests and money for other numbers of unlabeled images, with the arithmetic.

Rates come from where `leaml adapt --dry-run` takes them: steps that earlier runs in the storage have measured, else assumptions
that are printed (pipelines/estimates.py). tests/integration/test_s3_faults.py holds the requests of a unit to a real server.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from leaml.config import Config
from leaml.errors import InputError
from pipelines import estimates, plan
from pipelines.amounts import Amounts, Work
from pipelines.estimates import ENGINES, TRAININGS
from pipelines.steps import LAST

PUTS, GETS = 3, 5
"""Requests of a unit: rows, counts and attempt are written; two HEADs, two GETs of its images, one of its counts."""
FILTER_PUTS, FILTER_GETS = 2, 6
"""Of a file of pairs, one for each unit: rows and counts are written; two HEADs and two GETs of the candidates in each of two
passes where filters look at all pairs together, one of the counts."""
INDEX_GETS = 5
"""Of a file of images, when a step looks where images are: a listing, a HEAD, three GETs."""
PART_IMAGES = 512
"""Images in such a file: 64 MiB of images of 128 KiB (leaml/data/ingest.py)."""
UNKNOWN = {"label_images": 100, "label_rows": 300, "asked": 3000, "asked_images": 1000}
"""Of labels and evaluation, where only ingest can tell."""
EXAMPLE_GETS = 2
"""At most, of an example of training: its image lies in a row group that is not at hand."""


@dataclass(frozen=True)
class Prices:
    """What `leaml plan` multiplies with; dollars, or whatever a GPU-hour is paid in."""

    gpu_hour: float = 2.5
    puts: float = 0.005
    """Of a thousand PUT requests."""
    gets: float = 0.0004
    """Of a thousand GET and HEAD requests."""
    node_gpus: int = 8
    deadline: float = 24.0
    """Hours in which the run should be done."""


@dataclass(frozen=True)
class Size:
    """What a run over `frames` unlabeled images takes; None where a rate is not known."""

    frames: int
    scaling: float | None
    """GPU-hours of the steps that grow with the images and run on any number of engines."""
    fixed: float | None
    """GPU-hours of the others."""
    fixed_hours: float | None
    """Hours of the others, one after the other."""
    puts: int
    gets: int
    how: tuple[str, ...]

    def gpu_hours(self) -> float | None:
        """Of all steps."""
        return None if self.scaling is None or self.fixed is None else self.scaling + self.fixed

    def nodes(self, prices: Prices) -> int | None:
        """Nodes of `prices.node_gpus` GPUs with which the run ends by the deadline; None: none, no number of them, unknown."""
        if not self.scaling or self.fixed_hours is None or self.fixed_hours >= prices.deadline:
            return None
        return max(1, math.ceil(self.scaling / (prices.deadline - self.fixed_hours) / prices.node_gpus))

    def money(self, prices: Prices) -> float | None:
        """GPU-hours and requests."""
        hours = self.gpu_hours()
        requests = self.puts / 1000 * prices.puts + self.gets / 1000 * prices.gets
        return None if hours is None else hours * prices.gpu_hour + requests


def sizes(config: Config, frames: list[int]) -> list[Size]:
    """The size of a run over each number of unlabeled images.

    Raises:
        InputError: A number is not positive.
    """
    if wrong := [count for count in frames if count < 1]:
        msg = f"{wrong[0]} frames cannot be planned; give a number above 0"
        raise InputError(msg)
    run, amounts = _measured(config)
    amounts, known = replace(amounts, **_assumed(amounts)), plan.known_rates(run)
    return [_size(run, replace(amounts, training=count + (amounts.label_images or 0)), known, count) for count in frames]


def _measured(config: Config) -> tuple[plan.Rehearsal, Amounts]:
    run, sources, labels = plan.rehearse(config)
    return run, plan.measure(run, sources, labels)


def _assumed(amounts: Amounts) -> dict[str, Any]:
    """What is taken for the numbers that only ingest can tell."""
    return {name: value for name, value in UNKNOWN.items() if getattr(amounts, name) is None}


def _size(run: plan.Rehearsal, amounts: Amounts, known: estimates.Known, frames: int) -> Size:
    """The sums over all steps of `leaml adapt`, without those that are finished and do not grow with the images."""
    sums: dict[bool, list[float | None]] = {True: [], False: []}
    hours: list[float | None] = []
    puts = gets = 0
    how = []
    for planned in run.planned.values():
        name, label, tree = planned.step.name, planned.step.label, planned.tree
        work = plan.work_of(planned, amounts)
        grows = name in ENGINES and name != LAST
        if name != "ingest" and run.done(planned.step) and not grows:
            continue
        cost = estimates.estimate(name, planned.step.variant, tree, work, known)
        if cost.how:
            how.append(f"{label}: {cost.how}")
            sums[grows].append(cost.gpu_hours)
            if not grows:
                hours.append(cost.hours)
        more = requests(name, tree, work)
        puts, gets = puts + more[0], gets + more[1]
    images = math.ceil(frames / PART_IMAGES)
    return Size(frames, _sum(sums[True]), _sum(sums[False]), _sum(hours), puts + images, gets + frames, tuple(how))


def requests(name: str, tree: dict[str, Any], work: Work) -> tuple[int, int]:
    """PUT requests and GET or HEAD requests of a step."""
    if name in TRAININGS:
        section = tree[name]
        return 0, EXAMPLE_GETS * int(section["steps"]) * int(section["batch_size"])
    if name not in ENGINES | {"filter"} or work.images is None:
        return 0, 0
    resources = tree["resources"]
    units = math.ceil(work.images / int(resources["images_per_unit"]))
    if name == "filter":
        return units * FILTER_PUTS, units * FILTER_GETS
    return units * PUTS, units * GETS + INDEX_GETS * math.ceil(work.images / PART_IMAGES)


def _sum(values: list[float | None]) -> float | None:
    """None if any is."""
    return None if None in values else sum(v for v in values if v is not None)


def show(config: Config, frames: list[int], prices: Prices) -> None:
    """Print the table and the arithmetic of its last row."""
    found = sizes(config, frames)
    plan.print_line(f"sizes of {config.name}; estimated, not promised\n")
    head = ("frames", "GPU-hours", "of it fixed", f"nodes for {prices.deadline:g} h", "PUTs", "GETs", "money")
    plan.print_columns([head, *(_row(one, prices) for one in found)])
    plan.print_line(
        f"\nfixed: trainings and answers to the evaluation, whatever the number of images. Nodes have {prices.node_gpus} GPUs. "
        f"Money: {prices.gpu_hour:g} a GPU-hour, {prices.puts:g} a thousand PUTs, {prices.gets:g} a thousand GETs; storage and "
        "CPU nodes come on top"
    )
    plan.print_line(
        f"requests: {PUTS} PUTs and {GETS} GETs a unit of {config.resources.images_per_unit} images and step, {FILTER_PUTS} "
        f"and {FILTER_GETS} for its pairs; a GET for each image read in; at most {EXAMPLE_GETS} an example of training"
    )
    _, amounts = _measured(config)
    guessed = _assumed(amounts)
    shown = replace(amounts, **guessed)
    plan.print_line(
        f"labels: {_said(shown, guessed, 'label_rows', 'rows')} of {_said(shown, guessed, 'label_images', 'images')}; "
        f"evaluation: {_said(shown, guessed, 'asked', 'questions')} about {_said(shown, guessed, 'asked_images', 'images')}"
    )
    if any(one.fixed is None or one.scaling is None or one.fixed or one.scaling for one in found):
        plan.print_line(plan.assumptions())
    else:
        plan.print_line("no step asks for a GPU, so there are no GPU-hours to plan; hours of CPUs are known after a first run")
    plan.print_doubts(config, amounts)
    plan.print_line(f"\narithmetic for {found[-1].frames:,} frames")
    for line in found[-1].how:
        plan.print_line(f"  {line}")


def _said(amounts: Amounts, guessed: dict[str, Any], name: str, what: str) -> str:
    return f"{getattr(amounts, name):,} {what}" + (" (assumed, only ingest can tell)" if name in guessed else "")


def _row(one: Size, prices: Prices) -> tuple[str, ...]:
    def shown(value: float | None, form: str) -> str:
        return "unknown" if value is None else format(value, form)

    late = one.fixed_hours is not None and one.fixed_hours >= prices.deadline
    nodes = "not in time" if late else "none" if one.scaling == 0 else shown(one.nodes(prices), ",")
    hours, fixed = ("none" if value == 0 else shown(value, ",.1f") for value in (one.gpu_hours(), one.fixed))
    money = shown(one.money(prices), ",.0f")
    return f"{one.frames:,}", hours, fixed, nodes, f"{one.puts:,}", f"{one.gets:,}", money
