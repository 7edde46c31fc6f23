"""ASGI middleware around the routes: request ids, access checks, security headers, errors in one shape, access log."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import auth, origin
from serve.deadlines import ClientGoneError, remaining
from serve.errors import ApiError, starting
from serve.observe import AccessRecord, EndpointMetrics, log
from serve.settings import ServeSettings

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",  # of what is embedded; http.cors_origins work all the same
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every reply that has none of its own."""

_LAST_WORDS = 5.0
"""Seconds after the deadline in which a client can still take the error that tells of it."""

_LINGER_GAP, _LINGER_SECONDS, _LINGER_BYTES = 0.2, 5.0, 16 * 2**20
"""After a refusal: longest pause of what still arrives, longest time for it, and its bytes above limits.body_bytes."""


class AccessMiddleware:
    """ASGI middleware around the routes.

    Each request has an `AccessRecord` in its state and an ExitStack, `cleanup`, that is closed when its reply has been sent.

    Args:
        app: What is behind it.
        settings: Limits, and whose requests are answered.
        metrics: Where requests are counted.
        digests: Digests of the keys, asked for at each request since they can be changed while the server runs; None: they
            are not known yet, and every request is refused (503).
        sends_request_id: Add `X-Request-ID` to replies; False where the server in front does, as Ray Serve's always does.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServeSettings,
        metrics: EndpointMetrics,
        digests: Callable[[], Sequence[str] | None],
        sends_request_id: bool = True,
    ) -> None:
        self.app, self._limits, self._http, self._metrics = app, settings.limits, settings.http, metrics
        self._digests, self._sends_request_id = digests, sends_request_id
        self._open = {"/health", *(["/metrics"] if settings.auth.open_metrics else [])}
        self._inner: ASGIApp = self._respond
        if self._http.cors_origins:
            # inside, so that no other host gets its preflights answered; around `_respond`, so that pages can read refusals
            self._inner = CORSMiddleware(
                self._respond,
                allow_origins=self._http.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],  # clients send their own, as x-stainless-*; it is the key that decides
                expose_headers=["Retry-After", "X-Request-ID"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        record = AccessRecord(given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, scope["method"])
        if scope["method"] == "HEAD":
            scope, send = _as_get(scope, send)
        unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        sized = False  # whether the client can tell where the reply ends

        async def listen() -> Message:
            nonlocal unread
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                unread = False
            return message

        async def answer(message: Message) -> None:
            nonlocal sized
            if message["type"] == "http.response.start":
                record.status = message["status"]
                self._add_headers(message, record, close=unread)
                sized = "content-length" in MutableHeaders(scope=message)
            elif unread and sized and not message.get("more_body"):
                await deliver({**message, "more_body": True})
                await _discard(listen, self._limits.body_bytes + _LINGER_BYTES)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await deliver(message)

        async def deliver(message: Message) -> None:
            try:
                # a client that does not read its reply must not keep a slot for it
                async with asyncio.timeout(remaining(record, self._limits) + _LAST_WORDS):
                    await send(message)
            except TimeoutError:
                raise ClientGoneError from None

        with ExitStack() as cleanup:
            scope.setdefault("state", {}).update(record=record, cleanup=cleanup)
            cleanup.callback(self._end, scope, record)
            try:
                origin.check_host(
                    scope["headers"],
                    self._http.allowed_hosts,
                    self._http.host,
                    any_host=self._digests() is None or bool(self._digests()),
                )
            except ApiError as error:
                record.reason = error.code
                await error.response()(scope, listen, answer)
            else:
                await self._inner(scope, listen, answer)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The reply of the routes, or the error instead if none has been started."""
        record: AccessRecord = scope["state"]["record"]
        try:
            self._check(scope)
            await self.app(scope, receive, send)
        except (ClientGoneError, ClientDisconnect):
            record.status = 499
        except asyncio.CancelledError:
            record.status = record.status or 499
            raise
        except ApiError as error:
            record.reason = error.code
            if not record.status:
                await error.response()(scope, receive, send)
        except Exception:
            log.exception("failed", extra={"fields": {"request_id": record.request_id}})
            record.reason = "failed"
            if not record.status:
                failed = ApiError(500, f"the server failed; its log has the request id {record.request_id}", "failed")
                await failed.response()(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        size = sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope.get("query_string", b""))
        if size + len(scope.get("raw_path") or scope["path"]) > self._limits.header_bytes:
            raise ApiError(431, f"the headers have more than {self._limits.header_bytes} bytes, the limit", "header_bytes")
        digests = self._digests()
        if digests is None:
            raise starting(self._limits.retry_after_seconds)
        auth.check(scope, digests, self._http.cors_origins, open_path=scope["path"] in self._open)

    def _add_headers(self, message: Message, record: AccessRecord, close: bool) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in _SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        if self._sends_request_id:
            headers["X-Request-ID"] = record.request_id
        if close:  # the rest of the request would be waited for, or taken for the next one
            headers["Connection"] = "close"

    def _end(self, scope: Scope, record: AccessRecord) -> None:
        route = getattr(scope.get("route"), "path", None)  # set by the router, so never a path that a client made up
        record.route = route or record.route
        record.end(self._metrics)


def _as_get(scope: Scope, send: Send) -> tuple[Scope, Send]:
    """A HEAD request as a GET request whose reply has no body."""

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return {**scope, "method": "GET"}, send_head


async def _discard(receive: Receive, most: int) -> None:
    """Read the rest of a request whose reply has been sent, before the connection is closed.

    A connection that is closed with unread data is reset, and the reset can overtake the reply. What arrives is not kept.
    Ends with the body, when the client goes away or makes a pause, and after `most` bytes.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while most > 0:
                message = await asyncio.wait_for(receive(), _LINGER_GAP)
                if not message.get("more_body"):  # the end, or http.disconnect
                    return
                most -= len(message["body"])
