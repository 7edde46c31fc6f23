"""Memory that decoding takes at most, against the figure that docs/serving.md and the limits count with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from leaml.images import BYTES_PER_PIXEL

WIDTH, HEIGHT = 2400, 2000

SCRIPT = r"""
import io, json, os, struct, sys, zlib
import numpy as np
from PIL import Image
from leaml import images

width, height, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def in_child(work):
    # a process of its own, so that no image is decoded into memory that another one left
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, json.dumps(work()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as result:
        return json.loads(result.read())

def make(case):
    global rgb, grey, deep
    noise = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    rgb = Image.fromarray(noise).resize((width, height))
    grey = np.asarray(rgb.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 200)
    with open(file, "wb") as out:
        return out.write(case())

def peak():
    with open(file, "rb") as source:
        data = source.read()
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = memory("VmRSS")
    image = images.decode(data)
    return (memory("VmHWM") - before) / (width * height)

def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()

def memory(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

def in_one_tile():
    # 16-bit RGBA in a tile of twice the image, which is decoded whole
    tile = zlib.compress(np.repeat(grey.astype(np.uint16)[:, :, None] * 200, 8, 2).tobytes(), 1)
    place = 8 + 2 + 12 * 11 + 4
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 4, place), (259, 3, 1, 8), (262, 3, 1, 2), (277, 3, 1, 4)]
    entries += [(322, 4, 1, 2 * width), (323, 4, 1, height), (324, 4, 1, place + 8), (325, 4, 1, len(tile)), (338, 3, 1, 2)]
    head = b"II*\0" + struct.pack("<LH", 8, len(entries))
    body = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return head + body + bytes(4) + struct.pack("<4H", 16, 16, 16, 16) + tile

def of_twelve_bits():
    # a PNG of 16-bit colours with values up to 4095, which is read twice
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    rows = (np.asarray(rgb).astype(np.uint16) * 16).astype(">u2").reshape(height, -1).view(np.uint8)
    pixels = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes(), 1)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")

exif = Image.Exif()
exif[0x0112] = 6
progressive = {"progressive": True, "subsampling": 0}
lzw = {"compression": "tiff_lzw"}
cases = {
    "1": lambda: encoded(rgb.convert("1"), "PNG"),
    "L": lambda: encoded(rgb.convert("L"), "PNG"),
    "P": lambda: encoded(rgb.quantize(64), "PNG"),
    "P with transparency": lambda: encoded(rgb.quantize(64), "PNG", transparency=1),
    "RGB": lambda: encoded(rgb, "PNG"),
    "RGBA": lambda: encoded(rgb.convert("RGBA"), "PNG"),
    "LA": lambda: encoded(rgb.convert("LA"), "PNG"),
    "I;16": lambda: encoded(deep, "PNG"),
    "I;16 TIFF": lambda: encoded(deep, "TIFF", **lzw),
    "I TIFF": lambda: encoded(Image.fromarray(grey.astype(np.int32)), "TIFF", **lzw),
    "F TIFF": lambda: encoded(Image.fromarray(grey.astype(np.float32)), "TIFF", **lzw),
    "CMYK TIFF": lambda: encoded(rgb.convert("CMYK"), "TIFF", **lzw),
    "RGBA TIFF in one tile": in_one_tile,
    "RGB of 12 bits": of_twelve_bits,
    "RGB JPEG": lambda: encoded(rgb, "JPEG"),
    "rotated JPEG": lambda: encoded(rgb, "JPEG", exif=exif),
    "progressive JPEG": lambda: encoded(rgb, "JPEG", **progressive),
    "progressive CMYK JPEG": lambda: encoded(rgb.convert("CMYK"), "JPEG", **progressive),
    "RGBA WebP": lambda: encoded(rgb.convert("RGBA"), "WEBP", method=0),
    "GIF": lambda: encoded(rgb.quantize(64), "GIF"),
    "BMP": lambda: encoded(rgb, "BMP"),
    "RGBA JPEG 2000": lambda: encoded(rgb.convert("RGBA"), "JPEG2000"),
    "RGBA AVIF": lambda: encoded(rgb.convert("RGBA"), "AVIF", speed=10),
}
images.decode(encoded(Image.new("RGB", (64, 64)), "PNG"))  # what is loaded at first use
found = {}
for name, case in cases.items():
    in_child(lambda: make(case))
    found[name] = in_child(peak)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Bytes per pixel at the peak, by kind of image, in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak is read from Linux's /proc")
    command = [sys.executable, "-c", SCRIPT, str(WIDTH), str(HEIGHT), str(tmp_path_factory.mktemp("image") / "image")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return dict(json.loads(done.stdout))


def test_no_image_takes_more_memory_than_the_limits_count_with(measured: dict[str, float]) -> None:
    assert max(measured.values()) <= BYTES_PER_PIXEL, measured
    assert max(measured.values()) > BYTES_PER_PIXEL / 2, measured  # the figure is no fiction


def test_what_is_converted_takes_one_copy_and_not_many(measured: dict[str, float]) -> None:
    # the tile is 16, what is read of it 4, and what was read of it before, without the low bytes, another 4
    assert 20 < measured["RGBA TIFF in one tile"] <= 25, measured
    others = ("JPEG 2000", "WebP", "one tile", "12 bits")
    assert measured["RGB of 12 bits"] <= 16, measured  # high and low bytes, and what is made of them
    small = {name: taken for name, taken in measured.items() if not any(other in name for other in others)}
    assert max(small.values()) <= 14, small  # before images were converted in strips: 44 for floats, 20 with transparency
