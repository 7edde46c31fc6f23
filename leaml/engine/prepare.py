"""Makes what a model sees of its images in threads, ahead of vLLM.

vLLM calls the model's processor by itself, one prompt after another, in the thread that also moves its engine on: of an image
of a megapixel that takes 50 to 120 ms. Here its image processor is called beforehand with the arguments that vLLM gives it, and
vLLM's own call finds what was made. Resizing and arithmetic run outside of Python's lock, so threads are enough, and tensors of
32 MB need not travel between processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from PIL import Image

from leaml._compat import compute_with
from leaml.engine.pixels import quicker

SMALL = 256 * 256
"""Pixels; an image with no more is made by vLLM, since to hand it to a thread takes as long."""
_MADE = "leaml_made"
"""Key of an image's `info` with a list of what was made of it; vLLM copies images, with `info`, before the processor's call."""
Arguments = tuple[int, tuple[Any, ...], dict[str, Any]]
"""Of vLLM's calls of the image processor: how deep in lists an image is, and what stands behind it."""


class Preparer:
    """Threads that shrink images and call a model's image processor.

    The first image is made by vLLM, which shows how it calls the processor; what it asks for in another way later it makes
    itself too.
    """

    def __init__(self, renderer: Any, threads: int) -> None:
        """Have the image processor of vLLM's `renderer` look for what was made; a model without one has its images shrunk."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
        _compute_alone(self._pool, threads)
        self._cache = renderer.mm_processor_cache
        self._learned: Arguments | None = None
        info = renderer.get_mm_processor().info
        self._dtype = info.ctx.model_config.dtype
        processor = getattr(info.get_hf_processor(), "image_processor", None)
        if processor is not None:
            kind = quicker(type(processor), self._dtype)
            self._processor: Any = processor
            self._make: Callable[..., Any] = kind.__call__
            processor.__class__ = _looking_first(kind, self)

    @property
    def caches(self) -> bool:
        """Whether vLLM keeps what it makes of an image for the next request about it."""
        return self._cache is not None

    def is_cached(self, name: str) -> bool:
        """Whether vLLM will not call the processor for the image of this name, since it has what it made."""
        return self._cache is not None and bool(self._cache.is_cached_item(name))

    def submit(self, image: Image.Image, shrink: Callable[[Image.Image], Image.Image], make: bool) -> Future[Image.Image]:
        """The image to hand to vLLM, with what was made of it.

        Args:
            image: Decoded; it stays as it is.
            shrink: Makes it as small as the processor would.
            make: Whether vLLM will call the processor for it.
        """
        if image.width * image.height <= SMALL:
            done: Future[Image.Image] = Future()
            try:
                done.set_result(shrink(image))
            except Exception as error:  # as of a thread
                done.set_exception(error)
            return done
        return self._pool.submit(self._prepare, image, shrink, make)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, image: Image.Image, shrink: Callable[[Image.Image], Image.Image], make: bool) -> Image.Image:
        import torch

        small = shrink(image)
        learned = self._learned
        if not make or learned is None:
            return small
        if small is image:
            small = image.copy()  # others ask about the same image
        depth, arguments, keywords = learned
        nested: Any = small
        for _ in range(depth):
            nested = [nested]
        made = self._make(self._processor, nested, *arguments, **keywords)
        for name, value in made.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                made[name] = value.to(self._dtype)  # what vLLM would do next, in its own thread
        small.info[_MADE] = [(learned, made)]
        small.__class__ = _Uncopied
        return small

    def call(self, processor: Any, images: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """vLLM's call of the image processor."""
        depth, inner = 0, images
        while isinstance(inner, list | tuple) and len(inner) == 1:
            depth, inner = depth + 1, inner[0]
        if not isinstance(inner, Image.Image):
            return self._make(processor, images, *arguments, **keywords)
        asked: Arguments = (depth, arguments, keywords)
        found = inner.info.get(_MADE)
        learned, made = found.pop() if found else (None, None)  # once: processors take parts out of it
        if learned == asked:
            return made
        self._learned = (depth, arguments, dict(keywords))
        return self._make(processor, images, *arguments, **keywords)


class _Uncopied(Image.Image):
    """An image that is its own copy: to turn it as its EXIF says, vLLM copies it three times. Nothing writes to it."""

    def copy(self) -> Image.Image:
        return self


def _compute_alone(pool: ThreadPoolExecutor, threads: int) -> None:
    """Let each thread of a pool compute by itself: together they use the CPUs, and OpenMP would give each a team of all."""
    import torch

    before, all_there = torch.get_num_threads(), threading.Barrier(threads)

    def begin() -> None:
        compute_with(1)
        all_there.wait()

    wait([pool.submit(begin) for _ in range(threads)])
    compute_with(before)  # OpenMP's number is a thread's own, MKL's the process's


def _looking_first(kind: type[Any], preparer: Preparer) -> type[Any]:
    """The class of an image processor whose calls look for what was made."""

    def call(self: Any, images: Any, *arguments: Any, **keywords: Any) -> Any:
        return preparer.call(self, images, arguments, keywords)

    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
