"""How the workers of a training share its model: each has all of it (DDP), or a part of every weight (FSDP2).

Both sum the gradients while the backward pass goes on. A worker's loss is its part of the global batch's, so sums are wanted
where PyTorch takes means.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from leaml.errors import ModelError
from leaml.machine import SHARDED_ABOVE, free_memory
from leaml.training.prepare import float32_masters
from leaml.vlm.load import transformer_layers
from leaml.vlm.precision import Precision, compute_dtype

TRAINED_BYTES = 16
"""Of a trained weight: itself, its gradient and two moments in float32."""


class Strategy(Protocol):
    """What the loop asks of the way in which workers share a model."""

    forward: Any
    """Called instead of the model in a pass whose gradients are wanted."""

    def one_pass(self, last: bool) -> AbstractContextManager[None]:
        """Around each forward and backward pass of a step; `last`: after this one the optimizer moves."""
        ...

    def rest(self) -> None:
        """After passes without gradients."""
        ...


class Alone:
    """One worker."""

    def __init__(self, model: nn.Module) -> None:
        self.forward: Any = model

    def one_pass(self, last: bool) -> AbstractContextManager[None]:
        """Nothing is exchanged."""
        return contextlib.nullcontext()

    def rest(self) -> None:
        """Nothing is kept."""


class Replicas:
    """Every worker has the whole model; gradients are summed in buckets while earlier layers still compute theirs (DDP)."""

    def __init__(self, model: nn.Module) -> None:
        with warnings.catch_warnings():  # torch 2.13 has another name for it, which 2.11 does not know
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
            self.forward: Any = DistributedDataParallel(
                model,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=True,  # such as a tower's last norm, whose output some models do not read
            )
        self.forward.register_comm_hook(None, lambda _, bucket: _sum(bucket))

    def one_pass(self, last: bool) -> AbstractContextManager[None]:
        """Only the sums over all passes travel."""
        found: AbstractContextManager[None] = contextlib.nullcontext() if last else self.forward.no_sync()
        return found

    def rest(self) -> None:
        """Nothing is kept."""


class Shards:
    """Every worker has a part of every weight and gathers a layer's when it computes it (FSDP2).

    Gradients are summed after every pass: whole ones, to sum once a step, would take the memory that sharding saves.
    """

    def __init__(self, model: nn.Module) -> None:
        self.forward: Any = model

    def one_pass(self, last: bool) -> AbstractContextManager[None]:
        """The same for all of them."""
        return contextlib.nullcontext()

    def rest(self) -> None:
        """The weights outside the layers stay gathered until a backward pass, but may be set before there is one."""
        for module in _sharded_modules(self.forward):
            module.reshard()


def _sum(bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def _sharded_modules(model: nn.Module) -> Iterator[Any]:
    from torch.distributed.fsdp import FSDPModule

    return (module for module in model.modules() if isinstance(module, FSDPModule))


def fits(model: nn.Module, device: str, share: float) -> bool:
    """Whether each worker has the memory for the whole model, by what weights, gradients and moments take.

    Args:
        model: On the CPU, with what is trained marked by `requires_grad`.
        device: Of this worker.
        share: Of its free memory that this worker may take.

    Returns:
        The same on all workers: whether it fits all of them.
    """
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    needed = sum(p.numel() * TRAINED_BYTES if p.requires_grad else p.numel() * p.element_size() for p in model.parameters())
    free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else free_memory() + held / share
    answer = torch.tensor(int(needed <= SHARDED_ABOVE * share * free), device=device)
    distributed.all_reduce(answer, distributed.ReduceOp.MIN)
    return bool(answer)


def shard(model: nn.Module, precision: Precision, device: str) -> None:
    """Cut every weight over the workers, layer by layer, each on its way from the CPU to this worker's device.

    What is trained becomes float32 on the way, so that no worker holds more than a layer of it whole.

    Args:
        model: On the CPU; adapters are in it already.
        precision: Of the forward pass. In bfloat16 weights are gathered as such, so that frozen ones keep their type.
        device: Of this worker.

    Raises:
        ModelError: A trained weight cannot be cut.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    scalars = {name: p for name, p in model.named_parameters() if p.dim() == 0}
    if trained := sorted(name for name, p in scalars.items() if p.requires_grad):
        msg = f"the weight {trained[0]} is a single number, which FSDP2 cannot cut; train a part of the model without it"
        raise ModelError(msg)
    kind = torch.device(device).type
    mesh = init_device_mesh(kind, (distributed.get_world_size(),))
    half = compute_dtype(precision, kind) == torch.bfloat16
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if half else MixedPrecisionPolicy()
    for scalar in scalars.values():
        scalar.data = scalar.data.to(device)
    for module in (*transformer_layers(model), model):
        float32_masters([p for p in module.parameters() if not isinstance(p, DTensor)], not half)
        sharded: Any = fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=set(scalars.values()))
        sharded.set_force_sum_reduction_for_comms(True)
        sharded.set_gradient_divide_factor(1.0)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This worker's part of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be sharded; every worker calls this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather(model: nn.Module, into: nn.Module | None) -> None:
    """Give what was trained in shards to a whole model, one tensor at a time; every worker calls this.

    Args:
        model: The sharded one.
        into: Of the same modules, on the CPU; its types are kept. None on the workers that have none.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    targets = dict(into.named_parameters()) if into is not None else {}
    for name, parameter in trained.items():
        value = whole(parameter)
        if into is not None:
            targets[name].copy_(value)
