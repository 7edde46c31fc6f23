"""Small trainings: tasks about plain images, and a worker that can be killed and goes on."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from leaml.config import TrainConfig
from leaml.neurons.peft import NeuronConfig
from leaml.training.batches import Example, Task
from leaml.training.checkpoints import STATE
from leaml.training.worker import LocalCheckpoint, TrainingState, Worker
from leaml.vlm.load import VLM

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


def copy_of(vlm: VLM, dtype: torch.dtype = torch.float64) -> VLM:
    return VLM(copy.deepcopy(vlm.model).to(dtype), copy.deepcopy(vlm.processor), vlm.name)


def adapted(vlm: VLM, method: str) -> list[torch.nn.Parameter]:
    """The trained parameters, after the method's adapter has been put on the model."""
    vlm.model.requires_grad_(method == "full")
    targets = {n: list(range(0, m.out_features, 3)) for n, m in vlm.model.named_modules() if n.endswith(("up_proj", "fc1"))}
    if method == "lora":
        torch.manual_seed(3)
        vlm.model = get_peft_model(vlm.model, LoraConfig(r=4, target_modules=sorted(targets)))
    if method == "neurons":
        vlm.model = get_peft_model(vlm.model, NeuronConfig(rows=targets))
    return [p for p in vlm.model.parameters() if p.requires_grad]


class KilledError(Exception):
    pass


class Folder(LocalCheckpoint):
    """A checkpoint that tests look into."""

    def state(self) -> TrainingState:
        """Where the training was."""
        return json.loads(self.read(STATE))

    def weights(self) -> dict[str, torch.Tensor]:
        """What was trained, by name."""
        with tempfile.TemporaryDirectory() as folder:
            dcp_to_torch_save(self.folder, f"{folder}/all.pt")
            return torch.load(f"{folder}/all.pt", weights_only=True)["model"]


class Disk:
    """Keeps a training's checkpoints, as Ray Train does, with the parts of all its workers."""

    def __init__(self, folder: Path | None = None) -> None:
        self._own = None if folder else tempfile.TemporaryDirectory()
        self.folder = folder or Path(self._own.name if self._own else "")
        self.steps: list[tuple[int, int]] = []

    @property
    def saved(self) -> list[Folder]:
        return [Folder(path) for path in sorted(self.folder.glob("checkpoint-*"))]

    def worker(self, die_at: tuple[int, int] | None = None, **given: Any) -> Worker:
        """A worker that restores from here, and dies right after (phase, step) if asked to."""

        def save(folder: Path, state: TrainingState) -> None:
            name = f"checkpoint-{state['phase']:02}-{state['step']:04}"
            shutil.copytree(folder, self.folder / name, dirs_exist_ok=True)
            shutil.rmtree(folder)

        def restore() -> Folder | None:
            return self.saved[-1] if self.saved else None

        def progress(metrics: dict[str, Any]) -> None:
            self.steps.append((metrics["phase"], metrics["step"]))
            if self.steps[-1] == die_at:
                raise KilledError

        return Worker(save=save, restore=restore, progress=progress, **given)
