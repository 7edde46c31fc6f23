"""Indexes of images: like lists of places, without holding them as objects."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from leaml.data import store, tables
from leaml.data.store import ImageIndex, ImageRef, ImageStore
from leaml.errors import DataError


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, parts: list[list[int]]) -> list[ImageRef]:
    """An images table whose image `n` has the id `n`; returns where its images are."""
    refs = []
    for number, part in enumerate(parts):
        file = f"{folder}/part-{number}.parquet"
        rows: list[dict[str, object]] = [{"image_id": str(n), "uri": f"{n}.png", "bytes": png(n)} for n in part]
        tables.write(file, tables.table(rows, tables.IMAGES))
        refs += [ImageRef(str(n), file, row) for row, n in enumerate(part)]
    return refs


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    return write(tmp_path, [[3, 1, 4], [5, 9], [2, 6]])


@pytest.fixture
def index(tmp_path: Path, refs: list[ImageRef]) -> ImageIndex:
    return store.index(str(tmp_path))


def test_an_index_reads_as_the_list_of_its_places(index: ImageIndex, refs: list[ImageRef]) -> None:
    assert list(index) == refs
    assert len(index) == 7
    assert [index[n] for n in range(-7, 7)] == refs + refs
    for part in (slice(None), slice(2, 5), slice(1, None, 2), slice(5, 2), slice(-2, None), slice(5, 100)):
        assert list(index[part]) == refs[part]
    with pytest.raises(IndexError):
        index[7]
    assert index.ids.to_pylist() == list("3145926")


def test_images_are_taken_left_out_and_found_by_id(index: ImageIndex, refs: list[ImageRef]) -> None:
    assert [r.image_id for r in index.only(["9", "3", "nobody"])] == ["3", "9"]
    assert [r.image_id for r in index.without({"9", "3"})] == ["1", "4", "5", "2", "6"]
    assert list(index.without([])) == refs
    assert not index.only([])
    assert [r.image_id for r in index.take([6, 0])] == ["6", "3"]
    wanted = pa.chunked_array([["6", "1"], ["3"]])
    assert list(index.with_ids(wanted)) == [refs[6], refs[1], refs[0]]
    with pytest.raises(DataError, match=r"^2 images are missing in .*part-0.parquet and 2 more files, the first is 7$"):
        index.with_ids(pa.chunked_array([["6", "7", "8"]]))


def test_joined_indexes_keep_the_order_of_the_parts(tmp_path: Path, index: ImageIndex, refs: list[ImageRef]) -> None:
    more = write(tmp_path / "more", [[7], []])
    both = ImageIndex.joined([store.index(str(tmp_path / "more")), index])
    assert list(both) == more + refs
    assert len(ImageIndex.joined([])) == 0


def test_an_image_takes_few_bytes(tmp_path: Path) -> None:
    count = 20_000
    ids = [f"{n:032x}" for n in range(count)]
    for start in range(0, count, 5000):
        part = pa.table({"image_id": ids[start : start + 5000]})
        tables.write(f"{tmp_path}/a-rather-long-name-of-a-part-{start:06d}.parquet", part)
    index = store.index(str(tmp_path))
    assert [r.image_id for r in index] == ids
    assert index._table.nbytes < 50 * count


def test_a_store_knows_the_images_that_will_be_asked_for(tmp_path: Path, refs: list[ImageRef]) -> None:
    held = ImageStore([str(tmp_path)], ids={"9", "2"})
    assert held.refs.keys() == {"9", "2"}
    assert held.get("9").getpixel((0, 0)) == (9, 0, 0)
    with pytest.raises(DataError, match="image 3 is in none of the 2"):
        held.get("3")
    assert ImageStore([str(tmp_path)]).get("3").getpixel((0, 0)) == (3, 0, 0)
