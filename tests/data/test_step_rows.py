"""The one table of a finished step: rows in order, found by id, with the counts; nothing until it is committed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from leaml.data import step_rows, tables
from leaml.data.step_rows import StepRows
from leaml.errors import DataError


def captions(first: int, count: int) -> list[dict[str, object]]:
    return [{"image_id": f"i{n}", "caption": f"text {n}"} for n in range(first, first + count)]


def test_rows_are_read_whole_in_parts_and_by_id(tmp_path: Path) -> None:
    parts = [step_rows.write_part(str(tmp_path), [tables.table(captions(n, 5), tables.CAPTIONS)]) for n in (10, 0, 20)]
    with pytest.raises(DataError, match=rf"^{tmp_path}/table holds no table; .*make it again"):  # not before the commit
        StepRows(str(tmp_path))
    assert not step_rows.exists(str(tmp_path))

    step_rows.commit(str(tmp_path), tables.CAPTIONS, [part for part in parts if part], {"images": 15, "quarantined": 0})
    found = StepRows(str(tmp_path))
    assert (len(found), found.counts) == (15, {"images": 15, "quarantined": 0})
    ids = [f"i{n}" for start in (10, 0, 20) for n in range(start, start + 5)]
    assert found.columns(["image_id"])["image_id"].to_pylist() == ids
    assert found.part(4, 3).to_pylist() == found.columns(None).to_pylist()[4:7]
    assert found.of(["i21", "i3", "nobody"], ["caption"]) == [{"caption": "text 3"}, {"caption": "text 21"}]
    assert found.of(["nobody"]) == found.of([]) == []
    asked = pa.chunked_array([["i3", "nobody"], ["i10", "i24"]])
    assert found.positions(asked).to_pylist() == [8, None, 0, 14]
    assert found.positions(asked.slice(0, 0)).to_pylist() == []

    step_rows.remove(str(tmp_path))
    assert not step_rows.exists(str(tmp_path))


def test_a_step_without_rows_has_a_table(tmp_path: Path) -> None:
    assert step_rows.write_part(str(tmp_path), [tables.CAPTIONS.empty_table()]) is None
    step_rows.write(str(tmp_path), [], tables.CAPTIONS, {"quarantined": 3})
    found = StepRows(str(tmp_path))
    assert found.positions(pa.chunked_array([["i"]])).to_pylist() == [None]
    assert (len(found), found.counts, found.of(["i"]), found.columns(None).num_rows) == (0, {"quarantined": 3}, [], 0)
