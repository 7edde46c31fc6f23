"""Refusals of requests whose bodies are still on their way, on a real socket: clients see them, and cannot stay for them."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator

import pytest
from playground import serving
from scripted_service import AUTH, KEY, Client, ScriptedService

from serve import middleware
from serve.app import create_app
from serve.auth import digest
from serve.settings import load_settings

SETTINGS = load_settings({"model": "tiny", "limits": {"body_bytes": 4_000_000, "image_bytes": 1_000_000}})
APP = create_app(ScriptedService(), SETTINGS, [digest(KEY)])
UPLOAD = bytes(6_000_000)
RUNS = 20


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where the application listens."""
    with serving(APP) as address:
        yield int(address.rpartition(":")[2])


def head(
    key: str = "wrong-wrong-wrong", length: int = len(UPLOAD), path: str = "/v1/vqa", kind: str = "application/json"
) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def exchange(port: int, *parts: bytes) -> bytes:
    """Send everything, then read until the server closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stream, contextlib.suppress(ConnectionError):
        for part in parts:
            stream.sendall(part)
        while data := stream.recv(65_536):
            received += data
    return received


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (head(), b" 401 "),
        (head(KEY, path="/nowhere"), b" 404 "),
        (head(KEY), b" 413 "),
        (head(KEY, kind="text/plain"), b" 415 "),
        (head(KEY, kind="a" * 20_000), b" 431 "),
    ],
)
def test_a_client_that_sends_everything_first_sees_the_refusal(port: int, start: bytes, status: bytes) -> None:
    replies = [exchange(port, start, UPLOAD) for _ in range(RUNS)]
    assert [status in reply.partition(b"\r\n")[0] for reply in replies] == [True] * RUNS
    assert all(reply.endswith(b"}") for reply in replies)


def test_a_library_that_sends_everything_first_sees_the_refusal(port: int) -> None:
    found = []
    for _ in range(RUNS):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.suppress(ConnectionError):
            connection.request("POST", "/v1/vqa", UPLOAD, {"Authorization": "Bearer wrong-wrong-wrong"})
            found.append(connection.getresponse().status)
        connection.close()
    assert found == [401] * RUNS


def test_the_refusal_comes_before_the_wait(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "_LINGER_GAP", 4.0)
    with socket.create_connection(("127.0.0.1", port), timeout=2) as stream:
        stream.sendall(head())
        reply = b""
        while b'"}}' not in reply:
            reply += stream.recv(65_536)
        assert b" 401 " in reply


def test_a_client_that_sends_no_more_is_closed(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        began = time.perf_counter()
        stream.sendall(head())
        while stream.recv(65_536):
            pass
        assert time.perf_counter() - began < 1


def test_a_client_that_goes_on_and_on_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def stays(piece: bytes, pause: float) -> float:
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stream, contextlib.suppress(ConnectionError):
            stream.sendall(head(length=10**9))
            while time.perf_counter() - began < 30:
                stream.sendall(piece)
                time.sleep(pause)
                assert (APP.state.context.bodies.receiving, APP.state.context.limiter.admitted) == (0, 0)
        return time.perf_counter() - began

    monkeypatch.setattr(middleware, "_LINGER_SECONDS", 0.5)
    assert 0.4 < stays(b" ", 0.05) < 20
    monkeypatch.setattr(middleware, "_LINGER_SECONDS", 60.0)
    assert stays(bytes(100_000), 0.0) < 20  # more than limits.body_bytes


@pytest.mark.anyio
async def test_bodies_that_have_arrived_are_not_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "_LINGER_GAP", 4.0)
    async with client({"limits": {"body_bytes": 2000, "image_bytes": 1000}}, headers=AUTH) as c:
        began = time.perf_counter()
        assert (await c.post("/v1/vqa", content=b"{}", headers={"Content-Type": "text/plain"})).status_code == 415
        assert (await c.post("/v1/vqa", json={})).status_code == 422
        assert time.perf_counter() - began < 3


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/static/app.js", "/nowhere", "/v1/vqa"])
def test_head_is_get_without_the_body(port: int, path: str) -> None:
    def ask(method: str, key: str) -> tuple[bytes, bytes]:
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
        start, _, body = exchange(port, request.encode()).partition(b"\r\n\r\n")
        kept = [line for line in start.split(b"\r\n") if not line.startswith((b"date:", b"x-request-id:"))]
        return b"\r\n".join(kept), body

    for key in (KEY, "wrong-wrong-wrong"):
        (got, body), (headed, nothing) = ask("GET", key), ask("HEAD", key)
        assert headed == got
        assert (bool(body), nothing) == (True, b"")


@pytest.mark.anyio
async def test_head_has_no_body_on_any_server(client: Client) -> None:
    async with client() as c:
        reply = await c.head("/health")
        assert (reply.status_code, reply.content) == (200, b"")
        assert int(reply.headers["content-length"]) > 0
