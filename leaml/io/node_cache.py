"""Folders that a node makes once for all its processes: copies of models in S3, models with a merged adapter.

One process makes a folder while the others wait at a file lock, which the kernel gives back however its holder ends. What a
killed process left is removed by the next one. A process keeps the folders that it has taken until it ends; others are removed,
the longest unused first, where the disk has no room for the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from leaml.errors import DataError, ResourceError
from leaml.io import files

log = logging.getLogger(__name__)

FOLDER = "LEAML_MODEL_CACHE"
"""Environment variable with the folder; without it: one of this user's in the temporary folder."""
_LOCK, _PART = ".lock", ".part"
_BESIDE = 256 << 20
"""Bytes that a new folder leaves free on the disk."""

_HELD: dict[str, int] = {}
"""Folders that this process has taken, and for each a handle whose lock says so."""
_HOLDING = threading.Lock()


def environment(folder: str | None) -> dict[str, str]:
    """Variables that let processes keep copies of models in `folder`, those of a hub (by its own library) among them."""
    return {} if folder is None else {FOLDER: folder, "HF_HUB_CACHE": f"{folder}/hub"}


def use(folder: str | None) -> None:
    """Let this process, and those that it starts, keep copies of models in `folder`; None: where the environment says."""
    found = environment(folder)
    os.environ.update(found)
    constants = sys.modules.get("huggingface_hub.constants")
    if found and constants is not None:  # it has read the environment already
        constants.HF_HUB_CACHE = found["HF_HUB_CACHE"]  # type: ignore[attr-defined]


def local_model(name: str) -> str:
    """`name` itself, or for an s3:// folder this node's copy of what is there now.

    Raises:
        DataError: Nothing is there, it cannot be read, or it changed while it was copied.
        ResourceError: The disk has no room for it.
    """
    if "://" not in name or not files.is_remote(name):
        return name
    found = files.contents(name)
    size = sum(content.size for content in found.values())

    def fetch(where: str) -> None:
        files.download_tree(name, where)
        if files.contents(name) != found:
            msg = f"{name} changed while it was copied; run the same command again when it is complete"
            raise DataError(msg)

    key = hashlib.sha256(f"{name}\n{sorted(found.items())}".encode()).hexdigest()
    return made_once(f"leaml-model-{key[:16]}", fetch, size)


def made_once(name: str, make: Callable[[str], None], size: int = 0) -> str:
    """A local folder that is made once per node and does not change; this process has it until it ends.

    Args:
        name: Its name; the content must depend on it alone.
        make: Fills the folder that it is given, which does not exist yet.
        size: Bytes that will be in it, as far as they are known.

    Raises:
        ResourceError: The disk has no room for it.
    """
    parent = _parent()
    target = parent / name
    with _locked(parent / f"{name}{_LOCK}", name):
        if not target.is_dir():
            part = parent / f"{name}{_PART}"
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
            _make_room(parent, size, name)
            try:
                make(str(part))
                _sync(part)
                part.rename(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        os.utime(target)
        _hold(target)
    return str(target)


def _parent() -> Path:
    """The folder of all of them. Raises ResourceError where another user could put models into it."""
    given = os.environ.get(FOLDER)
    parent = Path(given) if given else Path(tempfile.gettempdir()) / f"leaml-models-{os.getuid()}"
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot make {parent} for copies of models: {error.strerror}; set resources.model_cache to another folder"
        raise ResourceError(msg) from None
    if not given and parent.stat().st_uid != os.getuid():
        msg = f"{parent} is for copies of models, but belongs to another user; set resources.model_cache to another folder"
        raise ResourceError(msg)
    return parent


@contextlib.contextmanager
def _locked(file: Path, name: str) -> Iterator[None]:
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process of this node makes %s; waiting for it", name)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _hold(target: Path) -> None:
    """Keep a folder from being removed as long as this process lives."""
    handle = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    with _HOLDING:
        before, _HELD[str(target)] = _HELD.get(str(target)), handle
    if before is not None:
        os.close(before)  # perhaps of a folder that somebody removed by hand, and that was made anew


def _make_room(parent: Path, size: int, name: str) -> None:
    """Remove folders that no process uses until `size` bytes fit. Raises ResourceError where they do not."""
    for made in _longest_unused(parent):
        if shutil.disk_usage(parent).free >= size + _BESIDE:
            return
        _remove_unused(made)
    if size and (free := shutil.disk_usage(parent).free - _BESIDE) < size:
        msg = (
            f"{name} needs {size / 2**30:.1f} GiB, and {parent} has {max(free, 0) / 2**30:.1f} GiB beside what is in use; "
            "set resources.model_cache to a folder on a larger disk"
        )
        raise ResourceError(msg)


def _longest_unused(parent: Path) -> list[Path]:
    found = list[tuple[float, Path]]()
    for made in parent.glob("leaml-*"):
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            if made.is_dir():
                found.append((made.stat().st_mtime, made))
    return [made for _, made in sorted(found)]


def _remove_unused(made: Path) -> None:
    """Remove a folder, or what is left of one, unless a process makes or uses it."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        for path in (made.parent / f"{made.name.removesuffix(_PART)}{_LOCK}", made):
            handle = os.open(path, os.O_RDONLY | (os.O_CREAT if path != made else os.O_DIRECTORY), 0o600)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(made)


def _sync(folder: Path) -> None:
    """Write a folder's files to the disk, so that a power cut leaves none that is short under its final name."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
