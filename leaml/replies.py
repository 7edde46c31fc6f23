"""What a model's reply is worth as text: thoughts, refusals, sentences that were cut off.

A caption that is learned has to be a description of the image, from its first word to its last. Servers and models send other
things as well, and each of them looks like text once it is a string: `None`, a thought, an apology, half a sentence.
"""

from __future__ import annotations

import re
from typing import Any

LENGTH = "length"
"""The `finish_reason` of a reply that ended at the token limit instead of by itself."""

_LENGTH_NAMES = {"length", "max_tokens", "max_output_tokens", "max_completion_tokens", "max_length", "token_limit"}
_UNFINISHED = {"abort", "aborted", "cancelled", "error", "tool_calls", "function_call"}
_FILTERED = {"content_filter", "safety", "recitation", "prohibited_content", "blocklist"}
_TEXT_PARTS = {"text", "output_text"}
_THOUGHT_PARTS = {"thinking", "reasoning", "redacted_thinking", "thought"}
# What thinking models write around a thought: Qwen, DeepSeek and GLM; Magistral; Kimi; Gemma and gpt-oss
_THOUGHT = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?</\1>|\[THINK\].*?\[/THINK\]|◁think▷.*?◁/think▷"
    r"|<\|channel\|?>\s*(?:analysis|thought)\b.*?(?:<channel\|>|<\|channel\|>final<\|message\|>)",
    re.I | re.S,
)
# A chat template may open the thought itself, so that the reply begins inside
_OPENED_BEFORE = re.compile(r"^.*(?:</(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷)", re.I | re.S)
_UNCLOSED = re.compile(
    r"(?:<(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷|<\|channel\|?>\s*(?:analysis|thought)\b).*$", re.I | re.S
)
_WRAPPED = re.compile(r"^(?:<answer>(.*)</answer>|<\|begin_of_box\|>(.*)<\|end_of_box\|>)$", re.I | re.S)
REFUSAL = re.compile(
    r"\bas an ai\b|\bas a (?:large )?language model\b|\bi(?: cannot|'m unable| am unable| can ?not| can't|'m sorry| am sorry)\b"
    r"|\bi (?:do not|don't) (?:know|have enough)\b|^\s*(?:sorry\b|unable to\b|cannot (?:determine|answer|tell)\b)",
    re.I | re.M,
)
"""A model that refuses, or talks about itself."""
_MARKER = re.compile(r"<\|[^|<>]*\|>|<image>|</s>|<(?:start|end)_of_\w+>", re.I)
_NOTHING = {"none", "null", "nil", "nan", "n/a", "undefined", "[none]", "no caption"}

_ENDS = re.compile(r"[.!?。！？।؟…]+[\"'”’»)\]]*(?=\s|$)|[。！？][”’」』）]*")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[^\W\d_]|e\.g|i\.e|cf|vs|approx|ca|etc|fig|figs|no|nos|dr|mr|mrs|ms|prof|st|jr|sr|max|min|vol|p|pp|al|resp)$",
    re.I,
)


def finish_reason(said: object, tokens: int | None = None, most: int | None = None) -> str:
    """Why a reply ended, in OpenAI's words; servers that say nothing are judged by the tokens they count.

    Args:
        said: What the server says.
        tokens: Tokens of the reply; None: not known.
        most: The limit that was asked for.
    """
    name = said.strip().lower() if isinstance(said, str) else ""
    if name in _LENGTH_NAMES or (not name and tokens is not None and most is not None and tokens >= most):
        return LENGTH
    return name or "stop"


def message_text(message: dict[str, Any]) -> tuple[str, str]:
    """`(text, why there is none)` of a chat message of an OpenAI-compatible server; one of them is empty.

    The content may be text, or parts whose texts are joined. Thoughts beside it (`reasoning_content`) are never taken for it.
    """
    content = message.get("content")
    if message.get("refusal"):
        return "", f"refusal: {str(message['refusal'])[:200]}"
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        refused = [part for part in content if isinstance(part, dict) and part.get("type") == "refusal"]
        if refused:
            return "", f"refusal: {str(refused[0].get('refusal'))[:200]}"
        texts = [_part_text(part) for part in content]
        if others := [part for part, text in zip(content, texts, strict=True) if text is None]:
            return "", f"content that is no text: {str(others[0])[:100]}"
        content = "".join(text for text in texts if text is not None)
    if isinstance(content, str) and content.strip():
        return content.strip(), ""
    if content is None or isinstance(content, str):
        thought = message.get("reasoning_content") or message.get("reasoning")
        return "", "a thought without an answer" if thought else "empty reply"
    return "", f"content that is no text: {str(content)[:100]}"


def _part_text(part: object) -> str | None:
    """The text of a part, "" where it is a thought, None where it is something else."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return None
    kind, text = part.get("type", "text"), part.get("text")
    if kind in _THOUGHT_PARTS:
        return ""
    return text if kind in _TEXT_PARTS and isinstance(text, str) else None


def without_thoughts(text: str) -> str:
    """The reply behind its thoughts; empty when it never came out of them."""
    rest = _THOUGHT.sub("", text)
    rest = _UNCLOSED.sub("", _OPENED_BEFORE.sub("", rest)).strip()
    wrapped = _WRAPPED.match(rest)
    return next((inner for inner in wrapped.groups() if inner is not None), "").strip() if wrapped else rest


def sentences(text: str) -> list[str]:
    """Whole sentences of a text, in order; what follows the last sentence end is left out.

    A dot after an abbreviation, an initial or the number of a list item ends no sentence. Nor does one after a digit at the
    very end, since a text that was cut off there may have gone on with decimals.
    """
    found, start = [], 0
    for end in _ENDS.finditer(text):
        before = text[start : end.start()]
        if end.group().startswith(".") and len(end.group().rstrip("\"'”’»)]")) == 1:
            last = end.end() == len(text.rstrip())
            numbered = re.fullmatch(r"\s*[-*]?\s*\d+", before) or (last and before[-1:].isdigit())
            follows = text[end.end() :].lstrip()[:1]
            if numbered or _ABBREVIATION.search(before) or follows.islower():
                continue
        if before.strip():
            found.append(text[start : end.end()].strip())
            start = end.end()
    return found


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence, its line breaks kept; empty when it holds none."""
    found = sentences(text)
    return text[: text.rindex(found[-1]) + len(found[-1])].strip() if found else ""


def caption(text: str, finished: str, prompt: str = "") -> tuple[str, str]:
    """`(caption, why there is none)` of a teacher's reply; one of them is empty.

    Args:
        text: The reply.
        finished: Its `finish_reason`. A reply that was cut at the token limit keeps its whole sentences only: learned as it
            is, it would teach to end in the middle of one.
        prompt: What was asked; a reply that only repeats it is no caption.
    """
    if finished in _FILTERED:
        return "", f"refusal: content filter ({finished})"
    if finished in _UNFINISHED:
        return "", f"not finished: {finished}"
    found = without_thoughts(text)
    if not found:
        return "", "a thought without an answer" if text.strip() else "empty reply"
    if found.strip(".!\"' ").lower() in _NOTHING or not re.search(r"[^\W\d_]", found):
        return "", f"no description: {found[:100]!r}"
    if " ".join(found.lower().split()) == " ".join(prompt.lower().split()):
        return "", "prompt echo"
    if marker := _MARKER.search(found):
        return "", f"chat marker: {marker.group()!r}"
    first = (sentences(found) or [found])[0]
    if REFUSAL.search(first.replace("’", "'")):
        return "", f"refusal: {first[:200]}"
    if finished == LENGTH:
        found = whole_sentences(found)
        if not found:
            return "", "cut at the token limit before the end of its first sentence"
    return found, ""
