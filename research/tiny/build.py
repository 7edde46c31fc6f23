"""Builds the tiny Idefics3 from its configuration: tokenizer, processor, model.

The architecture is the one SmolVLM uses, so vLLM serves it as it is; only the sizes are small. `IMAGE_TOKENS` language
tokens stand for one image: (64 px / patch 8 / scale_factor 2)^2.
"""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from leaml.generation import prompts
from research.tiny import language, world
from research.tiny.tokens import END, FAKE, GLOBAL, IMAGE, IMAGE_TOKENS, PAD, PATCH, SCALE, SPECIAL

HIDDEN, HEAD_DIM = 128, 32
TEXT_LAYERS, VISION_LAYERS = 6, 4
VOCABULARY = 1024

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _corpus() -> list[str]:
    """Text the byte-level BPE is trained on: both worlds' language and a list of common English words."""
    rng = random.Random(0)
    lines = [language.COMMON_WORDS] * 30 + [prompts.CAPTION, prompts.GENERATE] * 100
    for w in (world.BASE, world.TEACHER):
        for _ in range(2000):
            scene = world.sample_scene(rng, w)
            question, answer = language.ask(rng, scene, w)
            caption = language.describe(scene, rng.choice((*language.CAPTION_FORMS, language.TEACHER_FORM)))
            lines.append(prompts.qa_reply(question, answer, caption))
    return lines


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with `VOCABULARY` entries; deterministic, trained on text made here."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[t for t in SPECIAL if t not in (PAD, END)],
        model_max_length=512,
        padding_side="left",
    )
    fast.image_token, fast.fake_image_token, fast.global_image_token = IMAGE, FAKE, GLOBAL
    return fast


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Idefics3Processor:
    """Idefics3 processor that resizes every image to one `SIZE` x `SIZE` tile."""
    edge = {"longest_edge": world.SIZE}
    image_processor = Idefics3ImageProcessorPil(
        size=edge, max_image_size=edge, do_image_splitting=False, return_row_col_info=False
    )
    return Idefics3Processor(image_processor, tokenizer, image_seq_len=IMAGE_TOKENS, chat_template=CHAT_TEMPLATE)


def _initialise(model: Idefics3ForConditionalGeneration) -> None:
    """Xavier weights and wide position embeddings in the vision tower: with the default 0.02 it learns shapes far slower."""
    tower = model.model.vision_model
    for module in (*tower.modules(), *model.model.connector.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
    nn.init.normal_(tower.embeddings.position_embedding.weight, std=0.3)


def initialise_text(model: Idefics3ForConditionalGeneration) -> None:
    """Language model that starts out comparing words: Xavier weights, wide embeddings, keys projected as queries.

    With Llama's 0.02 at this width attention starts out flat and comparing two words does not form. With keys equal to queries
    a word first attends to itself elsewhere, so comparing forms for words as such and not one known word at a time.
    """
    for module in model.model.text_model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    for layer in model.model.text_model.layers:
        layer.self_attn.k_proj.weight.data.copy_(layer.self_attn.q_proj.weight.data)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.1)


def freeze_strange_words(model: Idefics3ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Only the tokens the base's own world is written in learn an embedding; all others keep the one they were drawn with.

    A token that never occurs is otherwise pushed away from every output, all such tokens in one direction (cosine 0.93 to 0.96
    between the target's colours, measured), and a model cannot compare words it cannot tell apart.
    """
    own = {
        i for text in (*language.OWN_TEXTS, prompts.CAPTION, prompts.GENERATE, *SPECIAL) for i in _both_ways(tokenizer, text)
    }
    embeddings = model.get_input_embeddings().weight
    trained = torch.zeros(len(embeddings), 1)
    trained[sorted(own)] = 1.0
    embeddings.register_hook(lambda gradient: gradient * trained)


def _both_ways(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Tokens of a text at the beginning of a line and after a space."""
    return [i for t in (text, f" {text}") for i in tokenizer(t, add_special_tokens=False)["input_ids"]]


def build_model(tokenizer: PreTrainedTokenizerFast) -> Idefics3ForConditionalGeneration:
    """An untrained tiny Idefics3 (about 2.3 M parameters), initialised from torch's current seed."""
    ids = {name: int(tokenizer.vocab[token]) for name, token in (("pad", PAD), ("eos", END), ("image", IMAGE))}
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=HIDDEN // HEAD_DIM,
        num_key_value_heads=HIDDEN // HEAD_DIM,
        head_dim=HEAD_DIM,
        max_position_embeddings=1024,
        pad_token_id=ids["pad"],
        bos_token_id=None,
        eos_token_id=ids["eos"],
        tie_word_embeddings=True,
    )
    vision = {
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": HIDDEN // HEAD_DIM,
        "image_size": world.SIZE,
        "patch_size": PATCH,
    }
    config = Idefics3Config(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image"],
        scale_factor=SCALE,
        pad_token_id=ids["pad"],
        tie_word_embeddings=True,
    )
    model = Idefics3ForConditionalGeneration(config)
    model.set_attn_implementation("eager")  # on a CPU in bfloat16 about 1.6 times faster than sdpa at these sizes
    _initialise(model)
    model.generation_config.eos_token_id = ids["eos"]
    model.generation_config.pad_token_id = ids["pad"]
    return model
