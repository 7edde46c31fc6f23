"""Importance of every neuron for question answering.

A neuron is an output row of an `nn.Linear`, or with unit "ffn" a hidden neuron of a feed-forward block (leaml.neurons.units).
What scores there are, leaml.score_methods says; how the gradients of a whole batch's examples are taken at once, is in
leaml.neurons.gradients.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import nn

from leaml import score_methods
from leaml.errors import ConfigError, StepError
from leaml.neurons.gradients import ExampleBatch, MixedExamplesError, gradient_sums
from leaml.neurons.units import FeedForward, combine
from leaml.training.batches import Example
from leaml.training.objectives import reply_logits
from leaml.vlm import load
from leaml.vlm.collate import Collator, Turn

log = logging.getLogger(__name__)

Scores = dict[str, torch.Tensor]
"""Module name -> float32 (out_features,) score of each row; with unit "ffn", block name -> (hidden neurons,)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Data(Generic[T]):
    """The examples to score on: `collate` makes a batch of any consecutive part of them, at most `batch_size` at a time."""

    examples: Sequence[T]
    collate: Callable[[Sequence[T]], ExampleBatch]
    batch_size: int = 16


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
    data: Data | None = None,
    blocks: dict[str, FeedForward] | None = None,
    seed: int = 0,
    add_up: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> Scores:
    """Score the neurons of `linears`.

    Args:
        linears: Modules to score, by name.
        method: Name of a score (leaml.score_methods).
        data: Examples, unused by controls; with several workers, this worker's part of them, which may be empty.
        blocks: Feed-forward blocks whose neurons are scored as one (units.feed_forwards); none: rows only.
        seed: Seed of the random control.
        add_up: Adds a float64 vector up over all workers; gradients.sum_over_workers.

    Returns:
        Scores in float32, the mean over all workers' examples for the gradient methods.

    Raises:
        ConfigError: unknown method, or a gradient method without a single example.
        StepError: a loss or score is not finite.
    """
    blocks = blocks or {}
    columns = {block.columns for block in blocks.values()}
    found = score_methods.method(method)
    if found.of == "chance":  # drawn per neuron: a sum of three draws would rank blocks before rows
        sizes = {name: torch.zeros(m.in_features if name in columns else m.out_features) for name, m in linears.items()}
        generator = torch.Generator().manual_seed(seed)
        return {name: found.rows(len(v), generator) for name, v in combine(sizes, blocks).items()}
    if found.of == "weights":
        weights = {name: m.weight.detach().float() for name, m in linears.items()}
        return combine({n: found.rows(w.T if n in columns else w).cpu() for n, w in weights.items()}, blocks)
    means = _gradient_means(linears, method, data, columns, add_up)
    return {name: (found.sign * value).float() for name, value in combine(means, blocks).items()}


def vlm_batches(
    vlm: load.VLM,
    get_image: Callable[[str], Image.Image],
    device: str,
    prefetch: Callable[[Collection[str]], None] | None = None,
) -> Callable[[Sequence[Example]], ExampleBatch]:
    """`collate` of `Data` for a vision-language model.

    The loss is the mean token cross-entropy of the reply, in float32. Examples are told apart in
    the language model where a module sees (examples, tokens, in), elsewhere where every example has
    exactly one image that the vision tower sees in a row of its own. Models that cut images into
    tiles or flatten patches of all images into one dimension do neither, if modules of their vision
    tower are to be scored.

    Args:
        vlm: The model, which lies on `device`, and its processor.
        get_image: Gives the image with an id.
        device: Where the tensors of a batch go.
        prefetch: Told the ids of a batch before `get_image` is asked for each.
    """
    collator = Collator(vlm.processor)
    language = load.language_linears(vlm.model).keys()

    def collate(examples: Sequence[Example]) -> ExampleBatch:
        if prefetch is not None:
            prefetch({e.image_id for e in examples})
        images = {e.image_id: get_image(e.image_id) for e in examples}
        inputs = collator([Turn(images[e.image_id], e.request, e.reply, e.prefix) for e in examples])
        inputs = {k: v.to(device) for k, v in inputs.items()}
        labels = inputs.pop("labels")
        own_image = have_own_image(inputs, len(examples))

        def separate(name: str, shape: torch.Size) -> bool:
            return len(shape) == 3 and (shape[:2] == labels.shape if name in language else own_image)

        return ExampleBatch(len(examples), lambda: reply_logits(vlm.model, inputs, labels).mean_by_row(len(labels)), separate)

    return collate


def have_own_image(inputs: Mapping[str, torch.Tensor], count: int) -> bool:
    """Whether each of the examples of a batch has one image, in a row of its own.

    `pixel_values` are (images, 3, height, width) or (examples, images, 3, height, width).
    """
    pixels = inputs.get("pixel_values")
    return pixels is not None and pixels.dim() > 3 and pixels.shape[:-3].numel() == count


def _gradient_means(
    linears: dict[str, nn.Linear],
    method: str,
    data: Data | None,
    columns: Collection[str],
    add_up: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Mean over all workers' examples of the norms of their gradients, float64 on the CPU."""
    widths = [m.in_features if n in columns else m.out_features for n, m in linears.items()]
    device = next(iter(linears.values())).weight.device
    sums = torch.zeros(sum(widths) + 1, dtype=torch.float64, device=device)  # the last is the number of examples
    if data is not None:
        sums[:-1] = _local_sums(linears, method, data, columns, sums[:-1])
        sums[-1] = len(data.examples)
    sums = add_up(sums).cpu()
    count = int(sums[-1])
    if count == 0:
        msg = f"score.method {method!r} needs labeled examples, got none"
        raise ConfigError(msg)
    means = dict(zip(linears, (sums[:-1] / count).split(widths), strict=True))
    for name, mean in means.items():
        if not torch.isfinite(mean).all():
            msg = f"the QA loss has gradients that are not finite in {name}, so no neuron can be scored; look at the training"
            raise StepError(msg)
    return means


def _local_sums(
    linears: dict[str, nn.Linear], method: str, data: Data, columns: Collection[str], zeros: torch.Tensor
) -> torch.Tensor:
    """Sums over this worker's examples, batch by batch; one by one from the first batch on that mixes its examples."""
    size, done, sums = data.batch_size, 0, zeros
    while done < len(data.examples):
        part = data.examples[done : done + size]
        try:
            found = gradient_sums(linears, data.collate(part), method, columns)
        except MixedExamplesError as mixed:
            log.warning("%s, in which they cannot be told apart: examples are scored one at a time, which is slower", mixed)
            size = 1
            continue
        except StepError as error:
            msg = (
                f"{error} (examples {done} to {done + len(part) - 1}), so no neuron can be scored; look at the model's training"
            )
            raise StepError(msg) from None
        sums = sums + torch.cat(list(found.values()))
        done += len(part)
    return sums
