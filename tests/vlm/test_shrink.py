"""Images shrunk before the processor sees them give the same tensors as images that it shrinks itself.

Of processors that show a model tiles and the whole image, the tiles are the same and the whole nearly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from leaml._compat import image_tokens
from leaml.config import resolve_model
from leaml.vlm.shrink import shrink_of

ZOO = Path(__file__).parents[3] / "shared" / "zoo"
SIZES = [(1000, 700), (701, 999), (333, 1900), (1500, 40), (40, 1500), (1024, 1024), (64, 64), (30, 20), (500, 503)]
TOLERANCE = {"pil": 0.0, "torchvision": 2 / 255 / 0.25}
"""Of normalised pixel values: equal to the last bit on Pillow; torchvision's filters round differently, by up to 2 of 255."""


TILED: dict[str, dict[str, Any]] = {
    "internvl": {"size": {"height": 448, "width": 448}, "crop_to_patches": True},
    "llava_next": {
        "size": {"shortest_edge": 336},
        "crop_size": {"height": 336, "width": 336},
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    },
    "llava_onevision": {
        "size": {"height": 384, "width": 384},
        "image_grid_pinpoints": [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
    },
}
"""Settings that the models are published with."""


class Processor:
    """Stands for a processor with these image settings."""

    def __init__(self, images: Any) -> None:
        self.image_processor = images


def tiles(cls: Any, **settings: Any) -> Any:
    return cls(size={"longest_edge": 256}, max_image_size={"longest_edge": 64}, **settings)


SETTINGS: dict[str, Callable[[], Any]] = {
    "idefics3": lambda: tiles(Idefics3ImageProcessorPil),
    "idefics3 in one tile": lambda: tiles(Idefics3ImageProcessorPil, do_image_splitting=False),
    "smolvlm": lambda: tiles(SmolVLMImageProcessorPil),
    "qwen": lambda: Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 64),
    "glm": lambda: Glm4vImageProcessorPil(size={"shortest_edge": 12544, "longest_edge": 100352}),
    "siglip": lambda: SiglipImageProcessorPil(size={"height": 56, "width": 56}),
    "siglip, oblong": lambda: SiglipImageProcessorPil(size={"height": 56, "width": 84}),
    "gemma": lambda: Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
    "clip": lambda: CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
    "clip without crop": lambda: CLIPImageProcessorPil(size={"height": 56, "width": 56}, do_center_crop=False),
    "pixtral": lambda: PixtralImageProcessorPil(size={"longest_edge": 224}, patch_size={"height": 14, "width": 14}),
}


def photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (max(1, height // 5), max(1, width // 5), 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def agree(images: Any) -> list[tuple[int, int]]:
    """Assert that every size gives the same tensors shrunk and not; returns the sizes that were shrunk."""
    shrink, shrunk = shrink_of(Processor(images)), []
    backend = "pil" if type(images).__name__.endswith("Pil") else "torchvision"
    for size in SIZES:
        image = photo(*size)
        small = shrink(image)
        if small is image:
            continue
        assert small.width <= image.width
        assert small.height <= image.height
        shrunk.append(size)
        expected, found = images(images=[image], return_tensors="pt"), images(images=[small], return_tensors="pt")
        assert set(expected) == set(found)
        for name in expected:
            assert found[name].shape == expected[name].shape, (size, name)
            assert float((found[name].double() - expected[name].double()).abs().max()) <= TOLERANCE[backend], (size, name)
    return shrunk


@pytest.mark.parametrize("name", SETTINGS)
def test_tensors_are_the_same(name: str) -> None:
    assert {(1000, 700), (701, 999), (1024, 1024)} <= set(agree(SETTINGS[name]()))


def test_the_shipped_model_is_shown_64_pixels() -> None:
    images = AutoImageProcessor.from_pretrained(resolve_model("leaml-tiny"))
    assert len(agree(images)) >= 5
    assert shrink_of(Processor(images))(photo(500, 250)).size == (64, 32)


@pytest.mark.parametrize(
    "folder", sorted({p.name for p in ZOO.iterdir() if p.is_dir()} - set(TILED)) if ZOO.is_dir() else ["none"]
)
def test_published_settings(folder: str) -> None:
    if not (ZOO / folder).is_dir():
        pytest.skip("../shared/zoo, with settings as models are published with, is not there")
    try:
        images = AutoImageProcessor.from_pretrained(ZOO / folder, backend="pil")
    except (ImportError, ValueError, OSError) as error:
        pytest.skip(f"its processor does not load here: {error}")
    assert bool(agree(images)) is (folder != "smolvlm256m_shape")  # which keeps 2048 pixels


@dataclass
class Sized:
    """An image without pixels."""

    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def resize(self, size: tuple[int, int], _: object) -> Sized:
        return Sized(*size)


WHOLE = {"internvl": -1, "llava_next": 0, "llava_onevision": 0}
"""Which of the images of a model shows the whole."""


def tiled(folder: str, backend: str) -> Any:
    if not (ZOO / folder).is_dir():
        pytest.skip("../shared/zoo, with settings as models are published with, is not there")
    images = AutoImageProcessor.from_pretrained(ZOO / folder, backend=backend)
    return type(images)(**{**images.to_dict(), **TILED[folder]})


@pytest.mark.parametrize("backend", TOLERANCE)
@pytest.mark.parametrize("size", [(3000, 2100), (2400, 2600), (1600, 5000), (9000, 2500)])
@pytest.mark.parametrize("folder", TILED)
def test_tiles_are_the_same_and_the_whole_nearly(folder: str, size: tuple[int, int], backend: str) -> None:
    images, image = tiled(folder, backend), photo(*size)
    small = shrink_of(Processor(images))(image)
    assert small.width * small.height < 0.85 * image.width * image.height
    expected, found = (images(images=[one], return_tensors="pt")["pixel_values"].double() for one in (image, small))
    assert expected.shape == found.shape
    difference = (expected - found).abs().flatten(end_dim=-4) * min(images.image_std) * 255
    whole = WHOLE[folder] % len(difference)
    others = [number for number in range(len(difference)) if number != whole]
    if backend == "pil" and (folder != "llava_next" or size[1] == 2100):
        assert float(difference[others].max()) == 0
    assert float(difference[others].mean()) < 1  # of 255; on a canvas twice as large they are resized twice
    assert float(difference[whole].mean()) < 2.5  # of noise, of which nothing is smooth


@pytest.mark.parametrize("folder", TILED)
def test_a_shrunk_image_has_as_many_tokens_and_nearly_every_one_is_shrunk(folder: str) -> None:
    """Of sizes at random: rows of an unpadded image follow from the ratio of its sides."""
    images, random = tiled(folder, "torchvision"), np.random.default_rng(0)
    processor = AutoProcessor.from_pretrained(ZOO / folder)
    processor.image_processor = images
    shrink, left = shrink_of(processor), 0
    for _ in range(1000):
        pixels, ratio = random.uniform(7e6, 25e6), 2 ** random.uniform(-6, 6)
        image = Sized(max(1, round((pixels * ratio) ** 0.5)), max(1, round((pixels / ratio) ** 0.5)))
        small: Any = shrink(image)  # type: ignore[arg-type]
        assert image_tokens(processor, small.size) == image_tokens(processor, image.size), (image, small)
        left += small is image
    assert left <= 40


@pytest.mark.parametrize("size", [(30_000, 1500), (9000, 600), (30_000, 400), (300, 32_000), (20_000, 1)])
@pytest.mark.parametrize("folder", TILED)
def test_of_long_and_narrow_images_the_short_side_is_what_the_whole_has(folder: str, size: tuple[int, int]) -> None:
    """Nearly: a canvas is taken so many times."""
    small: Any = shrink_of(Processor(tiled(folder, "torchvision")))(Sized(*size))  # type: ignore[arg-type]
    assert small.width <= size[0] and small.height <= size[1]
    assert min(small.size) <= 500
    if min(size) > 500:
        assert small.width * small.height < 0.6 * size[0] * size[1]


def test_what_is_not_understood_is_left_as_it_is() -> None:
    class Own(SiglipImageProcessorPil):
        """Of a model's own code."""

    image, size = photo(500, 400), {"height": 56, "width": 56}
    fixed = SiglipImageProcessorPil(size=size)
    assert shrink_of(Processor(fixed))(image).size == (56, 56)
    for images in (
        Own(size=size),
        SiglipImageProcessorPil(size=size, do_resize=False),
        Gemma3ImageProcessorPil(size=size, do_pan_and_scan=True),
        CLIPImageProcessorPil(size=size, do_center_crop=True),
        None,
    ):
        assert shrink_of(Processor(images))(image) is image, images
    assert shrink_of(Processor(fixed), {"size": {"height": 112, "width": 112}})(image) is image
    assert shrink_of(object())(image) is image


def test_small_and_odd_images_are_never_enlarged() -> None:
    for name, make in SETTINGS.items():
        shrink = shrink_of(Processor(make()))
        for size in ((1, 1), (1, 100), (100, 1), (2, 3000), (27, 27), (3000, 31)):
            small = shrink(Image.new("RGB", size))
            assert small.width <= size[0], (name, size)
            assert small.height <= size[1], (name, size)
