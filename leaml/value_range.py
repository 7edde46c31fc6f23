"""Images of more than 8 bits a value as 8 bits: which of their values are black and white, by the rules of `leaml.depth`.

Of colours the greatest channel of each pixel decides what is white, and the least one what is black: a channel that is the same
everywhere is a colour, not a value to leave out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from leaml import depth

_STRIP = 250_000
"""Pixels that are converted at a time, so that no intermediate image is as large as the whole."""
_SAMPLE = 2**18
"""Values of an image that are looked at for outliers."""

Array = np.ndarray[Any, Any]
Parts = Callable[[], Iterable[Array]]
"""Gives the values of an image part by part, as often as it is called."""


def strips(image: Image.Image) -> Iterator[tuple[Image.Image, int]]:
    """Parts of an image with the row where each begins."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height))), top


def of_grey(image: Image.Image, data: bytes) -> tuple[float, float]:
    """Black and white of a loaded image of one channel of more than 8 bits; `data`: its file."""
    low, high = _range(lambda: (np.asarray(strip) for strip, _ in strips(image)), _step(image), depth.no_data(image))
    stated = depth.stated_range(image, data)
    if image.mode.startswith("I;16"):
        low, high = depth.range_of(low, high, stated)
    elif stated is not None and stated[0] <= low and high <= stated[1]:
        low, high = stated
    return (high, low) if depth.is_negative(image) else (low, high)


def grey(strip: Image.Image, black: float, white: float) -> Image.Image:
    """RGB of a strip, from `black` to `white`, which may be the less: convert("RGB") would clip at 255, nearly all to white."""
    return Image.fromarray(_eight(np.asarray(strip, dtype=np.float64), black, white)).convert("RGB")


def _eight(values: Array, black: float, white: float) -> Array:
    scale = 255.0 / (white - black) if white != black else 0.0
    eight = np.nan_to_num((values - black) * scale, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.rint(eight), 0, 255).astype(np.uint8)


def is_dark(image: Image.Image) -> bool:
    """Whether the high bytes of an image use less than 8 bits, so that low bytes count."""
    colours = depth.colours(image)

    def parts() -> Iterator[Array]:
        return (_of_pixels(np.maximum, _bands(strip)[..., :colours]) for strip, _ in strips(image))

    return _range(parts, _step(image))[1] < 128


def of_colours(high: Image.Image, low: Image.Image, data: bytes) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Black and white of each channel of an image, given its high and its low bytes; alpha is from 0, and its white no less.

    Args:
        high: The image as Pillow reads it, loaded.
        low: The same with the low bytes of its values.
        data: Its file.
    """
    colours, channels = depth.colours(high), len(high.getbands())
    left_out = depth.no_data(high)

    def pixels(choose: np.ufunc) -> Parts:
        return lambda: (_of_pixels(choose, part[..., :colours]) for part in _joined_strips(high, low))

    greatest = _range(pixels(np.maximum), _step(high), left_out)[1]
    least = min(greatest, _range(pixels(np.minimum), _step(high), left_out)[0])
    black, white = depth.range_of(least, greatest, depth.stated_range(high, data))
    whites = [white] * colours
    for channel in range(colours, channels):
        whites.append(max(white, depth.white_of(max(int(part[..., channel].max()) for part in _joined_strips(high, low)))))
    return (*[black] * colours, *[0.0] * (channels - colours)), tuple(whites)


def coloured(high: Image.Image, low: Image.Image, blacks: Sequence[float], whites: Sequence[float]) -> Image.Image:
    """8 bits of the high and low bytes of a strip, each channel from its black to its white."""
    values = _joined(high, low)
    eight = np.empty(values.shape, np.uint8)
    for black, white in set(zip(blacks, whites, strict=True)):
        same = [channel for channel, range_ in enumerate(zip(blacks, whites, strict=True)) if range_ == (black, white)]
        table = _eight(np.arange(65536, dtype=np.float64), black, white)
        eight[..., same[0] : same[-1] + 1] = table[values[..., same[0] : same[-1] + 1]]
    return Image.frombytes(high.mode, high.size, eight.tobytes())


def _bands(strip: Image.Image) -> Array:
    values = np.asarray(strip)
    return values if values.ndim == 3 else values[..., None]


def _joined(high: Image.Image, low: Image.Image) -> Array:
    values = _bands(high).astype(np.uint16)
    values <<= 8
    values |= _bands(low)
    return values


def _of_pixels(choose: np.ufunc, values: Array) -> Array:
    """The greatest or least of the channels of each pixel; numpy is slow along an axis as short as that."""
    found: Array = functools.reduce(choose, (values[..., channel] for channel in range(values.shape[-1])))
    return found


def _joined_strips(high: Image.Image, low: Image.Image) -> Iterator[Array]:
    return (_joined(above, below) for (above, _), (below, _) in zip(strips(high), strips(low), strict=True))


def _step(image: Image.Image) -> int:
    return image.width * image.height // _SAMPLE | 1  # odd: the columns of most widths take turns


def _range(parts: Parts, step: int, left_out: Sequence[float] = ()) -> tuple[float, float]:
    """Least and greatest finite value but for outliers and what is no grey; 0 and 0 where there is none."""
    low, high, values = _values(parts, step, left_out)
    if fills := depth.fills(values):
        low, high, values = _values(parts, step, [*left_out, *fills])
    return depth.without_outliers(low, high, values) if len(values) else (0.0, 0.0)


def _values(parts: Parts, step: int, left_out: Sequence[float]) -> tuple[float, float, Array]:
    """Least and greatest finite value but for those left out, and a part of the values."""
    low, high = math.inf, -math.inf
    samples = [np.empty(0)]
    for part in parts():
        finite = part[np.isfinite(part)] if part.dtype.kind == "f" else part.ravel()
        for other in left_out:
            finite = finite[finite != (np.float32(other) if part.dtype == np.float32 else other)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            samples.append(finite[::step].astype(np.float64))
    return low, high, np.concatenate(samples)
