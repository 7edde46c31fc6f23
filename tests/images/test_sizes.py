"""The largest sizes of any number of images are few, and none of the others takes more."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
from PIL import Image

from leaml.config import SourceConfig
from leaml.data.ingest import ingest
from leaml.images.sizes import LargestSizes

SIDE = st.integers(1, 20_000)


@hypothesis.given(st.lists(st.tuples(SIDE, SIDE), max_size=50))
def test_every_image_has_one_of_nearly_its_shape_and_at_least_its_pixels(sizes: list[tuple[int, int]]) -> None:
    found = LargestSizes()
    for size in sizes:
        found.add(*size)
    kept = found.sizes()
    assert set(kept) <= set(sizes)
    assert len(kept) == len(set(kept)) <= 2000
    for width, height in sizes:
        alike = [w * h for w, h in kept if 1 / 1.012 < (w / h) / (width / height) < 1.012]
        assert max(alike) >= width * height


def test_an_ingest_notes_them_however_late_they_come(tmp_path: Path) -> None:
    sizes = [(20, 10), (40, 40), (64, 64), (9, 90), (52, 26), (20, 10), (40, 30), (40, 32)]
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"{number}.png")
    source = SourceConfig(format="folder", path=str(tmp_path))
    found = ingest(source, str(tmp_path / "out" / "images"), None)
    assert found.largest == ((64, 64), (52, 26), (40, 32), (40, 30), (9, 90))
