"""Bodies, places, deadlines, clients that go away, metrics and logs."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image
from scripted_service import KEY, Client, ScriptedService, chat_body, data_url, png

from serve import media
from serve.observe import JsonFormatter, log
from serve.service import Model

pytestmark = pytest.mark.anyio
JSON = {"Content-Type": "application/json"}


async def test_a_large_body_is_refused_when_declared_and_when_chunked(client: Client) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b"x" * 1000

    async with client({"limits": {"body_bytes": 5000}}) as c:
        declared = await c.post("/v1/vqa", content=b"x" * 6000, headers=JSON)
        chunked = await c.post("/v1/vqa", content=chunks(), headers=JSON)
    assert declared.status_code == chunked.status_code == 413
    assert declared.json()["error"]["code"] == "body_bytes"


async def test_a_slow_body_is_given_up(client: Client) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    async with client({"limits": {"body_seconds": 0.1}}) as c:
        reply = await asyncio.wait_for(c.post("/v1/vqa", content=chunks(), headers=JSON), 2)
    assert reply.status_code == 408


async def test_large_headers_are_refused(client: Client) -> None:
    async with client() as c:
        assert (await c.get("/v1/models", headers={"X-Filler": "x" * 20_000})).status_code == 431
        assert (await c.get("/v1/models?" + "x" * 20_000)).status_code == 431


async def test_image_limits_are_seen_in_the_header(client: Client) -> None:
    async with client({"limits": {"pixels": 10_000, "image_bytes": 3000}}) as c:

        async def status(data: bytes) -> tuple[int, str]:
            reply = await c.post("/v1/vqa", json={"image": data_url(data), "question": "a"})
            return reply.status_code, reply.json().get("error", {}).get("code", "")

        assert await status(png(100, 100)) == (200, "")
        assert await status(png(101, 100)) == (413, "image_pixels")
        assert await status(png(8, 8) + bytes(3000)) == (413, "image_bytes")


async def test_places_are_limited_and_the_rest_get_429(client: Client, service: ScriptedService) -> None:
    service.holding = True
    async with client({"limits": {"concurrency": 2, "queue": 3, "retry_after_seconds": 7}}) as c:
        asked = [asyncio.create_task(c.post("/v1/chat/completions", json=chat_body())) for _ in range(9)]
        done, _ = await asyncio.wait(asked, timeout=0.5)
        refused = [task.result() for task in done]
        assert [r.status_code for r in refused] == [429] * 4
        assert {r.headers["retry-after"] for r in refused} == {"7"}
        metrics = (await c.get("/metrics")).text  # not a POST: it needs no place
        assert 'leaml_running{replica=""} 2.0' in metrics
        assert 'leaml_waiting{replica=""} 3.0' in metrics
        service.release.set()
        replies = await asyncio.gather(*asked)
        assert sorted(r.status_code for r in replies) == [200] * 5 + [429] * 4
        assert service.most_running == 2
        assert (await c.post("/v1/chat/completions", json=chat_body())).status_code == 200


async def test_the_deadline_gives_up_the_work_and_frees_the_place(client: Client, service: ScriptedService) -> None:
    service.delay = 5
    async with client({"limits": {"deadline_seconds": 0.2, "concurrency": 1}}) as c:
        for path, body in (("/v1/vqa", {"image": data_url(), "question": "a"}), ("/v1/chat/completions", chat_body())):
            reply = await asyncio.wait_for(c.post(path, json=body), 2)
            assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline")
        assert service.cancelled == 2
        service.delay = 0
        assert (await c.post("/v1/chat/completions", json=chat_body())).status_code == 200


async def test_a_stream_ends_with_an_error_at_the_deadline(client: Client, service: ScriptedService) -> None:
    service.between = 5
    async with client({"limits": {"deadline_seconds": 0.2, "concurrency": 1}}) as c:
        reply = await asyncio.wait_for(c.post("/v1/chat/completions", json=chat_body(stream=True)), 2)
        events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
        assert json.loads(events[0])["choices"][0]["delta"]["content"] == "dark"
        assert json.loads(events[1])["error"]["code"] == "deadline"
        assert events[2] == "[DONE]"
        assert service.cancelled == 1
        service.between = 0
        assert (await c.post("/v1/chat/completions", json=chat_body())).status_code == 200


async def test_metrics_count_requests_rejects_tokens_and_times(client: Client) -> None:
    async with client() as c:
        await c.post("/v1/chat/completions", json=chat_body(data_url()))
        await c.post("/v1/vqa", json={"image": data_url(), "question": "a"})
        await c.post("/v1/chat/completions", json=chat_body(n=99))
        await c.get("/v1/models/made-up")
        await c.get("/made/up")
        text = (await c.get("/metrics")).text
    for line in (
        'leaml_requests_total{replica="",route="/v1/chat/completions",status="200"} 1.0',
        'leaml_requests_total{replica="",route="/v1/chat/completions",status="422"} 1.0',
        'leaml_requests_total{replica="",route="/v1/models/{model}",status="404"} 1.0',
        'leaml_requests_total{replica="",route="other",status="404"} 1.0',
        'leaml_rejects_total{reason="n",replica=""} 1.0',
        'leaml_tokens_total{kind="prompt",replica=""} 40.0',
        'leaml_tokens_total{kind="reply",replica=""} 4.0',
        'leaml_images_total{replica=""} 2.0',
        'leaml_request_seconds_count{replica="",route="/v1/vqa"} 1.0',
    ):
        assert line in text, line


async def test_logs_are_json_with_the_request_id_and_nothing_of_the_content(client: Client, service: ScriptedService) -> None:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JsonFormatter().format(record))

    keep = Keep()
    log.addHandler(keep)
    log.setLevel(logging.INFO)
    try:
        async with client() as c:
            picture = data_url(png(colour="purple"))
            ask = {"image": picture, "question": "zebra question", "options": ["giraffe", "lion"]}
            await c.post("/v1/vqa", json=ask, headers={"X-Request-ID": "id-1"})
            await c.post("/v1/vqa", json=ask | {"alternatives": 99}, headers={"X-Request-ID": "bad id\t!"})
            service.error = RuntimeError("zebra")
            await c.post("/v1/chat/completions", json=chat_body(picture, text="zebra text"))
            await c.get("/v1/models", headers={"Authorization": "Bearer wrong-key-zebra-000"})
    finally:
        log.removeHandler(keep)
    entries = [json.loads(line) for line in lines]
    assert entries[0] | {"request_id": "id-1", "route": "/v1/vqa", "status": 200, "model": "tiny"} == entries[0]
    assert entries[1]["reason"] == "alternatives"
    assert len(entries[1]["request_id"]) == 32
    assert [e["exception"] for e in entries if "exception" in e] == ["RuntimeError"]
    assert entries[-1]["status"] == 401
    text = "\n".join(lines)
    for secret in ("zebra", "giraffe", KEY, picture[40:80], "wrong-key"):
        assert secret not in text


async def test_images_that_wait_for_pixels_take_no_place(
    client: Client, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, decode = threading.Event(), media.images.decode

    def slow(data: bytes, **limits: Any) -> Image.Image:
        if len(data) == len(large):
            go.wait(10)
        return decode(data, **limits)

    monkeypatch.setattr(media.images, "decode", slow)
    large = png(100, 60)
    async with client({"limits": {"pixels": 7000, "pixels_in_flight": 8000, "concurrency": 32}}) as c:

        async def ask(data: bytes) -> int:
            return (await c.post("/v1/vqa", json={"image": data_url(data), "question": "a"})).status_code

        async def chat(*urls: str) -> int:
            return (await c.post("/v1/chat/completions", json=chat_body(*urls))).status_code

        waiting = [asyncio.ensure_future(each) for _ in range(18) for each in (ask(large), chat(data_url(large)))]
        try:
            await asyncio.sleep(0.2)
            async with asyncio.timeout(2):
                assert await asyncio.gather(ask(png()), chat(), chat(data_url())) == [200] * 3
            assert not any(each.done() for each in waiting)
        finally:
            go.set()
        assert await asyncio.gather(*waiting) == [200] * 36


async def test_large_images_that_are_decoded_do_not_keep_others_waiting(client: Client, service: ScriptedService) -> None:
    service.holding = True
    photo = data_url(png(4000, 3000))
    async with client() as c:
        asked = [c.post("/v1/vqa", json={"image": photo, "question": "a"}) for _ in range(8)]
        waiting = [asyncio.ensure_future(each) for each in asked]
        try:
            async with asyncio.timeout(50):
                while service.running < 8:
                    await asyncio.sleep(0.02)
        finally:
            service.release.set()
        assert [reply.status_code for reply in await asyncio.gather(*waiting)] == [200] * 8


async def test_images_for_another_engine_are_checked_but_not_decoded(
    client: Client, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media.images, "decode", lambda *_a, **_k: pytest.fail("decoded"))
    service.served.append(Model("tiny:own", "models/own", kind="merged"))
    service.holding = True
    asked = {"image": data_url(png(100, 60)), "question": "a", "model": "tiny:own"}
    async with client({"limits": {"pixels": 7000, "pixels_in_flight": 8000}}) as c:
        waiting = [asyncio.ensure_future(c.post("/v1/vqa", json=asked)) for _ in range(8)]
        chat = chat_body(data_url(png(100, 60)), model="tiny:own")
        waiting.append(asyncio.ensure_future(c.post("/v1/chat/completions", json=chat)))
        try:
            async with asyncio.timeout(5):
                while service.running < 9:  # none of them holds pixels: the budget has room for one
                    await asyncio.sleep(0.01)
        finally:
            service.release.set()
        assert [reply.status_code for reply in await asyncio.gather(*waiting)] == [200] * 9
        too_large = await c.post("/v1/vqa", json=asked | {"image": data_url(png(100, 71))})
        damaged = await c.post("/v1/vqa", json=asked | {"image": data_url(b"none")})
    assert (too_large.status_code, damaged.status_code) == (413, 422)
    assert {each["picture"].encoded.pixels for each in service.asked if "picture" in each} == {6000}
