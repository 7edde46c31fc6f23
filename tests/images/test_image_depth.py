"""Images of 10 to 16 bits a value decode to the same picture as their 8-bit versions, or are refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leaml.images import ImageRejected, decode, inspect, value_range

CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Channels by PNG's colour type."""


def ramp(bits: int, channels: int = 1) -> np.ndarray:
    """Height x width x channels: black to white in `bits` bits, other ways in other channels."""
    one = np.rint(np.linspace(0, 2**bits - 1, 64 * 48)).astype(np.uint16).reshape(48, 64)
    return np.stack([one, one[::-1], one[:, ::-1], np.full_like(one, 2**bits - 1)][:channels], axis=-1)


def png16(values: np.ndarray, colour: int, significant: int | None = None) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    said = chunk(b"sBIT", bytes([significant] * channels)) if significant else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + said + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff16(values: np.ndarray, order: str = "<", deflate: bool = False, tags: dict[int, int] | None = None) -> bytes:
    height, width, channels = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    pixels = zlib.compress(pixels) if deflate else pixels
    entries = {256: (4, width), 257: (4, height), 259: (3, 8 if deflate else 1), 262: (3, 2 if channels > 1 else 1)}
    entries |= {277: (3, channels), 278: (4, height), 279: (4, len(pixels))}
    entries |= {338: (3, 2)} if channels == 4 else {}
    entries |= {tag: (3, value) for tag, value in (tags or {}).items()}
    depths = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries |= {273: (4, depths + 2 * channels)}
    body = b""
    for tag, (kind, value) in sorted([*entries.items(), (258, (3, 16))]):
        if tag == 258:
            body += struct.pack(f"{order}HHL", tag, 3, channels)
            body += struct.pack(f"{order}HH", 16, 0) if channels == 1 else struct.pack(f"{order}L", depths)
        else:
            body += struct.pack(f"{order}HHL", tag, kind, 1)
            body += struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}L", value)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    sizes = struct.pack(f"{order}{channels}H", *[16] * channels)
    return start + struct.pack(f"{order}H", len(entries) + 1) + body + bytes(4) + sizes + pixels


def eight(values: np.ndarray, bits: int) -> np.ndarray:
    """The 8-bit RGB that `values` of `bits` bits should come out as; opaque."""
    rgb = values[..., :3] if values.shape[-1] > 2 else np.repeat(values[..., :1], 3, axis=-1)
    return np.rint(rgb / (2**bits - 1) * 255)


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15, 16])
def test_a_ramp_of_any_bits_in_16_goes_from_black_to_white(bits: int) -> None:
    grey, rgb, rgba = (ramp(bits, channels) for channels in (1, 3, 4))
    files = {
        "PNG grey": (png16(grey, 0), grey),
        "PNG RGB": (png16(rgb, 2), rgb),
        "PNG RGBA": (png16(rgba, 6), rgba),
        "TIFF grey": (tiff16(grey), grey),
        "TIFF grey, big-endian": (tiff16(grey, ">"), grey),
        "TIFF grey, deflated": (tiff16(grey, "<", True), grey),
        "TIFF RGB": (tiff16(rgb), rgb),
        "TIFF RGB, big-endian": (tiff16(rgb, ">"), rgb),
        "TIFF RGB, deflated": (tiff16(rgb, "<", True), rgb),
        "TIFF RGB, big-endian, deflated": (tiff16(rgb, ">", True), rgb),
        "TIFF RGBA": (tiff16(rgba), rgba),
    }
    for name, (data, values) in files.items():
        inspect(data)
        found = np.asarray(decode(data)).astype(int)
        # of 16 full bits a colour Pillow keeps the upper eight
        assert np.abs(found - eight(values, bits)).max() <= (1 if bits == 16 else 0), name


def test_twelve_packed_bits_are_those_of_sixteen() -> None:
    values = ramp(12)[..., 0]
    first, second = values[:, 0::2].astype(int), values[:, 1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    entries = [(256, 4, 64), (257, 4, 48), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8 + 2 + 12 * 9 + 4)]
    entries += [(277, 3, 1), (278, 4, 48), (279, 4, len(packed))]
    body = b"".join(
        struct.pack("<HHL", tag, kind, 1) + (struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<L", value))
        for tag, kind, value in entries
    )
    data = b"II*\0" + struct.pack("<LH", 8, len(entries)) + body + bytes(4) + packed
    assert np.array_equal(np.asarray(decode(data)), np.asarray(decode(png16(ramp(12), 0))))


def test_what_the_file_says_is_white_comes_first() -> None:
    dim = ramp(12) // 4  # up to 1023 of 4095
    assert np.asarray(decode(png16(dim, 0))).max() == 255
    assert np.asarray(decode(png16(dim, 0, significant=12))).max() == 64
    assert np.asarray(decode(png16(np.repeat(dim, 3, -1), 2, significant=12))).max() == 64
    assert np.asarray(decode(tiff16(dim, tags={281: 4095}))).max() == 64
    assert np.asarray(decode(tiff16(dim, ">", tags={281: 4095}))).max() == 64
    # values over what is said: PNG's sBIT also stands for 12 bits that were spread over 16
    assert np.array_equal(np.asarray(decode(png16(ramp(16), 0, significant=12))), np.asarray(decode(png16(ramp(16), 0))))
    assert np.asarray(decode(tiff16(ramp(12), tags={281: 255}))).mean() == pytest.approx(127.5, abs=1)


def test_an_image_of_sixteen_bits_keeps_its_contrast() -> None:
    dull = ramp(16) // 2 + 16_000  # 0.24 to 0.74 of white
    found = np.asarray(decode(png16(dull, 0)))
    assert (found.min(), found.max()) == (62, 190)
    same = Image.new("RGB", (8, 8), (128, 128, 128))
    flat = decode(png16(np.full((8, 8, 1), 128 * 257), 0))
    assert np.array_equal(np.asarray(flat), np.asarray(same))


def test_values_far_from_black_are_stretched() -> None:
    offset = ramp(8) + 32_768  # as scanners write signed values
    found = np.asarray(decode(png16(offset, 0)))
    assert (found.min(), found.max()) == (0, 255)


def test_transparency_of_twelve_bits_is_put_on_white() -> None:
    values = ramp(12, 4)
    values[..., 3] = 0
    assert np.asarray(decode(png16(values, 6))).min() == 255
    for opaque in (4095, 65535):
        values[..., 3] = opaque
        assert np.array_equal(np.asarray(decode(png16(values, 6))), eight(values, 12))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("deflate", [False, True])
def test_12_white_is_zero_is_no_negative(bits: int, deflate: bool) -> None:
    values = ramp(bits)
    found = np.asarray(decode(tiff16(2**bits - 1 - values, "<", deflate, {262: 0}))).astype(int)
    assert np.abs(found - eight(values, bits)).max() <= 1
    floats = io.BytesIO()
    Image.fromarray((2**bits - 1 - values[..., 0]).astype(np.float32)).save(floats, "TIFF", tiffinfo={262: 0})
    assert np.abs(np.asarray(decode(floats.getvalue())).astype(int) - eight(values, bits)).max() <= 1


def test_12_white_is_zero_with_a_stated_range() -> None:
    dark = 4095 - ramp(12) // 4  # 0 is white: the darkest quarter
    assert np.asarray(decode(tiff16(dark, tags={262: 0, 281: 4095}))).max() == 64
    with pytest.raises(ImageRejected, match=r"a damaged TIFF, or one whose bits, .* convert it to PNG"):
        decode(tiff16(dark, ">", tags={262: 0}))  # Pillow does not know it


@pytest.mark.parametrize(
    ("bits", "size", "count"), [(8, (48, 64), 3), (10, (48, 64), 1), (12, (8, 8), 1), (14, (48, 64), 3), (12, (700, 900), 300)]
)
def test_12_a_few_broken_pixels_turn_no_image_black(bits: int, size: tuple[int, int], count: int) -> None:
    for channels, colour in ((1, 0), (3, 2), (4, 6)):
        one = np.rint(np.linspace(0, 2**bits - 1, size[0] * size[1])).astype(np.uint16).reshape(size)
        values = np.stack([one, one[::-1], one[:, ::-1], np.full_like(one, 65535)][:channels], axis=-1)
        where = np.random.default_rng(0).choice(one.size, count, replace=False)
        values.reshape(-1, channels)[where] = 65535
        files = [png16(values, colour), png16(values, colour, significant=bits)]
        for data in [*files, tiff16(values), tiff16(values, ">"), tiff16(values, tags={281: 65535})]:
            found = np.asarray(decode(data)).astype(int)
            right = eight(np.minimum(values, 2**bits - 1), bits)
            assert np.abs(found - right).max() <= 1, (channels, colour)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_12_a_broken_pixel_of_other_depths_turns_no_image_black(kind: type) -> None:
    values = np.linspace(-500, 1500, 64 * 48).reshape(48, 64).astype(kind)
    clean = decode(tiff(values))
    for far in (1e9, -1e9):
        values[10, 10] = far
        found = np.asarray(decode(tiff(values))).astype(int)
        assert np.abs(np.delete(found - np.asarray(clean), 10, 0)).max() <= 1


@pytest.mark.parametrize("greatest", [2**31 - 1, 2**31 + 100_000, 2**32 - 1])
@pytest.mark.parametrize("tagged", [True, False])
def test_12_thirty_two_bits_without_a_sign_do_not_turn_over(greatest: int, tagged: bool) -> None:
    """By the TIFF specification values without a SampleFormat have no sign either; Pillow reads all as if they had one."""
    values = np.repeat(np.linspace(0, greatest, 64).astype("<u4")[:, None], 64, axis=1)
    data = values.tobytes()
    sizes = [(256, 64), (257, 64), (258, 32), (259, 1), (262, 1), (273, 8), (277, 1), (278, 64), (279, len(data))]
    tags = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*sizes, *([(339, 1)] if tagged else [])]]
    folder = struct.pack("<H", len(tags)) + b"".join(tags) + struct.pack("<I", 0)
    found = np.asarray(decode(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + folder))[:, 0, 0].astype(int)
    assert np.abs(found - np.linspace(0, 255, 64)).max() <= 1


def tiff(values: np.ndarray, tags: dict[int, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=tags or {})
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.002, 0.03, 0.3, 0.9])
@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize(
    ("kind", "least", "greatest", "fill"),
    [
        (np.int32, -1000, 3000, -32768),
        (np.int32, -1000, 3000, 32767),
        (np.float32, 0, 1, -9999),
        (np.float32, 0, 1, 1e20),
        (np.float32, -1, 1, -3.4028235e38),
        (np.float32, 280, 300, 0),
    ],
)
def test_12_padding_and_saturation_take_no_contrast(
    kind: type, least: float, greatest: float, fill: float, share: float, broken: bool
) -> None:
    values = np.linspace(least, greatest, 64 * 48).reshape(48, 64).astype(kind)
    clean = np.asarray(decode(tiff(values))).astype(int)
    outside = np.random.default_rng(0).random(values.shape) < share
    outside[0, 0] = outside[-1, -1] = False
    values[outside] = fill
    if broken:
        values[10, 10], outside[10, 10] = (1e9, True) if fill < 1e9 else (-1e9, True)
    found = np.asarray(decode(tiff(values))).astype(int)
    assert np.abs(found - clean)[~outside].max() <= (1 if not broken else 4)
    outside[10, 10] = False
    assert set(found[outside].ravel()) == {0 if fill < least else 255}


def test_12_padding_and_saturation_at_once() -> None:
    values = np.linspace(-1000, 3000, 64 * 48).reshape(48, 64).astype(np.int32)
    clean = np.asarray(decode(tiff(values))).astype(int)
    for low, high in ((-32768, 32767), (-(10**9), 32767), (-32768, 10**9)):
        values[10:20], values[30:35] = low, high
        found = np.asarray(decode(tiff(values))).astype(int)
        assert np.abs(found - clean)[[*range(10), *range(20, 30), *range(35, 48)]].max() <= 1
        assert (found[15].max(), found[32].min()) == (0, 255)


@pytest.mark.parametrize("bits", [10, 12])
def test_12_saturated_values_of_fewer_bits_are_white_and_the_others_as_they_were(bits: int) -> None:
    values = ramp(bits)
    values[20:25] = 65535
    found = np.asarray(decode(png16(values, 0))).astype(int)
    assert np.abs(found - eight(np.minimum(values, 2**bits - 1), bits)).max() <= 1


@pytest.mark.parametrize("stated", ["-9999", "-9999.0", " -9999\0", "nan"])
def test_12_the_value_without_data_is_what_the_file_says(stated: str) -> None:
    values = np.linspace(-5000, 5000, 64 * 48).reshape(48, 64).astype(np.float32)
    clean = np.asarray(decode(tiff(values))).astype(int)
    values[10:20] = float("nan") if "nan" in stated else -9999
    found = np.asarray(decode(tiff(values, {42113: stated}))).astype(int)
    assert np.abs(found - clean)[20:].max() <= 1
    assert found[15].max() == 0


def test_12_labels_stay_apart() -> None:
    for values in ([0, 100, 101], [0, 1, 2, 60_000], [*range(14), 9000]):
        image = np.resize(np.array(values, np.int32), (48, 64))
        assert len({int(v) for v in np.asarray(decode(tiff(image)))[..., 0].ravel()}) >= 2
        assert np.asarray(decode(tiff(image)))[image == values[-1]].min() == 255


def test_12_small_bright_things_on_black_are_no_outliers() -> None:
    for channels, colour in ((1, 0), (3, 2)):
        values = np.zeros((100, 100, channels), np.uint16)
        values[50, 50:53] = 40_000
        found = np.asarray(decode(png16(values, colour)))
        assert found[50, 51].min() >= 150
        assert found[0].max() == 0


def test_12_the_contrast_of_a_whole_range_stays() -> None:
    """A thousandth of the values is cut only where it lies far outside."""
    values = ramp(16)
    values[:40] //= 3
    plain = np.asarray(decode(png16(values, 0))).astype(int)
    assert np.abs(plain - eight(values, 16)).max() == 0


@pytest.mark.parametrize("header", [b"P5 64 48 4095\n", b"P6\n64 48\n255\n", b"P2\n2 2\n15\n1 2 3 4"])
def test_formats_and_depths_that_are_not_read_are_refused_with_the_reason(header: bytes) -> None:
    with pytest.raises(ImageRejected, match="PPM, PGM and PBM are not supported; convert it to PNG"):
        decode(header + bytes(64 * 48 * 6))
    for function in (decode, inspect):
        with pytest.raises(ImageRejected, match="unsupported bit depth: less than 16 bits in 16"):
            function(png16(ramp(12, 2), 4))


@settings(max_examples=40)
@given(st.integers(1, 65535), st.sampled_from([(1, 0), (3, 2), (4, 6)]), st.sampled_from(["png", "<", ">"]))
def test_no_image_with_bright_values_comes_out_black(most: int, kind: tuple[int, int], form: str) -> None:
    channels, colour = kind
    values = (ramp(16, channels) * (most / 65535)).astype(np.uint16)
    if channels == 4:
        values[..., 3] = 65535
    found = np.asarray(decode(png16(values, colour) if form == "png" else tiff16(values, form)))
    assert found.max() >= 127
    assert found.min() == 0


def padded(values: np.ndarray, fill: int, rows: slice = slice(20, 30)) -> np.ndarray:
    found = values.copy()
    found[rows] = fill
    return found


RULES = {
    "all 16 bits": (ramp(16), None),
    "12 bits": (ramp(12), None),
    "saturated": (padded(ramp(12), 65535), None),
    "padded": (padded(ramp(10) + 40_000, 0), None),
    "padded and saturated": (padded(padded(ramp(10) + 8_000, 0), 65535, slice(5, 7)), None),
    "broken pixels": (
        padded(ramp(10), 65535, slice(3, 3)) + np.where(np.arange(3072) == 7, 60_000, 0).reshape(48, 64, 1),
        None,
    ),
    "close together, dark": (ramp(5) + 2_000, None),
    "close together, bright": (ramp(10) + 60_000, None),
    "bright, and their most is stated": (ramp(16) // 2, 40_000),
    "dark, and their most is stated": (ramp(10), 4095),
    "one value": (np.full((48, 64, 1), 128 * 257), None),
}


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("form", ["png", "<", ">"])
def test_colours_of_16_bits_have_the_black_and_white_that_grey_has(kind: str, form: str) -> None:
    grey, most = RULES[kind]
    grey = grey.astype(np.uint16)
    alpha = np.full_like(grey, 65535)

    def read(*channels: np.ndarray) -> np.ndarray:
        values = np.concatenate(channels, -1)
        if form == "png":
            return np.asarray(
                decode(png16(values, {1: 0, 3: 2, 4: 6}[len(channels)], None if most is None else most.bit_length()))
            )
        return np.asarray(decode(tiff16(values, form, tags={} if most is None else {281: most})))

    wanted = read(grey)
    assert np.array_equal(read(grey, grey, grey), wanted)
    assert np.array_equal(read(grey, grey, grey, alpha), wanted)


def test_a_channel_that_is_the_same_everywhere_is_a_colour() -> None:
    dim = ramp(10).astype(np.uint16)
    red = np.full_like(dim, 60_000)
    found = np.asarray(decode(png16(np.concatenate([red, dim, dim], -1), 2))).astype(int)
    assert found[..., 0].min() == found[..., 0].max() == round(60_000 / 257)
    assert found[..., 1].max() == round(1023 / 257)
    none = np.zeros_like(dim)
    found = np.asarray(decode(png16(np.concatenate([none, dim, none], -1), 2)))
    assert (found[..., 0].max(), found[..., 1].max(), found[..., 2].max()) == (0, 255, 0)


@pytest.mark.parametrize("channels", [3, 4])
def test_12_all_bits_at_once_are_what_arithmetic_gives(channels: int) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    right = np.rint(values / 257).astype(np.uint8)
    mode = "RGB" if channels == 3 else "RGBA"
    parts = [np.repeat(part.astype(np.uint8)[..., None], channels, axis=-1) for part in (values >> 8, values & 255)]
    high, low = (Image.frombytes(mode, (256, 256), part.tobytes()) for part in parts)
    found = np.asarray(value_range.coloured(high, low, [0.0] * channels, [65535.0] * channels))
    assert (found == right[..., None]).all()
    assert (np.asarray(value_range.grey(Image.fromarray(values), 0.0, 65535.0)) == right[..., None]).all()


@pytest.mark.parametrize(("bits", "joined", "made"), [(16, 1, 0), (12, 2, 1)])
def test_12_no_value_of_16_bits_is_looked_at_more_often_than_needed(
    bits: int, joined: int, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"_joined": 0, "_eight": 0}
    for name in calls:
        work = getattr(value_range, name)

        def counted(*given: Any, name: str = name, work: Callable[..., Any] = work) -> Any:
            calls[name] += 1
            return work(*given)

        monkeypatch.setattr(value_range, name, counted)
    value_range._table.cache_clear()
    picture = np.add.outer(np.arange(800), np.arange(900))[..., None] * np.array([1, 2, 3]) * 13 % 2**bits
    data = png16(picture.astype(np.uint16), 2)
    decode(data)
    strips = len(list(value_range.strips(Image.open(io.BytesIO(data)))))
    assert strips > 1
    assert calls == {"_joined": joined * strips, "_eight": made}
