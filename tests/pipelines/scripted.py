"""Engines and works that follow a script, for tests of map steps: built in Ray workers without a model, every call logged."""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from leaml.config import ResourcesConfig
from leaml.data import image_table, store, tables
from leaml.data.store import ImageIndex
from leaml.engine.interface import Completion, Engine, Request
from leaml.engine.spec import EngineSpec
from leaml.errors import EngineDiedError, ModelError, StepError
from pipelines.quarantine import refused
from pipelines.shards import Item

RESOURCES = ResourcesConfig(engines=1, engine_shards=1)
MAX_PIXELS = 1_000_000
DEATH = "the engine died: CUDA error: an illegal memory access was encountered"
"""What an engine says that notices its death."""


@dataclass(frozen=True)
class ScriptedSpec(EngineSpec):
    """`log` gets one file per call of generate, with the image ids. The faults are named by image id.

    With `life` that file gets a line when an engine is built, and when it is closed: the model and the process.

    A request whose text holds `refuses` gets no reply. A given reply has the log-probability -4, `likely` has -1.
    """

    log: str = ""
    exit_once: str = ""
    exit_always: str = ""
    dies_once: str = ""
    dies_always: str = ""
    exits_at_start: bool = False
    fails_at: str = ""
    build_error: str = ""
    life: str = ""
    refuses: str = ""
    likely: str = ""
    replies: dict[str, list[str]] = field(default_factory=dict)

    def build(self) -> Engine:
        if self.build_error:
            raise ModelError(self.build_error)
        if self.exits_at_start:
            Path(self.log, f"start-{uuid.uuid4().hex}").write_text("[]")
            os._exit(7)
        return ScriptedEngine(self)


class ScriptedEngine:
    """Answers `n` replies that depend on the request alone; it is never full."""

    full_seconds = 0.0

    def __init__(self, spec: ScriptedSpec) -> None:
        self.spec = spec
        self._note("built")

    def close(self) -> None:
        self._note("closed")

    def _note(self, event: str) -> None:
        if self.spec.life:
            with Path(self.spec.life).open("a") as file:
                file.write(f"{event} {self.spec.model} {os.getpid()}\n")

    def generate(self, requests: list[Request]) -> list[list[Completion]]:
        ids = [r.image_id for r in requests]
        Path(self.spec.log, uuid.uuid4().hex).write_text(json.dumps(ids))
        if self.spec.exit_always in ids:
            os._exit(7)
        if self.spec.dies_always in ids:
            raise EngineDiedError(DEATH)
        if self.spec.fails_at in ids:
            msg = "no reply"
            raise StepError(msg)
        marker = Path(self.spec.log + "-died")
        if {self.spec.exit_once, self.spec.dies_once} & set(ids) and not marker.exists():
            marker.touch()
            if self.spec.dies_once:
                raise EngineDiedError(DEATH)
            os._exit(7)
        return [self._replies(r) for r in requests]

    def _replies(self, request: Request) -> list[Completion]:
        if self.spec.refuses and self.spec.refuses in request.text:
            return [Completion("", 0.0, "refused", 0, f"holds {self.spec.refuses}")] * request.n
        if request.reply is not None:
            return [Completion(request.reply, -0.5 if request.reply == self.spec.likely else -2.0, "given", 2)]
        return [Completion(text, -0.5, "stop", 3) for text in self._texts(request)]

    def _texts(self, request: Request) -> list[str]:
        red, green, _ = request.image.getpixel((0, 0))
        return [f"image {red},{green} sample {n}" for n in range(request.n)]


def shard_rows(output: Path) -> list[dict[str, Any]]:
    """Rows of the published shards, also of a step that is not finished."""
    return [row for file in sorted(output.glob("rows/*.parquet")) for row in tables.read(str(file)).to_pylist()]


class CaptionLike:
    """One row per image; its caption holds what the engine saw and the step's own data of the image."""

    schema = tables.CAPTIONS

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[dict[str, Any]], Counter[str]]:
        replies = engine.generate([Request(i.image, i.image_id, "x") for i in items])
        rows: list[dict[str, Any]] = [
            {"image_id": i.image_id, "caption": f"{c.text} extra {i.extra}"} for i, (c,) in zip(items, replies, strict=True)
        ]
        return rows, Counter(tokens=sum(c.tokens for (c,) in replies))


class Signed(CaptionLike):
    """A caption names the model that its engine has."""

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[dict[str, Any]], Counter[str]]:
        rows, counts = super().__call__(engine, items)
        time.sleep(0.2)  # so that shards of two steps would overlap
        return [row | {"caption": engine.spec.model} for row in rows], counts  # type: ignore[attr-defined]


class Refusing(CaptionLike):
    """Has no result for the images `bad` until the file `right` is there."""

    def __init__(self, bad: set[str], right: Path) -> None:
        self.bad, self.right = bad, right

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[dict[str, Any]], Counter[str]]:
        rows, counts = super().__call__(engine, items)
        if self.right.exists():
            return rows, counts
        return [refused(r["image_id"], "empty reply") if r["image_id"] in self.bad else r for r in rows], counts


class Broken(CaptionLike):
    """Returns rows that do not fit the images from the shard with image `where` on."""

    def __init__(self, how: str, where: str) -> None:
        self.how, self.where = how, where

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[dict[str, Any]], Counter[str]]:
        rows, counts = super().__call__(engine, items)
        if self.where not in [i.image_id for i in items]:
            return rows, counts
        changed = {"fewer": rows[:-1], "more": [*rows, rows[0]], "order": rows[::-1], "none": []}
        if self.how == "column":
            rows[0]["colour"] = "red"
        if self.how == "raises":
            msg = "no colour for you"
            raise ValueError(msg)
        return changed.get(self.how, rows), counts


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def images_table(folder: Path, count: int, corrupt: tuple[int, ...] = ()) -> ImageIndex:
    """An images table with `count` images, of which the ones with the given numbers are cut off."""
    data = [png(n)[:40] + bytes([n]) if n in corrupt else png(n) for n in range(count)]
    rows = [{"image_id": tables.image_id(d), "uri": f"{n}.png", "bytes": d} for n, d in enumerate(data)]
    image_table.write(str(folder), rows)
    return store.index(str(folder))


def calls(log: Path) -> Counter[str]:
    """How often the engine was asked about each image."""
    return Counter(i for file in log.iterdir() for i in json.loads(file.read_text()))


def published(output: Path) -> Counter[str]:
    """Image ids in committed files, rows and quarantine, read without the code under test."""
    parts = [
        pa.parquet.read_table(f, columns=["image_id"])["image_id"].to_pylist()
        for f in (*output.glob("rows/*.parquet"), *output.glob("quarantine/*.parquet"))
    ]
    return Counter(i for part in parts for i in part)
