"""The clients of the serving benchmark: what they count as answered, retried and lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from benchmarks.serving_load import Load, Result, run


class Scripted:
    """Answers with the statuses it is given, in turn, again and again."""

    def __init__(self) -> None:
        self.statuses = [200]
        self.seen = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        status = self.statuses[self.seen % len(self.statuses)]
        self.seen += 1
        await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture(scope="module")
def scripted() -> Iterator[tuple[Scripted, str]]:
    app = Scripted()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield app, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def result(scripted: tuple[Scripted, str], statuses: list[int], **load: Any) -> Result:
    scripted[0].statuses, scripted[0].seen = statuses, 0
    return asyncio.run(run(Load(scripted[1], "m", **{"clients": 2, "seconds": 0.4, "images": 2} | load)))


def test_answers_are_counted_and_timed(scripted: tuple[Scripted, str]) -> None:
    found = result(scripted, [200])
    assert found.requests == scripted[0].seen == found.statuses["200"] > 20
    assert found.lost == found.retried == 0
    assert 10 <= found.summary()["p50_ms"] < 100
    assert found.summary()["requests_per_s"] == pytest.approx(found.requests / found.seconds, abs=0.01)


def test_what_fails_is_lost_unless_a_retry_answers(scripted: tuple[Scripted, str]) -> None:
    without = result(scripted, [200, 500])
    assert without.lost == without.statuses["500"] > 0
    retried = result(scripted, [503, 200], retries=3, clients=1)
    assert retried.lost == 0
    assert retried.retried == retried.statuses["503"] > 0
    refused = result(scripted, [422], retries=3)
    assert refused.lost == refused.statuses["422"]  # no use in sending it again


def test_being_told_to_come_back_is_not_being_lost(scripted: tuple[Scripted, str]) -> None:
    found = result(scripted, [429])
    assert found.lost == found.requests == 0
    assert found.statuses["429"] > 0


def test_a_server_that_is_not_there_loses_requests() -> None:
    found = asyncio.run(run(Load("http://127.0.0.1:9", "m", clients=1, seconds=0.2, images=1)))
    assert found.lost == found.statuses["0"] > 0
