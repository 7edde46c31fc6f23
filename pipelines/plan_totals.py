"""A step of a plan, what all of them take together, and what prices make of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.amounts import Workload
from pipelines.estimates import Estimate, Memory
from pipelines.steps import LAST, STEPS
from pipelines.training_memory import Need

FINISHED = "finished"


def grows(name: str) -> bool:
    """Whether a step has more to do the more images there are."""
    return name in STEPS and name != LAST and STEPS[name].kind in ("data", "engine")


@dataclass(frozen=True)
class StepPlan:
    """A step of a plan.

    Attributes:
        state: `finished` ones are reused, `begun` ones go on from what they have published, others are `to run`.
        folder: Its name in the run; it ends with ? where it depends on images that only ingest can tell.
        takes: What it has before it, in words; `work` in numbers.
        made: How many it makes of what `makes` says; None: only ingest can tell.
        workers: Engines or training workers, each with `gpus` and `memory`; 0 for steps without a model.
        training: What a training, or a scoring, takes with activations and logits; None: neither, or its model is not at
            hand.
        cost: Hours and GPU-hours, of a finished step those of making it anew.
        puts: PUT requests where the storage is S3, and `gets` GET and HEAD requests.
    """

    name: str
    label: str
    state: str
    folder: str
    takes: str
    work: Workload
    makes: str
    made: int | None
    workers: int
    gpus: float
    memory: Memory | None
    training: Need | None
    cost: Estimate
    puts: int
    gets: int


@dataclass(frozen=True)
class Prices:
    """What a plan multiplies with; dollars, or whatever a GPU-hour is paid in."""

    gpu_hour: float = 2.5
    puts: float = 0.005
    """Of a thousand PUT requests."""
    gets: float = 0.0004
    """Of a thousand GET and HEAD requests."""
    node_gpus: int = 8
    deadline: float = 24.0
    """Hours in which the run should be done."""


@dataclass(frozen=True)
class Sum:
    """A sum of numbers; not `whole`: some of them are not known, so it is at least this much."""

    known: float
    whole: bool

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Sum:
        return cls(sum(value for value in values if value is not None), None not in values)

    def text(self) -> str:
        if self.whole:
            return f"{self.known:,.2f}" if self.known else "none"
        return f"at least {self.known:,.2f}" if self.known >= 0.005 else "unknown"


@dataclass(frozen=True)
class Total:
    """What the steps take that are not finished."""

    images: int | None
    """Training images without labels."""
    hours: Sum
    """One step after the other."""
    gpu_hours: Sum
    fixed: Sum
    """GPU-hours of the steps that do not grow with the images; the others run on any number of engines."""
    fixed_hours: Sum
    puts: int
    gets: int

    @classmethod
    def of(cls, steps: Sequence[StepPlan], images: int | None) -> Total:
        todo = [step for step in steps if step.state != FINISHED]
        paid = [step for step in todo if step.cost.how]
        fixed = [step.cost for step in paid if not grows(step.name)]
        return cls(
            images,
            Sum.of([step.cost.hours for step in paid]),
            Sum.of([step.cost.gpu_hours for step in paid]),
            Sum.of([cost.gpu_hours for cost in fixed]),
            Sum.of([cost.hours for cost in fixed]),
            sum(step.puts for step in todo),
            sum(step.gets for step in todo),
        )

    def late(self, prices: Prices) -> bool:
        """Whether no number of nodes ends the run by the deadline."""
        return self.fixed_hours.known >= prices.deadline

    def nodes(self, prices: Prices) -> int | None:
        """Nodes of `prices.node_gpus` GPUs with which the run ends by the deadline; None: none, no number of them, unknown."""
        scaling = self.gpu_hours.known - self.fixed.known
        if not self.gpu_hours.whole or not self.fixed_hours.whole or self.late(prices) or scaling <= 0:
            return None
        return max(1, math.ceil(scaling / (prices.deadline - self.fixed_hours.known) / prices.node_gpus))

    def money(self, prices: Prices) -> float | None:
        """Of GPU-hours and requests; None where the hours are not known."""
        paid = self.puts / 1000 * prices.puts + self.gets / 1000 * prices.gets
        return self.gpu_hours.known * prices.gpu_hour + paid if self.gpu_hours.whole else None
