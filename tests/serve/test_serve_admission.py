"""Admission: slow, stalled and refused bodies on real sockets leave others answered, and nothing is kept afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from playground import serving
from scripted_service import AUTH, KEY, Client, ScriptedService, chat_body, data_url

from serve.admission import BodyReceiver
from serve.app import create_app
from serve.auth import digest
from serve.errors import ApiError
from serve.observe import EndpointMetrics
from serve.settings import load_settings

HEAD = f"POST /v1/vqa HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n"
UNFINISHED = f"{HEAD}Content-Length: 100000\r\n\r\n{{".encode()
ASK = {"image": data_url(), "question": "a"}


class Server:
    """The application under uvicorn."""

    def __init__(self, app: FastAPI, address: str) -> None:
        self.context = app.state.context
        self.client = httpx.Client(base_url=address, headers=AUTH, timeout=10)
        self._port = int(address.rpartition(":")[2])
        self._sockets = contextlib.ExitStack()

    def open(self, data: bytes, count: int = 1) -> list[socket.socket]:
        """Connections that have sent `data`, one after the other."""
        made = []
        for _ in range(count):
            stream = self._sockets.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=5))
            stream.sendall(data)
            made.append(stream)
        return made

    def receives(self, count: int) -> None:
        """Wait until this many bodies are on their way."""
        until = time.monotonic() + 10
        while self.context.bodies.receiving != count:
            assert time.monotonic() < until, self.context.bodies.receiving
            time.sleep(0.01)

    def asks(self, times: int = 3, **fields: Any) -> None:
        """Ask as others do; each is answered within two seconds."""
        for _ in range(times):
            reply = self.client.post("/v1/vqa", json=ASK | fields)
            assert reply.status_code == 200, reply.text
            assert reply.elapsed.total_seconds() < 2

    def close(self) -> None:
        self._sockets.close()


@contextlib.contextmanager
def server(**limits: Any) -> Iterator[Server]:
    app = create_app(ScriptedService(), load_settings({"model": "tiny", "limits": limits}), [digest(KEY)])
    with serving(app) as address:
        made = Server(app, address)
        yield made
        made.close()
        made.receives(0)
        assert made.context.limiter.admitted == 0


def reply_of(stream: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):  # it need not have read everything
        while data := stream.recv(65_536):
            received += data
    return received


@pytest.mark.parametrize("sent", [b"", b" " * 50_000])
def test_slow_bodies_take_no_place(sent: bytes) -> None:
    with server(concurrency=2, queue=2) as running:
        slow = running.open(UNFINISHED + sent, 150)
        running.receives(150)
        running.asks()
        assert running.context.limiter.admitted == 0
        slow[0].sendall(b"}" + b" " * (99_998 - len(sent)))  # one that comes to its end is judged as any other
        assert slow[0].recv(100).startswith(b"HTTP/1.1 422 ")


def test_the_longest_of_too_many_bodies_gives_way() -> None:
    with server(bodies=8) as running:
        slow = running.open(UNFINISHED, 40)
        gone = [reply_of(stream) for stream in slow[:32]]
        assert all(reply.startswith(b"HTTP/1.1 408 ") and b'"code":"bodies"' in reply for reply in gone)
        assert all(b"connection: close" in reply.lower() for reply in gone)
        running.receives(8)
        running.asks()
        running.receives(7)  # each question took the place of the oldest one, and has left


def test_bodies_that_hold_too_many_bytes_give_way() -> None:
    with server(body_bytes=100_000, bodies_bytes=100_000) as running:
        slow = running.open(UNFINISHED + b" " * 29_999, 3)
        running.receives(3)
        running.asks(question="a" * 5000)
        running.receives(3)
        (large,) = running.open(UNFINISHED + b" " * 99_998)
        assert all(b'"code":"bodies"' in reply_of(stream) for stream in slow)
        running.receives(1)
        large.sendall(b"}")
        assert large.recv(100).startswith(b"HTTP/1.1 422 ")


@pytest.mark.parametrize(
    ("replaced", "by", "status"),
    [
        (f"Bearer {KEY}", "Bearer wrong", 401),
        ("application/json", "text/plain", 415),
        ("/v1/vqa", "/nowhere", 404),
        ("Content-Length: 100000", "Content-Length: 99999999999", 413),
        ("Content-Length: 100000", "Content-Length: 100000\r\nX-Filler: " + "x" * 17_000, 431),
        ("Content-Length: 100000", "Expect: 100-continue\r\nContent-Length: 99999999999", 413),
    ],
)
def test_refusals_do_not_wait_for_the_body_and_end_the_connection(replaced: str, by: str, status: int) -> None:
    with server() as running:
        began = time.monotonic()
        (stream,) = running.open(UNFINISHED.replace(replaced.encode(), by.encode()))
        reply = reply_of(stream)
        assert reply.startswith(f"HTTP/1.1 {status} ".encode())  # and no 100 before it
        assert time.monotonic() - began < 1
        assert running.context.bodies.receiving == 0


def test_a_client_that_asks_before_it_sends_is_told_to() -> None:
    with server() as running:
        (stream,) = running.open(f"{HEAD}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode())
        assert stream.recv(1000).startswith(b"HTTP/1.1 100 ")
        stream.sendall(b"{}")
        assert stream.recv(1000).startswith(b"HTTP/1.1 422 ")


def test_chunks_of_one_byte_are_a_body_as_any_other() -> None:
    chunks = b"".join(b"1\r\n" + bytes([c]) + b"\r\n" for c in b'{"image": "' + b"a" * 3000 + b'"}')
    with server(body_bytes=4000) as running:
        head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
        whole, endless = *running.open(head + chunks + b"0\r\n\r\n"), *running.open(head + chunks * 2)
        assert whole.recv(100).startswith(b"HTTP/1.1 422 ")
        assert b'"code":"body_bytes"' in reply_of(endless)
        running.asks()


@pytest.mark.anyio
async def test_a_client_that_does_not_read_keeps_its_place_until_the_deadline(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.middleware._LAST_WORDS", 0.1)
    async with client({"limits": {"deadline_seconds": 0.2}}) as c:
        app: Any = c._transport.app  # type: ignore[attr-defined]

    body = iter([c.build_request("POST", "/", json=chat_body(stream=True)).content])

    async def receive() -> dict[str, Any]:
        for part in body:
            return {"type": "http.request", "body": part}
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        await asyncio.sleep(30)

    headers = [(b"host", b"a"), (b"content-type", b"application/json"), (b"authorization", f"Bearer {KEY}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
    await asyncio.wait_for(app(scope, receive, send), 5)
    assert app.state.context.limiter.admitted == app.state.context.limiter.running == 0


class _Request:
    """A request whose body comes in three parts with pauses."""

    def __init__(self, draw: random.Random) -> None:
        self.headers = {"content-length": "3000"}
        self._draw = draw

    async def stream(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(self._draw.choice([0, 0, 0.001, 0.01, 0.02]))
            yield b"x" * 1000


@pytest.mark.anyio
async def test_a_body_whose_time_is_over_cannot_give_way_any_more() -> None:
    settings = load_settings({"model": "a", "limits": {"bodies": 1, "body_seconds": 0.05}})
    receiver, slow = BodyReceiver(settings.limits, EndpointMetrics()), random.Random(0)
    slow.choice = lambda _: 10  # type: ignore[assignment,method-assign]
    first = asyncio.create_task(receiver.receive(_Request(slow)))  # type: ignore[arg-type]

    async def second() -> bytes:
        await asyncio.sleep(0.04)
        return await receiver.receive(_Request(random.Random(0)))  # type: ignore[arg-type]

    later = asyncio.create_task(second())
    await asyncio.sleep(0.01)
    time.sleep(0.1)  # both are due now, and the second one comes before the first has heard of it
    assert await later == b"x" * 3000
    with pytest.raises(ApiError, match="did not arrive"):
        await first


@pytest.mark.anyio
async def test_nothing_is_counted_twice_or_forgotten_when_many_bodies_come_and_go() -> None:
    settings = load_settings(
        {"model": "a", "limits": {"bodies": 5, "body_bytes": 3000, "bodies_bytes": 9000, "body_seconds": 0.02}}
    )
    receiver = BodyReceiver(settings.limits, EndpointMetrics())
    draw = random.Random(0)

    async def one() -> str:
        await asyncio.sleep(draw.uniform(0, 0.2))
        try:
            return "whole" if await receiver.receive(_Request(draw)) == b"x" * 3000 else "broken"  # type: ignore[arg-type]
        except ApiError as error:
            assert receiver.receiving <= 5
            return error.code

    found = await asyncio.gather(*(one() for _ in range(600)))
    assert set(found) == {"whole", "bodies", "body_seconds"}
    assert (receiver.receiving, receiver._held) == (0, 0)
