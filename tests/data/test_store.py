"""Indexes of images: like lists of places, without holding them as objects."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from leaml.data import image_table, store
from leaml.data.store import ImageIndex, ImageRef, ImageStore
from leaml.errors import DataError


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, numbers: list[int]) -> list[ImageRef]:
    """An images table whose image `n` has the id `n`; returns where its images are."""
    image_table.write(str(folder), [{"image_id": str(n), "uri": f"{n}.png", "bytes": png(n)} for n in numbers])
    return [ImageRef(str(n), str(folder), row) for row, n in enumerate(numbers)]


@pytest.fixture
def refs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ImageRef]:
    monkeypatch.setattr(image_table, "PART_IMAGES", 3)
    return write(tmp_path, [3, 1, 4, 5, 9, 2, 6])


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


def test_images_are_taken_left_out_and_found_by_id(tmp_path: Path, index: ImageIndex, refs: list[ImageRef]) -> None:
    assert [r.image_id for r in index.only(["9", "3", "nobody"])] == ["3", "9"]
    assert [r.image_id for r in index.without({"9", "3"})] == ["1", "4", "5", "2", "6"]
    assert list(index.without([])) == refs
    assert not index.only([])
    assert [r.image_id for r in index.take([6, 0])] == ["6", "3"]


def test_joined_indexes_keep_the_order_of_the_parts(tmp_path: Path, index: ImageIndex, refs: list[ImageRef]) -> None:
    more = write(tmp_path / "more", [7])
    both = ImageIndex.joined([store.index(str(tmp_path / "more")), index])
    assert list(both) == more + refs
    assert len(ImageIndex.joined([])) == 0


def test_an_image_takes_few_bytes(tmp_path: Path) -> None:
    count = 20_000
    ids = [f"{n:032x}" for n in range(count)]
    image_table.write(f"{tmp_path}/a-rather-long-name-of-a-folder", [{"image_id": i} for i in ids])
    index = store.index(f"{tmp_path}/a-rather-long-name-of-a-folder")
    assert [r.image_id for r in index] == ids
    assert index._table.nbytes < 50 * count


def test_images_that_will_be_asked_for_are_read_at_once(
    tmp_path: Path, refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "more", [7])
    asked: list[list[int]] = []
    read = image_table.ImageTable.read
    monkeypatch.setattr(image_table.ImageTable, "read", lambda self, rows: asked.append(rows) or read(self, rows))
    held = ImageStore([str(tmp_path), str(tmp_path / "more")])
    held.prefetch(["9", "7", "3", "nobody"])
    assert [held.get(i).getpixel((0, 0)) for i in ("3", "7", "9")] == [(3, 0, 0), (7, 0, 0), (9, 0, 0)]
    assert asked == [[4, 0], [0]]
    held.prefetch(["9", "1"])  # 9 is decoded already
    assert held.get("1").getpixel((0, 0)) == (1, 0, 0)
    assert asked == [[4, 0], [0], [1]]
    with pytest.raises(DataError, match="image nobody is in none of the 8"):
        held.get("nobody")


def test_a_store_knows_the_images_that_will_be_asked_for(tmp_path: Path, refs: list[ImageRef]) -> None:
    held = ImageStore([str(tmp_path)], ids={"9", "2", "nobody"})
    assert len(held) == 2
    assert held.get("9").getpixel((0, 0)) == (9, 0, 0)
    with pytest.raises(DataError, match="image 3 is in none of the 2"):
        held.get("3")
    assert ImageStore([str(tmp_path)]).get("3").getpixel((0, 0)) == (3, 0, 0)


def test_a_store_takes_few_bytes_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BATCH", 3000)
    count = 20_000
    rows = [{"image_id": f"{n:032x}", "width": n, "height": 7} for n in range(count)]
    for part, folder in enumerate(("one", "two")):
        image_table.write(f"{tmp_path}/{folder}", rows[part::2])
    held = ImageStore(
        [f"{tmp_path}/one", f"{tmp_path}/two"], ids=pa.chunked_array([[row["image_id"] for row in rows[:-1]] * 2])
    )
    places = held.places
    assert sum(column.nbytes for column in (places.ids, places.table, places.row, places.width, places.height)) < 50 * count
    assert [held.size(f"{n:032x}") for n in (0, 1, 9_999, count - 2)] == [(0, 7), (1, 7), (9_999, 7), (count - 2, 7)]
    assert (len(held), len(pickle.dumps(held)) < 60 * count) == (count - 1, True)
    with pytest.raises(DataError, match=f"image {count - 1:032x} is in none of the {count - 1}"):
        held.size(f"{count - 1:032x}")
