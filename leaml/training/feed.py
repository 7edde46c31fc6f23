"""Feeds a training: decodes images and makes tensors, in processes of their own where a GPU would wait for them."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import chain, islice
from multiprocessing.context import BaseContext

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from leaml.errors import LeamlError
from leaml.training.batches import Batches, Drawn, StepBatch
from leaml.vlm.collate import Collator, Turn
from leaml.vlm.processor import Processor

GetImage = Callable[[str], Image.Image]
Prefetch = Callable[[Collection[str]], None]
"""Told which images will be asked for next, so that they are read at once."""
Made = tuple[dict[str, torch.Tensor], torch.Tensor]
"""Tensors of a micro-batch, with labels, and (examples,) int64: the number of each row's task."""

AHEAD = 1
"""Micro-batches that each process has ready; one of 64 photos in tiles is 3 GB."""


def _forkserver() -> BaseContext:
    """How processes are started: from one that has imported what each of them needs, which takes ten seconds of a core."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.processing_utils", "leaml.training.feed"])
    return context


class _MicroBatches(Dataset[Made | LeamlError]):
    """Micro-batches by what is in them. Each process has a collator of its own: a tokenizer keeps how a call pads."""

    def __init__(self, processor: Processor, get_image: GetImage, prefetch: Prefetch | None = None) -> None:
        self.processor, self.get_image, self.prefetch = processor, get_image, prefetch
        self.collator: Collator | None = None

    def __getstate__(self) -> dict[str, object]:
        """What a process is given; it makes its own collator."""
        return self.__dict__ | {"collator": None}

    def __getitem__(self, drawn: list[Drawn]) -> Made | LeamlError:
        self.collator = self.collator or Collator(self.processor)
        try:
            if self.prefetch is not None:
                self.prefetch({e.image_id for _, e in drawn})
            images = {e.image_id: self.get_image(e.image_id) for _, e in drawn}
            turns = [Turn(images[e.image_id], e.request, e.reply, e.prefix) for _, e in drawn]
            return self.collator(turns), torch.tensor([number for number, _ in drawn])
        except LeamlError as error:  # raised there it would come back as a traceback in a text
            return error


class Feed:
    """Makes micro-batches in order.

    Args:
        processor: Of the model.
        get_image: The image with an id; with processes it is pickled.
        processes: That decode and run the processor while the model trains; 0: it is done between the steps, as on a CPU,
            whose cores the products need.
        pinned: In page-locked memory, from which a GPU copies while it computes.
        prefetch: Told the ids of a micro-batch before `get_image` is asked for each.
    """

    def __init__(
        self,
        processor: Processor,
        get_image: GetImage,
        processes: int = 0,
        pinned: bool = False,
        prefetch: Prefetch | None = None,
    ) -> None:
        self.data = _MicroBatches(processor, get_image, prefetch)
        self.processes, self.pinned = processes, pinned
        self.waited = 0.0
        """Seconds that the model has waited for micro-batches of trainings, validations and whatever else was asked for."""

    def steps(self, batches: Batches, first: int, steps: int) -> Iterator[tuple[StepBatch, Iterator[Made]]]:
        """What each step trains on, and its micro-batches, to be taken before the next step.

        Args:
            batches: Of this worker.
            first: The first step; above 0 where a training is resumed.
            steps: Steps of the training; the last one is `steps` - 1.

        Raises:
            LeamlError: An image or a text of a micro-batch cannot be used.
        """
        planned: deque[StepBatch] = deque()

        def parts() -> Iterator[list[Drawn]]:
            for step in range(first, steps):
                planned.append(batches.at(step))
                yield from planned[-1].parts

        made = self._timed(iter(self._loader(parts())))
        for _ in range(first, steps):
            begun = next(made)
            now = planned.popleft()
            yield now, chain([begun], islice(made, len(now.parts) - 1))

    def make(self, drawn: list[Drawn]) -> Made:
        """A micro-batch, made here and now, as of a validation; the model waits for it."""
        began = time.perf_counter()
        made = self.data[drawn]
        self.waited += time.perf_counter() - began
        return self._checked(made)

    def _loader(self, parts: Iterator[list[Drawn]]) -> DataLoader[Made | LeamlError]:
        apart = {"prefetch_factor": AHEAD, "multiprocessing_context": _forkserver()} if self.processes else {}
        return DataLoader(
            self.data,
            batch_size=None,
            sampler=parts,  # type: ignore[arg-type]  # any iterable, says the documentation
            num_workers=self.processes,
            pin_memory=self.pinned,
            generator=torch.Generator(),  # else the training's random state would depend on it
            **apart,  # type: ignore[arg-type]
        )

    def _timed(self, made: Iterator[Made | LeamlError]) -> Iterator[Made]:
        while True:
            began = time.perf_counter()
            found = next(made, None)
            self.waited += time.perf_counter() - began
            if found is None:
                return
            yield self._checked(found)

    @staticmethod
    def _checked(found: Made | LeamlError) -> Made:
        if isinstance(found, LeamlError):
            raise found
        return found
