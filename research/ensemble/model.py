"""The tiny Idefics3 for a stack of models: every weight has a leading dimension, one entry a model, every product is batched.

A model of two million parameters leaves a GPU idle: a training step is some thousand kernels of microseconds. Stacked, thirty
models take about the time of one. tests/benchmarks/test_ensemble.py holds this to transformers' own forward pass.

Shapes: A models, B rows each, T tokens, P patches, D hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional

Weights = dict[str, torch.Tensor]
"""Name in the checkpoint -> (A, *shape)."""

VISION, TEXT, CONNECTOR = "model.vision_model", "model.text_model", "model.connector.modality_projection.proj"
EMBEDDING = f"{TEXT}.embed_tokens.weight"
PATCHES = f"{VISION}.embeddings.patch_embedding"


@dataclass(frozen=True)
class Shape:
    """What the forward pass needs of config.json."""

    heads: int
    text_layers: int
    vision_layers: int
    patch: int
    scale: int
    norm: float
    theta: float

    @classmethod
    def of(cls, folder: str | Path) -> Shape:
        """Of a model folder; ValueError where it isn't an Idefics3 of the kind that `research.tiny.build` makes."""
        config = json.loads((Path(folder) / "config.json").read_text())
        if config["model_type"] != "idefics3":
            msg = f"{folder} is a {config['model_type']!r}; only tiny Idefics3 models can be stacked"
            raise ValueError(msg)
        text, vision = config["text_config"], config["vision_config"]
        heads = {text["num_attention_heads"], text["num_key_value_heads"], vision["num_attention_heads"]}
        sizes = {text["hidden_size"], vision["hidden_size"], text["head_dim"] * text["num_attention_heads"]}
        if len(heads) > 1 or len(sizes) > 1 or not config["tie_word_embeddings"]:
            msg = f"{folder}: the vision and the text model differ in heads or width, or the embeddings are not tied"
            raise ValueError(msg)
        theta = text["rope_parameters"]["rope_theta"]
        layers = text["num_hidden_layers"], vision["num_hidden_layers"]
        return cls(heads.pop(), *layers, vision["patch_size"], config["scale_factor"], text["rms_norm_eps"], theta)


def load(folder: str | Path, device: str) -> Weights:
    """The weights of a model folder in float32, without a leading dimension."""
    found = load_file(Path(folder) / "model.safetensors", device=device)
    return {name: value.float() for name, value in found.items() if name != "lm_head.weight"}


def stack(models: Sequence[Weights]) -> Weights:
    return {name: torch.stack([m[name] for m in models]) for name in models[0]}


def linears(weights: Weights) -> list[str]:
    """Modules that are nn.Linear in the model: what `leaml.neurons` scores and LoRA adapts."""
    names = [n.removesuffix(".weight") for n in weights if n.endswith(".weight")]
    return [n for n in names if n.endswith(("_proj", ".fc1", ".fc2", ".proj"))]


def linear(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    """x (A, ..., in) -> (A, ..., out), in the type of the weights."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    flat = x.reshape(len(x), -1, x.shape[-1]).to(weight.dtype)
    product = flat @ weight.transpose(1, 2) if bias is None else torch.baddbmm(bias[:, None], flat, weight.transpose(1, 2))
    return product.view(*x.shape[:-1], weight.shape[1])


def _layer_norm(weights: Weights, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    scale, shift = weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float()
    return functional.layer_norm(x.float(), x.shape[-1:], eps=eps) * scale[:, None, None] + shift[:, None, None]


def _rms_norm(weights: Weights, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weights[f"{name}.weight"].float()[:, None, None]


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(A, B, T, D) -> (A * B, heads, T, D / heads)."""
    return x.reshape(-1, x.shape[2], heads, x.shape[3] // heads).transpose(1, 2)


def _join(x: torch.Tensor, models: int) -> torch.Tensor:
    rows, _, length, _ = x.shape
    return x.transpose(1, 2).reshape(models, rows // models, length, -1)


def part(weights: Weights, prefix: str) -> Weights:
    """The weights of one module, by their names inside it."""
    return {name.removeprefix(f"{prefix}."): w for name, w in weights.items() if name.startswith(f"{prefix}.")}


@cache
def fast(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function compiled for each shape that it meets."""
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    return torch.compile(function, dynamic=False)


def vision_layer(layer: Weights, heads: int, x: torch.Tensor) -> torch.Tensor:
    """One encoder layer on x (A, B, P, D)."""
    normed = _layer_norm(layer, "layer_norm1", x, 1e-6)
    q, k, v = (_split(linear(layer, f"self_attn.{n}_proj", normed), heads) for n in "qkv")
    seen = _join(functional.scaled_dot_product_attention(q, k, v), len(x))
    x = x + linear(layer, "self_attn.out_proj", seen)
    inner = linear(layer, "mlp.fc1", _layer_norm(layer, "layer_norm2", x, 1e-6))
    return x + linear(layer, "mlp.fc2", functional.gelu(inner, approximate="tanh"))


def image_tokens(weights: Weights, shape: Shape, pixels: torch.Tensor, compiled: bool = False) -> torch.Tensor:
    """uint8 (A, B, 3, H, W) -> (A, B, image tokens, D): vision tower, pixel shuffle and connector."""
    models, rows, channels, height, width = pixels.shape
    side, high, wide = shape.patch, height // shape.patch, width // shape.patch
    x = pixels.float() / 127.5 - 1
    x = x.view(models, rows, channels, high, side, wide, side).permute(0, 1, 3, 5, 2, 4, 6)
    x = x.reshape(models, rows, high * wide, -1)
    embedding = f"{VISION}.embeddings"
    kernel = {"p.weight": weights[f"{PATCHES}.weight"].flatten(2), "p.bias": weights[f"{PATCHES}.bias"]}
    x = linear(kernel, "p", x).float() + weights[f"{embedding}.position_embedding.weight"].float()[:, None]
    layer = fast(vision_layer) if compiled else vision_layer
    for number in range(shape.vision_layers):
        x = layer(part(weights, f"{VISION}.encoder.layers.{number}"), shape.heads, x)
    x = _layer_norm(weights, f"{VISION}.post_layernorm", x, 1e-6)
    s = shape.scale
    x = x.view(models, rows, high // s, s, wide // s, s, -1).permute(0, 1, 2, 4, 3, 5, 6)
    return linear(weights, CONNECTOR, x.reshape(models, rows, high * wide // (s * s), -1))


def embed(weights: Weights, ids: torch.Tensor, images: torch.Tensor, at: torch.Tensor | int) -> torch.Tensor:
    """Token embeddings (A, B, T, D) of ids (A, B, T), image tokens in their place.

    `at` is the column of the first image token, the same in every row, or (A, B) where rows differ.
    """
    models, _, length = ids.shape
    offset = torch.arange(models, device=ids.device)[:, None, None] * weights[EMBEDDING].shape[1]
    x = functional.embedding(ids + offset, weights[EMBEDDING].flatten(0, 1)).float()
    count = images.shape[2]
    if isinstance(at, int):
        return torch.cat([x[:, :, :at], images.float(), x[:, :, at + count :]], 2)
    place = torch.arange(length, device=ids.device) - at[:, :, None]
    inside = (place >= 0) & (place < count)
    taken = images.float().gather(2, place.clamp(0, count - 1)[..., None].expand(-1, -1, -1, images.shape[3]))
    return torch.where(inside[..., None], taken, x)


def rotation(positions: torch.Tensor, shape: Shape, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine (..., width) of rotary embeddings at int positions (...)."""
    half = torch.arange(0, width, 2, device=positions.device).float() / width
    angles = positions[..., None].float() / shape.theta**half
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


def text_layer(
    layer: Weights,
    heads: int,
    eps: float,
    x: torch.Tensor,
    turned: tuple[torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None = None,
    cache: tuple[torch.Tensor, torch.Tensor] | None = None,
    column: int = 0,
) -> torch.Tensor:
    """One decoder layer on x (A, B, T, D).

    Args:
        layer: Its weights.
        heads: Attention heads.
        eps: Of the norms.
        x: Input.
        turned: Cosine and sine, broadcastable to (A * B, heads, T, D / heads).
        mask: What each token sees (A * B, 1, T, columns of the cache or T), True where it does; None: all tokens before it.
        cache: Keys and values (A * B, heads, columns, D / heads); those of x are written from `column` on.
        column: See `cache`.
    """
    normed = _rms_norm(layer, "input_layernorm", x, eps)
    q, k, v = (_split(linear(layer, f"self_attn.{n}_proj", normed), heads) for n in "qkv")
    q, k = rotate(q, *turned), rotate(k, *turned)
    if cache is not None:
        end = column + x.shape[2]
        cache[0][:, :, column:end], cache[1][:, :, column:end] = k, v
        k, v = cache[0][:, :, :end], cache[1][:, :, :end]
    seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    x = x + linear(layer, "self_attn.o_proj", _join(seen, len(x)))
    normed = _rms_norm(layer, "post_attention_layernorm", x, eps)
    gate = functional.silu(linear(layer, "mlp.gate_proj", normed))
    return x + linear(layer, "mlp.down_proj", gate * linear(layer, "mlp.up_proj", normed))


def text_layers(weights: Weights, shape: Shape) -> list[Weights]:
    return [part(weights, f"{TEXT}.layers.{number}") for number in range(shape.text_layers)]


def logits(norm: torch.Tensor, embedding: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
    """(A, B, T, vocabulary) of the last layer's output, by the final norm (A, D) and the embeddings (A, vocabulary, D)."""
    normed = _rms_norm({"norm.weight": norm}, "norm", x, eps)
    return linear({"head.weight": embedding}, "head", normed)


def hidden(
    weights: Weights, shape: Shape, pixels: torch.Tensor, ids: torch.Tensor, at: int, compiled: bool = False
) -> torch.Tensor:
    """Output (A, B, T, D) of the last layer for rows padded on the right; what stands behind a row's end is not to be used."""
    x = embed(weights, ids, image_tokens(weights, shape, pixels, compiled), at)
    turned = rotation(torch.arange(ids.shape[2], device=ids.device), shape, x.shape[3] // shape.heads)
    layer = fast(text_layer) if compiled else text_layer
    for own in text_layers(weights, shape):
        x = layer(own, shape.heads, shape.norm, x, turned)
    return x


def head(weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """The first two arguments of `logits`."""
    products = weights[f"{TEXT}.layers.0.self_attn.q_proj.weight"].dtype
    return weights[f"{TEXT}.norm.weight"], weights[EMBEDDING].to(products)


def forward(weights: Weights, shape: Shape, pixels: torch.Tensor, ids: torch.Tensor, at: int) -> torch.Tensor:
    """Logits (A, B, T, vocabulary), as `hidden`."""
    return logits(*head(weights), shape.norm, hidden(weights, shape, pixels, ids, at))
