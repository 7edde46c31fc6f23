"""Several processes train as one does: with the whole model each (DDP), and with a part of every weight each (FSDP2)."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import worker_group
from torch import distributed
from training_runs import CONFIG, Disk, adapted, copy_of, get_image, mixture, questions

from leaml.config import ModelConfig
from leaml.training import loop, parallel
from leaml.training.loop import Outcome, Trainer
from leaml.training.worker import Worker
from leaml.vlm import load
from leaml.vlm.load import VLM

Weights = dict[str, torch.Tensor]

CHANGES = {"steps": 6, "batch_size": 8, "lr": 1e-4, "save_every": 2, "weight_decay": 0.05, "micro_batch_tokens": 150}


def trained(vlm: VLM) -> Weights:
    return {name: p.detach().clone() for name, p in vlm.model.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class Given:
    """What a training by several processes is told."""

    method: str
    folder: Path
    sharding: bool
    beside: bool = False
    killed_at: tuple[int, int] | None = None
    """Phase and step after which the last process kills itself."""
    changes: dict[str, Any] = field(default_factory=dict)
    held_out: int = 0


def train(vlm: VLM, given: Given, worker: Worker) -> tuple[Outcome, Trainer]:
    config = CONFIG.model_copy(update={**CHANGES, **given.changes})
    tasks = [*mixture()[:1], questions(10, held_out=given.held_out)]
    trainer = Trainer(vlm, adapted(vlm, given.method), tasks, config, get_image, 1, worker)
    return trainer.run(), trainer


def member(rank: int, start: VLM, given: Given) -> dict[str, Any]:
    """A training by this process and the others of its group."""
    world = distributed.get_world_size()
    worker = Disk(given.folder).worker(rank=rank, world=world, sharding=given.sharding, writes_beside=given.beside)

    def kill(metrics: dict[str, float]) -> None:
        if (metrics["phase"], metrics["step"]) == given.killed_at and rank == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    worker.progress = kill
    dtype = next(start.model.parameters()).dtype
    vlm, whole = copy_of(start, dtype), copy_of(start, dtype)
    outcome, trainer = train(vlm, given, worker)
    held = {name: parallel.local(p).numel() for name, p in vlm.model.named_parameters()}
    if trainer.sharded:
        adapted(whole, given.method)
        parallel.gather(vlm.model, whole.model if rank == 0 else None)
    return {"outcome": outcome, "held": held, "weights": trained(whole if trainer.sharded else vlm)}


def moved(weights: Weights, start: VLM, method: str) -> torch.Tensor:
    """How far each trained weight is from where it began."""
    vlm = copy_of(start)
    adapted(vlm, method)
    before = trained(vlm)
    assert weights.keys() == before.keys()
    return torch.cat([(weights[name] - before[name]).flatten() for name in before])


def same(found: Weights, expected: Weights, start: VLM, method: str) -> None:
    """Parts of transformers compute in float32 whatever the weights are; AdamW enlarges what that does to small gradients."""
    gone, right = moved(found, start, method), moved(expected, start, method)
    assert right.abs().max() > 1e-4
    assert (gone - right).norm() < 2e-4 * right.norm()


@pytest.mark.parametrize("sharding", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("method", ["full", "lora", "neurons"])
def test_two_workers_train_as_one_though_one_of_them_was_killed(tiny: VLM, method: str, sharding: bool, tmp_path: Path) -> None:
    """With micro-batches; killed after step 5, resumed from its last checkpoint."""
    alone = copy_of(tiny)
    expected, _ = train(alone, Given(method, tmp_path, sharding), Worker())
    given = Given(method, tmp_path, sharding, beside=sharding, killed_at=(0, 5))
    assert worker_group.run(2, member, tiny, given)[1] is None
    # the one of step 4 was being written beside step 5, and what was not handed on is not taken
    assert [each.state()["step"] for each in Disk(tmp_path).saved] == ([2] if sharding else [2, 4])

    found = worker_group.run(2, member, tiny, replace(given, killed_at=None))
    losses = [loss for _, loss in expected.losses]
    assert [loss for _, loss in found[0]["outcome"].losses] == pytest.approx(losses, rel=1e-6)
    assert found[1]["outcome"].losses == found[0]["outcome"].losses
    same(found[0]["weights"], trained(alone), tiny, method)
    sizes = {name: p.numel() for name, p in alone.model.named_parameters()}
    if not sharding:
        assert all(each["held"] == sizes for each in found)
        return
    assert {name: found[0]["held"][name] + found[1]["held"][name] for name in sizes} == sizes
    assert sum(found[0]["held"].values()) < 0.52 * sum(sizes.values())


def staged(rank: int, start: VLM, given: Given) -> list[int]:
    """Bytes that this process copies for each of its checkpoints, which are written beside the next steps."""
    from torch.distributed import checkpoint
    from torch.utils import _pytree

    copied: list[int] = []
    save = checkpoint.async_save

    def watched(tensors: dict[str, Any], **options: Any) -> Any:
        leaves = [leaf for leaf in _pytree.tree_leaves(tensors) if isinstance(leaf, torch.Tensor)]
        copied.append(sum(parallel.local(leaf).nbytes for leaf in leaves))
        return save(tensors, **options)

    checkpoint.async_save = watched
    member(rank, start, given)
    return copied


@pytest.mark.parametrize("sharding", [False, True], ids=["ddp", "fsdp2"])
def test_the_workers_of_a_node_copy_what_is_trained_once_among_them(tiny: VLM, tmp_path: Path, sharding: bool) -> None:
    """Each of eight workers with all of a 7 B model would copy 84 GB of it."""
    found = worker_group.run(2, staged, tiny, Given("full", tmp_path, sharding, beside=True))
    whole = 3 * sum(p.nbytes for p in tiny.model.parameters())  # weights and two moments
    each = [sum(copied) / len(copied) for copied in found]
    assert sum(each) == pytest.approx(whole, rel=0.01)
    assert max(each) < 0.7 * whole
    parts = {file.name: file.stat().st_size for file in Disk(tmp_path).saved[-1].folder.glob("*.distcp")}
    assert {name.split("_")[2] for name in parts} == {"0", "1"}  # a part of each rank
    assert sum(parts.values()) == pytest.approx(whole, rel=0.1)


def test_a_sweep_in_shards_is_finished_by_one_process(tiny: VLM, tmp_path: Path) -> None:
    """Three workers with layers computed again try two rates and die in the final phase; one that has all goes on."""
    changes = {"lr": [1e-7, 1e-3], "activation_checkpointing": True, "batch_size": 6, "micro_batch_tokens": None}
    given = Given("full", tmp_path, sharding=True, killed_at=(2, 5), changes=changes, held_out=5)
    alone, last = copy_of(tiny), copy_of(tiny)
    expected, _ = train(alone, given, Worker())
    assert worker_group.run(3, member, tiny, given)[2] is None
    assert Disk(tmp_path).saved[-1].state()["phase"] == 2
    found, _ = train(last, given, Disk(tmp_path).worker())
    assert found.lr == expected.lr == 1e-3
    for one, other in zip(found.sweep, expected.sweep, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    same(trained(last), trained(alone), tiny, "full")


@pytest.mark.parametrize("method", ["full", "neurons"])
def test_bfloat16_in_shards_has_float32_masters(tiny: VLM, tmp_path: Path, method: str) -> None:
    changes = {"lr": 1e-5, "steps": 12}
    half = copy_of(tiny, torch.bfloat16)
    expected, _ = train(copy_of(half, torch.float32), Given(method, tmp_path, sharding=False, changes=changes), Worker())
    given = Given(method, tmp_path, sharding=True, changes=changes | {"precision": "bfloat16"})
    found = worker_group.run(2, member, half, given)[0]
    assert found["outcome"].losses[-1][1] == pytest.approx(expected.losses[-1][1], rel=0.02)
    saved = Disk(tmp_path).saved[-1].weights()
    assert saved.keys() == found["weights"].keys()
    assert {value.dtype for value in saved.values()} == {torch.float32}
    if method == "full":
        start = half.model.state_dict()
        changed = torch.cat([(value != start[name].float()).flatten() for name, value in saved.items()])
        assert changed.double().mean() > 0.9


ARCHITECTURES = ["smolvlm2", "qwen2_5_vl", "qwen3_vl_moe", "internvl", "paligemma"]


def of_architectures(rank: int, zoo: Path, names: list[str]) -> dict[str, list[tuple[int, float]]]:
    """Losses of short trainings in shards by this process and the others of its group."""
    world = distributed.get_world_size()
    return {name: short(zoo / name, Worker(rank=rank, world=world, sharding=True)) for name in names}


def short(folder: Path, worker: Worker) -> list[tuple[int, float]]:
    vlm = load.load(ModelConfig(name=str(folder), dtype="float32"))
    vlm.model.requires_grad_(True)
    changes = {"steps": 2, "lr": 1e-4, "activation_checkpointing": True}
    config = CONFIG.model_copy(update=changes)
    return Trainer(vlm, list(vlm.model.parameters()), [questions(5)], config, get_image, 1, worker).run().losses


@pytest.mark.skipif(find_spec("torchvision") is None, reason="the processors of most of these models need torchvision")
def test_real_architectures_train_in_shards_as_whole(shared_folder: Path) -> None:
    zoo = shared_folder / "zoo"
    found = worker_group.run(2, of_architectures, zoo, ARCHITECTURES)[0]
    for name in ARCHITECTURES:
        alone = [loss for _, loss in short(zoo / name, Worker())]
        assert [loss for _, loss in found[name]] == pytest.approx(alone, rel=1e-6), name


def alone_beside_nccl(rank: int, start: VLM, folder: Path) -> list[str]:
    """One worker whose default group has no backend for the CPU, as Ray makes it for one GPU."""
    distributed.destroy_process_group()
    distributed.init_process_group("cuda:gloo", init_method=f"file://{folder}/alone", rank=0, world_size=1)
    disk = Disk(folder)
    trainer = Trainer(
        start,
        adapted(start, "full"),
        [questions(10)],
        CONFIG.model_copy(update={**CHANGES, "steps": 3}),
        get_image,
        1,
        disk.worker(writes_beside=True),
    )
    trainer.run()
    return sorted(saved.name for saved in folder.glob("checkpoint-*"))


def test_one_worker_with_a_group_for_gpus_alone_writes_beside_its_steps(tiny: VLM, tmp_path: Path) -> None:
    """After the last step too, from where a failed writing of the model goes on."""
    (saved,) = worker_group.run(1, alone_beside_nccl, copy_of(tiny), tmp_path)
    assert saved == ["checkpoint-00-0002", "checkpoint-00-0003"]


def trained_by_one(rank: int, start: VLM, folder: Path) -> list[int]:
    """How many weights the budget of a micro-batch takes for trained, and how many the model has."""
    counts: list[int] = []
    loop.token_budget = lambda once, tokens, trained, *rest: counts.append(trained)  # type: ignore[assignment]
    every = sum(p.numel() for p in start.model.parameters())
    given = Given("full", folder, sharding=True, changes={"micro_batch_tokens": "auto", "steps": 1})
    train(start, given, Disk(folder).worker(rank=rank, world=2, sharding=True))
    return [*counts, every]


def test_the_budget_of_a_worker_counts_its_own_part_of_what_is_trained(tiny: VLM, tmp_path: Path) -> None:
    for counts in worker_group.run(2, trained_by_one, copy_of(tiny), tmp_path):
        *trained, every = counts
        assert trained and all(0.4 * every < one < 0.6 * every for one in trained)
