"""Checks an OpenAI chat request against the limits and takes the images out of it."""

from __future__ import annotations

from typing import cast

from leaml.text.values import shorten
from serve.errors import refuse
from serve.schemas import ChatRequest, ImagePart, Message
from serve.service import ChatBody, ChatImage, ChatMessage, ChatText
from serve.settings import LimitSettings

REFUSED = {
    **dict.fromkeys(
        ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structural_tag"),
        "grammars from requests are not compiled here",
    ),
    **dict.fromkeys(("logits_processors", "vllm_xargs", "kv_transfer_params"), "it reaches into the engine"),
    **dict.fromkeys(("mm_processor_kwargs", "media_io_kwargs", "images_kwargs"), "images are read as in evaluation"),
    **dict.fromkeys(("chat_template", "chat_template_kwargs", "documents"), "the model's own chat template is used"),
    **dict.fromkeys(("prompt_logprobs", "logprob_token_ids", "return_token_ids", "echo"), "only replies are returned"),
    **dict.fromkeys(("logit_bias", "allowed_token_ids", "bad_words", "thinking_token_budget"), "tokens are not steered here"),
    **dict.fromkeys(("use_beam_search", "best_of", "priority", "request_id", "cache_salt"), "the server decides about it"),
    **dict.fromkeys(("audio", "prediction", "web_search_options"), "this server answers about images in text"),
    **dict.fromkeys(("tools", "functions"), "this server's models do not call tools"),
}
"""Fields that are refused when they are set, and why. Any other unknown field is ignored, as clients expect."""

_OWN = frozenset(ChatRequest.model_fields) - {"messages", "model", "stream", "stream_options", "max_completion_tokens"}


def checked(request: ChatRequest, limits: LimitSettings) -> tuple[ChatBody, list[str]]:
    """The request as the service takes it, and the references of its images in order. Raises ApiError (422)."""
    for name, value in (request.model_extra or {}).items():
        if name in REFUSED and value not in (None, [], {}, False):
            refuse(f"the field {name!r} is not accepted: {REFUSED[name]}; leave it out", "field_refused", name)
        if name == "response_format" and not (isinstance(value, dict) and value.get("type") == "text") and value is not None:
            refuse("response_format may only be {'type': 'text'}", "field_refused", name)

    named = max(request.max_tokens or 0, request.max_completion_tokens or 0)
    _at_most("max_tokens", named, limits.max_tokens)
    _at_most("n", request.n or 1, limits.n)
    _at_most("top_logprobs", request.top_logprobs or 0, limits.logprobs)
    _at_most("min_tokens", request.min_tokens or 0, named or limits.max_tokens)
    _at_most("messages", len(request.messages), limits.messages)

    if request.top_logprobs and not request.logprobs:
        refuse("top_logprobs needs logprobs to be true", "inconsistent", "top_logprobs")
    if request.add_generation_prompt and request.continue_final_message:
        msg = "add_generation_prompt and continue_final_message cannot both be true"
        refuse(msg, "inconsistent", "add_generation_prompt")

    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if any(not 0 < len(stop) <= 64 for stop in stops):
        refuse("each of `stop` must have 1 to 64 characters", "stop_chars", "stop")
    temperature = request.temperature or 0.0  # greedy, as /v1/vqa and the evaluation; vLLM's own default is 1
    if temperature == 0 and (request.n or 1) > 1:
        msg = "n must be 1 when temperature is 0, the default: all replies would be the same; give a temperature above 0"
        refuse(msg, "inconsistent", "n")

    messages, references = _messages(request.messages, limits)
    body: dict[str, object] = {name: value for name in _OWN if (value := getattr(request, name)) is not None}
    body |= {"messages": messages, "stream": bool(request.stream), "temperature": temperature}
    if named:  # else what the model's length leaves, up to the limit (serve/deploy.py)
        body["max_tokens"] = named
    if request.stream and request.stream_options:
        body["stream_options"] = {"include_usage": bool(request.stream_options.include_usage)}
    return cast(ChatBody, body), references  # the other keys are those of the schema


def _messages(messages: list[Message], limits: LimitSettings) -> tuple[list[ChatMessage], list[str]]:
    plain: list[ChatMessage] = []
    references: list[str] = []
    chars = 0

    for message in messages:
        role = "system" if message.role == "developer" else message.role
        if isinstance(message.content, list):
            parts: list[ChatText | ChatImage] = []
            for part in message.content:
                if isinstance(part, ImagePart):
                    if role != "user":
                        refuse("only user messages may hold images", "image_place", "messages")
                    parts.append({"type": "image", "index": len(references)})
                    references.append(part.image_url.url)
                else:
                    parts.append({"type": "text", "text": part.text})
                    chars += len(part.text)
            plain.append({"role": role, "content": parts})
        else:
            chars += len(message.content or "")
            plain.append({"role": role, "content": message.content or ""})

    if len(references) > limits.images:
        msg = f"the request has {len(references)} images, more than the limit of {limits.images}"
        refuse(msg, "images", "messages")
    check_chars(chars, limits)
    return plain, references


def check_chars(chars: int, limits: LimitSettings) -> None:
    """Raise ApiError (422) if the texts of a request are too long together."""
    if chars > limits.prompt_chars:
        msg = f"the texts have {chars} characters, more than the limit of {limits.prompt_chars}"
        refuse(msg, "prompt_chars", "messages")


def _at_most(name: str, value: int, limit: int) -> None:
    if value > limit:
        refuse(f"{name} is {shorten(value)}, more than the limit of {limit}", name, name)
