"""Full fine-tuning from bfloat16 weights: held in float32 as training does it, and moved in bfloat16 as it must not be done."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.part import Part, batch, model
from leaml.training.loop import task_loss
from leaml.training.prepare import float32_masters
from leaml.vlm.load import VLM


def losses(part: Part, dtype: torch.dtype, masters: bool, steps: int) -> list[float]:
    """Losses of a training on one batch."""
    made = model("tiny" if part.tiny else "2B", part, dtype=torch.bfloat16).to(dtype)
    inputs = batch(made, part, 2)
    vlm: Any = VLM(made.requires_grad_(True).train(), None, "")  # type: ignore[arg-type]
    if masters:
        float32_masters(made.parameters(), everything=True)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-5, fused=part.device.type == "cuda")
    found = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = task_loss(vlm, inputs, torch.zeros(2, dtype=torch.int64), [1.0], "bfloat16", [32])
        loss.backward()
        optimizer.step()
        found.append(round(loss.item(), 4))
    return [found[0], found[-1]]


def main() -> None:
    """Run the part."""
    part = Part.from_arguments(__doc__ or "")
    steps = 5 if part.tiny else 20
    part.attempt("float32 weights", lambda: losses(part, torch.float32, True, steps))
    part.attempt("bfloat16 weights, float32 masters", lambda: losses(part, torch.bfloat16, True, steps))
    part.attempt("bfloat16 weights alone", lambda: losses(part, torch.bfloat16, False, steps))


if __name__ == "__main__":
    main()
