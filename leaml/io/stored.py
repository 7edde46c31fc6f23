"""Files with their versions: another version is another content of the file, or a copy of it."""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from leaml.io import files, s3


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file, its bytes, and what tells that it was changed: the time of its last change, in S3 the ETag."""

    uri: str
    size: int
    version: str


def version(uri: str) -> str:
    """Size and last change of a file, in S3 its ETag; empty where there is no such file.

    Raises:
        DataError: The storage does not answer.
    """
    if files.is_remote(uri):
        with files.explained(uri, "read"), contextlib.suppress(FileNotFoundError):
            return s3.etag(uri)
        return ""
    try:
        return _version(Path(uri).stat())
    except (OSError, ValueError):  # none, or a name that no file has
        return ""


def files_at(path: str, suffixes: Iterable[str]) -> Iterator[StoredFile]:
    """The file at `path`, or those of the folder there, see `walk`. Raises DataError."""
    if not files.is_file(path):
        yield from walk(path, suffixes)
        return
    with files.open_native(path) as stream:
        size = stream.size()
    yield StoredFile(path, size, version(path))


def walk(folder: str, suffixes: Iterable[str]) -> Iterator[StoredFile]:
    """`files.listing` of a folder and those below it, in the same order, as a stream.

    Memory holds the names of one folder at a time, of S3 those of one page.

    Args:
        folder: Where to look.
        suffixes: Endings of the files, compared without case.

    Raises:
        DataError: It cannot be listed.
    """
    files.need_folder(folder)
    ends = tuple(suffix.lower() for suffix in suffixes)
    with files.explained(folder, "list"):
        found = _remote(folder) if files.is_remote(folder) else _local(folder, set())
        yield from (file for file in found if file.uri.lower().endswith(ends) and not files.is_temporary(file.uri))


def image_files(folder: str, suffixes: Iterable[str]) -> Iterator[StoredFile]:
    """The images of a folder, by the one rule that ingest and predict have: files with one of the suffixes, whatever its case.

    Hidden files and what lies in hidden folders (names that begin with a dot) are left out. A file that a row names is taken
    whatever its name. Raises DataError.
    """
    base = len(folder.rstrip("/")) + 1
    for file in walk(folder, suffixes):
        if not any(part.startswith(".") for part in file.uri[base:].split("/")):
            yield file


def _remote(folder: str) -> Iterator[StoredFile]:
    for found in s3.objects(folder):  # servers list keys in the order of their UTF-8, which is that of Python
        yield StoredFile(found.uri, found.size, found.etag)


def _local(folder: str, visited: set[str]) -> Iterator[StoredFile]:
    real = os.path.realpath(folder)
    if real in visited:  # links may go round
        return
    visited.add(real)
    with os.scandir(folder) as entries:
        # With its slash a folder's name sorts as the paths of what is in it
        named = sorted((entry.name + "/" * entry.is_dir(), entry.is_symlink()) for entry in entries)
    for name, is_link in named:
        path = posixpath.join(folder, name)
        if name.endswith("/"):
            yield from _local(path.rstrip("/"), visited)
            continue
        try:
            found = os.stat(path)  # noqa: PTH116 - a Path for each of ten million files costs more than the call
        except OSError:
            if is_link:  # it leads nowhere: its loss is noticed when it is read
                yield StoredFile(path, 0, "")
            continue
        if _is_file(found):
            yield StoredFile(path, found.st_size, _version(found))


def _is_file(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode)


def _version(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns}"
