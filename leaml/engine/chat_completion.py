"""What a server answers in OpenAI's chat protocol, read: texts, log-probabilities and reasons for the end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict

from leaml.engine.interface import Completion, Request
from leaml.text import replies


class ChatCompletion(TypedDict):
    """The parts of a chat completion that are read; of each choice only `message` is sure to be there."""

    choices: list[dict[str, object]]
    usage: object


class RequestError(Exception):
    """A request failed for good."""


def parsed(text: str) -> ChatCompletion:
    """The chat completion in a reply of status 200. Raises RequestError when it is none."""
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        msg = f"no JSON: {' '.join(text.split())[:200]!r}"
        raise RequestError(msg) from None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if (
        not isinstance(choices, list)
        or not choices
        or not all(isinstance(c, dict) and isinstance(c.get("message"), dict) for c in choices)
    ):
        msg = f"no chat completion: {text[:200]!r}"
        raise RequestError(msg)
    return {"choices": choices, "usage": reply.get("usage")}


def completions(reply: ChatCompletion, request: Request) -> list[Completion]:
    """The `request.n` completions of a reply. Raises RequestError when it has another number of them.

    Fields beside the text may be missing or odd in any way: what they would tell is then not known.
    """
    choices = reply["choices"]
    if len(choices) != request.n:
        msg = f"{len(choices)} choices where {request.n} were asked for"
        raise RequestError(msg)
    usage = reply.get("usage")
    written = _counted(usage, "completion_tokens") if len(choices) == 1 else 0
    found = [_completion(choice, written, request) for choice in choices]
    return [replace(found[0], prompt_tokens=_counted(usage, "prompt_tokens")), *found[1:]]


def _counted(usage: object, kind: str) -> int:
    """Tokens of a kind that a server says it has counted; 0 where it does not."""
    count = usage.get(kind) if isinstance(usage, dict) else None
    return max(count, 0) if isinstance(count, int) and not isinstance(count, bool) else 0


def _completion(choice: Mapping[str, object], written: int, request: Request) -> Completion:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    tokens = content if isinstance(content, list) else []
    logprobs = [token.get("logprob") if isinstance(token, dict) else None for token in tokens]
    known = [p for p in logprobs if isinstance(p, int | float) and not isinstance(p, bool) and math.isfinite(p)]
    mean = sum(known) / len(known) if known and len(known) == len(logprobs) else math.nan
    count = written or len(logprobs) or None
    finished = replies.finish_reason(choice.get("finish_reason"), count, request.max_tokens)
    message = choice["message"]
    text, error = replies.message_text(message if isinstance(message, dict) else {})
    return Completion(text, mean, finished, count or 0, error)
