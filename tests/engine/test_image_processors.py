"""Pixels that are made with less work, beside those of transformers' own processors."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional
from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor
from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor

from leaml.engine import pixels
from leaml.engine.pixels import Memory, quicker

SIZES = [(1280, 1024), (300, 900), (64, 48), (1500, 250), (512, 512)]
TILES = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}
CASES = [
    (Idefics3ImageProcessor, TILES),
    (SmolVLMImageProcessor, TILES),
    (SmolVLMImageProcessor, TILES | {"do_image_splitting": False}),
    (SmolVLMImageProcessor, TILES | {"do_normalize": False}),
    (Idefics3ImageProcessor, {"size": {"longest_edge": 364}, "max_image_size": {"longest_edge": 364}}),
    (Qwen2VLImageProcessor, {}),
    (Qwen2VLImageProcessor, {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
]


def _image(size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(sum(size))
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def _shown(image: Image.Image, kind: type[Any]) -> list[Any]:
    return [image] if kind is Qwen2VLImageProcessor else [[image]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_pixels_are_the_same_bit_by_bit(kind: type[Any], settings: dict[str, Any], dtype: torch.dtype) -> None:
    quick = quicker(kind, dtype)
    assert issubclass(quick, kind) and quick is not kind
    for size in SIZES:
        shown = _shown(_image(size), kind)
        expected = kind(**settings)(shown, return_tensors="pt")
        found = quick(**settings)(shown, return_tensors="pt")
        assert set(found) == set(expected)
        assert found["pixel_values"].dtype == dtype
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found[name].to(value.dtype), value.to(found[name].dtype).to(value.dtype)), (size, name)
            else:
                assert found[name] == value


@pytest.mark.parametrize("kind", [Idefics3ImageProcessor, Qwen2VLImageProcessor])
def test_several_images_are_left_to_the_processor_itself(kind: type[Any]) -> None:
    shown = _shown(_image(SIZES[1]), kind) + _shown(_image(SIZES[3]), kind)
    expected, found = (made()(shown, return_tensors="pt") for made in (kind, quicker(kind, torch.float32)))
    assert all(torch.equal(found[name], value) for name, value in expected.items() if isinstance(value, torch.Tensor))


def test_a_processor_that_is_not_known_stays_as_it_is() -> None:
    class SmolVLM(SmolVLMImageProcessor):
        """Of a model's own code."""

    SmolVLM.__name__ = "SmolVLMImageProcessor"
    for kind in (SiglipImageProcessor, SmolVLM):
        assert quicker(kind, torch.float32) is kind


@pytest.mark.parametrize("kind", [SmolVLMImageProcessor, Qwen2VLImageProcessor])
def test_each_number_is_made_once_and_in_memory_that_was_there(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo of a megapixel: no more fresh numbers than a piece of it has, and none twice."""
    images, shown, made = quicker(kind, torch.float32)(), _shown(_image((1280, 1024)), kind), Counter[str]()
    normalize = functional.normalize

    def counted(image: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        made["numbers"] += image.numel()
        return normalize(image, *arguments, **keywords)

    monkeypatch.setattr(functional, "normalize", counted)
    values = images(shown, return_tensors="pt")["pixel_values"]
    where, numbers = values.data_ptr(), values.numel()
    assert made["numbers"] == numbers
    del values
    assert images(shown, return_tensors="pt")["pixel_values"].data_ptr() == where


def test_memory_is_another_tensors_once_all_views_of_the_first_are_gone() -> None:
    memory, megabyte = Memory(), 2**20
    first = memory.empty((4, megabyte), torch.float32)
    where, view = first.data_ptr(), first[1:2, ::2]
    del first
    second = memory.empty((megabyte, 4), torch.float32)
    assert second.data_ptr() != where
    del view
    assert memory.empty((3, 2, megabyte), torch.bfloat16).data_ptr() == where  # of about that size
    assert memory.empty((8, megabyte), torch.float32).data_ptr() not in (where, second.data_ptr())


def test_memory_that_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_MOST", 3 * 2**23)
    memory = Memory()
    tensors = [memory.empty((n, 2**21), torch.float32) for n in (1, 1, 2, 1)]
    where = [tensor.data_ptr() for tensor in tensors]
    while tensors:
        tensors.pop(0)
    assert {size: len(waiting) for size, waiting in memory._free.items() if waiting} == {2**23: 3}  # the larger one is not kept
    again = [memory.empty((1, 2**21), torch.float32) for _ in range(3)]
    assert {tensor.data_ptr() for tensor in again} == {where[0], where[1], where[3]}


def test_a_processor_of_another_version_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.14, which GPU installations have, makes patches of Qwen-VL in another way."""
    monkeypatch.delattr(Qwen2VLImageProcessor, "patchify")
    assert quicker(Qwen2VLImageProcessor, torch.float32) is Qwen2VLImageProcessor


def test_numbers_are_normalised_though_a_processor_ignores_that_it_is_to_be_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of transformers 5.14 does."""
    shown = _shown(_image((300, 900)), Idefics3ImageProcessor)
    expected = Idefics3ImageProcessor(**TILES)(shown, return_tensors="pt")["pixel_values"]
    kind = quicker(Idefics3ImageProcessor, torch.float32)
    monkeypatch.setattr(kind, "normalize", lambda self, image, mean, std, **_: image)
    assert torch.equal(kind(**TILES)(shown, return_tensors="pt")["pixel_values"], expected)
