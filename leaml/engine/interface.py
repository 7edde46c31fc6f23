"""Engines: what turns (image, request) into text. Captioning, generation, evaluation and prediction all use this interface.

`VllmEngine` is vLLM itself, `OpenAIEngine` asks a server; an actor builds its own from an `EngineSpec`, which is plain data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from PIL import Image

from leaml.config import ClientConfig, EngineConfig
from leaml.text import replies

FAILED = "error"
"""`finish_reason` of a completion without a reply."""


@dataclass(frozen=True)
class Request:
    """One request about one image.

    `prefix` is the forced beginning of the reply, `pattern` a regular expression it follows. With `reply` nothing is written:
    the completion is this reply, with the log-probability that the model gives it and the end token behind it.
    """

    image: Image.Image
    image_id: str
    text: str
    prefix: str = ""
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 32
    seed: int | None = None
    pattern: str | None = None
    reply: str | None = None


@dataclass(frozen=True)
class Completion:
    """One sampled reply without its prefix.

    Attributes:
        text: Empty where there is no reply.
        mean_logprob: Mean natural-log probability per token; nan where a server does not tell.
        finish_reason: `replies.LENGTH` when it ended at the token limit.
        tokens: Number of its tokens.
        ids: Of a given reply, the ids of its tokens; empty where they are not known.
        error: Why there is no reply; empty otherwise.
        prompt_tokens: Of its request, where a server counts them; of several completions the first one has them.
    """

    text: str
    mean_logprob: float
    finish_reason: str
    tokens: int
    error: str = ""
    ids: tuple[int, ...] = ()
    prompt_tokens: int = 0

    @property
    def cut(self) -> bool:
        """Whether it ended at the token limit instead of by itself."""
        return self.finish_reason == replies.LENGTH

    @property
    def failed(self) -> bool:
        """Whether the server failed, so that asking again may help."""
        return self.finish_reason == FAILED


class Engine(Protocol):
    """Generates replies; the outer list follows the requests, the inner one has `n` completions."""

    def generate(self, requests: list[Request]) -> list[list[Completion]]: ...


@runtime_checkable
class Closable(Protocol):
    """Of an engine that holds memory, and gives it back for another one in its process."""

    def close(self) -> None: ...


@runtime_checkable
class Occupied(Protocol):
    """Of an engine with so many places for sequences, which it fills while it can."""

    @property
    def full_seconds(self) -> float:
        """Seconds in which no place was free."""


@dataclass(frozen=True)
class Longest:
    """Bounds of the requests that an engine will be asked.

    Attributes:
        text: Tokens of a request with the beginning of its reply, without the image and the chat's own.
        reply: Tokens of a reply, written or given.
    """

    text: int
    reply: int


def most_tokens(texts: Iterable[str]) -> int:
    """Tokens that the longest of these texts has at most, in any tokenizer: one a byte."""
    return max((len(text.encode()) for text in texts), default=0)


@dataclass(frozen=True)
class EngineParameters:
    """Of an engine: a model folder or hub id for vLLM, or the URL of an OpenAI-compatible server."""

    model: str
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False
    max_image_pixels: int | None = None
    image_tiles: bool = True
    url: str | None = None
    gpus: float = 0.0
    cpus: float = 1.0
    separate_process: bool = False
    """vLLM's core in a process of its own: requests are prepared while it computes, and if it dies, so does this process."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    key: str = "engine"
    """Where `engine` is set in the configuration, for messages."""
    longest: Longest | None = None
    """Of the requests; None: they are not known."""
    client: ClientConfig = field(default_factory=ClientConfig)
    """How `url` is asked."""
