"""Attacks on the application through a real socket: every reply is a 4xx within a second, and the server is healthy after."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
import uvicorn
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from scripted_service import AUTH, KEY, ScriptedService, chat_body, data_url, png

from serve.app import create_app
from serve.auth import digest
from serve.settings import load_settings

SETTINGS = load_settings(
    {
        "model": "tiny",
        "limits": {"body_bytes": 2_000_000, "image_bytes": 1_000_000, "body_seconds": 0.5, "pixels": 4_000_000},
        "media": {"hosts": ["ok.example"], "s3_prefixes": ["s3://ours/in/"]},
    }
)
APP = create_app(ScriptedService(), SETTINGS, [digest(KEY)])


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """Where the application listens."""
    server = uvicorn.Server(uvicorn.Config(APP, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[httpx.Client]:
    """A client with a key; after each test the server must answer a plain question at once."""
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", headers=AUTH, timeout=5) as c:
        yield c
        began = time.perf_counter()
        assert c.post("/v1/vqa", json={"image": data_url(), "question": "a"}).status_code == 200
        assert c.get("/health").json() == {"status": "ok"}
        assert time.perf_counter() - began < 1
        assert APP.state.context.limiter.admitted == 0


def refused(reply: httpx.Response) -> str:
    """The code of a refusal, which came in time and in the right shape."""
    assert 400 <= reply.status_code < 500, reply.text
    assert reply.elapsed.total_seconds() < 1
    return str(reply.json()["error"]["code"])


def asked(client: httpx.Client, url: str) -> set[str]:
    """Both routes that take an image, asked about `url`."""
    vqa = client.post("/v1/vqa", json={"image": url, "question": "a"})
    return {refused(vqa), refused(client.post("/v1/chat/completions", json=chat_body(url)))}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8265/api/version",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:7f00:1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/",
        "http://10.0.0.1/",
        "http://192.168.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://ok.example@127.0.0.1/",
        "http://127.0.0.1\\@ok.example/",
        "http://ok.example\\@127.0.0.1/",
        "http://ok.example#@127.0.0.1/",
        "http://ok.example.nip.io/",
        "http://оk.example/",
        "//127.0.0.1/a.png",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "gopher://127.0.0.1:6379/_INFO",
        "ftp://127.0.0.1/a",
        "s3://other/in/a.png",
        "s3://ours/in/../../other/a.png",
        "s3://ours/in/%2e%2e/secret",
        "javascript:alert(1)",
        "/etc/passwd",
        "\u0000",
    ],
)
def test_server_side_requests(client: httpx.Client, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object) -> None:
        pytest.fail("looked up or read")

    monkeypatch.setattr("serve.media._public_address", reached)
    monkeypatch.setattr("serve.media.files.read_bytes", reached)
    assert asked(client, url) <= {"image_source", "image_missing"}


def png_of_header(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes whose pixels would take width x height x 3 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(min(width * 3 + 1, 1_000_000)) * min(height, 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((1, 3_000_000), "image_side"),
        ((32_769, 100), "image_side"),
        ((1, 101), "image_aspect"),
        ((32_000, 101), "image_aspect"),
    ],
)
def test_images_that_are_long_and_narrow(client: httpx.Client, size: tuple[int, int], code: str) -> None:
    assert asked(client, data_url(png_of_header(*size))) == {code}


def test_a_crowd_of_files_made_of_pieces(client: httpx.Client) -> None:
    whole = png()
    chunks = struct.pack(">I", 1) + b"tEXta" + struct.pack(">I", zlib.crc32(b"tEXta"))
    url = data_url(whole[:33] + chunks * 70_000 + whole[33:])
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: client.post("/v1/vqa", json={"image": url, "question": "a"}), range(16)))
    codes = {reply.json()["error"]["code"] for reply in replies}
    assert {"image_unreadable"} <= codes <= {"image_unreadable", "body_seconds"}  # a body has half a second here


@pytest.mark.parametrize("size", [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (4_000_001, 1), (1, 4_000_001), (20_000, 20_000)])
def test_decompression_bombs(client: httpx.Client, size: tuple[int, int]) -> None:
    assert asked(client, data_url(png_of_header(*size))) <= {"image_pixels", "image_unreadable"}


def test_bombs_in_other_places_of_a_file(client: httpx.Client) -> None:
    text = zlib.compress(bytes(50_000_000))
    chunk = b"zTXta\x00\x00" + text
    whole = png()
    bomb = whole[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[33:]
    assert asked(client, data_url(bomb)) <= {"image_unreadable", "image_pixels"}
    gif = b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x00\x00\x00,"
    assert asked(client, data_url(gif, "gif")) <= {"image_pixels", "image_unreadable"}


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,",
        "data:image/png",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,====",
        "data:image/png;base64,\N{GRINNING FACE}",
        "data:image/png;base64," + "A" * 400_001,
        "data:image/png;base64," + "A" * 1_500_000,
        "data:image/png;base64,data:image/png;base64,AAAA",
        "data:video/jpeg;base64,AAAA,AAAA,AAAA",
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(),
        "data:application/x-numpy;base64,k05VTVBZ",
        "data:image/png;base64," + base64.b64encode(b"\x93NUMPY\x01\x00" + bytes(100)).decode(),
        "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(1000)).decode(),
        "data:image/png;" + "a=b;" * 5000 + "base64,AAAA",
    ],
)
def test_malformed_data_urls(client: httpx.Client, url: str) -> None:
    assert asked(client, url) <= {"data_url", "image_source", "image_unreadable", "image_bytes"}


def test_huge_headers(client: httpx.Client) -> None:
    for headers in ({"X-Big": "a" * 60_000}, {f"X-{n}": "a" * 100 for n in range(400)}):
        with contextlib.suppress(httpx.RemoteProtocolError):  # the web server itself may hang up
            assert client.get("/v1/models", headers=headers).status_code in (400, 431)


def test_huge_and_endless_bodies(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65_536

    for content in (b"x" * 3_000_000, endless()):
        try:
            reply = client.post("/v1/vqa", content=content, headers={"Content-Type": "application/json"})
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            continue  # hung up while it was sent
        assert refused(reply) == "body_bytes"


def raw(address: tuple[str, int], *parts: bytes, pause: float = 0.0) -> bytes:
    """What comes back for bytes on a socket, sent with pauses, until the server closes."""
    with socket.create_connection(address, timeout=3) as stream:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what was answered before can still be read
            for part in parts:
                stream.sendall(part)
                time.sleep(pause)
        stream.settimeout(2)
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while data := stream.recv(65_536):
                received += data
                if b'"}}' in data:
                    break
        return received


def test_slow_and_broken_bodies(client: httpx.Client, address: tuple[str, int]) -> None:
    head = f"POST /v1/vqa HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n".encode()
    began = time.perf_counter()
    assert b" 408 " in raw(address, head + b"Content-Length: 100\r\n\r\n{", *[b" "] * 8, pause=0.1).split(b"\r\n")[0]
    assert time.perf_counter() - began < 2
    for lines, status in (
        (b"Content-Length: -1\r\n\r\n{}", b" 4"),
        (b"Content-Length: 99999999999999999999\r\n\r\n{}", b" 4"),
        (b"Content-Length: abc\r\n\r\n{}", b" 4"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", b" 4"),
    ):
        answer = raw(address, head + lines)
        assert not answer or status in answer[:12], lines
    for gone in (b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"):
        with socket.create_connection(address) as stream:
            stream.sendall(head + gone)
    time.sleep(0.7)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "/etc/passwd",
        "tiny/../../x",
        "tiny\u0000",
        "a" * 129,
        "a b",
        "tiny:../x",
        "é",
    ],
)
def test_path_traversal_in_model_names(client: httpx.Client, name: str) -> None:
    for path, body in (("/v1/vqa", {"image": data_url(), "question": "a"}), ("/v1/chat/completions", chat_body())):
        assert refused(client.post(path, json=body | {"model": name})) in ("model_not_found", "bad_body")
    assert refused(client.get("/v1/card", params={"model": name})) == "model_not_found"
    if "\u0000" not in name:
        assert refused(client.get(f"/v1/models/{name}")) in ("model_not_found", "no_route")


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 500_000 + b"]" * 500_000,
        b'{"messages":' * 50_000,
        b'{"messages": [' + b'{"role": "user", "content": "a"},' * 30_000 + b'{"role": "user"}]}',
        json.dumps({f"field{n}": n for n in range(50_000)}).encode(),
        json.dumps(chat_body(stop=["a" * 100] * 1000)).encode(),
        b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": ' + b"9" * 10_000 + b"}",
    ],
)
def test_bodies_made_to_be_slow_to_parse(client: httpx.Client, content: bytes) -> None:
    reply = client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert refused(reply)
    assert len(reply.content) < 2000


DOCUMENT: dict[str, Any] = APP.openapi()
schema = schemathesis.openapi.from_dict(DOCUMENT)


@schema.parametrize()
@hypothesis.settings(
    max_examples=40,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_replies_to_anything_are_those_of_the_document(case: schemathesis.Case, address: tuple[str, int]) -> None:
    began = time.perf_counter()
    reply = case.call(base_url=f"http://{address[0]}:{address[1]}", headers=AUTH)
    assert time.perf_counter() - began < 1
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    case.validate_response(reply, checks=checks)
