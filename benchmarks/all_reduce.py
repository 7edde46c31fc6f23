"""Bytes that workers exchange in a training step: selected rows beside LoRA of as many weights and full fine-tuning.

    python -m benchmarks.all_reduce [--shape 135m] [--workers 2] [--steps 3] [--quick] [--json FILE]

Workers are processes that sum random gradients of every method's trained parameters with the training loop's own
`leaml.training.loop.sum_gradients` over gloo on the loopback interface. `bytes_all_reduced` is what a worker hands over in
a step; `bytes_on_wire` what the loopback interface carried, by the kernel's counter, so keep the machine quiet; `seconds` is
the slowest worker's median step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch

from benchmarks import random_models
from benchmarks.neuron_training import hardware
from benchmarks.training_arms import FULL, MODULES, Arm, Plan, prepare
from leaml.training.loop import sum_gradients

ARMS = [FULL, MODULES, *(Arm(method, ratio) for ratio in (0.01, 0.1, 0.3) for method in ("lora", "ours"))]


def loopback() -> int:
    """Bytes that the loopback interface has sent since the machine started."""
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def work(rank: int, world: int, store: str, arms: list[Arm], plan: Plan) -> list[dict[str, Any]]:
    """One worker's numbers of every method."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(plan.threads)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        return [turn(arm, plan) for arm in arms]
    finally:
        torch.distributed.destroy_process_group()


def turn(arm: Arm, plan: Plan) -> dict[str, Any]:
    """`plan.steps` sums of one method's gradients."""
    model: Any = prepare(arm, random_models.build(plan.sizes, plan.device, plan.dtype), plan)
    parameters = [p for p in model.parameters() if p.requires_grad]
    handed: list[int] = []
    carried, seconds = [], []
    all_reduce = torch.distributed.all_reduce

    def counted(tensor: torch.Tensor) -> None:
        handed.append(tensor.nbytes)
        all_reduce(tensor)

    for step in range(plan.warmup + plan.steps):
        generator = torch.Generator().manual_seed(step * 1009 + torch.distributed.get_rank())
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        torch.distributed.barrier()
        before, began = loopback(), time.perf_counter()
        with mock.patch.object(torch.distributed, "all_reduce", counted):
            sum_gradients(parameters)
        seconds.append(time.perf_counter() - began)
        torch.distributed.barrier()
        carried.append(loopback() - before)
    first = parameters[0].grad
    assert first is not None
    return {
        "parameters": sum(p.numel() for p in parameters),
        "bytes_all_reduced": statistics.median(handed[plan.warmup :]),
        "bytes_on_wire": statistics.median(carried[plan.warmup :]),
        "seconds": statistics.median(seconds[plan.warmup :]),
        "checksum": float(first.double().sum()),
    }


def measure(arms: list[Arm], plan: Plan, world: int) -> dict[str, dict[str, Any]]:
    """The numbers of every method. Raises RuntimeError when the workers end with different gradients."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(world, get_context("spawn")) as pool:
        calls = [pool.submit(work, rank, world, f"{folder}/store", arms, plan) for rank in range(world)]
        ranks = [call.result(timeout=1800) for call in calls]
    found = {}
    for arm, *turns in zip(arms, *ranks, strict=True):
        if len({one["checksum"] for one in turns}) > 1:
            msg = f"{arm}: the workers have different sums"
            raise RuntimeError(msg)
        numbers = {k: v for k, v in turns[0].items() if k != "checksum"}
        found[str(arm)] = numbers | {"seconds": max(one["seconds"] for one in turns)}
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """The numbers as Markdown, ratios first."""
    full = found[str(FULL)]
    lines = [
        "| | all-reduced / full | on the wire / full | time / full | MB all-reduced | MB on the wire | s |",
        "|---" * 7 + "|",
    ]
    for name, one in found.items():
        ratios = [one[key] / full[key] for key in ("bytes_all_reduced", "bytes_on_wire", "seconds")]
        sizes = [one[key] / 1e6 for key in ("bytes_all_reduced", "bytes_on_wire")]
        cells = [*(f"{r:.3f}" for r in ratios), *(f"{size:.2f}" for size in sizes), f"{one['seconds']:.3f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(random_models.SHAPES), default="135m")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small model of the same architecture")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    plan = Plan(given.shape, "cpu", "float32", 1, 16, 1, False, given.quick, 1, 1, given.steps)
    found = measure(ARMS, plan, given.workers)
    print(table(found))
    if given.json:
        facts = {"model": plan.sizes.about, "workers": given.workers, "hardware": hardware("cpu")}
        given.json.write_text(json.dumps(found | facts | {"date": time.strftime("%Y-%m-%d")}, indent=1) + "\n")


if __name__ == "__main__":
    main()
