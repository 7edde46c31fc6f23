"""Estimated hours, memory and S3 requests of a step: the arithmetic, and everything it assumes, in one place.

A rate that an earlier run measured on the same model and resources comes first, an assumed one second. Both are estimates: the
GPU of the earlier run, the length of replies and the size of images may be others.
tests/integration/test_s3_faults.py holds the requests of a shard to a real server.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml

from leaml import images
from leaml.config import resolve_model
from leaml.errors import LeamlError
from leaml.io import files
from leaml.rows import rows
from leaml.run.records import CONFIG, DoneRecord, read_done
from pipelines.amounts import Tokens, Tree, Workload
from pipelines.steps import REQUESTS, STEPS, kind_of

MODELS = ("engine", "train", "gradients")
"""Kinds of steps with a model."""


@dataclass(frozen=True)
class Rates:
    """What is assumed where nothing was measured."""

    tflops: float = 312.0
    """Dense bfloat16 of one GPU in TFLOP/s: an A100. An H100 has 990."""
    reading: float = 0.35
    """Share of it while an engine reads images and requests."""
    writing: float = 0.10
    """Share of it while an engine writes replies, many at a time; memory bounds it."""
    training: float = 0.30
    """Share of it in training, which costs three times the forward pass."""
    image_tokens: int = 1300
    """Of an image in the language model: a megapixel in Qwen2.5-VL (28 x 28 pixels a token), 16 tiles in SmolVLM."""
    text_tokens: int = 50
    """Of a request, or of an example's request and reply."""
    replies: Tokens = field(default_factory=Tokens)
    engine_start_s: float = 300.0
    """From the process to the first image: loading the model and compiling."""
    training_start_s: float = 90.0


ASSUMED = Rates()
IMAGE_PIXELS = 1_000_000
"""Assumed of a decoded image."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Estimate:
    """Hours on the clock and GPU-hours, None where they cannot be told, and the arithmetic behind them."""

    hours: float | None
    gpu_hours: float | None
    how: str
    rate: Literal["", "measured", "assumed", "unknown"] = ""
    """Where the rate comes from; empty for steps that need none."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one engine or training worker needs, beside its libraries."""

    weights: float | None
    """Of the model; in training also gradients and AdamW's moments. None: its name tells no size."""
    images: float
    """Of those decoded at a time, and of one of `data.max_pixels` while it is decoded."""
    peak: int | None = None
    """What an earlier training measured, with activations: of the GPU, without one of the process."""


@dataclass(frozen=True)
class Measured:
    """A rate of earlier steps (images/s of an engine, steps/s of a training, examples/s of gradients), seconds before, and the
    peak of memory in bytes where it was measured."""

    rate: float
    start_s: float
    origin: str
    peak: int | None = None


Known = dict[tuple[object, ...], Measured]


def estimate(name: str, variant: str, tree: Tree, work: Workload, known: Known, rates: Rates = ASSUMED) -> Estimate:
    """Estimate one step.

    Args:
        name: Name of the step.
        variant: The row that it is for, which tells baselines apart.
        tree: The configuration it runs with, as plain data.
        work: How much it has to do.
        known: Measured rates, see `earlier`.
        rates: What to assume otherwise.
    """
    runs_on = kind_of(name)
    if runs_on not in MODELS:
        return Estimate(None, 0.0, "")
    if runs_on == "engine" and work.images == 0:
        return Estimate(0.0, 0.0, "")
    count, gpus = workers(name, tree)
    found = known.get(signature(name, variant, tree))
    if found is None and not gpus:
        return Estimate(None, 0.0, "on CPUs, and no earlier run in this storage measured it", "unknown")
    kind: Literal["measured", "assumed"] = "assumed" if found is None else "measured"
    if found is None:
        rate, origin = _assumed(name, variant, tree, work, rates)
        start = rates.engine_start_s if runs_on == "engine" else rates.training_start_s
    else:
        rate, origin, start = found.rate, found.origin, found.start_s
    if rate is None:
        return Estimate(None, None, origin, "unknown")
    if runs_on == "train":
        section = train_section(name, variant, tree)
        done, shard, parallel = section["steps"] * _phases(section, work.held_out), "steps", 1
    else:
        done, shard = (1000 if work.images is None else work.images), ("examples" if runs_on == "gradients" else "images")
        parallel = count if runs_on == "engine" else 1
    hours = (done / rate / parallel + start) / 3600
    share = f" / {parallel} engines" if parallel > 1 else ""
    how = f"{done:,} {shard} / {rate:.3g} per s{share} + {start:.0f} s start = {hours:.2f} h"
    how += f", x {count} x {gpus:g} GPU = {hours * count * gpus:.2f} GPU-h; {origin}" if gpus else f"; {origin}"
    if runs_on != "train" and work.images is None:
        return Estimate(None, None, f"number of images unknown; per 1,000: {how}", kind)
    return Estimate(hours, hours * count * gpus, how, kind)


def memory(name: str, variant: str, tree: Tree, known: Known) -> Memory | None:
    """What one engine or training worker of a step needs.

    Args:
        name: Name of the step.
        variant: The row that it is for.
        tree: The configuration it runs with, as plain data.
        known: Measured rates, whose peak of memory is taken, see `earlier`.

    Returns:
        None for steps without a model, and for one that is asked by URL.
    """
    count, _ = workers(name, tree)
    if not count or STEPS[name].url(tree):
        return None
    model, resources = _model(name, tree), tree["resources"]
    stored = float(DTYPE_BYTES[model["dtype"]])  # bytes a parameter
    if kind_of(name) == "engine":
        held = resources["engine_shards"] * resources["images_per_shard"]
    elif kind_of(name) == "gradients":
        held = tree[STEPS[name].section]["batch_size"]
    else:
        section = train_section(name, variant, tree)
        held = math.ceil(section["batch_size"] / count)
        trained = 16.0  # in float32 with its gradient and two moments
        stored = {"full": trained, "lora": stored, "neurons": stored + trained * tree["select"]["ratio"]}[section["method"]]
    size, found = parameters(model["name"], active=False), known.get(signature(name, variant, tree))
    decoded = images.BYTES_PER_DECODED_PIXEL * IMAGE_PIXELS * held + images.BYTES_PER_PIXEL * tree["data"]["max_pixels"]
    return Memory(None if size is None else size * stored, decoded, found.peak if found else None)


def requests(name: str, variant: str, tree: Tree, work: Workload) -> tuple[int, int]:
    """PUT requests and GET or HEAD requests of a step where the storage is S3.

    Args:
        name: Name of the step.
        variant: The row that it is for, which tells its training section.
        tree: The configuration it runs with, as plain data.
        work: How much it has to do; of an unknown number of images no requests are counted.
    """
    spec = STEPS.get(name)
    if spec is None:
        return 0, 0
    count = work.images
    if spec.kind == "train":
        section = train_section(name, variant, tree)
        count = _phases(section, work.held_out) * int(section["steps"]) * int(section["batch_size"])
    return (spec.requests or REQUESTS[spec.kind]).of(count or 0, int(tree["resources"]["images_per_shard"]))


def workers(name: str, tree: Tree) -> tuple[int, float]:
    """Engines or training workers of a step, and the GPUs of each; none for steps without a model."""
    if kind_of(name) == "engine":
        return STEPS[name].engines(tree)
    resources = tree["resources"]
    return (resources["train_workers"], resources["train_gpus"]) if kind_of(name) in MODELS else (0, 0.0)


def train_section(name: str, variant: str, tree: Tree) -> Tree:
    """The training section of a step, as plain data.

    Args:
        name: Name of a training step.
        variant: The row that it is for; rows may train with a section of their own.
        tree: The configuration, as plain data.
    """
    row = rows().get(variant)
    return dict(row.section(tree) if name == "finetune" and row and row.training else tree[STEPS[name].section])


def _model(name: str, tree: Tree) -> Tree:
    """The model that a step works with."""
    found = tree
    for part in STEPS[name].model.split("."):
        found = found[part]
    return dict(found)


def signature(name: str, variant: str, tree: Tree) -> tuple[object, ...]:
    """What two steps have in common when one's rate tells the other's.

    Args:
        name: Name of a step with engines, a training or gradients.
        variant: The row that it is for, which tells its training section.
        tree: The configuration it runs with, as plain data.
    """
    settings, (count, gpus) = _model(name, tree), workers(name, tree)
    model = (settings["name"], settings.get("max_image_pixels"), settings.get("image_tiles", True))
    if kind_of(name) == "engine":
        return (name, model, *STEPS[name].alike(tree), gpus)
    if kind_of(name) == "gradients":
        return (name, model, tree[STEPS[name].section]["batch_size"], count, gpus)
    section = train_section(name, variant, tree)
    return ("training", section["method"], model, section["batch_size"], section["precision"], count, gpus)


def earlier(folders: Iterable[str]) -> Known:
    """Rates of finished steps by signature, the median where there are several; folders that tell none are left out."""
    found: dict[tuple[object, ...], list[Measured]] = {}
    for folder in folders:
        try:
            record = read_done(folder)
            if (speed := _speed(record, config := _config(folder))) is not None:
                one = Measured(*speed, folder.rstrip("/").rsplit("/", 1)[-1], record.summary.get("peak_memory"))
                found.setdefault(signature(record.name, record.variant, config), []).append(one)
        except (LeamlError, KeyError, TypeError, ValueError, AttributeError):
            continue  # removed meanwhile, or of another version
    return {key: _median(each) for key, each in found.items()}


def _median(found: list[Measured]) -> Measured:
    rate, start = (statistics.median(getattr(one, name) for one in found) for name in ("rate", "start_s"))
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    peaks = [one.peak for one in found if one.peak]
    return Measured(rate, start, f"measured in {found[0].origin}{more}", max(peaks, default=None))


def _config(folder: str) -> Tree:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return dict(yaml.load(files.read_bytes(files.join(folder, CONFIG)), loader))


def _speed(record: DoneRecord, tree: Tree) -> tuple[float, float] | None:
    """Rate and seconds before that a `_DONE.json` tells."""
    name, summary, seconds = record.name, record.summary, record.seconds
    attempts = record.attempts  # each of them started engines or workers
    if kind_of(name) == "engine" and summary.get("engine_seconds"):
        busy = float(summary["engine_seconds"])
        rate = float(summary.get("images_per_engine_s") or summary["images"] / busy)
        return rate, max(0.0, seconds - busy / workers(name, tree)[0]) / attempts
    if kind_of(name) == "gradients":
        return float(summary["examples"] / (summary.get("seconds") or seconds)), 0.0
    if kind_of(name) == "train":
        phases = 1 + len(summary.get("sweep") or [])
        steps = train_section(name, record.variant, tree)["steps"]
        busy = float(summary.get("seconds") or seconds)
        return phases * steps / busy, max(0.0, seconds - busy) / attempts
    return None


def _phases(section: Tree, held_out: bool) -> int:
    """Trainings of a step: one for each learning rate of a sweep, and the final one."""
    rates = section["lr"]
    return len(rates) + 1 if held_out and isinstance(rates, list) and len(rates) > 1 else 1


def _assumed(name: str, variant: str, tree: Tree, work: Workload, rates: Rates) -> tuple[float | None, str]:
    """A rate as `Measured.rate` from the size of the model, and how it comes about; None if it cannot be told."""
    if url := STEPS[name].url(tree):
        return None, f"asked of {url}, whose GPUs are not counted"
    model = _model(name, tree)["name"]
    size = parameters(model)
    if size is None:
        return None, f"the name {model!r} tells no number of parameters"
    count, gpus = workers(name, tree)
    reading = rates.image_tokens + rates.text_tokens
    if kind_of(name) != "engine":
        batch = train_section(name, variant, tree)["batch_size"] if kind_of(name) == "train" else 1
        flop = 6 * size * reading * batch / rates.training
        text = f"{batch} x 6 x {_big(size)} x {reading:,} tokens / {rates.training:g}"
        gpus *= count
    else:
        reads, written = STEPS[name].per_image(tree, work, rates.replies)
        flop = 2 * size * (reads * reading / rates.reading + written / rates.writing)
        text = f"2 x {_big(size)} x ({reads:g} x {reading:,} tokens read / {rates.reading:g} + {written:g} written / "
        text += f"{rates.writing:g})"
    return rates.tflops * 1e12 * gpus / flop, f"assumed: {text} FLOP on {gpus:g} x {rates.tflops:g} TFLOP/s"


@lru_cache(maxsize=16)
def parameters(name: str, active: bool = True) -> float | None:
    """Parameters of a model: counted in a local folder, else read from its name (72B, 2.2B, 256M; 30B-A3B: 3B are active)."""
    folder = Path(resolve_model(name))
    if folder.is_dir():
        return float(sum(map(_stored, folder.glob("*.safetensors")))) or None
    last = name.rstrip("/").rsplit("/", 1)[-1]
    sizes = re.findall(r"A(\d+(?:\.\d+)?)(B)\b", last) if active else []
    sizes = sizes or re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)([BM])(?![A-Za-z])", last)
    return float(sizes[0][0]) * {"B": 1e9, "M": 1e6}[sizes[0][1]] if sizes else None


def _stored(file: Path) -> int:
    """Parameters in a safetensors file, by its header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    return sum(math.prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")


def _big(size: float) -> str:
    return f"{size / 1e9:.3g}B" if size >= 1e9 else f"{size / 1e6:.3g}M"
