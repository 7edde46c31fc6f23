"""Map steps (caption, generate, evaluate) in work units: one unit of images is one atomically published file.

The units of a step are fixed by its input, so "done" is "the unit's file exists": a rerun does the missing units and nothing
else, no image twice and none lost, wherever the process was killed. Ray Data streams the units: bytes are read on CPU tasks, an
actor pool holds the engines, and the actor that made a unit's rows publishes them.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
from PIL import Image

from leaml import images, tables
from leaml.config import ResourcesConfig
from leaml.data import files
from leaml.data.store import ImageRef, read_rows
from leaml.engine import Engine, EngineSpec
from leaml.errors import LeamlError, StepError
from pipelines.progress import Bar, say


@dataclass(frozen=True)
class Item:
    """One image of a unit as the engine actor sees it; `extra` is the step's own data for this image."""

    image_id: str
    image: Image.Image
    extra: Any


class Work(Protocol):
    """What a step does with the images of one unit. Must be picklable; returns one row per image and counts for the summary."""

    schema: pa.Schema

    def __call__(self, engine: Engine, items: list[Item]) -> tuple[list[dict[str, Any]], Counter[str]]: ...


class EngineActor:
    """Holds one engine; makes, checks and publishes the rows of one unit at a time."""

    def __init__(self, spec: EngineSpec, work: Work, output: str, max_pixels: int) -> None:
        self.engine = spec.build()
        self.work, self.output, self.max_pixels = work, output, max_pixels

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        began = time.time()
        items, quarantined = self._decode(unit)
        rows, counts = self.work(self.engine, items) if items else ([], Counter())
        made, expected = [r["image_id"] for r in rows], [i.image_id for i in items]
        if made != expected:
            msg = (
                f"unit {unit['unit']}: {len(expected)} images went in, rows of {len(made)} came out in another order or number"
            )
            raise StepError(msg)
        if quarantined:
            tables.write(f"{self.output}/quarantine/{unit['unit']}.parquet", tables.table(quarantined, tables.QUARANTINE))
        counts["images"], counts["quarantined"] = len(rows), len(quarantined)
        files.write_bytes(f"{self.output}/counts/{unit['unit']}.json", json.dumps(counts).encode())
        # last, since the rows' file is what makes the unit done
        tables.write(f"{self.output}/rows/{unit['unit']}.parquet", tables.table(rows, self.work.schema))
        return {"unit": unit["unit"], "counts": json.dumps(counts), "seconds": time.time() - began}

    def _decode(self, unit: dict[str, Any]) -> tuple[list[Item], list[dict[str, object]]]:
        items, quarantined = [], []
        for image_id, data, extra in zip(unit["image_id"], unit["bytes"], json.loads(unit["extra"]), strict=True):
            try:
                items.append(Item(image_id, images.decode(data, self.max_pixels), extra))
            except images.ImageRejected as error:
                quarantined.append({"image_id": image_id, "uri": None, "step": unit["step"], "reason": str(error)})
        return items, quarantined


def _load(unit: dict[str, Any]) -> dict[str, Any]:
    """Reads the encoded bytes of a unit's images; runs as a Ray Data task, so reading overlaps with the engine."""
    by_file: dict[str, list[int]] = {}
    for file, row in zip(unit["files"], unit["rows"], strict=True):
        by_file.setdefault(file, []).append(row)
    data: dict[tuple[str, int], bytes] = {}
    for file, rows in by_file.items():
        for row, record in zip(rows, read_rows(file, rows), strict=True):
            data[file, row] = record["bytes"]
    ordered = [data[f, r] for f, r in zip(unit["files"], unit["rows"], strict=True)]
    return {k: unit[k] for k in ("unit", "step", "image_id", "extra")} | {"bytes": ordered}


def make_units(step: str, refs: list[ImageRef], extras: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Cut the images into units of `size`, in table order; `extras` holds the step's data by image id."""
    units = []
    for number, start in enumerate(range(0, len(refs), size)):
        part = refs[start : start + size]
        units.append(
            {
                "unit": f"unit-{number:06d}",
                "step": step,
                "image_id": [r.image_id for r in part],
                "files": [r.file for r in part],
                "rows": [r.row for r in part],
                "extra": json.dumps([extras.get(r.image_id) for r in part]),
            }
        )
    return units


def run_units(
    label: str,
    units: list[dict[str, Any]],
    spec: EngineSpec,
    work: Work,
    output: str,
    resources: ResourcesConfig,
    max_pixels: int,
) -> dict[str, Any]:
    """Do every unit that is not published yet and return the totals over all units of the step."""
    import ray

    finished = {u.rsplit("/", 1)[-1].removesuffix(".parquet") for u in _listing(f"{output}/rows")}
    todo = [u for u in units if u["unit"] not in finished]
    total = sum(len(u["image_id"]) for u in units)
    done = total - sum(len(u["image_id"]) for u in todo)
    if finished:
        say(f"{label}: {len(finished)} of {len(units)} units were done before; {len(todo)} to do")
    counts, busy, began = Counter[str](), 0.0, time.time()
    if todo:
        pool = ray.data.ActorPoolStrategy(size=resources.engines)
        stream = (
            ray.data.from_items(todo, override_num_blocks=len(todo))
            .map(_load, num_cpus=0.5)
            .map(
                EngineActor,  # type: ignore[arg-type]
                fn_constructor_args=(spec, work, output, max_pixels),
                compute=pool,
                num_cpus=resources.engine_cpus,
                num_gpus=resources.engine_gpus or None,
            )
        )
        sizes = {u["unit"]: len(u["image_id"]) for u in todo}
        with Bar(label, total, "images", done) as bar:
            for row in _rows(stream, label):
                made = Counter(json.loads(row["counts"]))
                counts.update(made)
                busy += row["seconds"]
                done += sizes[row["unit"]]
                bar.update(done, _note(counts))
    return {**_read_counts(output), "engine_seconds": round(busy, 1), "wall_seconds": round(time.time() - began, 1)}


def _rows(stream: Any, label: str) -> Any:
    """Rows of a Ray Data stream; our own errors come out of Ray's wrapping with their message."""
    import ray

    try:
        yield from stream.iter_rows()
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, LeamlError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, LeamlError):
            raise cause from None
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if re.match(r"^[\w.]*(Error|Exception)\b", line.strip())), lines[-1])
        msg = f"{label}: an engine failed: {reason.strip()}; finished units are kept, run the same command again to go on"
        raise StepError(msg) from error


def _note(counts: Counter[str]) -> str:
    if counts["pairs"]:
        return f"{counts['pairs']} pairs, {100 * counts['accepted'] / counts['pairs']:.0f} % accepted"
    return ""


def _read_counts(output: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for file in _listing(f"{output}/counts"):
        counts.update(json.loads(files.read_bytes(file)))
    return counts


def _listing(folder: str) -> list[str]:
    return files.listing(folder) if files.exists(folder) else []


def read_output(output: str, schema: pa.Schema) -> pa.Table:
    """All published rows of a map step, in unit order."""
    parts = [tables.read(f) for f in _listing(f"{output}/rows")]
    return tables.check(pa.concat_tables(parts), schema, output) if parts else schema.empty_table()
