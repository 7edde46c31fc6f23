"""An HTTP proxy in front of an S3 server that loses, cuts, delays and refuses requests, by a seeded plan set at run time."""

from __future__ import annotations

import http.client
import random
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

REFUSALS = {
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "forbidden": (403, "AccessDenied", "Access Denied"),
    "unknown_key": (403, "InvalidAccessKeyId", "The access key Id you provided does not exist in our records."),
    "wrong_secret": (
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided.",
    ),
    "conflict": (409, "ConditionalRequestConflict", "A conflicting conditional operation is in progress."),
    "forgotten": (404, "NoSuchUpload", "The specified multipart upload does not exist."),
}
"""Faults that are an error reply: status, code and message."""

TRANSIENT = ("slow_down", "reset", "lost_reply", "cut_request", "cut_reply", "delay")
"""Faults that a client is to ride out."""

_BODIED = {"cut_request": ("PUT", "POST"), "cut_reply": ("GET",)}
"""The methods that a fault needs, where it needs a body."""
_FORWARDED = {"lost_reply", "cut_reply", "delay", "forgotten"}
"""Faults of requests that reach the server."""
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "date", "server"}
DELAY = 0.2


@dataclass(frozen=True)
class Plan:
    """What to do with requests: `rate` of them get one of `kinds`.

    Args:
        rate: Share of requests, 0 to 1.
        kinds: Names of faults, drawn evenly: `TRANSIENT`, `REFUSALS`, and "hang" (no reply for `hang` seconds).
        only: Regular expression found in "METHOD /path?query" of the requests that may get a fault.
        most: Faults of one request (method, path and query) in a row, after which it passes.
        times: Faults in all.
    """

    rate: float = 0.0
    kinds: tuple[str, ...] = TRANSIENT
    only: str = ""
    most: int | None = None
    times: int | None = None
    hang: float = 5.0


class Proxy(ThreadingHTTPServer):
    """Listens on 127.0.0.1; `plan` may be changed at any time, `faults` counts those done, `requests` all by method."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self._seed, self._lock = seed, threading.Lock()
        self.clear()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def clear(self) -> None:
        """Pass everything on, count from zero, draw from the seed again."""
        self.plan = Plan()
        self.faults: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._row: Counter[str] = Counter()
        self._random = random.Random(self._seed)

    def draw(self, method: str, path: str) -> str | None:
        """The fault of a request, or None."""
        request = f"{method} {path}"
        with self._lock:
            self.requests[method] += 1
            plan = self.plan
            kinds = [k for k in plan.kinds if method in _BODIED.get(k, (method,))]
            spent = plan.times is not None and sum(self.faults.values()) >= plan.times
            if not kinds or spent or not re.search(plan.only, request):
                return None
            # Drawn only now, so that the n-th request that may get a fault is the n-th draw, whatever comes in between
            if self._row[request] == plan.most or self._random.random() >= plan.rate:
                self._row[request] = 0
                return None
            kind = self._random.choice(kinds)
            self._row[request] += 1
            self.faults[kind] += 1
            return kind

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Clients that leave are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _serve(self) -> None:
        fault = self.server.draw(self.command, self.path)
        if fault == "cut_request":
            length = int(self.headers.get("Content-Length", 0))
            if length > 1:
                self._pass_on(self.rfile.read(length // 2), length)
            return self._drop()
        body = self._body()
        if fault == "hang":
            time.sleep(self.server.plan.hang)
        if fault == "delay":
            time.sleep(DELAY)
        if fault in _FORWARDED or fault is None:
            status, headers, reply = self._pass_on(body, len(body))
        if fault in ("reset", "hang", "lost_reply"):
            return self._drop()
        if fault in REFUSALS:
            status, headers, reply = self._refusal(fault)
        return self._reply(status, headers, reply, cut=fault == "cut_reply")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _pass_on(self, body: bytes, length: int) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send the request to the server, with `body` of `length` bytes; a shorter one is a broken connection."""
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    upstream.putheader(name, value)
            if self.command in ("PUT", "POST"):
                upstream.putheader("Content-Length", str(length))
            upstream.endheaders(body)
            if len(body) < length:
                return 0, [], b""
            reply = upstream.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            upstream.close()

    def _refusal(self, fault: str) -> tuple[int, list[tuple[str, str]], bytes]:
        status, code, message = REFUSALS[fault]
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
        return status, [("Content-Type", "application/xml")], body.encode()

    def _reply(self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool) -> None:
        length = {k.lower(): v for k, v in headers}.get("content-length") if self.command == "HEAD" else str(len(body))
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._drop()

    def _drop(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Quiet."""
