"""Chat templates that would be trained in one way and asked in another."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor

from leaml.config import ModelConfig
from leaml.vlm import load
from leaml.vlm.chat import chat_of, served_template
from leaml.vlm.collate import Collator, Turn, prompt

DATED = (
    "{%- set today = strftime_now('%Y-%m-%d') if strftime_now is defined else 'never' %}"
    "{{- '[SYS]' + today + ' ' + strftime_now('%A %-d %B %y') + '[/SYS]' }}"
)


class Tomorrow(datetime.datetime):
    """The time that a template is told; another one at every look."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.datetime(2030, 5, 17)


@pytest.mark.parametrize("kind", ["text", "several"])
def test_a_template_that_writes_the_date_writes_one_for_ever(
    tiny: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistral 3's: a model would be asked otherwise than it was trained from the next day on."""
    from transformers.utils import chat_template_utils

    processor = copy.copy(tiny("llava").processor)
    own = DATED + processor.chat_template
    processor.chat_template = own if kind == "text" else {"default": own, "other": DATED}
    before = prompt(processor, "What?")
    assert before.startswith("[SYS]2025-01-01 Wednesday 1 January 25[/SYS]")
    ids = Collator(processor)([Turn(Image.new("RGB", (32, 32)), "What?", "red")])["input_ids"]
    assert "2025-01-01" in processor.tokenizer.decode(ids[0].tolist())

    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    served = served_template(processor)
    assert served is not None
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    asked = processor.apply_chat_template(messages, chat_template=served, add_generation_prompt=True, tokenize=False)
    assert asked == before

    load.save(tiny("llava").model, processor, tmp_path / "base")
    vlm = load.load(ModelConfig(name=str(tmp_path / "base")))
    assert prompt(vlm.processor, "What?") == before
    load.save(vlm.model, vlm.processor, tmp_path / "trained")
    saved = AutoProcessor.from_pretrained(tmp_path / "trained")
    assert saved.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == before
    assert served_template(saved) is None


def test_gemma_3_is_asked_with_the_token_that_its_template_writes(shared_folder: Path, pictures: list[Image.Image]) -> None:
    """Some versions of transformers name the token as `image_token` that an image becomes, 256 times."""
    processor = AutoProcessor.from_pretrained(shared_folder / "zoo" / "gemma3")
    soft = processor.tokenizer.image_token
    asked = prompt(processor, "What colour?")
    batch = Collator(processor)([Turn(pictures[0], "What colour?", "red")])
    other = copy.copy(processor)
    other.image_token = soft
    assert soft != chat_of(processor).placeholder == chat_of(other).placeholder == "<start_of_image>"
    assert prompt(other, "What colour?") == asked
    assert asked.count("<start_of_image>") == 1
    labels = batch["labels"][0]
    assert processor.tokenizer.decode(labels[labels >= 0].tolist()) == "red<end_of_turn>"
    assert (batch["input_ids"] == processor.tokenizer.image_token_id).sum() == processor.image_seq_length
