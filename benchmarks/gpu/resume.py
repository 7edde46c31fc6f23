"""A training of the shipped model on the device, killed and resumed, beside the uninterrupted one."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from benchmarks.gpu.part import Part
from leaml.config import ModelConfig, TrainConfig
from leaml.training.batches import Example, Task
from leaml.training.loop import Trainer
from leaml.training.worker import LocalCheckpoint, TrainingState, Worker
from leaml.vlm import load

COLOURS = ("red", "green", "blue", "yellow")


class KilledError(Exception):
    """The training ends here."""


def losses(part: Part, saved: list[Path], die_at: int | None = None) -> list[tuple[int, float]]:
    """Losses of a training that goes on where `saved` ends; one that dies raises KilledError."""

    def save(folder: Path, state: TrainingState) -> None:
        saved.append(folder)
        if state["step"] == die_at:
            raise KilledError

    def restore() -> LocalCheckpoint | None:
        return LocalCheckpoint(saved[-1]) if saved else None

    vlm = load.load(ModelConfig(name="leaml-tiny"), part.device)
    vlm.model.requires_grad_(True)
    config = TrainConfig(steps=20, batch_size=8, lr=1e-4, save_every=10, micro_batch_tokens=200)
    worker = Worker(device=str(part.device), restore=restore, save=save)
    tasks = [Task("colours", [Example(c, "What colour is it?", c) for c in COLOURS])]
    images = {c: Image.new("RGB", (64, 64), c) for c in COLOURS}
    return Trainer(vlm, list(vlm.model.parameters()), tasks, config, images.__getitem__, 1, worker).run().losses


def main() -> None:
    """Run the part."""
    part = Part.from_arguments(__doc__ or "")
    whole, saved = losses(part, []), list[Path]()
    try:
        losses(part, saved, die_at=10)
    except KilledError:
        resumed = losses(part, saved)
        worst = max(abs(a - b) / abs(a) for (_, a), (_, b) in zip(whole, resumed, strict=True))
        for folder in saved:
            shutil.rmtree(folder)
        part.add("resume", {"relative_difference": worst, "losses": whole})


if __name__ == "__main__":
    main()
