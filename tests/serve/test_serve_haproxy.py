"""HAProxy of a local server: what Ray writes for it is made safe, and two servers share nothing."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_haproxy import LARGE, Replica, running, running_haproxy

from serve import haproxy
from serve.settings import LimitSettings

WRITTEN = """global
    maxconn 4096
    tune.bufsize 16384
defaults
    mode http
    timeout client 3600s
    errorfile 502 /ray/500.http
    errorfile 503 /ray/500.http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:8404
  stats enable
"""


def test_only_haproxy_listens_at_the_host_headers_are_timed_and_clients_have_few_connections(tmp_path: Path) -> None:
    written, fake = tmp_path / "haproxy.cfg", tmp_path / "binary with space"
    written.write_text(WRITTEN)
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o700)
    limits = LimitSettings(body_seconds=7, client_connections=50)
    script = haproxy.write_script(tmp_path, limits, "10.1.2.3", str(fake))
    command = [str(script), "-db", "-f", str(written), "-sf", "123", "-x", "a b"]
    got = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert got == ["-db", "-f", f"{written}.own", "-sf", "123", "-x", "a b"]
    changed = (tmp_path / "haproxy.cfg.own").read_text().splitlines()
    assert [line.strip() for line in changed if "bind" in line] == [
        "bind 127.0.0.1:9101",
        "bind 10.1.2.3:8000",
        "bind 127.0.0.1:8404",
    ]
    assert changed[changed.index("defaults") + 1].strip() == "timeout http-request 7s"
    assert [line.strip() for line in changed if "timeout client" in line] == ["timeout client 12s"]
    assert [line.strip() for line in changed if "bufsize" in line] == ["tune.bufsize 40960"]
    own = [line.strip() for line in changed[changed.index("frontend http_frontend") :]]
    assert "tcp-request connection track-sc0 src unless { src 127.0.0.0/8 ::1 }" in own
    assert "tcp-request connection reject if { sc0_conn_cur gt 50 }" in own
    assert [line.split()[-1] for line in changed if "errorfile" in line] == [
        f"{tmp_path}/lost.http",
        f"{tmp_path}/starting.http",
    ]


@pytest.mark.parametrize(("exempt", "answered"), [("10.0.0.0/8", 3), ("127.0.0.0/8 ::1", 6)])
def test_one_client_cannot_hold_all_connections(tmp_path: Path, exempt: str, answered: int) -> None:
    found = 0
    with running_haproxy(tmp_path, exempt) as port, contextlib.ExitStack() as kept:
        for _ in range(6):
            with contextlib.suppress(ConnectionError):  # reset, before or after it is used
                stream = kept.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                stream.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                found += stream.recv(100).startswith(b"HTTP/1.1 200 ")
    assert found == answered


@pytest.fixture(scope="module")
def replica() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def forwarded(tmp_path_factory: pytest.TempPathFactory, replica: http.server.ThreadingHTTPServer) -> Iterator[httpx.Client]:
    with running_haproxy(tmp_path_factory.mktemp("haproxy"), replica=replica.server_port) as port:
        yield httpx.Client(base_url=f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/models", "starting"),  # no application
        ("/health", "starting"),
        ("/gone/x", "starting"),  # no replica that can be reached
        ("/replica/dies", "engine_dead"),  # or was stopped: not to be told from here
        ("/replica/500", "engine_dead"),  # Serve's proxy, of a replica that died
        ("/replica/404", "starting"),  # Serve's proxy, before it knows the routes
        ("/replica/408", "starting"),  # no replica came while the request waited
        ("/replica/503", "starting"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_what_no_application_has_answered_is_a_503_that_says_when_to_try_again(
    forwarded: httpx.Client, path: str, code: str, method: str
) -> None:
    assert forwarded.get("/replica/200/own").status_code == 200  # there are connections that could be used again
    reply = forwarded.request(method, path, headers={"X-Request-ID": "mine-1"})
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == {"starting": "5", "engine_dead": "10"}[code]
    assert reply.headers.get_list("x-request-id") == ["mine-1"]
    assert reply.text == "" if method == "HEAD" else reply.json()["error"]["code"] == code


@pytest.mark.parametrize("sent", [0, 3])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_answer_whose_replica_dies_before_its_body_is_whole_is_a_503_too(
    forwarded: httpx.Client, method: str, sent: int
) -> None:
    reply = forwarded.request(method, f"/replica/200/own/{sent}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead")
    assert reply.headers["retry-after"] == "10"


@pytest.mark.parametrize("sent", [0, 3000])
def test_a_large_answer_of_which_little_has_come_is_a_503_too(forwarded: httpx.Client, sent: int) -> None:
    reply = forwarded.get(f"/replica/200/own/{sent}/large")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead")


def test_an_answer_larger_than_the_buffer_is_passed_on_whole(forwarded: httpx.Client) -> None:
    assert forwarded.get("/replica/200/own/large").content == LARGE


@pytest.mark.parametrize("status", [200, 401, 404, 408, 422, 429, 500, 503, 504])
def test_what_the_application_has_answered_is_passed_on(forwarded: httpx.Client, status: int) -> None:
    reply = forwarded.get(f"/replica/{status}/own", headers={"X-Request-ID": "not ours: <>"})
    assert (reply.status_code, reply.text) == (status, "reply")
    (made,) = reply.headers.get_list("x-request-id")
    assert re.fullmatch(r"[0-9a-f-]{36}", made)
    assert reply.headers["x-seen"] == made  # so the replica's log has it too


@pytest.mark.timeout(30)
@pytest.mark.parametrize("head", [b"Content-Length: 1300\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n"])
def test_a_refused_request_whose_body_stops_does_not_keep_its_connection(forwarded: httpx.Client, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", forwarded.base_url.port or 0), timeout=10) as stream:
        stream.sendall(b"POST /replica/401/own HTTP/1.1\r\nHost: a\r\n" + head)
        assert stream.recv(100).startswith(b"HTTP/1.1 401 ")
        began = time.monotonic()
        while stream.recv(1000):
            pass
    assert time.monotonic() - began < 5


def test_a_client_that_waits_longer_for_its_reply_gets_it(forwarded: httpx.Client) -> None:
    assert forwarded.get("/replica/200/own/slow", timeout=20).text == "reply"


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("POST", 503)])
def test_what_has_no_body_is_sent_again_where_a_replica_ends_before_it_has_read_it(
    forwarded: httpx.Client, replica: Any, method: str, status: int
) -> None:
    """And a question is not: it may be what the replica died of."""
    replica.gone = False
    assert forwarded.request(method, "/replica/once/own").status_code == status
    assert replica.gone


@pytest.mark.parametrize("line", ["CONNECT evil.example:443", "OPTIONS *"])
def test_a_request_without_a_path_of_this_server_is_refused(forwarded: httpx.Client, line: str) -> None:
    reply = raw(forwarded, f"{line} HTTP/1.1\r\nHost: evil.example:443\r\n\r\n".encode())
    assert reply.startswith("HTTP/1.1 400 ") and '"no_path"' in reply
    assert "x-request-id: " in reply.lower()


def raw(forwarded: httpx.Client, request: bytes) -> str:
    """The reply to bytes that httpx would not send."""
    with socket.create_connection(("127.0.0.1", forwarded.base_url.port or 0), timeout=10) as stream:
        stream.sendall(request)
        return stream.recv(4000).decode()


@pytest.mark.parametrize("fields", [200, 2000])
def test_many_small_headers_reach_the_application_as_few_large_ones_do(
    forwarded: httpx.Client, fields: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http.client, "_MAXHEADERS", 10_000)  # of the replica here
    lines = "".join(f"{number:x}: b\r\n" for number in range(fields))
    reply = raw(forwarded, f"GET /replica/200/own HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
    assert reply.startswith("HTTP/1.1 200 "), reply


def test_once_it_is_told_to_stop_a_server_without_replicas_says_that_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray writes the configuration without the application, and starts HAProxy on it anew."""
    for name, value in haproxy.environment(LimitSettings(), "127.0.0.1").items():
        monkeypatch.setenv(name, value)
    haproxy.say_stopping()
    (port,) = haproxy._free_ports(1)
    written = tmp_path / "haproxy.cfg"
    written.write_text(running(port))
    process = subprocess.Popen([os.environ[haproxy.BINARY], "-db", "-f", str(written)])
    try:
        for path in ("v1/models", "gone/x"):
            reply = eventually(lambda path=path: httpx.get(f"http://127.0.0.1:{port}/{path}"))
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "stopping")
            assert reply.headers["retry-after"]
    finally:
        process.terminate()
        process.wait(10)


def eventually(ask: Callable[[], httpx.Response]) -> httpx.Response:
    for _ in range(200):
        with contextlib.suppress(httpx.ConnectError):
            return ask()
        time.sleep(0.05)
    return ask()


def test_the_next_server_removes_the_folder_of_one_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(haproxy, "_short_folder", lambda: Path(tempfile.mkdtemp(prefix=haproxy.PREFIX)))
    program = (
        "import os, signal, sys, tempfile; from pathlib import Path; from serve import haproxy; from serve.settings import "
        "LimitSettings; tempfile.tempdir = sys.argv[1]; "
        "haproxy._short_folder = lambda: Path(tempfile.mkdtemp(prefix=haproxy.PREFIX)); "
        "haproxy.environment(LimitSettings(), '127.0.0.1'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    (left,) = tmp_path.glob("lm-*")
    (tmp_path / "lm-theirs").mkdir()  # of another program
    own = Path(haproxy.environment(LimitSettings(), "127.0.0.1")[haproxy.BINARY]).parent
    haproxy.environment(LimitSettings(), "127.0.0.1")  # which leaves that of a server that runs
    assert not left.exists()
    assert own.exists() and (tmp_path / "lm-theirs").exists()


def test_headers_over_the_limit_reach_the_application_which_says_so(forwarded: httpx.Client) -> None:
    assert forwarded.get("/replica/431/own", headers={"X": "a" * 30_000}).status_code == 431


def test_sockets_have_short_paths_in_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / ("long" * 20), Path("/tmp")):
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        made = Path(haproxy.environment(LimitSettings(), "127.0.0.1")["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"])
        assert len(f"{made.parent}/{'0' * 56}/{made.name}") <= 97  # HAProxy's limit, with what Ray puts between
        assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700


def test_two_servers_share_no_file() -> None:
    one = haproxy.environment(LimitSettings(connections=777), "127.0.0.1")
    other = haproxy.environment(LimitSettings(), "0.0.0.0")
    assert one[haproxy.SWITCH] == "1"
    own = [name for name in one if name.endswith(("_PATH", "_LOC", "_FILE", "_BASE"))]
    assert len(own) >= 6
    assert all(one[name] != other[name] for name in own)
    assert one["RAY_SERVE_HAPROXY_MAXCONN"] == "777"
    assert one["RAY_SERVE_HAPROXY_STATS_PORT"] != one["RAY_SERVE_HAPROXY_METRICS_PORT"]
    # nor a port at which the one's HAProxy would find the other's proxy or replica
    fallback, least, most = (
        [int(each[f"RAY_SERVE_{name}_HTTP_PORT"]) for each in (one, other)]
        for name in ("FALLBACK_PROXY", "DIRECT_INGRESS_MIN", "DIRECT_INGRESS_MAX")
    )
    blocks = [set(range(a, c + 1)) | {b} for a, b, c in zip(least, fallback, most, strict=True)]
    assert all(len(block) == 100 for block in blocks)
    assert blocks[0] == blocks[1] or not blocks[0] & blocks[1]
    binary = Path(one["RAY_SERVE_HAPROXY_BINARY_PATH"])
    version = subprocess.run([str(binary), "-v"], capture_output=True, text=True, check=True).stdout
    assert "HAProxy" in version


@pytest.mark.parametrize("gone", [False, True])
def test_the_second_server_of_a_process_does_not_stand_on_the_first(monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    """`serve.launch` leaves a server's environment to its process; what the first had written may be gone by then."""
    for name, value in haproxy.environment(LimitSettings(), "127.0.0.1").items():
        monkeypatch.setenv(name, value)
    first = Path(os.environ[haproxy.BINARY])
    if gone:
        first.unlink()
    second = Path(haproxy.environment(LimitSettings(), "127.0.0.1")[haproxy.BINARY])
    assert second != first
    assert str(first) not in second.read_text()


def test_haproxy_of_the_user_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "haproxy"
    theirs.write_text("")
    theirs.chmod(0o700)
    monkeypatch.setenv(haproxy.BINARY, str(theirs))
    assert f"'{theirs}'" in Path(haproxy.environment(LimitSettings(), "127.0.0.1")[haproxy.BINARY]).read_text()


def test_haproxy_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    (port,) = haproxy._free_ports(1)
    binary = haproxy.environment(LimitSettings(), "127.0.0.1")["RAY_SERVE_HAPROXY_BINARY_PATH"]
    written = tmp_path / "haproxy.cfg"
    written.write_text(running(port))
    program = f"import subprocess, time; subprocess.Popen([{binary!r}, '-db', '-f', {str(written)!r}]); time.sleep(60)"
    starter = subprocess.Popen([sys.executable, "-c", program])

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        assert any(listens() or time.sleep(0.05) for _ in range(200))
    finally:
        starter.kill()
        starter.wait(10)
    assert any(not listens() or time.sleep(0.05) for _ in range(100))
