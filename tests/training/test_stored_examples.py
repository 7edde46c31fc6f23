"""The file of examples that a training maps into memory: what was written, whatever its size; damaged ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaml.errors import DataError
from leaml.training import examples as stored
from leaml.training.batches import Task, draw
from leaml.training.examples import Example, in_tables, publish, read_examples, subset, write_examples


def some(count: int, every: int = 0) -> list[Example]:
    held = [bool(every) and n % every == 0 for n in range(count)]
    return [Example(f"i{n}", f"q{n}?", f"a{n}", "p" * (n % 3), held_out=held[n]) for n in range(count)]


def test_examples_come_back_one_by_one_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_BATCH", 7)
    monkeypatch.setattr(stored, "_FEW", 20)
    given = some(50)
    assert publish(f"{tmp_path}/examples", in_tables(iter(given))) == 50
    found = read_examples(f"{tmp_path}/examples")
    assert list(found) == given == found[:]
    assert [found[n] for n in (0, 19, 20, 49, -1)] == [given[n] for n in (0, 19, 20, 49, -1)]
    assert (len(found), found[48:], found.image_ids.to_pylist()) == (50, given[48:], [e.image_id for e in given])
    with pytest.raises(IndexError):
        found[50]


def test_what_is_held_out_is_told_from_the_rest_as_of_a_list(tmp_path: Path) -> None:
    for every in (0, 3):
        given = some(20, every)
        found = read_examples(write_examples(f"{tmp_path}/{every}", given))
        for held_out in (True, False):
            assert list(subset(found, held_out)) == subset(given, held_out) == [e for e in given if e.held_out == held_out]


def test_batches_are_those_of_a_list(tmp_path: Path) -> None:
    given = some(30, 4)
    kept = read_examples(write_examples(f"{tmp_path}/e", given))
    for step in (0, 3, 9):
        batches = [draw([Task("a", each).without_held_out(), Task("b", each)], 8, 5, step) for each in (given, kept)]
        assert batches[0] == batches[1]


def test_no_examples_and_damaged_files(tmp_path: Path) -> None:
    assert list(read_examples(write_examples(f"{tmp_path}/none", []))) == []
    Path(tmp_path, "bad").write_bytes(Path(tmp_path, "none").read_bytes()[:40])
    with pytest.raises(DataError, match=r"/bad is no file of examples: .*remove the folder it is in"):
        read_examples(f"{tmp_path}/bad")
    with pytest.raises(DataError, match="/gone does not exist"):
        read_examples(f"{tmp_path}/gone")


def test_examples_in_s3_are_mapped_from_a_copy(bucket: str) -> None:
    assert list(read_examples(write_examples(f"{bucket}/step/e", some(3)))) == some(3)
