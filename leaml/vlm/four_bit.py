"""Frozen weights of the language model in 4 bits, for LoRA beside them (QLoRA, arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from leaml.errors import ConfigError


def require() -> None:
    """Raise ConfigError where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        msg = "lora.quantization nf4 needs bitsandbytes, which is not installed: pip install bitsandbytes, or set it to null"
        raise ConfigError(msg)


def settings(language: Collection[str], linears: Collection[str], computed_in: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told: NF4 with quantised constants for the Linears of the language model, nothing else.

    Vision tower and connector are a small part of the weights, and suffer most from it.

    Args:
        language: Names of the language model's Linears.
        linears: Those of all Linears.
        computed_in: Type of the products.
    """
    require()
    from transformers import BitsAndBytesConfig

    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed_in,
        llm_int8_skip_modules=sorted(set(linears) - set(language)),
    )
    return {"quantization_config": quantised}


def are_in(model: nn.Module) -> bool:
    """Whether a model has weights in 4 bits."""
    return getattr(model, "is_loaded_in_4bit", False) is True
