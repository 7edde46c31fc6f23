"""Several steps in the same worker processes, one after another: a process imports vLLM once, and has one engine at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from pipelines.shard import LoadedShard
from pipelines.stream import WorkerRow


class TurnRow(WorkerRow):
    """What a worker says of a shard, with the number of the shard's step."""

    turn: int


Row = TypeVar("Row", bound=TurnRow)
Made = TypeVar("Made", covariant=True)


class ShardActor(Protocol[Made]):
    """Does shards of one step until it is closed."""

    def __call__(self, shard: LoadedShard) -> Made: ...

    def close(self) -> None: ...


class SharedEngineActor(Generic[Made]):
    """Does the shards of several steps with the actor of their step, of which there is one at a time.

    The actor of a step is closed when no thread is at work with it and a shard of another step has come.
    """

    def __init__(self, make: Callable[..., ShardActor[Made]], arguments: Sequence[tuple[object, ...]]) -> None:
        """`make` builds the actor of a step from its `arguments`."""
        self.make, self.arguments = make, arguments
        self.changed, self.working = threading.Condition(), 0
        self.turn: int | None = None
        self.actor: ShardActor[Made]

    def __call__(self, shard: LoadedShard) -> Made:
        with self._actor(shard["turn"]) as actor:
            return actor(shard)

    @contextmanager
    def _actor(self, turn: int) -> Iterator[ShardActor[Made]]:
        with self.changed:
            self.changed.wait_for(lambda: turn == self.turn or not self.working)
            if turn != self.turn:
                self._change(turn)
            self.working += 1
        try:
            yield self.actor
        finally:
            with self.changed:
                self.working -= 1
                self.changed.notify_all()

    def _change(self, turn: int) -> None:
        if self.turn is not None:
            self.turn = None
            self.actor.close()
            del self.actor  # with all that it holds, before the next one is built
        self.actor, self.turn = self.make(*self.arguments[turn]), turn


def by_turn(rows: Iterator[Row], counts: Sequence[int]) -> Iterator[Iterator[Row]]:
    """The rows of each step, which has so many; rows of later steps that come early are kept. Each is to be read to its end."""
    early: list[deque[Row]] = [deque() for _ in counts]

    def of(turn: int) -> Iterator[Row]:
        for _ in range(counts[turn]):
            while not early[turn]:
                row = next(rows)
                early[row["turn"]].append(row)
            yield early[turn].popleft()
        if turn == len(counts) - 1:
            yield from rows  # none is left; the workers end with the stream

    return map(of, range(len(counts)))
