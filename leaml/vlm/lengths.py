"""How many tokens a request and its reply take in a model, and how many its context has; loads no weights."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from leaml import _compat
from leaml.config import ModelConfig
from leaml.vlm import load
from leaml.vlm.collate import CACHE, Collator, Turn
from leaml.vlm.processor import Processor

_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""Under which a text model's configuration says how long its context is; vLLM takes the smallest, and so does this module."""
_NOT_SCALED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
"""Kinds of rotary embedding whose factor the length in the configuration already has."""


DIFFERENT, ALIKE = 3, 10
"""Numbers that a processor must have told rightly before it is believed: so many different ones, or so many in all."""


@dataclass(frozen=True)
class Length:
    """Tokens of one request with its image and its reply; `reply` has its end token, `text` all that is around the image."""

    image: int
    text: int
    reply: int


def context(config: ModelConfig) -> int | None:
    """Tokens of prompt and reply together that vLLM gives a model unless it is told otherwise; None: its files do not say.

    Raises:
        ModelError: The model's configuration cannot be read.
    """
    from transformers import AutoConfig

    found = load.from_small_files(config, AutoConfig, "configuration")
    text = found.get_text_config()
    known = [value for key in _KEYS if (value := getattr(text, key, None)) is not None]
    given = getattr(text, "model_max_length", None)
    if given is None and not known:
        return None
    length = float(given or min(known))
    rope = getattr(text, "rope_parameters", None) or {}
    # models with several kinds of layers have a dictionary for each kind
    kinds = [kind for kind in ([rope] if "rope_type" in rope else rope.values()) if isinstance(kind, dict)]
    if any(kind.get("rope_type") == "longrope" for kind in kinds):
        return int(getattr(text, "original_max_position_embeddings", None) or length)
    factors = [kind.get("factor") for kind in kinds if kind.get("rope_type") not in _NOT_SCALED]
    scaled = [factor for factor in factors if factor] if "gemma3" not in str(text.model_type) else []
    return int(length * (scaled[-1] if scaled else 1.0))


class Lengths:
    """Counts tokens as training and the engine do, with the processor of the model."""

    def __init__(self, processor: Processor) -> None:
        self._collator = Collator(processor)
        self._texts: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._images: dict[tuple[int, int], int] = {}
        self._right: list[int] | None = []  # numbers of tokens that the processor told rightly; None: it told a wrong one

    @classmethod
    def of_model(cls, config: ModelConfig) -> Lengths:
        """Those of a model. Raises ModelError when its processor cannot be loaded."""
        return cls(load.processor(config))

    def texts(self, request: str, reply: str, prefix: str = "") -> tuple[int, int]:
        """Tokens of a prompt, whose image counts as its placeholder alone, and of the reply.

        Args:
            request: The question or instruction.
            reply: As it is trained; its end token is counted.
            prefix: Forced beginning of the reply, counted with the prompt.

        Raises:
            DataError: As the collator's.
        """
        key = (request, reply, prefix)
        if key not in self._texts:
            if len(self._texts) >= CACHE:
                self._texts.clear()
            prompt = self._collator.prompt_ids(self._collator.chat.prompt(request, prefix))
            self._texts[key] = (len(prompt), len(self._collator.reply_ids(reply, prefix, request)))
        return self._texts[key]

    def of(self, request: str, reply: str, size: tuple[int, int]) -> Length:
        """Tokens of a request about an image and its reply.

        Args:
            request: The question or instruction.
            reply: As it is trained; its end token is counted.
            size: Width and height of the image.

        Raises:
            DataError: As `texts`.
        """
        text, answer = self.texts(request, reply)
        return Length(self.image(size), text, answer)

    def image(self, size: tuple[int, int]) -> int:
        """Tokens that an image of `size` (width, height) adds to a prompt; processors look at its size alone.

        Where a processor counts them without an image, it is believed once it has been right often enough: to make an
        image of every size that is asked for takes as long as the images themselves.
        """
        if size not in self._images:
            if len(self._images) >= CACHE:
                self._images.clear()
            self._images[size] = self._count(size)
        return self._images[size]

    def _count(self, size: tuple[int, int]) -> int:
        if self._right is None:
            return self._made(size)
        counted = _compat.image_tokens(self._collator.processor, size)
        if counted is not None and (len(set(self._right)) >= DIFFERENT or len(self._right) >= ALIKE):
            return counted - 1  # one token stands in the text already
        found = self._made(size)
        self._right = [*self._right, found] if counted is not None and counted - 1 == found else None
        return found

    def _made(self, size: tuple[int, int]) -> int:
        """Counted in the batch that the collator makes of an image."""
        batch = self._collator([Turn(Image.new("RGB", size), "x", "x")])
        return int(batch["input_ids"].shape[1]) - sum(self.texts("x", "x"))
