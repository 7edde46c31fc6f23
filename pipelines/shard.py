"""Shards of work: some images of a step, where their bytes are and the step's own data, as rows of a Ray Data stream.

A shard is named by the ids of its images, whatever the order of the work and however it is cut.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TypedDict, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from leaml.data.image_table import ImageTable
from leaml.data.step_rows import StepRows
from leaml.data.store import ImageIndex

T = TypeVar("T")


def shard_name(number: int, ids: list[str]) -> str:
    """Name of the shard with these images; `number` keeps the order of the table."""
    return f"shard-{number:06d}-{hashlib.sha256(' '.join(ids).encode()).hexdigest()[:12]}"


class PackedShard(TypedDict):
    """A shard as a row of Ray Data; `turn` is the number of its step among those that the engines do one after another."""

    turn: int
    shard: str
    count: int
    packed: bytes


class LoadedShard(TypedDict):
    """A shard with the encoded bytes of its images, or why they are `lost` (else empty); `extra` is a JSON list of the step's
    own data, one entry an image."""

    turn: int
    shard: str
    step: str
    image_id: list[str]
    extra: str
    bytes: list[bytes]
    lost: list[str]


@dataclass(frozen=True)
class Shard:
    """Some images of a step: their ids, where their bytes are, and the step's own data of each, or where that is.

    A position is an images table and the number of a row in it; the rest is as of `RowsOfStep`.
    """

    number: int
    step: str
    ids: list[str]
    positions: list[tuple[str, int]]
    extras: list[object]
    rows: list[int | None]
    rows_of: str
    column: str | None

    @property
    def name(self) -> str:
        """Depends on the images alone; the number keeps the order of the table."""
        return shard_name(self.number, self.ids)

    def without(self, done: set[str]) -> Shard:
        """The shard without the images in `done`."""
        keep = [index for index, image_id in enumerate(self.ids) if image_id not in done]

        def kept(values: list[T]) -> list[T]:
            return [values[index] for index in keep]

        extras, rows = (kept(values) if values else [] for values in (self.extras, self.rows))
        return replace(self, ids=kept(self.ids), positions=kept(self.positions), extras=extras, rows=rows)

    def pack(self) -> PackedShard:
        """A row for Ray Data of about 25 bytes an image: the driver holds all of them."""
        return {
            "turn": 0,
            "shard": self.name,
            "count": len(self.ids),
            "packed": zlib.compress(json.dumps(asdict(self)).encode()),
        }

    @classmethod
    def unpack(cls, packed: PackedShard) -> Shard:
        """The shard in a row made by `pack`."""
        found = json.loads(zlib.decompress(packed["packed"]))
        return cls(**found | {"positions": [(file, row) for file, row in found["positions"]]})


@dataclass(frozen=True)
class RowsOfStep:
    """Data of images that is in the table of another step, where workers read it.

    Attributes:
        folder: Of that step.
        rows: (images,) int32: which of its rows is an image's; null for an image that has none.
        column: What of the row it is; None: the whole row.
    """

    folder: str
    rows: pa.ChunkedArray
    column: str | None = None


def rows_of_step(folder: str, refs: ImageIndex, column: str | None = None) -> RowsOfStep:
    """The rows of these images in the table of the step in `folder`; `column` as of `RowsOfStep`."""
    return RowsOfStep(folder, pc.index_in(refs.ids, value_set=StepRows(folder).columns(["image_id"])["image_id"]), column)


def make_shards(step: str, refs: ImageIndex, extras: Mapping[str, object] | RowsOfStep, size: int) -> list[PackedShard]:
    """Cut the images into packed shards, in table order.

    Args:
        step: Name of the step, for its quarantine.
        refs: The images, and where their bytes are.
        extras: The step's own data by image id, JSON-safe, None for an image that is not in it; or
            where that is, in the order of `refs`.
        size: Images of a shard; the last one may have fewer.
    """
    elsewhere = extras if isinstance(extras, RowsOfStep) else None
    own = {} if isinstance(extras, RowsOfStep) else extras
    shards = []
    for number, start in enumerate(range(0, len(refs), size)):
        part = list(refs[start : start + size])
        shards.append(
            Shard(
                number,
                step,
                [r.image_id for r in part],
                [(r.file, r.row) for r in part],
                [own.get(r.image_id) for r in part] if elsewhere is None else [],
                [] if elsewhere is None else elsewhere.rows.slice(start, size).to_pylist(),
                "" if elsewhere is None else elsewhere.folder,
                None if elsewhere is None else elsewhere.column,
            ).pack()
        )
    return shards


def load(packed: PackedShard) -> LoadedShard:
    """Reads the encoded bytes of a shard's images; runs as a Ray Data task, so reading overlaps with the engine."""
    shard = Shard.unpack(packed)
    by_table: dict[str, list[int]] = {}
    for table, row in shard.positions:
        by_table.setdefault(table, []).append(row)

    found = {
        (table, row): image
        for table, rows in by_table.items()
        for row, image in zip(rows, ImageTable(table).read(rows), strict=True)
    }
    images = [found[position] for position in shard.positions]
    extras = _read_rows(shard) if shard.rows_of else shard.extras
    return {
        "turn": packed["turn"],
        "shard": shard.name,
        "step": shard.step,
        "image_id": shard.ids,
        "extra": json.dumps(extras),
        "bytes": [image["bytes"] for image in images],
        "lost": [image["lost"] or "" for image in images],
    }


def _read_rows(shard: Shard) -> list[object]:
    """The shard's rows of another step's table, or what is in their `column`; None for an image without one."""
    known = [row for row in shard.rows if row is not None]
    names = None if shard.column is None else [shard.column]
    read = StepRows(shard.rows_of).take(known, names).to_pylist() if known else []
    found = iter(read if shard.column is None else [row[shard.column] for row in read])
    return [None if row is None else next(found) for row in shard.rows]
