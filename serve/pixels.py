"""The budget of pixels: how many of them all images of a replica may have at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol


class _Running(Protocol):
    """A future of a thread, whatever the thread makes."""

    def done(self) -> bool: ...
    def add_done_callback(self, fn: Callable[[object], object], /) -> None: ...


class _Lane:
    """Pixels that are given out in the order in which they are asked for."""

    def __init__(self, pixels: int) -> None:
        self.size = self.free = pixels
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, pixels: int) -> None:
        if not self._waiting and pixels <= self.free:
            self.free -= pixels
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = pixels, granted
        self._waiting.append(entry)
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():  # granted in the moment in which it was given up
                self.give(pixels)
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self.give(0)
            raise

    def give(self, pixels: int) -> None:
        """Take pixels back, and hand out what the first ones that wait have room for."""
        self.free += pixels
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self.free):
            wanted, granted = self._waiting.popleft()
            if not granted.done():
                self.free -= wanted
                granted.set_result(None)


class Held:
    """The pixels that one request has of a budget."""

    def __init__(self, lane: _Lane, pixels: int) -> None:
        self._lane, self._pixels = lane, pixels
        self._running: list[_Running] = []

    def keep(self, pixels: int) -> None:
        """Give all but this many back."""
        given, self._pixels = max(0, self._pixels - pixels), min(self._pixels, pixels)
        self._lane.give(given)

    def until(self, work: Sequence[_Running]) -> None:
        """Give nothing back before the threads at `work` are done."""
        self._running = [each for each in work if not each.done()]

    def release(self) -> None:
        """Give everything back."""
        left, loop = len(self._running), asyncio.get_running_loop()
        if not left:
            self._lane.give(self._pixels)
            return

        def finished() -> None:
            nonlocal left
            left -= 1
            if not left:
                self._lane.give(self._pixels)

        for each in self._running:
            each.add_done_callback(lambda _: loop.call_soon_threadsafe(finished))


class PixelBudget:
    """Pixels that images may have at a time, over all requests.

    An eighth is kept for requests of at most 1/64 of the budget: they need not wait for a few large images, nor keep large ones
    waiting. In each of the two parts requests get their pixels in order.

    Args:
        pixels: The budget.
    """

    def __init__(self, pixels: int) -> None:
        self._small, self._large = _Lane(pixels // 8), _Lane(pixels - pixels // 8)
        self.small = pixels // 64
        self.largest = self._large.size
        """Most pixels of one request."""

    @property
    def free(self) -> int:
        """Pixels that nobody has."""
        return self._small.free + self._large.free

    @contextlib.asynccontextmanager
    async def taken(self, pixels: int) -> AsyncIterator[Held]:
        """Wait for pixels, at most `largest`, and have them while inside."""
        lane = self._small if pixels <= self.small else self._large
        await lane.take(pixels)
        held = Held(lane, pixels)
        try:
            yield held
        finally:
            held.release()
