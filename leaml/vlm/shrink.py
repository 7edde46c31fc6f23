"""Shrinks an image to what a model's processor keeps of it, before it is handed on.

An engine that is given an image of 16 megapixels copies, converts and resizes all of it for a model that looks at 64 x 64.
Made here by the processor's own rule and filter, the first resize leaves the processor nothing to shrink, so the model sees the
same pixels (with a processor on torchvision, whose filters round differently, pixels within 2 of 255). A model that sees tiles
and the whole image sees the same tiles; the whole is made from what they are cut from, and differs by 0.4 of 255 in the mean.
Of long and narrow images more is kept for the sake of the whole, and the tiles differ too, by less than 1 in the mean.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from PIL import Image

from leaml._compat import image_tokens

Shrink = Callable[[Image.Image], Image.Image]
"""Makes an image as small as the model's processor would; what it would not shrink comes back as it is."""

_Size = tuple[int, int]
"""Width and height, in pixels."""
_Rule = Callable[[_Size], _Size]
"""From the size of an image to the size that the processor resizes it to first."""
_Fit = Callable[[_Size, int], tuple[_Size, _Size]]
"""From the size of an image to that of the canvas its tiles are cut from, and to its size on one so many times as large."""
_PIL = "Pil"
"""End of the class names of processors without torchvision."""


def shrink_of(processor: object, overrides: object = None) -> Shrink:
    """The `Shrink` of a processor.

    Args:
        processor: Of the model.
        overrides: vLLM's `mm_processor_kwargs`; with any, images are left as they are, since they may change sizes.
    """
    images: Any = getattr(processor, "image_processor", None)
    # a class of the model's own code may resize in any way, whatever it inherits from
    known = type(images).__module__.startswith("transformers.models.")
    name = type(images).__name__.removesuffix(_PIL).removesuffix("Fast")
    if not known or overrides or not getattr(images, "do_resize", False):
        return _unchanged
    found = _tiled(_CANVASES[name], images, processor) if name in _CANVASES else _RULES.get(name, lambda _: None)(images)
    if found is None:
        return _unchanged
    resample = _filter(images)

    def shrink(image: Image.Image) -> Image.Image:
        target = found(image.size)
        smaller = 0 < target[0] <= image.width and 0 < target[1] <= image.height and target != image.size
        # a size that the processor would change once more is another image than its one resize makes
        if not smaller or found(target) != target:
            return image
        return image.resize(target, resample)

    return shrink


class _Images(Protocol):
    """What the rules read of an image processor of transformers."""

    size: Mapping[str, int]
    resample: int


class _PatchedImages(_Images, Protocol):
    patch_size: int
    merge_size: int
    temporal_patch_size: int


class _PixtralImages(_Images, Protocol):
    patch_size: int | Mapping[str, int]


def _unchanged(image: Image.Image) -> Image.Image:
    return image


def _filter(images: _Images) -> Image.Resampling:
    """The filter that the processor resizes with."""
    resample = Image.Resampling(int(images.resample))
    if resample == Image.Resampling.LANCZOS and not type(images).__name__.endswith(_PIL):
        from transformers.utils import is_torchvision_greater_or_equal

        if not is_torchvision_greater_or_equal("0.27"):
            return Image.Resampling.BICUBIC
    return resample


def _function(images: _Images, name: str) -> Callable[..., tuple[int, int]]:
    """A function of the processor's own module that gives a height and a width."""
    return getattr(sys.modules[type(images).__module__], name)  # type: ignore[no-any-return]


def _blank(size: _Size) -> np.ndarray:
    """An image of this size, channels first, that takes no memory: for functions that only look at the shape."""
    return np.broadcast_to(np.uint8(0), (3, size[1], size[0]))


def _turned(height_width: tuple[int, int]) -> _Size:
    return int(height_width[1]), int(height_width[0])


def _longest_edge(images: _Images) -> _Rule | None:
    """Idefics3 and SmolVLM: the longer side gets a length, and tiles are cut from that."""
    edge, output = images.size.get("longest_edge"), _function(images, "get_resize_output_image_size")
    return (lambda size: _turned(output(_blank(size), edge))) if edge else None


def _area(images: _PatchedImages) -> _Rule | None:
    """Qwen-VL: sides are multiples of a patch, and their product is bounded."""
    least, most, resize = images.size.get("shortest_edge"), images.size.get("longest_edge"), _function(images, "smart_resize")
    factor = images.patch_size * images.merge_size

    def output(size: _Size) -> _Size:
        try:
            return _turned(resize(size[1], size[0], factor=factor, min_pixels=least, max_pixels=most))
        except ValueError:  # too long and narrow, which is for the processor to say
            return size

    return output if least and most else None


def _area_of_frames(images: _PatchedImages) -> _Rule | None:
    """GLM-4V: as Qwen-VL, for an image that counts as several frames."""
    least, most, resize = images.size.get("shortest_edge"), images.size.get("longest_edge"), _function(images, "smart_resize")
    frames, factor = images.temporal_patch_size, images.patch_size * images.merge_size
    common = {"temporal_factor": frames, "factor": factor, "min_pixels": least, "max_pixels": most}

    def output(size: _Size) -> _Size:
        try:
            return _turned(resize(num_frames=frames, height=size[1], width=size[0], **common))
        except ValueError:
            return size

    return output if least and most else None


def _fixed(images: _Images) -> _Rule | None:
    """SigLIP (PaliGemma) and Gemma 3: one size for all images, unless crops are taken first."""
    height, width = images.size.get("height"), images.size.get("width")
    if not height or not width or getattr(images, "do_pan_and_scan", False) or getattr(images, "do_center_crop", False):
        return None
    return lambda _: (width, height)


def _shortest_edge(images: _Images) -> _Rule | None:
    """CLIP (LLaVA-1.5): the shorter side gets a length, and the middle is cut out."""
    from transformers.image_transforms import get_resize_output_image_size

    edge = images.size.get("shortest_edge")
    if not edge or images.size.get("longest_edge"):
        return _fixed(images)
    return lambda size: _turned(
        get_resize_output_image_size(_blank(size), edge, default_to_square=False, input_data_format="channels_first")
    )


def _patches(images: _PixtralImages) -> _Rule | None:
    """Pixtral: the longer side is bounded, and sides are multiples of a patch."""
    edge, output = images.size.get("longest_edge"), _function(images, "get_resize_output_image_size")
    patch = images.patch_size
    patches = (patch, patch) if isinstance(patch, int) else (patch["height"], patch["width"])
    keywords = {"size": (edge, edge), "patch_size": patches, "input_data_format": "channels_first"}
    return (lambda size: _turned(output(_blank(size), **keywords))) if edge else None


def _tiled(canvas_of: Callable[[Any, _Size], _Fit], images: _Images, processor: object) -> _Rule | None:
    """The smallest size from which the processor makes the same tiles of as many tokens, and the whole image without loss.

    Tokens follow the sides' ratio, which whole pixels change a little: where they would be others, a larger canvas is tried.
    """
    edge = images.size.get("shortest_edge", 0)
    whole = images.size.get("width") or edge, images.size.get("height") or edge
    if not all(whole):
        return None
    fit = canvas_of(images, whole)

    def output(size: _Size) -> _Size:
        canvas, placed = fit(size, 1)
        tokens = image_tokens(processor, size)
        least = min(1, size[0] / whole[0], size[1] / whole[1])
        target, times = placed, 1
        while target != size and target[0] <= size[0] and target[1] <= size[1]:
            complete = min(target[0] / whole[0], target[1] / whole[1]) >= least
            if complete and fit(target, 1) == (canvas, placed) and image_tokens(processor, target) == tokens:
                return target
            times += 1
            target = fit(size, times)[1]
        return size

    return output


class _CroppedImages(_Images, Protocol):
    min_patches: int
    max_patches: int


class _PinpointImages(_Images, Protocol):
    image_grid_pinpoints: list[list[int]]


def _cropped(images: _CroppedImages, tile: _Size) -> _Fit:
    """InternVL: the image fills the canvas, each side by itself; where no tiles are asked for, less than the canvas is seen."""
    grid = _function(images, "get_optimal_tiled_canvas")

    def fit(size: _Size, times: int) -> tuple[_Size, _Size]:
        columns, rows = grid((size[1], size[0]), (tile[1], tile[0]), images.min_patches, images.max_patches)
        canvas = tile[0] * columns, tile[1] * rows
        return canvas, (min(size[0], canvas[0] * times), min(size[1], canvas[1] * times))

    return fit


def _padded(images: _PinpointImages, _: _Size) -> _Fit:
    """LLaVA-NeXT and LLaVA-OneVision: the image keeps its sides' ratio, and the rest of the canvas is black."""
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

    def fit(size: _Size, times: int) -> tuple[_Size, _Size]:
        height, width = select_best_resolution((size[1], size[0]), images.image_grid_pinpoints)
        placed = get_patch_output_size(_blank(size), (height * times, width * times), input_data_format="channels_first")
        return (width, height), _turned(placed)

    return fit


_RULES: dict[str, Callable[[Any], _Rule | None]] = {
    "Idefics3ImageProcessor": _longest_edge,
    "SmolVLMImageProcessor": _longest_edge,
    "Qwen2VLImageProcessor": _area,
    "Glm4vImageProcessor": _area_of_frames,
    "SiglipImageProcessor": _fixed,
    "Gemma3ImageProcessor": _fixed,
    "CLIPImageProcessor": _shortest_edge,
    "PixtralImageProcessor": _patches,
}
"""By class name."""

_CANVASES: dict[str, Callable[[Any, _Size], _Fit]] = {
    "GotOcr2ImageProcessor": _cropped,
    "LlavaNextImageProcessor": _padded,
    "LlavaOnevisionImageProcessor": _padded,
}
"""By class name, of processors that make several images, each from the one that they are given."""
