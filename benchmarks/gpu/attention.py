"""Attention kernels in a step of the 3 B shape: eager, sdpa and, where it is installed, flash-attn."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.gpu.part import Part, batch, model
from leaml.training.loop import task_loss
from leaml.vlm.load import VLM


def measure(part: Part, kernel: str) -> dict[str, float]:
    """Forward and backward to the inputs' gradients."""
    part.reset_peak()
    made = model("tiny" if part.tiny else "3B", part, kernel).requires_grad_(False).train()
    made.get_input_embeddings().weight.requires_grad_(True)
    inputs = batch(made, part, 2)
    vlm: Any = VLM(made, None, "")  # type: ignore[arg-type]

    def step() -> None:
        task_loss(vlm, inputs, torch.zeros(2, dtype=torch.int64), [1.0], "bfloat16", [32]).backward()

    return {"s_per_step": round(part.seconds(step, 1, 3), 4), "peak_gib": part.peak_gib()}


def main() -> None:
    """Run the part."""
    part = Part.from_arguments(__doc__ or "")
    kernels = ["sdpa", "eager", *(["flash_attention_2"] if find_spec("flash_attn") else [])]
    for kernel in kernels:
        part.attempt(kernel, partial(measure, part, kernel))


if __name__ == "__main__":
    main()
