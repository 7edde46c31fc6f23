"""What the phases of the tiny models' training share: learning rate schedule, progress, checkpoints."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Idefics3ForConditionalGeneration


class Schedule:
    """AdamW with a short linear warm-up and cosine decay over `steps`; `embeddings` are trained without weight decay."""

    def __init__(self, parameters: Any, lr: float, steps: int, embeddings: nn.Parameter | None = None) -> None:
        groups = [{"params": [p for p in parameters if p is not embeddings], "weight_decay": 0.01}]
        if embeddings is not None:
            groups.append({"params": [embeddings], "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
        warm = max(1, min(100, steps // 10))
        self.scheduler = torch.optim.lr_scheduler.SequentialLR(
            self.optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.05, total_iters=warm),
                torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, steps - warm), eta_min=lr * 0.02),
            ],
            [warm],
        )
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.scheduler.step()


class Log:
    """Loss of every step; prints every fiftieth with the exact-match rate by kind since the last line, seconds and ETA."""

    def __init__(self, phase: str, steps: int) -> None:
        self.phase, self.steps, self.started = phase, steps, time.time()
        self.losses: list[float] = []
        self.rates: dict[str, list[float]] = {}

    def add(self, loss: float, rates: dict[str, list[float]]) -> None:
        self.losses.append(loss)
        for kind, values in rates.items():
            self.rates.setdefault(kind, []).extend(values)
        done = len(self.losses)
        if done % 50 == 0 or done == self.steps:
            shown = " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in sorted(self.rates.items()))
            seconds = time.time() - self.started
            eta = seconds / done * (self.steps - done)
            print(f"{self.phase} {done}/{self.steps} loss {loss:.3f} {shown} {seconds:.0f}s eta {eta:.0f}s", flush=True)
            self.rates = {}


class Phases:
    """Runs the phases of one training in order; each leaves a checkpoint, so that a killed training goes on after the last."""

    def __init__(self, out: Path, model: Idefics3ForConditionalGeneration, rng: random.Random) -> None:
        self.folder, self.model, self.rng = out / "phases", model, rng
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds = 0.0

    def run(self, name: str, train_phase: Callable[[], list[float]]) -> list[float]:
        """Losses of the phase, trained now or taken from its checkpoint."""
        file = self.folder / f"{name}.pt"
        if file.exists():
            saved = torch.load(file, weights_only=False)
            self.model.load_state_dict(saved["model"])
            self.rng.setstate(saved["rng"])
            torch.set_rng_state(saved["torch_rng"])
            self.seconds += saved["seconds"]
            return list(saved["losses"])
        began = time.time()
        losses = train_phase()
        seconds = time.time() - began
        self.seconds += seconds
        state = {"model": self.model.state_dict(), "rng": self.rng.getstate(), "torch_rng": torch.get_rng_state()}
        torch.save(state | {"losses": losses, "seconds": seconds}, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)
        return losses

    def clear(self) -> None:
        shutil.rmtree(self.folder)
