"""Small trainings: tasks about plain images, and a worker that can be killed and goes on."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from leaml.config import TrainConfig
from leaml.training.batches import Example, Task
from leaml.training.loop import Worker

COLOURS = ("red", "green", "blue", "white", "black")
CONFIG = TrainConfig(
    steps=6, batch_size=4, lr=1e-3, precision="float32", save_every=2, warmup_ratio=0.2, micro_batch_tokens=None
)


def get_image(name: str) -> Image.Image:
    return Image.new("RGB", (64, 64), name.split("-")[0])


def questions(size: int = 10, held_out: int = 0) -> Task:
    """Colour questions; the last `held_out` repeat the first ones, so that what is learned helps there."""
    names = [COLOURS[n % 5] for n in range(size)]
    examples = [Example(c, "What colour is it?", c, held_out=n >= size - held_out) for n, c in enumerate(names)]
    return Task("labels", examples)


def mixture() -> list[Task]:
    """Two tasks whose replies differ much in length, one of them with a forced beginning."""
    long = "a plain picture without anything in it but the colour " * 2
    captions = [Example(c, "Describe the image.", long + c, "This is ") for c in COLOURS]
    return [Task("captions", captions, share=3.0), Task("labels", questions().examples, share=1.0, weight=0.7)]


class KilledError(Exception):
    pass


class Disk:
    """Keeps a training's last checkpoint as Ray Train does: written with torch.save, read with weights_only."""

    def __init__(self) -> None:
        self.saved: list[bytes] = []
        self.steps: list[tuple[int, int]] = []

    def worker(self, die_at: tuple[int, int] | None = None) -> Worker:
        """A worker that restores from here, and dies right after (phase, step) if asked to."""

        def save(state: dict[str, Any]) -> None:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            self.saved.append(buffer.getvalue())

        def restore() -> dict[str, Any] | None:
            return torch.load(io.BytesIO(self.saved[-1]), weights_only=True) if self.saved else None

        def progress(metrics: dict[str, Any]) -> None:
            self.steps.append((metrics["phase"], metrics["step"]))
            if self.steps[-1] == die_at:
                raise KilledError

        return Worker(save=save, restore=restore, progress=progress)


class Exchange:
    """Stands in for torch.distributed.all_reduce between threads: the sum in the order of ranks, for everyone."""

    def __init__(self, world: int) -> None:
        self.barrier, self.mine, self.given = threading.Barrier(world, timeout=60), threading.local(), {}

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self.given[self.mine.rank] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(sum(self.given[rank] for rank in sorted(self.given)))
        self.barrier.wait()

    def run(self, rank: int, body: Callable[[], None]) -> None:
        self.mine.rank = rank
        try:
            body()
        except BaseException:
            self.barrier.abort()
            raise
