"""The context length that an engine is given where the configuration says none.

A model for 128,000 tokens reserves memory for a prompt of as many, or does not start, although no request of a step comes near.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaml.config import ModelConfig
from leaml.engine.interface import Longest
from leaml.vlm import lengths

LONG = 8192
"""Tokens; a context of at most so many is left as it is."""
_STEP = 64
"""Context lengths are multiples of it, and have at least half of it to spare."""


def needed(model: ModelConfig, arguments: Mapping[str, Any], longest: Longest, chat: int) -> int | None:
    """Tokens that the longest request takes with the largest image; None: the model's own context will do.

    Args:
        model: Whose files say how long its context is; a folder or a hub id.
        arguments: Of vLLM's engine, with all that changes how it shows images.
        longest: Of the requests.
        chat: Tokens of a prompt without its text and its image.
    """
    own = lengths.context(model)
    if own is None or own <= LONG:
        return None
    tokens = _image_tokens(arguments) + chat + longest.text + longest.reply
    length = -(-(tokens + _STEP // 2) // _STEP) * _STEP
    return length if length < own else None


def _image_tokens(arguments: Mapping[str, Any]) -> int:
    """Tokens of the largest image, made as vLLM itself makes it to measure its memory."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.multimodal import MULTIMODAL_REGISTRY

    processor = MULTIMODAL_REGISTRY.create_processor(EngineArgs(**arguments).create_model_config())
    made = processor.get_dummy_mm_inputs({"image": 1})
    return sum(each.length for each in made["mm_placeholders"]["image"])
