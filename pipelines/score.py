"""Score: which neurons matter for question answering, from gradients of the QA loss on the labeled rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from leaml.config import ModelConfig, ScoreConfig
from leaml.data.store import ImageStore
from leaml.io import files
from leaml.training.batches import Example
from leaml.training.examples import read_examples
from pipelines.context import Context
from pipelines.models import trained
from pipelines.run import Step
from pipelines.train import ProgressMonitor, WorkerConfig, fit
from pipelines.warmup import qa_tasks
from pipelines.worker import progress_writer, share_machine

Made = TypeVar("Made")


def score(context: Context) -> Step:
    """Score the neurons of the warmed-up generator on Ray Train workers."""
    run, warmed = context.run, context.made["warmup"]
    config = run.config.score
    step = context.step("score", config.model_dump(), [warmed])

    def work() -> dict[str, float]:
        examples = [task.file for task in qa_tasks(warmed)]
        model, folders = trained(warmed, run.config.model), context.sources.image_folders
        job = ScoreJob(step.folder, model, config, examples, folders, run.config.data.max_pixels)
        count = min(config.samples, sum(len(read_examples(file)) for file in examples))
        began = time.time()
        with ProgressMonitor(step.label, step.folder, count, unit="examples"):
            fit(_score_worker, job, run.config.resources, files.join(step.folder, "ray"), step.label)
        return {"examples": count, "seconds": round(time.time() - began, 1)}  # a killed scoring begins anew

    return run.execute(step, work)


@dataclass(frozen=True)
class ScoreJob:
    """Everything a scoring worker needs, as plain data: files of `examples` about the images in the folders `images`."""

    folder: str
    model: ModelConfig
    config: ScoreConfig
    examples: list[str]
    images: list[str]
    max_pixels: int


def _score_worker(given: WorkerConfig[ScoreJob]) -> None:
    """Each worker scores its part of the examples, the sums are added up in rank order, and rank 0 writes them."""
    import ray.train

    from leaml.neurons import scores, selection
    from leaml.neurons.gradients import sum_over_workers
    from leaml.neurons.units import feed_forwards
    from leaml.vlm import load

    job, config = given["job"], given["job"].config
    share_machine(given["lanes"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = str(ray.train.torch.get_device()) if given["gpus"] else "cpu"
    vlm = load.load(job.model, device)
    vlm.model.requires_grad_(False).eval()
    everything = scores.all_linears(vlm.model)
    linears = scores.selectable(everything, config.modules)
    blocks = feed_forwards(linears) if config.unit == "ffn" else {}
    examples = [e for file in job.examples for e in read_examples(file)]
    order = np.random.default_rng(config.seed).permutation(len(examples))[: config.samples]
    store = ImageStore(job.images, job.max_pixels, ids={examples[i].image_id for i in order})
    mine = [examples[i] for i in order[rank::world]]
    collate = scores.vlm_batches(vlm, store.get, device, store.prefetch)
    if rank == 0:
        collate = _watched(collate, job.folder, len(order), world)
    data = scores.Data(mine, collate, config.batch_size)
    found = scores.score(linears, config.method, data, blocks, config.seed, sum_over_workers)
    if rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            owner = selection.model_hash(everything)
            facts = {"examples": len(order), "score": config.model_dump()}
            selection.save_scores(found, Path(folder), owner, facts, blocks)
            files.upload_tree(folder, job.folder)
    ray.train.report({"scored": len(mine)})


def _watched(
    collate: Callable[[Sequence[Example]], Made], folder: str, total: int, world: int
) -> Callable[[Sequence[Example]], Made]:
    """`collate` that writes about how many of `total` examples the `world` workers have done."""
    write, done, began = progress_writer(folder), 0, time.time()

    def watched(part: Sequence[Example]) -> Made:
        nonlocal done
        write({"step": min(total, done * world), "steps": total, "steps_per_s": done * world / max(1e-6, time.time() - began)})
        done += len(part)
        return collate(part)

    return watched
