"""Parts of `benchmarks.generation` about size and failure: memory over the number of images, engines on two nodes, kills."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.generation_arms import THREADS, Task
from leaml.config import CaptionConfig, ModelConfig, ResourcesConfig
from leaml.data import image_table, store, tables
from leaml.engine.interface import Completion, Engine, Request
from leaml.engine.spec import EngineSpec
from leaml.run.records import read_done
from pipelines.caption import CaptionWork
from pipelines.models import engine_spec
from pipelines.runtime import start_ray
from pipelines.shard import make_shards
from pipelines.shards import run_shards

SHARD = 256


def in_new_process(function: Any, *arguments: Any) -> Any:
    """The function's value, from a process of its own; what it starts computes on `THREADS` threads unless told otherwise."""
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(timeout=1800)


def _below(parent: int) -> dict[int, str]:
    """Processes started by `parent`, and by those: id and command line."""
    commands = {}
    for process in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            commands[process.pid] = "\0".join(process.cmdline())
    return commands


# --- memory --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneWordSpec(EngineSpec):
    """An engine that answers one word at once: what is measured is everything around the engine."""

    def build(self) -> Engine:
        return OneWordEngine()


class OneWordEngine:
    """Answers every request with one word."""

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        return [[Completion("shape", -0.1, "stop", 1)] for _ in requests]


def small_images(folder: str, count: int) -> None:
    """`count` distinct noisy images of 16 x 16 pixels (about 850 bytes each)."""
    rng = random.Random(0)

    def rows() -> Iterator[dict[str, object]]:
        for number in range(count):
            buffer = io.BytesIO()
            Image.frombytes("RGB", (16, 16), rng.randbytes(768)).save(buffer, "PNG")
            yield {"image_id": tables.image_id(buffer.getvalue()), "uri": f"{number}.png", "bytes": buffer.getvalue()}

    image_table.write(folder, rows())


def status(pid: int, *names: str) -> int:
    """Sum of these lines of a process's status, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in names)


class PeakMemory:
    """Peaks, sampled every 0.1 s: the driver's own memory, and pages of the object store in use."""

    def __init__(self) -> None:
        self.driver = self.objects = self.together = 0
        # the raylet maps the object store
        self._raylet = next(pid for pid, command in _below(os.getpid()).items() if command.split("\0")[0].endswith("/raylet"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(0.1):
            driver, objects = status(os.getpid(), "RssAnon", "RssFile"), status(self._raylet, "RssShmem")
            self.driver, self.objects = max(self.driver, driver), max(self.objects, objects)
            self.together = max(self.together, driver + objects)

    def stop(self) -> dict[str, int]:
        """The peaks in MiB."""
        self._stop.set()
        self._thread.join()
        return {k: round(getattr(self, k) / 2**20) for k in ("driver", "objects", "together")}


def memory_of(images: str, output: str) -> dict[str, Any]:
    """A caption step over a table of images in this process: peaks, seconds, rows."""
    resources = ResourcesConfig(images_per_shard=SHARD)
    start_ray(resources)
    peak, began = PeakMemory(), time.time()
    shards = make_shards("caption", store.index(images), {}, SHARD)
    summary = run_shards("caption", shards, OneWordSpec("one word"), CaptionWork(CaptionConfig()), output, resources, 10**6)
    return peak.stop() | {"images": summary["images"], "seconds": round(time.time() - began, 1)}


def memory(counts: list[int]) -> dict[str, Any]:
    """Peak memory for each number of images and the growth from the first to the last."""
    found = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            small_images(f"{folder}/images", count)
            found.append(in_new_process(memory_of, f"{folder}/images", f"{folder}/out"))
            print(f"memory: {found[-1]}", file=sys.stderr, flush=True)
    return {"rss_growth": round(found[-1]["together"] / found[0]["together"], 3), "peaks_mib": found}


# --- two nodes -----------------------------------------------------------------------------------------------------------


PLANS = {"one engine, one node": (1, 1), "two engines, one node": (2, 1), "two engines, two nodes": (2, 2)}
"""Engines and nodes; always two threads and four logical CPUs in total."""
THREE = {"one node": (3, 1), "two nodes": (3, 2), "three nodes": (3, 3)}
"""The same for three engines with one thread each and six logical CPUs in total."""


def on_nodes(task: Task, engines: int, nodes: int) -> float:
    """Images per second of all engines, from the time that each of them worked: without start-up.

    An engine takes the logical CPUs that leave room for one of them on the smallest node; threads are what is shared.
    """
    from ray.cluster_utils import Cluster

    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ[name] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    logical, each, threads = {1: (4, 4, 2), 2: (4, 2, 1), 3: (6, 1.5, 1)}[engines]
    for _ in range(nodes):
        cluster.add_node(num_cpus=logical // nodes)
    try:
        shard = task.shard // engines
        resources = ResourcesConfig(engines=engines, engine_cpus=each, images_per_shard=shard, address=cluster.address)
        start_ray(resources)
        spec = replace(engine_spec(ModelConfig(name=task.model), resources), cpus=threads)
        shards = make_shards("caption", store.index(task.images), {}, shard)
        with tempfile.TemporaryDirectory() as output:
            summary = run_shards("caption", shards, spec, CaptionWork(CaptionConfig()), output, resources, 10**7)
        return float(summary["images_per_engine_s"] * engines)
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


def scaling(task: Task, rounds: int) -> dict[str, Any]:
    """Rates of one engine and of two, on one node and on two, at two threads in total."""
    found = _turns("scaling", task, rounds, PLANS)
    one, beside, apart = (found[name] for name in PLANS)
    ratios = {"scaling": _ratio(apart, one), "two_nodes_over_one_node": _ratio(apart, beside)}
    return ratios | {"scaling_images_per_s": found}


def nodes(task: Task, rounds: int) -> dict[str, Any]:
    """Rates of three engines on one, two and three nodes, at three threads in total."""
    found = _turns("nodes", task, rounds, THREE)
    one, two, three = (found[name] for name in THREE)
    return {"nodes": {"two_over_one": _ratio(two, one), "three_over_one": _ratio(three, one), "images_per_s": found}}


def _turns(label: str, task: Task, rounds: int, plans: dict[str, tuple[int, int]]) -> dict[str, list[float]]:
    """Rates of each plan, measured in turns, there and back."""
    found: dict[str, list[float]] = {name: [] for name in plans}
    for number in range(rounds):
        for name in plans if number % 2 == 0 else reversed(plans):
            found[name].append(round(in_new_process(on_nodes, task, *plans[name]), 1))
            print(f"{label}: {name}, {found[name][-1]} images/s", file=sys.stderr, flush=True)
    return found


def _ratio(above: list[float], below: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


# --- kills ---------------------------------------------------------------------------------------------------------------


class Caption:
    """`leaml caption` on easy-VQA as a process of its own, again and again on one run folder."""

    def __init__(self, folder: str, images: int) -> None:
        self.folder = Path(folder)
        source = {"format": "easy_vqa", "split": "train", "limit": images}
        settings = {
            "storage": str(self.folder),
            "data": {"labeled": source, "evaluation": {"format": "easy_vqa", "split": "test", "limit": 10}},
            "resources": {"images_per_shard": 64},
        }
        self.config, self.log = self.folder / "config.yaml", self.folder / "log"
        self.config.write_text(json.dumps(settings))

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pipelines.cli", "caption", str(self.config)]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def wait_for_shards(self, process: subprocess.Popen[bytes], count: int) -> float:
        """Seconds until `count` shards are published. Raises RuntimeError with the log's end when the process ends first."""
        began = time.time()
        while len(self.published()) < count:
            if process.poll() is not None:
                raise RuntimeError("\n".join(self.log.read_text().splitlines()[-20:]))
            time.sleep(0.1)
        return time.time() - began

    def published(self) -> dict[str, tuple[float, list[str]]]:
        """Committed files: time of change and image ids."""
        return {
            str(f): (f.stat().st_mtime, pq.read_table(f, columns=["image_id"])["image_id"].to_pylist())
            for part in ("rows", "quarantine")
            for f in self.folder.glob(f"run/caption-*/{part}/*.parquet")
        }

    def images(self) -> list[str]:
        """The ids of all images that the step has to caption."""
        return [
            ref.image_id for f in self.folder.glob("run/ingest-*/images") for ref in store.index(str(f)) if self._training(f)
        ]

    def _training(self, folder: Path) -> bool:
        return read_done(str(folder.parent)).variant == "labeled"


def _kill(what: str, process: subprocess.Popen[bytes]) -> bool:
    """SIGKILL the driver, and wait until what it started is gone; or an engine. Returns whether there was one to kill."""
    started = _below(process.pid)
    if what == "engine":
        engines = [pid for pid, command in started.items() if command.startswith("ray::") and "EngineActor" in command]
        if engines:
            os.kill(engines[0], signal.SIGKILL)
        return bool(engines)
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    deadline = time.time() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.time() < deadline:
        time.sleep(0.2)
    return True


def kills(images: int, drivers: int, engines: int) -> dict[str, Any]:
    """A caption step whose driver is killed at random moments, `drivers` times, then its engines; then it finishes."""
    rng = random.Random(0)
    done = {"driver": 0, "engine": 0}
    changed = 0
    with tempfile.TemporaryDirectory() as folder:
        step = Caption(folder, images)
        process = step.start()
        first = step.wait_for_shards(process, 2)
        while done["driver"] < drivers:
            before = step.published()
            if done["driver"] % 2:  # anywhere from the start of the process on, or soon after it has published a shard
                time.sleep(rng.uniform(0, 1) * first)
            else:
                step.wait_for_shards(process, len(before) + 1)
                time.sleep(rng.uniform(0, 1))
            done["driver"] += _kill("driver", process)
            changed += sum(step.published().get(file) != value for file, value in before.items())
            process = step.start()
            print(f"kills: {done}, {sum(len(i) for _, i in step.published().values())} images", file=sys.stderr, flush=True)
        while process.poll() is None and done["engine"] < engines:
            done["engine"] += _kill("engine", process)
            time.sleep(rng.uniform(0.3, 0.6) * first)
        process.wait(timeout=900)
        expected, found = Counter(step.images()), Counter(i for _, ids in step.published().values() for i in ids)
        lost, duplicated = sum((expected - found).values()), sum((found - expected).values())
    matrix = {"kills": sum(done.values()), "lost": lost, "duplicated": duplicated, "rewritten_files": changed}
    return {"kill_matrix": matrix | done | {"images": sum(expected.values()), "exit_code": process.returncode}}
