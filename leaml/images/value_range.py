"""Images of more than 8 bits a value as 8 bits: which of their values are black and white, by the rules of `depth`.

Of colours the greatest channel of each pixel decides what is white, and the least one what is black: a channel that is the same
everywhere is a colour, not a value to leave out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from leaml.images import depth

_STRIP = 250_000
"""Pixels that are converted at a time, so that no intermediate image is as large as the whole."""
_ROWS = 16
"""Rows whose values are looked up in a table at a time."""
_SAMPLE = 2**18
"""Values of an image that are looked at for outliers."""

Array = np.ndarray
Parts = Callable[[], Iterable[tuple[Array, ...]]]
"""Gives arrays of the values of an image part by part, as often as it is called."""


def strips(image: Image.Image) -> Iterator[tuple[Image.Image, int]]:
    """Parts of an image with the row where each begins."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height))), top


def of_grey(image: Image.Image, data: bytes) -> tuple[float, float]:
    """Black and white of a loaded image of one channel of more than 8 bits; `data`: its file."""
    left_out = depth.no_data(image)
    unsigned = depth.is_unsigned(image)
    ((low, high),) = _ranges(lambda: ((_values(strip, unsigned),) for strip, _ in strips(image)), 1, _step(image), left_out)
    stated = depth.stated_range(image, data)
    if image.mode.startswith("I;16"):
        low, high = depth.range_of(low, high, stated)
    elif stated is not None and stated[0] <= low and high <= stated[1]:
        low, high = stated
    return (high, low) if depth.is_negative(image) else (low, high)


def _values(strip: Image.Image, unsigned: bool) -> Array:
    values = np.asarray(strip)
    return values.view(np.uint32) if unsigned else values


def grey(strip: Image.Image, black: float, white: float, unsigned: bool = False) -> Image.Image:
    """RGB of a strip, from `black` to `white`, which may be the less: convert("RGB") would clip at 255, nearly all to white.

    Args:
        strip: Of an image of one channel of more than 8 bits.
        black: The value that is black.
        white: The one that is white.
        unsigned: Whether its 32 bits have no sign (`depth.is_unsigned`), which a strip does not tell.
    """
    values = _values(strip, unsigned)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # a table is ten times as fast as arithmetic
        return Image.fromarray(_looked_up(values, black, white)).convert("RGB")
    return Image.fromarray(_eight(values.astype(np.float64), black, white)).convert("RGB")


def _eight(values: Array, black: float, white: float) -> Array:
    scale = 255.0 / (white - black) if white != black else 0.0
    eight = np.nan_to_num((values - black) * scale, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.rint(eight), 0, 255).astype(np.uint8)


def is_dark(image: Image.Image) -> bool:
    """Whether the high bytes of an image use less than 8 bits, so that low bytes count."""
    colours = depth.colours(image)

    def parts() -> Iterator[tuple[Array]]:
        return ((_of_pixels(np.maximum, _bands(strip)[..., :colours]),) for strip, _ in strips(image))

    return _ranges(parts, 1, _step(image))[0][1] < 128


def of_colours(high: Image.Image, low: Image.Image, data: bytes) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Black and white of each channel of an image, given its high and its low bytes; alpha is from 0, and its white no less.

    Args:
        high: The image as Pillow reads it, loaded.
        low: The same with the low bytes of its values.
        data: Its file.
    """
    colours, channels = depth.colours(high), len(high.getbands())
    left_out = depth.no_data(high)
    alphas = [0] * (channels - colours)

    def pixels() -> Iterator[tuple[Array, Array]]:
        for (above, _), (below, _) in zip(strips(high), strips(low), strict=True):
            values = _joined(above, below)
            alphas[:] = [max(alpha, int(values[..., colours + n].max())) for n, alpha in enumerate(alphas)]
            yield _of_pixels(np.maximum, values[..., :colours]), _of_pixels(np.minimum, values[..., :colours])

    (_, greatest), (least, _) = _ranges(pixels, 2, _step(high), left_out)
    least = min(greatest, least)
    black, white = depth.range_of(least, greatest, depth.stated_range(high, data))
    whites = [white] * colours + [max(white, depth.white_of(alpha)) for alpha in alphas]
    return (*[black] * colours, *[0.0] * (channels - colours)), tuple(whites)


def coloured(high: Image.Image, low: Image.Image, blacks: Sequence[float], whites: Sequence[float]) -> Image.Image:
    """8 bits of the high and low bytes of a strip, each channel from its black to its white.

    Args:
        high: The strip as Pillow reads it, with the high bytes of its values.
        low: The same strip with the low bytes.
        blacks: 16-bit value that becomes 0, for each channel.
        whites: 16-bit value that becomes 255, for each channel.
    """
    ranges = list(zip(blacks, whites, strict=True))
    if set(ranges) == {(0.0, 65535.0)}:
        return Image.frombytes(high.mode, high.size, _of_all_bits(_bands(high), _bands(low)).tobytes())
    values = _joined(high, low)
    eight = np.empty(values.shape, np.uint8)
    for range_ in set(ranges):
        same = [channel for channel, other in enumerate(ranges) if other == range_]
        eight[..., same[0] : same[-1] + 1] = _looked_up(values[..., same[0] : same[-1] + 1], *range_)
    return Image.frombytes(high.mode, high.size, eight.tobytes())


def _of_all_bits(high: Array, low: Array) -> Array:
    """What `_table(0, 65535)` has for the values of these bytes: as 65535 is 255 * 257, the high byte or one beside it."""
    eight: Array = high + ((low > high) & (low - high > 128))
    eight -= (low < high) & (high - low > 128)
    return eight


def _looked_up(values: Array, black: float, white: float) -> Array:
    """8 bits of 16-bit values."""
    table, eight = _table(black, white), np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS):
        # twice as fast as an index and nothing is clipped, but it needs 8 bytes a value
        eight[top : top + _ROWS] = table.take(values[top : top + _ROWS], mode="clip")
    return eight


@functools.lru_cache(maxsize=8)
def _table(black: float, white: float) -> Array:
    """8 bits of each value of 16."""
    return _eight(np.arange(65536, dtype=np.float64), black, white)


def _bands(strip: Image.Image) -> Array:
    values = np.asarray(strip)
    return values if values.ndim == 3 else values[..., None]


def _joined(high: Image.Image, low: Image.Image) -> Array:
    values: Array = np.left_shift(_bands(high), 8, dtype=np.uint16)
    values |= _bands(low)
    return values


def _of_pixels(choose: np.ufunc, values: Array) -> Array:
    """The greatest or least of the channels of each pixel; numpy is slow along an axis as short as that."""
    found: Array = functools.reduce(choose, (values[..., channel] for channel in range(values.shape[-1])))
    return found


def _step(image: Image.Image) -> int:
    return image.width * image.height // _SAMPLE | 1  # odd: the columns of most widths take turns


def _ranges(parts: Parts, count: int, step: int, left_out: Sequence[float] = ()) -> list[tuple[float, float]]:
    """Least and greatest finite value of each array but for outliers and what is no grey; 0 and 0 where there is none.

    Args:
        parts: Gives `count` arrays for each part of an image. It is called once, and again where a value is no grey.
        count: Number of arrays.
        step: One of so many values is looked at for outliers.
        left_out: Values that do not count.
    """
    found = [_Values(step, left_out) for _ in range(count)]
    for part in parts():
        for values, array in zip(found, part, strict=True):
            values.add(array)
    if again := {n: fills for n, values in enumerate(found) if (fills := depth.fills(values.sample()))}:
        for n, fills in again.items():
            found[n] = _Values(step, [*left_out, *fills])
        for part in parts():
            for n in again:
                found[n].add(part[n])
    return [values.range() for values in found]


class _Values:
    """Least and greatest finite value of several arrays but for those left out, and a part of the values."""

    def __init__(self, step: int, left_out: Sequence[float]) -> None:
        self._step, self._left_out = step, left_out
        self._low, self._high = math.inf, -math.inf
        self._samples = [np.empty(0)]

    def add(self, array: Array) -> None:
        finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array.ravel()
        for other in self._left_out:
            finite = finite[finite != (np.float32(other) if array.dtype == np.float32 else other)]
        if finite.size:
            self._low, self._high = min(self._low, float(finite.min())), max(self._high, float(finite.max()))
            self._samples.append(finite[:: self._step].astype(np.float64))

    def sample(self) -> Array:
        return np.concatenate(self._samples)

    def range(self) -> tuple[float, float]:
        values = self.sample()
        return depth.without_outliers(self._low, self._high, values) if len(values) else (0.0, 0.0)
