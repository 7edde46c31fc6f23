"""Closed-loop clients in a process of their own: each sends its next request when the last one is answered.

    python -m benchmarks.serving_load '{"url": ..., "clients": 8, "seconds": 10, ...}'      prints one JSON object

With `retries` a request that fails on the way, or is refused with 429, 500, 502, 503 or 504, is sent again after a pause, as
OpenAI's clients do; it is lost when all its tries have failed.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp

AGAIN = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Load:
    """What is sent, and how."""

    url: str
    model: str
    clients: int
    seconds: float
    key: str = ""
    warmup: float = 0.0
    max_tokens: int = 16
    retries: int = 0
    timeout: float = 100.0
    """Seconds for one try."""
    images: int = 64
    pace: float = 0.0
    """Seconds a client waits between its requests."""


@dataclass
class Result:
    """What came back. Times in ms of requests that were answered with 200, measured over their last try."""

    requests: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    retried: int = 0
    latencies: list[float] = field(default_factory=list)
    longest_gap: float = 0.0
    """Longest time without any answer, in seconds."""
    answered_at: list[float] = field(default_factory=list)
    """Wall-clock times of the answers, for joining with events."""

    def summary(self) -> dict[str, Any]:
        """Rates and percentiles as plain data."""
        times = sorted(self.latencies)

        def percentile(share: float) -> float | None:
            return round(times[min(len(times) - 1, int(share * len(times)))], 2) if times else None

        return {
            "requests_per_s": round(self.requests / self.seconds, 2),
            "p50_ms": percentile(0.5),
            "p95_ms": percentile(0.95),
            "p99_ms": percentile(0.99),
            "requests": self.requests,
            "lost": self.lost,
            "retried": self.retried,
            "statuses": dict(self.statuses),
            "longest_gap_s": round(self.longest_gap, 2),
        }


def bodies(load: Load) -> list[bytes]:
    """Chat requests about different images of the shipped teacher's world."""
    from research.tiny import world

    rng = random.Random(11)
    made = []
    for number in range(load.images):
        buffer = io.BytesIO()
        world.render(world.sample_scene(rng, world.TEACHER)).save(buffer, "PNG")
        url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        question = ("What shape is it?", "What colour is it?")[number % 2]
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
        ask = {"model": load.model, "messages": [{"role": "user", "content": content}]}
        made.append(json.dumps(ask | {"temperature": 0, "max_tokens": load.max_tokens}).encode())
    return made


async def run(load: Load) -> Result:
    """Send for `seconds`; what was sent before the end is waited for."""
    asks, result = bodies(load), Result()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {load.key}"} if load.key else {})
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    timeout = aiohttp.ClientTimeout(total=load.timeout)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        begin = time.perf_counter() + load.warmup
        end = begin + load.seconds

        async def client(number: int) -> None:
            draw, place = random.Random(number), number
            while time.perf_counter() < end:
                place += 1
                began = time.perf_counter()
                await _ask(session, load, asks[place % len(asks)], draw, result, began >= begin)
                if load.pace:
                    await asyncio.sleep(load.pace)

        await asyncio.gather(*(client(number) for number in range(load.clients)))
        result.seconds = time.perf_counter() - begin
    times = sorted(result.answered_at)
    result.longest_gap = max((b - a for a, b in pairwise(times)), default=0.0)
    return result


async def _ask(
    session: aiohttp.ClientSession, load: Load, body: bytes, draw: random.Random, result: Result, counted: bool
) -> None:
    for attempt in range(load.retries + 1):
        began = time.perf_counter()
        try:
            async with session.post(f"{load.url}/v1/chat/completions", data=body) as reply:
                await reply.read()
                status = reply.status
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            status = 0
        if counted:
            result.statuses[str(status)] += 1
        if status == 200:
            if counted:
                result.requests += 1
                result.latencies.append(1000 * (time.perf_counter() - began))
                result.answered_at.append(time.time())
            return
        if attempt < load.retries and (status in AGAIN or status == 0):
            result.retried += counted
            await asyncio.sleep(min(8.0, 0.5 * 2**attempt) * draw.uniform(0.75, 1.0))
        elif not load.retries and status == 429:
            return  # refused, which is not lost: the client was told to come back
        else:
            break
    result.lost += counted


def main() -> None:
    load = Load(**json.loads(sys.argv[1]))
    result = asyncio.run(run(load))
    print(json.dumps(result.summary() | {"answered_at": result.answered_at, "load": asdict(load)}))


if __name__ == "__main__":
    main()
