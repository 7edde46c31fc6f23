"""Which attention kernel a model is trained with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Kernel = str | dict[str, str]
"""As transformers takes it, by part of the model where they differ."""

log = logging.getLogger(__name__)

FEW_PATCHES = 256
"""Of an image, up to which attention is cheap to keep."""
UNEVEN = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe"}
"""Types of models whose vision tower takes the patches of all images in one row."""


def kernels(device: str | torch.device, config: PreTrainedConfig, dtype: str = "bfloat16") -> list[Kernel]:
    """Those for a model, the best one first.

    "sdpa" keeps no weights of pairs of patches for the backward pass. On a CPU that takes 5.2
    instead of 8.8 GiB for four photos in a model of SmolVLM-256M's shape. A tower of few patches
    saves nothing by it, and "eager" is 1.6 times as fast there in bfloat16. Towers whose images
    have no common size attend within each image or window, which sdpa does one after the other, and
    flash-attn, where it is installed and weights have a type that it takes, at once.

    Args:
        device: Where the model runs.
        config: Its configuration, as transformers reads it.
        dtype: Type of its weights.
    """
    vision = getattr(config, "vision_config", None)
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    few = isinstance(size, int) and isinstance(patch, int) and (size // patch) ** 2 <= FEW_PATCHES
    if torch.device(device).type == "cpu":
        return ["eager"] if few else ["sdpa", "eager"]
    uneven = config.model_type in UNEVEN and dtype in ("bfloat16", "float16") and find_spec("flash_attn") is not None
    flash: list[Kernel] = [{"": "sdpa", "text_config": "sdpa", "vision_config": "flash_attention_2"}]
    return [*(flash if uneven else []), "sdpa", "eager"]


def first(load: Callable[[Kernel], Any], tried: list[Kernel], name: str) -> Any:
    """The model, loaded with the first of the kernels that it has.

    Args:
        load: Loads it with one; raises ValueError or ImportError where it has not got that one.
        tried: In this order.
        name: Of the model, for the log.
    """
    for kernel in tried[:-1]:
        try:
            return load(kernel)
        except (ValueError, ImportError) as error:
            if "attention" not in str(error).lower():
                raise
            log.info("%s has no %s attention", name, kernel)
    return load(tried[-1])
