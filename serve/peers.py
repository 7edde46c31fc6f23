"""Domains that have engines of their own, as the replica with HTTP asks them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve.errors import ApiError, failed, starting, stopped
from serve.service import Answer, ChatReply

T = TypeVar("T")

_FRESH = 5.0
"""Seconds that a domain is taken to be up after a reply; its last replica is removed after more without one."""

_PATIENCE = 2.0
"""Seconds to wait for a domain that may be up. One that starts takes tens of them, which no request should wait for."""

_RETRY = 20
"""Retry-After of a domain that starts, in seconds."""


class Peer:
    """One domain.

    A call would wait for a replica until the deadline, in vain where the engine takes as long to start. So before the first
    call, and after a pause or an error, the domain is asked whether it is there; that also makes Serve start it.

    Attributes:
        max_model_len: Its longest prompt with reply, in tokens; 0 until it has said so.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._replied = -_FRESH
        self._asking: asyncio.Future[None] | None = None
        self.max_model_len = 0

    async def call(self, method: str, *arguments: object) -> list[Answer]:
        """Result of a method of the domain's replica. Raises ApiError, also one that the replica returns."""
        await self._check_started()
        return await self._reply(lambda: self._handle.options(method_name=method).remote(*arguments))

    async def stream(self, method: str, *arguments: object) -> AsyncIterator[ChatReply | str]:
        """What a method yields, as `call`; the replica stops when this is closed."""
        await self._check_started()
        replies: Any = self._handle.options(method_name=method, stream=True).remote(*arguments)
        iterator = aiter(replies)
        try:
            while True:
                try:
                    yield await self._reply(lambda: anext(iterator))
                except StopAsyncIteration:
                    return
        finally:
            replies.cancel()

    async def _check_started(self) -> None:
        """Raise ApiError (503) when no replica answers soon."""
        if time.monotonic() - self._replied < _FRESH:
            return
        asking = self.ask()
        await asyncio.wait([asking], timeout=_PATIENCE)
        if not asking.done():
            raise starting(_RETRY, "the domain")
        asking.result()

    def ask(self) -> asyncio.Future[None]:
        """Ask the domain whether it is there, once at a time; done when it has said so."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(lambda asking: asking.cancelled() or asking.exception())
        return self._asking

    async def _ask(self) -> None:
        self.max_model_len = await self._reply(lambda: self._handle.options(method_name="ready").remote())

    async def _reply(self, call: Callable[[], Awaitable[T | ApiError]]) -> T:
        try:
            reply = await call()
        except BackPressureError:
            raise ApiError(429, "the domain is full; try again in 2 s", "full", retry_after=2) from None
        except RayTaskError:
            raise failed() from None
        except RayActorError:  # the replica died
            self._replied = -_FRESH
            raise stopped() from None
        except (RayError, RayServeException):  # there is none, or none any more
            self._replied = -_FRESH
            raise starting(_RETRY, "the domain") from None
        self._replied = time.monotonic()
        if isinstance(reply, ApiError):
            raise reply
        return reply
