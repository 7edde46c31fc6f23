"""Parts of a source: some of its records, or some of its files, that are read, checked and written by themselves.

What is cut depends on the source alone, so that a part that was written before is found again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from leaml.config import SourceConfig
from leaml.data import image_table, registry
from leaml.data.records import Keep, Record, RefusedRow
from leaml.io.stored import StoredFile

PART_RECORDS = 2_000
"""Images of a part at most, but of files that hold many: what one process reads in about 10 s, and a killed ingest redoes."""


@dataclass(frozen=True)
class Part:
    """A part of a source: records, many of which are still to be read from their files, or files for the reader.

    Attributes:
        number: Its place in the source, from 0.
        wanted: Which images of its files.
        files: Files that hold many images each.
        records: In place of `files`: records, and label rows of no image.
        key: Tells what this part and all before it are made of.
        after: The `key` of the part before it, or nothing.
    """

    number: int
    wanted: Keep
    files: tuple[StoredFile, ...]
    records: tuple[Record | RefusedRow, ...]
    key: str
    after: str


@dataclass(frozen=True)
class PartReader:
    """Iterates over the parts of a source, in order, holding one at a time. Raises as `registry.records` does.

    Attributes:
        source: What to read.
        copy: Whether images are copied, so that their bytes bound a part.
        first: Read no more than so many images; None: all.
        records: Of a part, at most.
        wanted: The images that `source.limit` takes, where they are known; None: they are found out.
    """

    source: SourceConfig
    copy: bool = True
    first: int | None = None
    records: int = field(default_factory=lambda: PART_RECORDS)
    wanted: Keep | None = None

    def __iter__(self) -> Iterator[Part]:
        wanted = self.wanted or registry.keep(self.source)
        listed = registry.files_of(self.source) if self.first is None else None
        if listed is not None:
            found: Iterable[list[StoredFile | Record | RefusedRow]] = self._cut(listed)
        else:
            found = self._cut(_beginning(registry.records(self.source, wanted), self.first))

        key = ""
        for number, items in enumerate(found):
            names = "\n".join(item.where if isinstance(item, RefusedRow) else item.uri for item in items)
            after, key = key, hashlib.sha256(f"{key}\n{names}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
            files = tuple(item for item in items if isinstance(item, StoredFile))
            records = tuple(item for item in items if not isinstance(item, StoredFile))
            yield Part(number, wanted, files, records, key, after)

    def _cut(self, items: Iterable[StoredFile | Record | RefusedRow]) -> Iterator[list[StoredFile | Record | RefusedRow]]:
        part: list[StoredFile | Record | RefusedRow] = []
        size = 0
        for item in items:
            part.append(item)
            size += self._bytes(item)
            if size >= image_table.PART_BYTES or len(part) >= self.records:
                yield part
                part, size = [], 0
        if part:
            yield part

    def _bytes(self, item: StoredFile | Record | RefusedRow) -> int:
        """What an item adds to the bytes that are read for a part, as far as that is known; 0 where they are not kept."""
        if isinstance(item, StoredFile):
            return item.size
        if isinstance(item, RefusedRow):
            return 0
        if item.data is not None:
            return len(item.data)
        return item.version.size if item.version is not None and self.copy else 0


def _beginning(records: Iterable[Record | RefusedRow], first: int | None) -> Iterator[Record | RefusedRow]:
    """The items up to the record with the number `first`."""
    count = 0
    for item in records:
        yield item
        count += isinstance(item, Record)
        if count == first:
            return
