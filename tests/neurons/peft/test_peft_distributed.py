"""Two processes with gloo train as one does: DDP, and FSDP2 with every parameter sharded."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import Net, adapted, data, net, trainable
from peft import PeftModel
from torch import distributed, multiprocessing, nn

from leaml.errors import ModelError
from leaml.neurons.peft import NeuronConfig

WORLD, STEPS, TIMEOUT = 2, 4, 120.0
ROWS = {"layers.0": [1, 4, 7], "layers.1": [0, 5], "head": [2]}
COLUMNS = {"layers.1": [2, 3], "head": [6]}


def steps(model: nn.Module, rank: int, world: int, parameters: list[nn.Parameter]) -> list[float]:
    """Losses of a few steps on this rank's share of every batch."""
    optimizer, losses = torch.optim.AdamW(parameters, lr=0.02), []
    for step in range(STEPS):
        inputs, targets = data(step)
        inputs, targets = inputs[:4, 0][rank::world], targets[:4][rank::world]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_ddp(rank: int) -> dict[str, Any]:
    from torch.nn.parallel import DistributedDataParallel

    model = adapted(net(), ROWS, columns=COLUMNS)
    losses = steps(DistributedDataParallel(model), rank, WORLD, trainable(model))
    return {"losses": losses, "state": model.state_dict()}


def train_fsdp(rank: int, folder: str) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = adapted(net(), ROWS, columns=COLUMNS)
    mesh = init_device_mesh("cpu", (WORLD,))
    for module in (*model.base_model.model.layers, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    local = {n: tuple(p.to_local().shape) for n, p in model.named_parameters() if "neuron_delta" in n}
    losses = steps(model, rank, WORLD, trainable(model))
    with model.disable_adapter(), torch.no_grad():
        disabled = model(data(0)[0])
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    model.save_pretrained(folder, state_dict=state, is_main_process=rank == 0)
    return {"losses": losses, "state": state, "disabled": disabled, "local": local, "refused": list(refusals(model))}


def refusals(sharded: PeftModel) -> Iterator[str]:
    """What is said to those who merge shards, or put an adapter on them."""
    for attempt in (sharded.merge_adapter, lambda: sharded.add_adapter("late", NeuronConfig(rows=ROWS))):
        try:
            attempt()
        except ModelError as error:
            yield str(error)


def body(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    distributed.init_process_group("gloo", rank=rank, world_size=WORLD)
    torch.save({"ddp": train_ddp(rank), "fsdp": train_fsdp(rank, f"{folder}/adapter")}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """What both processes found, and the folder of the adapter that the sharded ones saved."""
    folder = tmp_path_factory.mktemp("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = multiprocessing.spawn(body, (port, str(folder)), nprocs=WORLD, join=False)
    deadline = time.monotonic() + TIMEOUT
    try:
        while not processes.join(max(0.1, deadline - time.monotonic())):  # returns as soon as one has ended
            assert time.monotonic() < deadline, "the processes did not finish in time"
    finally:
        for process in processes.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)], folder / "adapter"


@pytest.fixture(scope="module")
def alone() -> tuple[list[float], PeftModel]:
    model = adapted(net(), ROWS, columns=COLUMNS)
    return steps(model, 0, 1, trainable(model)), model


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_train_as_one(found: Any, alone: Any, way: str) -> None:
    ranks, _ = found
    losses, model = alone
    mean = [sum(parts) / WORLD for parts in zip(*(r[way]["losses"] for r in ranks), strict=True)]
    assert mean == pytest.approx(losses, rel=1e-10)
    expected, start = model.state_dict(), adapted(net(), ROWS, columns=COLUMNS).state_dict()
    for name, value in ranks[0][way]["state"].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11, msg=name)
        assert torch.equal(value, start[name]) == ("neuron_" not in name)
    if way == "ddp":
        assert all(torch.equal(value, ranks[1][way]["state"][name]) for name, value in ranks[0][way]["state"].items())


def test_rows_are_sharded_and_the_disabled_adapter_is_the_base(found: Any) -> None:
    local = [{n.split(".")[-3]: shape for n, shape in r["fsdp"]["local"].items()} for r in found[0]]
    assert local == [{"0": (2, 6), "1": (1, 8), "head": (1, 8)}, {"0": (1, 6), "1": (1, 8), "head": (0, 8)}]
    with torch.no_grad():
        assert all(torch.equal(r["fsdp"]["disabled"], net()(data(0)[0])) for r in found[0])


def test_shards_are_neither_merged_nor_given_adapters(found: Any) -> None:
    merging, adding = found[0][0]["fsdp"]["refused"]
    assert "sharded base cannot be merged" in merging
    assert "is sharded already; call get_peft_model first, then fully_shard" in adding


def test_adapter_saved_from_shards_loads_in_one_process(found: Any, alone: Any) -> None:
    _, folder = found
    loaded, inputs = PeftModel.from_pretrained(net(), folder), data(9)[0]
    torch.testing.assert_close(loaded(inputs), alone[1](inputs), rtol=1e-9, atol=1e-11)
    assert isinstance(loaded.merge_and_unload(), Net)
