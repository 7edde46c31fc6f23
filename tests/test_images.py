"""The poison set: every kind of bad or unusual image, decoded right or refused with a reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leaml.images import ImageInfo, ImageRejected, decode, inspect

LIMIT = 1_000_000


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing: a bomb's header."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (encode(photo(), "JPEG")[:-400], "truncated: "),
        (encode(photo())[:2000], "truncated: "),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not an image: an HTML page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not an image: SVG"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 64, "not an image: HEIC"),
        (b"%PDF-1.7 ...", "not an image: a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image: unknown format"),
        (png_header(1200, 1000), "too large: 1200x1000 = 1200000 pixels over the limit of 1000000"),
        (png_header(10_000, 10_000), "too large: 10000x10000 = 100000000 pixels"),
        (png_header(40_000, 40_000), "too large: 1600000000 pixels over the limit of 1000000"),
        (png_header(64, 64), "truncated: "),
        (b"\xff\xd8\xff\xe0" + b"garbage" * 40, "truncated: "),
    ],
)
def test_poison_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    for function in (inspect, decode):
        with pytest.raises(ImageRejected) as caught:
            function(data, LIMIT)
        assert caught.value.reason.startswith(reason)
        assert len(caught.value.reason) < 200


def test_size_is_checked_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded an image over the limit"))
    with pytest.raises(ImageRejected):
        inspect(png_header(2000, 2000), LIMIT)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 20_000)])
def test_odd_sizes_under_the_limit_pass(width: int, height: int) -> None:
    assert inspect(encode(Image.new("RGB", (width, height))), LIMIT) == ImageInfo(width, height)


def test_exif_rotation_turns_pixels_and_size() -> None:
    image = Image.new("RGB", (40, 20), "blue")
    image.paste("red", (0, 0, 10, 20))  # red at the left
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: left becomes top
    data = encode(image, "JPEG", exif=exif, quality=95)
    assert inspect(data, LIMIT) == ImageInfo(20, 40)
    shown = decode(data, LIMIT)
    assert shown.size == (20, 40)
    assert shown.getpixel((10, 2))[0] > 200
    assert shown.getpixel((10, 35))[2] > 200


def test_sixteen_bit_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    decoded = decode(encode(Image.fromarray(values)), LIMIT)
    assert [decoded.getpixel((x, 0)) for x in range(4)] == [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]
    tiff = decode(encode(Image.fromarray(values), "TIFF"), LIMIT)
    assert np.array_equal(np.asarray(tiff), np.asarray(decoded))


def test_float_image_is_stretched_over_its_range() -> None:
    values = np.array([[-1.0, 0.0, 1.0, np.nan]], dtype=np.float32)
    decoded = decode(encode(Image.fromarray(values), "TIFF"), LIMIT)
    assert [decoded.getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 0]


def test_transparency_is_composited_on_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (255, 0, 0, 0))
    assert [decode(encode(rgba), LIMIT).getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    decoded = decode(encode(palette, transparency=1), LIMIT)
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]
    assert decode(encode(Image.new("LA", (1, 1), (0, 0))), LIMIT).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_grey_and_bilevel_become_rgb() -> None:
    cyan = decode(encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=95), LIMIT).getpixel((4, 4))
    assert cyan[0] < 40
    assert min(cyan[1:]) > 200
    assert decode(encode(Image.new("L", (1, 1), 77)), LIMIT).getpixel((0, 0)) == (77, 77, 77)
    assert decode(encode(Image.new("1", (1, 1), 1)), LIMIT).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    red_first = decode(encode(red, kind, save_all=True, append_images=[blue], duration=100), LIMIT)
    assert red_first.mode == "RGB"
    assert red_first.getpixel((8, 8))[0] > 240


def test_content_counts_and_not_the_name_or_metadata() -> None:
    decoded = decode(encode(photo(), "BMP"), LIMIT)
    assert np.array_equal(np.asarray(decoded), np.asarray(photo()))
    exif = Image.Exif()
    exif[0x010E] = "private"
    assert not dict(decode(encode(photo(), "JPEG", exif=exif), LIMIT).getexif()).get(0x0112)


def test_no_pillow_warning_leaks_from_any_thread() -> None:
    bomb, fine = png_header(10_000, 10_000), encode(photo())

    def check(number: int) -> str:
        try:
            return str(inspect(bomb if number % 2 else fine, LIMIT).width)
        except ImageRejected as error:
            return error.reason[:9]

    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(check, range(200))) == {"64", "too large"}
        assert warnings.filters == filters
    assert leaked == []
