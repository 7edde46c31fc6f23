"""Clients that ask the endpoint all the time, as well-behaved ones do: what is refused is tried again."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from endpoint import HEADERS, Endpoint, about, url

INCOMPLETE = "RemoteProtocolError: peer closed connection without sending complete message body (incomplete chunked read)"
"""The code of a stream that had begun and ended without its last event."""


@dataclass(frozen=True)
class Seen:
    """One reply: `code` of its error, "" if it is none; status 0 and what httpx says of it if the connection broke."""

    when: float
    route: str
    status: int
    code: str
    retry_after: str | None


class Load:
    """Clients, one a route and more, while this is entered.

    Args:
        endpoint: Whom they ask.
        data: The image that they send.
        question: What they ask about it.
        each: Clients of each route.
    """

    def __init__(self, endpoint: Endpoint, data: bytes, question: str, each: int = 2) -> None:
        ask: dict[str, Any] = {"image": url(data), "question": question, "alternatives": 0}
        batch = {"image": url(data), "questions": [{"question": question}] * 3, "alternatives": 0}
        chat = about(data, question) | {"temperature": 0}
        file = {"file": ("a.png", data, "image/png")}
        self.routes: dict[str, Callable[[httpx.Client], httpx.Response]] = {
            "vqa": lambda c: c.post("/v1/vqa", json=ask),
            "batch": lambda c: c.post("/v1/vqa", json=batch),
            "form": lambda c: c.post("/v1/vqa", data={"question": question}, files=file),
            "chat": lambda c: c.post("/v1/chat/completions", json=chat),
            "stream": lambda c: c.post("/v1/chat/completions", json=chat | {"stream": True, "max_tokens": 24}),
            "models": lambda c: c.get("/v1/models"),
        }
        self._base, self._over, self.seen = endpoint.base, threading.Event(), list[Seen]()
        self._threads = [threading.Thread(target=self._ask, args=(r, n)) for r in self.routes for n in range(each)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(200)

    def count(self, since: float = 0.0) -> Counter[tuple[int, str]]:
        """Replies by status and code."""
        return Counter((s.status, s.code) for s in self.seen if s.when >= since)

    def _ask(self, route: str, seed: int) -> None:
        draw = random.Random(seed)
        with httpx.Client(base_url=self._base, headers=HEADERS, timeout=170) as client:
            while not self._over.is_set():
                try:
                    reply = self.routes[route](client)
                    made = Seen(time.monotonic(), route, reply.status_code, _code(reply), reply.headers.get("retry-after"))
                except httpx.HTTPError as error:
                    made = Seen(time.monotonic(), route, 0, f"{type(error).__name__}: {error}", None)
                self.seen.append(made)
                self._over.wait(0.02 if made.status == 200 else draw.uniform(0.3, 0.6))


def only_told_to_try_again(load: Load) -> None:
    """Every reply is an answer or a 503 that says when to come back; a stream that had begun may break."""
    replies = {(200, ""), (503, "engine_dead"), (503, "starting")}
    begun = {(200, "engine_dead"), (0, INCOMPLETE)}
    assert {(s.status, s.code) for s in load.seen if s.route != "stream"} <= replies, load.count()
    assert {(s.status, s.code) for s in load.seen if s.route == "stream"} <= replies | begun, load.count()
    assert all(s.retry_after for s in load.seen if s.status == 503)


def _code(reply: httpx.Response) -> str:
    """Of an error, also of one in a stream that had begun."""
    if reply.headers.get("content-type", "").startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
        errors = [json.loads(event)["error"]["code"] for event in events if event.startswith('{"error"')]
        return str(errors[0]) if errors else ""
    if reply.status_code == 200:
        return ""
    try:
        return str(reply.json()["error"]["code"])
    except ValueError:
        return reply.text[:100]
