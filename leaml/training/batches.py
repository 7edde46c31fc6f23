"""Which examples a step trains on, and how they are cut into micro-batches.

The global batch is a pure function of (seed, step), so a run that is killed and resumed sees the very batches it would have
seen. How it is cut is one of (batch, number of workers, token budget) alone, and every worker knows all of it: so each of them
knows how many reply tokens the whole batch has before its first forward pass, and how many passes the others make.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from leaml.errors import ConfigError, StepError
from leaml.training.examples import Example, subset


@dataclass(frozen=True)
class Task:
    """Examples that share a loss term: `weight` scales their mean token loss, `share` is their part of every batch."""

    name: str
    examples: Sequence[Example]
    share: float = 1.0
    weight: float = 1.0

    def without_held_out(self) -> Task:
        """The task without the rows that learning rates are compared on."""
        return Task(self.name, subset(self.examples, held_out=False), self.share, self.weight)


Drawn = tuple[int, Example]
"""Number of the task, and the example."""


@dataclass(frozen=True)
class Size:
    """Tokens of an example: all of them with its image, and those of its reply with the end token, which carry the loss."""

    tokens: int
    reply: int


@dataclass(frozen=True)
class StepBatch:
    """What one worker does in a step.

    Attributes:
        reply_tokens: Of each task in the *global* batch.
        parts: Micro-batches of this worker; every worker has as many.
    """

    reply_tokens: list[int]
    parts: list[list[Drawn]]


def batch_counts(tasks: list[Task], batch_size: int) -> list[int]:
    """Examples of each task in a batch, by share; every task with a share gets at least one. Sums to `batch_size`.

    Raises ConfigError when there are more such tasks than examples in a batch.
    """
    if batch_size < (active := sum(t.share > 0 for t in tasks)):
        msg = f"batch_size {batch_size} has no slot for each of the {active} tasks {[t.name for t in tasks]}; raise it"
        raise ConfigError(msg)
    total = sum(t.share for t in tasks)
    counts = [max(1, round(batch_size * t.share / total)) if t.share > 0 else 0 for t in tasks]
    counts[int(np.argmax(counts))] += batch_size - sum(counts)
    return counts


def draw(tasks: list[Task], batch_size: int, seed: int, step: int) -> list[Drawn]:
    """The global batch of a step: each task walks its own shuffled epochs without gaps.

    Args:
        tasks: Those with a share have examples, see `refuse_unusable`.
        batch_size: Examples of all workers together.
        seed: Of the order.
        step: Counted from 0.

    Raises:
        ConfigError: More tasks have a share than a batch has examples.
    """
    batch = []
    for number, (task, count) in enumerate(zip(tasks, batch_counts(tasks, batch_size), strict=True)):
        size = len(task.examples)
        for position in range(step * count, (step + 1) * count):
            epoch, offset = divmod(position, size)
            batch.append((number, task.examples[_order(size, seed, number, epoch)[offset]]))
    return batch


_orders: dict[tuple[int, int, int, int], np.ndarray] = {}


def _order(size: int, seed: int, number: int, epoch: int) -> np.ndarray:
    key = (size, seed, number, epoch)
    if key not in _orders:
        if len(_orders) > 16:
            _orders.clear()
        positions = np.arange(size, dtype=np.int32 if size < 2**31 else np.int64)
        _orders[key] = np.random.default_rng((seed, number, epoch)).permutation(positions)
    return _orders[key]


def split(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Positions of the examples, longest first, in parts of at most `budget` tokens with their padding.

    An example that is longer than the budget is a part of its own. The first part is the largest there is, so that a training
    that does not fit its memory says so at its first step.
    """
    parts: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if parts and (len(parts[-1]) + 1) * lengths[parts[-1][0]] <= budget:
            parts[-1].append(position)
        else:
            parts.append([position])
    return parts


def _in_parts(parts: list[list[int]], count: int) -> list[list[int]]:
    """`parts` cut further until there are `count`: the workers of a sharded model pass through it together."""
    parts = list(parts)
    while len(parts) < count:
        largest = max(range(len(parts)), key=lambda i: len(parts[i]))
        middle = len(parts[largest]) // 2
        parts[largest : largest + 1] = [parts[largest][:middle], parts[largest][middle:]]
    return parts


class Batches:
    """The batches of a training for one of its workers.

    Args:
        tasks: What is trained on.
        batch_size: Examples of a global batch.
        seed: Of the order.
        size_of: Tokens of an example.
        budget: Tokens of a micro-batch, with padding; None: the worker's part of a batch is one.
        rank: Of this worker.
        world: Number of workers.
    """

    def __init__(
        self,
        tasks: list[Task],
        batch_size: int,
        seed: int,
        size_of: Callable[[Example], Size],
        budget: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.tasks, self.batch_size, self.seed, self.size_of = tasks, batch_size, seed, size_of
        self.budget, self.rank, self.world = budget, rank, world

    def at(self, step: int) -> StepBatch:
        """The batch of a step."""
        drawn = draw(self.tasks, self.batch_size, self.seed, step)
        sizes = [self.size_of(example) for _, example in drawn]
        tokens = [0] * len(self.tasks)
        for (number, _), size in zip(drawn, sizes, strict=True):
            tokens[number] += size.reply
        return StepBatch(tokens, [[drawn[i] for i in part] for part in self._parts([s.tokens for s in sizes])])

    def _parts(self, lengths: list[int]) -> list[list[int]]:
        if self.budget is None:
            return [list(range(self.rank, len(lengths), self.world))]
        longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        of_workers = []
        for rank in range(self.world):
            own = longest_first[rank :: self.world]
            of_workers.append([[own[i] for i in part] for part in split([lengths[i] for i in own], self.budget)])
        return _in_parts(of_workers[self.rank], max(map(len, of_workers)))


def refuse_unusable(tasks: list[Task], batch_size: int, world: int) -> None:
    """Refuse a batch that cannot be made.

    Args:
        tasks: What is to be trained on.
        batch_size: Examples of a global batch.
        world: Number of workers.

    Raises:
        ConfigError: The workers or the tasks cannot share it.
        StepError: A task has nothing to train on.
    """
    if batch_size % world:
        msg = f"batch_size {batch_size} cannot be split over {world} workers; choose a multiple"
        raise ConfigError(msg)
    for task in tasks:
        if task.share > 0 and not task.examples:
            msg = f"training task {task.name!r} has no examples; check the step that makes them"
            raise StepError(msg)
    batch_counts(tasks, batch_size)
