"""Indexes of images tables, ids without the bytes, and a store of decoded images that are read by id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from leaml.config.limits import MAX_PIXELS
from leaml.data import tables
from leaml.data.image_table import ImageTable, StoredImage
from leaml.errors import DataError
from leaml.images import decode
from leaml.io import files


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one image's row is: an images table, or a Parquet file of a step's rows, and the row number in it."""

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
        return " and ".join([*found[:1], *([f"{len(found) - 1} more"] if len(found) > 1 else [])]) or "an empty table"

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
    return _index_of(folder, ImageTable(folder).columns(["image_id"])["image_id"])


def index_rows(folder: str) -> ImageIndex:
    """Every row of the Parquet files in `folder`, those of a step, in file order; reads ids only."""
    found = files.listing(folder, suffixes=(".parquet",))
    return ImageIndex.joined(_index_of(file, tables.read(file, columns=["image_id"])["image_id"]) for file in found)


def _index_of(file: str, ids: pa.ChunkedArray) -> ImageIndex:
    return ImageIndex(
        pa.table([ids, pa.repeat(file, len(ids)).dictionary_encode(), pa.array(range(len(ids)), pa.int32())], schema=_INDEX)
    )


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
        self.tables: dict[str, ImageTable] = {}
        self.ahead: dict[str, StoredImage] = {}

    def __getstate__(self) -> dict[str, object]:
        """What another process is given: nothing that was read or opened on the way."""
        return self.__dict__ | {"sizes": {}, "cached": 0, "cache": OrderedDict(), "tables": {}, "ahead": {}}

    def prefetch(self, ids: Collection[str]) -> None:
        """Read the encoded images with these ids at once, in place of those of the last call; unknown ids are left to `get`."""
        wanted = [self.refs[i] for i in ids if i in self.refs and i not in self.cache]
        self.ahead = {image["image_id"]: image for image in self._read(wanted)}

    def get(self, image_id: str) -> Image.Image:
        """The image in RGB. Raises DataError for an unknown id."""
        if image_id in self.cache:
            self.cache.move_to_end(image_id)
            return self.cache[image_id]
        if image_id not in self.refs:
            raise self._unknown(image_id)
        stored = self.ahead.pop(image_id, None) or self._read([self.refs[image_id]])[0]
        image = decode(_held(stored), self.max_pixels)
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
                found = self._table(file).columns(["image_id", "width", "height"])
                rows = zip(*(column.to_pylist() for column in found.columns), strict=True)
                self.sizes.update({image_id: (width, height) for image_id, width, height in rows if image_id in self.refs})
        if image_id not in self.sizes:
            raise self._unknown(image_id)
        return self.sizes[image_id]

    def _read(self, refs: list[ImageRef]) -> list[StoredImage]:
        return [image for folder, rows in _by_table(refs).items() for image in self._table(folder).read(rows)]

    def _table(self, folder: str) -> ImageTable:
        if folder not in self.tables:
            self.tables[folder] = ImageTable(folder)
        return self.tables[folder]

    def _unknown(self, image_id: str) -> DataError:
        msg = f"image {image_id} is in none of the {len(self.refs)} ingested images; was the data changed after ingest?"
        return DataError(msg)
