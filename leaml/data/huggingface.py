"""Hugging Face data sets: a hub id, a folder written by `save_to_disk`, or a folder that `load_dataset` understands.

Columns `image`, `question`, `answer` and optionally `question_type`, `options`, `source`, `img_id` or `image_id`; rows with
the same image id (else path, else bytes) are one image. Kvasir-VQA is recognised by its columns and its question
templates, see `kvasir`.
"""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import datasets
import pyarrow as pa

from leaml.config import SourceConfig
from leaml.data import delimited, files, kvasir
from leaml.data.embedded import decode
from leaml.data.label_keys import COLUMNS
from leaml.data.label_rows import parse
from leaml.data.records import Keep, LabelRows, Record, hash_split, need_path
from leaml.data.registry import reader
from leaml.errors import DataError
from leaml.tables import image_id

_IDS = ("img_id", "image_id")
_BATCH = 32  # rows with images held at a time
_MADE_SPLITS = ("train", "test")


@reader("huggingface")
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of the rows. Raises DataError naming the data set and what it lacks."""
    path = need_path("huggingface", source.path)
    with _local(path) as where:
        data, split = _open(path, where, source.split)
        if "image" not in data.column_names:
            msg = f"{path}: no column 'image'; it has {data.column_names}"
            raise DataError(msg)
        try:
            data = data.cast_column("image", datasets.Image(decode=False))
        except (TypeError, ValueError, pa.ArrowException) as error:
            msg = f"{path}: column 'image' is {data.features['image']}, not images: {error}; cast it to datasets.Image"
            raise DataError(msg) from None
        is_kvasir = _is_kvasir(data)
        texts = _csv_texts(where)
        for key, (first, rows) in _grouped(path, data, is_kvasir, texts).items():
            made = hash_split(key) if is_kvasir else split
            if is_kvasir and source.split in _MADE_SPLITS and split is None and made != source.split:
                continue
            uri = f"{path}#{key}"
            if keep(uri):
                yield _record(data[first], uri, made, rows)


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
    if not files.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:  # datasets maps its files into memory, so they must be local
        files.download_tree(path, folder)
        yield folder


def _open(path: str, where: str, split: str | None) -> tuple[datasets.Dataset, str | None]:
    """The wanted split and its name; no name if it has to be made from the only one (Kvasir-VQA)."""
    saved = files.exists(where) and any(
        files.exists(files.join(where, name)) for name in ("dataset_dict.json", "dataset_info.json", "state.json")
    )
    try:
        found = datasets.load_from_disk(where) if saved else datasets.load_dataset(where)
    except Exception as error:  # hub, network, builder and Arrow errors have no common base
        text = " ".join(str(error).split())[:300]
        msg = f"cannot load the data set {path!r}: {text}; give a hub id (and be online) or a folder of save_to_disk"
        raise DataError(msg) from None
    splits = found if isinstance(found, dict) else {str(found.split or "all"): found}
    names = list(splits)
    if split in splits:
        return splits[split], split
    if len(names) == 1:
        only = splits[names[0]]
        if split is None:
            return only, names[0]
        if split in _MADE_SPLITS and _is_kvasir(only):
            return only, None
    msg = f"{path}: split is {split!r}; it has {', '.join(names)}: set split to one of them"
    raise DataError(msg)


def _is_kvasir(data: datasets.Dataset) -> bool:
    return set(data.column_names) >= kvasir.COLUMNS and kvasir.recognises(data.column_names, data.unique("question"))


def _csv_texts(where: str) -> dict[str, deque[tuple[str, dict[str, str]]]]:
    """Rows of the metadata.csv files in a folder of images, by path of the image, in their order.

    `datasets` reads them with pandas, which takes the texts "None", "NA" and "null" for missing and 2 for 2.0 beside these.
    """
    found: dict[str, deque[tuple[str, dict[str, str]]]] = {}
    if not files.exists(where) or files.is_file(where):
        return found
    for uri in files.listing(where, ["metadata.csv"]):
        for place, cells in delimited.rows(uri, "file_name"):
            image = posixpath.join(posixpath.dirname(posixpath.abspath(uri)), cells["file_name"])
            found.setdefault(image, deque()).append((place, cells))
    return found


def _grouped(
    path: str, data: datasets.Dataset, is_kvasir: bool, texts: dict[str, deque[tuple[str, dict[str, str]]]]
) -> dict[str, tuple[int, LabelRows]]:
    """Image key -> first row and label rows. Reads images only where nothing else tells them apart."""
    identity = next((name for name in _IDS if name in data.column_names), "image")
    columns = list(dict.fromkeys([identity, *(["image"] if texts else []), *(n for n in COLUMNS if n in data.column_names)]))
    named = {name: _class_names(data.features[name]) for name in columns}
    groups: dict[str, tuple[int, LabelRows]] = {}
    batches = data.select_columns(columns).iter(_BATCH if "image" in columns else 1000)
    rows = (dict(zip(batch, row, strict=True)) for batch in batches for row in zip(*batch.values(), strict=True))
    for number, row in enumerate(rows):
        labels = groups.setdefault(_key(row[identity], number), (number, LabelRows()))[1]
        where = f"{path}, row {number}"
        row |= {name: names(row[name]) for name, names in named.items() if names is not None}
        if written := texts.get((row.get("image") or {}).get("path") or ""):
            where, cells = written.popleft()
            row |= {name: cells[name] or None for name in COLUMNS if name in cells}
        if is_kvasir:
            row.setdefault("question_type", kvasir.QUESTION_TYPES.get(str(row["question"]).strip()))
        labels.add(parse(row, where, data.column_names))
    return groups


def _class_names(feature: Any) -> Callable[[Any], Any] | None:
    """What turns the numbers of a column of classes into their names; None for another column."""
    if isinstance(feature, datasets.ClassLabel):
        names = feature.names
        return lambda value: names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.ClassLabel) and (one := _class_names(inner)):
        return lambda values: None if values is None else [one(value) for value in values]
    return None


def _key(identity: Any, number: int) -> str:
    if isinstance(identity, dict):
        identity = image_id(identity["bytes"]) if identity.get("bytes") else identity.get("path")
    return f"row-{number}" if identity is None else str(identity)


def _record(row: dict[str, Any], uri: str, split: str | None, rows: LabelRows) -> Record:
    name = str(row.get("source") or "huggingface")
    image = row["image"] or {}
    data = image.get("bytes") or decode(image.get("path") or "")
    if data is None and image.get("path"):
        try:
            data = files.read_bytes(image["path"])
        except DataError as error:
            return Record(uri, name, split, None, error=str(error), **rows.fields())
    return Record(uri, name, split, data, error=None if data is not None else "the row has no image", **rows.fields())
