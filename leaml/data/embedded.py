"""Images that stand in a file of labels itself, as base64 or as a data URL."""

from __future__ import annotations

import base64
import binascii
import re
import tempfile

from leaml.tables import image_id

_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w.=+-]+)*;base64,", re.I)
_SHORTEST = 64
"""Characters: no image has fewer in base64, and few names have more."""
_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")
"""First bytes of PNG, JPEG, GIF, WebP, BMP, TIFF (two) and the HEIF family."""


def decode(text: str) -> bytes | None:
    """The bytes of an image given as a data URL or as base64; None if `text` is neither, so a name.

    What begins as an image does and is no base64 after all gives no bytes: images without any are refused where images are.
    """
    if text[:5].lower() == "data:":
        match = _DATA_URL.match(text)
        return _base64(text[match.end() :]) or b"" if match else b""
    if len(text) < _SHORTEST:
        return None
    head = _base64(text[:_SHORTEST])
    return (_base64(text) or b"") if head is not None and head.startswith(_STARTS) else None


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()).translate(str.maketrans("-_", "+/")), validate=True)
    except (ValueError, binascii.Error):
        return None


class Embedded:
    """Images found in a file while it is read, kept on disk: a file of labels fits into memory, its images may not."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        self._places: dict[str, tuple[int, int]] = {}

    def name(self, image: str) -> str:
        """`image` as it is if it is a name; of an embedded image a short name under which it is kept from now on."""
        data = decode(image)
        if data is None:
            return image
        name = f"#{image_id(data)}"
        if name not in self._places:
            self._places[name] = (self._spool.seek(0, 2), len(data))
            self._spool.write(data)
        return name

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def uri(self, name: str) -> str:
        """The image's address: the file and the hash of the bytes."""
        return f"{self._path}{name}"

    def data(self, name: str) -> bytes:
        """The bytes of an embedded image."""
        start, size = self._places[name]
        self._spool.seek(start)
        return self._spool.read(size)
