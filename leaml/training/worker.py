"""What a training is given by whoever runs it: which worker it is, and where its checkpoints go and come from."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, Protocol, TypedDict


class TrainingState(TypedDict):
    """Where a training is.

    Attributes:
        phase: Learning rate of the sweep that is tried, from 0; after the sweep their number.
        step: Steps done in this phase.
        sweep: Result of each rate tried: "lr", "accuracy" and, where it stayed finite, "loss".
        losses: `(step, loss)` points of this phase.
        validations: Results of this phase, as `Validation` reports them.
        budget: Tokens of a micro-batch.
        seconds: Since the training began, those of earlier attempts included.
    """

    phase: int
    step: int
    sweep: list[dict[str, float]]
    losses: list[tuple[int, float]]
    validations: list[dict[str, float]]
    budget: NotRequired[int | None]
    seconds: NotRequired[float]


class Checkpoint(Protocol):
    """A checkpoint, wherever it lies."""

    def read(self, name: str) -> bytes:
        """A file of it."""
        ...

    def as_directory(self) -> AbstractContextManager[str | Path]:
        """All of its files in a local folder, which the caller does not change."""
        ...


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint in a folder of this machine."""

    folder: Path

    def read(self, name: str) -> bytes:
        """A file of it."""
        return (self.folder / name).read_bytes()

    def as_directory(self) -> AbstractContextManager[str | Path]:
        """The folder itself."""
        return contextlib.nullcontext(self.folder)


@dataclass
class Worker:
    """What the loop needs from whoever runs it; the defaults run it alone and save nothing."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    memory_share: float = 1.0
    """How much it may take of its GPU, where it has one, or of the free memory of its machine."""
    sharding: Literal["auto"] | bool = "auto"
    """Whether each of several workers holds a part of every weight; auto: where the whole does not fit one of them."""
    restore: Callable[[], Checkpoint | None] = lambda: None
    save: Callable[[Path, TrainingState], None] = lambda folder, state: shutil.rmtree(folder)
    """Takes a folder with this worker's part of a checkpoint, which is the callee's from then on; every worker is called."""
    writes_beside: bool | None = None
    """Write checkpoints while the next steps are done, from a copy on the CPU; None: on a GPU. On a CPU the copy would take
    as much memory as what is trained, and the writing the time of the steps."""
    progress: Callable[[dict[str, float]], None] = lambda metrics: None

    def __post_init__(self) -> None:
        if self.writes_beside is None:
            self.writes_beside = self.device.startswith("cuda")
