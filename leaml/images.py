"""Checks and decodes encoded images; everything that cannot be trusted is an `ImageRejected` with a short reason."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from leaml.errors import LeamlError

MAX_PIXELS = 25_000_000
"""Default limit, in pixels; Pillow itself only warns at 89 million."""

# Formats that decode in this process alone: Pillow's EPS reader, for one, starts Ghostscript on the file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")
# HEIC and SVG are not decoded; they stand here so that they end in quarantine with a reason and not in silence.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif"),
    *(".heic", ".heif", ".svg"),
)

Image.init()  # all plugins now: Pillow loads them at first use, and two threads that decode at once then see half of them

_ORIENTATION = 0x0112
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


def inspect(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Check that `data` is a complete image of at most `max_pixels`; the size is read and checked before anything is decoded.

    Raises:
        ImageRejected: empty, not an image, over the limit, truncated or damaged.
    """
    with _quiet(), _loaded(data, max_pixels) as image:
        width, height = image.size
        if _orientation(image) >= 5:  # 5 to 8 turn the image by a quarter
            width, height = height, width
        return ImageInfo(width, height)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode to 8-bit RGB: first frame, EXIF rotation applied, transparency on white, 16-bit values scaled.

    Raises:
        ImageRejected: as `inspect`.
    """
    with _quiet(), _loaded(data, max_pixels) as image:
        orientation = _orientation(image)
        rgb = _to_rgb(image)
        if orientation == 1:
            return rgb
        rgb.getexif()[_ORIENTATION] = orientation
        return ImageOps.exif_transpose(rgb)


@contextlib.contextmanager
def _loaded(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    image = _open(data, max_pixels)
    with image:
        try:
            image.load()
        except Exception as error:  # decoders raise anything from struct.error to IndexError on damaged data
            raise ImageRejected(_fault(error)) from None
        if image.mode not in _MODES and not image.mode.startswith("I;16"):
            reason = f"unsupported colour mode: {image.mode}"
            raise ImageRejected(reason)
        yield image


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        reason = "empty file"
        raise ImageRejected(reason)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))  # Pillow refuses by itself here, before we can see the size
        reason = f"too large: {found[0] if found else 'unknown number of'} pixels over the limit of {max_pixels}"
        raise ImageRejected(reason) from None
    except Image.UnidentifiedImageError:
        reason = f"not an image: {_guess(data)}"
        raise ImageRejected(reason) from None
    except Exception as error:  # header parsers raise anything on damaged data
        raise ImageRejected(_fault(error)) from None
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        reason = f"too large: {width}x{height} = {width * height} pixels over the limit of {max_pixels}"
        raise ImageRejected(reason)
    return image


def _guess(data: bytes) -> str:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if data[4:8] == b"ftyp":
        return "HEIC or another file of the MP4 family, not supported; convert it to JPEG"
    if b"<svg" in start:
        return "SVG is not supported; render it to PNG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if start.startswith(b"%pdf"):
        return "a PDF document"
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # convert("RGB") would clip at 255 and turn nearly everything white
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return _stretched(np.asarray(image, dtype=np.float64))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    # A copy, because the caller's file is closed and the EXIF tag is set anew
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _stretched(values: np.ndarray) -> Image.Image:
    """32-bit integers and floats state no range, so their own minimum and maximum become black and white."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    scale = 255.0 / (high - low) if high > low else 0.0
    eight = np.nan_to_num((values - low) * scale, nan=0.0, posinf=255.0, neginf=0.0)
    return Image.fromarray(np.clip(np.rint(eight), 0, 255).astype(np.uint8)).convert("RGB")


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
