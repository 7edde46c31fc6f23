"""Replies that were paid for: those of shards under way are kept as they come, so that a kill loses none that was finished.

A shard is published whole, and behind a URL it may take minutes and money. Each batch of replies is written at once to
`<step>/replies/<shard>/`; the next run of the step reads what it finds there and asks for the rest. The folder is removed when
its shard is published.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypedDict

from leaml.engine.interface import Completion, Request
from leaml.io import files

if TYPE_CHECKING:
    from leaml.engine.openai_engine import OpenAIEngine

FOLDER = "replies"
_READERS = 16


class KeptCompletion(TypedDict):
    """A `Completion` as plain data."""

    text: str
    mean_logprob: float
    finish_reason: str
    tokens: int
    error: str
    prompt_tokens: int


Kept = dict[str, list[KeptCompletion]]
"""Completions by the key of their request."""


class KeptReplies:
    """An engine that asks `engine` for what is not in `known`, and writes what it gets to `folder` as it comes."""

    def __init__(self, engine: OpenAIEngine, folder: str, known: Kept) -> None:
        self.engine, self.folder, self.known = engine, folder, known

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        """As the engine's own. Replies that say why there is none because the server failed are not kept."""
        keys = [key(request) for request in requests]
        found = {n: [Completion(**c) for c in self.known[k]] for n, k in enumerate(keys) if k in self.known}
        missing = [n for n in range(len(requests)) if n not in found]
        for batch in self.engine.as_answered([requests[n] for n in missing]):
            replies = {missing[n]: completions for n, completions in batch.items()}
            found |= replies
            paid: Kept = {keys[n]: [_plain(c) for c in cs] for n, cs in replies.items() if not any(c.failed for c in cs)}
            if paid:
                files.write_bytes(f"{self.folder}/{next(iter(paid))}.json", json.dumps(paid).encode())
        return [found[n] for n in range(len(requests))]


def _plain(completion: Completion) -> KeptCompletion:
    return {
        "text": completion.text,
        "mean_logprob": completion.mean_logprob,
        "finish_reason": completion.finish_reason,
        "tokens": completion.tokens,
        "error": completion.error,
        "prompt_tokens": completion.prompt_tokens,
    }


def key(request: Request) -> str:
    """Identity of a request: its image and everything that is asked about it."""
    r = request
    asked = [r.image_id, r.text, r.prefix, r.n, r.temperature, r.top_p, r.max_tokens, r.seed, r.pattern]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]


def read(output: str) -> Kept:
    """Everything that killed runs have kept: at most the replies of the shards that were under way."""
    folder = f"{output}/{FOLDER}"
    if not files.exists(folder):
        return {}
    with ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(files.read_bytes, files.listing(folder)))
    return {k: completions for part in parts for k, completions in json.loads(part).items()}
