"""Requests and replies of the routes, as they are checked and as /openapi.json shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, Json


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Open(BaseModel):
    model_config = ConfigDict(extra="ignore")


ModelName = Annotated[str, Field(max_length=200, description="A served model; none: the main one.")]


class VqaQuestion(_Strict):
    """One question of a batch."""

    question: str = Field(min_length=1, description="The question.")
    options: list[str] | None = Field(None, description="Options to choose from; the model is shown them with letters.")


class VqaQuestions(_Strict):
    """Questions about one image: `question` with `options`, or `questions`."""

    question: str | None = Field(None, min_length=1, description="The question.")
    options: list[str] | None = Field(None, description="Options to choose from; the model is shown them with letters.")
    questions: list[VqaQuestion] | None = Field(None, min_length=1, description="Many questions, in place of `question`.")
    model: ModelName | None = None
    alternatives: int = Field(3, ge=0, description="Other answers to give beside each answer.")


class VqaRequest(VqaQuestions):
    """Questions about one image: `question` with `options`, or `questions`."""

    image: str = Field(min_length=1, description="data:image/...;base64,... or an s3:// id under a configured prefix.")


class VqaForm(VqaQuestions):
    """The same as a form with the image as a file, which needs a filename; lists are written as JSON."""

    file: UploadFile = Field(description="The image.", json_schema_extra={"format": "binary"})
    options: Json[list[str] | None] = Field(None, description="Options to choose from, a JSON list of texts.")
    questions: Json[Annotated[list[VqaQuestion], Field(min_length=1)] | None] = Field(
        None, description="Many questions, in place of `question`: a JSON list, as in the JSON form."
    )


class VqaAlternative(BaseModel):
    """Another answer with the probability that the model would give it."""

    answer: str
    confidence: float = Field(ge=0, le=1)


class VqaAnswer(BaseModel):
    """The answer to one question."""

    answer: str
    confidence: float = Field(ge=0, le=1, description="Probability that the answer is right, as far as it is calibrated.")
    calibrated: bool = Field(description="Whether the confidence was fitted to the run's evaluation.")
    alternatives: list[VqaAlternative]


class VqaBatchAnswer(VqaAnswer):
    """The answer to one question of a batch."""

    question: str


class _VqaReply(BaseModel):
    id: str = Field(description="Request id.")
    model: str
    run: str = Field(description="Run that made the model; empty for a model that is of none.")
    latency_ms: float


class VqaReply(_VqaReply, VqaAnswer):
    """Reply to one question."""


class VqaBatchReply(_VqaReply):
    """Reply to many questions."""

    answers: list[VqaBatchAnswer]


class TextPart(_Open):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Open):
    """Where an image is."""

    url: str = Field(description="data:image/...;base64,... or an s3:// id under a configured prefix.")


class ImagePart(_Open):
    """Image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(_Open):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = None


class StreamOptions(_Open):
    """Extras of a stream."""

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """An OpenAI chat completion. Fields that are not listed are ignored, except those that serve/chat.py refuses."""

    model_config = ConfigDict(extra="allow")

    messages: list[Message] = Field(min_length=1, max_length=1024)  # limits.messages is lower; this ends the reading of more
    model: ModelName | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False, description="None: 0, which is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    repetition_penalty: float | None = Field(None, gt=0, le=10, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0)
    top_k: int | None = Field(None, ge=-1, le=10_000)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class ModelEntry(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "leaml"
    run: str
    source: str
    kind: Literal["main", "adapter", "merged"]
    state: Literal["ready", "loading", "failed"]
    reason: str
    calibrated: bool
    max_model_len: int | None


class Limits(BaseModel):
    """What one request may hold, for clients that can scale an image before they send it."""

    body_bytes: int
    image_bytes: int
    pixels: int
    image_side: int
    image_aspect: float


class ModelList(BaseModel):
    """All served models, the main one first."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]
    limits: Limits


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every reply that is not 200."""

    error: ErrorDetail


class Health(BaseModel):
    """The engine answers."""

    status: Literal["ok"]
