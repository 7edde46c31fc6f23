"""Finds the reader for a source's `format` and applies what holds for all of them.

A new format is one module with the name of the format, in leaml/data/readers or in another package that names its function in
the entry point group `leaml.readers` (docs/how-to/reader.md):

    def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
        for uri in ...:
            if keep(uri):
                yield Record(uri, ...)        # without its bytes: they are read in parallel with others
"""

from __future__ import annotations

import difflib
import hashlib
import heapq
import importlib
import itertools
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from leaml.config import SourceConfig
from leaml.data import readers
from leaml.data.label_rows import checked
from leaml.data.records import CountingCost, Keep, ListPortions, Portion, Reader, Record, RefusedRow, fetch
from leaml.errors import ConfigError, DataError
from leaml.images import SUFFIX_RULE
from leaml.plugins import Plugins

PLUGINS = Plugins("leaml.readers", "reader")


def read(source: SourceConfig) -> Iterator[Record]:
    """Stream the records of a source with their images, one at a time; rows that belong to no image come with the next one.

    With `source.limit` the images whose URI, relative to the source's path, has the smallest SHA-256 are taken: the same
    ones whatever the order of files and wherever the data set lies. That costs a first pass that loads no images.

    Raises:
        ConfigError: unknown format, or a field that the format needs is missing.
        DataError: the file or folder is missing, malformed or empty. A single unreadable image is a Record with `error`, a
            label row that cannot be used is among the `refused` of its image's record.
    """
    found = _with_loose_rows(source, fetch(records(source, keep(source))))
    first = next(found)  # so that a missing file is an error here and not at the first use of the result
    return itertools.chain([first], found)


def records(source: SourceConfig, wanted: Keep) -> Iterator[Record | RefusedRow]:
    """What the reader yields of a source, as it does: many images are still to be read.

    Args:
        source: What to read.
        wanted: Which images, such as those of `keep`.

    Raises:
        ConfigError: As `read`.
        DataError: As `read`, but for an empty source.
    """
    yield from map(_checked, _find(source.format)(source, wanted))


def portions(source: SourceConfig, wanted: Keep) -> Iterator[Portion] | None:
    """The parts of a source that can be read apart from each other, in order; None: the reader knows none.

    Args:
        source: What to read.
        wanted: Which images, such as those of `keep`.
    """
    listed: ListPortions | None = getattr(_find(source.format), "portions", None)
    return None if listed is None else listed(source, wanted)


def records_of(portion: Portion, wanted: Keep) -> Iterator[Record | RefusedRow]:
    """`records` of a portion. Raises as that does."""
    yield from map(_checked, portion.read(wanted))


def _checked(found: Record | RefusedRow) -> Record | RefusedRow:
    return checked(found) if isinstance(found, Record) else found


def keep(source: SourceConfig) -> Keep:
    """The images that `source.limit` takes; finding them out costs a pass through the source. Raises as `records` does."""
    return _All() if source.limit is None else _smallest(_find(source.format), source, source.limit)


def nothing_found(source: SourceConfig, loose: Sequence[RefusedRow] = ()) -> DataError:
    """The error of a source without images; `loose` are rows that belong to none."""
    where = source.path or "its package"
    if loose:
        msg = (
            f"{where} holds no image, but {len(loose)} label rows or other members; the first is {loose[0]}; correct the source"
        )
        return DataError(msg)
    msg = f"format {source.format!r} found no images in {where}; check path, images and split"
    return DataError(msg + (f" ({SUFFIX_RULE})" if source.format == "folder" else ""))


def _with_loose_rows(source: SourceConfig, found: Iterable[Record | RefusedRow]) -> Iterator[Record]:
    """The records, with them the rows that belong to none. Raises DataError where there is no record."""
    held: Record | None = None
    loose: list[RefusedRow] = []
    for each in found:
        if isinstance(each, RefusedRow):
            loose.append(each)
            continue
        if held is not None:
            yield held
        held, loose = replace(each, refused=(*each.refused, *loose)), []
    if held is None:
        raise nothing_found(source, loose)
    yield replace(held, refused=(*held.refused, *loose))


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


@dataclass(frozen=True)
class _All:
    """Takes every image."""

    def __call__(self, uri: str) -> bool:
        return True


@dataclass(frozen=True)
class _Smallest:
    """Takes the images of a source whose hash is not above a limit."""

    source: SourceConfig
    limit: int

    def __call__(self, uri: str) -> bool:
        return _rank(uri, self.source) <= self.limit


def _smallest(function: Reader, source: SourceConfig, limit: int) -> Keep:
    heap: list[int] = []  # hashes negated: the largest one kept is on top
    members: set[int] = set()

    def collect(uri: str) -> bool:
        rank = _rank(uri, source)
        if rank not in members:
            members.add(rank)
            if len(heap) < limit:
                heapq.heappush(heap, -rank)
            else:
                members.discard(-heapq.heappushpop(heap, -rank))
        return False

    for _ in function(source, collect):
        pass
    return _Smallest(source, -heap[0] if heap else 0)


def _rank(uri: str, source: SourceConfig) -> int:
    for base in (source.images, source.path):
        if base is not None:
            uri = uri.removeprefix(base.rstrip("/"))
    return int.from_bytes(hashlib.sha256(uri.encode("utf-8", "surrogateescape")).digest(), "big")
