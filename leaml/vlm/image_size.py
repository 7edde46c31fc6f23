"""How large images are shown to a model: `max_image_pixels` and `image_tiles`, as settings of its processor.

They become the processor's own settings, since those are saved with an adapted model and vLLM reads the same ones: with
or without LEAML, a loaded folder shows images as in training. What vLLM has to be told of a model that is not
saved like this yet is `engine_options`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from leaml.errors import ModelError

Settings = dict[str, object]
"""Settings of an image processor by name."""
_PINPOINTS = "image_grid_pinpoints"


class Wanted(Protocol):
    """How large images are to be shown, as `ModelConfig` and `EngineSpec` say it."""

    @property
    def max_image_pixels(self) -> int | None: ...
    @property
    def image_tiles(self) -> bool: ...


def limit(processor: object, wanted: Wanted, name: str) -> Settings:
    """Let a processor show images as they are wanted.

    Args:
        processor: Of the model; the settings of its image processor are changed.
        wanted: The keys of the configuration.
        name: Of the model, for the message.

    Returns:
        What was changed; empty where nothing is wanted that the processor does not do anyway.

    Raises:
        ModelError: The processor can make no image that small, or is of a kind whose settings are not known.
    """
    if wanted.max_image_pixels is None and wanted.image_tiles:
        return {}

    images: Any = getattr(processor, "image_processor", None)
    kind = type(images).__name__
    # a class of the model's own code may read its settings in any way, whatever it inherits from
    known = type(images).__module__.startswith("transformers.models.")
    rule = _RULES.get(kind.removesuffix("Pil").removesuffix("Fast")) if known else None
    if rule is None:
        given = {"max_image_pixels": wanted.max_image_pixels is not None, "image_tiles": not wanted.image_tiles}
        keys = " and ".join(key for key, is_set in given.items() if is_set)
        msg = (
            f"{keys} cannot be set for the model {name!r}: its images are made by {kind}, and only these are known here: "
            f"{', '.join(sorted(_RULES))}; leave {keys} out, or take a model with one of them"
        )
        raise ModelError(msg)

    try:
        found = rule(images, wanted.max_image_pixels, wanted.image_tiles)
    except _TooFewPixelsError as error:
        msg = (
            f"max_image_pixels of the model {name!r} is {wanted.max_image_pixels:,}, but its processor ({kind}) makes no image "
            f"of less than {error.least:,} pixels; set it to {error.least} or more, or leave it out"
        )
        raise ModelError(msg) from None

    for key, value in found.items():
        setattr(images, key, _as_attribute(key, value))
    return found


def engine_options(settings: Settings) -> dict[str, object]:
    """vLLM's arguments for a model whose processor was given these settings; none for a folder that was saved with it."""
    if not settings:
        return {}
    grids: Any = settings.get(_PINPOINTS)
    if grids is None:
        return {"mm_processor_kwargs": settings}
    told = settings | {_PINPOINTS: [_HashableList(grid) for grid in grids]}
    # vLLM counts the tokens of a LLaVA-NeXT's image by the model's configuration
    return {"mm_processor_kwargs": told, "hf_overrides": {_PINPOINTS: grids}}


class _HashableList(list[int]):
    """vLLM looks processors up by what they are told, and transformers takes lists in a list alone."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))


def agree(configuration: object, settings: Settings) -> None:
    """Let a model's configuration agree with these settings of its processor, where both say the same thing."""
    if _PINPOINTS in settings:
        setattr(configuration, _PINPOINTS, settings[_PINPOINTS])


def _as_attribute(key: str, value: object) -> object:
    from transformers.image_utils import SizeDict

    return SizeDict(**value) if key == "size" and isinstance(value, dict) else value


class _TooFewPixelsError(Exception):
    """No image can be that small; the least that one can have."""

    def __init__(self, least: int) -> None:
        super().__init__(least)
        self.least = least


def _refuse_below(least: int, most: int | None) -> None:
    if most is not None and most < least:
        raise _TooFewPixelsError(least)


def _squares(images: Any, most: int | None, tiles: bool) -> Settings:
    """Idefics3 and SmolVLM: the longer side is scaled to a length, up or down, and squares are cut from that."""
    tile, edge = images.max_image_size["longest_edge"], images.size["longest_edge"]
    _refuse_below(tile * tile, most)
    found: Settings = {}
    if most is not None and (side := math.isqrt(most) // tile * tile) < edge:
        found["size"] = {"longest_edge": side}
    if not tiles and images.do_image_splitting:
        found["do_image_splitting"] = False
    return found


def _area(images: Any, most: int | None, tiles: bool, frames: int = 1) -> Settings:
    """Qwen-VL: sides are multiples of a patch, and their product is bounded; there are no tiles."""
    _refuse_below((images.patch_size * images.merge_size) ** 2, most)
    least, edge = images.size["shortest_edge"], images.size["longest_edge"]
    if most is None or most * frames >= edge:
        return {}
    # small images are scaled up to the least and rounded up from there, which must stay below the most
    return {"size": {"shortest_edge": min(least, max(1, most * frames // 4)), "longest_edge": most * frames}}


def _area_of_frames(images: Any, most: int | None, tiles: bool) -> Settings:
    """GLM-4V: as Qwen-VL, for an image that counts as several frames."""
    return _area(images, most, tiles, images.temporal_patch_size)


def _crops(images: Any, most: int | None, tiles: bool) -> Settings:
    """InternVL: up to so many crops of one size, and an overview where there are several."""
    area = _fixed_area(images.size)
    _refuse_below(area, most)
    crops = images.max_patches if most is None else min(images.max_patches, most // area)
    crops = crops if tiles else 1  # not `crop_to_patches`, which InternVL's processor sets whatever its files say
    if crops == images.max_patches:
        return {}
    return {"max_patches": crops, "min_patches": min(images.min_patches, crops)}


def _pinpoints(images: Any, most: int | None, tiles: bool) -> Settings:
    """LLaVA-NeXT and LLaVA-OneVision: an overview, and tiles that fill one of several sizes; one tile is the least."""
    side = images.size.get("shortest_edge") or images.size.get("height")
    _refuse_below(side * side, most)
    grids: list[list[int]] = [list(grid) for grid in images.image_grid_pinpoints]
    kept = [grid for grid in grids if tiles and (most is None or math.prod(grid) <= most)] or [[side, side]]
    return {} if kept == grids else {_PINPOINTS: kept}


def _fixed(images: Any, most: int | None, tiles: bool) -> Settings:
    """CLIP (LLaVA-1.5), SigLIP (PaliGemma) and Gemma 3: one size for all images, which Gemma 3 may have crops of beside it."""
    area = _fixed_area(images.crop_size if getattr(images, "do_center_crop", False) else images.size)
    _refuse_below(area, most)
    if not getattr(images, "do_pan_and_scan", False):
        return {}
    cropped = area * (images.pan_and_scan_max_num_crops or 1)
    return {} if tiles and (most is None or most >= cropped) else {"do_pan_and_scan": False}


def _fixed_area(size: Mapping[str, int]) -> int:
    return int(size["height"]) * int(size["width"])


_RULES: dict[str, Callable[[Any, int | None, bool], Settings]] = {
    "Idefics3ImageProcessor": _squares,
    "SmolVLMImageProcessor": _squares,
    "Qwen2VLImageProcessor": _area,
    "Glm4vImageProcessor": _area_of_frames,
    "GotOcr2ImageProcessor": _crops,
    "LlavaNextImageProcessor": _pinpoints,
    "LlavaOnevisionImageProcessor": _pinpoints,
    "SiglipImageProcessor": _fixed,
    "Gemma3ImageProcessor": _fixed,
    "CLIPImageProcessor": _fixed,
}
"""By class name. Pixtral is missing: vLLM counts its tokens by the size of images in the model's configuration, on which the
positions of its vision tower depend too."""
