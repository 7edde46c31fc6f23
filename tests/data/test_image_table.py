"""Images tables: rows at random, columns without bytes, images that are not copied, and what a kill or damage leaves."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from leaml.config import SourceConfig
from leaml.data import image_table, store, tables
from leaml.data.image_table import FragmentWriter, ImageTable
from leaml.data.ingest import ingest
from leaml.data.store import ImageStore
from leaml.errors import DataError
from leaml.io import files, lance_tables

COUNT = 50


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 0, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def rows(count: int = COUNT) -> list[dict[str, object]]:
    data = [png(n) for n in range(count)]
    return [
        {"image_id": tables.image_id(d), "uri": f"{n}.png", "bytes": d, "width": 8, "height": 6} for n, d in enumerate(data)
    ]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table of several fragments."""
    monkeypatch.setattr(image_table, "PART_IMAGES", 8)
    image_table.write(f"{tmp_path}/images", rows())
    return f"{tmp_path}/images"


def check_rows(folder: str) -> None:
    """Rows come in the order that is asked for, across fragments, also twice."""
    wanted, expected = [41, 3, 7, 8, 41, 0, COUNT - 1], rows()
    found = ImageTable(folder).read(wanted)
    assert [(i["image_id"], i["uri"], i["bytes"], i["lost"]) for i in found] == [
        (expected[n]["image_id"], expected[n]["uri"], expected[n]["bytes"], None) for n in wanted
    ]


def test_rows_are_read_in_the_order_asked_for(table: str) -> None:
    check_rows(table)
    with pytest.raises(DataError, match="cannot read the table in"):
        ImageTable(table).read([COUNT])


def test_columns_are_read_without_the_bytes_and_in_order(table: str) -> None:
    found = ImageTable(table)
    assert len(found) == COUNT
    assert found.columns(["image_id"])["image_id"].to_pylist() == [row["image_id"] for row in rows()]
    assert found.columns(["uri", "width"], first=9).to_pylist() == [{"uri": f"{n}.png", "width": 8} for n in range(9)]
    for file in Path(table, "data").iterdir():  # the bytes lie first: without them the columns are still there
        file.write_bytes(bytes(100) + file.read_bytes()[100:])
    assert found.columns(["uri"], first=2).to_pylist() == [{"uri": "0.png"}, {"uri": "1.png"}]


def test_a_table_in_s3_is_the_same(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_table, "PART_IMAGES", 8)
    image_table.write(f"{bucket}/run/images", rows())
    check_rows(f"{bucket}/run/images")
    assert store.index(f"{bucket}/run/images").ids.to_pylist() == [row["image_id"] for row in rows()]
    lance_tables.remove(f"{bucket}/run/images")
    assert not lance_tables.is_table(f"{bucket}/run/images")


def test_a_table_may_be_empty(tmp_path: Path) -> None:
    image_table.write(f"{tmp_path}/images", [])
    assert len(ImageTable(f"{tmp_path}/images")) == len(store.index(f"{tmp_path}/images")) == 0


def test_odd_names_of_folders(tmp_path: Path) -> None:
    folder = f"{tmp_path}/a b/50% #1 ü:x?"
    image_table.write(folder, rows())
    check_rows(folder)


def killed(folder: str, after: int) -> None:
    """A writer that is killed behind so many rows, or `COUNT` for: before its commit."""
    image_table.PART_IMAGES = 8
    writer = FragmentWriter(folder)
    for number, row in enumerate(rows()):
        if number == after:
            os.kill(os.getpid(), signal.SIGKILL)
        writer.add(row)
    writer.close()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("after", [20, COUNT])
def test_what_a_killed_writer_leaves_is_no_table(tmp_path: Path, after: int) -> None:
    folder = f"{tmp_path}/images"
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(folder, after))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    left = files.listing(folder)
    assert left
    assert not lance_tables.is_table(folder)
    with pytest.raises(DataError, match=rf"^{folder} holds no table; check the path"):
        store.index(folder)
    image_table.write(folder, rows())
    check_rows(folder)
    assert not set(left) & set(files.listing(folder))


def test_a_killed_writer_takes_the_table_of_before_away_first(table: str) -> None:
    """Else a reader would take the table of other data for the new one."""

    def broken() -> Iterator[dict[str, object]]:
        yield from rows(12)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        image_table.write(table, broken())
    with pytest.raises(DataError, match="holds no table"):
        ImageTable(table)


def test_rows_can_be_taken_out_of_a_table_and_the_others_are_read_as_before(table: str) -> None:
    """By the fragment: 8 rows each. Of the third all rows go, of the fourth those that are named."""
    ids = [str(row["image_id"]) for row in rows()]
    files_before = sorted(files.listing(f"{table}/data"))
    lance_tables.drop_rows(table, "image_id", {0: [ids[1], ids[30]], 2: ids[16:24], 3: [ids[24], ids[31], "nobody's"]})
    left = [n for n in range(COUNT) if n not in {1, 24, 31, *range(16, 24)}]
    found = ImageTable(table)
    assert len(found) == len(left)
    assert store.index(table).ids.to_pylist() == [ids[n] for n in left]
    asked = [len(left) - 1, 0, 1, 20, 14, 15, 16]
    assert [i["bytes"] for i in found.read(asked)] == [png(left[n]) for n in asked]
    assert sorted(files.listing(f"{table}/data")) == files_before  # their files are not written again


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_table_is_named_with_the_fix(table: str, damage: str) -> None:
    file = Path(files.listing(f"{table}/data")[0])
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-200])
    else:
        file.unlink()
    for read in (lambda: store.index(table), lambda: ImageTable(table).read(list(range(COUNT)))):
        with pytest.raises(DataError, match=rf"^cannot read the table in {table}: .*remove the folder and run again$"):
            read()


def test_many_readers_at_once(table: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check_rows, [table] * 16))
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as processes:
        processes.map(check_rows, [table] * 4)


def test_a_store_in_another_process_opens_its_own_table(table: str) -> None:
    held = ImageStore([table])
    first = str(rows()[0]["image_id"])
    assert held.get(first).size == (8, 6)
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        assert processes.apply(held.get, (first,)).size == (8, 6)


class Source:
    """Images in a folder and in a tar, and what an ingest without copies made of them."""

    def __init__(self, folder: str, local: Path) -> None:
        self.folder, self.data = folder, [png(n) for n in range(4)]
        local.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(self.data):
            (local / f"{number}.png").write_bytes(data)
            files.write_bytes(f"{folder}/frames/{number}.png", data)
        with tarfile.open(local / "shard.tar", "w") as archive:
            for number in range(4):
                archive.add(local / f"{number}.png", f"{number}.png")
        files.publish_file(str(local / "shard.tar"), f"{folder}/shard.tar")

    def ingested(self, format_: Any, name: str, copy: bool = False) -> ImageTable:
        """The table of an ingest."""
        out = f"{self.folder}/{format_}-{copy}/images"
        assert ingest(SourceConfig(format=format_, path=f"{self.folder}/{name}"), out, None, copy=copy).images == 4
        return ImageTable(out)


def check_uncopied(source: Source) -> None:
    """Bytes are not in the table, and are read where they are."""
    folder, tar = source.ingested("folder", "frames"), source.ingested("webdataset", "shard.tar")
    for table in (folder, tar):
        assert table.columns(["bytes"])["bytes"].null_count == 4
        assert [i["bytes"] for i in table.read([2, 0, 3, 1])] == [source.data[n] for n in (2, 0, 3, 1)]
    assert set(folder.columns(["file"])["file"].to_pylist()) == {None}  # it is the uri
    assert set(tar.columns(["file"])["file"].to_pylist()) == {f"{source.folder}/shard.tar"}
    assert source.ingested("folder", "frames", copy=True).columns(["bytes"])["bytes"].to_pylist() == source.data


def test_images_that_are_not_copied_are_read_from_their_source(tmp_path: Path) -> None:
    check_uncopied(Source(str(tmp_path / "data"), tmp_path / "local"))


def test_images_that_are_not_copied_are_read_from_s3(tmp_path: Path, bucket: str) -> None:
    check_uncopied(Source(f"{bucket}/data", tmp_path / "local"))


def test_an_image_that_is_gone_or_changed_is_lost_and_the_others_are_not(tmp_path: Path) -> None:
    source = Source(str(tmp_path / "data"), tmp_path / "local")
    table = source.ingested("folder", "frames")
    Path(source.folder, "frames", "1.png").unlink()
    Path(source.folder, "frames", "2.png").write_bytes(png(99))
    found = table.read([0, 1, 2, 3])
    assert [i["bytes"] for i in found] == [source.data[0], b"", b"", source.data[3]]
    assert [i["lost"] for i in found] == [
        None,
        f"gone since ingest: {source.folder}/frames/1.png",
        f"changed since ingest: {source.folder}/frames/2.png",
        None,
    ]
    lost = str(table.columns(["image_id"])["image_id"][1])
    with pytest.raises(DataError, match=rf"^image {lost}: gone since ingest: .*1\.png; put back what was ingested"):
        ImageStore([table.folder]).get(lost)


def test_what_is_no_file_is_copied_all_the_same(tmp_path: Path) -> None:
    source = SourceConfig(format="easy_vqa", split="test", limit=3)
    ingest(source, f"{tmp_path}/images", None, copy=False)
    assert ImageTable(f"{tmp_path}/images").columns(["bytes"])["bytes"].null_count == 0
    packed = tmp_path / "shard.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        (tmp_path / "0.png").write_bytes(png(0))
        archive.add(tmp_path / "0.png", "0.png")
    ingest(SourceConfig(format="webdataset", path=str(packed)), f"{tmp_path}/packed", None, copy=False)
    assert ImageTable(f"{tmp_path}/packed").columns(["bytes"])["bytes"].to_pylist() == [png(0)]
