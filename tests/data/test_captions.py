"""Captions that images come with, in the sources themselves: each image of the source gets its own."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from leaml.config import SourceConfig
from leaml.data import captions, delimited, tables
from leaml.data.image_table import ImageTable
from leaml.data.ingest import ingest
from leaml.errors import DataError
from leaml.io import files

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
    rows = ImageTable(f"{tmp_path}/images").columns(["image_id", "uri"]).to_pylist()
    assert {row["image_id"]: found.of(row["image_id"], row["uri"]) for row in rows} == {
        tables.image_id(png(n)): WORDS[n] for n in range(4)
    }
    assert (found.unused, found.twice) == (0, 0)


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


TABLES = {
    "comma": ("c.csv", b"image,caption\n1.png,One.\n", 2),
    "semicolon": ("c.csv", b"image;caption\n1.png;One.\n", 2),
    "semicolon, commas in the names": ("c.csv", b"image;caption;a, b, c\n1.png;One.;\n", 2),
    "tab": ("c.tsv", b"image\tcaption\n1.png\tOne.\n", 2),
    "tab, upper case": ("C.TSV", b"image\tcaption\n1.png\tOne.\n", 2),
    "byte order mark": ("c.csv", b"\xef\xbb\xbfimage;caption\r\n1.png;One.\r\n", 2),
    "Excel's line": ("c.csv", b"sep=;\r\nimage;caption\r\n1.png;One.\r\n", 3),
    "Excel's line in quotes, and a mark": ("c.csv", b'\xef\xbb\xbf"sep=;";\nimage;caption\n1.png;One.\n', 3),
    "Excel's line against the names": ("c.csv", b"sep=,\nimage,caption,a;b;c\n1.png,One.,\n", 3),
    "old line ends": ("c.csv", b"sep=\t\rimage\tcaption\r1.png\tOne.\r", 3),
    "bars": ("c.csv", b"image|caption\n1.png|One.\n", 2),
    "blanks and empty lines": ("c.csv", b"\n image , caption\n\n1.png ,One. \n", 4),
    "file_name": ("c.csv", b"file_name;caption\n1.png;One.\n", 2),
    "image_id": ("c.tsv", b"image_id\tcaption\n1.png\tOne.\n", 2),
}
"""Name of the file, its content, and the line of the caption."""


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_captions_are_read_as_those_of_labels(tmp_path: Path, kind: str) -> None:
    name, data, line = TABLES[kind]
    path = str(tmp_path / name)
    (tmp_path / name).write_bytes(data)
    found = captions.read(path)
    assert (found.of("x", "frames/1.png"), len(found)) == ("One.", 1)
    labels = data.replace(b"file_name", b"image").replace(b"image_id", b"image").replace(b"caption", b"question")
    (tmp_path / name).write_bytes(labels)
    ((where, cells),) = delimited.rows(path, "image")
    assert (where, cells["image"], cells["question"]) == (f"{path}:{line}", "1.png", "One.")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("c.csv", b"filename,caption\n1.png,One.\n", "no column 'image' .* write 'image' for 'filename'$"),
        ("c.tsv", b"Image\tCaption\n1.png\tOne.\n", "write 'image' for 'Image'$"),
        ("c.csv", b"image,text\n1.png,One.\n", "no caption in 'caption'; .* such as 'text'$"),
        ("c.csv", b"image;Description\n1.png;One.\n", "no caption in 'caption'; .* such as 'Description'$"),
        ("c.jsonl", b'{"image": "1.png", "Caption": "One."}', "no caption in 'caption'; .* such as 'Caption'$"),
        ("c.json", b'[{"image": "1.png", "text": "One."}]', "no caption in 'caption'; .* such as 'text'$"),
        ("c.jsonl", b'{"filename": "1.png", "caption": "One."}', r"needs .* key 'filename': did you mean 'image'\?$"),
        ("c.csv", "image,caption\n1.png,One.\n".encode("utf-16"), "looks like text in UTF-16: save it as UTF-8"),
        ("c.csv", "image,caption\n1.png,Eins für".encode("cp1252"), r"not UTF-8 .* save the file as UTF-8$"),
        ("c.csv", b"PK\x03\x04\xff", "an Excel or zip file: save it as CSV"),
        ("c.csv", b'{"image": "1.png", "caption": "One."}\n', "it looks like JSON Lines"),
        ("c.csv", b'sep=;\nimage;caption\n1.png;One.\n2.png;"Two.\n', r"c\.csv:4: not valid CSV"),
        ("c.tsv", b"image\tcaption\n1.png\tOne.\tTwo.\n", r"c\.tsv:2: more cells than columns"),
    ],
)  # fmt: skip
def test_tables_of_captions_that_cannot_be_read_say_what_to_write(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        captions.read(str(tmp_path / name))


def test_another_column_of_a_table_of_captions_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "c.parquet")
    pq.write_table(pa.table({"image": ["1.png"], "description": ["One."]}), path)
    with pytest.raises(DataError, match=r"no caption in 'caption'; .* such as 'description'$"):
        captions.read(path)
    assert captions.read(path, "description").of("x", "1.png") == "One."
    pq.write_table(pa.table({"image": ["1.png"], "caption": ["One."]}), path)
    with pytest.raises(DataError, match=r"no caption in 'text'; .* such as 'caption'$"):
        captions.read(path, "text")


def test_names_of_one_hash_are_told_apart_and_names_that_are_no_unicode_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "keys_of", lambda texts: np.full(len(texts), 7, np.uint64))
    rows = [("a.png", "A."), ("b.png", "B."), ("a.png", "Again."), ("b.png", "B."), ("c\udce9.png", "C.")]
    found = captions.Captions("x", rows)
    assert (len(found), found.twice) == (3, 1)
    assert [found.of("same", name) for name in ("a.png", "f/b.png", "c\udce9.png", "d.png")] == ["A.", "B.", "C.", None]


def test_captions_lie_on_the_disk_and_few_bytes_of_each_in_memory() -> None:
    count, long = 20_000, "A red square beside a blue circle. " * 20
    pa.default_memory_pool().release_unused()
    tracemalloc.start()
    found = captions.Captions("x", ((f"{n}.png", long) for n in range(count)))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 40 * count
    assert peak < 1000 * captions._FEW
    assert found.of("i", "19999.png") == long
