"""Domains with engines of their own: one that is not up is a 503 at once and is started; what goes wrong in it has a status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve import peers
from serve.errors import ApiError, stopped
from serve.peers import Peer


class _Replies:
    """A generator of replies, as a handle returns it."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.cancelled = iter(items), False

    def __aiter__(self) -> _Replies:
        return self

    async def __anext__(self) -> Any:
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            return item
        raise StopAsyncIteration

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A handle whose replica comes when `up` is set; `made` is what it then answers."""

    def __init__(self, made: Any = "red", up: bool = True) -> None:
        self.made, self.up, self.asked = made, asyncio.Event(), list[str]()
        self.streamed = _Replies(made) if isinstance(made, list) else None
        if up:
            self.up.set()

    def options(self, method_name: str, stream: bool = False) -> Any:
        class Method:
            @staticmethod
            def remote(*arguments: Any) -> Any:
                self.asked.append(method_name)
                return self.streamed if stream else self._answer(method_name)

        return Method

    async def _answer(self, method: str) -> Any:
        await self.up.wait()
        if isinstance(self.made, Exception) and not isinstance(self.made, ApiError):
            raise self.made
        return 512 if method == "ready" else self.made


def run(work: Callable[[], Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(5):
            return await work()

    return asyncio.run(bounded())


def refused(work: Callable[[], Any]) -> ApiError:
    with pytest.raises(ApiError) as raised:
        run(work)
    return raised.value


def test_a_domain_that_starts_is_a_503_at_once_and_is_asked_once_until_it_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_PATIENCE", 0.05)

    async def work() -> None:
        handle = Handle(up=False)
        peer = Peer(handle)  # type: ignore[arg-type]
        for _ in range(3):
            with pytest.raises(ApiError) as raised:
                await peer.call("answer_for")
            error = raised.value
            assert (error.status, error.code, error.retry_after) == (503, "starting", 20)
            assert "the domain is starting" in error.message
        assert handle.asked == ["ready"]  # which makes Serve start a replica; the requests themselves wait nowhere
        handle.up.set()
        assert peer.max_model_len == 0
        assert [await peer.call("answer_for") for _ in range(2)] == ["red", "red"]
        assert peer.max_model_len == 512
        assert handle.asked == ["ready", "answer_for", "answer_for"]  # not asked again so soon

    run(work)


def test_a_domain_is_asked_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_FRESH", 0.0)

    async def work() -> None:
        handle = Handle()
        peer = Peer(handle)  # type: ignore[arg-type]
        await peer.call("answer_for")
        await peer.call("answer_for")
        assert handle.asked == ["ready", "answer_for"] * 2

    run(work)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (ActorDiedError(), (503, "engine_dead", 10)),
        (DeploymentUnavailableError(None), (503, "starting", 20)),  # type: ignore[arg-type]  # or removed meanwhile
        (BackPressureError(num_queued_requests=9, max_queued_requests=9), (429, "full", 2)),
        (RayTaskError("answer_for", "", ValueError("secret")), (503, "engine_failed", 2)),
        (stopped(), (503, "engine_dead", 10)),  # returned by a replica whose engine died
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_goes_wrong_behind_it_has_a_status_and_a_time_to_try_again(
    made: Exception, expected: tuple[int, str, int], stream: bool
) -> None:
    async def work() -> None:
        handle = Handle([made] if stream else made)
        peer = Peer(handle)  # type: ignore[arg-type]
        if stream:
            async for _ in peer.stream("chat_for"):
                pass
        else:
            await peer.call("answer_for")

    error = refused(work)
    assert (error.status, error.code, error.retry_after) == expected
    assert "secret" not in error.message


def test_a_stream_is_passed_on_and_stopped_when_it_is_closed() -> None:
    async def work() -> None:
        handle = Handle(["a", "b", "c"])
        stream = Peer(handle).stream("chat_for")  # type: ignore[arg-type]
        assert [await anext(stream), await anext(stream)] == ["a", "b"]
        await stream.aclose()  # type: ignore[attr-defined]
        assert handle.streamed and handle.streamed.cancelled
        assert [event async for event in Peer(Handle(["a", "b"])).stream("chat_for")] == ["a", "b"]  # type: ignore[arg-type]

    run(work)
