"""Indexes of images tables, ids without the bytes, and a store of decoded images that are read by id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from leaml.config.limits import MAX_PIXELS
from leaml.data.image_ids import SortedIds
from leaml.data.image_table import ImageTable, StoredImage
from leaml.errors import DataError
from leaml.images import decode
from leaml.io import files


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one image's row is: an images table, and the row number in it."""

    image_id: str
    file: str
    row: int


_INDEX = pa.schema([("image_id", pa.string()), ("file", pa.dictionary(pa.int32(), pa.string())), ("row", pa.int32())])
_BATCH = 10_000


class ImageIndex(Sequence[ImageRef]):
    """Many `ImageRef`s in columns: about 45 bytes an image, where a list of them takes 200."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @classmethod
    def joined(cls, parts: Iterable[ImageIndex]) -> ImageIndex:
        """The images of all parts, in order."""
        return cls(pa.concat_tables([_INDEX.empty_table(), *(p._table for p in parts)]).unify_dictionaries())

    @property
    def columns(self) -> pa.Table:
        """Ids, folders of tables (`file`) and numbers of rows in them (`row`), in order."""
        return self._table

    @property
    def ids(self) -> pa.ChunkedArray:
        """The image ids, in order."""
        return self._table["image_id"]

    def only(self, ids: Iterable[str] | pa.ChunkedArray) -> ImageIndex:
        """The images whose id is in `ids`."""
        return ImageIndex(self._table.filter(self._among(ids)))

    def without(self, ids: Iterable[str] | pa.ChunkedArray) -> ImageIndex:
        """The images whose id is not in `ids`. Parts of the index that have none of them are not copied."""
        among, kept, start = self._among(ids), list[pa.RecordBatch](), 0
        for batch in self._table.to_batches():
            out = among.slice(start, batch.num_rows).combine_chunks()
            kept.append(batch.filter(pc.invert(out)) if pc.any(out).as_py() else batch)
            start += batch.num_rows
        return ImageIndex(pa.Table.from_batches(kept, self._table.schema))

    def take(self, positions: list[int] | pa.ChunkedArray) -> ImageIndex:
        """The images at these positions, in their order."""
        return ImageIndex(
            self._table.take(positions if isinstance(positions, pa.ChunkedArray) else pa.array(positions, pa.int64()))
        )

    def _among(self, ids: Iterable[str] | pa.ChunkedArray) -> pa.ChunkedArray:
        wanted = ids if isinstance(ids, pa.ChunkedArray) else pa.array(list(ids), pa.string())
        return pc.is_in(self.ids, value_set=wanted)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, position: int) -> ImageRef: ...
    @overload
    def __getitem__(self, position: slice) -> ImageIndex: ...
    def __getitem__(self, position: int | slice) -> ImageRef | ImageIndex:
        if isinstance(position, slice):
            start, stop, step = position.indices(len(self))
            if step != 1:
                return self.take(list(range(start, stop, step)))
            return ImageIndex(self._table.slice(start, max(0, stop - start)))
        return ImageRef(**self._table.slice(range(len(self))[position], 1).to_pylist()[0])

    def __iter__(self) -> Iterator[ImageRef]:
        for start in range(0, len(self), _BATCH):
            columns = [c.to_pylist() for c in self._table.slice(start, _BATCH).columns]
            yield from map(ImageRef, *columns)


def index(folder: str) -> ImageIndex:
    """Every image of the images table in `folder`, in order; reads ids only."""
    ids = ImageTable(folder).columns(["image_id"])["image_id"]
    tables_of = pa.repeat(folder, len(ids)).dictionary_encode()
    return ImageIndex(pa.table([ids, tables_of, pa.array(np.arange(len(ids), dtype=np.int32))], schema=_INDEX))


def rows_of(folder: str, ids: Iterable[str], columns: list[str]) -> dict[str, dict[str, Any]]:
    """These columns of the images with these ids in the images table in `folder`, by id."""
    table = ImageTable(folder).columns(list(dict.fromkeys(["image_id", *columns])))
    wanted = pa.array(sorted(ids), pa.string())
    return {row["image_id"]: row for row in table.filter(pc.is_in(table["image_id"], value_set=wanted)).to_pylist()}


def names(folder: str, ids: Iterable[str]) -> dict[str, str]:
    """What the images with these ids are called (their uri) in the images table in `folder`, by id."""
    return {image_id: str(row["uri"] or image_id) for image_id, row in rows_of(folder, ids, ["uri"]).items()}


def copies_file(folder: str) -> str:
    """Path of the table of further names of the images in `folder`, beside it; there only if there are some."""
    return f"{folder.rstrip('/')}-copies.parquet"


def copies(folder: str) -> Iterator[pa.Table]:
    """Further names of the images in the images table in `folder` (`image_id`, `uri`), a part at a time."""
    if files.exists(copies_file(folder)):
        with files.open_native(copies_file(folder)) as source:
            for batch in pq.ParquetFile(source).iter_batches():
                yield pa.Table.from_batches([batch])


def read_images(refs: Iterable[ImageRef]) -> dict[str, bytes]:
    """Encoded bytes of images by id, all those of a table at once. Raises DataError for one that is lost."""
    found = (image for folder, rows in _by_table(refs).items() for image in ImageTable(folder).read(rows))
    return {image["image_id"]: _held(image) for image in found}


def _by_table(refs: Iterable[ImageRef]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for ref in refs:
        rows.setdefault(ref.file, []).append(ref.row)
    return rows


def _held(image: StoredImage) -> bytes:
    if image["lost"] is not None:
        msg = f"image {image['image_id']}: {image['lost']}; put back what was ingested, or ingest again with data.copy=true"
        raise DataError(msg)
    return image["bytes"]


class _Places:
    """Where images are and how large they are, in columns: 48 bytes an image.

    Args:
        folders: Images tables.
        ids: The images that are meant; None: all.
    """

    def __init__(self, folders: list[str], ids: Iterable[str] | pa.ChunkedArray | None) -> None:
        opened = [ImageTable(folder) for folder in folders]
        if ids is None:
            ids = pa.chunked_array([c for t in opened for c in t.columns(["image_id"])["image_id"].chunks], pa.string())
        self.ids = SortedIds(ids)
        self.table = np.full(len(self.ids), -1, np.int16)
        self.row, self.width, self.height = (np.zeros(len(self.ids), np.int32) for _ in range(3))
        for number, table in enumerate(opened):
            self._fill(number, table)

    def _fill(self, number: int, table: ImageTable) -> None:
        start = 0
        for batch in table.batches(["image_id", "width", "height"], _BATCH):
            found = self.ids.positions(batch["image_id"].to_pylist())
            here = np.flatnonzero(found >= 0)
            self.table[found[here]], self.row[found[here]] = number, start + here
            for column, values in (("width", self.width), ("height", self.height)):
                values[found[here]] = batch[column].fill_null(0).to_numpy(zero_copy_only=False)[here]
            start += len(found)

    def __len__(self) -> int:
        return int((self.table >= 0).sum())

    def of(self, image_id: str) -> int | None:
        """Position of an image in the columns; None for one that is in no table."""
        (found,) = self.ids.positions([image_id])
        return int(found) if found >= 0 and self.table[found] >= 0 else None


class ImageStore:
    """Decoded images by id, over one or more images tables, with a bounded cache.

    Args:
        folders: Images tables.
        max_pixels: Decode limit.
        cache_pixels: Decoded pixels kept in memory, over all images.
        ids: The images that will be asked for; None: any. Positions of others are not kept.
    """

    def __init__(
        self,
        folders: list[str],
        max_pixels: int = MAX_PIXELS,
        cache_pixels: int = 100_000_000,
        ids: Iterable[str] | pa.ChunkedArray | None = None,
    ) -> None:
        self.folders, self.places = folders, _Places(folders, ids)
        self.max_pixels, self.cache_pixels = max_pixels, cache_pixels
        self.cached = 0
        self.cache: OrderedDict[str, Image.Image] = OrderedDict()
        self.tables: dict[str, ImageTable] = {}
        self.ahead: dict[str, StoredImage] = {}

    def __len__(self) -> int:
        """How many images it knows."""
        return len(self.places)

    def __getstate__(self) -> dict[str, object]:
        """What another process is given: nothing that was read or opened on the way."""
        return self.__dict__ | {"cached": 0, "cache": OrderedDict(), "tables": {}, "ahead": {}}

    def prefetch(self, ids: Collection[str]) -> None:
        """Read the encoded images with these ids at once, in place of those of the last call; unknown ids are left to `get`."""
        found = [self.places.of(image_id) for image_id in ids if image_id not in self.cache]
        self.ahead = {image["image_id"]: image for image in self._read([p for p in found if p is not None])}

    def get(self, image_id: str) -> Image.Image:
        """The image in RGB. Raises DataError for an unknown id."""
        if image_id in self.cache:
            self.cache.move_to_end(image_id)
            return self.cache[image_id]
        stored = self.ahead.pop(image_id, None) or self._read([self._place(image_id)])[0]
        image = decode(_held(stored), self.max_pixels)
        self.cache[image_id] = image
        self.cached += image.width * image.height
        while self.cached > self.cache_pixels and len(self.cache) > 1:
            _, old = self.cache.popitem(last=False)
            self.cached -= old.width * old.height
        return image

    def size(self, image_id: str) -> tuple[int, int]:
        """Width and height of an image, from the tables' columns. Raises DataError for an unknown id."""
        place = self._place(image_id)
        return int(self.places.width[place]), int(self.places.height[place])

    def _place(self, image_id: str) -> int:
        place = self.places.of(image_id)
        if place is None:
            msg = f"image {image_id} is in none of the {len(self)} ingested images; was the data changed after ingest?"
            raise DataError(msg)
        return place

    def _read(self, places: list[int]) -> list[StoredImage]:
        by_table: dict[str, list[int]] = {}
        for place in places:
            by_table.setdefault(self.folders[self.places.table[place]], []).append(int(self.places.row[place]))
        return [image for folder, rows in by_table.items() for image in self._table(folder).read(rows)]

    def _table(self, folder: str) -> ImageTable:
        if folder not in self.tables:
            self.tables[folder] = ImageTable(folder)
        return self.tables[folder]
