"""Models of known shapes with random weights, and random batches for them: for benchmarks of training, without a download.

Needs torch and transformers alone, so that it runs on a bare GPU machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Idefics3Config, LlamaConfig, PreTrainedModel

SEED = 0


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaMA (`text`), or of an Idefics3 around it (`vision`)."""

    about: str
    text: dict[str, Any]
    vision: dict[str, Any] | None = None
    scale_factor: int = 1
    """The connector joins `scale_factor` x `scale_factor` patches of an image to one token."""

    @property
    def image_tokens(self) -> int:
        """Tokens that stand for one image in the text; 0 without a vision tower."""
        side = self.vision["image_size"] // self.vision["patch_size"] // self.scale_factor if self.vision else 0
        return side**2


SHAPES = {
    "135m": Shape(
        "SmolLM2-135M's shape",
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        },
    ),
    "256m": Shape(
        "SmolVLM-256M's shape (SigLIP and SmolLM2-135M in an Idefics3)",
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49280,
        },
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
        scale_factor=4,
    ),
    "2b": Shape(
        "SmolVLM's shape (SigLIP-SO400M and SmolLM2-1.7B in an Idefics3)",
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 49155,
        },
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
        scale_factor=3,
    ),
}


def small(shape: Shape) -> Shape:
    """The same architecture, small enough to train in milliseconds."""
    layers = {"num_hidden_layers": 2, "intermediate_size": 320, "num_attention_heads": 4}
    text = {**shape.text, **layers, "hidden_size": 128, "num_key_value_heads": 2, "vocab_size": 512}
    vision = {**layers, "hidden_size": 64, "image_size": 28, "patch_size": 14} if shape.vision else None
    return replace(shape, about=f"{shape.about}, made small", text=text, vision=vision, scale_factor=1)


def build(shape: Shape, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model on `device` with frozen random weights of `dtype`, the same at every call; in training mode."""
    torch.manual_seed(SEED)
    with torch.device(device):
        if shape.vision is None:
            model = AutoModelForCausalLM.from_config(LlamaConfig(**shape.text), dtype=dtype)
        else:
            vocabulary = shape.text["vocab_size"]
            config = Idefics3Config(
                vision_config=dict(shape.vision),
                text_config={**shape.text, "model_type": "llama"},
                scale_factor=shape.scale_factor,
                image_token_id=vocabulary - 1,
                pad_token_id=vocabulary - 2,
            )
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return model.requires_grad_(False).train()


def random_batch(shape: Shape, rows: int, length: int, images: int, device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Inputs and labels of `rows` texts of `length` tokens, the first of which stand for `images` images; loss on all the rest.

    Raises ValueError if the images leave no place for text.
    """
    taken = images * shape.image_tokens if shape.vision else 0
    if taken >= length:
        msg = f"{images} images take {taken} tokens, which leaves no text in a length of {length}; raise --length"
        raise ValueError(msg)
    generator = torch.Generator().manual_seed(SEED)
    vocabulary = shape.text["vocab_size"]
    ids = torch.randint(0, vocabulary - 2, (rows, length), generator=generator)
    labels = ids.clone()
    batch = {"input_ids": ids, "labels": labels}
    if shape.vision:
        ids[:, :taken], labels[:, :taken] = vocabulary - 1, -100
        side = shape.vision["image_size"]
        batch["pixel_values"] = torch.randn(rows, images, 3, side, side, generator=generator).to(dtype)
    return {name: value.to(device) for name, value in batch.items()}


def language_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Every Linear in the layers of the language model by name; not its head, not the vision tower, not the connector."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and ".layers." in n and "vision" not in n}
