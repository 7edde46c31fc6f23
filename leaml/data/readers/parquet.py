"""Parquet: LEAML's own tables, or a single file with images and questions.

A folder holds the images table `images` of an ingest, or `images*.parquet` (or `images*/*.parquet`), and optionally
`labeled*.parquet`, as in `leaml.data.tables`. A single file has the image as `bytes`, as `image` or `images` (bytes, path,
Hugging Face's struct of both, or a list of one) or as `uri`, and may have question and answer columns. A row whose columns hold
different images is in quarantine. Rows are about one image where they have the same `image_id`, else the same `uri`, else the
same image.
Text is held in memory, images never are.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from leaml.config import SourceConfig
from leaml.data import json_text
from leaml.data.class_names import has_classes, named
from leaml.data.column_types import as_text, label_columns
from leaml.data.column_types import rows as rows_of
from leaml.data.embedded import decode, holds_image
from leaml.data.image_groups import ImageGroups, ImageRows, content_of, single_image
from leaml.data.label_keys import COLUMNS, IMAGE_KEYS, doubled
from leaml.data.label_rows import parse
from leaml.data.readers.conversations import labels_of
from leaml.data.records import Keep, LabelRows, Portion, Record, RefusedRow, in_portions, need_path
from leaml.data.row_files import SEVERAL
from leaml.data.row_ranges import RowRange, row_ranges, schema_of, whole
from leaml.data.tables import IMAGES, LABELED, ImageRow, check
from leaml.errors import DataError
from leaml.io import files, lance_tables
from leaml.text.values import UnusableError, is_missing, shorten

_REQUIRED = ("image_id", "question", "answer")
"""Columns of `labeled*.parquet`."""
_BATCH = 32  # rows decoded at a time: encoded images of a few MB each
_SUFFIX = ".parquet"
_SHOWN = 200
"""Characters of the names of splits in a message."""
_IMAGE = ("image_id", "uri", "bytes", *IMAGE_KEYS)
"""Columns that tell images apart."""


@in_portions
def read(source: SourceConfig, keep: Keep) -> Iterator[Portion]:
    """Row groups by themselves: one record per image, in the order of the rows. Raises DataError naming file and column."""
    path = need_path("parquet", source.path)
    yield from _single(path, source) if files.is_file(path) else _contract(path, source, keep)


def _contract(path: str, source: SourceConfig, keep: Keep) -> Iterator[Portion]:
    found = files.listing(path, [_SUFFIX])
    below = {uri: uri[len(path.rstrip("/")) + 1 :] for uri in found}
    own = files.join(path, "images")
    images = [own] if lance_tables.is_table(own) else [uri for uri in found if below[uri].startswith("images")]
    if not images:
        msg = f"{path} holds no images*.parquet; give a folder of LEAML tables, or the path of a single parquet file"
        raise DataError(msg)

    labels = _labels(uri for uri in found if below[uri].startswith("labeled"))
    loose = _without_their_image(labels, images, path, source.split)
    where = source.images or path
    splits: set[str] = set()

    for rows in row_ranges(images):
        held: dict[int, LabelRows] = {}
        wanted = False
        for number, row in _range_rows(rows, ["image_id", "uri", "split"], 4096):
            splits.add(str(row["split"]))
            if source.split in (None, row["split"]) and keep(_uri(rows.file, row)):
                wanted = True
                if labeled := labels.pop(row["image_id"], None):
                    held[number] = labeled
        if wanted:
            read_rows = functools.partial(_contract_records, rows, held, tuple(loose), where, source.split)
            yield rows.portion(read_rows, held, loose)
            loose = []
    _check_split(path, source.split, splits)


def _contract_records(
    rows: RowRange, labels: dict[int, LabelRows], loose: tuple[RefusedRow, ...], where: str, split: str | None, keep: Keep
) -> Iterator[Record | RefusedRow]:
    """The records of some rows; `labels` by number of the row, and `loose` ones that belong to none."""
    yield from loose
    for number, row in _range_rows(rows, None, _BATCH):
        if split in (None, row["split"]) and keep(uri := _uri(rows.file, row)):
            labeled = labels.get(number, LabelRows())
            made = Record(uri, row["source"] or "parquet", row["split"], row["bytes"], **labeled.fields())
            yield _located(made, row["uri"], where)


def _uri(file: str, row: ImageRow) -> str:
    return row["uri"] or f"{file}#{row['image_id']}"


def _check_split(path: str, split: str | None, found: set[str]) -> None:
    """Raise DataError if no row has the wanted split."""
    if split is not None and found and split not in found:
        msg = f"{path}: no row has split {split!r}, only {', '.join(sorted(found))[:_SHOWN]}; correct or remove split"
        raise DataError(msg)


def _labels(uris: Iterable[str]) -> dict[str, LabelRows]:
    """Image id to its label rows, of which the values are those of their columns' types, as in a single file."""
    labels: dict[str, LabelRows] = {}
    ids = pa.schema([LABELED.field("image_id")])
    for uri in uris:
        schema, number = schema_of(uri), 0
        check(schema.empty_table(), pa.schema([LABELED.field(name) for name in _REQUIRED]), uri)
        for batch in whole(uri).batches(label_columns(schema), 4096):
            found = check(pa.Table.from_batches([batch.select(["image_id"])]), ids, uri)["image_id"].to_pylist()
            for image_id, row in zip(found, rows_of(batch), strict=True):
                known = {name: as_text(value) for name, value in row.items() if name != "where"}
                where = row.get("where")
                labels.setdefault(image_id, LabelRows()).add(parse(known, str(where) if where else f"{uri}, row {number}"))
                number += 1
    return labels


def _without_their_image(labels: dict[str, LabelRows], images: list[str], path: str, split: str | None) -> list[RefusedRow]:
    """Takes out of `labels` those whose id is that of no image, or of several; returns them as refused rows."""
    rows_of: dict[str, list[str]] = {name: [] for name in labels}
    elsewhere: set[str] = set()
    for where, row in _image_rows(images, ["image_id", "split"], 4096) if labels else ():
        if row["image_id"] in rows_of:
            if split is None or row["split"] == split:
                rows_of[row["image_id"]].append(where)
            else:
                elsewhere.add(row["image_id"])

    loose: list[RefusedRow] = []
    several = _with_several_images({name for name, at in rows_of.items() if len(at) > 1}, images, split)

    for name, at in rows_of.items():
        if not at:
            fault = ("no image", f"no row of images*.parquet in {path} has the image_id {name!r}")
        elif name in several:
            fault = ("several images under one image_id", f"{' and '.join(several[name])} have different ones under {name!r}")
        else:
            continue

        rows = labels.pop(name)
        if at or name not in elsewhere:  # those of another split are no rows of this source
            loose += rows.refused
            loose += [RefusedRow(question.where or path, *fault) for question in rows.questions]
    return loose


def _with_several_images(names: set[str], images: list[str], split: str | None) -> dict[str, list[str]]:
    """Those of the ids under which there are different images, with two rows of them."""
    first: dict[str, tuple[str, str | None]] = {}
    found: dict[str, list[str]] = {}
    for where, row in _image_rows(images, ["image_id", "split", "bytes", "uri"], _BATCH) if names else ():
        if row["image_id"] in names and (split is None or row["split"] == split):
            content = content_of(row["bytes"], row["uri"])
            origin, other = first.setdefault(row["image_id"], (where, content))
            if content != other:
                found.setdefault(row["image_id"], [origin, where])
    return found


def _image_rows(uris: Iterable[str], columns: list[str] | None, size: int) -> Iterator[tuple[str, ImageRow]]:
    """`(file and row, row)` of tables of images; columns that are not wanted are null."""
    for rows in row_ranges(uris):
        for number, row in _range_rows(rows, columns, size):
            yield f"{rows.file}, row {number}", row


def _range_rows(rows: RowRange, columns: list[str] | None, size: int) -> Iterator[tuple[int, Any]]:
    """`(number, row)` of some rows of a table of images."""
    batches = (check(pa.Table.from_batches([batch]), IMAGES, rows.file) for batch in rows.batches(columns, size))
    return enumerate((row for batch in batches for row in batch.to_pylist()), rows.first)


def _single(path: str, source: SourceConfig) -> Iterator[Portion]:
    schema = schema_of(path)
    names = schema.names
    if pair := doubled(names, (*_IMAGE, *COLUMNS, "split", "source")):
        msg = f"{path}: the columns {pair[0]!r} and {pair[1]!r} have one name; rename or remove one of them"
        raise DataError(msg)
    if not {"bytes", "uri", *IMAGE_KEYS} & set(names):
        msg = f"{path}: no image column; it needs bytes, image or uri, and has {names}"
        raise DataError(msg)
    if source.split is not None and "split" not in names:
        msg = f"{path}: split is {source.split!r}, but the file has no column split; remove split from the config"
        raise DataError(msg)

    classes = _classes(path, schema)
    found = {group.number: group for group in _grouped(path, source.split, schema, classes)}
    folder = source.images or posixpath.dirname(path) or "."
    for rows in row_ranges([path]):
        held = {number: found.pop(number) for number in rows.numbers if number in found}
        if held:
            yield rows.portion(functools.partial(_single_records, rows, held, names, classes, folder))


def _single_records(
    rows: RowRange, groups: dict[int, ImageRows], names: list[str], classes: dict[str, object], folder: str, keep: Keep
) -> Iterator[Record]:
    """The records of some rows of a single file; `groups` by number of the row that holds their image."""
    for number, row in _rows(rows, [*_IMAGE, "source", "split"], names, classes):
        group = groups.get(number)
        if group is None:
            continue
        data, name = (None, None) if group.error else _image(row)
        uri = name or f"{rows.file}#{number if is_missing(row.get('image_id')) else row['image_id']}"
        uri = f"{rows.file}, row {number}" if group.error else uri
        if keep(uri):
            made = Record(uri, str(row.get("source") or "parquet"), _split(row), data, **group.rows.fields())
            yield replace(made, data=None, error=group.error) if group.error else _located(made, name, folder)


def _grouped(path: str, split: str | None, schema: pa.Schema, classes: dict[str, object]) -> ImageGroups:
    """The rows of the wanted split by image. Raises DataError if there is none."""
    groups = ImageGroups()
    splits: set[str] = set()
    names = schema.names
    for number, row in _rows(whole(path), [*_IMAGE, *label_columns(schema)], names, classes):
        splits.add(str(_split(row)))
        if split is None or _split(row) == split:
            where = f"{path}, row {number}"
            try:
                rows = groups.of(number, where, *_identity(row), _content(row))
            except UnusableError as error:
                rows = groups.unusable(number, where, f"{error.reason}: {error.detail}")
            said = {name: value for name, value in row.items() if name not in ("bytes", *IMAGE_KEYS)}
            for made in labels_of(said, where, names):
                rows.add(made)
    _check_split(path, split, splits)
    return groups


def _split(row: dict[str, object]) -> str | None:
    return None if is_missing(row.get("split")) else str(row["split"])


def _located(record: Record, name: str | None, folder: str) -> Record:
    """A record without data with the address of its image, `name` in the folder, or with what is wrong with that."""
    if record.data is not None:
        return record
    if name is None:
        return replace(record, error="the row has no image")
    try:
        return replace(record, uri=files.resolve(folder, name))
    except DataError as error:
        return replace(record, error=str(error))


def _classes(path: str, schema: pa.Schema) -> dict[str, object]:
    """The features of columns with classes, as `datasets` writes them. Raises DataError."""
    noted = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        info = _object(json_text.loads(noted)).get("info", {})
        features = _object(_object(info).get("features") or {})
        return {column: feature for column, feature in features.items() if has_classes(feature)}
    except (ValueError, TypeError, LookupError):
        held = f"its metadata 'huggingface' is {shorten(noted)}, not JSON with an object of features in 'info'"
        fix = "write the file again with datasets, or without this metadata if it has no classes"
        msg = f"{path}: the names of its classes cannot be read: {held}; {fix}"
        raise DataError(msg) from None


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        msg = f"not an object: {shorten(value)}"
        raise TypeError(msg)
    return value


def _image(row: dict[str, object]) -> tuple[bytes | None, str | None]:
    """Bytes and name of the image, wherever the columns hold them. Raises UnusableError for several or damaged ones."""
    found: list[bytes] = []
    names: list[str] = []
    own: list[str] = []  # paths of structs beside their bytes, which nothing is read from
    for value in (row.get("bytes"), row.get("uri"), *(single_image(row.get(key), key) for key in IMAGE_KEYS)):
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
        parts = (data, path) if isinstance(value, dict) else (value,)
        for part in parts:
            embedded = decode(part) if isinstance(part, str) else part if isinstance(part, bytes) else None
            if embedded is not None:
                found += [embedded] if embedded and embedded not in found else []
            elif not is_missing(part) and not isinstance(part, list | dict):
                (own if data else names).append(str(part))
    names = names or own[:1]
    distinct = {posixpath.basename(name) if found else posixpath.normpath(name) for name in names}
    if len(found) > 1 or len(distinct) > 1:
        shown = f"{len(found)} images" if len(found) > 1 else shorten(names)
        raise UnusableError(SEVERAL, f"its columns hold {shown}; leave the one that the row is about")
    return next(iter(found), None), next(iter(names), None)


def _identity(row: dict[str, object]) -> tuple[str | None, str | None]:
    """Id of the row's image and the column that it is from; a row without one has none."""
    name = next((name for name in ("image_id", "uri") if not is_missing(row.get(name))), None)
    if name is None or (name == "uri" and holds_image(str(row[name]))):
        return None, None
    return str(row[name]), name


def _content(row: dict[str, object]) -> str | None:
    data, name = _image(row)
    return content_of(data, None if is_missing(row.get("image_id")) and name == row.get("uri") else name)


def _rows(
    rows: RowRange, columns: list[str], names: list[str], classes: dict[str, object]
) -> Iterator[tuple[int, dict[str, object]]]:
    """The rows with their numbers, classes by name."""
    wanted = [name for name in dict.fromkeys(columns) if name in names]
    known = {name: classes[name] for name in wanted if name in classes}
    texts = [name for name in wanted if name not in ("bytes", *IMAGE_KEYS)]
    read_rows = (row for batch in rows.batches(wanted, _BATCH) for row in rows_of(batch))
    read_rows = (row | {name: as_text(row[name]) for name in texts} for row in read_rows)
    made = (row | {name: named(row[name], feature) for name, feature in known.items()} for row in read_rows)
    return enumerate(made, rows.first)
