"""Parquet: LEAML's own tables, or a single file with images and questions.

A folder holds `images*.parquet` (or `images*/*.parquet`) and optionally `labeled*.parquet`, as in `leaml.tables`. A single
file has the image as `bytes`, as `image` (bytes, path, or Hugging Face's struct of both) or as `uri`, and may have question
and answer columns; several rows may be about one image. Text is held in memory, images never are.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from leaml.config import SourceConfig
from leaml.data import files
from leaml.data.records import Keep, Question, Record, fetch, need_path, parse_question
from leaml.data.registry import reader
from leaml.errors import DataError
from leaml.tables import IMAGES, LABELED, check, image_id

_BATCH = 32  # rows decoded at a time: encoded images of a few MB each
_TEXT = ("question", "answer", "question_type", "options")


@reader("parquet")
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of the rows. Raises DataError naming file and column."""
    path = need_path("parquet", source.path)
    if files.is_file(path):
        yield from fetch(_single(path, source, keep))
    else:
        yield from fetch(_contract(path, source, keep))


def _contract(path: str, source: SourceConfig, keep: Keep) -> Iterator[Record]:
    found = files.listing(path, [".parquet"])
    below = {uri: uri[len(path.rstrip("/")) + 1 :] for uri in found}
    images = [uri for uri in found if below[uri].startswith("images")]
    if not images:
        msg = f"{path} holds no images*.parquet; give a folder of LEAML tables, or the path of a single parquet file"
        raise DataError(msg)
    groups: dict[str, list[Question]] = {}
    for uri in (uri for uri in found if below[uri].startswith("labeled")):
        for batch in _batches(uri, None, 4096):
            for number, row in enumerate(check(pa.Table.from_batches([batch]), LABELED, uri).to_pylist()):
                question = parse_question(row, f"{uri}, image {row['image_id']}, row {number}")
                if question is not None:
                    groups.setdefault(row["image_id"], []).append(question)
    for uri in images:
        for batch in _batches(uri, None, _BATCH):
            for row in check(pa.Table.from_batches([batch]), IMAGES, uri).to_pylist():
                if source.split is not None and row["split"] != source.split:
                    continue
                name = row["uri"] or f"{uri}#{row['image_id']}"
                if keep(name):
                    questions = tuple(groups.get(row["image_id"], ()))
                    where = source.images or path
                    yield _record(name, row["bytes"], row["source"] or "parquet", row["split"], questions, where)


def _single(path: str, source: SourceConfig, keep: Keep) -> Iterator[Record]:
    names = _schema(path).names
    if not {"bytes", "image", "uri"} & set(names):
        msg = f"{path}: no image column; it needs bytes, image or uri, and has {names}"
        raise DataError(msg)
    if source.split is not None and "split" not in names:
        msg = f"{path}: split is {source.split!r}, but the file has no column split; remove split from the config"
        raise DataError(msg)
    groups: dict[str, list[Question]] = {}
    key_columns = [name for name in ("image_id", "uri") if name in names][:1] or ["bytes", "image"]
    for number, row in _rows(path, [*key_columns, *_TEXT, "split"], names):
        if source.split is None or row["split"] == source.split:
            questions = groups.setdefault(_key(row), [])
            question = parse_question(row, f"{path}, row {number}")
            if question is not None:
                questions.append(question)
    for number, row in _rows(path, ["image_id", "uri", "bytes", "image", "source", "split"], names):
        found = groups.pop(_key(row), None)  # None: not of this split, or the image came before
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
                tuple(found),
                source.images or posixpath.dirname(path) or ".",
            )


def _record(
    uri: str, data: bytes | None, source: str, split: str | None, questions: tuple[Question, ...], folder: str
) -> Record:
    if data is not None:
        return Record(uri, source, split, data, questions)
    try:
        return Record(files.resolve(folder, uri), source, split, None, questions)
    except DataError as error:
        return Record(uri, source, split, None, questions, str(error))


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
    return data, name


def _key(row: dict[str, Any]) -> str:
    key = row.get("image_id") or row.get("uri")
    if key is not None:
        return str(key)
    data, name = _image(row)
    return image_id(data) if data else str(name)


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
