"""Special tokens of models and their chat templates, written out in a text: no answer or description has them."""

from __future__ import annotations

import re

from leaml.text.thoughts import first_mark

DELIMITED = r"<\|[^|<>]*\|>|<｜[^｜<>]*｜>"
"""Those between bars, of ChatML, Llama, DeepSeek and others."""
IN_BRACKETS = r"\[/?(?:INST|IMG|IMG_BREAK|IMG_END|SYSTEM_PROMPT|TOOL_CALLS|BOS|EOS|PAD|UNK|CLS|SEP|MASK|gMASK)\]"

_END = (
    r"</s>|<(?:eos|end_of_turn|end_of_utterance|end_of_text|endoftext|turn\|)>|\[/?(?:EOS|PAD|SEP)\]|</?(?:pad|unk)>"
    r"|<\|(?:im_end|endoftext|end_of_text|end_of_turn|end_of_sentence|end|eot_id|eot|eom_id|eos|return|END_OF_TURN_TOKEN|user"
    r"|pad|stop)\|>|<｜end▁of▁sentence｜>"
)
_BEGIN = r"<(?:s|bos|startoftext)>|\[(?:BOS|CLS)\]|<\|(?:begin_of_text|startoftext|bos)\|>|<｜begin▁of▁sentence｜>"
_AT_ENDS = re.compile(rf"^(?:\s*(?:{_BEGIN}))+\s*|\s*(?:(?:{_END})\s*)+$", re.I)
_NUMBERED = r"<(?:loc\d{4}|seg\d{3}|unused\d+|extra_id_\d+|reserved_\d+)>"
"""Of PaliGemma, Gemma, T5 and others."""
_ANYWHERE = re.compile(
    rf"{DELIMITED}|{_BEGIN}|{_END}|<(?:start_of_turn|mask|sep|cls)>|</?slice>|{_NUMBERED}|<<SYS>>|\[/?(?:INST|SYSTEM_PROMPT"
    r"|TOOL_CALLS|UNK|gMASK)\]",
    re.I,
)


def without_ends(text: str) -> str:
    """A text without what models write when it begins and when it ends: "red</s>" is "red"."""
    return _AT_ENDS.sub("", text)


def found_in(text: str) -> str | None:
    """The first special token, or mark of a model's thought, in a text."""
    match = _ANYWHERE.search(text)
    return match[0] if match else first_mark(text)
