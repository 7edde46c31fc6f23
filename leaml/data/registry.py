"""Finds the reader for a source's `format` and applies what holds for all of them.

A new format is one module with the name of the format, in leaml/data/readers or in another package that names its function in
the entry point group `leaml.readers` (docs/how-to/reader.md):

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
import pkgutil
from collections.abc import Iterator

from leaml.config import SourceConfig
from leaml.data import readers
from leaml.data.label_rows import checked
from leaml.data.records import CountingCost, Keep, Reader, Record
from leaml.errors import ConfigError, DataError
from leaml.images import SUFFIX_RULE
from leaml.plugins import Plugins

PLUGINS = Plugins("leaml.readers", "reader")


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


def formats() -> list[str]:
    """Names of all formats that can be read."""
    return sorted({module.name for module in pkgutil.iter_modules(readers.__path__)} | set(PLUGINS.names))


def counting(name: str) -> CountingCost:
    """What it costs to count a source of this format. Raises ConfigError for an unknown one."""
    found: CountingCost = getattr(_find(name), "counting", CountingCost())
    return found


def _find(name: str) -> Reader:
    known = formats()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        msg = f"unknown format {name!r}: {hint}known formats: {', '.join(known)}"
        raise ConfigError(msg)
    if theirs := PLUGINS.function(name):
        return theirs
    # imported at first use: PyAV and datasets are slow to import
    shipped: Reader = importlib.import_module(f"{readers.__name__}.{name}").read
    return shipped


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
