"""Images tables: Lance datasets of `tables.IMAGES` with random access to single rows, columns read apart from the bytes.

A row holds the encoded bytes, or says where they are: the file at its URI, or a range of the file `file`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

from leaml.data import tables
from leaml.errors import DataError
from leaml.io import files, lance_tables, s3

PART_BYTES = 128 << 20
"""Bytes of images from which on rows are written as a fragment: memory of the writer, and requests of whoever reads all ids."""
PART_IMAGES = 20_000
"""The same as a number of rows, for small images and those that are not copied."""


class _Where(TypedDict):
    """The columns of a row that say where its image is."""

    image_id: str
    uri: str
    bytes: bytes | None
    file: str | None
    offset: int | None
    length: int | None


class StoredImage(TypedDict):
    """An image of a table: its encoded bytes, empty where `lost` says why there are none any more."""

    image_id: str
    uri: str
    bytes: bytes
    lost: str | None


class ImageTable(lance_tables.Table):
    """An images table."""

    def read(self, rows: list[int]) -> list[StoredImage]:
        """The images in these rows, in this order: ask for many at once.

        Images that are not copied are read from their files, `s3.PARALLEL` at a time, and must have the bytes that were
        ingested.

        Raises:
            DataError: The table or a file that exists cannot be read.
        """
        found: list[_Where] = self.take(rows, list(_Where.__annotations__)).to_pylist()
        if all(row["bytes"] is not None for row in found):
            return [_read(row) for row in found]
        with ThreadPoolExecutor(s3.PARALLEL) as pool:
            return list(pool.map(_read, found))


def _read(row: _Where) -> StoredImage:
    """The image of a row, from its source where it is not in the table."""
    if row["bytes"] is not None:
        return _stored(row, row["bytes"])
    file = row["file"] or row["uri"]
    try:
        data = files.read_bytes(file, offset=row["offset"] or 0, length=row["length"])
    except DataError:
        if files.exists(file):
            raise
        return _stored(row, b"", f"gone since ingest: {file}")
    if tables.image_id(data) != row["image_id"]:
        return _stored(row, b"", f"changed since ingest: {row['uri']}")
    return _stored(row, data)


def _stored(row: _Where, data: bytes, lost: str | None = None) -> StoredImage:
    return {"image_id": row["image_id"], "uri": row["uri"], "bytes": data, "lost": lost}


class FragmentWriter:
    """Writes rows of an images table, a fragment of some rows at a time; they belong to no table until they are committed.

    Args:
        folder: Of the table.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._rows: list[Mapping[str, object]] = []
        self._fragments: list[str] = []
        self._bytes = 0

    def add(self, row: Mapping[str, object]) -> None:
        """Add a row of `tables.IMAGES`; missing keys become null."""
        self._rows.append(row)
        self._bytes += len(row.get("bytes") or b"")  # type: ignore[arg-type]
        if self._bytes >= PART_BYTES or len(self._rows) >= PART_IMAGES:
            self._flush()

    def close(self) -> list[str]:
        """Write what is left; returns the fragments as `lance_tables.commit` wants them."""
        self._flush()
        return self._fragments

    def _flush(self) -> None:
        if self._rows:
            self._fragments.append(lance_tables.write_fragment(self.folder, tables.table(self._rows, tables.IMAGES)))
            self._rows, self._bytes = [], 0


def write(folder: str, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as the images table in `folder`; a table that lies there, or what was left of one, is removed before."""
    lance_tables.remove(folder)
    writer = FragmentWriter(folder)
    for row in rows:
        writer.add(row)
    lance_tables.commit(folder, tables.IMAGES, writer.close())
