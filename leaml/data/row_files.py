"""Files of rows that name images, JSON Lines and CSV alike: rows of one image are put together, the images are not loaded."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping

from leaml.config import SourceConfig
from leaml.data.embedded import Embedded
from leaml.data.label_keys import IMAGE_KEYS, doubled, hint, suggested
from leaml.data.label_rows import DOUBLED, parse
from leaml.data.records import Keep, LabelRows, Record, RefusedRow, by_image
from leaml.errors import DataError
from leaml.io import files
from leaml.text.values import is_missing, shorten

SEVERAL = "several images"
"""Reason of a row that names more than one."""


def records(path: str, rows: Iterable[tuple[str, object]], source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of first mention; image paths are relative to `images` or the file's folder.

    Args:
        path: The file.
        rows: File with line, and value, of each row.
        source: What is read.
        keep: Which images are wanted.

    Raises:
        DataError: There is no row, none has the wanted split, or none names an image.
    """
    groups: dict[str, LabelRows] = {}
    loose: list[RefusedRow] = []
    splits: set[str] = set()
    embedded = Embedded(path)

    for where, row in rows:
        split = row.get("split") if isinstance(row, Mapping) else None
        splits.add(str(split))
        if source.split is not None and split != source.split:
            continue
        if not isinstance(row, Mapping):
            loose.append(imageless(row, where))
            continue
        image = image_name(row, where)
        if isinstance(image, str):
            groups.setdefault(embedded.name(image), LabelRows(where=where)).add(parse(row, where))
        else:
            loose.append(image or imageless(row, where))

    if not splits:
        below = " below its line of column names" if source.format == "csv" else ""
        msg = f"{path} holds no row{below}; write one for each image"
        raise DataError(msg)
    if source.split is not None and source.split not in splits:
        msg = f"{path}: no line has split {source.split!r}, only {', '.join(sorted(splits))}; correct or remove split"
        raise DataError(msg)

    folder = source.images or posixpath.dirname(path) or "."
    yield from by_image(groups, folder, source.format, source.split, keep, embedded, loose)


def image_name(row: object, where: str) -> str | RefusedRow | None:
    """The image that a row names in `image` or `images` (a text, or a list of one), why it has no usable one, or None."""
    if not isinstance(row, Mapping):
        return None
    named = [_single(row[key]) for key in IMAGE_KEYS if not is_missing(row.get(key))]
    if not named:
        return None
    image = named[0]
    if pair := doubled(map(str, row), IMAGE_KEYS):
        return RefusedRow(where, DOUBLED, f"keys {pair[0]!r} and {pair[1]!r}; remove one")
    if image != named[-1]:
        return RefusedRow(where, SEVERAL, f"'image' is {shorten(image)} and 'images' {shorten(named[-1])}; remove one")
    if isinstance(image, str) and image.strip():
        fault = files.no_path(image)
        return RefusedRow(where, "no image", f"the image {shorten(image)} {fault}") if fault else image
    if isinstance(image, list | tuple):
        return RefusedRow(where, SEVERAL, f"{len(image)} images; write a row for each of them, not {shorten(image)}")
    return RefusedRow(where, "no image", f"the image is {shorten(image)}, not a path")


def _single(image: object) -> object:
    """What a list of one holds, and the path of an image that is an object."""
    while isinstance(image, list | tuple) and len(image) == 1:
        image = image[0]
    if isinstance(image, Mapping):  # as in messages of OpenAI's form, and in tables of `datasets`
        named = [image[key] for key in ("path", "url", "image") if isinstance(image.get(key), str)]
        image = named if len(set(named)) > 1 else next(iter(named), image)
    return image


def imageless(row: object, where: str) -> RefusedRow:
    """The refusal of a row that names no image, with the key that seems to."""
    if not isinstance(row, Mapping):
        return RefusedRow(where, "no image", f"not an object with the key 'image', but {shorten(row)}")
    meant = hint(suggested(tuple(map(str, row)), IMAGE_KEYS[:1])[:1])
    detail = "each row must have the path of an image in the key 'image'"
    return RefusedRow(where, "no image", f"{detail}; {meant}" if meant else detail)
