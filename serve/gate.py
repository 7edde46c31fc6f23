"""The door of the application: request ids, header size, keys, places, errors in one shape, one log line a request.

It is plain ASGI around the routes, so that it costs little and nothing passes it by.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import auth
from serve.errors import ApiError
from serve.observe import Metrics, Record, log
from serve.settings import LimitSettings

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")


class ClientGoneError(Exception):
    """Nobody waits for the reply any more."""


class Places:
    """How many requests are inside, and which of them are worked on; the others wait in order."""

    def __init__(self, limits: LimitSettings, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._working = asyncio.Semaphore(limits.concurrency)
        self.inside = 0
        self.running = 0

    def enter(self) -> None:
        """Raise ApiError (429) when as many requests as may wait do."""
        if self.inside >= self._limits.concurrency + self._limits.queue:
            retry = self._limits.retry_after_seconds
            raise ApiError(429, f"the server is full; try again in {retry} s", "full", retry_after=retry)
        self.inside += 1
        self._show()

    def leave(self) -> None:
        self.inside -= 1
        self._show()

    async def __aenter__(self) -> None:
        await self._working.acquire()
        self.running += 1
        self._show()

    async def __aexit__(self, *_: object) -> None:
        self._working.release()
        self.running -= 1
        self._show()

    def _show(self) -> None:
        self._metrics.set("leaml_running", self.running)
        self._metrics.set("leaml_waiting", self.inside - self.running)


class Gate:
    """ASGI middleware around the routes.

    Args:
        app: What is behind it.
        limits: Header size.
        metrics: Where requests are counted.
        places: Where POST requests take a place.
        digests: Digests of the keys, asked for at each request since they can be changed while the server runs.
        open_paths: Paths without a key.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: LimitSettings,
        metrics: Metrics,
        places: Places,
        digests: Callable[[], Sequence[str]],
        open_paths: frozenset[str],
    ) -> None:
        self.app, self._limits, self._metrics, self._places = app, limits, metrics, places
        self._digests, self._open = digests, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        record = Record(request_id, scope["method"])
        scope.setdefault("state", {})["record"] = record
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started, record.status = True, message["status"]
                message["headers"] = [*message.get("headers", []), *_headers(request_id)]
            await send(message)

        try:
            await self._pass(scope, headers, receive, answer)
        except (ClientGoneError, ClientDisconnect):
            record.status = 499
        except asyncio.CancelledError:
            record.status = record.status or 499
            raise
        except ApiError as error:
            record.reason = error.code
            if not started:
                await error.response()(scope, receive, answer)
        except Exception:
            log.exception("failed", extra={"fields": {"request_id": request_id}})
            record.reason = "failed"
            if not started:
                failed = ApiError(500, f"the server failed; its log has the request id {request_id}", "failed")
                await failed.response()(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", None)  # set by the router, so never a path that a client made up
            record.route = route or record.route
            record.end(self._metrics)

    async def _pass(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        size = sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope.get("query_string", b""))
        if size + len(scope.get("raw_path") or scope["path"]) > self._limits.header_bytes:
            raise ApiError(431, f"the headers have more than {self._limits.header_bytes} bytes, the limit", "header_bytes")
        if scope["path"] not in self._open:
            auth.check(headers, scope["client"][0] if scope.get("client") else None, self._digests())
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        self._places.enter()
        try:
            await self.app(scope, receive, send)
        finally:
            self._places.leave()


def _headers(request_id: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]


async def read_body(request: Request, limits: LimitSettings) -> bytes:
    """The whole body, counted and timed while it arrives. Raises ApiError (408, 413)."""
    too_large = ApiError(413, f"the body has more than {limits.body_bytes} bytes, the limit", "body_bytes")
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > limits.body_bytes:
        raise too_large
    parts, total = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                total += len(part)
                if total > limits.body_bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        msg = f"the body did not arrive within {limits.body_seconds:g} s"
        raise ApiError(408, msg, "body_seconds") from None
    return b"".join(parts)


async def guarded(work: Coroutine[Any, Any, Any], request: Request, limits: LimitSettings) -> Any:
    """Result of `work`, which is cancelled when the deadline has passed (ApiError 504) or the client is gone."""
    record: Record = request.scope["state"]["record"]
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(request.receive))
    try:
        done, _ = await asyncio.wait({task, gone}, timeout=remaining(record, limits), return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if gone in done:
            raise ClientGoneError
        raise late(limits)
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def remaining(record: Record, limits: LimitSettings) -> float:
    """Seconds until a request's deadline."""
    return max(0.0, record.began + limits.deadline_seconds - time.perf_counter())


def late(limits: LimitSettings) -> ApiError:
    """The error of a deadline that has passed."""
    return ApiError(504, f"no reply within {limits.deadline_seconds:g} s, the deadline", "deadline", None)


async def disconnected(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
    """Wait until the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """ASGI response of server-sent events; ends when they do, at the deadline, or when the client goes away.

    Args:
        first: The first event, awaited before, so that errors had a status of their own.
        events: The others; closed in any case, which is how an abort reaches the engine.
        request: Whose it is.
        limits: The deadline.
        release: Called once at the end.
    """

    def __init__(
        self,
        first: str,
        events: AsyncIterator[str],
        request: Request,
        limits: LimitSettings,
        release: Callable[[], Awaitable[None]],
    ) -> None:
        self._first, self._events, self._request, self._limits, self._release = first, events, request, limits, release
        self._over = False
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(disconnected(self._request.receive))
        try:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            event: str | None = self._first
            while event is not None:
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
                event = await self._next(gone)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            close = getattr(self._events, "aclose", None)
            try:
                if close is not None:
                    await close()
            finally:
                await self._release()

    async def _next(self, gone: asyncio.Future[None]) -> str | None:
        """The next event, None at the end; an error becomes the last event."""
        if self._over:
            return None
        record: Record = self._request.scope["state"]["record"]
        step: asyncio.Future[Any] = asyncio.ensure_future(_anext(self._events))
        both: set[asyncio.Future[Any]] = {step, gone}
        try:
            done, _ = await asyncio.wait(both, timeout=remaining(record, self._limits), return_when=asyncio.FIRST_COMPLETED)
            if step in done:
                return step.result()
            if gone in done:
                raise ClientGoneError
            raise late(self._limits)
        except ApiError as error:
            record.reason, self._over = error.code, True
            return f"data: {json.dumps(error.body())}\n\ndata: [DONE]\n\n"
        finally:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


async def _anext(events: AsyncIterator[str]) -> str | None:
    return await anext(events, None)
