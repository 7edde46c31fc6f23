"""Parts of a source: some of its records, or some of its portions, that are read, checked and written by themselves.

What is cut depends on the source alone, so that a part that was written before is found again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from leaml.config import SourceConfig
from leaml.data import image_table, registry
from leaml.data.records import Keep, Portion, Record, RefusedRow

PART_RECORDS = 2_000
"""Images of a part at most, but of portions: what one process reads in about 10 s, and a killed ingest redoes."""
_Item = Portion | Record | RefusedRow


@dataclass(frozen=True)
class Part:
    """A part of a source: records, many of which are still to be read from their files, or portions.

    Attributes:
        number: Its place in the source, from 0.
        wanted: Which images of its portions.
        portions: What the reader reads by itself.
        records: In place of `portions`: records, and label rows of no image.
        key: Tells what this part and all before it are made of.
        after: The `key` of the part before it, or nothing.
    """

    number: int
    wanted: Keep
    portions: tuple[Portion, ...]
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
        items: Iterable[_Item] | None = registry.portions(self.source, wanted) if self.first is None else None
        if items is None:
            items = _beginning(registry.records(self.source, wanted), self.first)

        key = ""
        for number, held in enumerate(self._cut(items)):
            names = "\n".join(map(_name, held))
            after, key = key, hashlib.sha256(f"{key}\n{names}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
            portions = tuple(item for item in held if isinstance(item, Portion))
            records = tuple(item for item in held if not isinstance(item, Portion))
            yield Part(number, wanted, portions, records, key, after)

    def _cut(self, items: Iterable[_Item]) -> Iterator[list[_Item]]:
        part: list[_Item] = []
        size = 0
        for item in items:
            part.append(item)
            size += self._bytes(item)
            if size >= image_table.PART_BYTES or len(part) >= self.records:
                yield part
                part, size = [], 0
        if part:
            yield part

    def _bytes(self, item: _Item) -> int:
        """What an item adds to the bytes that are read for a part, as far as that is known; 0 where they are not kept."""
        if isinstance(item, Portion):
            return item.size
        if isinstance(item, RefusedRow):
            return 0
        if item.data is not None:
            return len(item.data)
        return item.version.size if item.version is not None and self.copy else 0


def _name(item: _Item) -> str:
    if isinstance(item, Portion):
        return item.name
    return item.where if isinstance(item, RefusedRow) else item.uri


def _beginning(records: Iterable[Record | RefusedRow], first: int | None) -> Iterator[Record | RefusedRow]:
    """The items up to the record with the number `first`."""
    count = 0
    for item in records:
        yield item
        count += isinstance(item, Record)
        if count == first:
            return
