"""The model folder and the photos that `benchmarks.training` trains with: SmolVLM-256M's shape, random weights."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, Idefics3Config
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from benchmarks.random_models import SHAPES, small
from leaml.config import resolve_model
from leaml.training.batches import Example

TRUE_SHAPE = Path(__file__).parents[2] / "shared" / "zoo" / "smolvlm256m_shape"
"""SmolVLM-256M's configuration, processor and tokenizer; where it is absent, a shipped tokenizer takes their place."""
PHOTO = (1280, 1024)
QUESTIONS = (
    "What is it?",
    "Which of the objects in the upper half of the photo is the largest, and what colour does it have?",
    "How many people stand to the left of the door, and what do they carry in their hands?",
    "Is there water?",
)
REPLIES = (
    "A bridge.",
    "The largest is the red bus in front of the old station; the two cars beside it are smaller and grey.",
    "Two.",
    "Yes, a river runs behind the trees, and a small boat lies at its bank with nobody in it.",
)


@dataclass(frozen=True)
class Photos:
    """Photos of noise and edges as JPEG bytes, and a question with its reply about each."""

    encoded: dict[str, bytes]
    examples: list[Example]

    def decode(self, image_id: str) -> Image.Image:
        """One of them, as a training step gets it."""
        return Image.open(io.BytesIO(self.encoded[image_id])).convert("RGB")

    @classmethod
    def of(cls, count: int, size: tuple[int, int] = PHOTO) -> Photos:
        """So many of them, the same at every call."""
        generator = np.random.default_rng(0)
        encoded, examples = {}, []
        for number in range(count):
            coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            encoded[f"photo{number}"] = buffer.getvalue()
            kind = number % len(QUESTIONS)
            examples.append(Example(f"photo{number}", QUESTIONS[kind], REPLIES[kind]))
        return cls(encoded, examples)


def write(folder: Path, quick: bool = False, vocabulary: int | None = None) -> int:
    """Save the model with random weights in float32, and its processor; returns the number of values in its embeddings.

    Args:
        folder: Where to.
        quick: The same architecture in a size that trains in milliseconds.
        vocabulary: Entries of embeddings and head, where they are not the model's own; the tokenizer is a shipped one then,
            whose ids are below any.
    """
    if TRUE_SHAPE.is_dir() and not quick and vocabulary is None:
        folder.mkdir(parents=True)
        for file in TRUE_SHAPE.iterdir():
            shutil.copyfile(file, folder / file.name)
        config: Any = AutoConfig.from_pretrained(folder)
    else:
        config = _shipped(folder, quick)
    if vocabulary is not None:
        config.text_config.vocab_size = vocabulary
    config.dtype = "float32"
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return int(model.get_input_embeddings().weight.numel())


def _shipped(folder: Path, quick: bool) -> Idefics3Config:
    """Save a processor of the tokenizer of a shipped model; the configuration of the model."""
    shape = SHAPES["256m"]
    processor = AutoProcessor.from_pretrained(resolve_model("leaml-tiny"))
    if quick:
        shape = small(shape)
        shape = replace(shape, text=shape.text | {"vocab_size": len(processor.tokenizer)})
    assert shape.vision is not None
    tile = shape.vision["image_size"]
    processor.image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": 4 * tile}, max_image_size={"longest_edge": tile}, do_image_splitting=True
    )
    processor.image_seq_len = shape.image_tokens
    processor.save_pretrained(folder)
    return Idefics3Config(
        vision_config=dict(shape.vision),
        text_config={**shape.text, "model_type": "llama"},
        scale_factor=shape.scale_factor,
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=processor.tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
