"""Random access to images tables: an index of ids without the bytes, and single images read by row group."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from leaml.config.limits import MAX_PIXELS
from leaml.data import tables
from leaml.errors import DataError
from leaml.images import decode
from leaml.io import files


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one image's row is: file of an images table and row number in it."""

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
    def ids(self) -> pa.ChunkedArray:
        """The image ids, in order."""
        return self._table["image_id"]

    def only(self, ids: Iterable[str]) -> ImageIndex:
        """The images whose id is in `ids`."""
        return ImageIndex(self._table.filter(self._among(ids)))

    def without(self, ids: Iterable[str]) -> ImageIndex:
        """The images whose id is not in `ids`."""
        return ImageIndex(self._table.filter(pc.invert(self._among(ids))))

    def take(self, positions: list[int] | pa.ChunkedArray) -> ImageIndex:
        """The images at these positions, in their order."""
        return ImageIndex(
            self._table.take(positions if isinstance(positions, pa.ChunkedArray) else pa.array(positions, pa.int64()))
        )

    def with_ids(self, ids: pa.ChunkedArray) -> ImageIndex:
        """The images with these ids, in their order. Raises DataError naming an id that is not here."""
        positions = pc.index_in(ids, value_set=self.ids)
        if positions.null_count:
            missing = ids.filter(pc.is_null(positions))
            msg = f"{len(missing)} images are missing in {self._files()}, the first is {missing[0].as_py()}"
            raise DataError(msg)
        return self.take(positions)

    def _among(self, ids: Iterable[str]) -> pa.ChunkedArray:
        wanted = ids if isinstance(ids, pa.ChunkedArray) else pa.array(list(ids), pa.string())
        return pc.is_in(self.ids, value_set=wanted)

    def _files(self) -> str:
        found = pc.unique(self._table["file"]).to_pylist()
        return f"{found[0]} and {len(found) - 1} more files" if found else "an empty table"

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
    """Every image of the images table in `folder`, in file order; reads ids only."""
    parts = []
    for file in files.listing(folder, suffixes=(".parquet",)):
        ids = tables.read(file, columns=["image_id"])["image_id"]
        columns = [ids, pa.repeat(file, len(ids)).dictionary_encode(), pa.array(range(len(ids)), pa.int32())]
        parts.append(ImageIndex(pa.table(columns, schema=_INDEX)))
    return ImageIndex.joined(parts)


def names(folder: str, ids: Iterable[str]) -> dict[str, str]:
    """What the images with these ids are called (their uri) in the images table in `folder`, by id."""
    found: dict[str, str] = {}
    wanted = pa.array(sorted(ids), pa.string())
    for file in files.listing(folder, suffixes=(".parquet",)):
        table = tables.read(file, columns=["image_id", "uri"])
        for row in table.filter(pc.is_in(table["image_id"], value_set=wanted)).to_pylist():
            found[row["image_id"]] = row["uri"] or row["image_id"]
    return found


def copies_file(folder: str) -> str:
    """Path of the table of further names of the images in `folder`, beside it; there only if there are some."""
    return f"{folder.rstrip('/')}-copies.parquet"


def copies(folder: str) -> Iterator[pa.Table]:
    """Further names of the images in the images table in `folder` (`image_id`, `uri`), a part at a time."""
    if files.exists(copies_file(folder)):
        with files.open_native(copies_file(folder)) as source:
            for batch in pq.ParquetFile(source).iter_batches():
                yield pa.Table.from_batches([batch])


class StoredImage(TypedDict):
    """The columns of an images table that make an image."""

    image_id: str
    uri: str
    bytes: bytes


def read_rows(file: str, rows: list[int]) -> list[StoredImage]:
    """The rows `image_id, uri, bytes` with these numbers, reading only the row groups that hold them."""
    wanted, first = sorted(set(rows)), 0
    found: dict[int, StoredImage] = {}
    with files.open_native(file) as source:
        parquet = pq.ParquetFile(source)
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            inside = [r for r in wanted if first <= r < first + size]
            if inside:
                table = parquet.read_row_group(group, columns=["image_id", "uri", "bytes"])
                for row, record in zip(inside, table.take([r - first for r in inside]).to_pylist(), strict=True):
                    if record["bytes"] is None:
                        record["bytes"] = files.read_bytes(record["uri"])
                    found[row] = record
            first += size
    return [found[r] for r in rows]


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
        ids: Iterable[str] | None = None,
    ) -> None:
        found = ImageIndex.joined(index(folder) for folder in folders)
        self.refs = {ref.image_id: ref for ref in (found if ids is None else found.only(ids))}
        self.sizes: dict[str, tuple[int, int]] = {}
        self.max_pixels, self.cache_pixels = max_pixels, cache_pixels
        self.cached = 0
        self.cache: OrderedDict[str, Image.Image] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        """What another process is given: nothing that was read on the way."""
        return self.__dict__ | {"sizes": {}, "cached": 0, "cache": OrderedDict()}

    def get(self, image_id: str) -> Image.Image:
        """The image in RGB. Raises DataError for an unknown id."""
        if image_id in self.cache:
            self.cache.move_to_end(image_id)
            return self.cache[image_id]
        if image_id not in self.refs:
            raise self._unknown(image_id)
        ref = self.refs[image_id]
        image = decode(read_rows(ref.file, [ref.row])[0]["bytes"], self.max_pixels)
        self.cache[image_id] = image
        self.cached += image.width * image.height
        while self.cached > self.cache_pixels and len(self.cache) > 1:
            _, old = self.cache.popitem(last=False)
            self.cached -= old.width * old.height
        return image

    def size(self, image_id: str) -> tuple[int, int]:
        """Width and height of an image, from the tables' columns. Raises DataError for an unknown id."""
        if not self.sizes:
            for file in sorted({ref.file for ref in self.refs.values()}):
                found = tables.read(file, columns=["image_id", "width", "height"])
                rows = zip(*(column.to_pylist() for column in found.columns), strict=True)
                self.sizes.update({image_id: (width, height) for image_id, width, height in rows if image_id in self.refs})
        if image_id not in self.sizes:
            raise self._unknown(image_id)
        return self.sizes[image_id]

    def _unknown(self, image_id: str) -> DataError:
        msg = f"image {image_id} is in none of the {len(self.refs)} ingested images; was the data changed after ingest?"
        return DataError(msg)
