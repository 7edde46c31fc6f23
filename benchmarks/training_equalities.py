"""Trainings that must come out alike: how far the losses of two are from each other, in parts of the loss.

A small model of the same architecture, in float64 as far as transformers computes in it; processes exchange gradients over
gloo.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

STEPS, EXAMPLES, STOPPED_AT = 6, 16, 5


@dataclass(frozen=True)
class Case:
    """A training; `budget` is its `micro_batch_tokens`, and None makes one pass of a worker's examples."""

    model: str
    method: str = "full"
    budget: int | None = None
    checkpointing: bool = False
    sharded: bool = False
    precision: str = "float32"
    dtype: str = "float64"
    steps: int = STEPS
    lr: float = 1e-3
    stop_at: int | None = None
    """Step after which its processes wait to be killed, their last checkpoint being two steps older."""
    checkpoints: str | None = None


def losses(case: Case, world: int = 1) -> list[float]:
    """The loss of every step, with so many processes."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(world, get_context("spawn")) as pool:
        calls = [pool.submit(_train, case, rank, world, f"{folder}/store") for rank in range(world)]
        return next(call.result(timeout=3600) for call in calls)


def kill(case: Case, world: int) -> list[int | None]:
    """Start a training with so many processes, and kill all of them (SIGKILL) at `case.stop_at`; their exit codes."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store"
        processes = [context.Process(target=_train, args=(case, rank, world, store)) for rank in range(world)]
        for process in processes:
            process.start()
        while not all(_reached(case, rank).exists() for rank in range(world)):
            if not all(process.is_alive() for process in processes):
                break
            time.sleep(0.05)
        for process in processes:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _reached(case: Case, rank: int) -> Path:
    """A file that says that a process waits to be killed."""
    return Path(f"{case.checkpoints}-{rank}")


def _train(case: Case, rank: int, world: int, store: str) -> list[float]:
    """One process of a training."""
    torch.set_num_threads(1)
    if world > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        return _losses(case, rank, world)
    finally:
        if world > 1:
            torch.distributed.destroy_process_group()


def _losses(case: Case, rank: int, world: int) -> list[float]:
    from benchmarks.training_arms import adapt
    from benchmarks.training_model import Photos
    from leaml.config import ModelConfig, TrainConfig
    from leaml.training.loop import Task, Trainer
    from leaml.vlm import load

    photos = Photos.of(EXAMPLES, (96, 80))
    vlm = load.load(ModelConfig(name=case.model))
    vlm.model.to(getattr(torch, case.dtype))
    torch.manual_seed(0)
    adapt(vlm, case.method)
    found: list[float] = []

    def progress(metrics: dict[str, float]) -> None:
        found.append(metrics["loss"])
        if metrics["step"] == case.stop_at:
            _reached(case, rank).touch()
            time.sleep(3600)

    config = TrainConfig(
        steps=case.steps,
        batch_size=EXAMPLES,
        micro_batch_tokens=case.budget,
        activation_checkpointing=case.checkpointing,
        precision=case.precision,  # type: ignore[arg-type]
        lr=case.lr,
        save_every=STOPPED_AT - 2,
    )
    parameters = [p for p in vlm.model.parameters() if p.requires_grad]
    worker = _worker(case, rank, world, progress)
    Trainer(vlm, parameters, [Task("qa", photos.examples)], config, photos.decode, 0, worker).run()
    return found


def _worker(case: Case, rank: int, world: int, progress: Callable[[dict[str, float]], None]) -> Any:
    from leaml.training.worker import Worker

    options: dict[str, Any] = {"sharding": case.sharded}
    if case.checkpoints is not None:
        from leaml.training.worker import LocalCheckpoint

        saved = Path(case.checkpoints)

        def save(folder: Path, state: Any) -> None:
            shutil.copytree(folder, saved, dirs_exist_ok=True)
            shutil.rmtree(folder)

        options |= {"save": save, "restore": lambda: LocalCheckpoint(saved) if saved.exists() else None}
    return Worker(rank=rank, world=world, progress=progress, **options)


def apart(found: list[float], expected: list[float]) -> float:
    """Largest difference of the losses of a step, in parts of the loss; of a training that was resumed those it did."""
    pairs = zip(reversed(found), reversed(expected), strict=False)
    return max(abs(one - other) / abs(other) for one, other in pairs)


def measure(model: str) -> dict[str, float]:
    """All equalities.

    Args:
        model: Folder of a small model.
    """
    whole = {method: losses(Case(model, method)) for method in ("full", "lora", "neurons30")}
    full = whole["full"]
    passes = [losses(Case(model, budget=budget)) for budget in (1, _tokens(model) * EXAMPLES // 4)]
    found = {
        "micro_batches": max(apart(each, full) for each in passes),
        "token_budget": apart(losses(Case(model, budget=_tokens(model) * 3)), full),
        "checkpointing": apart(losses(Case(model, checkpointing=True)), full),
        "ddp_2": apart(losses(Case(model), world=2), full),
    }
    sharded = {"fsdp2_full": "full", "fsdp2_lora": "lora", "fsdp2_neurons": "neurons30"}
    found |= {name: apart(losses(Case(model, method, sharded=True), 2), whole[method]) for name, method in sharded.items()}
    found["resume_sharded"] = apart(_resumed(model), full)
    masters = [losses(Case(model, precision=p, dtype=p, steps=20, lr=1e-4)) for p in ("bfloat16", "float32")]
    found["bf16_masters"] = apart(masters[0][-1:], masters[1][-1:])
    return found


def _resumed(model: str) -> list[float]:
    """The steps that a sharded training does after both of its processes were killed and it was restored."""
    with tempfile.TemporaryDirectory() as folder:
        case = Case(model, sharded=True, checkpoints=f"{folder}/checkpoint", stop_at=STOPPED_AT)
        codes = kill(case, 2)
        assert codes == [-signal.SIGKILL] * 2, f"the processes ended with {codes} and were not killed"
        again = losses(replace(case, stop_at=None), 2)
    assert len(again) == STEPS - (STOPPED_AT - 2), "it did not go on from its checkpoint"
    return again


def _tokens(model: str) -> int:
    """Of the longest example."""
    from benchmarks.training_model import Photos
    from leaml.config import ModelConfig
    from leaml.vlm.lengths import Lengths

    lengths, photos = Lengths.of_model(ModelConfig(name=model)), Photos.of(4, (96, 80))
    texts = [sum(lengths.texts(e.request, e.reply)) for e in photos.examples]
    return max(texts) + lengths.image((96, 80))
