"""How long a reply may take: work and streams end at the deadline, and when the client goes away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TypeVar

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from serve.errors import ApiError
from serve.observe import AccessRecord
from serve.settings import LimitSettings

T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody waits for the reply any more."""


async def guarded(work: Awaitable[T], request: Request, limits: LimitSettings) -> T:
    """Result of some work, which is cancelled at the deadline and when the client goes away.

    Args:
        work: Awaited here; what it raises is raised.
        request: Whose it is, with its body received: what comes after tells that the client goes.
        limits: The deadline, counted from the request's headers on.

    Raises:
        ApiError: The deadline has passed (504).
        ClientGoneError: Nobody waits for the reply any more.
    """
    record: AccessRecord = request.scope["state"]["record"]
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(request.receive))
    both: set[asyncio.Future[T] | asyncio.Future[None]] = {task, gone}
    try:
        done, _ = await asyncio.wait(both, timeout=remaining(record, limits), return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if gone in done:
            raise ClientGoneError
        raise late(limits)
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def remaining(record: AccessRecord, limits: LimitSettings) -> float:
    """Seconds until a request's deadline."""
    return max(0.0, record.began + limits.deadline_seconds - time.perf_counter())


def late(limits: LimitSettings) -> ApiError:
    """The error of a deadline that has passed."""
    return ApiError(504, f"no reply within {limits.deadline_seconds:g} s, the deadline", "deadline", None)


async def disconnected(receive: Receive) -> None:
    """Wait until the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def event_stream(first: str, events: AsyncGenerator[str, None], request: Request, limits: LimitSettings) -> Response:
    """Response of server-sent events; ends when they do, at the deadline, or when the client goes away.

    Args:
        first: The first event, awaited before, so that errors had a status of their own.
        events: The others, as they are sent; the caller closes them when the reply is over.
        request: Whose it is.
        limits: The deadline.
    """
    timed = _until_deadline(first, events, request.scope["state"]["record"], limits)
    headers = {"Cache-Control": "no-cache"}
    return EventSourceResponse(timed, headers=headers, ping=0, client_close_handler_callable=_raise_gone)


async def _raise_gone(_: Message) -> None:
    raise ClientGoneError


async def _until_deadline(
    first: str, events: AsyncIterator[str], record: AccessRecord, limits: LimitSettings
) -> AsyncIterator[bytes]:
    """The events; an error, of theirs or of the deadline, becomes the last one."""
    event: str | None = first
    try:
        while event is not None:
            yield event.encode()
            event = await _next(events, record, limits)
    except ApiError as error:
        record.reason = error.code
        yield f"data: {json.dumps(error.body())}\n\ndata: [DONE]\n\n".encode()


async def _next(events: AsyncIterator[str], record: AccessRecord, limits: LimitSettings) -> str | None:
    """The next event, None at the end. Raises ApiError (504) at the deadline."""
    try:
        async with asyncio.timeout(remaining(record, limits)) as clock:
            return await anext(events, None)
    except TimeoutError:
        if not clock.expired():
            raise
        raise late(limits) from None
