"""The driver of a run for `benchmarks.scale_faults`: the method once, with a fault in one of its phases.

A module of its own, since Ray's workers import it by its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.scale_run import NullEngine, config_of
from leaml.config import Config, parse
from leaml.data import tables
from leaml.data.image_table import ImageTable
from leaml.data.step_rows import StepRows
from leaml.engine.interface import Completion, Engine, Request
from leaml.engine.spec import EngineSpec
from leaml.errors import EngineDiedError
from leaml.generation import prompts
from leaml.io import files
from leaml.training.examples import read_examples
from pipelines import caption, distill, filter, finetune, generate, ingest, quarantine
from pipelines.context import Context
from pipelines.run import Lock, Run, Step
from pipelines.runtime import start_ray

PHASES = ("ingest", "caption", "distillation set", "generate", "filter", "finetuning set")
PART = 50
"""Images of a shard of ingest, so that a small source has many."""
SHARD = 16
"""Images of a shard of an engine."""
SECONDS = 0.05
"""That an engine takes for a call, so that there is a middle to be hit."""
BEFORE = 3
"""Calls of an engine before it dies."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong: nothing, or a kind of `benchmarks.scale_faults`, in a phase, `after` seconds."""

    kind: str = ""
    phase: str = ""
    after: float = 0.0


@dataclass(frozen=True)
class Job:
    """A run.

    Attributes:
        storage: Where it is.
        source: Folder of frames and of label files.
        marks: A local folder, for signs of what has happened.
        nodes: Of a cluster of its own; 0: Ray as `leaml adapt` starts it.
        locked: Whether it takes the lock of the run.
        teacher: URL of a teacher; empty: a null engine.
        until: The last phase; empty: all.
    """

    storage: str
    source: str
    marks: str
    nodes: int = 0
    locked: bool = True
    teacher: str = ""
    until: str = ""


# --- engines ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MarkedSpec(EngineSpec):
    """A null engine that takes a moment for a call; of each step the first one to come to it dies of `fault`, once."""

    marks: str = ""
    fault: str = ""

    def build(self) -> Engine:
        return MarkedEngine(self)


class MarkedEngine:
    """`NullEngine`, which notes its node and its deaths in the spec's folder."""

    def __init__(self, spec: MarkedSpec) -> None:
        import ray

        self.spec, self.calls, self.replies = spec, 0, NullEngine()
        Path(spec.marks, f"engine-{os.getpid()}").write_text(ray.get_runtime_context().get_node_id())

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        time.sleep(SECONDS)
        self.calls += 1
        if self.spec.fault and self.calls > BEFORE:
            self._die("caption" if requests[0].text == prompts.CAPTION else "generate")
        return self.replies.generate(requests)

    def _die(self, phase: str) -> None:
        try:
            os.close(os.open(Path(self.spec.marks, f"died-{phase}"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if self.spec.fault == "engine_killed":
            os.kill(os.getpid(), signal.SIGKILL)
        msg = "the engine died: CUDA error: an illegal memory access was encountered"
        raise EngineDiedError(msg)


# --- the run ----------------------------------------------------------------------------------------------------------------


def fault_config(job: Job, address: str | None) -> Config:
    """`config_of` with a source that is really read."""
    settings: dict[str, Any] = config_of(job.storage, 4).model_dump(mode="json", exclude_unset=True)
    labeled, tested = ({"format": "jsonl", "path": f"{job.source}/{role}.jsonl"} for role in ("labeled", "evaluation"))
    settings["data"] = {
        "labeled": labeled,
        "unlabeled": {"format": "folder", "path": f"{job.source}/frames"},
        "evaluation": tested,
    }
    settings["resources"] = {"images_per_shard": SHARD, "engine_cpus": 1.0}
    if address is not None:
        settings["resources"] |= {"address": address, "engines": 2, "engine_cpus": 2.0}
    if job.teacher:
        client = {"retries": 3, "concurrency": 8}
        settings["caption"] = {"url": job.teacher, "teacher": {"name": "teacher"}, "client": client}
        settings["data"]["max_quarantined"] = 0.5
    return parse(settings)


class Watch:
    """Measures phases, and lets the fault happen in its own."""

    def __init__(self, job: Job, fault: Fault, cluster: Any) -> None:
        self.job, self.fault, self.cluster = job, fault, cluster
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if name == self.fault.phase and self.fault.kind == "driver_killed":
            threading.Timer(self.fault.after, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if name == self.fault.phase and self.fault.kind == "node_killed":
            threading.Thread(target=self._kill_node, daemon=True).start()
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began

    def _kill_node(self) -> None:
        """Kill a node with an engine, not the one that this process is connected to, when both engines work."""
        marks, own = Path(self.job.marks), self.cluster.head_node.node_id
        while len(engines := list(marks.glob("engine-*"))) < 2:
            time.sleep(0.05)
        time.sleep(4 * SECONDS)
        with_engines = {mark.read_text() for mark in engines} - {own}
        node = next(node for node in self.cluster.list_all_nodes() if node.node_id in with_engines)
        self.cluster.remove_node(node, allow_graceful=False)
        Path(marks, "node-killed").touch()


def driven(job: Job, fault: Fault, said: Connection) -> None:
    """The method, from the images to what the last training learns from; says what the tables hold in the end."""
    import ray

    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(_nodes(job.nodes))
        config = fault_config(job, cluster.address if cluster else None)
        spec = MarkedSpec("null", marks=job.marks, fault=fault.kind if fault.kind.startswith("engine") else "")
        patched: list[tuple[Any, str, Callable[..., Any]]] = [
            (module, "run_training", _untrained) for module in (distill, finetune)
        ]
        patched += [
            (module, "engine_spec", lambda *_, **__: spec) for module in ([] if job.teacher else [caption]) + [generate]
        ]
        if not job.locked:
            patched += [(Lock, name, lambda _: None) for name in ("take", "release")]
        for module, name, replaced in patched:
            stack.enter_context(mock.patch.object(module, name, replaced))
        stack.enter_context(mock.patch("leaml.data.parts.PART_RECORDS", PART))
        start_ray(config.resources)
        if cluster:
            stack.callback(ray.shutdown)  # before the cluster ends
        watch = Watch(job, fault, cluster)
        with Run(config) as run:
            if not job.locked:
                run._lock.lost = None
            rows = method(run, watch, job.until)
        said.send({"rows": rows, "seconds": watch.seconds})


@contextlib.contextmanager
def _nodes(count: int) -> Iterator[Any]:
    """A cluster of so many nodes with room for one engine each, or none."""
    if not count:
        yield None
        return
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from local_cluster import nodes

    with nodes(num_cpus=3, object_store_memory=200_000_000) as cluster:
        for _ in range(count - 1):
            cluster.add_node(num_cpus=3, object_store_memory=200_000_000)
        yield cluster


def _untrained(*_: object) -> dict[str, object]:
    return {}


def method(run: Run, watch: Watch, until: str) -> dict[str, Counter[str]]:
    """The steps in their order; returns the rows of their tables."""
    rows: dict[str, Counter[str]] = {}
    with watch.phase("ingest"):
        sources = ingest.source_steps(run)
    for step in (sources.labeled, sources.unlabeled, sources.evaluation):
        assert step is not None
        rows[f"ingest, {step.variant}"] = Counter(
            finished(row["image_id"], row["uri"].rsplit("/", 1)[-1])
            for row in ImageTable(step.path("images")).columns(["image_id", "uri"]).to_pylist()
        )
    context = Context(run, sources, ingest.draw_labels(run, sources))

    with watch.phase("caption"):
        captions = caption.caption(context)
    rows["caption"] = _rows(captions, ["image_id", "caption"])
    rows["caption, quarantined"] = Counter(
        finished(row["image_id"])
        for file in (files.listing(captions.path(quarantine.FOLDER)) if files.exists(captions.path(quarantine.FOLDER)) else [])
        for row in tables.read(file, tables.QUARANTINE).to_pylist()
    )
    if until == "caption":
        return rows

    context = context.with_made(caption=captions, warmup=Step("warmup", "", "0" * 12, f"{run.folder}/warmup"))
    with watch.phase("distillation set"):
        distilled = distill.distill(context)
    for name in ("captions", *distill.CAPTION_QUESTIONS):
        rows[f"distillation set, {name}"] = _examples(distilled.path(f"{name}.arrow"))
    context = context.with_made(distill=distilled)
    with watch.phase("generate"):
        context = context.with_made(generate=generate.generate(context))
    rows["generate"] = _rows(context.made["generate"])
    with watch.phase("filter"):
        context = context.with_made(filter=filter.filter_pairs(context))
    rows["filter"] = _rows(context.made["filter"])
    with watch.phase("finetuning set"):
        trained = finetune.finetune(context)
    rows["finetuning set"] = _examples(trained.path("pseudo.arrow"))
    return rows


def finished(image_id: str, *content: object) -> str:
    """A row as text, to be counted."""
    return json.dumps([image_id, *content], sort_keys=True, default=str)


def _rows(step: Step, columns: list[str] | None = None) -> Counter[str]:
    rows = StepRows(step.folder).columns(columns).to_pylist()
    return Counter(finished(row.pop("image_id"), *row.values()) for row in rows)


def _examples(uri: str) -> Counter[str]:
    return Counter(finished(e.image_id, e.request, e.prefix, e.reply) for e in read_examples(uri))
