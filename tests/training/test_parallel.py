"""Several processes train as one does: with the whole model each (DDP), and with a part of every weight each (FSDP2)."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import worker_group
from torch import distributed
from training_runs import CONFIG, Disk, adapted, copy_of, get_image, mixture

from leaml.training import parallel
from leaml.training.loop import Trainer, Worker
from leaml.vlm.load import VLM

Weights = dict[str, torch.Tensor]

CHANGES = {"steps": 6, "batch_size": 8, "lr": 1e-4, "save_every": 2, "weight_decay": 0.05, "micro_batch_tokens": 150}


def trained(vlm: VLM) -> Weights:
    return {name: p.detach().clone() for name, p in vlm.model.named_parameters() if p.requires_grad}


def train(vlm: VLM, method: str, worker: Worker, **changes: Any) -> tuple[list[float], Trainer]:
    config = CONFIG.model_copy(update={**CHANGES, **changes})
    trainer = Trainer(vlm, adapted(vlm, method), mixture(), config, get_image, 1, worker)
    return [loss for _, loss in trainer.run().losses], trainer


def member(rank: int, tiny: VLM, method: str, folder: Path, killed_at: int | None, given: dict[str, Any]) -> dict[str, Any]:
    """A training by this process and the others of its group; the last one kills itself after a step."""
    world = distributed.get_world_size()
    worker = Disk(folder).worker(rank=rank, world=world, **given)

    def kill(metrics: dict[str, float]) -> None:
        if metrics["step"] == killed_at and rank == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    if killed_at:
        worker.progress = kill
    vlm, whole = copy_of(tiny), copy_of(tiny)
    losses, trainer = train(vlm, method, worker)
    held = {name: parallel.local(p).numel() for name, p in vlm.model.named_parameters()}
    if trainer.sharded:
        adapted(whole, method)
        parallel.gather(vlm.model, whole.model if rank == 0 else None)
    return {"losses": losses, "held": held, "weights": trained(whole if trainer.sharded else vlm)}


@pytest.mark.parametrize("sharding", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("method", ["full", "lora", "neurons"])
def test_two_workers_train_as_one_though_one_of_them_was_killed(tiny: VLM, method: str, sharding: bool, tmp_path: Path) -> None:
    """With micro-batches; killed after step 5, resumed from its last checkpoint."""
    alone, start = copy_of(tiny), copy_of(tiny)
    adapted(start, method)
    losses, _ = train(alone, method, Worker())
    expected, before = trained(alone), trained(start)

    given = {"sharding": sharding, "writes_beside": sharding}
    dead = worker_group.run(2, member, tiny, method, tmp_path, 5, given)
    assert dead[1] is None
    # the one of step 4 was being written beside step 5, and what was not handed on is not taken
    assert [each.state()["step"] for each in Disk(tmp_path).saved] == ([2] if sharding else [2, 4])
    found = worker_group.run(2, member, tiny, method, tmp_path, None, given)

    assert found[0]["losses"] == pytest.approx(losses, rel=1e-6)
    assert found[1]["losses"] == found[0]["losses"]
    assert found[0]["weights"].keys() == expected.keys()
    moved = torch.cat([(expected[name] - before[name]).flatten() for name in expected])
    gone = torch.cat([(found[0]["weights"][name] - before[name]).flatten() for name in expected])
    assert moved.abs().max() > 1e-4
    assert (gone - moved).norm() < 1e-5 * moved.norm()  # parts of transformers compute in float32 whatever the weights are

    sizes = {name: p.numel() for name, p in alone.model.named_parameters()}
    if not sharding:
        assert all(each["held"] == sizes for each in found)
        return
    assert {name: found[0]["held"][name] + found[1]["held"][name] for name in sizes} == sizes
    assert sum(found[0]["held"].values()) < 0.52 * sum(sizes.values())
