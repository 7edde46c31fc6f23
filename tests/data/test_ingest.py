"""Ingest: contract tables from real files, poison in quarantine, duplicates merged, memory flat."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from leaml.config import SourceConfig
from leaml.data import image_table, ingest, registry, store, tables
from leaml.data.image_table import ImageTable
from leaml.data.records import Keep, Question, Record
from leaml.errors import DataError
from leaml.io import files, lance_tables


def png(seed: int, width: int = 8, height: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (seed % 256, seed // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def run(source: SourceConfig, out: Path | str, **options: Any) -> ingest.IngestResult:
    return ingest.ingest(source, files.join(str(out), "images"), files.join(str(out), "labeled.parquet"), **options)


def read_images(out: Path) -> list[dict[str, Any]]:
    return ImageTable(str(out / "images")).columns(tables.IMAGES.names).to_pylist()


@pytest.fixture
def poison(tmp_path: Path) -> Path:
    """Twenty good images among bad ones and odd names."""
    folder = tmp_path / "poison"
    folder.mkdir()
    for n in range(20):
        (folder / f"{n:02d}.png").write_bytes(png(n))
    bad = {
        "empty.jpg": b"",
        "html.jpg": b"<html>not found</html>",
        "torn.png": png(50, 64, 64)[:60],
        "bomb.png": png(51, 300, 300),
        "new\nline ü.svg": b"<svg/>",
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    (folder / "wrong extension.jpg").write_bytes(png(60))
    (folder / "gone.png").symlink_to(folder / "nowhere")
    return folder


def test_poison_goes_to_quarantine_and_the_rest_is_unharmed(poison: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    source = SourceConfig(format="folder", path=str(poison))
    result = run(source, tmp_path, max_pixels=50_000, max_quarantined=0.5, split="labeled", progress=seen.append)
    rows = read_images(tmp_path)
    assert {row["bytes"] for row in rows} == {png(n) for n in (*range(20), 60)}
    assert result.images == len(rows) == 21
    assert all(row["image_id"] == tables.image_id(row["bytes"]) for row in rows)
    assert {(row["width"], row["height"], row["split"], row["source"]) for row in rows} == {(8, 6, "labeled", "folder")}
    quarantine = pq.read_table(tmp_path / "quarantine-labeled.parquet")
    assert quarantine.schema == tables.QUARANTINE
    assert quarantine.to_pylist() == result.quarantined
    reasons = {row["uri"].rpartition("/")[2]: row["reason"] for row in result.quarantined}
    assert reasons.keys() == {"empty.jpg", "html.jpg", "torn.png", "bomb.png", "new\nline ü.svg", "gone.png"}
    assert "does not exist" in reasons["gone.png"]
    assert reasons["html.jpg"] == "not an image: an HTML page"
    assert reasons["bomb.png"].startswith("too large: 300x300")
    assert seen == list(range(1, len(rows) + len(reasons) + 1))
    assert pq.read_table(tmp_path / "labeled.parquet").schema == tables.LABELED


def test_too_much_poison_stops_with_a_summary_by_reason(poison: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"6 of 27 images of .* over the limit of 5%.*: 2 not an image, .*1 too large"):
        run(SourceConfig(format="folder", path=str(poison)), tmp_path, max_pixels=50_000)
    assert pq.read_table(tmp_path / "quarantine-labeled.parquet").num_rows == 6
    assert not (tmp_path / "labeled.parquet").exists()


def test_all_unreadable_is_an_error_even_if_allowed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 1 images"):
        run(SourceConfig(format="folder", path=str(tmp_path / "in")), tmp_path, max_quarantined=1.0)


def test_duplicates_are_one_image_with_united_questions(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "copy of a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    rows = [
        {"image": "a.png", "question": "q", "answer": "yes"},
        {"image": "copy of a.png", "question": "q", "answer": "yes"},
        {"image": "copy of a.png", "question": "q", "answer": "no"},
        {"image": "copy of a.png", "question": "r", "answer": "x", "question_type": "t", "options": ["x", "y"]},
        {"image": "b.png", "question": "q", "answer": "yes"},
    ]
    (tmp_path / "qa.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    result = run(SourceConfig(format="jsonl", path=str(tmp_path / "qa.jsonl")), tmp_path)
    one, two = tables.image_id(png(1)), tables.image_id(png(2))
    assert [row["image_id"] for row in read_images(tmp_path)] == [one, two]
    found = pq.read_table(tmp_path / "labeled.parquet").to_pylist()
    assert [(r["image_id"], r["question"], r["answer"]) for r in found] == [
        *((one, "q", "yes"), (one, "q", "no"), (one, "r", "x")),
        (two, "q", "yes"),
    ]
    assert (found[2]["question_type"], found[2]["options"]) == ("t", ["x", "y"])
    assert (result.images, result.rows) == (2, 4)


def test_fragments_are_bounded_and_the_table_reads_back_as_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_table, "PART_IMAGES", 300)
    source = SourceConfig(format="easy_vqa", split="test", limit=700)
    result = run(source, tmp_path)
    fragments = lance_tables.open_table(str(tmp_path / "images")).get_fragments()
    assert [fragment.count_rows() for fragment in fragments] == [300, 300, 100]
    before = read_images(tmp_path)
    assert run(source, tmp_path) == result
    assert read_images(tmp_path) == before
    assert len(files.listing(str(tmp_path / "images" / "data"))) == 3  # those of the first one are gone
    again = list(registry.read(SourceConfig(format="parquet", path=str(tmp_path))))
    direct = list(registry.read(source))
    assert [(r.data, r.questions) for r in again] == [(r.data, r.questions) for r in direct]
    assert result.rows == sum(len(r.questions) for r in direct)


def test_unlabeled_source_needs_no_labeled_file(tmp_path: Path) -> None:
    source = SourceConfig(format="easy_vqa", split="test", limit=3)
    result = ingest.ingest(source, str(tmp_path / "unlabeled"), None)
    assert result.images == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["quarantine-unlabeled.parquet", "unlabeled", "unlabeled-parts"]
    ingest.forget_parts(str(tmp_path / "unlabeled"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["quarantine-unlabeled.parquet", "unlabeled"]


def test_s3_output_equals_local_output(tmp_path: Path, bucket: str) -> None:
    source = SourceConfig(format="easy_vqa", split="test", limit=20)
    assert run(source, f"{bucket}/run") == run(source, tmp_path)
    files.download_tree(f"{bucket}/run", str(tmp_path / "back"))
    assert read_images(tmp_path / "back") == read_images(tmp_path)
    assert ImageTable(f"{bucket}/run/images").columns(tables.IMAGES.names).to_pylist() == read_images(tmp_path)
    names = ["labeled.parquet", "quarantine-labeled.parquet"]
    assert [p.name for p in sorted((tmp_path / "back").iterdir()) if p.is_file()] == names
    assert all((tmp_path / "back" / n).read_bytes() == (tmp_path / n).read_bytes() for n in names)


def test_memory_stays_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of 48 MB in parts of 2 MB may not need more than a few parts' worth."""
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)

    def endless(source: SourceConfig, keep: Keep) -> Iterator[Record]:
        for n in range(400):
            noise[0, 0] = (n % 256, n // 256, 0)
            buffer = io.BytesIO()
            Image.fromarray(noise).save(buffer, "BMP")
            yield Record(str(n), "endless", None, buffer.getvalue(), (Question("q", str(n)),))

    monkeypatch.setattr(registry, "_find", lambda name: endless)
    monkeypatch.setattr(image_table, "PART_BYTES", 2_000_000)
    tracemalloc.start()
    result = run(SourceConfig(format="endless"), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.images == result.rows == 400
    assert peak < 16_000_000


def test_further_names_of_the_same_bytes_are_counted_and_kept(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for name, seed in (("a.png", 1), ("b.png", 2), ("c.png", 1), ("d.png", 1)):
        (source / name).write_bytes(png(seed))
    found = run(SourceConfig(format="folder", path=str(source)), out)
    assert (found.images, found.seen, found.copies) == (2, 4, 2)
    table = pa.concat_tables(store.copies(str(out / "images")))
    assert [Path(uri).name for uri in table["uri"].to_pylist()] == ["c.png", "d.png"]
    assert set(table["image_id"].to_pylist()) == {tables.image_id(png(1))}
    (source / "c.png").unlink()
    (source / "d.png").unlink()
    assert run(SourceConfig(format="folder", path=str(source)), out).copies == 0
    assert not list(store.copies(str(out / "images")))


def test_an_image_met_again_under_its_own_name_or_none_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = [("a.png", 1), ("a.png", 1), ("", 1), ("b.png", 2)]
    records = [Record(uri, "folder", None, png(seed)) for uri, seed in named]
    monkeypatch.setattr(registry, "records", lambda *_: iter(records))
    found = run(SourceConfig(format="folder", path="x"), tmp_path)
    assert (found.images, found.seen, found.copies) == (2, 4, 0)
