"""Why an image that a label row names is not there: the nearest file that is, and what to write instead."""

from __future__ import annotations

import functools
import os
import posixpath

from leaml.errors import DataError
from leaml.io import files

_LISTED = 100_000
"""Files of a folder that are looked through."""


class Lost:
    """Explains images that are missing from `folder`; folders are listed once, local ones only."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._names = functools.lru_cache(maxsize=64)(_names)

    def explain(self, uri: str, error: DataError) -> str:
        """The error of reading an image, with the fix where the image does not exist."""
        if files.is_remote(uri):
            return str(error)
        if os.path.isdir(uri):  # noqa: PTH112
            return f"the image {files.shown(uri)} is a folder; write the name of a file in it"
        if os.path.lexists(uri):
            return str(error)
        return f"the image {files.shown(uri)} does not exist; {self._fix(uri)}"

    def _fix(self, uri: str) -> str:
        if "\\" in uri.removeprefix(self._folder):
            return "write / for \\ in its name"
        name = posixpath.basename(uri)
        stem = posixpath.splitext(name)[0].casefold()
        for found in self._names(posixpath.dirname(uri)):
            if found.casefold() == name.casefold():
                return f"there is {found!r}: write upper and lower case as the file has them"
            if posixpath.splitext(found)[0].casefold() == stem:
                return f"there is {found!r}: correct the ending of the name"
        return (
            f"images are looked for in {self._folder}: set `images` of this source (data.labeled.images, ...) to their folder"
        )


def _names(folder: str) -> tuple[str, ...]:
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(entry.name for entry, _ in zip(entries, range(_LISTED), strict=False)))
    except OSError:
        return ()
