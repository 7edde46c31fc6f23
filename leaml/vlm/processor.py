"""What is used of the processors and tokenizers of transformers, whose own classes leave most of it untyped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypedDict

import torch
from PIL import Image


class Message(TypedDict):
    """One message of a chat: "user" or "assistant", with parts such as {"type": "image"} and {"type": "text", "text": ...}."""

    role: str
    content: list[dict[str, str]]


class Tokenizer(Protocol):
    """Text to token ids; ids of special tokens that it does not have are None."""

    bos_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    all_special_ids: list[int]

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, list[int]]: ...
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...
    def get_added_vocab(self) -> dict[str, int]: ...


class Processor(Protocol):
    """Images and texts to the tensors that a model is called with."""

    tokenizer: Tokenizer
    chat_template: str | dict[str, str] | None

    def __call__(
        self, *, images: list[list[Image.Image]], text: list[str], padding: bool, return_tensors: str, **options: bool
    ) -> Mapping[str, torch.Tensor]: ...
    def apply_chat_template(
        self, conversation: Sequence[Message], *, chat_template: str | None, add_generation_prompt: bool, tokenize: bool
    ) -> str: ...
    def save_pretrained(self, save_directory: str | Path) -> object: ...
