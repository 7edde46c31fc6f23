"""Images that stand in rows as base64: what is damaged is lost under its own name, with its line, and counted."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from leaml.config import SourceConfig
from leaml.data.embedded import DAMAGED, decode
from leaml.data.ingest import QuarantineError, ingest
from leaml.data.registry import read


def picture(seed: int) -> str:
    """A PNG in base64, different for each seed."""
    buffer = io.BytesIO()
    Image.effect_noise((60 + seed, 60), 90).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def source(form: str, folder: Path, images: list[str]) -> SourceConfig:
    """A source whose rows hold these images."""
    rows = [{"image": image, "question": f"q{n}?", "answer": "a"} for n, image in enumerate(images)]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "f.parquet")
        return SourceConfig(format="parquet", path=str(folder / "f.parquet"))
    if form == "conversations":
        chats = [{"role": "user", "content": "q?"}, {"role": "assistant", "content": "a"}]
        rows = [{"image": image, "messages": chats} for image in images]  # type: ignore[misc]
    (folder / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(format=form, path=str(folder / "f.jsonl"))


DAMAGES: dict[str, Callable[[str], str]] = {
    "cut": lambda text: text[:-3],
    "percent": lambda text: "data:image/png;base64," + text.replace("/", "%2F").replace("+", "%2B"),
    "padding inside": lambda text: text[:400] + "==" + text[400:],
    "another character": lambda text: text[:400] + "!" + text[401:],
    "no base64": lambda text: "data:image/png," + text,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("form", ["jsonl", "conversations", "parquet"])
def test_each_damaged_image_is_lost_under_its_own_name(form: str, damage: str, tmp_path: Path) -> None:
    whole = [picture(seed) for seed in range(8)]
    images = [*whole[:4], *map(DAMAGES[damage], whole[4:])]
    found = ingest(source(form, tmp_path, images), str(tmp_path / "i"), str(tmp_path / "l.parquet"), max_quarantined=0.6)
    assert (found.images, found.rows, len(found.quarantined)) == (4, 4, 4)
    assert len({row["uri"] for row in found.quarantined}) == 4
    for number, row in enumerate(found.quarantined, 5):
        assert DAMAGED in row["reason"]
        assert len(row["reason"]) < 400
        place = f"row {number - 1}" if form == "parquet" else f"f.jsonl:{number}: "
        assert place in row["reason"] + row["uri"]
    with pytest.raises(QuarantineError, match="4 of 8 images"):
        ingest(source(form, tmp_path, images), str(tmp_path / "j"), str(tmp_path / "m.parquet"), max_quarantined=0.4)


@pytest.mark.parametrize("spelt", [lambda t: " \n" + t, lambda t: "\n".join(t[n : n + 60] for n in range(0, len(t), 60))])
@pytest.mark.parametrize("before", ["", "data:image/png;base64,"])
def test_base64_may_be_indented_and_broken_into_lines(before: str, spelt: Callable[[str], str], tmp_path: Path) -> None:
    text = picture(0)
    assert decode(spelt(before + text)) == base64.b64decode(text)
    (record,) = read(source("jsonl", tmp_path, [spelt(before + text)]))
    assert record.data == base64.b64decode(text)


@pytest.mark.parametrize("form", ["jsonl", "conversations", "parquet"])
def test_texts_that_are_neither_names_nor_images_lose_their_row_alone(form: str, tmp_path: Path) -> None:
    unknown = [
        base64.b64encode(start + b"x" * size).decode() for start in (b"%PDF-1.4 ", b"hello ") for size in (200, 250, 9000)
    ]
    images = [picture(0), *unknown, "x" * 304, "y/" * 2500 + "a.png", "loop", "loop/a.png", "gone.png", "../out.png"]
    (tmp_path / "loop").symlink_to("loop")
    found = ingest(source(form, tmp_path, images), str(tmp_path / "i"), str(tmp_path / "l.parquet"), max_quarantined=1.0)
    assert (found.images, len(found.quarantined)) == (1, len(images) - 1)
    assert len({row["uri"] for row in found.quarantined}) == len(images) - 1
    for number, row in enumerate(found.quarantined, 2):
        assert len(row["reason"]) < 700
        assert form == "parquet" or f"f.jsonl:{number}: " in row["reason"]
    assert sum("neither a path nor an image in base64" in row["reason"] for row in found.quarantined) == 8
