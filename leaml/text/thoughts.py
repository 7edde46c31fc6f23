"""The marks around a model's thoughts: what a reply is without them, and whether a chat template leaves one open."""

from __future__ import annotations

import re

_NAMED = r"[\w:.-]*(?:think|thought|reason)[\w:.-]*|analysis|reflection|scratchpad|rationale|cot"
"""Tags of a thought: `<think>`, `<seed:think>`, `<reasoning>`; each is closed by its own name."""
_PAIRS = {
    "[THINK]": "[/THINK]",  # Magistral
    "◁think▷": "◁/think▷",  # Kimi
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|think|>": "<|/think|>",
    "<unused94>thought": "<unused95>",  # MedGemma
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<|channel|>thought": "<channel|>",
    "<|channel|>analysis": "<|channel|>final<|message|>",  # gpt-oss
    "Here is my thought process:": "Here is my response:",  # Granite
}
"""What opens a thought otherwise, and what closes it."""
_OPENS = re.compile("|".join([rf"<(?:{_NAMED})>", *map(re.escape, _PAIRS)]), re.I)
_CLOSES = re.compile("|".join([rf"</(?:{_NAMED})>", *map(re.escape, set(_PAIRS.values()))]), re.I)
_CLOSING = {opens.lower(): closes for opens, closes in _PAIRS.items()}


def _next(text: str, start: int = 0) -> tuple[int, str, re.Match[str] | None] | None:
    """Position of the first thought that opens from `start` on, its closing mark, and where that stands."""
    opened = _OPENS.search(text, start)
    if opened is None:
        return None
    closes = _CLOSING.get(opened.group().lower()) or f"</{opened.group()[1:]}"
    return opened.start(), closes, re.compile(re.escape(closes), re.I).search(text, opened.end())


def without_thoughts(text: str) -> str:
    """A text without its thoughts: empty when it never came out of them.

    A thought that was never closed goes on to the end; one that is only closed was opened by the chat template, at the start.
    """
    while found := _next(text):
        start, _, closed = found
        text = text[:start] + (text[closed.end() :] if closed else "")
    return _CLOSES.split(text)[-1].strip()


def first_mark(text: str) -> str | None:
    """The first mark of a thought in a text, whether it opens or closes one."""
    marks = [found for found in (_OPENS.search(text), _CLOSES.search(text)) if found]
    return min(marks, key=lambda found: found.start())[0] if marks else None


def open_thought(text: str) -> tuple[int, str] | None:
    """`(position, closing mark)` of the thought that a text opens and does not close; None when it leaves none open."""
    start = 0
    while found := _next(text, start):
        if found[2] is None:
            return found[0], found[1]
        start = found[2].end()
    return None
