"""The text around a request and a reply, taken from the processor's own chat template.

The template is rendered once per processor with marker texts; a prompt is then string concatenation.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from leaml.errors import DataError, ModelError
from leaml.text.thoughts import open_thought
from leaml.vlm.processor import Message, Processor, Tokenizer

_REQUEST, _REPLY = "LEAMLrequestLEAML", "LEAMLreplyLEAML"
_OPENED = re.compile(r"(<[^<>|/\s]+>|\[[A-Z_]+\])\s*$")
"""A tag at the end of a generation prompt; those with bars are of roles."""
_CLOSED_AFTERWARDS = (
    "{%% set leaml_chat %%}\n%s{{ '' }}{%% endset %%}{{ leaml_chat }}"
    "{%% if add_generation_prompt and leaml_chat.endswith(%s) %%}{{ %s }}{%% endif %%}"
)
"""A chat template, and what is written behind its generation prompt if that ends with a text."""
_DATE = {
    "%Y": "2025", "%y": "25", "%-m": "1", "%m": "01", "%B": "January", "%b": "Jan", "%-d": "1", "%d": "01", "%e": " 1",
    "%j": "001", "%A": "Wednesday", "%a": "Wed", "%F": "2025-01-01", "%H": "12", "%I": "12", "%p": "PM", "%M": "00", "%S": "00",
}  # fmt: skip
"""1 January 2025, noon, in the codes of `strftime`."""
_UNDATED = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace({json.dumps(code)}, {json.dumps(text)})" for code, text in _DATE.items())
    + " }}{%- endmacro +%}"
)
"""Stands in front of a chat template and takes the place of the function of transformers and vLLM that tells the time."""


@dataclass(frozen=True)
class Chat:
    """How one processor writes a conversation of one request and one reply.

    Attributes:
        image: `(before, after)` the request when an image stands in front of it; `before` holds `placeholder` once (PaliGemma:
            not at all, since vLLM inserts its image tokens itself and would keep the placeholder as one more). `after` is the
            generation prompt of the template and `closing`.
        text: the same without an image; None where the model cannot do without one.
        gap: white space that the template puts between the generation prompt and a reply (`Assistant:` + ` red`), else "".
        end: id of the token that ends a reply, whether the model's own generation config names it or not.
        placeholder: the text that stands for one image.
        placeholder_id: its token id.
        plain: the documented PaliGemma format: no roles; a prefix stands on a line of its own below the request, before the
            newline that its processor and vLLM always append.
        closing: what stands behind the template's own generation prompt, so that a reply is an answer and no thought: the end
            of a thought that it opens, or the empty thought that the template itself writes before a reply.
    """

    image: tuple[str, str]
    text: tuple[str, str] | None
    gap: str
    end: int
    placeholder: str
    placeholder_id: int
    plain: bool = False
    closing: str = ""

    def prompt(self, request: str, prefix: str = "", image: bool = True) -> str:
        """Text that is handed to the processor or to vLLM.

        Args:
            request: The question or instruction.
            prefix: Forced beginning of the reply; "" for none.
            image: Whether an image stands in front of the request.

        Raises:
            DataError: A text holds the image placeholder, or the model cannot do without an image.
        """
        if self.placeholder in request or self.placeholder in prefix:
            text = (request + prefix)[:80]
            msg = f"the text {text!r} holds the image placeholder {self.placeholder!r}; remove it from the text"
            raise DataError(msg)
        around = self.image if image else self.text
        if around is None:
            msg = f"the request {request[:80]!r} has no image, and this model answers about images only; give an image"
            raise DataError(msg)
        if self.plain:
            return around[0] + request + (f"\n{prefix}" if prefix else "")
        return around[0] + request + around[1] + (self._spaced(prefix) if prefix else "")

    def reply(self, reply: str, prefix: str = "") -> str:
        """Reply text as it follows the prompt."""
        return reply if prefix else self._spaced(reply)

    def _spaced(self, text: str) -> str:
        return text if text[:1].isspace() else self.gap + text


_CHATS: WeakKeyDictionary[Processor, Chat] = WeakKeyDictionary()


def chat_of(processor: Processor) -> Chat:
    """The `Chat` of a processor, made once. Raises ModelError if it has no usable chat template."""
    chat = _CHATS.get(processor)
    if chat is None:
        chat = _CHATS[processor] = _plain(processor) if _is_paligemma(processor) else _templated(processor)
    return chat


def processor_text(processor: Processor, text: str) -> str:
    """A prompt as the Hugging Face processor wants it."""
    chat = chat_of(processor)
    return chat.placeholder + text if chat.plain else text


def undated(template: str | dict[str, str] | None) -> str | dict[str, str] | None:
    """A chat template that always writes the same date, where Mistral 3's writes the day's: trained today, asked tomorrow.

    `chat_of` and `served_template` read any processor's template so, and `load` gives it to the processor, so that it is saved
    with what was trained.
    """
    if isinstance(template, dict):
        return {name: str(undated(each)) for name, each in template.items()}
    if template is None or "strftime_now" not in template or template.startswith(_UNDATED):
        return template
    return _UNDATED + template


def adds_special_tokens(processor: Processor) -> bool:
    """Whether tokenising a prompt text adds special tokens (a beginning-of-text token); PaliGemma's text holds its own."""
    return not _is_paligemma(processor)


def _is_paligemma(processor: Processor) -> bool:
    return type(processor).__name__ == "PaliGemmaProcessor" and not getattr(processor, "chat_template", None)


def _placeholder(processor: Processor, written: str | None = None) -> tuple[str, int]:
    """The text that stands for an image in a prompt, and its id.

    Args:
        processor: Of the model.
        written: What its chat template writes for a request with an image. Gemma 3's writes `boi_token`, which its processor
            replaces; some versions of transformers name what it is replaced by as `image_token`.
    """
    known = [
        str(token)
        for name in ("image_token", "boi_token")
        for owner in (processor, processor.tokenizer)
        if (token := getattr(owner, name, None)) is not None
    ]
    if not known:
        msg = f"{type(processor).__name__} names no image token; LEAML needs a processor with `image_token`, such as Idefics3's"
        raise ModelError(msg)
    token = next((each for each in known if written is not None and written.count(each) == 1), known[0])
    return token, int(processor.tokenizer.convert_tokens_to_ids(token))


def _plain(processor: Processor) -> Chat:
    token, token_id = _placeholder(processor)
    return Chat(("", ""), None, "", _end_token(processor.tokenizer, ""), token, token_id, plain=True)


def _render(processor: Processor, image: bool, reply: str | None) -> str:
    content: list[dict[str, str]] = [{"type": "image"}] if image else []
    messages: list[Message] = [{"role": "user", "content": [*content, {"type": "text", "text": _REQUEST}]}]
    if reply is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": reply}]})
    template = _source(processor)
    return str(
        processor.apply_chat_template(messages, chat_template=template, add_generation_prompt=reply is None, tokenize=False)
    )


def _source(processor: Processor) -> str | None:
    """The chat template of a processor as it is used."""
    template = undated(processor.chat_template)
    return template["default"] if isinstance(template, dict) else template


def _templated(processor: Processor) -> Chat:
    name = type(processor).__name__
    if not getattr(processor, "chat_template", None):
        msg = f"{name} has no chat template; add a chat_template.jinja to the model's folder (see its model card)"
        raise ModelError(msg)

    try:
        opened, closed = _render(processor, True, None), _render(processor, True, _REPLY)
        bare = _render(processor, False, None)
    except Exception as error:  # jinja errors of any kind
        msg = f"the chat template of {name} fails on one image and one text part: {error}; correct chat_template.jinja"
        raise ModelError(msg) from error

    token, token_id = _placeholder(processor, opened)
    if opened.count(token) != 1 or opened.count(_REQUEST) != 1 or closed.count(_REPLY) != 1:
        msg = (
            f"the chat template of {name} must write the image placeholder {token!r}, the request and the reply once each,"
            f" but wrote {closed!r}; correct chat_template.jinja"
        )
        raise ModelError(msg)

    bos = _added_bos(processor.tokenizer)
    before, after = opened.removeprefix(bos).split(_REQUEST)
    around, tail = closed.removeprefix(bos).split(_REPLY)
    closing, gap = _before_reply(name, after, around.removeprefix(before + _REQUEST))
    bare_before, bare_after = bare.removeprefix(bos).split(_REQUEST)
    texts = (before, after + closing), (bare_before, bare_after + closing)
    return Chat(*texts, gap, _end_token(processor.tokenizer, tail), token, token_id, closing=closing)


def _before_reply(name: str, after: str, around: str) -> tuple[str, str]:
    """What is written between a generation prompt and a reply: text that belongs to the prompt, and `Chat.gap`.

    Args:
        name: Of the processor.
        after: What the template writes between a request and the end of its generation prompt.
        around: What it writes between a request and a reply that is there.

    Raises:
        ModelError: The generation prompt opens something that stands before no reply, and nobody knows how it is closed.
    """
    if thought := open_thought(after):
        return ("\n" if after.endswith("\n") else "\n\n") + f"{thought[1]}\n\n", ""
    if around.startswith(after):
        written = around.removeprefix(after)
        kept = written.rstrip(" ") if written.strip() else ""
        return kept, written.removeprefix(kept)
    more = after.removeprefix(around.rstrip())
    if more != after and (tag := _OPENED.search(more)):
        msg = (
            f"the chat template of {name} opens {tag[1]} before a reply that it is asked for, and writes none before a reply"
            " that is there, so answers would be trained inside of it; write the mark that closes it in chat_template.jinja"
        )
        raise ModelError(msg)
    return "", ""


def served_template(processor: Processor) -> str | None:
    """The processor's chat template with `Chat.closing` behind its generation prompt; None where its own will do.

    For code that renders a conversation without `chat_of`, such as vLLM's chat route. Raises ModelError as `chat_of` does.
    """
    closing = chat_of(processor).closing
    source = _source(processor)
    if not closing or source is None:
        return None if undated(processor.chat_template) == processor.chat_template else source
    after = _render(processor, image=True, reply=None).split(_REQUEST)[1]
    thought = open_thought(after)
    end = after[thought[0] :] if thought else ""
    # Jinja drops the last line break of a template
    return _CLOSED_AFTERWARDS % (re.sub(r"\r?\n\Z", "", source), _jinja(end), _jinja(closing))


def _jinja(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _added_bos(tokenizer: Tokenizer) -> str:
    """The beginning-of-text token if the tokenizer adds it by itself: a template that writes it too would double it."""
    added = tokenizer("")["input_ids"]
    return str(tokenizer.bos_token) if tokenizer.bos_token_id is not None and tokenizer.bos_token_id in added else ""


def _end_token(tokenizer: Tokenizer, tail: str) -> int:
    """First special token of what the template writes after a reply, otherwise the tokenizer's end-of-text token."""
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    for token_id in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token_id in special:
            return int(token_id)
    if tokenizer.eos_token_id is None:
        msg = "the chat template writes no special token after a reply and the tokenizer has no eos_token; set eos_token"
        raise ModelError(msg)
    return int(tokenizer.eos_token_id)
