"""Makes a model ready to be trained: types of its weights, and what is kept for the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import nn
from transformers.utils import is_liger_kernel_available

from leaml.errors import ModelError
from leaml.vlm.precision import Precision, compute_dtype

if TYPE_CHECKING:
    from leaml.vlm.load import VLM

SMALL = 100_000_000
"""Parameters up to which activations are kept where nobody says otherwise."""


def float32_masters(parameters: Iterable[nn.Parameter], everything: bool) -> None:
    """Hold the weights that are trained in float32.

    An update of AdamW is some 1e-5 of a weight, a step of bfloat16 is 4e-3 of it: updates of bfloat16 weights are mostly
    rounded away.

    Args:
        parameters: Of which those that are trained have `requires_grad`.
        everything: Convert the others too.
    """
    for parameter in parameters:
        if parameter.dtype in (torch.bfloat16, torch.float16) and (everything or parameter.requires_grad):
            parameter.data = parameter.data.float()


def one_type(model: nn.Module, precision: Precision, device: str) -> bool:
    """Whether frozen weights must have the type of the trained ones.

    In float32 they must, as products want two factors of one type; autocast brings those together,
    and so do adapters. On a CPU norms take no float16 beside bfloat16.

    Args:
        model: With its adapter, where it has one.
        precision: That it is trained in.
        device: Where it is trained.
    """
    kind = torch.device(device).type
    half = compute_dtype(precision, kind) != torch.float32
    if kind == "cpu" and any(p.dtype == torch.float16 for p in model.parameters()):
        return True
    return not half or not (hasattr(model, "peft_config") or mixes_types(model.config))


def mixes_types(config: object) -> bool:
    """Whether a model of transformers, by its configuration, takes weights of two types under autocast.

    SmolVLM gives what its image features are the type of its first weight, and puts them among embeddings of another one.
    """
    return getattr(config, "model_type", None) != "smolvlm"


def checkpoint_activations(vlm: VLM, wanted: Literal["auto"] | bool) -> bool:
    """Let the layers of the language model and the vision tower compute their activations again in the backward pass.

    Args:
        vlm: The model, in which adapters may be.
        wanted: "auto": for models of more than `SMALL` parameters that can.

    Returns:
        Whether they do.

    Raises:
        ModelError: The model cannot, and it was asked for.
    """
    able = bool(getattr(vlm.model, "supports_gradient_checkpointing", False))
    if wanted == "auto":
        wanted = able and sum(p.numel() for p in vlm.model.parameters()) > SMALL
    if not wanted:
        return False
    if not able:
        msg = f"the model {vlm.name!r} cannot compute activations again; set activation_checkpointing to false"
        raise ModelError(msg)
    vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return True


class Holding(Protocol):
    """A layer that puts what it trains into a frozen weight for each product, or holds it there for many (neuron adapters)."""

    def hold(self) -> None:
        """Until `release`; what is trained keeps its values meanwhile."""
        ...

    def release(self) -> None:
        """Give the weight back every bit."""
        ...


@contextlib.contextmanager
def held(model: nn.Module) -> Iterator[None]:
    """Let the layers of a model that can hold what they train, for the passes between two updates."""
    modules: Iterable[Any] = model.modules()
    layers: list[Holding] = [module for module in modules if hasattr(type(module), "hold")]  # asked each step: quick
    try:
        for layer in layers:
            layer.hold()
        yield
    finally:
        for layer in layers:
            layer.release()


def fuse_layers(model: nn.Module, device: str) -> bool:
    """Let Liger's kernels compute norms, rotary positions and gated layers, on a GPU where Liger is installed.

    Its losses are left out: here logits are made of reply tokens alone. What the model computes is the same but for rounding.

    Args:
        model: Patched in place, with or without an adapter; one whose architecture Liger does not have stays as it is.
        device: Where it is trained.

    Returns:
        Whether Liger was asked.
    """
    if torch.device(device).type != "cuda" or not is_liger_kernel_available():
        return False
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    return True
