"""The poison set: every kind of bad or unusual image, decoded right or refused with a reason."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from leaml.images import ImageInfo, ImageLimits, ImageRejected, decode, inspect, read_size

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


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 100), (100, 1), (9000, 100)])
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


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (101, 1, "too narrow: the sides of 101x1 differ by more than the limit of 100:1"),
        (1, 101, "too narrow: "),
        (1, 900_000, "too long: 1x900000 has a side over the limit of 32768 pixels"),
        (32_769, 30, "too long: "),
    ],
)
def test_sides_are_limited_and_checked_before_anything_is_decoded(
    width: int, height: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded an image over a limit"))
    for function in (inspect, decode):
        with pytest.raises(ImageRejected) as caught:
            function(png_header(width, height), LIMIT)
        assert caught.value.reason.startswith(reason)


def test_size_is_read_without_decoding_and_before_rotation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_size(encode(photo(40, 20), "JPEG", exif=exif), ImageLimits()) == ImageInfo(40, 20)
    assert read_size(png_header(64, 32), ImageLimits()) == ImageInfo(64, 32)  # holds no pixels
    with pytest.raises(ImageRejected, match="too narrow"):
        read_size(encode(photo(40, 10)), ImageLimits(aspect=3))


def test_every_rotation_is_that_of_pillow() -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(photo(40, 24), exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert np.array_equal(np.asarray(decode(data, LIMIT)), np.asarray(expected)), orientation


def test_strips_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(64 * 48, dtype=np.int64).reshape(48, 64)
    masks = Image.fromarray((values % 256).astype(np.uint8))
    kinds = {
        "F": encode(Image.fromarray(values.astype(np.float32)), "TIFF"),
        "I": encode(Image.fromarray(values.astype(np.int32)), "TIFF"),
        "I;16": encode(Image.fromarray((values * 20).astype(np.uint16))),
        "CMYK": encode(photo().convert("CMYK"), "TIFF"),
        "P": encode(photo().quantize(64), transparency=3),
        "RGBA": encode(Image.merge("RGBA", (*photo().split(), masks))),
    }
    whole = {kind: decode(data, LIMIT).tobytes() for kind, data in kinds.items()}
    monkeypatch.setattr("leaml.images.value_range._STRIP", 200)  # three rows
    for kind, data in kinds.items():
        assert decode(data, LIMIT).tobytes() == whole[kind], kind


def test_metadata_does_not_stay_with_the_pixels() -> None:
    for image in (photo(), photo().convert("L"), photo().convert("RGBA")):
        assert decode(encode(image, icc_profile=b"x" * 1000), LIMIT).info == {}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff_file(entries: list[tuple[int, int, int, int]], rest: bytes) -> bytes:
    """A TIFF with these entries `tag, type, count, value`; the value -1 stands for the place of `rest`."""
    place = 8 + 2 + 12 * len(entries) + 4
    body = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack("<HHL", tag, kind, count)
        body += struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<L", place if value < 0 else value)
    return b"II*\0" + struct.pack("<L", 8) + body + bytes(4) + rest


def of_pieces() -> dict[str, bytes]:
    """Files of a few megabytes that consist of nothing but pieces."""
    png, jpeg, gif = encode(photo()), encode(photo(), "JPEG"), encode(photo().quantize(256), "GIF")
    palette = 13 + 3 * 256
    grey = [(256, 4, 1, 100), (257, 4, 1, 100), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tile = zlib.compress(bytes(8192 * 8192), 1)
    strips = [*grey, (259, 3, 1, 1), (273, 4, 500_000, -1), (278, 4, 1, 1), (279, 4, 500_000, -1)]
    tiles = [*grey, (259, 3, 1, 8), (322, 4, 1, 8192), (323, 4, 1, 8192), (324, 4, 1, -1), (325, 4, 1, len(tile))]
    j2k = encode(photo(), "JPEG2000")
    return {
        "text chunks": png[:33] + b"".join(chunk(b"tEXt", b"k%d\0v" % n) for n in range(100_000)) + png[33:],
        "data chunks": png[:33] + chunk(b"IDAT", b"") * 200_000 + png[33:],
        "comments": jpeg[:2] + b"\xff\xfe\0\2" * 500_000 + jpeg[2:],
        "sub-blocks": gif[:palette] + b"!\xfe" + b"\1a" * 1_000_000 + b"\0" + gif[palette:],
        "boxes": j2k[:32] + struct.pack(">I4s", 8, b"free") * 300_000 + j2k[32:],
        "strips": tiff_file(sorted(strips), struct.pack("<L", 8) * 500_000),
        "one tile": tiff_file(sorted(tiles), tile),
        "overlapping entries": tiff_file([(1000 + n, 7, 1_000_000, -1) for n in range(5000)], bytes(1_000_000)),
    }


def test_files_made_of_pieces_are_refused_at_once() -> None:
    for name, data in of_pieces().items():
        began = time.thread_time()
        with pytest.raises(ImageRejected, match=r"damaged: |not an image: "):
            decode(data, LIMIT)
        assert time.thread_time() - began < 1, name


def test_files_of_many_honest_pieces_pass() -> None:
    raw = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(photo(600, 400))), 0)
    small = b"".join(chunk(b"IDAT", raw[at : at + 512]) for at in range(0, len(raw), 512))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 600, 400, 8, 2, 0, 0, 0))
    assert decode(b"\x89PNG\r\n\x1a\n" + head + small + chunk(b"IEND", b"")).tobytes() == photo(600, 400).tobytes()
    for compression in ("tiff_lzw", "jpeg"):
        assert decode(encode(photo(600, 400), "TIFF", compression=compression)).size == (600, 400)


def with_scans(copies: int, width: int = 4000, height: int = 4000) -> bytes:
    """A progressive JPEG whose last scan, without data, is there this many times more."""
    data = encode(Image.new("L", (width, height), 128), "JPEG", progressive=True)
    assert data.endswith(b"\xff\xd9")
    # the first bit of the first DC coefficient once more, which adds nothing
    scan = b"\xff\xda\0\x08\x01\x01\0\0\0\x10" + b"\0\0"
    return data[:-2] + scan * copies + b"\xff\xd9"


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once() -> None:
    with_fill = with_scans(10_000).replace(b"\xff\xda", b"\xff\xd0\xff\xff\xda")
    for data in (with_scans(10_000), with_scans(101, 64, 64), with_fill):
        for function in (inspect, decode, lambda data: read_size(data, ImageLimits())):
            began = time.thread_time()
            with pytest.raises(ImageRejected, match="damaged: it consists of too many pieces"):
                function(data)
            assert time.thread_time() - began < 0.5


def test_only_the_scans_of_the_first_image_count() -> None:
    baseline, progressive = encode(photo(), "JPEG"), encode(photo(), "JPEG", progressive=True)
    thumbnails = b"\xff\xe1\xea\x62" + b"\xff\xda\0\x08" * 15_000
    restarts = encode(photo(640, 480), "JPEG", restart_marker_blocks=1)
    files = {
        "baseline": baseline,
        "progressive": progressive,
        "restarts": restarts,
        "some scans": with_scans(50, 64, 48),
        "several images": progressive * 40,
        "a video behind": baseline + b"\xff\xda" * 1_000_000,
        "thumbnails": baseline[:2] + thumbnails + baseline[2:],
    }
    for name, data in files.items():
        assert decode(data).size in {(64, 48), (640, 480)}, name


def test_a_tiff_with_a_transfer_function_passes() -> None:
    curves = struct.pack("<65536H", *range(65536)) * 3
    place = 8 + 2 + 12 * 10 + 4
    rgb = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, place + len(curves))]
    entries = [*rgb, (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64), (301, 3, 3 * 65536, 0)]
    data = tiff_file(entries, curves + bytes([77]) * 64)
    # the writer puts SHORT values in place, and this one stands elsewhere
    at = data.index(struct.pack("<HHL", 301, 3, 3 * 65536)) + 8
    data = data[:at] + struct.pack("<L", place) + data[at + 4 :]
    assert decode(data).getpixel((3, 3)) == (77, 77, 77)
