"""Finds the reader for a source's `format` and applies what holds for all of them.

A new format is one function, in a module of its own under `leaml.data` or anywhere that is imported before use:

    @reader("my_format")
    def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
        for uri in ...:
            if keep(uri):                     # before the image is loaded
                yield Record(uri, ...)
"""

from __future__ import annotations

import difflib
import hashlib
import heapq
import importlib
import itertools
from collections.abc import Callable, Iterator

from leaml.config import SourceConfig
from leaml.data.label_rows import checked
from leaml.data.records import Keep, Record
from leaml.errors import ConfigError, DataError
from leaml.images import SUFFIX_RULE

Reader = Callable[[SourceConfig, Keep], Iterator[Record]]

# Imported at first use: PyAV and datasets are slow to import
_NAMED_AS_FORMAT = ("conversations", "easy_vqa", "folder", "huggingface", "jsonl", "parquet", "sportu", "video", "webdataset")
_SHIPPED = {name: name for name in _NAMED_AS_FORMAT} | {"csv": "delimited"}
"""Format to the module under `leaml.data` that reads it."""
_READERS: dict[str, Reader] = {}


def reader(name: str) -> Callable[[Reader], Reader]:
    """Register a function as the reader of the format `name`."""

    def register(function: Reader) -> Reader:
        _READERS[name] = function
        return function

    return register


def read(source: SourceConfig) -> Iterator[Record]:
    """Stream the records of a source, one image at a time.

    With `source.limit` the images whose URI, relative to the source's path, has the smallest SHA-256 are taken: the same
    ones whatever the order of files and wherever the data set lies. That costs a first pass that loads no images.

    Raises:
        ConfigError: unknown format, or a field that the format needs is missing.
        DataError: the file or folder is missing, malformed or empty. A single unreadable image is a Record with `error`, a
            label row that cannot be used is among the `refused` of its image's record.
    """
    function = _find(source.format)
    keep: Keep = lambda _: True  # noqa: E731
    if source.limit is not None:
        keep = _smallest(function, source, source.limit).__contains__
    records = map(checked, function(source, keep))
    first = next(records, None)  # so that a missing file is an error here and not at the first use of the result
    if first is None:
        msg = f"format {source.format!r} found no images in {source.path or 'its package'}; check path, images and split"
        msg += f" ({SUFFIX_RULE})" if source.format == "folder" else ""
        raise DataError(msg)
    return itertools.chain([first], records)


def count(source: SourceConfig) -> int:
    """How many images `read` yields, loading none of them. Raises as `read` does."""
    names: set[str] = set()

    def collect(uri: str) -> bool:
        names.add(uri)
        return False

    for _ in _find(source.format)(source, collect):
        pass
    return len(names) if source.limit is None else min(len(names), source.limit)


def _find(name: str) -> Reader:
    if name not in _READERS and name in _SHIPPED:
        importlib.import_module(f"leaml.data.{_SHIPPED[name]}")
    if name not in _READERS:
        known = sorted({*_READERS, *_SHIPPED})
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        msg = f"unknown format {name!r}: {hint}known formats: {', '.join(known)}"
        raise ConfigError(msg)
    return _READERS[name]


def _smallest(function: Reader, source: SourceConfig, limit: int) -> set[str]:
    heap: list[tuple[int, str]] = []  # hashes negated: the largest one kept is on top
    members: set[str] = set()

    def collect(uri: str) -> bool:
        if uri not in members:
            entry = (-_rank(uri, source), uri)
            members.add(uri)
            if len(heap) < limit:
                heapq.heappush(heap, entry)
            else:
                members.discard(heapq.heappushpop(heap, entry)[1])
        return False

    for _ in function(source, collect):
        pass
    return members


def _rank(uri: str, source: SourceConfig) -> int:
    for base in (source.images, source.path):
        if base is not None:
            uri = uri.removeprefix(base.rstrip("/"))
    return int.from_bytes(hashlib.sha256(uri.encode("utf-8", "surrogateescape")).digest(), "big")
