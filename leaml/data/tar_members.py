"""Members of tar archives, read in their order: those that are wanted with their content, every other one by its name."""

from __future__ import annotations

import gzip
import io
import posixpath
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import IO, Literal, Self, cast

from leaml import images
from leaml.data.records import MAX_IMAGE_BYTES, Keep, Place
from leaml.errors import DataError
from leaml.io import files

_PACKED = (b"BZh", b"\xfd7z", b"\x28\xb5\x2f")
"""How archives begin that bzip2, xz and zstd have compressed."""
_JUNK, _JUNK_START = {"__MACOSX", ".DS_Store"}, "._"
"""What macOS adds to archives."""


@dataclass(frozen=True)
class Member:
    """A member of a shard; no content: not wanted, or why it cannot be had is in `error`."""

    shard: str
    name: str
    content: bytes | None = None
    error: str | None = None
    place: Place | None = None
    """Where its content is in the shard, unless that is compressed."""

    @property
    def where(self) -> str:
        return f"{self.shard}#{self.name}"

    @property
    def is_image(self) -> bool:
        return not self.is_hidden and self.ending in images.SUFFIXES

    @property
    def is_hidden(self) -> bool:
        return any(part.startswith(".") and part != ".." for part in self.name.split("/"))

    @property
    def stem(self) -> str:
        return posixpath.splitext(self.name)[0]

    @property
    def ending(self) -> str:
        return posixpath.splitext(self.name)[1].lower()


class _Header(tarfile.TarInfo):
    """A member's header that is whole: tarfile takes a torn one, and the want of one, for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            msg = "it has no end" if str(error) == "empty header" else str(error)
            raise tarfile.ReadError(msg) from None


def members(shard: str, keep: Keep | None, wanted: Collection[str]) -> Iterator[Member]:
    """All members but folders and what macOS adds.

    Args:
        shard: The archive, which may be compressed.
        keep: Which images are wanted with their content, by `Member.where`; None: none.
        wanted: Endings of other members that are wanted so, hidden ones excepted.

    Raises:
        DataError: The archive is torn, or not at its end where it says so.
    """
    mode: Literal["r:*", "r|*"] = "r|*" if keep else "r:*"  # with the images unread, most of a shard can be passed over
    with files.open_read(shard) as stream:
        try:
            is_plain = not _is_gzip(stream) and stream.peek(3)[:3] not in _PACKED
            with tarfile.open(fileobj=_unpacked(stream), mode=mode, tarinfo=_Header) as archive:
                for info in archive:
                    member = Member(shard, posixpath.normpath(info.name))
                    if info.isdir() or any(part in _JUNK or part.startswith(_JUNK_START) for part in member.name.split("/")):
                        continue
                    is_wanted = member.ending in wanted and not member.is_hidden
                    if not (is_wanted or (member.is_image and keep is not None and keep(member.where))):
                        yield member
                    elif error := _unreadable(info):
                        yield replace(member, error=error)
                    else:
                        file = archive.extractfile(info)
                        place = Place(shard, info.offset_data, info.size) if is_plain and not info.issparse() else None
                        yield replace(member, content=file.read() if file is not None else b"", place=place)
                _check_end(archive)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            msg = f"{shard} is not a whole tar archive: {error}; copy this shard again or remove it"
            raise DataError(msg) from None


def _unpacked(stream: io.BufferedReader) -> IO[bytes]:
    """The archive in a stream that may be a gzip, of which tarfile would read one part alone and check no sum."""
    return cast("IO[bytes]", gzip.GzipFile(fileobj=stream) if _is_gzip(stream) else stream)


def _is_gzip(stream: io.BufferedReader) -> bool:
    return stream.peek(2)[:2] == b"\x1f\x8b"


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise ReadError if there is more behind the end of an archive that was read to its end."""
    while chunk := archive.fileobj.read(1 << 16):  # type: ignore[union-attr]
        if chunk.strip(b"\0"):
            msg = "there is more behind its end, as where archives were written behind one another (cat): write one of them"
            raise tarfile.ReadError(msg)


def _unreadable(info: tarfile.TarInfo) -> str | None:
    """Why the content of a member cannot be had."""
    if info.issym() or info.islnk():
        return f"a link to {info.linkname!r}; write the shard again with what it names (tar --dereference --hard-dereference)"
    if not info.isfile():
        return "neither a file nor a folder"
    if info.size > MAX_IMAGE_BYTES:
        return f"member of {info.size} bytes is over the limit of {MAX_IMAGE_BYTES}"
    return None
