"""What the routes need from behind them: models that chat and answer. The replica with vLLM is one, tests script another."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal, NotRequired, Protocol, TypedDict

from pydantic import JsonValue

from leaml.vlm.shrink import Shrink
from serve.media import Picture


@dataclass(frozen=True)
class Model:
    """A served model.

    Attributes:
        id: what clients ask for.
        source: what it was made from, as it was given.
        content: changes with the files of `source`; "" where they are not looked at.
        run: name and folder of the run, "" if it is not of a run.
        kind: the main model, a LoRA beside it, or a merged model with replicas of its own.
        state: whether it answers; `loading` soon will, `failed` has a `reason`.
        temperature: of the calibration; None: not calibrated.
        answer_tokens: longest answer of /v1/vqa.
        max_model_len: longest prompt and reply together, in tokens; 0: not known yet.
    """

    id: str
    source: str
    run: str = ""
    kind: Literal["main", "adapter", "merged"] = "main"
    state: Literal["ready", "loading", "failed"] = "ready"
    reason: str = ""
    temperature: float | None = None
    answer_tokens: int = 24
    max_model_len: int = 0
    content: str = ""
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True)
class ImageQuestion:
    """A question about an image, with the options to choose from."""

    text: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """A reply text with the natural-log probability of all its tokens."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Answer:
    """The answer, its alternatives (most probable first), and tokens read and written.

    `own`: the model's greedy reply is the answer or names it; False for an option that it would not have replied with.
    """

    reply: Reply
    alternatives: tuple[Reply, ...] = ()
    prompt_tokens: int = 0
    reply_tokens: int = 0
    own: bool = True


class ChatText(TypedDict):
    """Text in a chat's message."""

    type: Literal["text"]
    text: str


class ChatImage(TypedDict):
    """Image in a chat's message, by its index among the pictures of the request."""

    type: Literal["image"]
    index: int


class ChatMessage(TypedDict):
    """A message of a chat."""

    role: str
    content: str | list[ChatText | ChatImage]


class ChatBody(TypedDict):
    """A checked request of OpenAI's form; how the reply is sampled is in further keys, as vLLM has them."""

    messages: list[ChatMessage]
    stream: bool
    temperature: float
    max_tokens: NotRequired[int]


ChatReply = dict[str, JsonValue]
"""The JSON of a chat completion."""


class Service(Protocol):
    """Models behind the routes. All methods may raise ApiError."""

    def models(self) -> list[Model]:
        """The main model first."""
        ...

    def shrink(self, model: Model) -> Shrink | None:
        """What makes an image as small as the model's processor would; None: images are decoded behind the service."""
        ...

    def card(self, model: Model) -> dict[str, object]:
        """The model's card (leaml.report.modelcard)."""
        ...

    async def chat(
        self, model: Model, body: ChatBody, pictures: list[Picture], request_id: str
    ) -> ChatReply | AsyncGenerator[str, None]:
        """A chat completion: the reply's JSON, or with `stream` the events as text.

        Args:
            model: One of `models()`.
            body: The checked request.
            pictures: The images, by index.
            request_id: Unique.
        """
        ...

    async def answer(
        self, model: Model, picture: Picture, questions: list[ImageQuestion], alternatives: int, request_id: str
    ) -> list[Answer]:
        """Answers to questions about one image, each with its alternatives.

        Without options they are the greedy replies that `leaml evaluate` scores; with options one
        of these (leaml.text.choice).

        Args:
            model: One of `models()`.
            picture: The image.
            questions: Checked; answered all at once.
            alternatives: Most further answers to each question; 0: none are looked for.
            request_id: Unique.

        Returns:
            An answer for each question, in order.
        """
        ...

    async def health(self) -> None:
        """Raise if the engine cannot answer."""
        ...
