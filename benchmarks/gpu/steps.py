"""A step of our training loop with 2 B, 3 B and 7 B shapes on 720p photos: memory, seconds, share of the card's products (MFU).

Full, LoRA and neurons 30 %, with activations kept and computed again. Products counted are those of the model: 2 for each
weight and token in forward, 2 in backward for the gradients of the inputs and 2 x the trained share for those of the weights;
what is computed again is not counted. The loop is `leaml.training.loop.Trainer` with its input at hand: from one step to the
next it copies a batch to the device, runs both passes, clips and updates.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import nn

from benchmarks.gpu.part import Part, batch, model
from leaml.config import ModelConfig, TrainConfig
from leaml.training.batches import Example, Task
from leaml.training.feed import Made
from leaml.training.loop import Trainer
from leaml.training.worker import Worker
from leaml.vlm import load
from leaml.vlm.load import VLM

METHODS = {"neurons30": 0.3, "lora": 0.0, "full": 1.0}
"""Share of the weights that each trains."""
WARM, TIMES = 2, 4
"""Steps before the clock starts, and steps that are timed."""


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


class Prepared:
    """In place of a processor and images: the tensors of a micro-batch that is the same in every step."""

    def __init__(self, inputs: dict[str, torch.Tensor]) -> None:
        numbers = torch.zeros(len(inputs["labels"]), dtype=torch.int64)
        self.made = ({name: tensor.cpu() for name, tensor in inputs.items()}, numbers)

    def __getitem__(self, _: object) -> Made:
        return self.made


class Lengths:
    """In place of a processor's: the reply tokens of an example."""

    def __init__(self, reply: int) -> None:
        self.reply = reply

    def texts(self, *_: str) -> tuple[int, int]:
        """Tokens of request and reply, as `leaml.vlm.lengths.Lengths` tells them."""
        return 0, self.reply


class MeasuredError(Exception):
    """All steps that are timed are done: the training ends here, without a checkpoint."""


def step_seconds(part: Part, vlm: VLM, inputs: dict[str, torch.Tensor], again: bool) -> float:
    """Median seconds of a step of `leaml.training.loop.Trainer`, from one step to the next."""
    ends: list[float] = []

    def progress(_: dict[str, float]) -> None:
        part.synchronise()
        ends.append(time.perf_counter())
        if len(ends) > WARM + TIMES:
            raise MeasuredError

    examples = len(inputs["labels"])
    task = Task("photos", [Example("photo", "", "")] * examples)
    kinds: dict[str, Any] = {"precision": "bfloat16", "activation_checkpointing": again, "micro_batch_tokens": None}
    config = TrainConfig(steps=1000, batch_size=examples, lr=1e-5, save_every=1000, **kinds)
    trained = [p for p in vlm.model.parameters() if p.requires_grad]
    worker = Worker(device=str(part.device), progress=progress)
    trainer = Trainer(vlm, trained, [task], config, lambda _: Image.new("RGB", (1, 1)), 0, worker)
    trainer.feed.data = Prepared(inputs)  # type: ignore[assignment]
    trainer._lengths = Lengths(int((inputs["labels"] != -100).sum()) // examples)  # type: ignore[assignment]
    with contextlib.suppress(MeasuredError):
        trainer.run()
    return statistics.median(after - before for before, after in itertools.pairwise(ends[WARM:]))


def measure(part: Part, shape: str, method: str, again: bool, examples: int) -> dict[str, Any]:
    """One case."""
    part.reset_peak()
    base = model(shape, part)
    inputs = batch(base, part, examples)
    flops = products(base, inputs, METHODS[method])
    unused = load.processor(ModelConfig(name="leaml-tiny"))  # the input is made already
    vlm = VLM(adapted(base, method), unused, shape)
    seconds = step_seconds(part, vlm, inputs, again)
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
