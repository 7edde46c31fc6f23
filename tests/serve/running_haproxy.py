"""A HAProxy that runs with our script on a configuration as Ray writes one, and a replica behind it."""

from __future__ import annotations

import contextlib
import http.server
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve import haproxy
from serve.settings import LimitSettings

RUNNING = """global
    maxconn 100
defaults
    mode http
    timeout client 3600s
    timeout connect 5s
    timeout server 5s
    errorfile 502 /ray/500.http
    errorfile 503 /ray/500.http
    errorfile 504 /ray/500.http
frontend http_frontend
    bind 127.0.0.1:PORT
    http-request return status 200 content-type text/plain string "here" if { path / }
    use_backend replicas if { path_beg /replica/ }
    use_backend gone if { path_beg /gone/ }
    default_backend default_backend
backend replicas
    http-reuse always
    server one 127.0.0.1:REPLICA
backend gone
    server one 127.0.0.1:1
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found. Ping http://.../-/routes"
"""


def running(port: int, replica: int = 1) -> str:
    return RUNNING.replace("PORT", str(port)).replace("REPLICA", str(replica))


@contextlib.contextmanager
def running_haproxy(folder: Path, exempt: str = "127.0.0.0/8 ::1", replica: int = 1) -> Iterator[int]:
    """HAProxy with three connections for a client outside of `exempt`; gives its port."""
    (port,) = haproxy._free_ports(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(haproxy, "AFTER_BODY", 1)
        environment = haproxy.environment(LimitSettings(client_connections=3, body_seconds=2), "127.0.0.1")
    binary, written = Path(environment["RAY_SERVE_HAPROXY_BINARY_PATH"]), folder / "haproxy.cfg"
    rules = binary.parent / "front.cfg"
    rules.write_text(rules.read_text().replace("127.0.0.0/8 ::1", exempt))
    written.write_text(running(port, replica))
    process = subprocess.Popen([str(binary), "-db", "-f", str(written)])
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        time.sleep(0.1)  # until the connection of the loop is forgotten
        yield port
    finally:
        process.terminate()
        process.wait(10)


LARGE = bytes(range(250)) * 1200


class Replica(http.server.BaseHTTPRequestHandler):
    """Answers `/replica/STATUS` as Ray does, `/replica/STATUS/own` as the application does, and dies at `/replica/dies`.

    At `/replica/STATUS/own/BYTES` it dies after the headers and so many bytes of the body, which has five, and 300,000 with
    `/large` behind it; at `/replica/STATUS/own/large` that body comes whole, in parts; at `/replica/once/own` it dies if
    `server.gone` is not set, which it then is.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, _, status, *own = self.path.split("/")
        if own == ["own", "slow"]:
            time.sleep(3.5)
        most = int(own[1]) if len(own) >= 2 and own[1].isdigit() else None
        if status == "dies" or (status == "once" and not self.server.gone):  # type: ignore[attr-defined]
            self.server.gone = True  # type: ignore[attr-defined]
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(200 if status == "once" else int(status))
        self.send_header("X-Seen", self.headers["X-Request-ID"])
        body = LARGE if own[-1:] == ["large"] else b"reply"
        for name, value in (("Content-Length", str(len(body))), *([("X-Content-Type-Options", "nosniff")] if own else [])):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body[:most][:100_000])
        if body is LARGE and most is None:
            time.sleep(0.3)
            self.wfile.write(body[100_000:])
        if most is not None:
            self.wfile.flush()
            time.sleep(0.3)  # so that it has gone on before the end is seen
            self.connection.shutdown(socket.SHUT_RDWR)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass
