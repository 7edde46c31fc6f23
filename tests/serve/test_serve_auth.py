"""API keys: who may ask what, how keys are read, and which servers are refused."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from scripted_service import KEY, OTHER_KEY, Client, ScriptedService, chat_body

from leaml.errors import ConfigError
from pipelines import local_ray
from serve import auth, launch
from serve.settings import load_settings

PATHS = ["/", "/metrics", "/openapi.json", "/v1/models", "/v1/models/tiny", "/v1/card", "/static/app.js", "/nowhere"]


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        KEY,
        f"Token {KEY}",
        basic("wrong"),
        "Basic !!!",
        "Basic \xff",
    ],
)
async def test_every_route_but_health_needs_a_key(client: Client, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    async with client(headers=headers) as c:  # type: ignore[arg-type]
        for path in PATHS:
            reply = await c.get(path)
            assert reply.status_code == 401, path
            assert reply.headers["www-authenticate"].startswith("Bearer")
            assert reply.json()["error"]["type"] == "authentication_error"
        for path in ("/v1/vqa", "/v1/chat/completions"):
            assert (await c.post(path, json=chat_body())).status_code == 401
            assert (await c.options(path)).status_code == 401
        assert (await c.get("/health")).status_code == 200


@pytest.mark.anyio
async def test_each_of_several_keys_opens(client: Client) -> None:
    for value in (f"Bearer {KEY}", f"bearer {OTHER_KEY}", basic(KEY)):
        async with client(headers={"Authorization": value}) as c:
            for path in PATHS[:-1]:
                assert (await c.get(path)).status_code == 200, path


@pytest.mark.anyio
async def test_a_stored_password_is_no_use_to_a_page_of_another_site(client: Client) -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        async with client(headers={"Authorization": basic(KEY), "Sec-Fetch-Site": site}) as c:
            assert (await c.post("/v1/chat/completions", json=chat_body())).status_code == status


@pytest.mark.anyio
async def test_metrics_can_be_opened(client: Client) -> None:
    async with client({"auth": {"open_metrics": True}}, headers={}) as c:
        assert (await c.get("/metrics")).status_code == 200
        assert (await c.get("/v1/models")).status_code == 401


@pytest.mark.anyio
async def test_without_keys_only_this_machine_is_answered(client: Client) -> None:
    for address, status in (("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("10.0.0.9", 403), ("::2", 403)):
        async with client(keys=False, headers={}, address=address) as c:
            assert (await c.get("/v1/models")).status_code == status, address


@pytest.mark.anyio
async def test_cross_origin_pages_are_answered_only_where_listed(client: Client) -> None:
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    async with client() as c:
        reply = await c.post("/v1/chat/completions", json=chat_body(), headers={"Origin": "https://a.example"})
        assert "access-control-allow-origin" not in reply.headers
        assert "access-control-allow-origin" not in (await c.options("/v1/vqa", headers=ask)).headers
    async with client({"http": {"cors_origins": ["https://a.example"]}}) as c:
        assert (await c.options("/v1/vqa", headers=ask)).headers["access-control-allow-origin"] == "https://a.example"
        other = await c.options("/v1/vqa", headers=ask | {"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.anyio
async def test_listed_pages_send_any_header_and_read_what_clients_need(client: Client) -> None:
    asked = "authorization,content-type,x-stainless-os,x-stainless-retry-count,openai-organization"
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    for listed in ("https://a.example", "*"):
        async with client({"http": {"cors_origins": [listed]}}) as c:
            preflight = await c.options("/v1/chat/completions", headers=ask | {"Origin": "https://a.example"})
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-headers"] == asked
            reply = await c.post("/v1/chat/completions", json=chat_body(), headers={"Origin": "https://a.example"})
            assert reply.headers["access-control-expose-headers"] == "Retry-After, X-Request-ID"
    async with client({"http": {"cors_origins": ["https://a.example"]}}) as c:
        assert (await c.options("/v1/vqa", headers=ask | {"Origin": "https://b.example"})).status_code == 400


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n  {OTHER_KEY}  \n")
    found = auth.read_keys(str(file), f"{KEY}, third-key-0123456789")
    assert found == sorted(auth.digest(k) for k in (KEY, OTHER_KEY, "third-key-0123456789"))
    assert KEY not in str(found)
    assert auth.read_keys(None, None) == []


def test_an_empty_variable_is_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAML_API_KEYS", "")
    assert local_ray.remove_serving_keys() == ""
    assert local_ray.remove_serving_keys() is None
    monkeypatch.setenv("LEAML_API_KEYS", "")
    with pytest.raises(ConfigError, match="is set, but empty"):
        launch.start(load_settings({"model": "leaml-tiny"}))


def test_keys_are_gone_from_the_environment_that_the_kernel_shows() -> None:
    """What a process was started with stays in /proc/PID/environ when the variable is only unset."""
    program = (
        "import os, pathlib; from pipelines import local_ray; before = pathlib.Path('/proc/self/environ').read_bytes(); "
        "print(len(local_ray.remove_serving_keys()), os.environ.get('LEAML_API_KEYS'), os.environ['NEXT']); "
        "after = pathlib.Path('/proc/self/environ').read_bytes(); "
        f"print({KEY.encode()!r} in before, {KEY.encode()!r} in after, b'NEXT=kept' in after)"
    )
    given = os.environ | {"LEAML_API_KEYS": f"{KEY},{OTHER_KEY}", "NEXT": "kept"}
    done = subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True, timeout=60)
    length = str(len(KEY) + 1 + len(OTHER_KEY))
    assert done.stdout.split() == [length, "None", "kept", "True", "False", "True"]


@pytest.mark.parametrize("content", ["", "# none\n", "short", "has a space in its middle", "ключ-ключ-ключ-ключ"])
def test_bad_key_files_are_refused_without_showing_them(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(ConfigError) as raised:
        auth.read_keys(str(file), None)
    assert not content.strip("# \n") or content not in str(raised.value)
    with pytest.raises(ConfigError):
        auth.read_keys(str(tmp_path / "missing"), None)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (f"{KEY},{OTHER_KEY}", "comma or semicolon"),
        (f"{KEY};{OTHER_KEY}", "comma or semicolon"),
        (f"{KEY},", "comma or semicolon"),
        (f'"{KEY}"', "quotes"),
        (f"'{KEY}'", "quotes"),
        (f"`{KEY}`", "quotes"),
        (f"LEAML_API_KEYS={KEY}", "starts with LEAML_API_KEYS="),
        (f'LEAML_API_KEYS="{KEY}"', "starts with LEAML_API_KEYS="),
        (f"export LEAML_API_KEYS={KEY}", "without spaces"),
        (f"{KEY} {OTHER_KEY}", "without spaces"),
        (f"{KEY} # ours", "without spaces"),
        ("short", "at least 16"),
    ],
)
def test_lines_that_would_become_a_key_that_nobody_has_are_refused(tmp_path: Path, line: str, wrong: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{OTHER_KEY}\n  {line}\n")
    with pytest.raises(ConfigError) as raised:
        auth.read_keys(str(file), None)
    assert f"line 4 of {file} " in str(raised.value)
    assert wrong in str(raised.value)
    assert KEY not in str(raised.value)
    assert line == "short" or line not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (f'"{KEY}"', "quotes"),
        (f"{KEY};{OTHER_KEY}", "comma or semicolon"),
        (f"{OTHER_KEY},LEAML_API_KEYS={KEY}", "starts with"),
        ("short", "at least 16"),
        (",", "names no API key"),
        (" , ,\n", "names no API key"),
        (" ", "names no API key"),
        ("", "is set, but empty"),
    ],
)
def test_a_variable_without_usable_keys_is_refused(tmp_path: Path, given: str, wrong: str) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    for path in (None, str(file)):
        with pytest.raises(ConfigError, match="LEAML_API_KEYS") as raised:
            auth.read_keys(path, given)
        assert wrong in str(raised.value)
        assert KEY not in str(raised.value)


def test_key_files_of_other_editors_are_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for content in (f"\ufeff{KEY}\r\n{OTHER_KEY}\r\n", f"\ufeff# ours\n{KEY}\n{OTHER_KEY}"):
        file.write_bytes(content.encode())
        assert auth.read_keys(str(file), None) == sorted([auth.digest(KEY), auth.digest(OTHER_KEY)])


def test_an_open_server_binds_to_loopback_only() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "localhost", "::1"):
        auth.refuse_open_server(host, [])
    auth.refuse_open_server("0.0.0.0", [auth.digest(KEY)])
    for host in ("0.0.0.0", "::", "192.168.0.4", "example.org", ""):
        with pytest.raises(ConfigError, match="API keys"):
            auth.refuse_open_server(host, [])


def test_a_cluster_needs_keys() -> None:
    auth.refuse_keyless_cluster([auth.digest(KEY)])
    with pytest.raises(ConfigError, match="a server on a cluster needs API keys"):
        auth.refuse_keyless_cluster([])


@pytest.mark.anyio
async def test_a_replica_that_does_not_know_its_keys_yet_answers_nobody(service: ScriptedService) -> None:
    """Serve opens a replica's port before it hands over the configuration with the digests."""
    from serve.app import create_app
    from serve.replica import VqaServer
    from serve.settings import load_settings

    app = create_app(service, load_settings({"model": "tiny"}), VqaServer.__new__(VqaServer)._digests)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as c:
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": basic("")}):
            for path in ("/v1/models", "/health", "/"):
                reply = await c.get(path, headers=headers)
                assert (reply.status_code, reply.json()["error"]["code"]) == (503, "starting")  # which clients try again
                assert reply.headers["retry-after"]
