"""WebDataset shards: tar files in which adjacent members of the same name up to the first dot of the file are one sample.

`0001.jpg` (or another image) with an optional `0001.json`: an object with question and answer, a list of such objects, an
object with such a list in `qa`, or with the `conversations` of LLaVA. A sample with several images gives each of them the
questions.
Shards are streamed, not unpacked. What macOS adds (`._0001.jpg`) and other hidden files are left out.
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from leaml import images
from leaml.config import SourceConfig
from leaml.data import files, json_text
from leaml.data.conversations import turns
from leaml.data.label_rows import parse
from leaml.data.records import MAX_IMAGE_BYTES, Keep, LabelRows, Record, RefusedRow, need_path, refuse_split
from leaml.data.registry import reader
from leaml.data.values import shorten
from leaml.errors import DataError

_SHARDS = (".tar", ".tar.gz", ".tgz")
_JUNK = "__MACOSX"


@dataclass
class _Sample:
    """Members of one name: images that are wanted, whether there are others, and the label rows of each JSON member."""

    name: str
    pictures: list[Record] = field(default_factory=list)
    has_image: bool = False
    labels: dict[str, LabelRows] = field(default_factory=dict)

    def rows(self) -> LabelRows:
        """The label rows of its images, or all of them refused where nobody can tell which are whose."""
        if len(self.labels) > 1:
            members = ", ".join(posixpath.basename(where) for where in self.labels)
            return self._refused(
                "several JSON members in one sample",
                f"{members}; a sample's name ends at the first dot of the file, so take the dots out of the names",
            )
        if not self.has_image:
            return self._refused("sample without an image", f"no image is beside it under the name {self.name!r}")
        return next(iter(self.labels.values()), LabelRows())

    def _refused(self, reason: str, detail: str) -> LabelRows:
        refused = []
        for where, rows in self.labels.items():
            refused += rows.refused + [RefusedRow(where, reason, detail)] * len(rows.questions)
        return LabelRows([], refused)


@reader("webdataset")
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of shards and members; rows of no image come with the record behind or before them.

    Raises:
        DataError: A shard is torn, the members of a sample are not adjacent, or there are label rows and no image.
    """
    refuse_split("webdataset", source.split)
    path = need_path("webdataset", source.path)
    held: Record | None = None
    loose: list[RefusedRow] = []
    for shard in [path] if files.is_file(path) else files.listing(path, _SHARDS):
        for sample in _samples(shard, keep):
            rows = sample.rows()
            if not sample.pictures and not sample.has_image:
                loose += rows.refused
            for picture in sample.pictures:
                if held is not None:
                    yield held
                held = replace(picture, questions=tuple(rows.questions), refused=(*rows.refused, *loose))
                rows.refused, loose = [], []
    if held is not None:
        yield replace(held, refused=(*held.refused, *loose))
    elif loose:
        msg = f"{len(loose)} label rows and none has an image; the first is {loose[0]}; correct the shard"
        raise DataError(msg)


def _samples(shard: str, keep: Keep) -> Iterator[_Sample]:
    """The samples of a shard. Raises DataError where one goes on behind another one."""
    sample: _Sample | None = None
    ended: set[bytes] = set()
    for name, content in _members(shard, keep):
        folder, base = posixpath.split(name)
        found = posixpath.join(folder, base.partition(".")[0])
        if sample is None or found != sample.name:
            if sample is not None:
                yield sample
                ended.add(_digest(sample.name))
            if _digest(found) in ended:
                msg = (
                    f"{shard}: the members of the sample {found!r} are apart ({name!r} comes behind another sample), so that "
                    "labels would be lost; write the shard again in the order of names (tar --sort=name)"
                )
                raise DataError(msg)
            sample = _Sample(found)
        where = f"{shard}#{name}"
        if base.lower().endswith(".json"):
            sample.labels[where] = _rows(content, where)
            continue
        sample.has_image = True
        if content is not None:
            error = content if isinstance(content, str) else None
            sample.pictures.append(Record(where, "webdataset", None, None if error else content, error=error))
    if sample is not None:
        yield sample


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:16]


def _members(shard: str, keep: Keep) -> Iterator[tuple[str, Any]]:
    """Name and content of JSON members and images: None for an image that is not wanted, a text that says why it has none."""
    with files.open_read(shard) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|*") as archive:
                for member in archive:
                    parts = member.name.removeprefix("./").split("/")
                    extension = posixpath.splitext(member.name)[1].lower()
                    known = extension == ".json" or extension in images.SUFFIXES
                    if not (known and member.isfile()) or _JUNK in parts or any(part.startswith(".") for part in parts):
                        continue
                    if extension != ".json" and not keep(f"{shard}#{member.name}"):
                        yield member.name, None
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
        found = json_text.loads(content)
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
        at = where if len(entries) == 1 else f"{where}, entry {number}"
        chat = "conversations" in entry or "messages" in entry
        for row in turns(entry, at) if chat else [parse(entry, at)]:
            rows.add(row)
    return rows
