"""The one place for file access: local paths and s3://bucket/key behave alike.

Every error that a user can fix (missing, forbidden, unreachable) is a DataError with the path and the fix.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from leaml import addresses
from leaml.errors import DataError
from leaml.io import s3

_TEMPORARY = re.compile(r"^\..*\.tmp$")
_READ_BUFFER = 1 << 20
_WHOLE, _PART, _PARTS = 64 << 20, 1 << 18, 64
"""Size from which on a fingerprint reads parts, the size of a part and their number."""
_NAME_SHOWN = 200
_LONGEST_PATH, _LONGEST_NAME = 4096, 255
"""Of a path, in characters, and of what stands between its slashes on a disk, in bytes: a longer text names no file."""
os.umask(_UMASK := os.umask(0))  # it can only be read by setting it


def is_remote(uri: str) -> bool:
    """Whether `uri` is in S3. Raises DataError for any other scheme, and for one that lacks a slash behind the colon."""
    scheme = addresses.scheme(uri)
    if scheme is None:
        if addresses.lacks_slash(uri):
            msg = f"{shown(uri)} lacks a slash; write s3://bucket/key, or ./{shown(uri)} for a local file of that name"
            raise DataError(msg)
        return False
    if scheme != "s3":
        msg = f"{shown(uri)}: scheme {scheme!r} is not supported; give a local path or s3://bucket/key"
        raise DataError(msg)
    return True


def absolute(uri: str) -> str:
    """`uri` as it is in S3, else as an absolute path: workers have another working directory."""
    return uri if is_remote(uri) else str(Path(uri).resolve())


def join(base: str, *parts: str) -> str:
    """Join path parts below `base`; the result keeps the kind (local or s3://) of `base`."""
    return posixpath.join(base, *parts)


def resolve(base: str, name: str) -> str:
    """Path of `name` (relative, absolute or s3://) if it lies inside the folder `base`. Raises DataError otherwise.

    Annotation files come from others: one that names `../../key` must not make us read that file.
    """
    if fault := no_name(base, name):
        msg = f"the image {shown(name)!r} {fault}"
        raise DataError(msg)
    path = name if is_remote(name) else join(base, name)
    if "\0" in name or not _normal(path).startswith(_normal(base).rstrip("/") + "/"):
        msg = f"{shown(name)} is outside of the folder {base}; set `images` to a folder that holds it"
        raise DataError(msg)
    return path


def no_path(name: str) -> str | None:
    """Why a text cannot be the name of a file, to follow what it is in a message; None: it can."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        return f"holds {name[error.start]!r}, which is half of a character; correct the name"
    return "holds '\\x00', which no name of a file does; correct the name" if "\0" in name else None


def no_name(base: str, name: str) -> str | None:
    """Why a text is too long to name an image in the folder `base`, to follow what it is in a message; None: it is not."""
    parts = [] if is_remote(base) or len(name) > _LONGEST_PATH else name.encode("utf-8", "surrogatepass").split(b"/")
    if len(name) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in parts):
        return f"is a text of {len(name)} characters, neither a path nor an image in base64"
    return None


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    return _kind(uri) != fs.FileType.NotFound


def is_file(uri: str) -> bool:
    """Whether `uri` is a file; False for a folder. Raises DataError if nothing is there."""
    kind = _kind(uri)
    if kind == fs.FileType.NotFound:
        raise DataError(_missing(uri))
    return kind == fs.FileType.File


def open_native(uri: str) -> pa.NativeFile:
    """Open for random access, as Arrow readers want it. Raises DataError."""
    filesystem, path = _filesystem(uri)
    with explained(uri, "read"):
        if s3.is_foreign(uri):
            return pa.PythonFile(s3.Object(uri), mode="r")
        return filesystem.open_input_file(path)


def open_read(uri: str) -> io.BufferedReader:
    """Open for buffered binary reading; seekable. Raises DataError."""
    return io.BufferedReader(open_native(uri), _READ_BUFFER)


def read_bytes(uri: str, max_bytes: int | None = None, offset: int = 0, length: int | None = None) -> bytes:
    """Read a file, or `length` bytes of it from `offset` on. Raises DataError if it is missing or larger than `max_bytes`."""
    with open_native(uri) as stream, explained(uri, "read"):
        if max_bytes is not None and stream.size() > max_bytes:
            msg = f"{uri} has {stream.size()} bytes, over the limit of {max_bytes}"
            raise DataError(msg)
        stream.seek(offset)
        return stream.read(length)


def fingerprint(uri: str, edited: bool = False) -> str:
    """SHA-256 of a file's size and content; of more than 64 MiB only 64 parts are read. Raises DataError.

    The parts lie at equal distances from the first byte to the last: training may leave a model's file of weights as it was
    at both ends. Of a folder: of the names and fingerprints of its files.

    Args:
        uri: A file or a folder.
        edited: The file is one that people edit in place, maybe between the parts: of a large one the time of its last change
            counts too (in S3 its ETag), so that a copy of it may have another fingerprint.
    """
    if not is_file(uri):
        base, found = len(uri.rstrip("/")) + 1, listing(uri)
        with ThreadPoolExecutor(s3.PARALLEL) as pool:
            parts = zip(found, pool.map(lambda file: fingerprint(file, edited), found), strict=True)
            text = "".join(f"{path[base:]}\n{part}\n" for path, part in parts)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    with open_native(uri) as stream, explained(uri, "read"):
        size = stream.size()
        digest = hashlib.sha256(f"{size}\n".encode())
        if size <= _WHOLE:
            digest.update(stream.read())
        else:
            digest.update(_last_change(uri).encode() if edited else b"")
            for number in range(_PARTS):
                stream.seek(number * (size - _PART) // (_PARTS - 1))
                digest.update(stream.read(_PART))
    return digest.hexdigest()


def write_bytes(uri: str, data: bytes, if_absent: bool = False) -> bool:
    """Publish a file atomically: readers see all of it or nothing, also after a crash.

    Args:
        uri: Local path (folders are made) or s3://bucket/key.
        data: The content.
        if_absent: Publish only if nothing is there; of several writers exactly one wins.

    Returns:
        Whether it was written (always, without `if_absent`).
    """
    if is_remote(uri):
        with explained(uri, "write"):
            return s3.put(uri, data, if_absent)
    path = Path(uri)
    with explained(uri, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, since a rename is atomic only within one file system
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:64]}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
                os.fchmod(stream.fileno(), 0o666 & ~_UMASK)  # mkstemp gives 0600, but others read runs and reports too
            return _publish(Path(temporary), path, if_absent)
        finally:
            Path(temporary).unlink(missing_ok=True)


def publish_file(local: str, uri: str) -> None:
    """Publish a finished local file at `uri`, atomically and without reading it into memory."""
    if is_remote(uri):
        with explained(uri, "write"):
            s3.upload(local, uri)
        return
    path = Path(uri)
    with explained(uri, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name[:64]}.{os.getpid()}.tmp"
        try:
            shutil.copyfile(local, temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            _publish(temporary, path, if_absent=False)
        finally:
            temporary.unlink(missing_ok=True)


def listing(uri: str, suffixes: Iterable[str] | None = None, recursive: bool = True) -> list[str]:
    """Sorted paths of the files in a folder, in the form of `uri`; suffixes are compared without case. Raises DataError.

    Links are followed; one that leads nowhere is listed too, so that its loss is noticed when it is read.
    """
    need_folder(uri)
    ends = tuple(s.lower() for s in suffixes) if suffixes is not None else ("",)
    with explained(uri, "list"):
        if s3.is_foreign(uri):
            paths: Iterable[str] = s3.listing(uri, recursive)
        elif is_remote(uri):
            found = s3.filesystem().get_file_info(fs.FileSelector(s3.path(uri), recursive=recursive))
            paths = ("s3://" + info.path for info in found if info.type == fs.FileType.File)
        else:
            paths = _walk(uri, recursive, set())
        return sorted(p for p in paths if p.lower().endswith(ends) and not is_temporary(p))


def contents(uri: str) -> dict[str, s3.S3Object]:
    """What is in a folder of S3, by the path below it. Raises DataError."""
    base = len(f"s3://{s3.path(uri)}/")
    with explained(uri, "list"):
        found = {each.uri[base:]: each for each in s3.objects(uri)}
    if not found:
        raise DataError(_missing(uri))
    return found


def need_folder(uri: str) -> None:
    """Raise DataError unless there is a folder."""
    if is_file(uri):
        msg = f"{uri} is a file; give the folder that holds it"
        raise DataError(msg)


def is_temporary(path: str) -> bool:
    """Whether a file is what a killed writer may have left."""
    return bool(_TEMPORARY.match(posixpath.basename(path)))


def delete_tree(uri: str) -> None:
    """Delete a folder and everything in it, or a file; nothing there is fine."""
    kind = _kind(uri)
    if kind == fs.FileType.NotFound:
        return
    filesystem, path = _filesystem(uri)
    with explained(uri, "delete"), contextlib.suppress(FileNotFoundError):  # another one may delete it at the same time
        if s3.is_foreign(uri):
            s3.delete(uri)
        elif kind == fs.FileType.Directory:
            filesystem.delete_dir(path)
        else:
            filesystem.delete_file(path)


def download_tree(uri: str, folder: str) -> None:
    """Copy the files below `uri` into a local folder. Raises DataError."""
    base = uri.rstrip("/") + "/"

    def fetch(source: str) -> None:
        target = Path(resolve(folder, source[len(base) :]))
        target.parent.mkdir(parents=True, exist_ok=True)
        with explained(source, "read"):
            if is_remote(source):
                s3.download(source, str(target))
            else:
                shutil.copyfile(source, target)

    Path(folder).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(s3.PARALLEL // s3.PARTS) as pool:
        list(pool.map(fetch, listing(uri)))


def upload_tree(folder: str, uri: str) -> None:
    """Copy the files below a local folder to `uri`; each file appears whole, the tree as such does not. Raises DataError."""
    base = folder.rstrip("/") + "/"
    with ThreadPoolExecutor(s3.PARALLEL) as pool:
        list(pool.map(lambda source: publish_file(source, join(uri, source.removeprefix(base))), listing(folder)))


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local path with the content of `uri`: itself, or a temporary download that is removed afterwards."""
    if not is_remote(uri):
        is_file(uri)
        yield uri
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("copy" + posixpath.splitext(uri)[1])
        with open_read(uri) as stream, path.open("wb") as out:
            shutil.copyfileobj(stream, out, _READ_BUFFER)
        yield str(path)


def _walk(folder: str, recursive: bool, visited: set[str]) -> Iterator[str]:
    # Not Arrow's selector: it goes round link loops until the path is too long, and leaves out dangling links
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if recursive:
                    yield from _walk(entry.path, recursive, visited)
            elif entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists()):
                yield entry.path


def _normal(uri: str) -> str:
    # Not Path.resolve: links are followed on purpose, image folders are often made of them
    return "s3://" + posixpath.normpath(uri[len("s3://") :]) if is_remote(uri) else os.path.abspath(uri)  # noqa: PTH100


def _publish(temporary: Path, path: Path, if_absent: bool) -> bool:
    if if_absent:
        try:
            os.link(temporary, path)  # unlike a rename, fails if the name is taken
        except FileExistsError:
            return False
    else:
        temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)  # the new name itself must survive a power cut
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _last_change(uri: str) -> str:
    return s3.etag(uri) if is_remote(uri) else str(Path(uri).stat().st_mtime_ns)


def _kind(uri: str) -> fs.FileType:
    filesystem, path = _filesystem(uri)
    with explained(uri, "read"):
        if s3.is_foreign(uri):
            return s3.kind(uri)
        try:
            return filesystem.get_file_info(path).type
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return fs.FileType.NotFound


def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    remote = is_remote(uri)
    if fault := "holds a NUL character; remove it" if "\0" in uri else no_path(uri):
        msg = f"{shown(uri)!r} {fault}"
        raise DataError(msg)
    if remote:
        return s3.filesystem(), s3.path(uri)
    # Arrow takes a relative path with a colon for an address
    return fs.LocalFileSystem(), f"./{uri}" if ":" in uri and not uri.startswith("/") else uri


def shown(name: str) -> str:
    """A path or name for a message, cut where it is long."""
    return name if len(name) <= _NAME_SHOWN else f"{name[:_NAME_SHOWN]}..."


def _missing(uri: str) -> str:
    fix = "braces are not expanded, give the folder of the files" if "{" in uri else "check the path"
    return f"{shown(uri)} does not exist; {fix}{' and the endpoint' if is_remote(uri) else ''}"


@contextlib.contextmanager
def explained(uri: str, verb: str) -> Iterator[None]:
    """Errors of the storage as DataErrors that name the file, what could not be done with it (`verb`) and the fix."""
    name = shown(uri)
    try:
        yield
    except FileNotFoundError:
        raise DataError(_missing(uri)) from None
    except PermissionError as error:
        msg = f"cannot {verb} {name}: {str(error.strerror or error).replace(uri, name)}; give this user the right to {verb} it"
        raise DataError(msg) from None
    except (OSError, *s3.ERRORS) as error:
        if verb == "read" and not is_remote(uri) and os.path.isdir(uri):  # noqa: PTH112 - Path.is_dir raises for a long name
            msg = f"{name} is a folder; give the path of a file"
            raise DataError(msg) from None
        fix = "check bucket, endpoint and AWS credentials" if is_remote(uri) else "check the path and the disk"
        msg = f"cannot {verb} {name}: {str(error).replace(uri, name)}; {fix}"
        raise DataError(msg) from None
