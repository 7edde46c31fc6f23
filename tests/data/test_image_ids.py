"""Ids that are looked up in many others."""

from __future__ import annotations

import pyarrow as pa
import pytest

from leaml.data import image_ids
from leaml.data.image_ids import SortedIds


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_ids_are_found_whatever_their_order_and_number(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_ids, "_BATCH", batch)
    held = SortedIds(pa.chunked_array([["c", "a"], [], ["b", "a", "longer"]], pa.string()))
    assert len(held) == 4
    assert held.positions(["a", "b", "c", "longer", "d", "", "longe", "longers"]).tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    assert held.among(pa.chunked_array([["b", "x"], ["longer"]], pa.string())).to_pylist() == [True, False, True]


def test_no_ids_hold_nothing() -> None:
    for none in (SortedIds([]), SortedIds(pa.chunked_array([], pa.string()))):
        assert (len(none), none.positions(["a"]).tolist()) == (0, [-1])
        assert none.among(pa.chunked_array([["a"]], pa.string())).to_pylist() == [False]
        assert SortedIds(["a"]).among(pa.chunked_array([], pa.string())).to_pylist() == []
