"""Checks and decodes encoded images; everything that cannot be trusted is an `ImageRejected` with a short reason."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from leaml.config.limits import MAX_ASPECT, MAX_PIXELS, MAX_SIDE
from leaml.errors import LeamlError
from leaml.images import depth, jpeg, tiff, value_range

BYTES_PER_PIXEL = 32
"""Most memory that `decode` takes at a time, in bytes per pixel. JPEG 2000 takes 25, TIFF in tiles 21, WebP 17,
all else up to 14, as is measured in tests/images/test_image_memory.py."""
BYTES_PER_DECODED_PIXEL = 4
"""What comes out has, in bytes per pixel: Pillow keeps RGB in four."""

# Formats that decode in this process alone: Pillow's EPS reader, for one, starts Ghostscript on the file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")
# HEIC, SVG and PPM are not decoded; they stand here so that they end in quarantine with a reason and not in silence.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif"),
    *(".heic", ".heif", ".svg", ".ppm", ".pgm", ".pbm", ".pnm"),
)
SUFFIX_RULE = f"a folder's images are its files that end in {', '.join(SUFFIXES)}; hidden ones are left out"

Image.init()  # all plugins now: Pillow loads them at first use, and two threads that decode at once then see half of them

_ORIENTATION = 0x0112
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TILE_WIDTH, _TILE_HEIGHT = 0x0142, 0x0143
_TILE = 2**20
"""Pixels of a tile that an image may have whatever its size."""
_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "I", "F"}


class ImageRejected(LeamlError):
    """An image cannot be used; `reason` is short and starts with the kind of fault, for counting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ImageInfo:
    """Size of an image as shown, that is after EXIF rotation, in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class ImageLimits:
    """What an image may have, in pixels; read from its header before anything is decoded.

    Attributes:
        pixels: width x height.
        side: width, and height.
        aspect: longer side over shorter side.
    """

    pixels: int = MAX_PIXELS
    side: int = MAX_SIDE
    aspect: float = MAX_ASPECT

    def check(self, width: int, height: int) -> None:
        """Raise ImageRejected for a size over a limit."""
        size = f"{width}x{height}"
        if width * height > self.pixels:
            reason = f"too large: {size} = {width * height} pixels over the limit of {self.pixels}"
            raise ImageRejected(reason)
        if max(width, height) > self.side:
            reason = f"too long: {size} has a side over the limit of {self.side} pixels"
            raise ImageRejected(reason)
        if max(width, height) > self.aspect * min(width, height):
            reason = f"too narrow: the sides of {size} differ by more than the limit of {self.aspect:g}:1"
            raise ImageRejected(reason)


def is_jpeg2000(data: bytes) -> bool:
    """Whether `data` is what would be decoded as JPEG 2000, by its first bytes."""
    return data.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"))


def read_size(data: bytes, limits: ImageLimits) -> ImageInfo:
    """Size of an image from its header alone, as it is stored, that is before EXIF rotation. Raises ImageRejected."""
    with _quiet(), _open(data, limits) as image:
        return ImageInfo(*image.size)


def inspect(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Check that `data` is a complete image within the limits; the size is read and checked before anything is decoded.

    Raises:
        ImageRejected: empty, not an image, over a limit, truncated or damaged.
    """
    with _quiet(), _loaded(data, ImageLimits(max_pixels)) as (image, _):
        width, height = image.size
        if _orientation(image) >= 5:  # 5 to 8 turn the image by a quarter
            width, height = height, width
        return ImageInfo(width, height)


def decode(data: bytes, max_pixels: int = MAX_PIXELS, limits: ImageLimits | None = None) -> Image.Image:
    """Decode to 8-bit RGB: first frame, EXIF rotation applied, transparency on white, other depths scaled (`depth`).

    Args:
        data: The encoded image.
        max_pixels: Limit of width x height; the other limits are the defaults of `ImageLimits`.
        limits: All limits, in place of `max_pixels`.

    Raises:
        ImageRejected: as `inspect`.
    """
    with _quiet():
        limits = limits or ImageLimits(max_pixels)
        with _loaded(data, limits) as (image, has_low_bytes):
            orientation = _orientation(image)
            rgb = _with_low_bytes(image, data, limits) if has_low_bytes else _to_rgb(image, data)
        del image  # before the image is turned, which takes as much again
        return rgb if orientation == 1 else rgb.transpose(_TURNED[orientation])


@contextlib.contextmanager
def _loaded(data: bytes, limits: ImageLimits) -> Iterator[tuple[Image.Image, bool]]:
    """The image, and whether it is one of 16-bit colours whose low bytes, which Pillow drops, can be read."""
    with _open(data, limits) as image:
        size, raw = image.size, depth.raw_mode(image)
        _load(image)
        if image.size != size:
            reason = f"damaged: {image.width}x{image.height} pixels where the header says {size[0]}x{size[1]}"
            raise ImageRejected(reason)
        if image.mode not in _MODES and not image.mode.startswith("I;16"):
            reason = f"unsupported colour mode: {image.mode}"
            raise ImageRejected(reason)
        drops, can_swap = depth.drops_low_bytes(image.mode, raw), depth.swapped(raw) is not None
        if drops and not can_swap and value_range.is_dark(image):
            reason = f"unsupported bit depth: less than 16 bits in 16 ({raw}); convert the image to 8 bits"
            raise ImageRejected(reason)
        yield image, drops and can_swap


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except ImageRejected:
        raise
    except Exception as error:  # decoders raise anything from struct.error to IndexError on damaged data
        raise ImageRejected(_fault(error)) from None


_PIECES = "damaged: it consists of too many pieces, or names the same piece too often"


class _Reader(io.BytesIO):
    """An encoded image that is read in a bounded number of pieces and bytes.

    Pillow parses chunks, segments, boxes and directories in Python, one read or more each. A file of a few megabytes that
    consists of them takes minutes, and entries of a directory that all name the same megabytes take gigabytes.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._pieces = 20_000 + len(data) // 128
        self._bytes = 2**20 + 4 * len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self._pieces -= 1
        self._bytes -= len(found)
        if self._pieces < 0 or self._bytes < 0:
            raise ImageRejected(_PIECES)
        return found


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    if not data:
        reason = "empty file"
        raise ImageRejected(reason)

    if tiff.too_many_values(data) or jpeg.too_many_scans(data):
        raise ImageRejected(_PIECES)

    try:
        image = Image.open(_Reader(data), formats=FORMATS)
    except ImageRejected:
        raise
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))  # Pillow refuses by itself here, before we can see the size
        reason = f"too large: {found[0] if found else 'unknown number of'} pixels over the limit of {limits.pixels}"
        raise ImageRejected(reason) from None
    except Image.UnidentifiedImageError:
        reason = f"not an image: {_guess(data)}"
        raise ImageRejected(reason) from None
    except Exception as error:  # header parsers raise anything on damaged data
        raise ImageRejected(_fault(error)) from None

    try:
        limits.check(*image.size)
        _check_tile(image)
    except ImageRejected:
        image.close()
        raise
    return image


def _check_tile(image: Image.Image) -> None:
    """Raise ImageRejected for a TIFF in tiles far larger than the image, which are decoded whole."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return
    tile = tags.get(_TILE_WIDTH), tags.get(_TILE_HEIGHT)
    if all(isinstance(side, int) for side in tile) and tile[0] * tile[1] > max(_TILE, 2 * image.width * image.height):
        reason = f"damaged: tiles of {tile[0]}x{tile[1]} in an image of {image.width}x{image.height}"
        raise ImageRejected(reason)


OTHER_FILES = {
    "MP4": "HEIC or another file of the MP4 family, not supported; convert it to JPEG",
    "SVG": "SVG is not supported; render it to PNG",
    "HTML": "an HTML page",
    "PDF": "a PDF document",
    "TIFF": "a damaged TIFF, or one whose bits, colours or compression are not supported; convert it to PNG",
    "PNM": "PPM, PGM and PBM are not supported; convert it to PNG",
}
"""What files are that are no images that can be read; fixed texts, without anything of a file."""


def _guess(data: bytes) -> str:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if data[4:8] == b"ftyp":
        return OTHER_FILES["MP4"]
    if b"<svg" in start:
        return OTHER_FILES["SVG"]
    if start.startswith((b"<!doctype html", b"<html")):
        return OTHER_FILES["HTML"]
    if start.startswith(b"%pdf"):
        return OTHER_FILES["PDF"]
    if data.startswith((b"II*\0", b"MM\0*")):
        return OTHER_FILES["TIFF"]
    if re.match(rb"p[1-7f]\s", start):
        return OTHER_FILES["PNM"]
    return f"unknown format or damaged header, starts with {data[:8].hex()}"


def _fault(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{'truncated' if 'truncated' in text.lower() else 'damaged'}: {text[:120]}"


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing about the pixels: take the image as it is
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """8-bit RGB copy without metadata, because the caller's file is closed and a profile can be as large as the pixels."""
    convert = _conversion(image, data)
    if convert is None:
        rgb = image.copy()
        rgb.info.clear()
        return rgb
    rgb = Image.new("RGB", image.size)
    for strip, top in value_range.strips(image):
        rgb.paste(convert(strip), (0, top))
    return rgb


def _with_low_bytes(image: Image.Image, data: bytes, limits: ImageLimits) -> Image.Image:
    """8-bit RGB of an image of 16-bit colours."""
    with _open(data, limits) as low:
        depth.read_low_bytes(low)
        _load(low)
        blacks, whites = value_range.of_colours(image, low, data)
        rgb = Image.new("RGB", image.size)
        for (strip, top), (below, _) in zip(value_range.strips(image), value_range.strips(low), strict=True):
            eight = value_range.coloured(strip, below, blacks, whites)
            rgb.paste(_on_white(eight) if eight.has_transparency_data else eight.convert("RGB"), (0, top))
    return rgb


def _conversion(image: Image.Image, data: bytes) -> Callable[[Image.Image], Image.Image] | None:
    """Function that makes RGB of a strip; None: the image is RGB."""
    if image.mode.startswith(("I", "F")):
        black, white = value_range.of_grey(image, data)
        unsigned = depth.is_unsigned(image)
        return lambda strip: value_range.grey(strip, black, white, unsigned)
    if image.has_transparency_data:
        return _on_white
    return None if image.mode == "RGB" else lambda strip: strip.convert("RGB")


def _on_white(strip: Image.Image) -> Image.Image:
    rgba = strip.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")


_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filters = warnings.catch_warnings()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings while any thread decodes.

    `warnings.catch_warnings` swaps one process-wide list, so overlapping uses in threads restore it in the wrong order;
    here the first thread in sets the filter and the last one out restores it.
    """
    global _quiet_users, _quiet_filters
    with _quiet_lock:
        if _quiet_users == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                _quiet_filters.__exit__(None, None, None)
