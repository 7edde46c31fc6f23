"""A model without its weights, read off its Linears: what the layers of its towers keep for a backward pass.

What a layer keeps is counted as the models of transformers compute it (float32 or autocast, sdpa or eager).
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
from leaml.config.training import LoraSettings
from leaml.training.prepare import mixes_types
from leaml.vlm import attention, load, skeleton

if TYPE_CHECKING:
    from collections.abc import Mapping

_MASTER = 4
"""Bytes of a value of LoRA's factors, and of what is computed of them."""
PATCH = 14
"""Pixels on a side of a patch where a configuration does not say."""


@dataclass(frozen=True)
class Way:
    """How a backward pass is done.

    Attributes:
        method: "full", "lora" or "neurons".
        parts: Of the model, those with weights that are trained.
        compute: Bytes of a value that a product makes.
        stored: Bytes of a frozen weight, in whose type experts compute; of any weight with method "full".
        eager: Whether the probabilities of attention are kept.
        replayed: Whether layers compute their activations again.
        lora: With method "lora"; None: adapters that keep their input and nothing else.
    """

    method: str
    parts: set[str]
    compute: int
    stored: int
    eager: bool
    replayed: bool = False
    lora: LoraSettings | None = None


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
        read: Widths of the inputs of its Linears, added up.
        made: Widths of their outputs, added up.
        largest: Values of the largest Linear.
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
    read: int = 0
    made: int = 0
    largest: int = 0

    def kept(self, tokens: int, row: int, way: Way) -> int:
        """Bytes that stay for its backward pass.

        Args:
            tokens: Of all sequences, with their padding.
            row: Tokens of a sequence, which eager attention compares in pairs.
            way: How it is done.
        """
        compute = way.compute
        stream = 2 + (self.composed if way.method == "full" else 0)
        given = compute if way.method != "neurons" else 4  # a neuron adapter keeps its input as it came
        inputs = given * (2 * self.hidden + self.attention + self.inner)
        products = (3 + 3 * self.fused) * self.attention + (3 if self.gated else 1) * self.inner
        pairs = self.heads * row * (4 if compute == 4 else 4 + compute) if way.eager else 0
        values = 4 * stream * self.hidden + compute * products + pairs + way.stored * self._of_experts(way.method)
        return tokens * (values + (inputs if way.lora is None else self._of_lora(inputs, way, way.lora)))

    def _of_lora(self, inputs: int, way: Way, lora: LoraSettings) -> int:
        """Bytes that LoRA keeps of a token: inputs, between its factors, and what PEFT's variants keep besides.

        Linears of one input share it in float32; under autocast each has a copy in the type of products. With dropout each has
        what it was given, and in float32 what that was multiplied by. DoRA scales what the base makes without its bias, in
        the bias's type, and what the factors make, by a scale that is trained, and keeps both.
        """
        compute = way.compute
        copies = lora.dropout or compute < _MASTER
        found = (compute + (_MASTER if lora.dropout else 0)) * self.read if copies else inputs
        return (
            found + compute * lora.rank * self.linears + ((max(way.stored, compute) + compute) * self.made if lora.dora else 0)
        )

    def _of_experts(self, method: str) -> int:
        """Values of a token that experts keep: gate, up and a product, and what they answer; trained ones their inputs too."""
        return self.routes * (self.hidden + 3 * self.routed + (self.hidden + self.routed if method == "full" else 0))

    def working(self, tokens: int, way: Way) -> int:
        """Bytes of what its backward pass computes and frees again."""
        weights = 3 * _MASTER * self.largest if way.lora is not None and way.lora.dora else 0  # whose norm is taken
        return weights + tokens * way.compute * 2 * (
            max(self.inner, self.routes * self.routed) + max(1, self.routes) * self.hidden
        )


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
            return sum(train.lora.rank * (out + width) + train.lora.dora * out for out, width in sizes)
        return sum(round(ratio * out) * width for out, width in sizes)

    @staticmethod
    def adapted(train: TrainConfig) -> set[str]:
        """The parts with weights that are trained."""
        everything = {"vision", "connector", "language"}
        if train.method == "neurons":
            return everything
        wanted: set[str] = {*train.lora.target} if train.method == "lora" else everything
        return wanted - {*train.freeze}


@lru_cache(maxsize=8)
def of_config(config: ModelConfig) -> Anatomy:
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
        sum(linear.in_features for linear in linears.values()),
        sum(linear.out_features for linear in linears.values()),
        max(linear.weight.numel() for linear in linears.values()),
    )
