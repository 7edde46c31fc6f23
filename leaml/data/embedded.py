"""Images that stand in a file of labels itself, as base64 or as a data URL."""

from __future__ import annotations

import base64
import binascii
import re
import tempfile

from leaml.data.tables import image_id
from leaml.text.values import UnusableError, shorten

_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w.=+-]+)*;base64,", re.I)
DAMAGED = "base64 is damaged"
"""Reason against an image that stands in a row and cannot be decoded."""
_SHORTEST = 64
"""Characters: no image has fewer in base64, and few names have more."""
_LOOKED = 4 * _SHORTEST
"""Characters in which the first of an image are looked for: base64 may be indented, and broken into lines."""
_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")
"""First bytes of PNG, JPEG, GIF, WebP, BMP, TIFF (two) and the HEIF family."""


def holds_image(text: str) -> bool:
    """Whether a text is an image itself, as a data URL or as base64, whole or damaged; else it is a name."""
    if _is_url(text):
        return True
    start = "".join(text[:_LOOKED].split())[:_SHORTEST]
    head = _base64(start) if len(start) == _SHORTEST else None
    return head is not None and head.startswith(_STARTS)


def decode(text: str) -> bytes | None:
    """The bytes of an image given as a data URL or as base64; None if `text` is neither, so a name.

    Raises:
        UnusableError: It begins as an image does, and is no base64 to its end.
    """
    if not holds_image(text):
        return None
    match = _DATA_URL.match(text.lstrip()) if _is_url(text) else None
    if match is None and _is_url(text):
        raise UnusableError(
            DAMAGED, f"{shorten(text)} is no data URL with ';base64,'; write the image as data:image/...;base64,..."
        )
    data = _base64(text.lstrip()[match.end() :] if match else text)
    if not data:
        detail = (
            f"{shorten(text)}, of {len(text)} characters, is cut or holds others than those of base64; write the image again"
        )
        raise UnusableError(DAMAGED, detail)
    return data


def _is_url(text: str) -> bool:
    return text[:_LOOKED].lstrip()[:5].lower() == "data:"


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
        self._faults: dict[str, str] = {}

    def name(self, image: str) -> str:
        """`image` as it is if it is a name; of an embedded image a short name under which it is kept from now on.

        Damaged ones have names too, each its own: they are images that were lost.
        """
        try:
            data = decode(image)
        except UnusableError as error:
            name = f"#damaged-{image_id(image.encode('utf-8', 'surrogatepass'))}"
            self._faults[name] = str(error)
            return name
        if data is None:
            return image
        name = f"#{image_id(data)}"
        if name not in self._places:
            self._places[name] = (self._spool.seek(0, 2), len(data))
            self._spool.write(data)
        return name

    def __contains__(self, name: str) -> bool:
        return name in self._places or name in self._faults

    def uri(self, name: str) -> str:
        """The image's address: the file and the hash of the bytes."""
        return f"{self._path}{name}"

    def fault(self, name: str) -> str | None:
        """Why an embedded image has no data; None: it has."""
        return self._faults.get(name)

    def data(self, name: str) -> bytes | None:
        """The bytes of an embedded image, None of a damaged one."""
        if name in self._faults:
            return None
        start, size = self._places[name]
        self._spool.seek(start)
        return self._spool.read(size)
