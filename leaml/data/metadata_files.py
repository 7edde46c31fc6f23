"""metadata.csv and metadata.jsonl beside the images of a folder, read as they are written.

`datasets` reads them through pandas and Arrow, which take "None", "NA" and "null" for missing, make 7 of "007", 2 of 2.0 and
times of "2020-01-01".
"""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Iterator, Mapping

from leaml.data import delimited, json_lines
from leaml.errors import DataError
from leaml.io import files
from leaml.text.values import shorten

_NAME = "file_name"
_FILES = ("metadata.csv", "metadata.jsonl")


class MetadataRows:
    """Rows by path of their image; several rows of one image are given out in their order."""

    def __init__(self, folder: str) -> None:
        """Read the files of a folder and those below it. Raises DataError naming file and line."""
        self._rows: dict[str, deque[tuple[str, Mapping[str, object]]]] = {}
        for uri in files.listing(files.absolute(folder), _FILES):  # datasets names images by the folder that a link leads to
            if posixpath.basename(uri) not in _FILES:
                continue
            for where, row in _rows(uri):
                self._rows.setdefault(
                    posixpath.normpath(posixpath.join(posixpath.dirname(uri), str(row[_NAME]))), deque()
                ).append((where, row))

    def take(self, image: str | None, where: str) -> tuple[str, Mapping[str, object]] | None:
        """File, line and values of the next row of an image, by its path; None: the folder has no such files.

        Args:
            image: Path of the image.
            where: File and row, for the message.

        Raises:
            DataError: There is no row of it.
        """
        if not self._rows:
            return None
        left = self._rows.get(posixpath.normpath(image or ""))
        if not left:
            msg = (
                f"{where}: the image {shorten(image)} has no row in {' or '.join(_FILES)}; write its path relative to that file"
            )
            raise DataError(msg)
        return left.popleft()


def _rows(uri: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    if uri.endswith(".csv"):
        for where, cells in delimited.rows(uri, _NAME):
            yield where, {name: cell or None for name, cell in cells.items()} | {_NAME: cells[_NAME]}
        return
    for where, row in json_lines.lines(uri):
        if not isinstance(row, Mapping) or not isinstance(row.get(_NAME), str):
            msg = f"{where}: the line is {shorten(row)}, not an object with the path of an image in {_NAME!r}; correct it"
            raise DataError(msg)
        yield where, row
