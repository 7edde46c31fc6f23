"""What a training step costs with neuron adapters, beside full fine-tuning, LoRA, SHiRA and gradients masked by a hook.

    python -m benchmarks.neuron_training [--json FILE]                   # SmolLM2-135M's shape in float32, all cores of the CPU
    python -m benchmarks.neuron_training --device cuda [--json FILE]     # a VLM of 2.2 B parameters with images in bfloat16

A step is forward, backward, gradient clipping and torch's AdamW (its own choice of implementation, no weight decay), the same
for all methods. So are the model (random weights, same seed), the batch, the precision and, but for the first, the modules: all
Linears in the layers of the language model, with embeddings, norms, head, vision tower and connector frozen. Neurons are random
rows, as which rows are trained does not change the cost.

    full          full fine-tuning as it is usually meant: every weight of the model
    full_modules  full fine-tuning of those modules alone
    hook_masked   the same, dense gradients masked by a hook, as sparse training is usually written; costs the same at any ratio
    lora          PEFT LoRA, rank by module so that all of them together have as many parameters as the rows
    shira         PEFT SHiRA, which has one rank for all modules: the one whose number of parameters is nearest
    ours          NeuronConfig with ratio x out_features rows of every module

Time: the methods take turns, every turn with a newly made model, a step or more to warm up, then timed steps (their median
counts), round by round, every other round in reverse. Ratios are taken within a round; median, smallest and largest over the
rounds are reported. Peak memory (weights, gradients, optimizer, activations): on a GPU the allocator's; on a CPU the growth of
the largest resident set of a new process that makes the model and takes two steps (Linux). State: bytes of gradients and
optimizer state. FLOPs: 2 per multiply-add of all matrix products and of attention in the forward and backward pass, counted by
torch's FlopCounterMode on one row of the batch without checkpointing, times the rows; MFU is FLOPs / seconds / the peak below.
Precision "bfloat16": weights, trained parameters and optimizer state alike; "mixed": trained parameters in float32, all else in
bfloat16, under autocast.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from benchmarks import random_models
from benchmarks.training_arms import ARMS, FULL, MODULES, RATIOS, Arm, Plan, Turn, peak_in_new_process, turn

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
"""Dense bfloat16 products of NVIDIA's data sheets, without sparsity, by part of the device's name."""


# --- all methods ---------------------------------------------------------------------------------------------------------


class Progress:
    """A line for everything done, with what is left."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began = total, 0, time.monotonic()

    def __call__(self, what: str) -> None:
        self.done += 1
        passed = time.monotonic() - self.began
        left = passed / self.done * (self.total - self.done)
        print(f"[{self.done}/{self.total}, {passed:.0f} s, about {left:.0f} s left] {what}", file=sys.stderr, flush=True)


def measure(plan: Plan, rounds: int) -> tuple[dict[Arm, list[Turn]], dict[Arm, int]]:
    """Turns by round, and peak bytes, of every method."""
    cuda = plan.device == "cuda"
    progress = Progress(len(ARMS) * (rounds + (not cuda)))
    peaks: dict[Arm, int] = {}
    for arm in ARMS if not cuda else ():
        peaks[arm] = peak_in_new_process(arm, plan)
        progress(f"peak memory of {arm}: {peaks[arm] / 2**30:.2f} GiB")
    turns: dict[Arm, list[Turn]] = {arm: [] for arm in ARMS}
    for number in range(rounds):
        for arm in reversed(ARMS) if number % 2 else ARMS:
            turns[arm].append(turn(arm, plan, count=number == 0))
            gc.collect()
            if cuda:
                torch.cuda.empty_cache()
            progress(f"round {number + 1} of {rounds}, {arm}: {turns[arm][-1].seconds:.3f} s per step")
    for arm in ARMS if cuda else ():
        peaks[arm] = max(t.peak_bytes or 0 for t in turns[arm])
    return turns, peaks


def entry(arm: Arm, plan: Plan, turns: dict[Arm, list[Turn]], peaks: dict[Arm, int], weights: int, peak: float | None) -> Any:
    """All numbers of one method: ratios to both kinds of full fine-tuning and to LoRA of its size, then absolute."""
    seconds = statistics.median(t.seconds for t in turns[arm])
    first, full = turns[arm][0], turns[FULL][0]
    flops, full_flops = first.flops or 0, full.flops or 1
    found: dict[str, Any] = {}
    others = {"full": FULL, "full_modules": MODULES} | ({"lora": Arm("lora", arm.ratio)} if arm.ratio is not None else {})
    for name, other in others.items():
        ratios = [mine.seconds / theirs.seconds for mine, theirs in zip(turns[arm], turns[other], strict=True)]
        found[f"step_time_vs_{name}"] = round(statistics.median(ratios), 4)
        found[f"step_time_vs_{name}_range"] = [round(min(ratios), 4), round(max(ratios), 4)]
        found[f"peak_memory_vs_{name}"] = round(peaks[arm] / peaks[other], 4)
    return found | {
        "state_bytes_vs_full": round(first.state_bytes / full.state_bytes, 5),
        "state_bytes_vs_full_modules": round(first.state_bytes / turns[MODULES][0].state_bytes, 5),
        "flops_vs_full": round(flops / full_flops, 4),
        "step_s": round(seconds, 4),
        "step_s_range": [round(pick(t.seconds for t in turns[arm]), 4) for pick in (min, max)],
        "tokens_per_s": round(plan.batch * plan.length / seconds, 1),
        "peak_bytes": peaks[arm],
        "peak_gib": round(peaks[arm] / 2**30, 3),
        "peak_above_weights_bytes": peaks[arm] - weights,
        "state_bytes": first.state_bytes,
        "trained_parameters": first.parameters,
        "flops_per_step": flops,
        "tflops_per_s": round(flops / seconds / 1e12, 3),
        "mfu": round(flops / seconds / (peak * 1e12), 4) if peak else None,
    }


# --- the report ----------------------------------------------------------------------------------------------------------


def result(plan: Plan, rounds: int, peak: float | None) -> dict[str, Any]:
    """Measure everything; the JSON object, with one entry for each of the first two methods and one by ratio for the others."""
    turns, peaks = measure(plan, rounds)
    model = random_models.build(plan.sizes, "meta", plan.dtype)
    weights = sum(p.nbytes for p in model.parameters())
    linears = random_models.language_linears(model).values()
    found: dict[str, Any] = {
        "model": {
            "shape": plan.sizes.about,
            "parameters": sum(p.numel() for p in model.parameters()),
            "weights_bytes": weights,
            "trained_modules": len(linears),
            "parameters_of_trained_modules": sum(linear.weight.numel() for linear in linears),
        },
        "hardware": hardware(plan.device),
        "software": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
        "date": time.strftime("%Y-%m-%d"),
        "settings": {**asdict(plan), "rounds": rounds, "peak_tflops": peak, "ratios": RATIOS},
    }
    for arm in ARMS:
        numbers = entry(arm, plan, turns, peaks, weights, peak)
        if arm.ratio is None:
            found[arm.method] = numbers
        else:
            found.setdefault(arm.method, {})[f"{arm.ratio:g}"] = numbers
    return found


def hardware(device: str) -> dict[str, Any]:
    """Processor, cores, and the GPU if it is what is measured."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found: dict[str, Any] = {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count()}
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def table(found: dict[str, Any]) -> str:
    """The numbers as Markdown, ratios first."""
    heads = ["", "step time / full", "/ full_modules", "/ LoRA", "peak memory / full", "/ LoRA", "state / full", "FLOPs / full"]
    heads += ["trained parameters", "s / step", "tokens / s", "peak GiB", "TFLOP/s", "MFU"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for arm in sorted(ARMS, key=lambda arm: (arm.ratio or 0, ARMS.index(arm))):
        numbers = found[arm.method] if arm.ratio is None else found[arm.method][f"{arm.ratio:g}"]
        low, high = numbers["step_time_vs_full_range"]
        lora = [numbers.get(f"{what}_vs_lora") for what in ("step_time", "peak_memory")]
        step_lora, peak_lora = (f"{ratio:.2f}" if ratio else "" for ratio in lora)
        cells = [
            str(arm),
            f"{numbers['step_time_vs_full']:.2f} ({low:.2f} to {high:.2f})",
            f"{numbers['step_time_vs_full_modules']:.2f}",
            step_lora,
            f"{numbers['peak_memory_vs_full']:.2f}",
            peak_lora,
            f"{numbers['state_bytes_vs_full']:.3f}",
            f"{numbers['flops_vs_full']:.2f}",
            f"{numbers['trained_parameters'] / 1e6:.2f} M",
            f"{numbers['step_s']:.3f}",
            f"{numbers['tokens_per_s']:.0f}",
            f"{numbers['peak_gib']:.2f}",
            f"{numbers['tflops_per_s']:.2f}",
            f"{numbers['mfu']:.2f}" if numbers["mfu"] else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=tuple(random_models.SHAPES), help="default: 135m on a CPU, 2b on a GPU")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16", "mixed"), help="default: float32 on a CPU, else bfloat16"
    )
    parser.add_argument("--batch", type=int, help="rows in a batch; default 4 on a CPU, 8 on a GPU")
    parser.add_argument("--length", type=int, help="tokens in a row, those of images included; default 128, 512 on a GPU")
    parser.add_argument("--images", type=int, default=2, help="images in a row, for a shape with a vision tower; default 2")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in all methods")
    parser.add_argument("--rounds", type=int, help="turns of every method; default 5, 3 on a GPU")
    parser.add_argument("--steps", type=int, help="timed steps in a turn; default 1, 10 on a GPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument(
        "--peak-tflops", type=float, help="of the GPU, for MFU; default: its data sheet's for bfloat16, if known"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model and two rounds: does the program work?")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    given = arguments(argv)
    cuda = given.device == "cuda"
    torch.set_num_threads(given.threads)
    plan = Plan(
        shape=given.shape or ("2b" if cuda else "135m"),
        device=given.device,
        precision=given.precision or ("bfloat16" if cuda else "float32"),
        batch=given.batch or (8 if cuda else 4),
        length=given.length or (512 if cuda else 128),
        images=given.images,
        checkpointing=given.checkpointing,
        quick=given.quick,
        threads=given.threads,
        warmup=3 if cuda else 1,
        steps=given.steps or (10 if cuda else 1),
    )
    peak = given.peak_tflops
    if cuda and peak is None and plan.precision != "float32":
        peak = next((tflops for name, tflops in PEAK_TFLOPS.items() if name in torch.cuda.get_device_name()), None)
    found = result(plan, given.rounds or (2 if given.quick else 3 if cuda else 5), peak)
    model, settings = found["model"], found["settings"]
    print(
        f"{model['shape']}: {model['parameters'] / 1e6:.1f} M parameters, {model['parameters_of_trained_modules'] / 1e6:.1f} M"
    )
    print(f"of them in {model['trained_modules']} trained modules; {settings['batch']} x {settings['length']} tokens,")
    print(f"{settings['precision']}, {found['hardware']}, {settings['rounds']} rounds\n")
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
