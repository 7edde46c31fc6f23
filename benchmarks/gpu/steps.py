"""A training step of 2 B, 3 B and 7 B shapes on 720p photos: memory, seconds and the share of the card's products (MFU).

Full, LoRA and neurons 30 %, with activations kept and computed again. Products counted are those of the model: 2 for each
weight and token in forward, 2 in backward for the gradients of the inputs and 2 x the trained share for those of the weights;
what is computed again is not counted.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.part import Part, batch, model
from leaml.training.loop import task_loss
from leaml.training.prepare import checkpoint_activations, float32_masters, one_type
from leaml.vlm.load import VLM

METHODS = {"neurons30": 0.3, "lora": 0.0, "full": 1.0}
"""Share of the weights that each trains."""


def adapted(made: Any, method: str) -> Any:
    """The model with what the method puts on it; what it trains has gradients."""
    from peft import LoraConfig, get_peft_model

    from leaml.neurons import scores
    from leaml.neurons.peft import NeuronConfig

    made.requires_grad_(method == "full")
    if method == "full":
        return made
    names = sorted(scores.all_linears(made))
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=names)
    return get_peft_model(made, lora if method == "lora" else NeuronConfig(selection="random", ratio=METHODS[method]))


def products(made: Any, inputs: dict[str, torch.Tensor], share: float) -> float:
    """Floating-point operations of a step."""
    linears = {n: m for n, m in made.named_modules() if isinstance(m, nn.Linear)}
    vision = sum(m.weight.numel() for n, m in linears.items() if "visual" in n.split("."))
    language = sum(m.weight.numel() for n, m in linears.items() if "language_model" in n.split("."))
    work = vision * len(inputs["pixel_values"]) + language * inputs["input_ids"].numel()
    return work * (4 + 2 * share)


def measure(part: Part, shape: str, method: str, again: bool, examples: int) -> dict[str, Any]:
    """One case."""
    part.reset_peak()
    base = model(shape, part)
    inputs = batch(base, part, examples)
    flops = products(base, inputs, METHODS[method])
    vlm = VLM(adapted(base, method), None, shape)  # type: ignore[arg-type]
    checkpoint_activations(vlm, again)
    float32_masters(vlm.model.parameters(), one_type(vlm.model, "bfloat16", str(part.device)))
    vlm.model.train()
    trained = [p for p in vlm.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=part.device.type == "cuda")
    numbers, tokens = torch.zeros(examples, dtype=torch.int64), [int((inputs["labels"] != -100).sum())]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task_loss(vlm, inputs, numbers, [1.0], "bfloat16", tokens).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    seconds = part.seconds(step)
    found = {"examples": examples, "tokens": int(inputs["input_ids"].shape[1]), "s_per_step": round(seconds, 4)}
    found |= {"peak_gib": part.peak_gib(), "tflops": round(flops / seconds / 1e12, 5)}
    if part.peak_flops:
        found["mfu"] = round(flops / seconds / part.peak_flops, 3)
    return found


def main() -> None:
    """Run the part."""
    part = Part.from_arguments(__doc__ or "")
    shapes = ("tiny",) if part.tiny else ("3B", "7B", "2B")
    for again in (True, False):
        for shape in shapes:
            for method in METHODS:
                name = f"{shape} {method} {'again' if again else 'kept'}"
                part.attempt(name, partial(measure, part, shape, method, again, 2 if part.tiny else 8))


if __name__ == "__main__":
    main()
