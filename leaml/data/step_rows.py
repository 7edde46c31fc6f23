"""What a finished step has published, as one table in place of a file for each of its shards.

The table's commit is the step's manifest: it names the files, the ids are a column of it, and the counts are beside its schema.
Whoever reads it makes a few requests and those of what is read, however many shards there were.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leaml.data import tables
from leaml.data.image_ids import keys_of
from leaml.io import files, lance_tables

_COUNTS = "counts"
_BATCH = 65_536


def _table(folder: str) -> str:
    return files.join(folder, "table")


class StepRows(lance_tables.Table):
    """The rows of a step, in the order of its shards.

    Args:
        folder: Of the step.

    Raises:
        DataError: It is not finished.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(_table(folder))

    @property
    def counts(self) -> Counter[str]:
        """Totals over all shards."""
        return Counter(json.loads(self.metadata[_COUNTS]))

    def positions(self, ids: pa.ChunkedArray) -> pa.Array:
        """(ids,) int32: the row of each image, null for one that has none; whoever reads a row checks its id.

        Ids are compared by their keys, since a table of texts would take 100 bytes an image.
        """
        held = [keys_of(batch["image_id"].to_pylist()) for batch in self.batches(["image_id"], _BATCH)]
        keys = np.concatenate([*held, np.array([2**64 - 1], np.uint64)])  # the last one is nobody's
        order = np.argsort(keys, kind="stable").astype(np.int32)
        keys.sort()
        found = np.full(len(ids), -1, np.int32)
        for start in range(0, len(ids), _BATCH):
            wanted = keys_of(ids.slice(start, _BATCH).to_pylist())
            near = np.searchsorted(keys, wanted)
            found[start : start + len(wanted)] = np.where(keys[near] == wanted, order[near], -1)
        found[found == len(keys) - 1] = -1
        return pa.array(found, mask=found < 0)

    def of(self, ids: Iterable[str], names: list[str] | None = None) -> list[dict[str, Any]]:
        """Columns of the rows of these images, in the order of the table; None: all columns."""
        wanted = pa.array(sorted(set(ids)), pa.string())
        found = pc.indices_nonzero(pc.is_in(self.columns(["image_id"])["image_id"], value_set=wanted))
        return self.take(found.to_pylist(), names).to_pylist() if len(found) else []


def exists(folder: str) -> bool:
    """Whether the table of the step in `folder` was committed."""
    return lance_tables.is_table(_table(folder))


def remove(folder: str) -> None:
    """Remove the table of the step in `folder`, and parts of one that was never committed."""
    lance_tables.remove(_table(folder))


def write_part(folder: str, parts: Sequence[pa.Table]) -> str | None:
    """Write rows that are to belong to the table of the step in `folder`; returns what `commit` needs, None for no rows."""
    rows = pa.concat_tables(parts)
    return lance_tables.write_fragment(_table(folder), rows) if rows.num_rows else None


def commit(folder: str, schema: pa.Schema, parts: Sequence[str], counts: Mapping[str, int]) -> None:
    """Make written parts, in this order, the table of the step in `folder`.

    Args:
        folder: Of the step.
        schema: Of its rows.
        parts: What `write_part` has returned.
        counts: Totals over all shards.

    Raises:
        DataError: It cannot be written.
    """
    lance_tables.commit(_table(folder), schema, parts, {_COUNTS: json.dumps(counts)})


def write(
    folder: str, rows: Sequence[Mapping[str, object]], schema: pa.Schema, counts: Mapping[str, int] | None = None
) -> None:
    """Write the table of the step in `folder` at once."""
    part = write_part(folder, [tables.table(rows, schema)])
    commit(folder, schema, [part] if part else [], counts or {})
