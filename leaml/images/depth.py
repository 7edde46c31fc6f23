"""Images of more than 8 bits a value: which value is white, and the low bytes that Pillow drops.

A file of 16 bits often holds 10, 12 or 14 of them, which read as 16 are black. White is what the file says, or else
the largest value of as many bits as its greatest value has. Of the values the thousandth part at each end, but at least
one, does not count where it lies far outside of the others (`_FAR`): one broken pixel must not turn an image black. Nor
does one value at each end, however often it occurs: that of what lies outside of the field, or is saturated.
"""

from __future__ import annotations

import struct
import sys
from typing import SupportsFloat

import numpy as np
from PIL import Image

_FULL = 65535
_MIN, _MAX, _SMIN, _SMAX = 280, 281, 340, 341
"""TIFF's tags for the range of values: MinSampleValue, MaxSampleValue, SMinSampleValue, SMaxSampleValue."""
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_BITS, _FORMAT, _UNSIGNED = 258, 339, 1
_NO_DATA = 42113
"""TIFF's tag for the value of pixels without data, a text: GDAL_NODATA."""
_OUTLIERS = 1000
"""One of so many values at each end may be an outlier."""
_FAR = 4
"""Values are outliers where the range with them is over so many times the range without: two bits."""
_GREYS = 16
"""Different values that a picture has at least; where there are fewer they may be labels, which must stay distinct."""
_FLAT = 16
"""Where the values take less than this part of black to white, they are stretched from the least to the greatest."""
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The other order of the two bytes of a value, by the last letter of Pillow's raw mode."""


def stated_range(image: Image.Image, data: bytes) -> tuple[float, float] | None:
    """Black and white as the tags of a TIFF or the chunk sBIT of a PNG say; None: the file says nothing."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        low = _number(tags.get(_SMIN, tags.get(_MIN, 0)))
        high = _number(tags.get(_SMAX, tags.get(_MAX)))
        if low is None or high is None or not low < high or (low, high) == (0, _FULL):  # the last says no more than 16 bits
            return None
        return low, high
    bits = _significant_bits(data) if image.format == "PNG" else 0
    return (0.0, float(2**bits - 1)) if bits else None


def is_unsigned(image: Image.Image) -> bool:
    """Whether the values of an image of 32 bits have no sign, which Pillow reads as if they had one."""
    tags = getattr(image, "tag_v2", None)
    return image.mode == "I" and tags is not None and tags.get(_BITS) == (32,) and tags.get(_FORMAT, (1,)) == (_UNSIGNED,)


def is_negative(image: Image.Image) -> bool:
    """Whether the file says that 0 is white and Pillow does not turn it: it does so up to 8 bits only."""
    tags = getattr(image, "tag_v2", None)
    return image.mode.startswith(("I", "F")) and tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def without_outliers(low: float, high: float, values: np.ndarray) -> tuple[float, float]:
    """Least and greatest value, outliers left out.

    Args:
        low: Least of all values.
        high: Greatest of all values.
        values: (n,) part of the values that stands for all; fewer than 3 have no outliers.
    """
    if len(values) < 3:
        return low, high
    most = max(1, len(values) // _OUTLIERS)
    inner = np.partition(values, (most, len(values) - 1 - most))
    first, last = float(inner[most]), float(inner[-1 - most])
    return (first, last) if 0 < _FAR * (last - first) < high - low else (low, high)


def no_data(image: Image.Image) -> list[float]:
    """The value of pixels without data, as the file says."""
    value = _number(str(getattr(image, "tag_v2", {}).get(_NO_DATA, "")).strip("\0 "))
    return [] if value is None else [value]


def fills(values: np.ndarray) -> list[float]:
    """The least and the greatest of the values, each if the others lie so close together that it must be no grey."""
    if len(values) < 3:
        return []
    most = max(1, len(values) // _OUTLIERS)
    found = np.unique(np.sort(values)[most : len(values) - most])
    left_out: list[float] = []
    for first, last in ((1, 0), (0, 1), (1, 1), (1, 0), (0, 1)):
        inner = found[first : len(found) - last]
        if len(left_out) < 2 and len(inner) >= _GREYS and _FAR * (inner[-1] - inner[0]) < found[-1] - found[0]:
            left_out += [*found[:first].tolist(), *found[len(found) - last :].tolist()]
            found = inner
    return left_out


def range_of(low: float, high: float, stated: tuple[float, float] | None) -> tuple[float, float]:
    """Black and white of unsigned 16-bit values.

    What the file states holds if the values lie inside: PNG's sBIT may also mean 12 bits that were
    spread over 16.

    Args:
        low: Least value.
        high: Greatest value.
        stated: Black and white as of `stated_range`; None: the file says nothing.
    """
    if stated is not None and stated[0] <= low and high <= stated[1]:
        return stated
    white = white_of(int(high))
    return (low, high) if 0 < high - low < white / _FLAT else (0.0, white)


def raw_mode(image: Image.Image) -> str:
    """How the values of a file lie in its bytes, in Pillow's words; before the image is loaded."""
    arguments = image.tile[0].args if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def drops_low_bytes(mode: str, raw: str) -> bool:
    """Whether Pillow makes 8 bits of 16 by leaving out the low bytes, given an image's mode and raw mode."""
    return ";16" in raw and not mode.startswith(("I", "F"))


def swapped(raw: str) -> str | None:
    """The raw mode that reads the low bytes for the high ones; None where Pillow has none."""
    if raw[-1:] not in _SWAPPED or not raw.startswith(("RGB;", "RGBA;", "RGBX;", "CMYK;")):
        return None
    return raw[:-1] + _SWAPPED[raw[-1]]


def read_low_bytes(image: Image.Image) -> None:
    """Have an image that is not loaded yet give the low bytes of its values."""
    other = swapped(raw_mode(image))
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
        for tile in image.tile  # type: ignore[attr-defined]
    ]


def white_of(value: int) -> float:
    """The largest value of as many bits as a value has."""
    return float(2 ** max(1, value.bit_length()) - 1)


def colours(image: Image.Image) -> int:
    """Channels of an image but for alpha."""
    return len(image.getbands()) - (image.getbands()[-1] in "aA")


def _number(value: str | SupportsFloat | tuple[SupportsFloat, ...] | None) -> float | None:
    """The number of a tag, the last one of several."""
    if isinstance(value, tuple):
        value = value[-1] if value else None
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _significant_bits(data: bytes) -> int:
    """Greatest number in the chunk sBIT of a PNG, 0 without it; it stands before the pixels."""
    offset = 8
    while offset + 8 <= len(data) and data[offset + 4 : offset + 8] != b"IDAT":
        (size,) = struct.unpack_from(">I", data, offset)
        if data[offset + 4 : offset + 8] == b"sBIT":
            return min(16, max(data[offset + 8 : offset + 8 + min(size, 3)], default=0))
        offset += size + 12
    return 0
