"""A run for `benchmarks.scale`: null engines and trainings, all else real, and a meter of its phases.

A module of its own, since Ray's workers import it by its name.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from unittest import mock

from benchmarks.generation_scale import in_new_process, status
from leaml.config import Config, parse
from leaml.data import image_table, step_rows, tables
from leaml.data.step_rows import StepRows
from leaml.engine.interface import Completion, Engine, Request
from leaml.engine.spec import EngineSpec
from leaml.generation import prompts
from leaml.training.batches import draw
from pipelines import caption, distill, filter, finetune, generate
from pipelines.context import Context
from pipelines.ingest import training_images
from pipelines.run import Run, Step
from pipelines.runtime import start_ray
from pipelines.sources import Labels, Sources
from pipelines.train import TrainJob, training_data

STREAMED = ("caption", "generate", "filter", "distillation set", "finetuning set")
"""Phases whose work is done by workers."""
WORDS = ("amber", "bolt", "crane", "delta", "ember", "fjord", "gravel", "harbor", "island", "jetty", "kelp", "ladder")
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db0"
    "0000000049454e44ae426082"
)
"""A PNG of one pixel: the content of every image."""
LABELED = 100
ANNOTATED = {"question": "what is it?", "answer": "red", "question_type": "open"}


# --- a run that trains and asks nothing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NullSpec(EngineSpec):
    """An engine that answers at once."""

    def build(self) -> Engine:
        return NullEngine()


class NullEngine:
    """Captions of some forty words, pairs, and answers; each depends on its image alone."""

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        return [[Completion(self._text(r, n), -0.1, "stop", 30) for n in range(r.n)] for r in requests]

    def _text(self, request: Request, number: int) -> str:
        seen = hashlib.sha256(f"{request.image_id}:{number}".encode()).digest()
        words = [f"{WORDS[byte % len(WORDS)]}{byte // len(WORDS)}" for byte in seen]
        if request.text == prompts.CAPTION:
            return "There is a " + ". It has a ".join(" and ".join(words[n : n + 4]) for n in range(0, 24, 4)) + "."
        if request.text == prompts.GENERATE and "Question:" not in request.prefix:
            return f"Question: Is there a {words[0]} beside the {words[1][:-1]}? Answer: yes"
        return "yes"


def config_of(storage: str, steps: int) -> Config:
    """A configuration whose trainings read `steps` batches."""
    training = {"steps": steps, "batch_size": 64, "method": "lora"}
    source = {"format": "folder", "path": "/nowhere"}
    data = {"labeled": source, "unlabeled": source, "evaluation": source}
    return parse(
        {
            "name": "scale",
            "storage": storage,
            "data": data,
            "distill": training | {"qa_weight": 0.0},
            "generate": {"caption": "teacher", "pairs_per_image": 4},
            "filter": {"max_answer_share": 0.5},
            "finetune": training,
            "resources": {"engine_cpus": 1.0},
        }
    )


def ingested(storage: str, images: int) -> Sources:
    """Tables as ingest writes them, of images that nobody has."""

    def rows(first: int, count: int) -> Iterator[dict[str, object]]:
        for number in range(first, first + count):
            image_id = hashlib.sha256(f"{number}".encode()).hexdigest()[:32]
            yield {"image_id": image_id, "uri": f"{number}.png", "bytes": PIXEL, "width": 1, "height": 1}

    steps = {}
    for role, first, count in (("labeled", 0, LABELED), ("unlabeled", LABELED, images), ("evaluation", -LABELED, LABELED)):
        steps[role] = Step("ingest", role, hashlib.sha256(role.encode()).hexdigest()[:12], f"{storage}/scale/ingest-{role}")
        image_table.write(steps[role].path("images"), rows(first, count))
    return Sources(steps["labeled"], steps["unlabeled"], steps["evaluation"])


def labels_of(sources: Sources) -> Labels:
    ids = training_images(sources)[:LABELED].ids.to_pylist()
    rows = tables.table([ANNOTATED | {"image_id": image_id} for image_id in ids], tables.LABELED)
    return Labels(rows, rows.slice(0, 0), "labels")


# --- what is measured -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """What one phase took: bytes are the driver's peak, seconds are as the module says."""

    bytes: int
    seconds: float
    wall: float
    requests: int


class Meter:
    """Measures phases; `asked` is the end of a pipe whose other end tells the number of requests so far."""

    def __init__(self, asked: Connection) -> None:
        self.phases: dict[str, Phase] = {}
        self._asked, self._peak, self._stop = asked, 0, threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while not self._stop.wait(0.05):
            self._peak = max(self._peak, memory())

    def _requests(self) -> int:
        self._asked.send("requests")
        return int(self._asked.recv())

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        gc.collect()
        self._peak = memory()
        before, cpu, wall = self._requests(), time.process_time(), time.perf_counter()
        yield
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        seconds, peak = cpu if name in STREAMED else wall, max(self._peak, memory())
        self.phases[name] = Phase(peak, seconds, wall, self._requests() - before)
        print(
            f"{name}: {peak >> 20} MiB, {seconds:.1f} s, {wall:.1f} s wall, {self.phases[name].requests} requests", flush=True
        )


def memory() -> int:
    """Of this process, without what it shares with Ray's object store."""
    return status(os.getpid(), "RssAnon", "RssFile")


class NullTraining:
    """Stands for `run_training`: a worker reads its examples and the images of some batches, and trains nothing."""

    def __init__(self) -> None:
        self.peak = 0

    def __call__(self, label: str, job: TrainJob, *_: object) -> dict[str, object]:
        self.peak = max(self.peak, in_new_process(trained, job))
        return {}


def trained(job: TrainJob) -> int:
    """Peak of a training worker's memory without a model, above what it had before it read anything."""
    from pipelines import worker  # noqa: F401  # as a worker has it

    stop, peak, before = threading.Event(), 0, memory()

    def sample() -> None:
        nonlocal peak
        while not stop.wait(0.02):
            peak = max(peak, memory())

    thread = threading.Thread(target=sample)
    thread.start()
    tasks, _, images = training_data(job)
    for step in range(job.config.steps):
        drawn = draw(tasks, job.config.batch_size, job.seed, step)
        if step % 50 == 0:
            images.prefetch({example.image_id for _, example in drawn})
        for _, example in drawn:
            images.size(example.image_id)
    stop.set()
    thread.join()
    return max(peak, memory()) - before


def run(storage: str, images: int, steps: int, asked: Connection) -> None:
    """Every phase of a run; sends what was measured."""
    sources, config = ingested(storage, images), config_of(storage, steps)
    null, training = NullSpec("null"), NullTraining()
    start_ray(config.resources)
    meter = Meter(asked)
    with contextlib.ExitStack() as patches:
        for module in (caption, generate):
            patches.enter_context(mock.patch.object(module, "engine_spec", lambda *_, **__: null))
        for module in (distill, finetune):
            patches.enter_context(mock.patch.object(module, "run_training", training))
        with Run(config) as made:
            phases(meter, Context(made, sources, labels_of(sources)))
    asked.send({"phases": {name: asdict(each) for name, each in meter.phases.items()}, "worker": training.peak})


def phases(meter: Meter, context: Context) -> None:
    """The steps of the method in their order, and what is done again when a command is given again."""
    with meter.phase("index"):
        training_images(context.sources)
    with meter.phase("address of captions"):
        caption.caption_step(context.run, context.sources, context.labels)
    with meter.phase("caption"):
        captions = caption.caption(context)
    with meter.phase("caption, finished before"):
        caption.caption(context)
    step_rows.remove(captions.folder)  # as if the driver was killed before the commit
    captions_again = meter.phase("caption, all but its table finished before")
    with mock.patch.object(Run, "done", lambda self, step: False), captions_again:
        caption.caption(context)
    with meter.phase("ids of a finished step"):
        StepRows(captions.folder).columns(["image_id"])
    context = context.with_made(caption=captions, warmup=Step("warmup", "", "0" * 12, f"{context.run.folder}/warmup"))
    with meter.phase("distillation set"):
        distilled = distill.distill(context)
    context = context.with_made(distill=distilled)
    with meter.phase("generate"):
        context = context.with_made(generate=generate.generate(context))
    with meter.phase("filter"):
        context = context.with_made(filter=filter.filter_pairs(context))
    with meter.phase("finetuning set"):
        finetune.finetune(context)
