"""Captions that images come with, in the sources themselves: each image of the source gets its own."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from leaml import tables
from leaml.config import SourceConfig
from leaml.data import captions, files
from leaml.data.ingest import ingest
from leaml.errors import DataError

WORDS = ["Zero.", "One.", None, "Three."]
"""Captions of the images 0 to 3."""


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (seed, 0, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def web(folder: Path, column: str, parts: int = 2) -> SourceConfig:
    for part in range(parts):
        members: dict[str, bytes] = {}
        for n in range(part * 4 // parts, (part + 1) * 4 // parts):
            members[f"./a/{n}.png"] = png(n)
            members |= {f"a/{n}.TXT": (WORDS[n] or "").encode()} if n % 2 else {}
            members |= {} if n % 2 else {f"a/{n}.json": json.dumps({column: WORDS[n], "url": "x"}).encode()}
        shard(folder / f"{part}.tar", members)
    return SourceConfig(format="webdataset", path=str(folder) if parts > 1 else f"{folder}/0.tar")


def parquet(folder: Path, column: str) -> SourceConfig:
    for part in (0, 2):
        rows = {"image_id": [f"own{n}" for n in (part, part + 1)], "bytes": [png(part), png(part + 1)]}
        pq.write_table(pa.table(rows | {column: WORDS[part : part + 2]}), folder / f"images-{part:05d}.parquet")
    labels: list[dict[str, object]] = [{"image_id": "own0", "question": "q", "answer": "a"}]
    pq.write_table(tables.table(labels, tables.LABELED), folder / "labeled.parquet")
    return SourceConfig(format="parquet", path=str(folder))


def hub(folder: Path, column: str, named: bool = False, identity: bool = False) -> SourceConfig:
    images: list[dict[str, Any]] = [{"bytes": png(n), "path": None} for n in range(4)]
    if named:
        for n in range(4):
            (folder.parent / f"{n}.png").write_bytes(png(n))
        images = [{"bytes": None, "path": f"{folder.parent}/{n}.png"} for n in range(4)]
    columns: dict[str, list[Any]] = {"image": images, column: WORDS}
    columns |= {"img_id": [f"id{n}" for n in range(4)]} if identity else {}
    made = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image(decode=False))
    made.save_to_disk(str(folder / "set"))
    return SourceConfig(format="huggingface", path=str(folder / "set"))


SOURCES: dict[str, Callable[[Path, str], SourceConfig]] = {
    "shards": web,
    "shard": lambda folder, column: web(folder, column, 1),
    "parts": parquet,
    "data set": hub,
    "data set of ids": lambda folder, column: hub(folder, column, identity=True),
    "data set of names": lambda folder, column: hub(folder, column, named=True),
    "data set of names with ids": lambda folder, column: hub(folder, column, named=True, identity=True),
}


@pytest.mark.parametrize("column", ["caption", "text"])
@pytest.mark.parametrize("kind", SOURCES)
def test_captions_are_those_of_the_images_of_their_source(tmp_path: Path, kind: str, column: str) -> None:
    datasets.disable_progress_bars()
    (tmp_path / "data").mkdir()
    source = SOURCES[kind](tmp_path / "data", column)
    ingest(source, f"{tmp_path}/images", None, labels_matter=False)
    found = captions.read(str(source.path), column)
    rows = pq.read_table(f"{tmp_path}/images").to_pylist()
    assert {row["image_id"]: found.of(row["image_id"], row["uri"]) for row in rows} == {
        tables.image_id(png(n)): WORDS[n] for n in range(4)
    }
    assert (found.unused, found.twice) == ([], 0)


def test_a_caption_in_a_shard_is_that_of_its_name_and_of_one_image(tmp_path: Path) -> None:
    two = {"1.png": png(1), "1.seg.png": png(2), "1.txt": b"Of which?"}
    other = {"2.png": png(3), "2.left.txt": b"Of another.", "3.png": png(4), "3.txt": b"Three."}
    shard(tmp_path / "0.tar", two | other)
    found = captions.read(str(tmp_path / "0.tar"))
    uris = [f"{tmp_path}/0.tar#{name}.png" for name in ("1", "1.seg", "2", "3")]
    assert [found.of(f"id{n}", uri) for n, uri in enumerate(uris)] == [None, None, None, "Three."]
    both = {"1.png": png(1), "1.json": b'{"caption": "Of the key."}', "1.txt": b"Of the text."}
    shard(tmp_path / "0.tar", both)
    assert captions.read(str(tmp_path / "0.tar")).of("id", uris[0]) == "Of the key."


def test_captions_of_a_shard_are_read_without_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(tmp_path / "0.tar", {"1.png": bytes(30 << 20), "1.txt": b"One."})
    read: list[int] = []

    class Counting(io.FileIO):
        def readinto(self, buffer: Any, /) -> int:
            read.append(len(buffer))
            return super().readinto(buffer) or 0

    monkeypatch.setattr(files, "open_native", Counting)
    assert len(captions.read(str(tmp_path / "0.tar"))) == 1
    assert sum(read) < 8 << 20


def test_a_torn_or_packed_shard_of_captions(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", {"1.png": png(1), "1.txt": b"One.", "2.png": png(2), "2.txt": b"Two."})
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tgz").write_bytes(gzip.compress(whole))
    assert len(captions.read(str(tmp_path / "0.tgz"))) == 2
    for size in (1300, 2048, 2600):
        (tmp_path / "0.tar").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"0\.tar is not a whole tar archive"):
            captions.read(str(tmp_path / "0.tar"))


def test_a_file_of_captions_names_members_of_shards(tmp_path: Path) -> None:
    (tmp_path / "given.jsonl").write_text('{"image": "1.png", "caption": "One."}\n{"image": "a/2.png", "caption": "Two."}\n')
    found = captions.read(str(tmp_path / "given.jsonl"))
    assert found.of("x", f"{tmp_path}/0.tar#1.png") == "One."
    assert found.of("y", f"{tmp_path}/0.tgz#b/a/2.png") == "Two."
    assert found.of("z", f"{tmp_path}/0#1.png") is None


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.png": b"", "1.txt": b"\xff\xfe"}, r"0\.tar#1\.txt: not UTF-8"),
        ({"1.png": b"", "1.json": b"{"}, r"0\.tar#1\.json is not valid JSON"),
        ({"1.png": b"", "1.json": b'{"caption": ["a", "b"]}'}, r"0\.tar#1\.png: needs the image's name .* and text"),
        ({"1.png": b"", "1.json": b'{"text": "a"}'}, r"holds no caption in 'caption'; set caption\.column"),
    ],
)
def test_captions_in_a_shard_that_cannot_be_used_are_refused(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    shard(tmp_path / "0.tar", members)
    with pytest.raises(DataError, match=words):
        captions.read(str(tmp_path / "0.tar"))


def test_a_folder_that_holds_no_captions_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    with pytest.raises(DataError, match=r"is a folder without Parquet files, shards .* or the file of the captions"):
        captions.read(str(tmp_path))
    with pytest.raises(DataError, match="does not exist"):
        captions.read(str(tmp_path / "gone"))


def test_the_fingerprint_of_a_folder_follows_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").write_bytes(b"1")
    seen = {files.fingerprint(str(tmp_path))}
    assert files.fingerprint(f"{tmp_path}/") in seen
    for change in (lambda: (tmp_path / "a" / "1").write_bytes(b"2"), lambda: (tmp_path / "a" / "1").rename(tmp_path / "1")):
        change()
        assert files.fingerprint(str(tmp_path)) not in seen
        seen.add(files.fingerprint(str(tmp_path)))
