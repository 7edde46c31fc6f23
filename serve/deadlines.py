"""How long a reply may take: work and streams end at the deadline, and when the client goes away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve.errors import ApiError
from serve.observe import Record
from serve.settings import LimitSettings


class ClientGoneError(Exception):
    """Nobody waits for the reply any more."""


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
