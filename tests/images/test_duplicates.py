"""Perceptual hashes: changed copies are near, other images far, and chunks lose no pair."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from leaml.images import duplicates
from leaml.images.duplicates import near_pairs, perceptual_hash


def scene(seed: int, size: int = 200) -> Image.Image:
    """A smooth random picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


def distance(a: Image.Image, b: Image.Image) -> int:
    return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_near_and_others_far(seed: int) -> None:
    image = scene(seed)
    assert 0 <= perceptual_hash(image) < 2**64
    for copy in (image.resize((90, 90)), recompressed(image), ImageEnhance.Brightness(image).enhance(1.2), image.convert("L")):
        assert distance(image, copy) <= 4
    assert min(distance(image, scene(other)) for other in range(5, 25)) > 10


def test_pairs_within_the_distance_in_any_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    tested = rng.integers(0, 2**64, 20, dtype=np.uint64)
    others = rng.integers(0, 2**64, 1000, dtype=np.uint64)
    others[[3, 500, 999]] = tested[[7, 0, 19]] ^ np.array([0, 0b111, 1 << 63], dtype=np.uint64)
    for bits, expected in ((0, {(7, 3, 0)}), (1, {(7, 3, 0), (19, 999, 1)}), (3, {(7, 3, 0), (0, 500, 3), (19, 999, 1)})):
        for chunk in (1, 333, 2**24):
            monkeypatch.setattr(duplicates, "CHUNK", chunk * 20)
            found = near_pairs(tested, others, bits)
            assert set(found) == expected
            assert len(found) == len(expected)
    assert near_pairs(tested[:0], others, 64) == near_pairs(tested, others[:0], 64) == []
