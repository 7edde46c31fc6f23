"""Ready captions: a file that names images and says what they show.

JSON Lines (or a JSON list) of `{"image": "frame_0001.jpg", "caption": "A pink polyp."}`, a JSON object `{"frame_0001.jpg": "A
pink polyp."}`, CSV, TSV (see `delimited`) or Parquet with the same columns; Parquet may hold the image itself. `image` is a
file name, with as much of its path as tells it from others, or an image_id; `file_name`, `uri` and `image_id` are read in its
place.

Or the source of the images itself: a Parquet file or a folder of them, WebDataset shards (a key of the `.json`, else the `.txt`
beside the image), a folder of `datasets.save_to_disk`.
"""

from __future__ import annotations

import itertools
import posixpath
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leaml.data import delimited, json_text, tables
from leaml.data.image_ids import keys_of
from leaml.data.json_lines import lines
from leaml.data.label_keys import hint, suggested
from leaml.data.readers import webdataset
from leaml.data.records import SAVED
from leaml.errors import DataError
from leaml.io import files

NAMES = ("image", "file_name", "uri", "image_id")
"""Columns that may hold the image's name, the first that is there."""
_CAPTION = "caption"
_BATCH, _BATCH_OF_IMAGES = 10_000, 32
_ROWS = pa.schema([("name", pa.binary()), ("text", pa.binary())])
_ENCODING = ("utf-8", "surrogatepass")
"""Of names, which may be no Unicode."""
_FEW = 1 << 16
"""Captions in a batch of the file: to find one among many batches takes time."""


class Captions:
    """Captions by image name; `twice` counts further captions of a name, of which the first is kept.

    Names and texts are mapped from a temporary file: a caption takes 24 bytes of memory, whatever its length.
    """

    def __init__(self, uri: str, rows: Iterable[tuple[str, str]]) -> None:
        self.uri, self.twice = uri, 0
        self._rows, of_rows = _mapped(rows)
        order = np.argsort(of_rows, kind="stable")  # of rows of one name the first comes first
        self._keys, self._order = of_rows[order], order.astype(np.int32)
        self._user = np.zeros(len(order), np.uint64)
        self._further = np.zeros(len(order), bool)
        for place in np.flatnonzero(self._keys[1:] == self._keys[:-1]) + 1:
            row = int(self._order[place])
            name, text = self._row(row)
            first = self._find(name)
            if first is not None and first != row:
                self._further[row] = True
                self.twice += self._row(first)[1] != text

    def __len__(self) -> int:
        return int((~self._further).sum())

    def of(self, image_id: str, uri: str | None) -> str | None:
        """The caption of an image, None without one. Raises DataError when its name is that of another image, too."""
        path, (user,) = _normal(uri or ""), keys_of([image_id])
        for name in (image_id, *_endings(path), *_endings(_member(path))):
            row = self._find(name)
            if row is not None:
                if self._user[row] not in (0, user):
                    msg = f"{self.uri}: {name!r} is the name of several images, one of them {uri}; write more of the path"
                    raise DataError(msg)
                self._user[row] = user
                return self._row(row)[1]
        return None

    @property
    def unused(self) -> int:
        """How many names no image had."""
        return int(self._is_unused.sum())

    def first_unused(self, most: int) -> list[str]:
        """Some of the names that no image had, in the order of the file."""
        return [self._row(int(row))[0] for row in np.flatnonzero(self._is_unused)[:most]]

    @property
    def _is_unused(self) -> np.ndarray:
        return (self._user == 0) & ~self._further

    def _row(self, row: int) -> tuple[str, str]:
        found = self._rows.slice(row, 1)
        name, text = (found[column][0].as_py().decode(*_ENCODING) for column in _ROWS.names)
        return name, text

    def _find(self, name: str) -> int | None:
        """The first row of this name; None: there is none."""
        (key,) = keys_of([name])
        for place in range(int(np.searchsorted(self._keys, key)), len(self._keys)):
            if self._keys[place] != key:
                break
            row = int(self._order[place])
            if self._row(row)[0] == name:
                return row
        return None


def _bytes(text: str) -> bytes:
    return text.encode(*_ENCODING)


def _mapped(rows: Iterable[tuple[str, str]]) -> tuple[pa.Table, np.ndarray]:
    """The rows as a table that lies on the disk, in a file without a name, and the key of each name."""
    found, left = [keys_of([])], iter(rows)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "captions")
        with pa.OSFile(file, "wb") as stream, pa.ipc.new_file(stream, _ROWS) as writer:
            while batch := list(itertools.islice(left, _FEW)):
                names = [_normal(name) for name, _ in batch]
                found.append(keys_of(names))
                columns = [[_bytes(name) for name in names], [_bytes(text) for _, text in batch]]
                writer.write_batch(pa.record_batch([pa.array(column, pa.binary()) for column in columns], schema=_ROWS))
        return pa.ipc.open_file(pa.memory_map(file)).read_all(), np.concatenate(found)


def read(uri: str, column: str = "caption") -> Captions:
    """The captions of a file; empty ones count as none.

    Args:
        uri: JSON Lines, JSON, CSV, Parquet or a shard, by the name's ending; or a folder of Parquet, shards or a data set.
        column: Column, or key, of the caption.

    Raises:
        DataError: The file cannot be read, a row has no image or a caption that is no text, or no row has a caption.
    """
    columns: set[str] = set()
    found = Captions(uri, _texts(uri, column, columns))
    if not len(found):
        meant = [name for name in sorted(columns) if name == _CAPTION != column]
        meant += [name for name, _ in suggested(tuple(sorted(columns)), tuple({column, _CAPTION}))]
        such = f", such as {meant[0]!r}" if meant else ""
        msg = f"{uri} holds no caption in {column!r}; set caption.column to the column that does{such}"
        raise DataError(msg)
    return found


def _texts(uri: str, column: str, columns: set[str]) -> Iterator[tuple[str, str]]:
    """Name and caption of each row that has one; adds the names of the columns to `columns`."""
    for where, row in _rows(uri, column, columns):
        if not isinstance(row, dict):
            msg = f'{where}: not an object; write {{"image": ..., {column!r}: ...}}'
            raise DataError(msg)
        columns.update(map(str, row))
        name, text = next((row[key] for key in NAMES if row.get(key)), None), row.get(column)
        if not isinstance(name, str) or not (text is None or isinstance(text, str)):
            got = f"{str(name)[:80]!r} and {str(text)[:80]!r}"
            msg = f"{where}: needs the image's name in 'image' and text in {column!r}, got {got}"
            if not name and (meant := hint(suggested(tuple(map(str, row)), NAMES[:1])[:1])):
                msg += f"; {meant}"
            raise DataError(msg)
        if text and text.strip():
            yield name, text.strip()


def _rows(uri: str, column: str, columns: set[str]) -> Iterator[tuple[str, object]]:
    """`(file and line, row)`; adds the names of columns that are not read to `columns`."""
    ending = posixpath.splitext(uri)[1].lower()
    if not files.is_file(uri):
        yield from _folder(uri, column, columns)
    elif uri.lower().endswith(webdataset.SHARDS):
        yield from webdataset.captions(uri, column)
    elif ending == ".parquet":
        yield from _parquet(uri, column, columns)
    elif ending in (".csv", ".tsv"):
        yield from delimited.rows(uri, *NAMES)
    elif ending == ".json":
        try:
            yield from _json(uri, files.read_bytes(uri).decode("utf-8-sig"), column)
        except ValueError as error:
            msg = f"{uri} is no valid JSON in UTF-8: {error}"
            raise DataError(msg) from None
    else:
        yield from lines(uri)


def _folder(uri: str, column: str, columns: set[str]) -> Iterator[tuple[str, object]]:
    found = files.listing(uri)
    if any(files.join(uri.rstrip("/"), name) in found for name in SAVED):
        from leaml.data.readers import huggingface  # not above: datasets is slow to import

        yield from huggingface.captions(uri, column)
    elif any(name.lower().endswith(webdataset.SHARDS) for name in found):
        yield from webdataset.captions(uri, column)
    elif parts := [name for name in found if name.lower().endswith(".parquet")]:
        for part in parts:
            yield from _parquet(part, column, columns)
    else:
        msg = (
            f"{uri} is a folder without Parquet files, shards (.tar) or a data set of save_to_disk; give such a folder, or the "
            "file of the captions, such as its metadata.csv"
        )
        raise DataError(msg)


def _json(uri: str, text: str, column: str) -> Iterator[tuple[str, object]]:
    found = json_text.loads(text)
    if isinstance(found, dict):
        found = [{"image": name, column: caption} for name, caption in found.items()]
    for number, row in enumerate(found if isinstance(found, list) else [found]):
        yield f"{uri}, entry {number}", row


def _parquet(uri: str, column: str, columns: set[str]) -> Iterator[tuple[str, object]]:
    with files.open_native(uri) as stream:
        try:
            parquet = pq.ParquetFile(stream)
        except (OSError, ValueError) as error:
            msg = f"{uri} is not a whole Parquet file: {error}; write or copy it again"
            raise DataError(msg) from None
        names = [name for name in (*NAMES, "bytes", column) if name in parquet.schema_arrow.names]
        number = 0
        columns.update(parquet.schema_arrow.names)
        if column not in names:  # another table of the folder
            return
        size = _BATCH_OF_IMAGES if {"image", "bytes"} & set(names) else _BATCH
        for batch in parquet.iter_batches(size, columns=names):
            for row in batch.to_pylist():
                yield f"{uri}, row {number}", _named(row)
                number += 1


def _named(row: dict[str, object]) -> dict[str, object]:
    """A Parquet row whose image is named: by its content, where the row holds that (as bytes, or as Hugging Face's struct)."""
    image = row.get("image")
    data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, image)
    own = row.get("bytes") or data
    return row | {"bytes": None, "image": tables.image_id(own) if own and isinstance(own, bytes) else path}


def _normal(name: str) -> str:
    return name if "://" in name else posixpath.normpath(name) if name else ""


def _member(path: str) -> str:
    """The name in its shard of a member of one, "" of another file."""
    shard, _, name = path.rpartition("#")
    return name if shard.lower().endswith(webdataset.SHARDS) else ""


def _endings(path: str) -> Iterator[str]:
    """The path, then ever less of it, down to the file's name."""
    while path:
        yield path
        path = path.partition("/")[2].lstrip("/")
