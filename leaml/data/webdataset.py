"""WebDataset shards: tar files in which members of the same name up to the first dot are one sample.

`0001.jpg` (or another image) with an optional `0001.json`: an object with question and answer, a list of such objects, or
an object with such a list in `qa`. A sample with several images gives each of them the questions.
Shards are streamed, not unpacked.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from leaml import images
from leaml.config import SourceConfig
from leaml.data import files
from leaml.data.label_rows import parse
from leaml.data.records import MAX_IMAGE_BYTES, Keep, LabelRows, Record, need_path, refuse_split
from leaml.data.registry import reader
from leaml.data.values import shorten
from leaml.errors import DataError

_SHARDS = (".tar", ".tar.gz", ".tgz")


@reader("webdataset")
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of shards and members. Raises DataError naming the shard if one is torn."""
    refuse_split("webdataset", source.split)
    path = need_path("webdataset", source.path)
    for shard in [path] if files.is_file(path) else files.listing(path, _SHARDS):
        yield from _samples(shard, keep)


def _samples(shard: str, keep: Keep) -> Iterator[Record]:
    key: str | None = None
    pictures: list[Record] = []
    rows = LabelRows()
    for name, content in _members(shard, keep):
        folder, base = posixpath.split(name)
        found = posixpath.join(folder, base.partition(".")[0])
        if found != key:
            yield from (replace(picture, **rows.fields()) for picture in pictures)
            key, pictures, rows = found, [], LabelRows()
        if base.lower().endswith(".json"):
            rows = _rows(content, f"{shard}#{name}")
        else:
            error = content if isinstance(content, str) else None
            pictures.append(Record(f"{shard}#{name}", "webdataset", None, None if error else content, error=error))
    yield from (replace(picture, **rows.fields()) for picture in pictures)


def _members(shard: str, keep: Keep) -> Iterator[tuple[str, Any]]:
    """Name and content of the JSON members and of the wanted images; a text instead of bytes says why there are none."""
    with files.open_read(shard) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|*") as archive:
                for member in archive:
                    extension = posixpath.splitext(member.name)[1].lower()
                    is_image = extension in images.SUFFIXES and member.isfile()
                    if extension != ".json" and not (is_image and keep(f"{shard}#{member.name}")):
                        continue
                    if member.size > MAX_IMAGE_BYTES:
                        yield member.name, f"member of {member.size} bytes is over the limit of {MAX_IMAGE_BYTES}"
                        continue
                    file = archive.extractfile(member)
                    yield member.name, file.read() if file is not None else b""
        except (tarfile.TarError, EOFError, OSError) as error:
            msg = f"{shard} is not a whole tar archive: {error}; copy this shard again or remove it"
            raise DataError(msg) from None


def _rows(content: Any, where: str) -> LabelRows:
    try:
        found = json.loads(content)
    except ValueError as error:
        msg = f"{where} is not valid JSON: {error}; mend this member of the shard"
        raise DataError(msg) from None
    if isinstance(found, dict) and isinstance(found.get("qa"), list):
        found = found["qa"]
    entries = found if isinstance(found, list) else [found]
    if not all(isinstance(entry, dict) for entry in entries):
        msg = f"{where}: must be an object with question and answer, or a list of them, got {shorten(found)}"
        raise DataError(msg)
    rows = LabelRows()
    for number, entry in enumerate(entries):
        rows.add(parse(entry, where if len(entries) == 1 else f"{where}, entry {number}"))
    return rows
