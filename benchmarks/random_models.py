"""Shapes of known models, to build with random weights: for benchmarks, without a download."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

GENERATE: dict[str, Any] = {"pairs_per_image": 1, "structured": True, "votes": 2, "max_tokens": 64}
"""What random weights write holds a pair if nothing else may be written, and is an answer if it is drawn."""
FILTER: dict[str, Any] = {
    "round_trip": False,
    "broken_text": False,
    "min_votes": None,
    "max_question_chars": 40,
    "max_answer_chars": 40,
}
"""Accepts such pairs."""


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
}


def small(shape: Shape) -> Shape:
    """The same architecture, small enough to train in milliseconds."""
    layers = {"num_hidden_layers": 2, "intermediate_size": 320, "num_attention_heads": 4}
    text = {**shape.text, **layers, "hidden_size": 128, "num_key_value_heads": 2, "vocab_size": 512}
    vision = {**layers, "hidden_size": 64, "image_size": 28, "patch_size": 14} if shape.vision else None
    return replace(shape, about=f"{shape.about}, made small", text=text, vision=vision, scale_factor=1)
