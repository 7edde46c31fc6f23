"""Tiny random models of four families, each with its processor, built from code.

The PIL image processors are named outright, whose pixels are the same everywhere, and Qwen's video processor is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    GemmaConfig,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from research.tiny import build

FAMILIES = ("idefics3", "idefics3-tiles", "llava", "qwen2_5_vl", "paligemma")

SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'assistant' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in message['content'] %}"
    "{{ 'ASSISTANT: ' + content['text'] + ' '}}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Made(NamedTuple):
    """A random model, its processor, and the token a reply ends with."""

    family: str
    model: Any
    processor: Any
    end: str


class ProcessorWithoutVideo(Qwen2_5_VLProcessor):
    """Qwen's processor without its video processor."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return None if argument_name == "video_processor" else super().check_argument_for_proper_class(argument_name, argument)


def _tokenizer(*special: str) -> PreTrainedTokenizerFast:
    tokenizer = build.build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)}, replace_extra_special_tokens=False)
    return tokenizer


def _text(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }


_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def _idefics3() -> Made:
    tokenizer = build.build_tokenizer()
    return Made("idefics3", build.build_model(tokenizer), build.build_processor(tokenizer), build.END)


def _idefics3_tiles() -> Made:
    """As real SmolVLM: images are cut into tiles, a different number each, and the template writes `Assistant:` + ` reply`."""
    tokenizer = _tokenizer("<|im_start|>", *(f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)))
    images = Idefics3ImageProcessorPil(size={"longest_edge": 128}, max_image_size={"longest_edge": 64}, do_image_splitting=True)
    processor = Idefics3Processor(images, tokenizer, image_seq_len=build.IMAGE_TOKENS, chat_template=SMOLVLM_TEMPLATE)
    model: Idefics3ForConditionalGeneration = build.build_model(tokenizer)
    return Made("idefics3-tiles", model, processor, "<end_of_utterance>")


def _llava() -> Made:
    tokenizer = _tokenizer()
    vision = CLIPVisionConfig(**_VISION, image_size=32, patch_size=8)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    text = LlamaConfig(**_text(tokenizer))
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_id, vision_feature_layer=-2)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return Made("llava", LlavaForConditionalGeneration(config), processor, build.END)


def _qwen() -> Made:
    tokenizer = _tokenizer("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer.image_token = "<|image_pad|>"
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={**_text(tokenizer), "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 4]}},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 28,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 12)
    processor = ProcessorWithoutVideo(images, tokenizer, None, chat_template=QWEN_TEMPLATE)
    return Made("qwen2_5_vl", Qwen2_5_VLForConditionalGeneration(config), processor, "<|im_end|>")


def _paligemma() -> Made:
    tokenizer = _tokenizer("<bos>")
    tokenizer.bos_token, tokenizer.image_token_id = "<bos>", tokenizer.convert_tokens_to_ids("<image>")
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer)
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**_VISION, image_size=32, patch_size=8, vision_use_head=False),
        text_config=GemmaConfig(**_text(tokenizer)),
        image_token_index=processor.image_token_id,
        projection_dim=32,
    )
    return Made("paligemma", PaliGemmaForConditionalGeneration(config), processor, build.END)


_MAKERS = dict(zip(FAMILIES, (_idefics3, _idefics3_tiles, _llava, _qwen, _paligemma), strict=True))


@pytest.fixture(scope="session")
def tiny() -> Any:
    """Function: family name -> `Made`; every family is built once, tests must not change the weights."""
    made: dict[str, Made] = {}

    def get(family: str) -> Made:
        if family not in made:
            torch.manual_seed(0)
            one = _MAKERS[family]()
            one.model.set_attn_implementation("eager")
            made[family] = one._replace(model=one.model.eval())
        return made[family]

    return get


@pytest.fixture(params=FAMILIES)
def made(request: pytest.FixtureRequest, tiny: Any) -> Made:
    return tiny(request.param)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Four images of different sizes and colours."""
    sizes, colours = ((64, 64), (96, 64), (48, 80), (128, 40)), ("red", "green", "blue", "white")
    return [Image.new("RGB", s, c) for s, c in zip(sizes, colours, strict=True)]
