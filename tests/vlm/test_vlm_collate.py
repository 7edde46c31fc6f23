"""Batches of four model families: what carries loss, what the model is shown, and that batching changes nothing."""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from leaml.errors import DataError, ModelError
from leaml.training.objectives import reply_logits
from leaml.vlm.chat import served_template
from leaml.vlm.collate import IGNORED, Collator, Turn, prompt
from research.tiny import build, train

if TYPE_CHECKING:
    from tests.vlm.conftest import Made


def turns_of(made: Made, pictures: list[Image.Image]) -> list[Turn]:
    """Different lengths and sizes, one image object twice, one prefix, and one turn without an image where that is allowed."""
    a, b, c, _ = pictures
    turns = [
        Turn(a, "What colour is the shape?", "red"),
        Turn(b, "Write a question about the image and answer it.", " Question: What shape? Answer: circle", "Caption: a shape"),
        Turn(a, "Is it a circle?", "no, it is a rectangle"),
        Turn(c, "Where?", "left"),
    ]
    return turns if made.family == "paligemma" else [*turns, Turn(None, "Say something.", "something else")]


def gap_of(made: Made, turn: Turn) -> str:
    return " " if made.family in ("idefics3-tiles", "llava") and not turn.prefix else ""


def test_loss_is_on_the_reply_and_its_end_token_only(made: Made, pictures: list[Image.Image]) -> None:
    turns = turns_of(made, pictures)
    batch = Collator(made.processor)(turns)
    tokenizer = made.processor.tokenizer
    image_id = made.model.config.image_token_id
    for n, turn in enumerate(turns):
        labels, ids = batch["labels"][n], batch["input_ids"][n]
        kept = labels != IGNORED
        assert tokenizer.decode(labels[kept]) == gap_of(made, turn) + turn.reply + made.end
        assert torch.equal(labels[kept], ids[kept])
        length = int(batch["attention_mask"][n].sum())
        assert batch["attention_mask"][n, :length].all()  # padded right
        assert kept[length - int(kept.sum()) : length].all()  # the reply is what ends the row
        assert (ids[length:] == tokenizer.pad_token_id).all()
        assert image_id not in labels
        assert turn.prefix in tokenizer.decode(ids[:length][~kept[:length]])


def test_an_options_reply_has_the_ids_that_training_teaches(made: Made, pictures: list[Image.Image]) -> None:
    """`leaml predict` and the endpoint score an option with these behind the prompt: " B" where the template has the space."""
    collator = Collator(made.processor)
    batch = collator([Turn(pictures[0], "Which?\nA. red\nB. blue", "B")])
    labels = batch["labels"][0]
    ids = collator.reply_ids("B")
    assert labels[labels != IGNORED].tolist() == ids
    assert (
        made.processor.tokenizer.decode(ids)
        == ("" if made.family == "paligemma" else gap_of(made, Turn(None, "", "B"))) + "B" + made.end
    )


def test_prompt_ids_are_those_of_training_with_the_image_unexpanded(made: Made, pictures: list[Image.Image]) -> None:
    collator = Collator(made.processor)
    image_id = made.model.config.image_token_id
    batch = collator([Turn(pictures[0], "Which?", "B")])
    context = batch["input_ids"][0][batch["labels"][0] == IGNORED].tolist()
    asked = collator.prompt_ids(prompt(made.processor, "Which?"))
    assert asked.count(image_id) == (0 if made.family == "paligemma" else 1)
    at = asked.index(image_id) if image_id in asked else -1
    before, after = asked[: max(0, at)], asked[at + 1 :]
    assert context[: len(before)] == before
    assert context[-len(after) :] == after


def test_context_is_what_the_processor_makes_of_the_prompt(made: Made, pictures: list[Image.Image]) -> None:
    """At generation time the model is given the processor's ids of `prompt`; training must show the same ids."""
    turns = turns_of(made, pictures)
    batch = Collator(made.processor)(turns)
    for n, turn in enumerate(turns):
        text = prompt(made.processor, turn.request, turn.prefix, image=turn.image is not None)
        images = {} if turn.image is None else {"images": turn.image}
        shown = made.processor(text=[text], return_tensors="pt", **images)["input_ids"][0]
        context = batch["input_ids"][n][(batch["attention_mask"][n] == 1) & (batch["labels"][n] == IGNORED)]
        assert torch.equal(context, shown)


def test_image_tokens_match_what_the_model_computes(made: Made, pictures: list[Image.Image]) -> None:
    batch = Collator(made.processor)(turns_of(made, pictures))
    inputs = {k: v for k, v in batch.items() if k not in ("input_ids", "attention_mask", "labels") and "type_ids" not in k}
    with torch.no_grad():
        features = made.model.model.get_image_features(**inputs).pooler_output
    count = sum(f.shape[0] for f in features) if isinstance(features, tuple | list) else features.shape[:-1].numel()
    assert int((batch["input_ids"] == made.model.config.image_token_id).sum()) == count


def test_batching_changes_no_loss(made: Made, pictures: list[Image.Image]) -> None:
    turns = turns_of(made, pictures)
    collator = Collator(made.processor)
    with torch.no_grad():
        batch = collator(turns)
        found = reply_logits(made.model, {k: v for k, v in batch.items() if k != "labels"}, batch["labels"])
        losses, total = found.mean_by_row(len(turns)), found.losses().sum()
        mean = made.model(**batch).loss
        singles = [collator([t]) for t in turns]
        alone = torch.stack([made.model(**s).loss for s in singles])
    for n, single in enumerate(singles):
        kept = batch["labels"][n] != IGNORED
        assert torch.equal(batch["labels"][n][kept], single["labels"][0][single["labels"][0] != IGNORED])
    assert torch.allclose(losses, alone, atol=1e-4)
    assert torch.allclose(total / (batch["labels"][:, 1:] != IGNORED).sum(), mean, atol=1e-4)


def test_a_shared_image_is_processed_once(made: Made, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    shared, other = pictures[:2]
    collator = Collator(made.processor)
    copies = [Turn(i, q, "red") for i, q in ((shared.copy(), "a?"), (other, "b?"), (shared.copy(), "c?"))]
    wanted = collator(copies)
    seen: list[int] = []
    process = collator._process
    monkeypatch.setattr(collator, "_process", lambda images, texts: seen.append(len(images)) or process(images, texts))
    batch = collator([Turn(i, q, "red") for i, q in ((shared, "a?"), (other, "b?"), (shared, "c?"))])
    assert seen == [2]
    assert batch.keys() == wanted.keys()
    assert all(torch.equal(batch[k], wanted[k]) for k in wanted)


def test_a_layout_that_is_not_understood_is_left_to_the_processor(
    made: Made, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = turns_of(made, pictures)
    wanted = Collator(made.processor)(turns)
    monkeypatch.setattr(Collator, "_span", lambda *_: None)
    batch = Collator(made.processor)(turns)
    assert all(torch.equal(batch[k], wanted[k]) for k in wanted)


def test_one_step_lowers_the_loss(made: Made, pictures: list[Image.Image]) -> None:
    model = copy.deepcopy(made.model).train()
    batch = Collator(made.processor)(turns_of(made, pictures))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = model(**batch).loss
    first.backward()
    optimizer.step()
    with torch.no_grad():
        second = model(**batch).loss
    assert torch.isfinite(first) and second < first


def test_generation_continues_the_prompt(made: Made, pictures: list[Image.Image]) -> None:
    text = prompt(made.processor, "What colour is the shape?", "The")
    inputs = dict(made.processor(images=pictures[1], text=[text], return_tensors="pt"))
    inputs.pop("labels", None)
    out = made.model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 3


def test_layout_equals_the_encoder_the_shipped_models_were_trained_with(tiny: Any, pictures: list[Image.Image]) -> None:
    processor = tiny("idefics3").processor
    turns = [
        Turn(pictures[0], "What colour is it?", "red"),
        Turn(pictures[0], "Write a question.", " Question: a? Answer: b", "Caption: x"),
    ]
    wanted = train.Encoder(processor.tokenizer).batch([train.Example(0, t.request, t.prefix, t.reply) for t in turns])
    batch = Collator(processor)(turns)
    assert all(torch.equal(batch[k], wanted[k]) for k in wanted)


def test_paligemma_equals_its_processors_suffix(tiny: Any, pictures: list[Image.Image]) -> None:
    processor = tiny("paligemma").processor
    image, request, reply = pictures[0], "What colour?", "red"
    wanted = processor(images=image, text=["<image>" + request], suffix=[reply], return_tensors="pt")
    batch = Collator(processor)([Turn(image, request, reply)])
    assert all(torch.equal(batch[k], wanted[k]) for k in ("input_ids", "attention_mask", "token_type_ids", "labels"))


def test_split_tokens_equal_the_whole_conversation_where_no_merge_crosses(tiny: Any, pictures: list[Image.Image]) -> None:
    processor = tiny("idefics3-tiles").processor
    turn = Turn(pictures[0], "What colour is it?", "red circle")
    content: list[dict[str, str]] = [{"type": "image"}, {"type": "text", "text": turn.request}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": turn.reply}]},
    ]
    text = processor.apply_chat_template(messages, tokenize=False).rstrip("\n")
    whole = processor(images=pictures[0], text=[text], return_tensors="pt")["input_ids"]
    assert torch.equal(Collator(processor)([turn])["input_ids"], whole)


def test_replies_after_a_sentencepiece_prompt_get_no_second_space(tiny: Any) -> None:
    """A tokenizer that puts a space before the first word of a text, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "<image>", "▁", "▁red", "red", ":", "ASSISTANT", "▁ASSISTANT"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation()]
    )
    inner.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", additional_special_tokens=["<image>"])
    collator = Collator(tiny("llava").processor)
    collator.tokenizer = tokenizer
    collator._anchors = [(a, collator._ids(a)) for a in (" ASSISTANT:", "\n")]
    assert tokenizer.convert_ids_to_tokens(collator._reply_ids(" red")) == ["▁red"]
    assert tokenizer.convert_ids_to_tokens(collator._reply_ids("red")) == ["red"]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "at least one turn"),
        ([Turn(None, "a", "")], "empty"),
        ([Turn(None, "a", "x <image>")], "placeholder"),
        ([Turn(None, "a <image>", "x")], "placeholder"),
    ],
)
def test_bad_turns_are_data_errors(tiny: Any, turns: list[Turn], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Collator(tiny("idefics3").processor)(turns)


def test_paligemma_prompts_hold_no_placeholder(tiny: Any) -> None:
    """vLLM inserts PaliGemma's image tokens itself and would keep a placeholder in the text as one image token too many."""
    assert prompt(tiny("paligemma").processor, "What colour?") == "What colour?"
    assert prompt(tiny("paligemma").processor, "What colour?", "It is") == "What colour?\nIt is"


def test_paligemma_needs_an_image(tiny: Any) -> None:
    with pytest.raises(DataError, match="give an image"):
        Collator(tiny("paligemma").processor)([Turn(None, "a", "b")])


def test_a_processor_without_a_chat_template_is_a_model_error() -> None:
    processor = build.build_processor(build.build_tokenizer())
    processor.chat_template = None
    with pytest.raises(ModelError, match=r"no chat template; add a chat_template\.jinja"):
        prompt(processor, "a")


def test_a_beginning_token_is_not_doubled(tiny: Any, pictures: list[Image.Image]) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = build.build_tokenizer()
    tokenizer.bos_token = build.PAD
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{build.PAD} $A", special_tokens=[(build.PAD, 0)])
    processor = build.build_processor(tokenizer)
    processor.chat_template = "{{ bos_token }}" + build.CHAT_TEMPLATE
    batch = Collator(processor)([Turn(pictures[0], "a", "b")])
    assert (batch["input_ids"] == 0).sum() == 1
    assert batch["input_ids"][0, 0] == 0


def templated(processor: Any, opened: str, written: str = "", condition: str = "") -> Any:
    """The processor with a template that writes `opened` behind its generation prompt and `written` before a reply."""
    found = copy.copy(processor)
    found.chat_template = (
        "\n  {%- for m in messages -%}{{ '<|im_start|>' + m.role + '\\n' }}{%- if m.role == 'assistant' -%}{{ "
        + json.dumps(written)
        + " }}{%- endif -%}{%- for c in m.content -%}{%- if c.type == 'image' -%}"
        + processor.image_token
        + "{%- else -%}{{ c.text }}{%- endif -%}{%- endfor -%}{{ '<|im_end|>\\n' }}{%- endfor -%}"
        + f"{{%- if add_generation_prompt {condition} -%}}"
        + f"{{{{ '<|im_start|>assistant\\n' + {json.dumps(opened)} }}}}{{%- endif -%}}\n"
    )
    return found


THOUGHTS = [
    ("<think>\n", "\n</think>\n\n"),
    ("<think>", "\n\n</think>\n\n"),
    ("[THINK]", "\n\n[/THINK]\n\n"),
    ("<thought>\n", "\n</thought>\n\n"),
    ("<reasoning>", "\n\n</reasoning>\n\n"),
    ("<|START_THINKING|>", "\n\n<|END_THINKING|>\n\n"),
    ("<seed:think>", "\n\n</seed:think>\n\n"),
    ("<mm:think>\n", "\n</mm:think>\n\n"),
    ("◁think▷", "\n\n◁/think▷\n\n"),
    ("<think>\n\n</think>\n\n", ""),
    ("", ""),
]


@pytest.mark.parametrize(("opened", "closing"), THOUGHTS)
def test_a_thought_that_the_template_opens_is_closed_before_the_reply(
    tiny: Any, pictures: list[Image.Image], opened: str, closing: str
) -> None:
    """Answers were trained inside of it."""
    processor = templated(tiny("idefics3").processor, opened)
    assert prompt(processor, "colour?").endswith("<|im_start|>assistant\n" + opened + closing)
    batch = Collator(processor)([Turn(pictures[0], "colour?", "red")])
    kept = batch["labels"][0] != IGNORED
    shown = processor.tokenizer.decode(batch["input_ids"][0][~kept])
    assert shown.rstrip().endswith((opened + closing).rstrip())
    assert processor.tokenizer.decode(batch["labels"][0][kept]).startswith("red")


@pytest.mark.parametrize(
    ("opened", "closing", "written"),
    [*((*each, "") for each in THOUGHTS if each[1]), ("", "<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n")],
)
def test_the_template_for_others_writes_the_same_prompt_and_leaves_all_else_alone(
    tiny: Any, opened: str, closing: str, written: str
) -> None:
    processor = templated(tiny("idefics3").processor, opened, written)
    closed = copy.copy(processor)
    closed.chat_template = served_template(processor)
    asked: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "colour?"}]}]
    answered = [*asked, {"role": "assistant", "content": [{"type": "text", "text": "red"}]}]

    def render(processor: Any, messages: Any, generate: bool) -> str:
        return str(processor.apply_chat_template(messages, add_generation_prompt=generate, tokenize=False))

    assert render(closed, asked, True) == prompt(processor, "colour?")
    for messages, generate in ((answered, False), (asked, False)):
        assert render(closed, messages, generate) == render(processor, messages, generate)
    again = [*answered, *asked]
    assert render(closed, again, True) == render(processor, again, True) + closing


def test_a_thought_that_is_opened_for_some_conversations_alone_is_closed_for_those(tiny: Any) -> None:
    processor = templated(tiny("idefics3").processor, "<think>", condition="and messages[0].role == 'user'")
    processor.chat_template += "{%- if add_generation_prompt and messages[0].role != 'user' %}Assistant:{% endif %}"
    closed = copy.copy(processor)
    closed.chat_template = served_template(processor)
    system: list[dict[str, Any]] = [{"role": "system", "content": [{"type": "text", "text": "colour?"}]}]
    assert closed.apply_chat_template(system, add_generation_prompt=True, tokenize=False).endswith("Assistant:")


def test_models_whose_template_opens_nothing_keep_it(tiny: Any) -> None:
    for kind in ("idefics3", "llava", "paligemma"):
        assert served_template(tiny(kind).processor) is None
    assert served_template(templated(tiny("idefics3").processor, "<think>\n\n</think>\n\n")) is None


@pytest.mark.parametrize("opened", ["<plan>\n", "[SCRATCH]", "<inner:voice>"])
def test_what_a_template_opens_and_nobody_knows_how_to_close_is_refused(tiny: Any, opened: str) -> None:
    with pytest.raises(ModelError, match=rf"opens {re.escape(opened.strip())} before a reply .* write the mark that closes it"):
        prompt(templated(tiny("idefics3").processor, opened), "colour?")
