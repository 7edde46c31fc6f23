"""A source that is read in parts gives what it gives as a whole; parts that are done are not done again."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sources import MAKERS, SEEDS, TORN, content, frames, make, png

from leaml.config import SourceConfig
from leaml.data import image_table, ingest, part_files, parts, registry, row_ranges, store, tables, united
from leaml.data.image_table import ImageTable
from leaml.data.part_files import PartWriter, WrittenPart
from leaml.data.parts import Part, PartReader
from leaml.errors import DataError
from leaml.io import files, lance_tables


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tables each row group, or two rows, are a portion."""
    monkeypatch.setattr(image_table, "PART_BYTES", 500)
    monkeypatch.setattr(row_ranges, "_LANCE_ROWS", 2)


def run(source: SourceConfig, out: Path | str, **options: Any) -> ingest.IngestResult:
    return ingest.ingest(source, f"{out}/images", f"{out}/labeled.parquet", max_quarantined=0.9, **options)


def found(out: Path | str) -> dict[str, Any]:
    """All that an ingest wrote, the images by their rows."""
    images = ImageTable(f"{out}/images")
    held = {
        "images": images.columns([n for n in tables.IMAGES.names if n != "bytes"]).to_pylist(),
        "bytes": [(i["image_id"], i["bytes"], i["lost"]) for i in images.read(list(range(len(images))))],
        "copies": [row for part in store.copies(f"{out}/images") for row in part.to_pylist()],
    }
    for name in ("labeled.parquet", "quarantine-labeled.parquet"):
        held[name] = tables.read(f"{out}/{name}").to_pylist()
    refused = f"{out}/refused-labeled.csv"
    return held | {"refused": files.read_bytes(refused) if files.exists(refused) else b""}


def expected(source: SourceConfig) -> tuple[list[str], list[tuple[str, str]], list[tuple[str, str, str]], list[str | None]]:
    """Images, copies, labels and quarantined names of a source, from its records as they are read one after the other."""
    images: dict[str, set[str]] = {}
    copies, labels, bad = [], dict[tuple[str, str, str], None](), []
    for record in registry.read(source):
        if record.error or record.data is None or record.data == content(TORN):
            bad.append(record.uri)
            continue
        identity = tables.image_id(record.data)
        if identity in images and record.uri not in images[identity]:
            copies.append((identity, record.uri))
        images.setdefault(identity, set()).add(record.uri)
        labels |= {(identity, question.question, question.answer): None for question in record.questions}
    return list(images), copies, list(labels), bad


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("kind", MAKERS)
def test_in_parts_a_source_gives_what_it_gives_as_a_whole(
    kind: str, copy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(kind, tmp_path / "source")
    whole = run(source, tmp_path / "whole", copy=copy)
    result = found(tmp_path / "whole")
    images, copies, labels, bad = expected(source)
    assert [row["image_id"] for row in result["images"]] == images
    assert [(row["image_id"], row["uri"]) for row in result["copies"]] == copies
    assert [(row["image_id"], row["question"], row["answer"]) for row in result["labeled.parquet"]] == labels
    assert [row["uri"] for row in result["quarantine-labeled.parquet"]] == bad
    assert all(tables.image_id(data) == image and lost is None for image, data, lost in result["bytes"])

    cut_small(monkeypatch)
    for size in (1, 3):
        monkeypatch.setattr(parts, "PART_RECORDS", size)
        assert len(list(PartReader(source))) >= 3 / size
        out = tmp_path / f"parts of {size}"
        assert run(source, out, copy=copy) == whole
        assert found(out) == result


@pytest.mark.parametrize("kind", ["folder", "jsonl", "webdataset", "video"])
def test_a_limit_takes_the_same_images_in_parts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(kind, tmp_path / "source").model_copy(update={"limit": 4})
    whole = run(source, tmp_path / "whole")
    assert whole.seen == 4
    monkeypatch.setattr(parts, "PART_RECORDS", 1)
    assert run(source, tmp_path / "parts") == whole
    assert found(tmp_path / "parts") == found(tmp_path / "whole")


def test_the_beginning_of_a_source_of_shards_is_cut_by_images(tmp_path: Path) -> None:
    result = run(make("webdataset", tmp_path / "source"), tmp_path, first=5)
    assert (result.seen, result.complete) == (5, False)


class Counting:
    """Writes parts one after the other, and counts those that are written anew; ends before the one with the number `until`."""

    def __init__(self, until: int = 10**9) -> None:
        self.until, self.done = until, list[int]()

    def __call__(self, reader: PartReader, write: PartWriter) -> Any:
        for part in reader:
            if part.number == self.until:
                raise KeyboardInterrupt
            before = {Path(file).name for file in folder_of(write)}
            yield write(part)
            self.done += [part.number] * ({Path(file).name for file in folder_of(write)} != before)


def folder_of(write: PartWriter) -> list[str]:
    folder = part_files.folder_of(write.images_out)
    return files.listing(folder) if files.exists(folder) else []


def resumed(source: SourceConfig, out: Path | str, until: int, change: Any = lambda: None) -> list[int]:
    """The parts that are done again behind an ingest that ended early, after `change`."""
    with pytest.raises(KeyboardInterrupt):
        run(source, out, mapped=Counting(until))
    with pytest.raises(DataError, match="holds no table"):
        ImageTable(f"{out}/images")
    change()
    counting = Counting()
    run(source, out, mapped=counting)
    return counting.done


@pytest.mark.parametrize("kind", MAKERS)
def test_parts_that_are_done_are_not_done_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(kind, tmp_path / "source")
    cut_small(monkeypatch)
    monkeypatch.setattr(parts, "PART_RECORDS", 1)
    count = len(list(PartReader(source)))
    assert resumed(source, tmp_path / "out", count - 1) == [count - 1]
    run(source, tmp_path / "other")
    assert found(tmp_path / "out") == found(tmp_path / "other")
    assert len(files.listing(str(tmp_path / "out" / "images" / "data"))) == len(
        files.listing(str(tmp_path / "other" / "images" / "data"))
    )


def test_what_was_changed_meanwhile_is_read_again_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_RECORDS", 2)
    folder = tmp_path / "source"
    source = SourceConfig(format="folder", path=frames(folder))

    def change() -> None:
        before = (folder / "03.png").stat()
        data = png(99)
        assert len(data) == before.st_size  # told by its time alone
        (folder / "03.png").write_bytes(data)
        os.utime(folder / "03.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))

    assert resumed(source, tmp_path / "out", 4, change) == [1, 4, 5]
    assert found(tmp_path / "out")["bytes"][2][1] == png(99)
    assert tables.image_id(png(3)) not in {row["image_id"] for row in found(tmp_path / "out")["images"]}
    run(source, tmp_path / "other")
    assert found(tmp_path / "out") == found(tmp_path / "other")
    assert len(files.listing(str(tmp_path / "out" / "images-parts"))) == 6  # the file of the old content is gone


def test_an_image_that_a_label_names_and_that_was_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_RECORDS", 2)
    source = make("csv", tmp_path / "source")
    assert resumed(source, tmp_path / "out", 5, lambda: (tmp_path / "source" / "03.png").write_bytes(png(99))) == [1, 5]
    assert tables.image_id(png(99)) in {row["image_id"] for row in found(tmp_path / "out")["images"]}


def test_a_shard_that_was_changed_is_read_again_and_a_new_one_shifts_nothing_into_the_wrong_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_RECORDS", 1)
    source = make("webdataset", tmp_path / "source")
    shards = tmp_path / "source"

    def change() -> None:
        shutil.copyfile(shards / "2.tar", shards / "0-more.tar")

    assert resumed(source, tmp_path / "out", 3, change) == [0, 1, 2, 3, 4, 5]
    run(source, tmp_path / "other")
    assert found(tmp_path / "out") == found(tmp_path / "other")


def test_parts_in_s3_go_on_where_they_were(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_RECORDS", 2)
    for name in Path(frames(tmp_path / "source")).iterdir():
        files.write_bytes(f"{bucket}/frames/{name.name}", name.read_bytes())
    source = SourceConfig(format="folder", path=f"{bucket}/frames")
    assert resumed(source, f"{bucket}/out", 4, lambda: files.write_bytes(f"{bucket}/frames/00.png", png(98))) == [0, 4, 5]
    run(source, f"{bucket}/other")
    assert found(f"{bucket}/out") == found(f"{bucket}/other")
    assert {tables.image_id(png(98))} < {row["image_id"] for row in found(f"{bucket}/out")["images"]}


def test_of_two_that_write_one_part_the_first_counts(tmp_path: Path) -> None:
    """As when the workers of a killed ingest are at it still."""
    source = SourceConfig(format="folder", path=frames(tmp_path / "source"))
    write = PartWriter(source, str(tmp_path / "out" / "images"), 10**6, None, True)
    (part,) = PartReader(source)
    first = write(part)
    held = Path(first.file).read_bytes()
    write._write(part, first.file)
    assert Path(first.file).read_bytes() == held
    assert len(files.listing(str(tmp_path / "out" / "images" / "data"))) == 2
    run(source, tmp_path / "out", split=None)
    (fragment,) = lance_tables.open_table(str(tmp_path / "out" / "images")).get_fragments()
    (left,) = files.listing(str(tmp_path / "out" / "images" / "data"))
    assert fragment.metadata.files[0].path == Path(left).name


def test_a_source_that_is_listed_otherwise_in_the_middle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a task that Ray starts again while the folder changes: its parts would miss images, or have some twice."""
    monkeypatch.setattr(parts, "PART_RECORDS", 2)
    source = SourceConfig(format="folder", path=frames(tmp_path / "source"))

    def changed(reader: PartReader, write: PartWriter) -> Any:
        first: list[Part] = list(reader)[:2]
        yield from map(write, first)
        (tmp_path / "source" / "00.png").unlink()
        yield from map(write, list(reader)[2:])

    with pytest.raises(DataError, match=r"the source was changed while it was listed .*; run again"):
        run(source, tmp_path / "out", mapped=changed)
    with pytest.raises(DataError, match="holds no table"):
        ImageTable(str(tmp_path / "out" / "images"))


def test_the_parts_are_forgotten_and_the_tables_stay(tmp_path: Path) -> None:
    source = SourceConfig(format="folder", path=frames(tmp_path / "source"))
    run(source, tmp_path / "out")
    before = found(tmp_path / "out")
    ingest.forget_parts(f"{tmp_path}/out/images")
    assert not (tmp_path / "out" / "images-parts").exists()
    assert found(tmp_path / "out") == before


def test_what_unites_the_parts_reads_no_images(tmp_path: Path) -> None:
    source = SourceConfig(format="folder", path=frames(tmp_path / "source"))
    write = PartWriter(source, str(tmp_path / "images"), 10**6, None, True)
    out = united.United(str(tmp_path))
    written: list[WrittenPart] = [write(part) for part in PartReader(source)]
    for part, fragments, rows in part_files.read_ahead(written):
        out.add(part, fragments, rows)
    assert (out.seen, out.images) == (len(SEEDS), len({seed for n, seed in enumerate(SEEDS) if n != TORN}))
    assert pq.read_schema(written[0].file).names == ["image_id", "uri", "reason", "width", "height", "stored", "labels"]
    with pytest.raises(DataError, match="the source was changed"):
        out.add(replace(written[0], after="another"), [], [])
