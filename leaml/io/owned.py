"""Folders in the temporary folder of a process that may be killed: the next one removes what nobody owns any more."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from pathlib import Path

NAME = ".owner"
"""In a folder, the file that its owner keeps locked for as long as it lives, from wherever one looks: process ids do not tell,
since containers and machines that share the folder have their own."""


def own(folder: Path) -> None:
    """Mark a folder as this process's own until it ends, however it does."""
    made = folder / f"{NAME}.new"
    handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # never closed
    fcntl.flock(handle, fcntl.LOCK_EX)
    made.rename(folder / NAME)  # so that nobody finds it without its lock


def sweep(parent: Path, pattern: str, keep: int = 0) -> None:
    """Remove folders that a process of this user has marked as its own, and that ended without removing them.

    Several processes may do so at a time, as the workers of a training that goes on after it was killed.

    Args:
        parent: Where they are.
        pattern: Of their names.
        keep: How many of the latest to leave, for their logs.
    """
    ended = {folder: time for folder in parent.glob(pattern) if (time := _ended(folder)) is not None}
    for folder in sorted(ended, key=lambda each: ended[each], reverse=True)[keep:]:
        shutil.rmtree(folder, ignore_errors=True)


def _ended(folder: Path) -> float | None:
    """When the file of the owner was written; None of one that lives, or that another process removes."""
    with contextlib.suppress(OSError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return None
        with (folder / NAME).open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.fstat(stream.fileno()).st_mtime
    return None
