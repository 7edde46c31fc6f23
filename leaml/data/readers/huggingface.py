"""Hugging Face data sets: a hub id, a folder written by `save_to_disk`, or a folder that `load_dataset` understands.

Columns `image` (or `images`, lists of one), `question`, `answer` and optionally `question_type`, `options`, `source`, `img_id`
or `image_id`, or a chat (see `conversations`); rows with the same image id (without one, the same image) are about one image.
Kvasir-VQA is recognised by its columns and its question templates, see `kvasir`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import TypedDict

import datasets
import pyarrow as pa

from leaml.config import SourceConfig
from leaml.data import kvasir
from leaml.data.class_names import has_classes, named
from leaml.data.column_types import as_text, label_columns
from leaml.data.column_types import rows as rows_of
from leaml.data.embedded import decode
from leaml.data.image_groups import ImageGroups, ImageRows, content_of, single_image
from leaml.data.label_keys import IMAGE_KEYS
from leaml.data.metadata_files import MetadataRows
from leaml.data.readers.conversations import labels_of
from leaml.data.records import MAX_IMAGE_BYTES, SAVED, Keep, Record, counting_costs, hash_split, need_path
from leaml.data.tables import image_id
from leaml.errors import DataError
from leaml.io import files
from leaml.text.values import UnusableError, is_missing

_IDS = ("img_id", "image_id")
_BATCH = 32  # rows with images held at a time
_FOLDER, _CSV = "imagefolder", "csv"
"""What `datasets` calls its readers of folders of images, and of CSV and TSV files."""
_MADE_SPLITS = ("train", "test")


class EncodedImage(TypedDict, total=False):
    """An image as `datasets` gives it undecoded: its bytes, its path, or both."""

    bytes: bytes | None
    path: str | None


@counting_costs(sample=500)  # images are in the rows
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of the rows. Raises DataError naming the data set and what it lacks."""
    path = need_path("huggingface", source.path)
    with _local(path) as where:
        data, split = _open(path, where, source.split)
        data = _encoded_images(path, data)
        is_kvasir = _is_kvasir(data)
        shown = data.select_columns([name for name in (_image_column(data), "source") if name in data.column_names])
        shown = shown.with_format("arrow")
        for group in _grouped(path, where, data, is_kvasir):
            key = f"row-{group.number}" if group.key is None else group.key
            made = hash_split(key) if is_kvasir else split
            if is_kvasir and source.split in _MADE_SPLITS and split is None and made != source.split:
                continue
            uri = f"{path}#{key}"
            if keep(uri):
                yield _record(rows_of(shown[group.number])[0], uri, made, group)


def captions(path: str, column: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Row and caption of the rows of all splits that have the column; yields as `leaml.data.captions` wants it.

    Args:
        path: A folder, local or in S3.
        column: Column of the caption, and key of it in the rows that are yielded; their key `image` is the image's id, or the
            URI of its record where the data set holds names of images.

    Raises:
        DataError: As `read`.
    """
    with _local(path) as where:
        for split, data in _splits(path, where).items():
            if column not in data.column_names:
                continue
            identity = _identity(data)
            data = _encoded_images(path, data)
            columns = [_image_column(data), column, *([identity] if identity else [])]
            for number, row in _rows(data, columns):
                try:
                    held = _image(row)
                except UnusableError:  # the reader refuses it
                    continue
                image, _ = _encoded(held)
                key = row[identity] if identity and not is_missing(row[identity]) else _content(held, where)
                yield (
                    f"{path}, {split}, row {number}",
                    {"image": image_id(image) if image else f"{path}#{key}", column: row[column]},
                )


def _encoded_images(path: str, data: datasets.Dataset) -> datasets.Dataset:
    """The data set with its images as they are encoded. Raises DataError if it has none, or its texts may be others."""
    if data.info.builder_name == _CSV:
        reason = "datasets reads 7 where they say 007 and nothing where they say None"
        msg = f"{path} holds its rows in CSV or TSV files, and {reason}; set format: csv and path to that file"
        raise DataError(msg)
    if both := [name for name in IMAGE_KEYS if name in data.column_names][1:]:
        msg = f"{path}: the columns 'image' and {both[0]!r}: which one are the rows about? Remove the other (remove_columns)"
        raise DataError(msg)
    if not set(IMAGE_KEYS) & set(data.column_names):
        msg = f"{path}: no column 'image'; it has {data.column_names}"
        raise DataError(msg)
    column, image = _image_column(data), datasets.Image(decode=False)
    is_list = not isinstance(data.features[column], datasets.Image | datasets.Value | dict)
    try:
        return data.cast_column(column, datasets.List(image) if is_list else image)
    except (TypeError, ValueError, pa.ArrowException) as error:
        msg = f"{path}: column {column!r} is {data.features[column]}, not images: {error}; cast it to datasets.Image"
        raise DataError(msg) from None


def _image_column(data: datasets.Dataset) -> str:
    return next(name for name in IMAGE_KEYS if name in data.column_names)


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
    if not files.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:  # datasets maps its files into memory, so they must be local
        files.download_tree(path, folder)
        yield folder


def _splits(path: str, where: str) -> dict[str, datasets.Dataset]:
    saved = files.exists(where) and any(files.exists(files.join(where, name)) for name in SAVED)
    try:
        found = datasets.load_from_disk(where) if saved else datasets.load_dataset(where)
    except Exception as error:  # hub, network, builder and Arrow errors have no common base
        text = " ".join(str(error).split())[:300]
        msg = f"cannot load the data set {path!r}: {text}; give a hub id (and be online) or a folder of save_to_disk"
        raise DataError(msg) from None
    return found if isinstance(found, dict) else {str(found.split or "all"): found}


def _open(path: str, where: str, split: str | None) -> tuple[datasets.Dataset, str | None]:
    """The wanted split and its name; no name if it has to be made from the only one (Kvasir-VQA)."""
    splits = _splits(path, where)
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


def _grouped(path: str, where: str, data: datasets.Dataset, is_kvasir: bool) -> ImageGroups:
    """The rows by image; those of a folder of images as its metadata files have them."""
    written = MetadataRows(where) if data.info.builder_name == _FOLDER and files.exists(where) else None
    identity = _identity(data)
    column, said = _image_column(data), label_columns(data.features.arrow_schema)
    classes = {name: feature for name, feature in data.features.to_dict().items() if name in said and has_classes(feature)}
    groups = ImageGroups()
    said += [name for name in [identity] if name and name not in said]

    for number, row in _rows(data, [column, *said]):
        origin, keys = f"{path}, row {number}", data.column_names
        row |= {name: as_text(row[name]) for name in said}
        row |= {name: named(row[name], feature) for name, feature in classes.items()}

        image, content, error = None, None, ""
        try:
            image = _image(row)
            content = _content(image, where)
        except UnusableError as fault:
            error = f"{fault.reason}: {fault.detail}"
        del row[column]

        if written and (found := written.take((image or {}).get("path"), origin)):
            origin, cells = found
            keys = list(dict.fromkeys([*keys, *cells]))
            row = {name: cells.get(name) for name in keys if name != column}
        if is_kvasir:
            row.setdefault("question_type", kvasir.QUESTION_TYPES.get(str(row["question"]).strip()))

        key = None if identity is None or is_missing(row[identity]) else str(row[identity])
        rows = groups.unusable(number, origin, error) if error else groups.of(number, origin, key, identity, content)
        for made in labels_of(row, origin, keys):
            rows.add(made)
    return groups


def _identity(data: datasets.Dataset) -> str | None:
    """The column of the image's id."""
    return next((name for name in _IDS if name in data.column_names), None)


def _rows(data: datasets.Dataset, columns: list[str]) -> Iterator[tuple[int, dict[str, object]]]:
    batches = data.select_columns(columns).with_format("arrow").iter(_BATCH)
    return enumerate(row for batch in batches for row in rows_of(batch))


def _image(row: dict[str, object]) -> EncodedImage | None:
    """The image of a row. Raises UnusableError where it has several."""
    column = next(name for name in IMAGE_KEYS if name in row)
    image = single_image(row[column], column)
    return {"bytes": image.get("bytes"), "path": image.get("path")} if isinstance(image, dict) else None


def _content(image: EncodedImage | None, where: str) -> str | None:
    """What tells an image from others; its path is relative to the folder that was read, which may be a temporary copy."""
    data, path = _encoded(image)
    return content_of(data, path and path.removeprefix(files.absolute(where) + "/"))


def _encoded(image: EncodedImage | None) -> tuple[bytes | None, str | None]:
    """The bytes of an image, or else its path. Raises UnusableError if they are damaged base64."""
    data, path = (image or {}).get("bytes"), (image or {}).get("path") or None
    return data or (decode(path) if path else None), path


def _record(row: dict[str, object], uri: str, split: str | None, group: ImageRows) -> Record:
    data, path = (None, None) if group.error else _encoded(_image(row))
    error = group.error or (None if data or path else "the row has no image")
    made = Record(uri, str(row.get("source") or "huggingface"), split, None, error=error, **group.rows.fields())
    if error is not None:
        return made
    try:
        return replace(made, data=data or files.read_bytes(str(path), MAX_IMAGE_BYTES))
    except DataError as fault:
        return replace(made, error=str(fault))
