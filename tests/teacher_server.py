"""An OpenAI-compatible server on 127.0.0.1 whose replies a test scripts; it keeps what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""
HANG_UP: Reply = (0, {}, b"")
"""The connection is closed in the middle of a reply."""


def completion(content: Any, finish_reason: str | None = "stop", **message: Any) -> Reply:
    """A chat completion; `message` adds fields to its message."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": content, **message}}
    return as_json(200, {"object": "chat.completion", "choices": [choice]})


def as_json(status: int, body: Any, **headers: str) -> Reply:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(body).encode()


def refusal(status: int, message: str, param: str | None = None, **headers: str) -> Reply:
    return as_json(status, {"error": {"message": message, "type": "invalid_request_error", "param": param}}, **headers)


class Teacher:
    """Calls `reply(body, tries)` for each request, where `tries` counts requests about the same image, from 1."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply], delay: float = 0.0) -> None:
        self.reply, self.delay = reply, delay
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.tries: dict[str, int] = {}
        self.running = self.most_running = 0
        self.lock = threading.Lock()
        self.url = ""

    def asked(self, body: dict[str, Any], key: str | None) -> Reply:
        image = body["messages"][0]["content"][0]["image_url"]["url"]
        with self.lock:
            self.bodies.append(body)
            self.keys.append(key)
            self.times.append(time.monotonic())
            self.tries[image] = tries = self.tries.get(image, 0) + 1
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            time.sleep(self.delay)
            return self.reply(body, tries)
        finally:
            with self.lock:
                self.running -= 1


@contextmanager
def serving(
    reply: Callable[[dict[str, Any], int], Reply], delay: float = 0.0, models: Reply | None = None
) -> Iterator[Teacher]:
    """A teacher that listens until the context is left; `models` is its list of them."""
    teacher = Teacher(reply, delay)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send(*(models or refusal(404, f"no such path: {self.path}")))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.path.endswith("/chat/completions"):
                status, headers, data = refusal(404, f"no such path: {self.path}")
            else:
                status, headers, data = teacher.asked(body, self.headers["Authorization"])
            if not status:
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.close_connection = True
                return
            self.send(status, headers, data)

        def send(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    teacher.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield teacher
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
