"""Whether files have changed since they were looked at: by size and last change, without reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from leaml.io import files, s3, stored


def state(uris: Iterable[str], folder: str | None = None, without: str | None = None) -> str:
    """Hash of the names, sizes and times of change (in S3 ETags) of files: another one when any is changed, gone or new.

    Args:
        uris: Files, also images in them (`shard.tar#name`). What is no file, such as a row of a hub's data set, never changes.
        folder: Every file in it counts too.
        without: Folder whose files do not count, wherever it lies.

    Raises:
        DataError: The folder cannot be listed.
    """
    wanted = {file for uri in uris for file in (uri, uri.rpartition("#")[0]) if file}
    wanted |= set() if folder is None else set(files.listing(folder))
    if without is not None:
        wanted = {file for file in wanted if not file.startswith(without.rstrip("/") + "/")}
    found = {file: stored.version(file) for file in wanted if "://" not in file}
    remote = [file for file in wanted if file.lower().startswith("s3://")]
    for parent in {file.rpartition("/")[0] for file in remote}:
        below = s3.versions(parent)
        found |= {file: below.get(name, "") for file in remote for at, _, name in [file.rpartition("/")] if at == parent}
    text = "".join(f"{file}\n{found[file]}\n" for file in sorted(found))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
