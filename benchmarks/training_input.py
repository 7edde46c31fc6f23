"""How long a training waits for its input, with a model that takes no time of the processor's cores."""

from __future__ import annotations

import time

from benchmarks.training_model import Photos

RATE = 40
"""Images a second that the model takes."""
PROCESSES = 2
EXAMPLES, WARM, STEPS = 8, 4, 20


def wait_share(model: str, photo: tuple[int, int], rate: float = RATE) -> float:
    """Share of the time that a model of `rate` images a second waits, photos decoded and processed by two processes, tiles off.

    Steps in which the processes still start are not counted.

    Args:
        model: Folder of the model whose processor makes the input.
        photo: Width and height.
        rate: Images a second.
    """
    from leaml.config import ModelConfig
    from leaml.training.batches import Batches, Size, Task
    from leaml.training.feed import Feed
    from leaml.vlm import load

    photos = Photos.of(EXAMPLES, photo)
    feed = Feed(load.processor(ModelConfig(name=model, image_tiles=False)), photos.decode, PROCESSES)
    batches = Batches([Task("qa", photos.examples)], EXAMPLES, 0, lambda _: Size(100, 4))
    began = waited = 0.0
    for number, (_, parts) in enumerate(feed.steps(batches, 0, WARM + STEPS)):
        if number == WARM:
            began, waited = time.perf_counter(), feed.waited
        for tensors, _ in parts:
            time.sleep(len(tensors["input_ids"]) / rate)
    return (feed.waited - waited) / (time.perf_counter() - began)
