"""Errors travel between replicas whole, and what vLLM refuses is said in our words."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from scripted_service import Client

from serve.errors import ApiError, explained


def test_an_error_survives_the_way_between_replicas() -> None:
    error = pickle.loads(pickle.dumps(ApiError(429, "full", "full", "model", 7)))
    assert (error.status, error.message, error.code, error.param, error.retry_after) == (429, "full", "full", "model", 7)
    assert error.response().headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (
            400,
            "This model's maximum context length is 1024 tokens. However, you requested 2000: 'secret'",
            (422, "context_length"),
        ),
        (400, "Found more '<image>' placeholders in input prompt than actual multimodal data items", (422, "placeholder")),
        (404, "The model `x` does not exist.", (404, "model_not_found")),
        (400, "jinja2.exceptions.TemplateError: secret", (422, "refused_by_model")),
        (500, "EngineDeadError: EngineCore encountered an issue", (503, "engine_dead")),
        (400, "EngineCore encountered an issue. See stack trace (above) for the root cause.", (503, "engine_dead")),
        (500, "RuntimeError: secret", (503, "engine_failed")),
    ],
)
def test_refusals_of_vllm_show_neither_internals_nor_the_request(status: int, message: str, expected: tuple[int, str]) -> None:
    error = explained(status, message, 1024)
    assert (error.status, error.code) == expected
    assert not any(word in error.message for word in ("secret", "jinja", "Error", "<image>", "vLLM"))


LONG = "S" * 200_000


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": LONG}]}]}, "'text', 'image_url'"),
        ("/v1/chat/completions", {"messages": [{"role": LONG, "content": "a"}]}, "messages.0.role"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], LONG: 1, "seed": LONG}, "seed"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 10**4000}, "the limit of 512"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "stop": [LONG]}, "stop"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "model": "m" * 200}, "GET /v1/models"),
        ("/v1/vqa", {"image": "data:", "question": "q", LONG: 1}, "Extra inputs"),
        ("/v1/vqa", {"image": "data:", "question": "q", "alternatives": 10**4000}, "the limit of 8"),
        ("/v1/vqa", {"image": "data:", "question": "q", "options": ["S" * 3900, "s" * 3900]}, "give each option once"),
        ("/v1/vqa", {"image": "data:", "question": f"a <|{'S' * 7000}|> b"}, "remove it"),
        ("/v1/vqa", {"image": "data:", "question": f"A. {'S' * 3000}\nB. x", "options": ["y", "S" * 3000]}, "write them once"),
        ("/v1/vqa", {"image": f"data:{LONG}", "question": "q"}, "the data URL"),
        ("/v1/models/" + "S" * 7000, None, "GET /v1/models"),
        ("/v1/card?model=" + "S" * 7000, None, "GET /v1/models"),
    ],
)
async def test_a_message_quotes_little_of_what_a_client_sent(client: Client, path: str, body: Any, says: str) -> None:
    async with client() as c:
        reply = await (c.get(path) if body is None else c.post(path, json=body))
    assert 400 <= reply.status_code < 500
    assert says in reply.json()["error"]["message"]
    assert len(reply.text) < 600


@pytest.mark.anyio
async def test_a_wrong_part_of_a_message_is_named_without_names_of_classes(client: Client) -> None:
    part = {"type": "image_url", "image_url": "data:"}
    async with client() as c:
        reply = await c.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [part]}]})
    message = reply.json()["error"]["message"]
    assert reply.status_code == 422 and "messages.0.content.0.image_url" in message and "Part" not in message


def test_no_message_is_long_whatever_it_quotes() -> None:
    assert len(ApiError(422, LONG, "code").message) < 2100
