"""The thread that talks to vLLM, and the requests on their way to it."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from leaml.engine import failures
from leaml.engine.prepare import Preparer
from leaml.errors import EngineDiedError
from leaml.vlm.shrink import Shrink

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams
    from vllm.inputs import TextPrompt, TokensPrompt

    Prompt = TextPrompt | TokensPrompt
    Output = RequestOutput | Exception
    """What became of a request: vLLM's answer, or why it does not take it."""

AHEAD = 32
"""Requests that are prepared while others are with the engine, and that wait in the engine for one of its places."""


@dataclass
class _Call:
    """A call of `generate` on its way: what is still to be prepared, ids of what the engine has, and the outputs so far."""

    prompts: deque[tuple[Prompt, SamplingParams]]
    total: int
    done: Future[list[Output]]
    ids: list[str] = field(default_factory=list)
    outputs: dict[str, Output] = field(default_factory=dict)


@dataclass
class _Waiting:
    """A request whose image is being prepared."""

    call: _Call
    prompt: Prompt
    sampling: SamplingParams
    image: Future[Image.Image]
    making: str


class Driver:
    """The one thread that talks to vLLM: it hands requests on as their images are prepared, and moves the engine on.

    One thread, since each thread of Python has OpenMP threads of its own, and vLLM is not made for several.
    """

    def __init__(
        self, build: Callable[[], LLM], last_words: Callable[[], str], shrink: Shrink, threads: int, places: int
    ) -> None:
        """Start vLLM.

        Args:
            build: Makes vLLM's engine.
            last_words: What its core wrote when it died.
            shrink: Makes an image as small as the model's processor would.
            threads: In which images are prepared.
            places: Sequences that the engine works on at a time.
        """
        self._last_words, self._shrink, self._threads, self._places = last_words, shrink, threads, places
        self._died: EngineDiedError | None = None
        self._stepping, self._begun = False, False
        self._line: deque[_Waiting] = deque()
        self._making: dict[str, Future[Image.Image]] = {}
        self._held: dict[str, int] = {}
        self._preparer: Preparer | None = None
        self.full_seconds = 0.0
        """Seconds in which the engine had no place free."""
        self._asked: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        built: Future[LLM] = Future()
        self._thread = threading.Thread(target=self._work, args=(build, built), daemon=True)
        self._thread.start()
        self.llm: LLM | None = built.result()

    def run(self, prompts: list[Prompt], sampling: list[SamplingParams]) -> list[Output]:
        """vLLM's outputs for these prompts, in order, or why it does not take one.

        Raises EngineDiedError when the engine can be asked no more, and whatever else vLLM raises.
        """
        done: Future[list[Output]] = Future()
        self._asked.put(_Call(deque(zip(prompts, sampling, strict=True)), len(prompts), done))
        return done.result()

    def close(self) -> None:
        """End vLLM and the thread. No call may be under way, and none may follow."""
        self._asked.put(None)
        self._thread.join()
        self.llm = None

    def _work(self, build: Callable[[], LLM], built: Future[LLM]) -> None:
        try:
            llm = build()
        except BaseException as error:
            built.set_exception(error)
            return
        built.set_result(llm)

        calls: list[_Call] = []
        while True:
            while not calls or not self._asked.empty():
                call = self._asked.get()
                if call is None:
                    if self._preparer:
                        self._preparer.close()
                    llm.llm_engine.engine_core.shutdown()
                    return
                calls.append(call)

            try:
                if self._died:
                    raise self._died
                self._turn(llm, calls)
            except BaseException as error:
                self._died = self._died or failures.died(error, self._stepping, self._last_words())
                for call in calls:
                    call.done.set_exception(self._died or error)
                calls.clear()
                self._line.clear()
                self._making.clear()
            calls = [call for call in calls if not call.done.done()]

    def _turn(self, llm: LLM, calls: list[_Call]) -> None:
        """Hand on what is prepared, let more be prepared, and move the engine on."""
        self._stepping, began = False, time.monotonic()
        self._preparer = self._preparer or Preparer(llm.llm_engine.renderer, self._threads)
        self._prepare(self._preparer, calls)
        self._hand_on(llm)
        self._prepare(self._preparer, calls)

        if self._held:  # a core in a process of its own never comes back from a step without a request
            full = sum(self._held.values()) >= self._places
            self._stepping = True
            outputs = cast("list[RequestOutput]", llm.llm_engine.step())  # no embeddings are asked for
            self._stepping = False
            self.full_seconds += full * (time.monotonic() - began)
            finished = {o.request_id: o for o in outputs if o.finished}
            for name in finished:
                self._held.pop(name, None)
            for call in calls:
                call.outputs.update({i: finished[i] for i in call.ids if i in finished})
        for call in calls:
            if len(call.outputs) == call.total:
                call.done.set_result([call.outputs[i] for i in call.ids])

    def _prepare(self, preparer: Preparer, calls: list[_Call]) -> None:
        """Have images prepared, as far ahead as is allowed; the first alone, which shows how vLLM calls the processor."""
        ahead = AHEAD if self._begun else 1
        for call in calls:
            while call.prompts and len(self._line) < ahead:
                prompt, sampling = call.prompts.popleft()
                parts = cast("dict[str, Any]", prompt)
                (name,), image = parts["multi_modal_uuids"]["image"], parts["multi_modal_data"]["image"]
                made = self._making.get(name) if preparer.caches else None
                if made is None:
                    made = preparer.submit(image, self._shrink, make=not preparer.is_cached(name))
                    self._making[name] = made
                self._line.append(_Waiting(call, prompt, sampling, made, name))

    def _hand_on(self, llm: LLM) -> None:
        """Give the engine the requests that are prepared, in order, until enough wait in it; idle, it waits for the first."""
        ready: list[_Waiting] = []
        load = sum(self._held.values())
        while self._line and load < self._places + AHEAD:
            if not self._line[0].image.done() and (ready or self._held):
                break
            each = self._line.popleft()
            self._making.pop(each.making, None)
            try:
                cast("dict[str, Any]", each.prompt)["multi_modal_data"] = {"image": each.image.result()}
            except (ValueError, OSError) as error:  # of an image that the processor does not take
                _refuse(each.call, error)
                continue
            ready.append(each)
            load += each.sampling.n
        accepted = _enqueue(llm, [each.prompt for each in ready], [each.sampling for each in ready]) if ready else []
        self._begun = self._begun or bool(ready)
        for each, name in zip(ready, accepted, strict=True):
            if isinstance(name, str):
                each.call.ids.append(name)
                self._held[name] = each.sampling.n
            else:
                _refuse(each.call, name)


def _refuse(call: _Call, error: Exception) -> None:
    call.ids.append(f"refused {len(call.ids)}")
    call.outputs[call.ids[-1]] = error


def _enqueue(llm: LLM, prompts: list[Prompt], sampling: list[SamplingParams]) -> list[str | Exception]:
    """The id of each request, or why vLLM does not take it. vLLM itself takes all of a list or none."""
    from vllm.exceptions import VLLMClientError

    try:
        # vLLM makes its ids unique with a suffix that outputs do not have
        return [i.rpartition("-")[0] for i in llm.enqueue(prompts, sampling, use_tqdm=False)]
    except (ValueError, VLLMClientError) as error:
        if len(prompts) == 1:
            return [error]
    return [_enqueue(llm, [prompt], [params])[0] for prompt, params in zip(prompts, sampling, strict=True)]
