"""Ranges of rows of tables in files, Parquet and Lance, that are read apart from each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from leaml.data import image_table
from leaml.data.image_table import ImageTable
from leaml.data.records import Keep, Portion, Record, RefusedRow
from leaml.errors import DataError
from leaml.io import files, lance_tables, stored

_LANCE_ROWS = 2_000
"""Rows of a range of an images table."""


@dataclass(frozen=True)
class RowRange:
    """Rows of a table.

    Attributes:
        file: A Parquet file, or the folder of an images table.
        first: Number of the first row.
        count: How many they are; None: all, from the first on.
        groups: Row groups of a Parquet file that hold them; None: all.
        size: Their bytes, about.
        version: Of the file, see `leaml.io.stored`.
    """

    file: str
    first: int = 0
    count: int | None = None
    groups: tuple[int, ...] | None = None
    size: int = 0
    version: str = ""

    @property
    def numbers(self) -> range:
        """Numbers of the rows, if they are counted."""
        return range(self.first, self.first + (self.count or 0))

    def batches(self, columns: list[str] | None, size: int) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most `size` at a time; only these columns, None: all. Raises DataError."""
        if _is_lance(self.file):
            yield from ImageTable(self.file).batches(columns, size, self.first, self.count)
            return
        with files.open_native(self.file) as stream:
            try:
                yield from pq.ParquetFile(stream).iter_batches(size, row_groups=self.groups, columns=columns)
            except (pa.ArrowException, OSError) as error:
                raise DataError(_damaged(self.file, error)) from None

    def portion(self, read: Callable[[Keep], Iterator[Record | RefusedRow]], *more: object) -> Portion:
        """These rows as a portion of a source; `more` is what else the records are made of."""
        digest = hashlib.sha256(repr((self, more)).encode("utf-8", "surrogatepass")).hexdigest()
        return Portion(f"{self.file}, rows from {self.first} on", self.size, digest, read)


def whole(file: str) -> RowRange:
    """All rows of a table."""
    return RowRange(file)


def row_ranges(uris: Iterable[str]) -> Iterator[RowRange]:
    """The rows of tables in order: some row groups at a time, together of `image_table.PART_BYTES` or one. Raises DataError."""
    for uri in uris:
        yield from _of_lance(uri) if _is_lance(uri) else _of_parquet(uri)


def schema_of(file: str) -> pa.Schema:
    """Schema of a Parquet file. Raises DataError."""
    with files.open_native(file) as stream:
        try:
            return pq.read_schema(stream)
        except (pa.ArrowException, OSError) as error:
            raise DataError(_damaged(file, error)) from None


def _of_lance(folder: str) -> Iterator[RowRange]:
    total, version = len(ImageTable(folder)), lance_tables.version(folder)
    for first in range(0, total, _LANCE_ROWS):
        yield RowRange(folder, first, min(_LANCE_ROWS, total - first), version=version)


def _of_parquet(file: str) -> Iterator[RowRange]:
    with files.open_native(file) as stream:
        try:
            metadata = pq.ParquetFile(stream).metadata
        except (pa.ArrowException, OSError) as error:
            raise DataError(_damaged(file, error)) from None

    version = stored.version(file)
    first, count, size = 0, 0, 0
    groups: list[int] = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        groups, count, size = [*groups, number], count + group.num_rows, size + group.total_byte_size
        if size >= image_table.PART_BYTES:
            yield RowRange(file, first, count, tuple(groups), size, version)
            first, count, size, groups = first + count, 0, 0, []
    if groups:
        yield RowRange(file, first, count, tuple(groups), size, version)


def _is_lance(file: str) -> bool:
    return not file.lower().endswith(".parquet") and lance_tables.is_table(file)


def _damaged(path: str, error: Exception) -> str:
    return f"{path} is not a whole Parquet file: {error}; write or copy it again"
