"""The real vLLM engine on the shipped models: prefixes, samples, seeds, log-probabilities."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import psutil
import pytest

from leaml.config import ModelConfig, ResourcesConfig
from leaml.engine.interface import Closable, Completion, Engine, Request
from leaml.engine.vllm_engine import VllmEngine
from leaml.generation import prompts
from pipelines.models import engine_spec
from research.tiny import language, world

_engine: Engine | None = None


def _start(name: str = "leaml-tiny-teacher") -> None:
    global _engine
    _engine = engine_spec(ModelConfig(name=name), ResourcesConfig()).build()


def _change(name: str) -> float:
    """Give the process another engine; returns the processor seconds that it took."""
    assert isinstance(_engine, Closable)
    began = time.process_time()
    _engine.close()
    _start(name)
    return time.process_time() - began


def _memory() -> float:
    """GiB of this process."""
    return psutil.Process().memory_info().rss / 2**30


def _generate(requests: list[Request]) -> list[list[Completion]]:
    assert _engine is not None
    return _engine.generate(requests)


def _asked_with(threads: bool, requests: list[Request]) -> tuple[list[list[Completion]], Counter[str]]:
    """Replies of the engine and the calls of its image processor by thread.

    Args:
        threads: Images are prepared in threads, or by vLLM, which then has the processor as transformers made it.
        requests: What it is asked.
    """
    from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor

    from leaml.engine.prepare import Preparer

    assert isinstance(_engine, VllmEngine)
    _engine.generate(requests[:1])  # shows how vLLM calls the processor
    preparer, calls = _engine._driver._preparer, Counter[str]()
    assert preparer is not None
    processor = preparer._processor
    plain: Any = Idefics3ImageProcessor
    assert isinstance(processor, plain)
    make = preparer._make if threads else plain.__call__

    def counted(*arguments: Any, **keywords: Any) -> Any:
        calls[threading.current_thread().name.rstrip("_0123456789")] += 1
        return make(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparer, "_make", counted)
        if not threads:
            patch.setattr(Preparer, "is_cached", lambda *_: True)
            patch.setattr(processor, "__class__", type(plain.__name__, (plain,), {"__call__": counted}))
        return _engine.generate(requests), calls


class InItsOwnProcess:
    """As in an engine actor: vLLM alone in a process (beside moto's web server, imported by other tests, it does not start)."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        return self.pool.submit(_generate, requests).result(timeout=240)


@pytest.fixture(scope="module")
def teacher() -> Iterator[InItsOwnProcess]:
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_start) as pool:
        yield InItsOwnProcess(pool)


def scenes(count: int) -> list[world.Scene]:
    rng = random.Random(77)
    return [world.sample_scene(rng, world.TEACHER) for _ in range(count)]


@pytest.mark.timeout(300)
def test_teacher_names_colour_and_shape(teacher: Engine) -> None:
    shown = scenes(64)
    requests = [Request(world.render(s), f"scene{i}", prompts.CAPTION, max_tokens=32) for i, s in enumerate(shown)]
    captions = [c.text for (c,) in teacher.generate(requests)]
    right = [s.colour in c and s.shape in c for s, c in zip(shown, captions, strict=True)]
    assert sum(right) >= 55
    assert all(c.endswith("background.") for c in captions)


def test_a_prefix_is_continued_and_not_repeated(teacher: Engine) -> None:
    scene = scenes(1)[0]
    caption = language.describe(scene, language.TEACHER_FORM)
    before, after = caption.split(" at the ")
    (completion,) = teacher.generate([Request(world.render(scene), "a", prompts.CAPTION, f"{before} at the", max_tokens=32)])[0]
    assert completion.text == after
    assert completion.finish_reason == "stop"
    assert -0.5 < completion.mean_logprob <= 0


def test_samples_depend_on_the_seed_alone(teacher: Engine) -> None:
    def sample(seed: int, others: int) -> list[str]:
        image = world.render(scenes(1)[0])
        request = Request(image, "a", prompts.GENERATE, n=4, temperature=2.0, max_tokens=12, seed=seed)
        noise = [Request(world.render(s), f"n{i}", prompts.CAPTION) for i, s in enumerate(scenes(others))]
        return [c.text for c in teacher.generate([*noise, request])[-1]]

    first = sample(1, 0)
    assert len(set(first)) > 1
    assert sample(1, 0) == first
    assert sample(2, 0) != first


@pytest.mark.timeout(300)
def test_structured_replies_hold_a_pair_from_a_model_that_never_wrote_one(teacher: Engine) -> None:
    requests = [
        Request(world.render(s), f"pair{i}", prompts.GENERATE, n=3, temperature=1.0, max_tokens=100, seed=i, pattern=pattern)
        for pattern in (None, prompts.pair_pattern(80, 40))
        for i, s in enumerate(scenes(8))
    ]
    replies = teacher.generate(requests)
    free, structured = ([c.text for samples in half for c in samples] for half in (replies[:8], replies[8:]))
    assert not any(map(prompts.parse_qa, free))
    pairs = [prompts.parse_qa(text) for text in structured]
    assert len(pairs) == 24
    assert all(pair and len(pair[0]) <= 80 and len(pair[1]) <= 40 for pair in pairs)


def test_requests_that_the_model_cannot_be_asked_have_an_error_and_the_others_of_their_images_a_reply(teacher: Engine) -> None:
    shown = [world.render(s) for s in scenes(3)]
    (alone,) = teacher.generate([Request(shown[0], "image0", prompts.CAPTION)])[0]
    texts = [prompts.CAPTION, "is this <image> red?", "so long " * 3000, prompts.CAPTION]
    requests = [Request(image, f"image{n}", text) for n, image in enumerate(shown) for text in texts]
    for made in (requests[1:3], requests):  # of the first none is left to be asked
        found = teacher.generate(made)
        for request, (completion,) in zip(made, found, strict=True):
            if request.text == prompts.CAPTION:
                assert completion.text.endswith("background.") and not completion.error
            else:
                assert (completion.text, completion.tokens) == ("", 0)
                says = "placeholder '<image>'" if "<image>" in request.text else "maximum context length is 1024"
                assert says in completion.error
    assert found[0][0].text == found[3][0].text == alone.text


def test_a_given_reply_has_the_probability_with_which_it_is_written(teacher: Engine) -> None:
    """And of replies that end after the first word, less: the end token counts."""
    images = [(world.render(s), f"scene{i}") for i, s in enumerate(scenes(8))]
    written = [c for (c,) in teacher.generate([Request(i, n, prompts.CAPTION, max_tokens=32) for i, n in images])]
    given = [Request(i, n, prompts.CAPTION, reply=c.text.strip()) for (i, n), c in zip(images, written, strict=True)]
    scored = [c for (c,) in teacher.generate(given)]
    for one, other in zip(written, scored, strict=True):
        assert (other.text, other.finish_reason, other.tokens) == (one.text.strip(), "given", one.tokens)
        assert other.mean_logprob * other.tokens == pytest.approx(one.mean_logprob * one.tokens, abs=0.05)
    short = teacher.generate([Request(i, n, prompts.CAPTION, reply="A") for i, n in images])
    assert all(c.mean_logprob * c.tokens < -5 for (c,) in short)


def test_images_are_prepared_in_threads_and_the_model_sees_the_same(teacher: InItsOwnProcess) -> None:
    """Once each, though two questions are asked about one; small images are left to vLLM."""
    large = [world.render(s).resize((400, 300)) for s in scenes(6)]

    def requests(kind: str) -> list[Request]:
        texts = (prompts.CAPTION, "what?")
        return [Request(i, f"{kind}{n}", text, max_tokens=24) for n, i in enumerate(large) for text in texts]

    ahead, by_thread = teacher.pool.submit(_asked_with, True, requests("ahead")).result(timeout=240)
    behind, by_vllm = teacher.pool.submit(_asked_with, False, requests("behind")).result(timeout=240)
    for (one,), (other,) in zip(ahead, behind, strict=True):
        assert one.text == other.text
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)
    assert set(by_thread) == {"prepare"} and by_thread["prepare"] == len(large) - 1  # the first was made before
    assert by_vllm.total() == len(large) - 1 and "prepare" not in by_vllm
    small = [Request(world.render(s), f"small{n}", prompts.CAPTION) for n, s in enumerate(scenes(3))]
    assert "prepare" not in teacher.pool.submit(_asked_with, True, small).result(timeout=240)[1]


@pytest.mark.timeout(400)
def test_an_engine_after_another_in_one_process_answers_as_the_first_of_a_process_does(teacher: Engine) -> None:
    """Bit by bit, in replies, samples and the probabilities of given ones; the memory of the one before is given back."""
    images = [(world.render(s), f"scene{i}") for i, s in enumerate(scenes(8))]
    requests = [Request(i, n, prompts.CAPTION, max_tokens=32) for i, n in images]
    requests += [Request(i, n, prompts.GENERATE, n=2, temperature=1.5, max_tokens=12, seed=4) for i, n in images]
    requests += [Request(i, n, prompts.CAPTION, reply="A red circle.") for i, n in images]
    expected = teacher.generate(requests)
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_start, initargs=("leaml-tiny",)) as pool:
        second = InItsOwnProcess(pool)
        first, memory = second.generate(requests), pool.submit(_memory).result()
        assert first != expected
        seconds = pool.submit(_change, "leaml-tiny-teacher").result(timeout=240)
        assert second.generate(requests) == expected
        pool.submit(_change, "leaml-tiny").result(timeout=240)
        assert second.generate(requests) == first
        assert pool.submit(_memory).result() < memory + 0.3  # each has a cache of 1 GiB
    assert seconds < 8  # a process that imports vLLM takes more than 10
