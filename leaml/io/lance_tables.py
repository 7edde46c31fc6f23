"""Tables in Lance datasets, on disks and in S3: fragments are written by anyone, and one commit makes them a table.

A folder without a commit is no table, whatever fragments a killed process left in it. A commit is one rename on a disk and one
conditional PUT in S3, so readers see all of a table or none of it. Lance is not safe after a fork: processes that read tables
are spawned, or come from a fork server that has read none.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING

import pyarrow as pa

from leaml.errors import DataError
from leaml.io import files, s3, stored

if TYPE_CHECKING:
    from lance import LanceDataset
    from lance.fragment import FragmentMetadata

_VERSIONS = "_versions"
"""Folder of the commits in a table's folder."""
_OUTRUN = ("already exists", "concurrent transaction")
"""What Lance says when another one's commit came first."""
_COMMITS = (_VERSIONS, "_transactions", "_deletions")
"""Folders of what commits write in a table's folder, the one that makes it a table first."""
_DATA = "data"
"""Folder of the fragments' files."""


def is_table(folder: str) -> bool:
    """Whether a table was committed in `folder`."""
    return files.exists(files.join(folder, _VERSIONS))


def version(folder: str) -> str:
    """What tells the content of the table in `folder`: its commits and when they were made. Raises DataError."""
    return repr([(file.uri, file.version) for file in stored.walk(files.join(folder, _VERSIONS), [".manifest"])])


def open_table(folder: str) -> LanceDataset:
    """The table in `folder` as it was committed last. Raises DataError."""
    with _explained(folder, "read"):
        return _lance().dataset(files.absolute(folder), storage_options=s3.lance_options(folder))


class Table:
    """A table as it was committed last; every method raises DataError where a file cannot be read.

    Args:
        folder: Where it lies, on a disk or in S3.

    Raises:
        DataError: There is none, or it cannot be read.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._table = open_table(folder)

    def __len__(self) -> int:
        with explained(self.folder):
            return int(self._table.count_rows())

    @property
    def metadata(self) -> dict[str, str]:
        """What was committed beside the schema."""
        return {key.decode(): value.decode() for key, value in (self._table.schema.metadata or {}).items()}

    def columns(self, names: list[str] | None, first: int | None = None) -> pa.Table:
        """Columns of all rows, or of the `first` ones, in order; None: all columns. Nothing else is read."""
        with explained(self.folder):
            return self._table.to_table(columns=names, limit=first, scan_in_order=True)

    def part(self, start: int, count: int, names: list[str] | None = None) -> pa.Table:
        """Columns of `count` rows from row `start` on; None: all columns."""
        with explained(self.folder):
            return self._table.to_table(columns=names, offset=start, limit=count, scan_in_order=True)

    def batches(self, names: list[str] | None, size: int, first: int = 0, count: int | None = None) -> Iterator[pa.RecordBatch]:
        """Columns of rows in order, at most `size` rows at a time.

        Args:
            names: Of the columns; None: all.
            size: Rows of a batch, at most.
            first: Number of the first row.
            count: How many rows; None: all from the first on.
        """
        with explained(self.folder):
            yield from self._table.to_batches(
                columns=names, batch_size=size, scan_in_order=True, offset=first or None, limit=count
            )

    def take(self, rows: Sequence[int], names: list[str] | None) -> pa.Table:
        """Columns of these rows, in this order: ask for many at once."""
        with explained(self.folder):
            return self._table.take(list(rows), columns=names)


def write_fragment(folder: str, rows: pa.Table) -> str:
    """Write rows as one file that belongs to no table yet; returns what `commit` wants to know of it, which is JSON."""
    lance = _lance()
    with _explained(folder, "write"):
        # One file, since each costs its readers two requests
        (fragment,) = lance.fragment.write_fragments(
            rows, files.absolute(folder), max_rows_per_file=max(1, rows.num_rows), storage_options=s3.lance_options(folder)
        )
    return json.dumps(fragment.to_json())


def commit(folder: str, schema: pa.Schema, fragments: Sequence[str], metadata: Mapping[str, str] | None = None) -> None:
    """Make fragments the table in `folder`, in this order and in place of any other table there.

    Args:
        folder: Where they lie.
        schema: Of their rows.
        fragments: What `write_fragment` has returned.
        metadata: Kept beside the schema.

    Raises:
        DataError: It cannot be written, or another process has committed there at the same time: one of them wins.
    """
    lance = _lance()
    parts = [lance.FragmentMetadata.from_json(fragment) for fragment in fragments]
    with _explained(folder, "write"):
        lance.LanceDataset.commit(
            files.absolute(folder),
            lance.LanceOperation.Overwrite(schema.with_metadata(metadata), parts),
            storage_options=s3.lance_options(folder),
        )


def drop_rows(folder: str, column: str, values: Mapping[int, Sequence[str]]) -> None:
    """Take rows out of the table in `folder`: those whose `column` has one of the `values` of the number of their fragment.

    The fragments' files stay as they are, and files of a few bytes say which of their rows count no more: writing fragments
    anew would move all of their images for every row that one shares with another.

    Raises:
        DataError: The table cannot be read or written.
    """
    if not values:
        return
    lance, table = _lance(), open_table(folder)
    fragments = table.get_fragments()

    def without(number: int) -> FragmentMetadata | None:
        left: FragmentMetadata | None = fragments[number].delete(f"{column} IN ({', '.join(map(_literal, values[number]))})")
        return left

    with _explained(folder, "write"):
        with ThreadPoolExecutor(s3.PARALLEL) as pool:
            left = dict(zip(values, pool.map(without, values), strict=True))
        changed = [fragment for fragment in left.values() if fragment is not None]
        gone = [number for number, fragment in left.items() if fragment is None]
        operation = lance.LanceOperation.Delete(changed, gone, column)
        options = s3.lance_options(folder)
        lance.LanceDataset.commit(files.absolute(folder), operation, read_version=table.version, storage_options=options)


def _literal(value: str) -> str:
    escaped = value.replace("'", "''")
    return f"'{escaped}'"


def withdraw(folder: str) -> None:
    """Take back the commits of the table in `folder`: it is none any more, and its fragments may be committed again."""
    for part in _COMMITS:
        files.delete_tree(files.join(folder, part))


def remove(folder: str) -> None:
    """Remove the table in `folder`, and fragments that were never committed; other files there stay."""
    withdraw(folder)
    files.delete_tree(files.join(folder, _DATA))


def sweep(folder: str, fragments: Iterable[str]) -> None:
    """Remove the files of fragments that are not among `fragments`, such as those that a killed process left."""
    known = {file["path"] for fragment in fragments for file in json.loads(fragment)["files"]}
    data = files.join(folder, _DATA)
    for file in files.listing(data) if files.exists(data) else []:
        if file.rpartition("/")[2] not in known:
            files.delete_tree(file)


@contextlib.contextmanager
def explained(folder: str) -> Iterator[None]:
    """Errors of reading an open table as DataErrors that name its folder and the fix."""
    with _explained(folder, "read"):
        yield


@contextlib.contextmanager
def _explained(folder: str, verb: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # Lance raises all of them, for whatever happens
        said = str(error).partition(", /")[0]  # behind it are places in Lance's source
        if verb == "read" and not is_table(folder):
            msg = f"{folder} holds no table; check the path, or make it again with the command that wrote it"
        elif verb == "write" and any(sign in said for sign in _OUTRUN):
            msg = f"cannot write {folder}: another process has made a table there at the same time; run again to go on with it"
        elif files.is_remote(folder) and "error sending request" in said:
            msg = f"cannot {verb} {folder}: {said}; check bucket, endpoint and AWS credentials"
        elif verb == "read":
            msg = f"cannot read the table in {folder}: {said}; if a file is damaged or gone, remove the folder and run again"
        else:
            msg = f"cannot write {folder}: {said}; check the space and the right to write there"
        raise DataError(msg) from None


def _lance() -> ModuleType:
    os.environ.setdefault("LANCE_LOG", "error")  # it warns of each new table that there was none before
    import lance

    return lance
