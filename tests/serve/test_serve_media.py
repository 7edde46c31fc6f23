"""Where images may come from: ids under S3 prefixes, listed hosts at public addresses, and nothing else."""

from __future__ import annotations

import asyncio
import http.server
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from scripted_service import data_url, png

from leaml import images
from leaml.io import files
from serve import media
from serve.errors import ApiError
from serve.settings import LimitSettings, MediaSettings

LIMITS = LimitSettings(image_bytes=5000)


def fetch(reference: str, settings: MediaSettings | None = None, limits: LimitSettings = LIMITS) -> media.Picture:
    async def work() -> media.Picture:
        encoded = await media.from_reference(reference, settings or MediaSettings(), limits)
        async with media.Decoder(limits).opened([encoded], unchanged) as (picture,):
            return picture

    return asyncio.run(work())


def unchanged(image: Image.Image) -> Image.Image:
    return image


def refused(reference: str, settings: MediaSettings | None = None) -> tuple[int, str]:
    with pytest.raises(ApiError) as raised:
        fetch(reference, settings)
    return raised.value.status, raised.value.code


def test_a_data_url_is_decoded_as_evaluation_decodes() -> None:
    picture = fetch(data_url(png(7, 5, kind="JPEG"), "jpeg"))
    assert (picture.image.mode, picture.image.size) == ("RGB", (7, 5))
    assert picture.image.tobytes() == images.decode(picture.encoded.data).tobytes()
    assert b"JFIF" not in repr(picture).encode()


@pytest.mark.parametrize(
    "reference",
    [
        "data:image/png,AAAA",
        "data:text/html;base64,AAAA",
        "data:;base64,AAAA",
        "data:image/png;base64,A",
        "data:image/png;base64,AAAA====",
        "data:image/png;base64,AA AA",
        "data:image/png;base64,\u00e9",
        "data:image/png;base64;base64;base64,AAAA" + ";" * 500,
        "DATA:image/png;base64,AAAA",
    ],
)
def test_malformed_data_urls(reference: str) -> None:
    assert refused(reference)[0] == 422


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "a",
        "//a",
        "http://a.example/x.png",
        "https://a.example/x.png",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "gopher://127.0.0.1/",
        "ftp://a.example/a",
        "s3://bucket/key.png",
        "/etc/passwd",
        "\\\\host\\share",
        "javascript:alert(1)",
    ],
)
def test_nothing_is_fetched_by_default(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media.socket, "getaddrinfo", lambda *_a, **_k: pytest.fail("looked up"))
    monkeypatch.setattr(media.files, "read_bytes", lambda *_a: pytest.fail("read"))
    assert refused(reference) == (422, "image_source")


def test_s3_ids_are_read_below_the_prefixes_only(bucket: str) -> None:
    for key, body in {"in/a.png": png(), "in/large.png": bytes(6000), "in/text": b"hello", "out/a.png": png()}.items():
        files.write_bytes(f"{bucket}/{key}", body)
    settings = MediaSettings(s3_prefixes=[f"{bucket}/in/"])
    assert fetch(f"{bucket}/in/a.png", settings).image.size == (8, 8)
    assert refused(f"{bucket}/in/large.png", settings) == (413, "image_bytes")
    assert refused(f"{bucket}/in/text", settings) == (422, "image_unreadable")
    assert refused(f"{bucket}/in/missing.png", settings) == (422, "image_missing")
    for other in ("out/a.png", "in/../out/a.png", "in/./a.png", "in//a.png", "in/a.png/", "in/\\..\\out", "in/a\0b", "in"):
        assert refused(f"{bucket}/{other}", settings) == (422, "image_source"), other
    assert refused("s3://other/in/a.png", settings) == (422, "image_source")
    assert refused(bucket.replace("s3", "S3") + "/in/a.png", settings) == (422, "image_source")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:db8::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)
def test_addresses_that_are_not_of_the_open_internet(address: str) -> None:
    assert not media.is_public(address)


def test_addresses_of_the_open_internet() -> None:
    assert all(map(media.is_public, ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111")))


HOSTILE = [
    "http://ok.example@127.0.0.1/a",
    "http://127.0.0.1#@ok.example/",
    "http://127.0.0.1\\@ok.example/",
    "http://ok.example\\@127.0.0.1/",
    "http://ok.example:80@127.0.0.1/",
    "http://OK.example/a",
    "http://ok.example./a",
    "http://ok.example:81/a",
    "http://[::1]/a",
    "http://[::ffff:127.0.0.1]/",
    "http://2130706433/a",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://127.1/a",
    "http://evil.ok.example/",
    "http://ok.example.evil/",
    "http://ok.example%00.evil/",
    "http://ok.example%2eevil/",
    "http:///ok.example",
    "http:ok.example",
    "http://ok.example:99999/",
    "http://оk.example/a",
    "http://ok。example/a",
    "https://ok.example:http/",
    "http://ok.example/#frag",
    "http://user:pass@ok.example/",
]


@pytest.mark.parametrize("url", [*HOSTILE, "http://ok.example/a b", "http://ok.example/\r\nHost: evil", "http://ok.example\n/"])
def test_urls_that_parsers_read_differently_reach_no_network(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media.socket, "getaddrinfo", lambda *_a, **_k: pytest.fail("looked up"))
    assert refused(url, MediaSettings(hosts=["ok.example"])) == (422, "image_source")


def test_a_listed_host_with_any_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("8.8.8.8", 80)), (2, 1, 6, "", ("169.254.169.254", 80))]

    monkeypatch.setattr(media.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(media.socket, "create_connection", lambda *_a, **_k: pytest.fail("connected"))
    assert refused("http://ok.example/a", MediaSettings(hosts=["ok.example"])) == (422, "image_source")


class _Site(http.server.BaseHTTPRequestHandler):
    seen: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append(self.headers["Host"] + self.path)
        status = {"/moved": 302, "/missing": 404}.get(self.path, 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/a.png")
        self.end_headers()
        body = {"/large": bytes(9000), "/text": b"secret text"}.get(self.path, png())
        if self.path == "/slow":
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                threading.Event().wait(0.02)
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a web server here, at an address that counts as public and that the name `ok.example` has once only."""
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
    looked_up: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        looked_up.append(host)
        address = "127.0.0.1" if len(looked_up) == 1 else "192.168.0.1"  # rebound at the second look
        return [(2, 1, 6, "", (address, port))]

    monkeypatch.setattr(media.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(media, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(media.socket, "create_connection", _connect)  # the real one looks up even an address
    _Site.seen.clear()
    yield web.server_address[1]
    web.shutdown()
    web.server_close()


def _connect(where: tuple[str, int], timeout: float) -> object:
    plain = socket.socket(socket.AF_INET)
    plain.settimeout(timeout)
    plain.connect(where)
    return plain


def test_a_listed_host_is_asked_at_the_checked_address(site: int) -> None:
    host = f"ok.example:{site}"
    assert fetch(f"http://{host}/a.png?x=1", MediaSettings(hosts=[host])).image.size == (8, 8)
    assert _Site.seen == [f"{host}/a.png?x=1"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/moved", (422, "image_missing")),
        ("/missing", (422, "image_missing")),
        ("/large", (413, "image_bytes")),
        ("/text", (422, "image_unreadable")),
        ("/slow", (422, "image_missing")),
    ],
)
def test_what_a_listed_host_may_not_send(site: int, path: str, expected: tuple[int, str]) -> None:
    host = f"ok.example:{site}"
    assert refused(f"http://{host}{path}", MediaSettings(hosts=[host], fetch_seconds=0.3)) == expected
    assert _Site.seen == [f"{host}{path}"]


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    whole = png(64, 64, kind="JPEG")
    for data in (b"", b"GIF89a", whole[: len(whole) // 2], b"<svg xmlns='x'/>", b"%PDF-1.4", b"\x93NUMPY" + bytes(64)):
        with pytest.raises(ApiError) as raised:
            fetch(data_url(data))
        assert (raised.value.status, raised.value.code) == (422, "image_unreadable")
        assert "PIL" not in raised.value.message


@pytest.mark.parametrize(
    ("size", "code"),
    [((60, 60), "image_pixels"), ((101, 20), "image_side"), ((20, 101), "image_side"), ((1, 21), "image_aspect")],
)
def test_sizes_over_a_limit_are_refused_before_decoding(
    size: tuple[int, int], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media.images, "decode", lambda *_a, **_k: pytest.fail("decoded"))
    limits = LimitSettings(pixels=3000, image_side=100, image_aspect=20)
    with pytest.raises(ApiError) as raised:
        fetch(data_url(png(*size)), limits=limits)
    assert (raised.value.status, raised.value.code) == (413, code)
    assert "limit" in raised.value.message


def test_slow_hosts_hold_up_no_other_image(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(media, "_fetch", lambda *_: go.wait(5) and png())

    async def work() -> None:
        limits, settings = LimitSettings(), MediaSettings(hosts=["ok.example"])
        slow = [asyncio.ensure_future(media.from_reference("http://ok.example/", settings, limits)) for _ in range(8)]
        async with asyncio.timeout(2):
            await media.from_reference(data_url(), settings, limits)
        go.set()
        await asyncio.gather(*slow)

    asyncio.run(work())


def test_jpeg_2000_is_read_only_where_that_is_set() -> None:
    boxed = png(40, 30, kind="JPEG2000")
    bare = boxed[boxed.index(b"\xff\x4f\xff\x51") :]
    for data in (boxed, bare):
        assert Image.open(io.BytesIO(data)).format == "JPEG2000"
        with pytest.raises(ApiError) as raised:
            fetch(data_url(data, "jp2"))
        assert (raised.value.status, raised.value.code) == (422, "image_unreadable")
        assert "JPEG 2000" in raised.value.message
        assert "PNG or JPEG" in raised.value.message
        assert "media.jpeg2000" in raised.value.message
        assert fetch(data_url(data), MediaSettings(jpeg2000=True)).image.size == (40, 30)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(64), "HEIC or another file of the MP4 family, not supported; convert it to JPEG"),
        (b"<svg xmlns='secret'/>", "SVG is not supported; render it to PNG"),
        (b"%PDF-1.4 secret", "a PDF document"),
        (b"<html>secret", "an HTML page"),
        (b"secret", "(not an image);"),
        (png(1, 101), "more than 100 times its shorter side"),
        (png(101, 1), "more than 100 times its shorter side"),
    ],
)
def test_the_reason_of_a_refusal_is_said_without_anything_of_the_content(data: bytes, says: str) -> None:
    with pytest.raises(ApiError) as raised:
        fetch(data_url(data))
    assert says in raised.value.message
    assert "secret" not in raised.value.message
    assert b"secret".hex() not in raised.value.message
