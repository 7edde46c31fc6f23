"""Examples of a training, and the file that holds them.

The file is mapped into memory: a worker holds the rows that it draws and no others, however many there are.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import overload

import pyarrow as pa

from leaml.data import tables
from leaml.errors import DataError
from leaml.io import files

_BATCH = 10_000
"""Examples that are objects at a time while they are written or walked through."""
_FEW = 1 << 16
"""Examples in a batch of the file: to find one among many batches takes time."""


@dataclass(frozen=True)
class Example:
    """One training row: the request shown with an image, a forced beginning of the reply (no loss), and the reply."""

    image_id: str
    request: str
    reply: str
    prefix: str = ""
    held_out: bool = False
    """Part of the validation labels: left out while learning rates are compared, used afterwards."""


class StoredExamples(Sequence[Example]):
    """Examples in a table of `tables.EXAMPLES`, made when they are asked for."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def image_ids(self) -> pa.ChunkedArray:
        """Of every example, in order."""
        return self._table["image_id"]

    def subset(self, held_out: bool) -> StoredExamples:
        """Those that are held out, or the others."""
        found = self._table["held_out"]
        if not found.to_numpy().any():  # as of most files, which need no copy
            return StoredExamples(self._table.slice(0, 0)) if held_out else self
        return StoredExamples(self._table.filter(pa.chunked_array([found.to_numpy() == held_out])))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, position: int) -> Example: ...
    @overload
    def __getitem__(self, position: slice) -> list[Example]: ...
    def __getitem__(self, position: int | slice) -> Example | list[Example]:
        if isinstance(position, slice):
            return [self[n] for n in range(len(self))[position]]
        return Example(**self._table.slice(range(len(self))[position], 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), _BATCH):
            for row in self._table.slice(start, _BATCH).to_pylist():
                yield Example(**row)


def subset(examples: Sequence[Example], held_out: bool) -> Sequence[Example]:
    """Those that are held out, or the others."""
    if isinstance(examples, StoredExamples):
        return examples.subset(held_out)
    return [example for example in examples if example.held_out == held_out]


def write_examples(uri: str, examples: Iterable[Example]) -> str:
    """Write examples for the workers of a training to read; returns `uri`."""
    publish(uri, in_tables(examples))
    return uri


def in_tables(examples: Iterable[Example]) -> Iterator[pa.Table]:
    """The examples as tables of some of them."""
    rest = iter(examples)
    while rows := [asdict(example) for example in itertools.islice(rest, _BATCH)]:
        yield tables.table(rows, tables.EXAMPLES)


def publish(uri: str, parts: Iterable[pa.Table]) -> int:
    """Publish tables of examples as one file, atomically and without holding them; returns how many examples there are."""
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "examples"
        with file.open("wb") as stream, pa.ipc.new_file(stream, tables.EXAMPLES) as writer:
            for table in _together(parts):
                writer.write_table(table.combine_chunks())
                count += table.num_rows
        files.publish_file(str(file), uri)
    return count


def _together(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for each in parts:
        waiting.append(each)
        if sum(table.num_rows for table in waiting) >= _FEW:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def read_examples(uri: str) -> StoredExamples:
    """The examples of a file; of one in S3 a copy on a disk is mapped.

    Raises:
        DataError: The file is missing or damaged.
    """
    with files.local_copy(uri) as path:  # a copy has no name any more afterwards, and is there as long as it is mapped
        try:
            return StoredExamples(pa.ipc.open_file(pa.memory_map(path)).read_all())
        except pa.ArrowInvalid as error:
            msg = f"{uri} is no file of examples: {error}; remove the folder it is in, and the same command makes it anew"
            raise DataError(msg) from None
