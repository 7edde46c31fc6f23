"""Scores of all neurons of the 2 B shape, in float32 with and without TF32: seconds an example, and how far they differ."""

from __future__ import annotations

import time

import torch

from benchmarks.gpu.part import Part, batch, model
from leaml.neurons import scores
from leaml.neurons.gradients import ExampleBatch
from leaml.training.objectives import reply_logits


def measure(part: Part, precision: str) -> tuple[float, scores.Scores]:
    """Seconds an example, and the scores."""
    torch.set_float32_matmul_precision(precision)
    made = model("tiny" if part.tiny else "2B", part, dtype=torch.float32).requires_grad_(False).eval()
    inputs = batch(made, part, 1)
    labels = inputs.pop("labels")

    def collate(rows: object) -> ExampleBatch:
        return ExampleBatch(1, lambda: reply_logits(made, inputs, labels).mean_by_row(1))

    linears = {n: m for n, m in scores.all_linears(made).items() if "language_model" in n.split(".")}
    count = 2 if part.tiny else 4
    part.synchronise()
    began = time.perf_counter()
    found = scores.score(linears, "squared", scores.Data(list(range(count)), collate, 1))  # type: ignore[arg-type]
    part.synchronise()
    return (time.perf_counter() - began) / count, found


def main() -> None:
    """Run the part."""
    part = Part.from_arguments(__doc__ or "")
    exact_s, exact = measure(part, "highest")
    part.add("float32", {"s_per_example": round(exact_s, 4)})
    fast_s, fast = measure(part, "high")
    flat = [torch.cat([s[n].flatten() for n in exact]) for s in (exact, fast)]
    difference = ((flat[0] - flat[1]).norm() / flat[0].norm()).item()
    part.add("tf32", {"s_per_example": round(fast_s, 4), "relative_difference": difference})


if __name__ == "__main__":
    main()
