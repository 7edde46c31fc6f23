"""Admission control: how many bodies are received, how much they hold, and how many requests are inside and worked on."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.requests import Request

from serve.errors import ApiError
from serve.observe import EndpointMetrics
from serve.settings import LimitSettings


class ConcurrencyLimiter:
    """How many requests are admitted, and which of them are worked on; the others wait in order.

    Used as an asynchronous context manager around the work on one admitted request.
    """

    def __init__(self, limits: LimitSettings, metrics: EndpointMetrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._working = asyncio.Semaphore(limits.concurrency)
        self.admitted = 0
        self.running = 0

    def admit(self, cleanup: ExitStack) -> None:
        """Admit a request until `cleanup` is closed. Raises ApiError (429) when as many requests as may wait do."""
        if self.admitted >= self._limits.concurrency + self._limits.queue:
            retry = self._limits.retry_after_seconds
            raise ApiError(429, f"the server is full; try again in {retry} s", "full", retry_after=retry)
        self.admitted += 1
        self._show()
        cleanup.callback(self._leave)

    def _leave(self) -> None:
        self.admitted -= 1
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
        self._metrics.set("leaml_waiting", self.admitted - self.running)


@dataclass(eq=False)
class _Upload:
    """A body on its way. `clock` ends it; `gave_way` says that it was not for the time alone."""

    clock: asyncio.Timeout
    held: int = 0
    gave_way: bool = False


class BodyReceiver:
    """Receives request bodies, under limits of their own: a client that sends slowly takes no slot of the model's.

    When there are more bodies or bytes than the limits, the body that has been on its way longest gives way. To refuse the
    newest one instead would let a few slow clients keep everybody out; a body that is sent at once is not the oldest for long.
    """

    def __init__(self, limits: LimitSettings, metrics: EndpointMetrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._uploads: dict[_Upload, None] = {}  # the oldest first
        self._held = 0

    @property
    def receiving(self) -> int:
        """Bodies on their way."""
        return len(self._uploads)

    async def receive(self, request: Request) -> bytes:
        """The whole body, counted and timed while it arrives. Raises ApiError (408, 413)."""
        limits = self._limits
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > limits.body_bytes:
            raise self._too_large()

        body = bytearray()  # a list of chunks would take many times the bytes of tiny ones
        clock = asyncio.timeout(limits.body_seconds)
        upload = _Upload(clock)

        try:
            async with clock:
                self._start(upload)
                async for chunk in request.stream():
                    if len(body) + len(chunk) > limits.body_bytes:
                        raise self._too_large()
                    body += chunk
                    self._hold(upload, len(chunk))
        except TimeoutError:
            raise self._too_slow(upload) from None
        finally:
            self._end(upload)
        return bytes(body)

    def _start(self, upload: _Upload) -> None:
        while len(self._uploads) >= self._limits.bodies:
            self._give_way()
        self._uploads[upload] = None
        self._metrics.set("leaml_receiving", len(self._uploads))

    def _hold(self, upload: _Upload, size: int) -> None:
        if upload.gave_way:
            return  # not counted any more; its clock ends it
        upload.held += size
        self._held += size
        while self._held > self._limits.bodies_bytes:
            self._give_way()

    def _give_way(self) -> None:
        oldest = next(iter(self._uploads))
        if not oldest.clock.expired():
            oldest.gave_way = True
            oldest.clock.reschedule(asyncio.get_running_loop().time())
        self._end(oldest)

    def _end(self, upload: _Upload) -> None:
        if upload in self._uploads:
            del self._uploads[upload]
            self._held -= upload.held
            self._metrics.set("leaml_receiving", len(self._uploads))

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body has more than {self._limits.body_bytes} bytes, the limit", "body_bytes")

    def _too_slow(self, upload: _Upload) -> ApiError:
        if upload.gave_way:
            msg = (
                f"the server receives {self._limits.bodies} bodies and {self._limits.bodies_bytes} bytes of them at a time, "
                "and this one was the longest on its way; send it again"
            )
            return ApiError(408, msg, "bodies", retry_after=self._limits.retry_after_seconds)
        return ApiError(408, f"the body did not arrive within {self._limits.body_seconds:g} s", "body_seconds")
