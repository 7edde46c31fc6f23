"""Parquet: LEAML's own tables, or a single file with images and questions.

A folder holds `images*.parquet` (or `images*/*.parquet`) and optionally `labeled*.parquet`, as in `leaml.tables`. A single
file has the image as `bytes`, as `image` (bytes, path, or Hugging Face's struct of both) or as `uri`, and may have question
and answer columns; several rows may be about one image. Text is held in memory, images never are.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from leaml.config import SourceConfig
from leaml.data import files
from leaml.data.embedded import decode
from leaml.data.label_keys import COLUMNS
from leaml.data.label_rows import parse
from leaml.data.records import Keep, LabelRows, Record, fetch, need_path
from leaml.data.registry import reader
from leaml.errors import DataError
from leaml.tables import IMAGES, LABELED, check, image_id

_BATCH = 32  # rows decoded at a time: encoded images of a few MB each
_SUFFIX = ".parquet"


@reader("parquet")
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of the rows. Raises DataError naming file and column."""
    path = need_path("parquet", source.path)
    if files.is_file(path):
        yield from fetch(_single(path, source, keep))
    else:
        yield from fetch(_contract(path, source, keep))


def _contract(path: str, source: SourceConfig, keep: Keep) -> Iterator[Record]:
    found = files.listing(path, [_SUFFIX])
    below = {uri: uri[len(path.rstrip("/")) + 1 :] for uri in found}
    images = [uri for uri in found if below[uri].startswith("images")]
    if not images:
        msg = f"{path} holds no images*.parquet; give a folder of LEAML tables, or the path of a single parquet file"
        raise DataError(msg)
    groups: dict[str, LabelRows] = {}
    for uri in (uri for uri in found if below[uri].startswith("labeled")):
        for batch in _batches(uri, None, 4096):
            for number, row in enumerate(check(pa.Table.from_batches([batch]), LABELED, uri).to_pylist()):
                where = row.pop("where") or f"{uri}, image {row['image_id']}, row {number}"
                known = {name: value for name, value in row.items() if value is not None}
                groups.setdefault(row["image_id"], LabelRows()).add(parse(known, where, LABELED.names))
    for uri in images:
        for batch in _batches(uri, None, _BATCH):
            for row in check(pa.Table.from_batches([batch]), IMAGES, uri).to_pylist():
                if source.split is not None and row["split"] != source.split:
                    continue
                name = row["uri"] or f"{uri}#{row['image_id']}"
                if keep(name):
                    rows = groups.get(row["image_id"]) or LabelRows()
                    where = source.images or path
                    yield _record(name, row["bytes"], row["source"] or "parquet", row["split"], rows, where)


def _single(path: str, source: SourceConfig, keep: Keep) -> Iterator[Record]:
    schema = _schema(path)
    names = schema.names
    if not {"bytes", "image", "uri"} & set(names):
        msg = f"{path}: no image column; it needs bytes, image or uri, and has {names}"
        raise DataError(msg)
    if source.split is not None and "split" not in names:
        msg = f"{path}: split is {source.split!r}, but the file has no column split; remove split from the config"
        raise DataError(msg)
    groups: dict[str, LabelRows] = {}
    classes = _class_names(schema)
    key_columns = [name for name in ("image_id", "uri") if name in names][:1] or ["bytes", "image"]
    for number, row in _rows(path, [*key_columns, *COLUMNS, "split"], names):
        if source.split is None or row["split"] == source.split:
            row |= {name: known.get(row[name]) for name, known in classes.items() if name in row}
            groups.setdefault(_key(row, number), LabelRows()).add(parse(row, f"{path}, row {number}", names))
    for number, row in _rows(path, ["image_id", "uri", "bytes", "image", "source", "split"], names):
        found = groups.pop(_key(row, number), None)  # None: not of this split, or the image came before
        if found is None:
            continue
        data, name = _image(row)
        uri = name or f"{path}#{row.get('image_id') or number}"
        if keep(uri):
            yield _record(
                uri,
                data,
                row.get("source") or "parquet",
                row.get("split"),
                found,
                source.images or posixpath.dirname(path) or ".",
            )


def _record(uri: str, data: bytes | None, source: str, split: str | None, rows: LabelRows, folder: str) -> Record:
    made = Record(uri, source, split, data, **rows.fields())
    if data is not None:
        return made
    if uri.rpartition("#")[0].endswith(_SUFFIX):  # named by us: there is nothing to read
        return replace(made, error="the row has no image")
    try:
        return replace(made, uri=files.resolve(folder, uri))
    except DataError as error:
        return replace(made, error=str(error))


def _class_names(schema: pa.Schema) -> dict[str, dict[Any, str]]:
    """Of columns of classes, as `datasets` writes them: number to name."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = (noted.get("info") or {}).get("features") or {}
    labels = {name: f["names"] for name, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    return {name: dict(enumerate(names)) for name, names in labels.items()}


def _image(row: dict[str, Any]) -> tuple[bytes | None, str | None]:
    """Bytes and name of the image, wherever the columns hold them."""
    data, name = row.get("bytes"), row.get("uri")
    image = row.get("image")
    if isinstance(image, dict):
        data, name = data or image.get("bytes"), name or image.get("path")
    elif isinstance(image, bytes):
        data = data or image
    elif isinstance(image, str):
        name = name or image
    if data is None and name is not None and (data := decode(name)) is not None:
        return data, None
    return data, name


def _key(row: dict[str, Any], number: int) -> str:
    """What tells the row's image from others; a row without one is no other row's image."""
    key = row.get("image_id") or row.get("uri")
    if key is not None:
        return str(key)
    data, name = _image(row)
    return image_id(data) if data else name or f"row {number}"


def _rows(path: str, columns: list[str], names: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    wanted = [name for name in dict.fromkeys(columns) if name in names]
    batches = _batches(path, wanted, _BATCH)
    return enumerate(row for batch in batches for row in batch.to_pylist())


def _batches(path: str, columns: list[str] | None, size: int) -> Iterator[pa.RecordBatch]:
    with files.open_native(path) as stream:
        try:
            yield from pq.ParquetFile(stream).iter_batches(size, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise DataError(_damaged(path, error)) from None


def _schema(path: str) -> pa.Schema:
    with files.open_native(path) as stream:
        try:
            return pq.read_schema(stream)
        except (pa.ArrowException, OSError) as error:
            raise DataError(_damaged(path, error)) from None


def _damaged(path: str, error: Exception) -> str:
    return f"{path} is not a whole Parquet file: {error}; write or copy it again"
