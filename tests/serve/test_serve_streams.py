"""Streams of /v1/chat/completions: what OpenAI's own client makes of them, and clients that go away in the middle."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest
from scripted_service import KEY, Client, ScriptedService, chat_body

from serve.errors import stopped

pytestmark = pytest.mark.anyio
SILENCE = {"messages": [{"role": "user", "content": "a"}], "model": "tiny", "stream": True}


def openai_of(client: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key=KEY, http_client=client, max_retries=0)


async def test_openais_client_reads_a_stream_to_its_end(client: Client) -> None:
    async with client() as c:
        stream = await openai_of(c).chat.completions.create(**SILENCE)
        words = [chunk.choices[0].delta.content async for chunk in stream]
    assert words == ["dark", " red"]


async def test_openais_client_raises_the_error_that_ends_a_stream(client: Client, service: ScriptedService) -> None:
    service.dies = stopped()
    async with client() as c:
        stream = await openai_of(c).chat.completions.create(**SILENCE)
        assert (await anext(stream)).choices[0].delta.content == "dark"
        with pytest.raises(openai.APIError, match="engine has stopped") as raised:
            await anext(stream)
    assert raised.value.code == "engine_dead"


async def test_a_stream_is_data_alone_and_has_the_headers_of_every_reply(client: Client) -> None:
    async with client() as c:
        reply = await c.post("/v1/chat/completions", json=chat_body(stream=True), headers={"X-Request-ID": "mine"})
    assert all(line.startswith("data: ") for line in reply.text.splitlines() if line)
    assert reply.headers.get_list("x-request-id") == ["mine"]
    assert (reply.headers["cache-control"], reply.headers["x-content-type-options"]) == ("no-cache", "nosniff")


@pytest.mark.parametrize("between", [0.0, 30.0], ids=["while-it-sends", "while-it-waits"])
async def test_a_client_that_leaves_a_stream_ends_the_work_on_it(
    client: Client, service: ScriptedService, between: float
) -> None:
    async with client() as c:
        app: Any = c._transport.app  # type: ignore[attr-defined]
        body = c.build_request("POST", "/", json=chat_body(stream=True)).content
    service.between = between
    left, parts = asyncio.Event(), iter([body])

    async def receive() -> dict[str, Any]:
        for part in parts:
            return {"type": "http.request", "body": part}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            left.set()
            await asyncio.sleep(0 if between else 30)

    headers = [(b"host", b"a"), (b"content-type", b"application/json"), (b"authorization", f"Bearer {KEY}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
    await asyncio.wait_for(app(scope, receive, send), 10)
    assert service.cancelled == 1
    assert app.state.context.limiter.admitted == app.state.context.limiter.running == 0
    assert 'route="/v1/chat/completions",status="499"} 1.0' in app.state.context.metrics.text().decode()
