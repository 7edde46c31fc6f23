"""A model without its weights, of which layers, shapes and what passes through can be told in a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from leaml.vlm import load

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from leaml.config import ModelConfig


def without_weights(config: ModelConfig) -> PreTrainedModel:
    """The model of a configuration that is at hand, in float32 on the meta device. Raises ModelError."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    found = load.from_small_files(config, AutoConfig, "configuration")
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(found, dtype=torch.float32)
    return model
