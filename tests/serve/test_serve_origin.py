"""Which hosts, pages and clients are answered: with keys, without keys, and with a password that a browser has stored."""

from __future__ import annotations

import base64
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playground import serving
from scripted_service import AUTH, KEY, Client, ScriptedService, chat_body, data_url

from serve.app import create_app
from serve.origin import split_authority
from serve.settings import load_settings

pytestmark = pytest.mark.anyio

PATHS = ["/", "/static/app.js", "/health", "/metrics", "/openapi.json", "/v1/models", "/nowhere"]
BASIC = {"Authorization": "Basic " + base64.b64encode(f"anyone:{KEY}".encode()).decode()}
CORS = {"http": {"cors_origins": ["https://a.example"]}}
OWN_HOSTS = [
    "localhost",
    "LOCALHOST",
    "localhost.",
    "localhost:8000",
    "localhost:1",
    "localhost:",
    "[::1]:",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.9.9.9",
    "[::1]",
    "[::1]:8000",
    "[0:0:0:0:0:0:0:1]",
]
OTHER_HOSTS = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example#localhost",
    "localhost@evil.example",
    "localhost, evil.example",
    "localhost:8000:8000",
    "localhost:port",
    "localhost..",
    "127.1",
    "2130706433",
    "0.0.0.0",
    "[::]",
    "::1",
    "[::1",
    "10.0.0.9",
    "local host",
    "http://localhost",
    "*",
    ".",
    "",
]


@pytest.mark.parametrize("host", OWN_HOSTS)
async def test_without_keys_the_names_of_this_machine_are_answered(client: Client, host: str) -> None:
    async with client(keys=False, headers={"Host": host}) as c:
        for path in PATHS[:-1]:
            assert (await c.get(path)).status_code == 200, path
        assert (await c.post("/v1/chat/completions", json=chat_body())).status_code == 200


@pytest.mark.parametrize("host", OTHER_HOSTS)
async def test_without_keys_no_other_host_is_answered(client: Client, service: ScriptedService, host: str) -> None:
    forwarded = {"X-Forwarded-Host": "localhost", "Forwarded": "host=localhost;for=127.0.0.1"}  # which anybody can send
    async with client(CORS, keys=False, headers={"Host": host, "Origin": "https://a.example", **forwarded}) as c:
        for path in PATHS:
            reply = await c.get(path)
            assert (reply.status_code, reply.json()["error"]["code"]) == (421, "host"), path
            assert "access-control-allow-origin" not in reply.headers
        preflight = {"Access-Control-Request-Method": "POST"}
        assert (await c.options("/v1/vqa", headers=preflight)).status_code == 421
        assert (await c.post("/v1/vqa", json={"image": data_url(), "question": "a"})).status_code == 421
    assert service.asked == []


def replies(settings: dict[str, Any], *requests: bytes) -> list[bytes]:
    """Status lines of raw requests to a server without keys."""
    found = []
    with serving(create_app(ScriptedService(), load_settings({"model": "tiny", **settings}))) as address:
        for request in requests:
            with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=5) as stream:
                stream.sendall(request)
                found.append(stream.recv(4096).split(b"\r\n")[0])
    return found


def test_hosts_that_only_a_socket_can_send() -> None:
    good, *bad = replies(
        {},
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.0\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    )
    assert b" 200 " in good
    assert all(b" 421 " in status or b" 400 " in status for status in bad), bad


async def test_listed_hosts_are_answered_beside_those_of_this_machine(client: Client) -> None:
    listed = {"http": {"allowed_hosts": ["Leaml.example", "with-port.example:8443", "[2001:db8::1]"], "host": "127.0.0.7"}}
    known = ["leaml.example", "LEAML.example.:9", "with-port.example:8443", "[2001:DB8::1]:80", "localhost", "127.0.0.7"]
    for keys in (True, False):
        async with client(listed, keys=keys, headers=AUTH if keys else {}) as c:
            for host in known:
                assert (await c.get("/v1/models", headers={"Host": host})).status_code == 200, host
            for host in ("other.example", "with-port.example", "with-port.example:1", "a.leaml.example", "xleaml.example"):
                assert (await c.get("/v1/models", headers={"Host": host})).status_code == 421, host
                assert (await c.get("/health", headers={"Host": host})).status_code == 421, host


async def test_hosts_are_compared_as_addresses_and_without_default_ports(client: Client) -> None:
    listed = {
        "http": {
            "allowed_hosts": ["[2001:DB8:0:0::1]", "a.example:443", "b.example:80", "c.example:8443"],
            "host": "2001:db8::0:7",
        }
    }
    for keys in (True, False):
        async with client(listed, keys=keys, headers=AUTH if keys else {}) as c:
            for host in (
                "[2001:db8::1]:80",
                "[2001:0db8::1]",
                "a.example",
                "a.example:443",
                "b.example",
                "[2001:db8::7]:9",
                "localhost:",
            ):
                assert (await c.get("/v1/models", headers={"Host": host})).status_code == 200, host
            for host in ("a.example:80", "b.example:443", "c.example", "[2001:db8::2]"):
                reply = await c.get("/v1/models", headers={"Host": host})
                assert reply.status_code == 421, host
                assert "[2001:db8::7]" in reply.json()["error"]["message"]


async def test_with_keys_any_host_is_answered_unless_some_are_listed(client: Client) -> None:
    async with client() as c:
        for host in ("leaml.example", "10.0.0.9:8000"):
            assert (await c.get("/v1/models", headers={"Host": host})).status_code == 200


def test_authorities_are_split() -> None:
    assert split_authority("A.Example.:80") == ("a.example", "80")
    assert split_authority("[::1]:80") == ("::1", "80")
    assert split_authority("[0:0:0:0:0:0:0:1]:") == ("::1", "")
    assert split_authority("a:") == ("a", "")  # which RFC 3986 allows
    for bad in ("", ":80", "a b", "a/b", "::1", "[a.example]", "[abcd]", "a:123456", "a:65536", "a:0", "127.1", "a..b"):
        assert split_authority(bad) is None, bad


FOREIGN_PAGES = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "something-new"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:9000"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "localhost"},
    {"Origin": ""},
]
OWN_PAGES = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://public.example"},  # TLS ends at a proxy that changes Host
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://localhost"},
    {"Origin": "https://LOCALHOST"},
]


@pytest.mark.parametrize("access", [None, BASIC])
@pytest.mark.parametrize("page", FOREIGN_PAGES)
async def test_pages_of_other_origins_are_refused(
    client: Client, service: ScriptedService, access: dict[str, str] | None, page: dict[str, str]
) -> None:
    async with client(keys=access is not None, headers={**(access or {}), **page}) as c:
        ways = [
            await c.get("/v1/models"),
            await c.get("/nowhere"),
            await c.options("/v1/vqa"),
            await c.post("/v1/chat/completions", json=chat_body()),
            # what a browser sends without asking first
            await c.post("/v1/vqa", files={"file": ("a.png", b"x")}, data={"question": "a"}),
            await c.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"}),
            await c.post("/", data={"a": "b"}),
        ]
    assert {(r.status_code, r.json()["error"]["code"]) for r in ways} == {(403, "cross_site")}
    assert service.asked == []


@pytest.mark.parametrize("access", [None, BASIC])
@pytest.mark.parametrize("page", OWN_PAGES)
async def test_the_server_s_own_page_and_other_programs_are_answered(
    client: Client, access: dict[str, str] | None, page: dict[str, str]
) -> None:
    async with client(keys=access is not None, headers={**(access or {}), **page}) as c:
        assert (await c.get("/v1/models")).status_code == 200
        assert (await c.post("/v1/chat/completions", json=chat_body())).status_code == 200


@pytest.mark.parametrize("access", [None, BASIC])
async def test_a_link_to_the_page_works_from_anywhere(client: Client, access: dict[str, str] | None) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    async with client(keys=access is not None, headers={**(access or {}), **link}) as c:
        assert (await c.get("/")).status_code == 200
        for path in PATHS[3:]:
            assert (await c.get(path)).status_code == 403, path
        assert (await c.post("/")).status_code == 403


@pytest.mark.parametrize("access", [None, BASIC])
async def test_listed_origins_are_answered(client: Client, access: dict[str, str] | None) -> None:
    page = {"Origin": "https://a.example", "Sec-Fetch-Site": "cross-site"}
    async with client(CORS, keys=access is not None, headers={**(access or {}), **page}) as c:
        preflight = await c.options("/v1/vqa", headers={"Access-Control-Request-Method": "POST"})
        reply = await c.post("/v1/chat/completions", json=chat_body())
        assert (preflight.status_code, reply.status_code) == (200, 200)
        assert reply.headers["access-control-allow-origin"] == "https://a.example"
        other = await c.post("/v1/chat/completions", json=chat_body(), headers={"Origin": "https://b.example"})
        assert (other.status_code, "access-control-allow-origin" in other.headers) == (403, False)
    async with client({"http": {"cors_origins": ["*"]}}, keys=access is not None, headers={**(access or {}), **page}) as c:
        assert (await c.get("/v1/models")).status_code == 403  # any page, but with a key of its own


async def test_pages_with_a_key_of_their_own_are_answered(client: Client) -> None:
    for origins in (["*"], ["https://a.example"]):
        async with client({"http": {"cors_origins": origins}}) as c:
            page = {"Origin": "https://a.example", "Sec-Fetch-Site": "cross-site"}
            reply = await c.post("/v1/chat/completions", json=chat_body(), headers=page)
            assert reply.status_code == 200
            refused = await c.get("/v1/models", headers={**page, "Authorization": "Bearer wrong"})
            assert refused.status_code == 401
            assert "access-control-allow-origin" in refused.headers  # so that the page can read why


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/json-patch+json"])
async def test_bodies_that_browsers_send_unasked_are_not_taken(client: Client, kind: str) -> None:
    async with client() as c:
        for path in ("/v1/vqa", "/v1/chat/completions"):
            assert (await c.post(path, content=b"{}", headers={"Content-Type": kind})).status_code == 415
        reply = await c.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "multipart/form-data; boundary=a"})
        assert reply.status_code == 415


REMOTE = [
    {"X-Forwarded-For": "10.0.0.9"},
    {"X-Forwarded-For": "127.0.0.1, 10.0.0.9"},
    {"X-Forwarded-For": "10.0.0.9, 127.0.0.1"},
    {"X-Forwarded-For": "10.0.0.9:1234"},
    {"X-Forwarded-For": "[2001:db8::1]:80"},
    {"X-Forwarded-For": "unknown"},
    {"X-Forwarded-For": ""},
    {"X-Forwarded-For": " , "},
    {"X-Forwarded-For": "10.0.0.9,"},
    {"Forwarded": "for=10.0.0.9,"},
    {"X-Real-IP": "10.0.0.9"},
    {"X-Cluster-Client-IP": "10.0.0.9"},
    {"X-Original-Forwarded-For": "127.0.0.1, 10.0.0.9"},
    {"X-Envoy-External-Address": "10.0.0.9"},
    {"Fastly-Client-IP": "10.0.0.9"},
    {"Fly-Client-IP": "10.0.0.9"},
    {"X-Azure-ClientIP": "10.0.0.9"},
    {"CF-Connecting-IP": "10.0.0.9"},
    {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "10.0.0.9"},
    {"Forwarded": "for=10.0.0.9"},
    {"Forwarded": 'proto=http; FOR="[2001:db8::1]:80"; by=127.0.0.1'},
    {"Forwarded": "for=127.0.0.1, for=_hidden"},
    {"Forwarded": "proto=https"},
]
LOCAL = [
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-For": "::1, 127.0.0.1:80"},
    {"Forwarded": 'for="[::1]:80";proto=http, for=127.0.0.1'},
    {"X-Real-IP": "::ffff:127.0.0.1"},
    {"X-Forwarded-For": "127.0.0.1,"},
    {"X-Forwarded-For": "127.0.0.1, ,::1 , "},
    {"Forwarded": "for=127.0.0.1, "},
]


@pytest.mark.parametrize("proxy", REMOTE)
async def test_without_keys_clients_of_a_proxy_are_refused(client: Client, proxy: dict[str, str]) -> None:
    async with client(keys=False, headers=proxy) as c:
        for reply in (await c.get("/v1/models"), await c.post("/v1/chat/completions", json=chat_body())):
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "no_keys")
        assert (await c.get("/health")).status_code == 200
    async with client(headers=AUTH | proxy) as c:
        assert (await c.get("/v1/models")).status_code == 200


@pytest.mark.parametrize("proxy", LOCAL)
async def test_a_proxy_for_this_machine_is_answered_and_names_let_nobody_in(client: Client, proxy: dict[str, str]) -> None:
    async with client(keys=False, headers=proxy) as c:
        assert (await c.get("/v1/models")).status_code == 200
    async with client(keys=False, headers=proxy, address="10.0.0.9") as c:
        assert (await c.get("/v1/models")).status_code == 403


async def test_every_reply_has_its_security_headers_and_one_request_id(client: Client) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"{}"

    async with client({"limits": {"header_bytes": 4000}}) as c:
        page, script = await c.get("/"), await c.get("/static/app.js")
        others = [
            await c.get("/v1/models"),
            await c.get("/nowhere"),
            await c.get("/v1/models", headers={"X-Filler": "x" * 5000}),
            await c.get("/v1/models", headers={"Authorization": "none"}),
            await c.post("/v1/chat/completions", json=chat_body(stream=True)),
            await c.post("/v1/vqa", content=chunks(), headers={"Content-Type": "application/json"}),
        ]
    async with client(keys=False, headers={"Host": "evil.example"}) as c:
        others.append(await c.get("/"))
    assert {r.status_code for r in others} == {200, 401, 404, 421, 422, 431}
    for reply in (page, script, *others):
        assert len(reply.headers.get_list("x-request-id")) == 1
        assert reply.headers.get_list("x-content-type-options") == ["nosniff"]
        assert reply.headers.get_list("referrer-policy") == ["no-referrer"]
        assert reply.headers.get_list("cross-origin-resource-policy") == ["same-origin"]
        assert len(reply.headers.get_list("content-security-policy")) == 1
    for reply in others:
        assert reply.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    comment = " ".join(page.text.partition("-->")[0].split())
    for reply in (page, script):
        assert reply.headers["content-security-policy"] in comment  # the policy that the page says is enough
        assert reply.headers["content-security-policy"].endswith("frame-ancestors 'none'")


async def test_the_request_id_is_left_to_a_server_that_sends_it(service: ScriptedService) -> None:
    import httpx

    app = create_app(service, load_settings({"model": "tiny"}), sends_request_id=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as c:
        assert "x-request-id" not in (await c.get("/v1/models")).headers
