"""Whether a run or a table can be kept where it is to go, found out before anything is spent on it."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

from leaml.errors import ConfigError, DataError
from leaml.io import files


def refuse_unwritable(folder: str, key: str = "storage", what: str = "the run", fix: str = "storage=FOLDER") -> None:
    """Try to write where `folder` is to be; what is tried is removed again. Rights alone do not tell: /proc has them for root.

    Args:
        folder: Of a run or an output, local or s3://; it and the folders above it may be missing.
        key: What names it: a key of the configuration, or an option.
        what: What is to be kept there.
        fix: How to name another.

    Raises:
        ConfigError: A file is in the way, or nothing can be written there.
    """
    if files.is_remote(folder):
        probe = files.join(folder, f".leaml-{uuid.uuid4().hex}")
        try:
            files.write_bytes(probe, b"")
            files.delete_tree(probe)
        except DataError as error:
            msg = f"{key}: nothing can be kept in {folder}: {error}"
            raise ConfigError(msg) from None
        return

    there = Path(folder).absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        kind = "a link that leads nowhere" if there.is_symlink() and not there.exists() else "a file"
        msg = f"{key}: {there} is {kind}, so {what} cannot be kept in {folder}; give a folder: {fix}"
        raise ConfigError(msg)

    try:
        Path(tempfile.mkdtemp(prefix=".leaml-", dir=there)).rmdir()
    except OSError as error:
        msg = f"{key}: nothing can be written to {there}: {error.strerror}; give another folder: {fix}"
        raise ConfigError(msg) from None
