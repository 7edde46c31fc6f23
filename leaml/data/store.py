"""Random access to images tables: an index of ids without the bytes, and single images read by row group."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from leaml import tables
from leaml.data import files
from leaml.errors import DataError
from leaml.images import decode


@dataclass(frozen=True)
class ImageRef:
    """Where one image's row is: file of an images table and row number in it."""

    image_id: str
    file: str
    row: int


def index(folder: str) -> list[ImageRef]:
    """Every image of the images table in `folder`, in file order; reads ids only."""
    refs = []
    for file in files.listing(folder, suffixes=(".parquet",)):
        ids = tables.read(file, columns=["image_id"])["image_id"].to_pylist()
        refs += [ImageRef(image_id, file, row) for row, image_id in enumerate(ids)]
    return refs


def read_rows(file: str, rows: list[int]) -> list[dict[str, Any]]:
    """The rows `image_id, uri, bytes` with these numbers, reading only the row groups that hold them."""
    wanted, first = sorted(set(rows)), 0
    found: dict[int, dict[str, Any]] = {}
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
    """

    def __init__(self, folders: list[str], max_pixels: int = 25_000_000, cache_pixels: int = 100_000_000) -> None:
        self.refs = {ref.image_id: ref for folder in folders for ref in index(folder)}
        self.max_pixels, self.cache_pixels = max_pixels, cache_pixels
        self.cached = 0
        self.cache: OrderedDict[str, Image.Image] = OrderedDict()

    def get(self, image_id: str) -> Image.Image:
        """The image in RGB. Raises DataError for an unknown id."""
        if image_id in self.cache:
            self.cache.move_to_end(image_id)
            return self.cache[image_id]
        if image_id not in self.refs:
            msg = f"image {image_id} is in none of the {len(self.refs)} ingested images; was the data changed after ingest?"
            raise DataError(msg)
        ref = self.refs[image_id]
        image = decode(read_rows(ref.file, [ref.row])[0]["bytes"], self.max_pixels)
        self.cache[image_id] = image
        self.cached += image.width * image.height
        while self.cached > self.cache_pixels and len(self.cache) > 1:
            _, old = self.cache.popitem(last=False)
            self.cached -= old.width * old.height
        return image
