"""Many ids of images, to look others up in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

_BATCH = 10_000
"""Ids that are objects at a time."""


class SortedIds:
    """Ids in order, each once: 32 bytes an image, where a set of them, or Arrow's table of texts, takes 100.

    Args:
        ids: In any order; few of those of a column are objects at a time.
    """

    def __init__(self, ids: Iterable[str] | pa.ChunkedArray) -> None:
        batches = _batches(ids) if isinstance(ids, pa.ChunkedArray) else iter([list(ids)])
        parts = [np.unique(np.array(batch, dtype=bytes)) for batch in batches]
        self._ids = np.unique(np.concatenate(parts)) if parts else np.array([], dtype=bytes)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return int(self._ids.nbytes)

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """(len(ids),) int: position of each id among these, -1 where it is none of them."""
        names = np.array(ids, dtype=bytes)
        if not len(self) or not len(names):
            return np.full(len(names), -1)
        found = np.minimum(np.searchsorted(self._ids, names), len(self) - 1)
        return np.where(self._ids[found] == names, found, -1)

    def among(self, ids: pa.ChunkedArray) -> pa.BooleanArray:
        """(len(ids),) whether each is one of these."""
        found = np.zeros(len(ids), bool)
        for start, batch in zip(range(0, len(ids), _BATCH), _batches(ids), strict=True):
            found[start : start + len(batch)] = self.positions(batch) >= 0
        return pa.array(found)


def _batches(ids: pa.ChunkedArray) -> Iterator[list[str]]:
    for start in range(0, len(ids), _BATCH):
        yield ids.slice(start, _BATCH).to_pylist()
