"""Makes the pixels of image processors of transformers with less work, for one image: the numbers are the same, bit by bit.

For an image in 17 tiles, 53 MB, the processor of SmolVLM writes 350 MB: tiles are copied into one tensor, into lists,
into tensors of zeros that could hold more images, and each has a mask of eight bytes a pixel. A processor of Qwen-VL puts
patches in order, and repeats them, after they have become floating-point numbers of four bytes. Here what is resized by the
processor's own methods is brought to its place as bytes, and becomes numbers there.

The memory is that of tensors that are gone: fresh memory, which the system clears page by page, takes longer than the numbers.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_PIECE = 2**18
"""Numbers that are made at a time: few enough to stay in a core's cache between the steps of the arithmetic."""
_STEP = 2**23
"""Memory is had in multiples of so many bytes, since photos have many sizes."""
_LEAST = 2**20
"""Bytes; what is smaller comes from where all small memory comes from."""
_MOST = 2**30
"""Bytes that may wait for another tensor."""


def quicker(kind: type[Any], dtype: torch.dtype) -> type[Any]:
    """A class of image processors whose pixels are those of `kind`, or `kind` itself where it has none.

    The mask of SmolVLM and Idefics3 has bytes in place of integers of eight.

    Args:
        kind: Of transformers.
        dtype: Of the pixels.
    """
    made = _KINDS.get(kind.__name__) if kind.__module__.startswith("transformers.models.") else None
    if made is None or not all(hasattr(kind, name) for name in made.asked):
        return kind
    return type(kind.__name__, (made, kind), {"__module__": kind.__module__, "dtype": dtype, "memory": Memory()})


class Memory:
    """Gives the memory of tensors that are gone to new ones."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[np.ndarray]] = defaultdict(list)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """As `torch.empty`. When the tensor and all its views are gone, another may have its memory."""
        import torch

        size = math.prod(shape) * dtype.itemsize
        if size < _LEAST:
            return torch.empty(shape, dtype=dtype)
        whole = -(-size // _STEP) * _STEP
        try:
            owned = self._free[whole].pop()
        except IndexError:  # not asked before: threads take from it
            owned = np.empty(whole, np.uint8)
        lent = owned[:size]
        weakref.finalize(lent, _give_back, self._free, owned).atexit = False
        return torch.from_numpy(lent).view(dtype).view(shape)


def _give_back(free: defaultdict[int, list[np.ndarray]], owned: np.ndarray) -> None:
    if sum(size * len(there) for size, there in list(free.items())) + owned.nbytes <= _MOST:
        free[owned.nbytes].append(owned)


class _Numbers:
    """Part of both processors: bytes become numbers."""

    dtype: torch.dtype
    memory: Memory
    asked: tuple[str, ...]
    """Methods of a processor, which those of other versions of transformers may not have."""

    def _write(self, pieces: Iterable[tuple[torch.Tensor, torch.Tensor]], asked: dict[str, Any]) -> None:
        """Make numbers of bytes as the processor does.

        Args:
            pieces: Bytes, and where their numbers belong, both of a shape that ends in channels, height and width.
            asked: Arguments of `_preprocess`.
        """
        import torch
        from torchvision.transforms.v2 import functional

        images: Any = self
        names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        how = {name: asked[name] for name in names}
        fused = how["do_rescale"] and how["do_normalize"] and self.dtype == torch.float32
        if fused:
            mean, std, _ = images._fuse_mean_std_and_rescale_factor(**how, device=torch.device("cpu"))
        for values, target in pieces:
            if fused:
                functional.normalize(target.copy_(values), mean, std, inplace=True)  # a processor's own is not always in place
            else:
                target.copy_(images.rescale_and_normalize(values, **how))


class _Tiles(_Numbers):
    """Idefics3 and SmolVLM: tiles of an image and the whole of it, all of one size."""

    asked = ("resize", "resize_for_vision_encoder", "rescale_and_normalize", "_fuse_mean_std_and_rescale_factor")

    def _preprocess(self, images: list[list[torch.Tensor]], **asked: Any) -> Any:
        import torch
        from transformers import BatchFeature
        from transformers.image_utils import SizeDict

        if [len(each) for each in images] != [1] or not asked["do_pad"] or asked["return_tensors"] != "pt":
            return super()._preprocess(images, **asked)  # type: ignore[misc]
        me: Any = self
        resample, edge = asked["resample"], asked["max_image_size"]["longest_edge"]
        whole = images[0][0][None]
        if asked["do_resize"]:
            whole = me.resize(whole, asked["size"], resample=resample)

        rows = columns = 0
        tiles: list[torch.Tensor] = []
        if asked["do_image_splitting"]:
            whole = me.resize_for_vision_encoder(whole, edge, resample=resample)
            rows, columns = (side // edge for side in whole.shape[2:])
            if rows * columns == 1:
                rows = columns = 0
            # a channel after the other, as the numbers are to lie
            by_channel = whole[0].contiguous() if rows else whole[0]
            tiles = [row for part in by_channel.split(edge, 1) for row in part.split(edge, 2)][: rows * columns]
        if tiles or not asked["do_image_splitting"]:
            whole = me.resize(whole, SizeDict(height=edge, width=edge), resample=resample)

        pixels = self.memory.empty((len(tiles) + 1, *whole.shape[1:]), self.dtype)
        self._write(zip([*tiles, whole[0].contiguous()], pixels, strict=True), asked)
        mask = torch.ones(1, len(pixels), *whole.shape[2:], dtype=torch.bool)
        made = BatchFeature({"pixel_values": pixels[None], "pixel_attention_mask": mask}, tensor_type="pt")
        if asked["return_row_col_info"]:
            made["rows"], made["cols"] = [[rows]], [[columns]]
        return made


class _Patches(_Numbers):
    """Qwen-VL: patches in the order in which the model merges them, each as often as a patch of a video has frames."""

    asked = ("resize", "patchify", "rescale_and_normalize", "_fuse_mean_std_and_rescale_factor")

    def _preprocess(self, images: list[torch.Tensor], **asked: Any) -> Any:
        import torch
        from transformers import BatchFeature

        if len(images) != 1 or asked["return_tensors"] != "pt":
            return super()._preprocess(images, **asked)  # type: ignore[misc]
        me: Any = self
        side, merge, frames = asked["patch_size"], asked["merge_size"], asked["temporal_patch_size"]
        whole = images[0][None]
        if asked["do_resize"]:
            whole = me.resize(images=whole, size=asked["size"], resample=asked["resample"], factor=side * merge)
        patches, height, width = me.patchify(whole, patch_size=side, merge_size=merge, temporal_patch_size=1)
        channels = whole.shape[1]
        values = patches.view(height * width, channels, 1, side * side).expand(-1, -1, frames, -1)

        pixels = self.memory.empty(tuple(values.shape), self.dtype)
        at_a_time = max(1, _PIECE // values[0].numel())
        self._write(zip(values.split(at_a_time), pixels.split(at_a_time), strict=True), asked)
        grid = torch.tensor([[1, height, width]], dtype=torch.long)
        return BatchFeature({"pixel_values": pixels.view(height * width, -1), "image_grid_thw": grid}, tensor_type="pt")


_KINDS: dict[str, type[_Numbers]] = {
    "Idefics3ImageProcessor": _Tiles,
    "SmolVLMImageProcessor": _Tiles,
    "Qwen2VLImageProcessor": _Patches,
}
"""By class name, of processors on torchvision."""
