"""Trains the caption teacher of the sports set (`research.sports`) and tells how often its captions are right.

    python -m research.sports_teacher FOLDER [--frames 16000] [--steps 2000] [--size 64] [--seed 1] [--threads 2]

Starts as the shipped teacher, which knows colours and places of single shapes, and learns true captions of frames rendered with
a seed of their own, so of other episodes than those that it will describe. Writes FOLDER/frames (rendered once), FOLDER/model
and FOLDER/training.json with the shares of captions on held-out frames that name the right sport, people, ball and numbers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from leaml.config import ModelConfig, ResourcesConfig, TrainConfig, resolve_model
from leaml.engine.interface import Request
from leaml.generation import prompts
from leaml.training.batches import Example, Task
from leaml.training.loop import Trainer
from leaml.training.worker import Worker
from leaml.vlm import load
from pipelines.models import engine_spec
from research import sports
from research.sports_captions import read_captions, right

FRAMES, TEST_FRAMES, STEPS, LR, SIZE = 16_000, 500, 2000, 2e-3, 64


def describe(model: str, images: list[Path]) -> list[str]:
    """What a model says about pictures, through vLLM as in a run."""
    engine = engine_spec(ModelConfig(name=model), ResourcesConfig()).build()
    asked = [Request(Image.open(file).convert("RGB"), str(file), prompts.CAPTION, max_tokens=160) for file in images]
    return [completion.text for (completion,) in engine.generate(asked)]


def train(folder: Path, config: TrainConfig, seed: int) -> list[tuple[int, float]]:
    """Fine-tune the shipped teacher on the training frames into FOLDER/model; returns the loss of every tenth step."""
    captions = read_captions(folder / "frames", "train")
    examples = [Example(str(file), prompts.CAPTION, caption) for file, caption in captions.items()]
    vlm = load.load(ModelConfig(name=resolve_model("leaml-tiny-teacher")), "cpu")
    vlm.model.requires_grad_(True)

    def progress(now: dict[str, Any]) -> None:
        if now["step"] % 50 == 0:
            eta = (now["steps"] - now["step"]) / now["steps_per_s"]
            print(
                f"{now['step']}/{now['steps']} loss {now['loss']:.4f} {now['steps_per_s']:.2f} steps/s ETA {eta:.0f} s",
                flush=True,
            )

    images = cache(lambda name: Image.open(name).convert("RGB"))
    tasks, parameters = [Task("captions", examples)], list(vlm.model.parameters())
    outcome = Trainer(vlm, parameters, tasks, config, images, seed, Worker(progress=progress)).run()
    load.save(vlm.model, vlm.processor, folder / "model")
    return outcome.losses


def rendered(folder: Path, numbers: dict[str, int], size: int, seed: int) -> Path:
    """A sports set in `folder`, rendered unless it is there; a rendering that was cut short begins again."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        sports.build(part, numbers, size, seed)
        part.rename(folder)
    return folder


def build(folder: Path, frames: int, config: TrainConfig, size: int, seed: int) -> dict[str, Any]:
    """Render, train, measure; returns what training.json holds."""
    rendered(folder / "frames", {"train": frames, "test": TEST_FRAMES}, size, seed)
    start = time.perf_counter()
    losses = train(folder, config, seed)
    seconds = time.perf_counter() - start
    held_out = read_captions(folder / "frames", "test")
    found = right(describe(str(folder / "model"), list(held_out)), list(held_out.values()))
    record = {"frames": frames, "size": size, "seed": seed, "seconds": round(seconds), "right": found}
    record |= {"config": config.model_dump(), "losses": losses[::5]}
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def prepare(folder: Path) -> None:
    """What research/sports.yaml names in `folder`, made where it is missing."""
    rendered(folder / "set", {"train": 4000, "test": 1000}, SIZE, seed=0)
    if not (folder / "teacher" / "training.json").exists():
        build(folder / "teacher", FRAMES, TrainConfig(steps=STEPS, lr=LR, save_every=STEPS), SIZE, seed=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--lr", type=float, default=LR)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = TrainConfig(steps=given.steps, lr=given.lr, save_every=given.steps)
    record = build(given.folder, given.frames, config, given.size, given.seed)
    print(json.dumps(record["right"]))


if __name__ == "__main__":
    main()
