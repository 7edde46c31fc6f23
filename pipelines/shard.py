"""Shards of work: some images of a step, where their bytes are and the step's own data, as rows of a Ray Data stream.

A shard is named by the ids of its images, whatever the order of the work and however it is cut.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypedDict, TypeVar

from leaml.data import tables
from leaml.data.image_table import ImageTable
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

    A position is a file and the number of a row in it.
    """

    number: int
    step: str
    ids: list[str]
    positions: list[tuple[str, int]]
    extras: list[object]
    extra_positions: list[tuple[str, int]] | None

    @property
    def name(self) -> str:
        """Depends on the images alone; the number keeps the order of the table."""
        return shard_name(self.number, self.ids)

    def without(self, done: set[str]) -> Shard:
        """The shard without the images in `done`."""
        keep = [index for index, image_id in enumerate(self.ids) if image_id not in done]

        def kept(values: list[T]) -> list[T]:
            return [values[index] for index in keep]

        rest = None if self.extra_positions is None else kept(self.extra_positions)
        extras = kept(self.extras) if self.extra_positions is None else []
        return Shard(self.number, self.step, kept(self.ids), kept(self.positions), extras, rest)

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
        for key in ("positions", "extra_positions"):
            found[key] = None if found[key] is None else [(file, row) for file, row in found[key]]
        return cls(**found)


def make_shards(
    step: str, refs: ImageIndex, extras: Mapping[str, object], size: int, rows: ImageIndex | None = None
) -> list[PackedShard]:
    """Cut the images into packed shards, in table order.

    Args:
        step: Name of the step, for its quarantine.
        refs: The images, and where their bytes are.
        extras: The step's own data by image id, JSON-safe; None for an image that is not in it.
        size: Images of a shard; the last one may have fewer.
        rows: In place of `extras`: where the rows of another step's table are, in the order of
            `refs`; the worker reads them.
    """
    shards = []
    for number, start in enumerate(range(0, len(refs), size)):
        part = list(refs[start : start + size])
        shards.append(
            Shard(
                number,
                step,
                [r.image_id for r in part],
                [(r.file, r.row) for r in part],
                [extras.get(r.image_id) for r in part] if rows is None else [],
                None if rows is None else [(r.file, r.row) for r in rows[start : start + size]],
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
    extras = shard.extras if shard.extra_positions is None else _read_extras(shard.extra_positions)
    return {
        "turn": packed["turn"],
        "shard": shard.name,
        "step": shard.step,
        "image_id": shard.ids,
        "extra": json.dumps(extras),
        "bytes": [image["bytes"] for image in images],
        "lost": [image["lost"] or "" for image in images],
    }


def _read_extras(positions: list[tuple[str, int]]) -> list[object]:
    """Rows `(file, row number)` of another step's tables."""
    parts = {file: tables.read(file) for file, _ in positions}
    return [parts[file].slice(row, 1).to_pylist()[0] for file, row in positions]
