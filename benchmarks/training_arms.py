"""The ways of training that `benchmarks.neuron_training` compares: how each is set up, one turn of one, its peak memory."""

from __future__ import annotations

import gc
import math
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, ShiraConfig, get_peft_model
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import random_models
from leaml.neurons.peft import NeuronConfig

RATIOS = (0.01, 0.05, 0.1, 0.3)


@dataclass(frozen=True)
class Plan:
    """What all methods have in common."""

    shape: str
    device: str
    precision: str
    batch: int
    length: int
    images: int
    checkpointing: bool
    quick: bool
    threads: int
    warmup: int
    steps: int

    @property
    def dtype(self) -> torch.dtype:
        """Of all frozen weights."""
        return torch.float32 if self.precision == "float32" else torch.bfloat16

    @property
    def trained_dtype(self) -> torch.dtype:
        """Of trained parameters, their gradients and their optimizer state."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    @property
    def sizes(self) -> random_models.Shape:
        shape = random_models.SHAPES[self.shape]
        return random_models.small(shape) if self.quick else shape


@dataclass(frozen=True)
class Arm:
    """A method at a ratio; the two kinds of full fine-tuning have none, and hook masking is measured at one."""

    method: str
    ratio: float | None = None

    def __str__(self) -> str:
        return self.method if self.ratio is None else f"{self.method} {self.ratio:g}"


FULL = Arm("full")
MODULES = Arm("full_modules")
ARMS = [
    FULL,
    MODULES,
    Arm("hook_masked", 0.1),
    *(Arm(method, ratio) for ratio in RATIOS for method in ("lora", "shira", "ours")),
]


# --- the methods ---------------------------------------------------------------------------------------------------------


def prepare(arm: Arm, model: nn.Module, plan: Plan) -> nn.Module:
    """The frozen model as `arm` trains it."""
    if arm == FULL:
        return model.to(plan.trained_dtype).requires_grad_(True)
    linears = random_models.language_linears(model)
    if arm.method in ("full_modules", "hook_masked"):
        for linear in linears.values():
            linear.to(plan.trained_dtype).requires_grad_(True)
            if arm.ratio is not None:
                _mask(linear.weight, _rows(linear.out_features, arm.ratio))
        return model
    sizes = {name: (m.out_features, m.in_features) for name, m in linears.items()}
    assert arm.ratio is not None
    config = CONFIGS[arm.method](sizes, arm.ratio)
    return get_peft_model(model, config, autocast_adapter_dtype=plan.precision == "mixed")


def _rows(out_features: int, ratio: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(out_features)
    return torch.randperm(out_features, generator=generator)[: round(ratio * out_features)].sort().values


def _mask(weight: torch.Tensor, rows: torch.Tensor) -> None:
    mask = torch.zeros(len(weight), 1, device=weight.device, dtype=weight.dtype)
    mask[rows.to(weight.device)] = 1

    def masked(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.mul_(mask)

    weight.register_post_accumulate_grad_hook(masked)


def _wanted(sizes: dict[str, tuple[int, int]], ratio: float) -> int:
    return sum(round(ratio * out) * width for out, width in sizes.values())


def _lora(sizes: dict[str, tuple[int, int]], ratio: float) -> LoraConfig:
    """Every module's own count of parameters, rounded down to a rank, then up where most was lost, until the total is met."""
    exact = {name: ratio * out * width / (out + width) for name, (out, width) in sizes.items()}
    ranks = {name: max(1, math.floor(rank)) for name, rank in exact.items()}
    missing = _wanted(sizes, ratio) - sum(ranks[name] * sum(sizes[name]) for name in sizes)
    for name in sorted(sizes, key=lambda name: exact[name] % 1, reverse=True):
        if missing >= sum(sizes[name]) / 2:
            ranks[name] += 1
            missing -= sum(sizes[name])
    return LoraConfig(r=1, lora_alpha=16, rank_pattern=ranks, target_modules=list(ranks))


def _shira(sizes: dict[str, tuple[int, int]], ratio: float) -> ShiraConfig:
    rank = max(1, round(_wanted(sizes, ratio) / sum(map(sum, sizes.values()))))
    config = ShiraConfig(r=rank, target_modules=list(sizes))
    config.mask_fn = _random_mask
    torch.sparse.check_sparse_tensor_invariants.disable()  # the default; said aloud, torch does not warn of it
    return config


def _random_mask(base_layer: nn.Linear, r: int, **_: Any) -> torch.Tensor:
    """As PEFT's own, but on the device: drawn on the CPU, the masks of 2 B weights take a minute."""
    weight = base_layer.weight
    mask = torch.zeros(weight.numel(), device=weight.device, dtype=weight.dtype)
    mask[torch.randperm(weight.numel(), device=weight.device)[: r * sum(weight.shape)]] = 1
    return mask.view_as(weight)


def _ours(sizes: dict[str, tuple[int, int]], ratio: float) -> NeuronConfig:
    return NeuronConfig(rows={name: _rows(out, ratio) for name, (out, _) in sizes.items()})


CONFIGS = {"lora": _lora, "shira": _shira, "ours": _ours}


# --- one turn of a method ------------------------------------------------------------------------------------------------


@dataclass
class Turn:
    """What one method took in one round."""

    seconds: float
    parameters: int
    state_bytes: int
    peak_bytes: int | None
    flops: int | None


def turn(arm: Arm, plan: Plan, count: bool = False) -> Turn:
    """Make the model, warm up, time the steps; `count` counts FLOPs before."""
    cuda = plan.device == "cuda"
    model: Any = prepare(arm, random_models.build(plan.sizes, plan.device, plan.dtype), plan)
    batch = random_models.random_batch(plan.sizes, plan.batch, plan.length, plan.images, plan.device, plan.dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if wrong := {p.dtype for p in parameters} - {plan.trained_dtype}:
        msg = f"{arm} trains parameters of {wrong}, which is not the precision of the others, {plan.trained_dtype}"
        raise RuntimeError(msg)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0)
    flops = count_flops(model, batch, plan) if count else None
    if plan.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    taken = []
    for _ in range(plan.warmup + plan.steps):
        began = time.perf_counter()
        step(model, batch, parameters, optimizer, plan)
        if cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return Turn(
        statistics.median(taken[plan.warmup :]),
        sum(p.numel() for p in parameters),
        state_bytes(parameters, optimizer),
        torch.cuda.max_memory_allocated() if cuda else None,
        flops,
    )


def _loss(model: nn.Module, batch: dict[str, torch.Tensor], plan: Plan) -> torch.Tensor:
    with torch.autocast(plan.device, torch.bfloat16, enabled=plan.precision == "mixed"):
        return model(**batch, use_cache=False).loss


def step(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    plan: Plan,
) -> None:
    """One training step; gradients stay until the next."""
    optimizer.zero_grad(set_to_none=True)
    _loss(model, batch, plan).backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def state_bytes(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Bytes of gradients and of optimizer state, with the step counter that AdamW holds for every parameter."""
    gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    return gradients + sum(value.nbytes for state in optimizer.state.values() for value in state.values())


def count_flops(model: nn.Module, batch: dict[str, torch.Tensor], plan: Plan) -> int:
    """FLOPs of forward and backward on the whole batch."""
    one = {name: value[:1] for name, value in batch.items()}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused attention is not counted on a CPU
        _loss(model, one, plan).backward()
    model.zero_grad(set_to_none=True)
    return int(counter.get_total_flops()) * plan.batch


# --- peak memory on a CPU ------------------------------------------------------------------------------------------------


def _resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (the most so far) of this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _grown(arm: Arm, plan: Plan) -> int:
    """Body of a process of its own: by how much its largest resident set grows while `arm` takes two steps."""
    torch.set_num_threads(plan.threads)
    turn(arm, replace(plan, quick=True, batch=1, warmup=0, steps=1))  # what is loaded at first use is no cost of the method
    gc.collect()
    before = _resident("VmRSS")
    turn(arm, replace(plan, warmup=0, steps=2))
    return _resident("VmHWM") - before


def peak_in_new_process(arm: Arm, plan: Plan) -> int:
    """Peak bytes of two steps of `arm`, measured in a new process. Linux only."""
    context = get_context("forkserver")  # its server imports everything once, and has no memory of other methods
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_grown, arm, plan).result()
