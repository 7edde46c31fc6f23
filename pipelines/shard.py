"""Shards of work: some images of a step, where their bytes are and the step's own data, as rows of a Ray Data stream.

A shard is named by the ids of its images, whatever the order of the work and however it is cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from leaml.data.image_ids import SortedIds
from leaml.data.image_table import ImageTable
from leaml.data.step_rows import StepRows
from leaml.data.store import ImageIndex
from leaml.errors import DataError

_OWN, _ROW = "own", "row_of_step"
"""Columns of a shard beside those of an index: the step's own data as JSON, or where that is in the table of another step."""
_PACKED = pa.ipc.IpcWriteOptions(compression="zstd")


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
class RowsOfStep:
    """Data of images that is in the table of another step, where workers read it.

    Attributes:
        folder: Of that step.
        rows: (images,) int32: which of its rows is an image's; null for an image that has none.
        column: What of the row it is; None: the whole row.
    """

    folder: str
    rows: pa.Array
    column: str | None = None


def rows_of_step(folder: str, refs: ImageIndex, column: str | None = None) -> RowsOfStep:
    """The rows of these images in the table of the step in `folder`; `column` as of `RowsOfStep`."""
    return RowsOfStep(folder, StepRows(folder).positions(refs.ids), column)


@dataclass(frozen=True)
class Shard:
    """Some images of a step.

    Attributes:
        number: Of the shard.
        step: Name of the step.
        images: The columns of an `ImageIndex`, and of the step's own data where there is some.
        rows_of: Folder of the step whose table has that; "" where `images` has it.
        column: Of that table; None: all of them.
    """

    number: int
    step: str
    images: pa.Table
    rows_of: str = ""
    column: str | None = None

    @property
    def ids(self) -> list[str]:
        found: list[str] = self.images["image_id"].to_pylist()
        return found

    @property
    def name(self) -> str:
        """Depends on the images alone; the number keeps the order of the table."""
        return shard_name(self.number, self.ids)

    def without(self, done: SortedIds) -> Shard:
        """The shard without the images in `done`."""
        left = pc.invert(done.among(self.images["image_id"]))
        return Shard(self.number, self.step, self.images.filter(left), self.rows_of, self.column)

    def pack(self) -> PackedShard:
        """A row for Ray Data of about 22 bytes an image: the driver holds all of them."""
        about = json.dumps([self.number, self.step, self.rows_of, self.column])
        rows, packed = self.images.replace_schema_metadata({"shard": about}), pa.BufferOutputStream()
        with pa.ipc.new_stream(packed, rows.schema, options=_PACKED) as writer:
            writer.write_table(rows.combine_chunks())
        return {"turn": 0, "shard": self.name, "count": rows.num_rows, "packed": packed.getvalue().to_pybytes()}

    @classmethod
    def unpack(cls, packed: PackedShard) -> Shard:
        """The shard in a row made by `pack`."""
        images = pa.ipc.open_stream(packed["packed"]).read_all()
        number, step, rows_of, column = json.loads(images.schema.metadata[b"shard"])
        return cls(number, step, images, rows_of, column)


def make_shards(step: str, refs: ImageIndex, extras: Mapping[str, object] | RowsOfStep, size: int) -> list[PackedShard]:
    """Cut the images into packed shards, in table order.

    Args:
        step: Name of the step, for its quarantine.
        refs: The images, and where their bytes are.
        extras: The step's own data by image id, JSON-safe, None for an image that is not in it; or
            where that is, in the order of `refs`.
        size: Images of a shard; the last one may have fewer.
    """
    shards = []
    for number, start in enumerate(range(0, len(refs), size)):
        images = refs.columns.slice(start, size)
        if isinstance(extras, RowsOfStep):
            images = images.append_column(_ROW, extras.rows.slice(start, size))
            shards.append(Shard(number, step, images, extras.folder, extras.column).pack())
            continue
        if extras:
            own = [json.dumps(extras.get(image_id)) for image_id in images["image_id"].to_pylist()]
            images = images.append_column(_OWN, pa.array(own, pa.string()))
        shards.append(Shard(number, step, images).pack())
    return shards


def load(packed: PackedShard) -> LoadedShard:
    """Reads the encoded bytes of a shard's images; runs as a Ray Data task, so reading overlaps with the engine."""
    shard = Shard.unpack(packed)
    positions = list(zip(shard.images["file"].to_pylist(), shard.images["row"].to_pylist(), strict=True))
    by_table: dict[str, list[int]] = {}
    for table, row in positions:
        by_table.setdefault(table, []).append(row)

    found = {
        (table, row): image
        for table, rows in by_table.items()
        for row, image in zip(rows, ImageTable(table).read(rows), strict=True)
    }
    images = [found[position] for position in positions]
    return {
        "turn": packed["turn"],
        "shard": shard.name,
        "step": shard.step,
        "image_id": shard.ids,
        "extra": _extras(shard),
        "bytes": [image["bytes"] for image in images],
        "lost": [image["lost"] or "" for image in images],
    }


def _extras(shard: Shard) -> str:
    """The step's own data of each image, as a JSON list."""
    if shard.rows_of:
        return json.dumps(_read_rows(shard))
    own = shard.images[_OWN].to_pylist() if _OWN in shard.images.column_names else ["null"] * shard.images.num_rows
    return f"[{','.join(own)}]"


def _read_rows(shard: Shard) -> list[object]:
    """The shard's rows of another step's table, or what is in their `column`; None for an image without one."""
    there = shard.images.filter(pc.is_valid(shard.images[_ROW]))
    if not there.num_rows:
        return [None] * shard.images.num_rows
    names = None if shard.column is None else ["image_id", shard.column]
    read = StepRows(shard.rows_of).take(there[_ROW].to_pylist(), names)
    if read["image_id"].to_pylist() != there["image_id"].to_pylist():
        msg = f"{shard.rows_of} has changed since this step began; run the same command again"
        raise DataError(msg)
    rows = {row["image_id"]: row if shard.column is None else row[shard.column] for row in read.to_pylist()}
    return [rows.get(image_id) for image_id in shard.ids]
