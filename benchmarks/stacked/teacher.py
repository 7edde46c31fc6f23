"""The caption teacher of the sports set trained as an arm of a stack, at several learning rates side by side.

    python -m benchmarks.stacked.teacher pack runs/sports/teacher/frames FILE.npz
    python -m benchmarks.stacked.teacher train FILE.npz OUT [--steps 4000] [--rates 5e-4 1e-3 2e-3] [--batch-size 64]

The same start, frames, batches and captions as benchmarks/sports_teacher.py, which trains one on a CPU; a tenth of the training
frames is held out to choose the rate, and what is reported is of the test frames. OUT gets model/ and training.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.sports_captions import read_captions, right
from benchmarks.stacked import model, training
from benchmarks.stacked.decoding import StackedEngine
from benchmarks.stacked.texts import Texts
from leaml import prompts
from leaml.config import TrainConfig, resolve_model
from leaml.engine import Request
from leaml.training import Example, Task

START = "leaml-tiny-teacher"


def pack(frames: Path, file: Path) -> None:
    """Pixels and captions of both splits, training frames first."""
    splits = [read_captions(frames, split) for split in ("train", "test")]
    images = [np.asarray(Image.open(name).convert("RGB")) for split in splits for name in split]
    facts = json.dumps([list(split.values()) for split in splits])
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, pixels=np.stack(images).transpose(0, 3, 1, 2), facts=np.array(facts))


def train(file: Path, out: Path, config: TrainConfig, device: str, compile: bool) -> dict[str, Any]:
    """Train one arm a rate, keep the one that captions held-out frames best; returns what training.json holds."""
    with np.load(file) as found:
        pixels, (captions, tested) = torch.tensor(found["pixels"], device=device), json.loads(str(found["facts"]))
    folder = Path(resolve_model(START))
    start = model.load(folder, device)
    bench = training.Bench(
        model.Shape.of(folder), Texts(folder), pixels, compile=compile, progress=lambda line: print(line, flush=True)
    )
    every = [Example(str(n), prompts.CAPTION, text) for n, text in enumerate(captions)]
    held, used = every[::10], [e for n, e in enumerate(every) if n % 10]
    began = time.time()
    rates = config.lr if isinstance(config.lr, list) else [config.lr]
    arms = [training.Arm(start, [Task("captions", used)], config.model_copy(update={"lr": r}), 1, name=str(r)) for r in rates]
    trained = training.run(bench, arms)
    seconds = time.time() - began

    def judged(weights: list[model.Weights], rows: list[int], truths: list[str]) -> list[dict[str, float]]:
        engine = StackedEngine(model.stack(weights), bench.shape, bench.texts, pixels)
        asked = [Request(None, str(n), prompts.CAPTION, max_tokens=160) for n in rows]  # type: ignore[arg-type]
        return [right([c.text for (c,) in replies], truths) for replies in engine.generate([asked] * len(weights))]

    on_held = judged([t.weights for t in trained], [int(e.image_id) for e in held], [e.reply for e in held])
    best = max(range(len(rates)), key=lambda n: on_held[n]["all"])
    places = list(range(len(captions), len(captions) + len(tested)))
    (on_test,) = judged([trained[best].weights], places, tested)
    shutil.copytree(folder, out / "model", dirs_exist_ok=True)
    for left in ("training.json", "README.md"):
        (out / "model" / left).unlink(missing_ok=True)
    weights = {n: w.to(torch.bfloat16).cpu().contiguous() for n, w in trained[best].weights.items()}
    save_file(weights, out / "model" / "model.safetensors", {"format": "pt"})
    record = {"seconds": round(seconds), "rates": dict(zip(map(str, rates), on_held, strict=True)), "lr": rates[best]}
    record |= {"right": on_test, "config": config.model_dump(), "device": device}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["pack", "train"])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    if given.command == "pack":
        pack(given.source, given.out)
        return
    config = TrainConfig(steps=given.steps, batch_size=given.batch_size, lr=given.rates)
    print(json.dumps(train(given.source, given.out, config, given.device, given.compile)["right"]))


if __name__ == "__main__":
    main()
