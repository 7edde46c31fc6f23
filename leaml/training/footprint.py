"""What a training takes of memory, told from the model's configuration: weights, gradients, moments, activations and logits.

Nothing of the model is loaded: it is built without memory for its weights (leaml/training/anatomy.py). At the start of a
training the price of a token is measured (leaml/training/memory.py), which is what a micro-batch then follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from leaml.config import TrainConfig
from leaml.training.anatomy import Anatomy, Way
from leaml.training.prepare import SMALL
from leaml.vlm.precision import compute_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

_MASTER = 4
"""Bytes of a weight that is trained, of its gradient, and of each of AdamW's two moments: all in float32."""
_NF4 = 4.127 / 8
"""Of a weight in 4 bits with its constants, which are quantised too (arXiv 2305.14314, section 3)."""


@dataclass(frozen=True)
class Extent:
    """What one forward and backward pass is about.

    Attributes:
        tokens: Of all examples in the language model, padding and images included.
        reply: Those of them that carry loss.
        patches: Of all images in the vision tower.
        pixels: Bytes of the images' tensors.
        examples: How many.
        tile: Patches that attention sees together; 0: as many as an image has.
    """

    tokens: int
    reply: int
    patches: int
    pixels: int
    examples: int = 1
    tile: int = 0

    def times(self, count: int) -> Extent:
        """So many examples of this kind."""
        tokens, reply, patches = count * self.tokens, count * self.reply, count * self.patches
        return Extent(tokens, reply, patches, count * self.pixels, count * self.examples, self.tile or self.patches)


@dataclass(frozen=True)
class Footprint:
    """Bytes of a training, beside libraries.

    Attributes:
        weights: All of them; what is trained in float32.
        gradients: Of what is trained.
        moments: AdamW's two.
        activations: Kept for the backward pass, or computed again by one layer in it, with copies of weights.
        logits: Of reply tokens, with their probabilities and gradients.
        update: What an update takes beside weights, gradients and moments, when activations are gone.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    logits: int
    update: int

    @property
    def fixed(self) -> int:
        """What it takes whatever a pass is about."""
        return self.weights + self.gradients + self.moments

    @property
    def peak(self) -> int:
        """The most at a time."""
        return self.fixed + max(self.activations + self.logits, self.update)


def extent(made: Anatomy, batch: Mapping[str, torch.Tensor]) -> Extent:
    """Of the tensors that a collator has made, with labels."""
    pixels = batch["pixel_values"]
    examples, length = batch["input_ids"].shape
    tile, patches = 0, int(pixels.shape[0])
    if pixels.dim() > 2:  # with Qwen patches are rows
        tile = (pixels.shape[-2] // made.patch) * (pixels.shape[-1] // made.patch)
        patches = tile * int(pixels[..., 0, 0, 0].numel())
    reply = int((batch["labels"] != -100).sum())
    return Extent(examples * length, reply, patches, pixels.nbytes, examples, tile)


def again(made: Anatomy, train: TrainConfig) -> bool:
    """Whether the layers of a training compute their activations again; see `prepare.checkpoint_activations`."""
    wanted = train.activation_checkpointing
    return made.able and made.parameters > SMALL if wanted == "auto" else wanted


def footprint(
    made: Anatomy,
    one: Extent,
    train: TrainConfig,
    dtype: str = "float32",
    ratio: float = 0.0,
    device: str = "cpu",
    shards: int = 1,
) -> Footprint:
    """What a training takes.

    Args:
        made: Its model.
        one: Its largest micro-batch.
        train: How it is trained.
        dtype: Of the weights that are not trained.
        ratio: Share of the rows that are trained, with method neurons.
        device: "cpu" or "cuda".
        shards: Workers that have a part of every weight each, and gather a layer's when they compute it (FSDP2).
    """
    compute = compute_dtype(train.precision, device)
    trained = made.trained(train, ratio)
    kept_apart = (shards > 1 or train.method != "full" or made.mixes) and (dtype, device) != ("float16", "cpu")
    stored = getattr(torch, dtype).itemsize if compute != torch.float32 and kept_apart else 4
    frozen = made.parameters - trained if train.method == "full" else made.parameters
    type_bytes = _MASTER if train.method == "full" else stored
    lora, eager = train.lora if train.method == "lora" else None, made.eager and device == "cpu"
    way = Way(train.method, made.adapted(train), compute.itemsize, type_bytes, eager, again(made, train), lora)
    kept = activations(made, one, way)
    head = _MASTER * made.largest if train.method == "full" else 0  # its gradient before it is added up
    update = 2 * head
    copies = _copies(made, train, compute.itemsize, stored) if shards == 1 else _gathered(made, train, compute.itemsize)
    replaced = stored * trained if train.method == "neurons" and shards == 1 else 0  # by deltas that are held in the weights
    return Footprint(
        (_frozen(made, train, frozen, stored) + _MASTER * trained) // shards,
        _MASTER * trained // shards,
        2 * _MASTER * trained // shards,
        kept + copies + replaced,
        logits(made, one, compute.itemsize) + head,
        update // shards,
    )


def _frozen(made: Anatomy, train: TrainConfig, count: int, stored: int) -> int:
    """Weights that are not trained; with nf4 those of the language model's Linears have 4 bits."""
    if train.method != "lora" or train.lora.quantization is None:
        return stored * count
    quantised = sum(out * width for out, width in made.linears.get("language", ()))
    return stored * (count - quantised) + int(_NF4 * quantised)


def _gathered(made: Anatomy, train: TrainConfig, compute: int) -> int:
    """Of weights that are in shards what a worker holds whole: embeddings and head, a layer, and the one that comes next."""
    layer = max(layer.parameters for layers in made.layers.values() for layer in layers)
    outside = min(2 * made.largest, made.parameters)
    return compute * (outside + 2 * layer) + (_MASTER * max(outside, layer) if train.method == "full" else 0)


def logits(made: Anatomy, one: Extent, compute: int) -> int:
    """Logits as they are made, in float32, their probabilities and their gradient."""
    return one.reply * made.vocabulary * (12 + (compute if compute < 4 else 0))


def activations(made: Anatomy, one: Extent, way: Way) -> int:
    """Bytes at the height of the backward pass."""
    compute = way.compute
    # gradients reach the language model from its head whatever is trained, and the vision tower only if something there is
    reached = [p for p in ("vision", "language") if made.layers[p] and (p == "language" or "vision" in way.parts)]
    sizes = {
        "language": (one.tokens, one.tokens // one.examples),
        "vision": (one.patches, one.tile or one.patches // one.examples),
    }
    width = {part: layers[0].hidden for part, layers in made.layers.items() if layers}
    # beside layers: the images themselves, what the tower makes of them twice, embeddings and the last norm
    kept = one.pixels + 4 * (2 * one.patches * width.get("vision", 0) + 3 * one.tokens * width["language"])
    height = kept
    for part in reached:
        tokens, row = sizes[part]
        layers = made.layers[part]
        full = [layer.kept(tokens, row, way) for layer in layers]
        working = max(layer.working(tokens, way) for layer in layers)
        kept += sum(4 * tokens * layer.hidden for layer in layers) if way.replayed else sum(full)
        height = max(height, kept + working + (max(full) if way.replayed else 0))
    if "vision" not in reached and made.layers["vision"]:
        widest = max(made.layers["vision"], key=lambda layer: layer.inner)
        height = max(height, one.pixels + one.patches * compute * (4 * widest.hidden + 2 * widest.inner))
    return height


def _copies(made: Anatomy, train: TrainConfig, compute: int, stored: int) -> int:
    """Weights in the type of products, which autocast makes of those in another; of neuron adapters the head's alone."""
    if compute == _MASTER:
        return 0
    head = compute * made.vocabulary * made.layers["language"][0].hidden if train.method == "full" or compute != stored else 0
    if train.method == "neurons" or (train.method == "lora" and (compute == stored or again(made, train))):
        return head
    parts = made.adapted(train) if compute == stored else made.linears.keys()
    return head + compute * sum(out * width for part in parts for out, width in made.linears.get(part, ()))
