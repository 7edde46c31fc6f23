"""The thread between requests and vLLM, here with a vLLM that follows a script; tests/integration has the real one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from leaml.engine import failures
from leaml.engine.driver import AHEAD, Driver
from leaml.errors import EngineDiedError

PLACES = 4


class Processor:
    """An image processor that tells in which thread it was called."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.threads, self.teams = seconds, Counter[str](), set[tuple[str, int]]()

    def __call__(self, images: list[Image.Image], **_: object) -> dict[str, Any]:
        name = threading.current_thread().name.rstrip("_0123456789")
        self.threads[name] += 1
        self.teams.add((name, torch.get_num_threads()))
        time.sleep(self.seconds)
        return {"size": images[0].size, "pixels": torch.ones(1)}


class Vllm:
    """Ends `PLACES` requests a step. Its prompts are the heights of their images; it refuses "refused" and dies at `dies`."""

    def __init__(self, seconds: float = 0.0, dies: int | None = None, cached: tuple[str, ...] = ()) -> None:
        self.processor, self.dies, self.steps = Processor(seconds), dies, 0
        self.names, self.running, self.most = 0, list[str](), 0
        self.seen: list[dict[str, Any]] = []
        context = SimpleNamespace(model_config=SimpleNamespace(dtype=torch.bfloat16))
        info = SimpleNamespace(get_hf_processor=lambda: SimpleNamespace(image_processor=self.processor), ctx=context)
        renderer = SimpleNamespace(
            mm_processor_cache=SimpleNamespace(is_cached_item=lambda name: name in self.cached),
            get_mm_processor=lambda: SimpleNamespace(info=info),
        )
        core = SimpleNamespace(shutdown=lambda: None)
        self.llm_engine = SimpleNamespace(renderer=renderer, step=self.step, engine_core=core)
        self.cached = set(cached)

    def enqueue(self, prompts: list[dict[str, Any]], sampling: list[Any], use_tqdm: bool) -> list[str]:
        if any(prompt["prompt"] == "refused" for prompt in prompts):
            msg = "At most 0 image(s) may be provided"
            raise ValueError(msg)
        made = []
        for prompt in prompts:
            (name,), image = prompt["multi_modal_uuids"]["image"], prompt["multi_modal_data"]["image"]
            self.seen.append({} if name in self.cached else self.processor(images=[image.copy()], return_tensors="pt"))
            self.cached.add(name)
            made.append(f"{self.names}-suffix")
            self.running.append(str(self.names))
            self.names += 1
        self.most = max(self.most, len(self.running))
        return made

    def step(self) -> list[Any]:
        self.steps += 1
        if self.steps == self.dies:
            msg = "CUDA error: an illegal memory access\nwas encountered"
            raise RuntimeError(msg)
        time.sleep(0.005)
        done, self.running = self.running[:PLACES], self.running[PLACES:]
        return [SimpleNamespace(request_id=name, finished=True) for name in done]


def _asked(count: int, start: int = 0) -> tuple[list[Any], list[Any]]:
    prompts = [
        {
            "prompt": "x",
            "multi_modal_data": {"image": Image.new("RGB", (300, 300 + n))},
            "multi_modal_uuids": {"image": [str(n)]},
        }
        for n in range(start, start + count)
    ]
    return prompts, [SimpleNamespace(n=1)] * count


@pytest.fixture(autouse=True)
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose import takes ten seconds."""
    monkeypatch.setattr(failures, "engine_dead_error", lambda: ConnectionError)


@pytest.fixture
def drivers() -> Iterator[Any]:
    """Starts drivers, and ends them."""
    started: list[Driver] = []

    def start(vllm: Vllm, threads: int = 2, last_words: str = "", shrink: Any = lambda image: image) -> Driver:
        started.append(Driver(lambda: vllm, lambda: last_words, shrink, threads, PLACES))  # type: ignore[arg-type, return-value]
        return started[-1]

    yield start
    for driver in started:
        driver.close()


def test_replies_come_in_order_and_images_are_made_in_threads(drivers: Any) -> None:
    vllm = Vllm()
    driver = drivers(vllm)
    with ThreadPoolExecutor(2) as callers:
        calls = [callers.submit(driver.run, *_asked(50, start)) for start in (0, 50)]
        first, second = ([reply.request_id for reply in call.result()] for call in calls)
    assert sorted(map(int, first + second)) == list(range(100))
    assert first == sorted(first, key=int) and second == sorted(second, key=int)
    assert sorted(made["size"] for made in vllm.seen) == [(300, 300 + n) for n in range(100)]
    assert Counter(made["pixels"].dtype for made in vllm.seen) == {torch.float32: 1, torch.bfloat16: 99}  # as vLLM would next
    assert vllm.processor.threads["prepare"] == 99  # the first is vLLM's own, which shows how it is called
    assert vllm.most <= PLACES + AHEAD


def test_a_thread_that_makes_images_computes_alone_and_the_engines_own_with_all(
    drivers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, vllm = torch.get_num_threads(), Vllm(seconds=0.01)
    torch.set_num_threads(3)
    try:
        monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # as vLLM's worker does on a CPU
        drivers(vllm).run(*_asked(6))
    finally:
        monkeypatch.undo()
        torch.set_num_threads(before)
    assert {threads for name, threads in vllm.processor.teams if name == "prepare"} == {1}
    assert {threads for name, threads in vllm.processor.teams if name != "prepare"} == {3}


def test_what_vllm_has_already_is_not_made_again(drivers: Any) -> None:
    vllm = Vllm(cached=("2", "3"))
    drivers(vllm).run(*_asked(5))
    assert vllm.processor.threads.total() == 3


def test_requests_about_one_image_share_what_is_made_of_it(drivers: Any) -> None:
    vllm, shrunk = Vllm(seconds=0.02), Counter[int]()

    def shrink(image: Image.Image) -> Image.Image:
        shrunk[image.height] += 1
        return image

    first, (prompts, sampling) = _asked(1), _asked(4, start=1)
    driver = drivers(vllm, shrink=shrink)
    driver.run(*first)
    assert len(driver.run([p for p in prompts for _ in range(5)], [s for s in sampling for _ in range(5)])) == 20
    assert vllm.processor.threads["prepare"] == 4 and vllm.processor.threads.total() == 5
    assert shrunk == {300 + n: 1 for n in range(5)}


def test_a_request_that_vllm_refuses_is_told_and_the_others_are_answered(drivers: Any) -> None:
    prompts, sampling = _asked(6)
    prompts[3]["prompt"] = "refused"
    found = drivers(Vllm()).run(prompts, sampling)
    assert [isinstance(reply, ValueError) for reply in found] == [False, False, False, True, False, False]


@pytest.mark.parametrize(
    ("last_words", "reason"), [("", "RuntimeError: CUDA error: an illegal memory access was"), ("Oops", "Oops")]
)
def test_every_call_hears_of_a_death_and_so_do_later_ones(drivers: Any, last_words: str, reason: str) -> None:
    driver = drivers(Vllm(dies=3), last_words=last_words)
    with ThreadPoolExecutor(2) as callers:
        calls = [callers.submit(driver.run, *_asked(50, start)) for start in (0, 50)]
        for call in calls:
            with pytest.raises(EngineDiedError, match=rf"^the engine died: {reason}"):
                call.result(timeout=30)
    with pytest.raises(EngineDiedError, match=reason):
        driver.run(*_asked(1))


def test_an_engine_that_waits_for_images_is_told_from_one_that_is_full(drivers: Any) -> None:
    shares = []
    for seconds in (0.0, 0.02):
        driver = drivers(Vllm(seconds), threads=1)
        began = time.monotonic()
        driver.run(*_asked(60))
        shares.append(driver.full_seconds / (time.monotonic() - began))
    assert shares[0] > 0.5 > 0.2 > shares[1]
