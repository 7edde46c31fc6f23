"""Importance of every neuron (output row of an `nn.Linear`) for question answering.

With g the gradient of one example's QA loss with respect to a weight matrix W (rows r, inputs i), averaged over examples:

    squared          sum_i g_ri^2          empirical Fisher per row (as FISH, NeurIPS 2021, and GRFT, arXiv 2507.00016)
    absolute         sum_i |g_ri|          sensitivity (as GPS, CVPR 2024, but per example)
    gradient_weight  sum_i |g_ri W_ri|     first-order Taylor pruning score
    magnitude        sum_i |W_ri|          control, needs no data
    random           uniform               control
    lowest           -squared              control: the least important rows

The gradient is taken per example before the square or absolute value, so that examples cannot cancel each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from PIL import Image
from torch import nn

from leaml.errors import ConfigError, StepError
from leaml.objectives import per_example_loss
from leaml.training import Example
from leaml.vlm import load
from leaml.vlm.collate import Collator, Turn

Scores = dict[str, torch.Tensor]
"""Module name -> float32 (out_features,) score of each row."""

GRADIENT_METHODS = ("squared", "absolute", "gradient_weight", "lowest")


def all_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Every Linear of the vision tower, connector and language model by name; never lm_head."""
    return {**load.vision_linears(model), **load.connector_linears(model), **load.language_linears(model)}


def selectable(linears: dict[str, nn.Linear], pattern: str) -> dict[str, nn.Linear]:
    """The Linear modules whose name fully matches `pattern`. Raises ConfigError when none does."""
    chosen = {name: module for name, module in linears.items() if re.fullmatch(pattern, name)}
    if not chosen:
        example = next(iter(linears), "none")
        msg = f"score.modules: {pattern!r} matches none of the model's {len(linears)} Linear modules (for example {example!r})"
        raise ConfigError(msg)
    return chosen


def score(
    linears: dict[str, nn.Linear],
    method: str,
    losses: Iterable[Callable[[], torch.Tensor]] = (),
    seed: int = 0,
) -> Scores:
    """Score every row of `linears`.

    Args:
        linears: Modules to score, by name.
        method: One of the methods in the module docstring.
        losses: One function per example that runs the model and returns that example's scalar QA loss; unused by controls.
        seed: Seed of the random control.

    Returns:
        Scores in float32, the mean over examples for the gradient methods.
    """
    if method == "random":
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.rand(m.out_features, generator=generator) for name, m in linears.items()}
    if method == "magnitude":
        return {name: m.weight.detach().float().abs().sum(1).cpu() for name, m in linears.items()}
    if method not in GRADIENT_METHODS:
        msg = f"score.method: unknown method {method!r}; use one of {(*GRADIENT_METHODS, 'magnitude', 'random')}"
        raise ConfigError(msg)
    return _gradient_scores(linears, method, losses)


def example_losses(
    vlm: load.VLM, examples: Sequence[Example], get_image: Callable[[str], Image.Image], device: str
) -> Iterator[Callable[[], torch.Tensor]]:
    """One function per example giving its QA loss: mean token cross-entropy of the reply, in float32."""
    collator = Collator(vlm.processor)
    for example in examples:
        batch = collator([Turn(get_image(example.image_id), example.request, example.reply, example.prefix)])

        def loss(batch: dict[str, torch.Tensor] = batch) -> torch.Tensor:
            inputs = {k: v.to(device) for k, v in batch.items()}
            labels = inputs.pop("labels")
            return per_example_loss(vlm.model(**inputs).logits, labels)[0]

        yield loss


def _gradient_scores(linears: dict[str, nn.Linear], method: str, losses: Iterable[Callable[[], torch.Tensor]]) -> Scores:
    weights = {name: module.weight for name, module in linears.items()}
    for weight in weights.values():
        weight.requires_grad_(True)
    totals = {name: torch.zeros(w.shape[0], dtype=torch.float64) for name, w in weights.items()}
    examples = 0
    for loss in losses:
        value = loss()
        if not torch.isfinite(value):
            msg = (
                f"the QA loss of example {examples} is {value.item()}, so no neuron can be scored; look at the model's training"
            )
            raise StepError(msg)
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                totals[name] += _row_score(method, gradient.float(), weight.detach().float()).double().cpu()
        examples += 1
    if examples == 0:
        msg = f"score.method {method!r} needs labeled examples, got none"
        raise ConfigError(msg)
    sign = -1.0 if method == "lowest" else 1.0
    return {name: (sign * total / examples).float() for name, total in totals.items()}


def _row_score(method: str, gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if method == "absolute":
        return gradient.abs().sum(1)
    if method == "gradient_weight":
        return (gradient * weight).abs().sum(1)
    return gradient.square().sum(1)
