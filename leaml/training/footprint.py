"""What a training takes of memory, told from the model's configuration: weights, gradients, moments, activations and logits.

Nothing of the model is loaded: it is built without memory for its weights, and its layers are read off its Linears. What a
layer keeps for the backward pass is counted as the models of transformers compute it (float32 or autocast, sdpa or eager). At
the start of a training the price of a token is measured (leaml/training/memory.py), which is what a micro-batch then follows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from leaml import _compat
from leaml.config import ModelConfig, TrainConfig
from leaml.training.prepare import SMALL, mixes_types
from leaml.vlm import attention, load, skeleton
from leaml.vlm.precision import compute_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

_MASTER = 4
"""Bytes of a weight that is trained, of its gradient, and of each of AdamW's two moments: all in float32."""
_NF4 = 4.127 / 8
"""Of a weight in 4 bits with its constants, which are quantised too (arXiv 2305.14314, section 3)."""
PATCH = 14
"""Pixels on a side of a patch where a configuration does not say."""


@dataclass(frozen=True)
class Layer:
    """A transformer layer, by what it keeps of a token.

    Attributes:
        hidden: Width of its input.
        attention: Heads x their width.
        inner: Width inside the feed-forward block.
        gated: Whether two products of that width are multiplied.
        fused: Whether one Linear makes queries, keys and values.
        composed: Norms of the width `hidden` that keep what they have normalised, where their weights are trained.
        heads: Number of them.
        linears: Number of its Linears.
        parameters: Of all its weights.
        routes: Experts that a token is sent to, where the feed-forward block is a mixture whose weights have three dimensions.
        routed: Width inside each of them.
    """

    hidden: int
    attention: int
    inner: int
    gated: bool
    fused: bool
    composed: int
    heads: int
    linears: int
    parameters: int = 0
    routes: int = 0
    routed: int = 0

    def kept(self, tokens: int, row: int, compute: int, method: str, rank: int, eager: bool, experts: int = 4) -> int:
        """Bytes that stay for its backward pass.

        Args:
            tokens: Of all sequences, with their padding.
            row: Tokens of a sequence, which eager attention compares in pairs.
            compute: Bytes of a value that a product makes.
            method: "full", "lora" or "neurons".
            rank: Of LoRA.
            eager: Whether the probabilities of attention are kept.
            experts: Bytes of a value of the experts, which compute in the type of their weights.
        """
        stream = 2 + (self.composed if method == "full" else 0)
        given = compute if method != "neurons" else 4  # a neuron adapter keeps its input as it came
        inputs = given * (2 * self.hidden + self.attention + self.inner) + compute * rank * self.linears
        products = (3 + 3 * self.fused) * self.attention + (3 if self.gated else 1) * self.inner
        pairs = self.heads * row * (4 if compute == 4 else 4 + compute) if eager else 0
        return tokens * (4 * stream * self.hidden + inputs + compute * products + pairs + experts * self._of_experts(method))

    def _of_experts(self, method: str) -> int:
        """Values of a token that experts keep: gate, up and a product, and what they answer; trained ones their inputs too."""
        return self.routes * (self.hidden + 3 * self.routed + (self.hidden + self.routed if method == "full" else 0))

    def working(self, tokens: int, compute: int) -> int:
        """Bytes of what its backward pass computes and frees again."""
        return tokens * compute * 2 * (max(self.inner, self.routes * self.routed) + max(1, self.routes) * self.hidden)


@dataclass(frozen=True)
class Anatomy:
    """A model without its weights.

    Attributes:
        counts: Parameters by part, as `load.part_of` names it.
        linears: (out, in) of the Linears by part.
        layers: Those of "language" and "vision".
        vocabulary: Entries of the head.
        largest: Parameters of the largest weight.
        patch: Pixels on a side of a patch of the vision tower.
        able: Whether its layers can compute activations again.
        eager: Whether attention keeps its probabilities on a CPU; see `attention.kernels`.
        mixes: Whether frozen weights keep their type beside trained ones; see `prepare.mixes_types`.
    """

    counts: Mapping[str | None, int]
    linears: Mapping[str | None, list[tuple[int, int]]]
    layers: Mapping[str, list[Layer]]
    vocabulary: int
    largest: int
    patch: int
    able: bool
    eager: bool
    mixes: bool

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def trained(self, train: TrainConfig, ratio: float) -> int:
        """Parameters that a training moves; of neurons a share `ratio` of every Linear."""
        if train.method == "full":
            return sum(count for part, count in self.counts.items() if part not in train.freeze)
        parts = self.adapted(train)
        sizes = [size for part in parts for size in self.linears.get(part, ())]
        if train.method == "lora":
            return sum(train.lora.rank * (out + width) for out, width in sizes)
        return sum(round(ratio * out) * width for out, width in sizes)

    @staticmethod
    def adapted(train: TrainConfig) -> set[str]:
        """The parts with weights that are trained."""
        everything = {"vision", "connector", "language"}
        if train.method == "neurons":
            return everything
        wanted: set[str] = {*train.lora.target} if train.method == "lora" else everything
        return wanted - {*train.freeze}


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


@lru_cache(maxsize=8)
def anatomy(config: ModelConfig) -> Anatomy:
    """Of a model whose configuration is at hand. Raises ModelError when it cannot be read."""
    model = skeleton.without_weights(config)
    return replace(of_model(model), eager=attention.kernels("cpu", model.config)[0] == "eager")


def of_model(model: Any) -> Anatomy:
    """Of a model of transformers, on whatever device."""
    config, vision = model.config, getattr(model.config, "vision_config", None)
    counts: Counter[str | None] = Counter()
    for name, parameter in model.named_parameters():
        counts[load.part_of(name)] += parameter.numel()
    linears: dict[str | None, list[tuple[int, int]]] = defaultdict(list)
    heads = {"language": _first(config.get_text_config(), "num_attention_heads")}
    heads["vision"] = _first(vision, "num_attention_heads", "num_heads")
    routes = _first(config.get_text_config(), "num_experts_per_tok", "top_k_experts", "moe_topk", "moe_k") or 1
    layers: dict[str, list[Layer]] = {"language": [], "vision": []}
    whole = set(load.transformer_layers(model))
    for name, module in model.named_modules():
        part = load.part_of(name)
        if isinstance(module, nn.Linear) and part is not None:
            linears[part].append((module.out_features, module.in_features))
        if part in layers and module in whole:
            layers[part].append(_layer(module, heads[part], routes))
    return Anatomy(
        counts,
        linears,
        layers,
        int(config.get_text_config().vocab_size),
        max(p.numel() for p in model.parameters()),
        _first(vision, "patch_size") or PATCH,
        bool(model.supports_gradient_checkpointing),
        _compat.is_eager(config),
        mixes_types(config),
    )


def _first(config: Any, *names: str) -> int:
    """The first of these settings that is a number; 0 if none is."""
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), 0)


def _layer(module: nn.Module, heads: int, routes: int) -> Layer:
    linears = {name: each for name, each in module.named_modules() if isinstance(each, nn.Linear)}
    attention = [linear for name, linear in linears.items() if "attn" in name or "attention" in name]
    others = [linear for linear in linears.values() if linear not in attention]
    hidden = (attention or others)[0].in_features
    experts = [p for name, p in module.named_parameters() if "expert" in name and p.dim() == 3]
    queries = max((a.in_features for a in attention if a.out_features == hidden), default=hidden)
    inner = max((o.in_features for o in others if o.out_features == hidden), default=0 if experts else hidden)
    norms = [m for n, m in module.named_modules() if "norm" in n and not isinstance(m, nn.LayerNorm)]
    return Layer(
        hidden,
        queries,
        inner,
        sum(o.out_features for o in others) - hidden >= 2 * inner,
        any(a.out_features == 3 * hidden for a in attention),
        sum(getattr(norm, "weight", torch.empty(0)).shape == (hidden,) for norm in norms),
        heads,
        len(linears),
        sum(p.numel() for p in module.parameters()),
        routes if experts else 0,
        min((p.numel() // (len(p) * hidden) for p in experts), default=0),
    )


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
    experts = _MASTER if train.method == "full" else stored
    rank, eager = train.lora.rank if train.method == "lora" else 0, made.eager and device == "cpu"
    way = Way(train.method, made.adapted(train), compute.itemsize, experts, eager, again(made, train), rank)
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


@dataclass(frozen=True)
class Way:
    """How a backward pass is done, see `Layer.kept`: to `parts`, whose layers compute activations again if `replayed`."""

    method: str
    parts: set[str]
    compute: int
    experts: int
    eager: bool
    replayed: bool = False
    rank: int = 0


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
        full = [layer.kept(tokens, row, compute, way.method, way.rank, way.eager, way.experts) for layer in layers]
        working = max(layer.working(tokens, compute) for layer in layers)
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
