"""Whether a run can be kept where it is to go, found out before anything is spent on it."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

from leaml.data import files
from leaml.errors import ConfigError, DataError


def refuse_unwritable(folder: str) -> None:
    """Try to write where `folder` is to be; what is tried is removed again. Rights alone do not tell: /proc has them for root.

    Args:
        folder: Of a run, local or s3://; it and the folders above it may be missing.

    Raises:
        ConfigError: A file is in the way, or nothing can be written there.
    """
    if files.is_remote(folder):
        probe = files.join(folder, f".leaml-{uuid.uuid4().hex}")
        try:
            files.write_bytes(probe, b"")
            files.delete_tree(probe)
        except DataError as error:
            msg = f"storage: nothing can be kept in {folder}: {error}"
            raise ConfigError(msg) from None
        return
    there = Path(folder).absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        what = "a link that leads nowhere" if there.is_symlink() and not there.exists() else "a file"
        msg = f"storage: {there} is {what}, so the run cannot be kept in {folder}; give a folder: storage=FOLDER"
        raise ConfigError(msg)
    try:
        Path(tempfile.mkdtemp(prefix=".leaml-", dir=there)).rmdir()
    except OSError as error:
        msg = f"storage: nothing can be written to {there}: {error.strerror}; give another folder: storage=FOLDER"
        raise ConfigError(msg) from None
