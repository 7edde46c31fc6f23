"""`max_image_pixels` and `image_tiles`: what the processors of real architectures make of them, and what is kept of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from leaml.config import ModelConfig
from leaml.errors import ModelError
from leaml.vlm import image_size, load
from leaml.vlm.collate import Collator, Turn
from leaml.vlm.lengths import Lengths

PHOTO = (1280, 1024)
SIZES = [PHOTO, (1024, 1280), (640, 640), (2000, 500), (300, 900), (64, 48), (20, 30)]
LARGEST = 2**20
TILED = ("internvl", "llava_next", "llava_onevision")


def tokens(folder: Path, size: tuple[int, int] = PHOTO, **wanted: Any) -> int:
    """Tokens of an image in a prompt of training."""
    return Lengths.of_model(ModelConfig(name=str(folder), **wanted)).image(size)


def images_of(folder: Path, **wanted: Any) -> Any:
    """The image processor of a model, set up; of the kind that needs no torchvision."""
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    image_size.limit(SimpleNamespace(image_processor=images), ModelConfig(name="any", **wanted), "any")
    return images


@pytest.mark.parametrize(
    ("folder", "own", "pixels", "fewer", "untiled"),
    [
        ("smolvlm256m_shape", 1126, LARGEST, 332, 66),
        ("smolvlm1", 310, 128 * 128 + 5, 92, 18),
        ("llava_next", 69, 60 * 60, 35, 35),
        ("llava15", 15, LARGEST, 15, 15),
        ("gemma3", 6, LARGEST, 6, 6),
    ],
)
def test_an_image_takes_fewer_tokens(shared_folder: Path, folder: str, own: int, pixels: int, fewer: int, untiled: int) -> None:
    model = shared_folder / "zoo" / folder
    assert tokens(model) == tokens(model, max_image_pixels=100 * LARGEST) == own
    assert tokens(model, max_image_pixels=pixels) == fewer
    assert tokens(model, image_tiles=False) == untiled


def processed(images: Any, size: tuple[int, int]) -> Any:
    options = {"crop_to_patches": True} if hasattr(images, "crop_to_patches") else {}  # as InternVL's processor asks for
    return images(images=[Image.new("RGB", size)], return_tensors="np", **options)


def shown(images: Any, size: tuple[int, int]) -> int:
    """Pixels of all that is made of an image, without an overview beside tiles."""
    found = processed(images, size)
    if "image_grid_thw" in found:
        return int(found["image_grid_thw"].prod()) * images.patch_size**2
    tiles = found["pixel_values"].reshape(-1, *found["pixel_values"].shape[-3:])
    overview = len(tiles) > 1 or hasattr(images, "image_grid_pinpoints")
    return (len(tiles) - overview) * math.prod(tiles.shape[-2:])


@pytest.mark.parametrize("pixels", [5_000, 9_000, 17_000])
@pytest.mark.parametrize("folder", ["smolvlm1", "smolvlm2", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", *TILED])
def test_no_image_has_more_pixels(shared_folder: Path, folder: str, pixels: int) -> None:
    model = shared_folder / "zoo" / folder
    assert max(shown(images_of(model), size) for size in SIZES) > min(pixels, 12_000)
    images = images_of(model, max_image_pixels=pixels)
    assert max(shown(images, size) for size in SIZES) <= pixels


@pytest.mark.parametrize(
    ("folder", "before", "after"), [("smolvlm2", 17, 1), ("internvl", 13, 1), ("llava_onevision", 7, 2), ("llava_next", 5, 2)]
)
def test_without_tiles_there_is_the_overview(shared_folder: Path, folder: str, before: int, after: int) -> None:
    """LLaVA-NeXT's models need one tile beside it."""
    for wanted, count in (({}, before), ({"image_tiles": False}, after)):
        images = images_of(shared_folder / "zoo" / folder, **wanted)
        found = processed(images, PHOTO)["pixel_values"]
        assert found.reshape(-1, *found.shape[-3:]).shape[0] == count


@pytest.mark.parametrize("folder", ["smolvlm1", "llava_next"])
def test_a_saved_model_shows_images_as_it_was_trained(shared_folder: Path, tmp_path: Path, folder: str) -> None:
    wanted: dict[str, Any] = {"max_image_pixels": 128 * 128, "image_tiles": folder == "smolvlm1"}
    source = shared_folder / "zoo" / folder
    vlm = load.load(ModelConfig(name=str(source), **wanted))
    load.save(vlm.model, vlm.processor, tmp_path)
    assert tokens(tmp_path) == tokens(source, **wanted) < tokens(source)

    saved = load.load(ModelConfig(name=str(tmp_path)))
    batch = Collator(saved.processor)([Turn(Image.effect_noise(PHOTO, 90).convert("RGB"), "what is it?", "a cat")])
    with torch.no_grad():
        loss = saved.model(**batch).loss
        assert torch.isfinite(loss)  # the model finds as many features as there are tokens
        assert torch.equal(loss, vlm.model(**batch).loss)
    if folder == "llava_next":
        assert json.loads((tmp_path / "config.json").read_text())["image_grid_pinpoints"] == [[56, 56]]


def test_a_size_that_no_image_can_have_is_refused_before_weights_are_loaded() -> None:
    for call in (load.check, load.load, load.processor):
        with pytest.raises(ModelError, match=r"max_image_pixels of the model 'leaml-tiny' is 100, .* set it to 4096 or more"):
            call(ModelConfig(name="leaml-tiny", max_image_pixels=100))
    load.check(ModelConfig(name="leaml-tiny", max_image_pixels=4096))


def test_a_processor_whose_settings_are_not_known_is_refused(shared_folder: Path) -> None:
    for wanted, keys in (
        ({"image_tiles": False}, "image_tiles"),
        ({"max_image_pixels": 50_000}, "max_image_pixels"),
        ({"max_image_pixels": 50_000, "image_tiles": False}, "max_image_pixels and image_tiles"),
    ):
        with pytest.raises(ModelError, match=rf"^{keys} cannot be set for the model 'any': its images are made by Pixtral"):
            images_of(shared_folder / "zoo" / "pixtral", **wanted)
    assert images_of(shared_folder / "zoo" / "pixtral").size["longest_edge"] == 224
