"""Counting a source before ingest: exact where it is small and local, said to be unknown where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from leaml.config import SourceConfig
from leaml.data import registry
from leaml.data.count import Count, count
from leaml.data.ingest import ingest
from leaml.data.records import CountingCost


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Six images of which two are equal, one is missing, with two questions each."""
    rows = []
    for n in range(6):
        if n < 5:
            Image.new("RGB", (8, 8), (n % 4, 0, 0)).save(tmp_path / f"{n}.png")
        rows += [{"image": f"{n}.png", "question": f"q{k}", "answer": "a"} for k in range(2)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "labels.jsonl"


def test_small_local_sources_are_counted_as_ingest_will(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert count(SourceConfig(format="jsonl", path=str(labels))) == Count(4, 12)
    three = SourceConfig(format="jsonl", path=str(labels), limit=3)  # which three are drawn hangs on the path
    made = ingest(three, str(tmp_path_factory.mktemp("out") / "images"), None, max_quarantined=1.0)
    assert count(three).images == made.images <= 3
    assert count(SourceConfig(format="folder", path=str(labels.parent))) == Count(4, 0)
    assert count(SourceConfig(format="easy_vqa", split="test")) == Count(1000, 9673)


def test_of_large_sources_the_beginning_stands_for_all(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "counting", lambda name: CountingCost(sample=2))
    assert count(SourceConfig(format="jsonl", path=str(labels))) == Count(6, 12, about=True)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"format": "huggingface", "path": "somebody/data"}, "not on this machine; a hub id?"),
        ({"format": "jsonl", "path": "nowhere/labels.jsonl"}, "no nowhere/labels.jsonl yet"),
        ({"format": "folder", "path": "s3://bucket/frames"}, "on S3"),
        ({"format": "video", "path": "."}, "counting video would read all of it"),
        ({"format": "easy_vqa"}, "easy_vqa has the splits train and test"),
    ],
)
def test_what_cannot_be_counted_says_why(source: dict[str, str], why: str) -> None:
    found = count(SourceConfig(**source))
    assert (found.images, found.questions) == (None, None)
    assert why in found.why


def test_the_registry_counts_without_loading(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for image in labels.parent.glob("*.png"):
        image.unlink()
    assert registry.count(SourceConfig(format="jsonl", path=str(labels))) == 6
    assert registry.count(SourceConfig(format="jsonl", path=str(labels), limit=4)) == 4
