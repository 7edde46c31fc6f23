"""CSV and TSV: the columns image, question, answer and optionally question_type, options and split, as in JSON Lines.

    image,question,answer,options
    frame_0001.jpg,"Which colour, mostly?",B,red|pink

Every cell is text: "None", "NA" and "null" are answers like others, and only an empty cell is missing.
"""

from __future__ import annotations

import csv
import io
import itertools
import sys
from collections.abc import Iterator
from typing import Any

from leaml.config import SourceConfig
from leaml.data import files, row_files
from leaml.data.records import Keep, Record, need_path
from leaml.data.registry import reader
from leaml.errors import DataError

_DELIMITERS = (",", "\t", ";")
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold an image in base64


@reader("csv")
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of first mention. Raises DataError naming file and line."""
    path = need_path("csv", source.path)
    labels = (
        (where, {name: cell for name, cell in cells.items() if cell or name == "options"})
        for where, cells in rows(path, "image")
    )
    yield from row_files.records(path, labels, source, keep)


def rows(uri: str, column: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(file:line, cells)` of every row that is not blank, by column; an empty cell is "".

    Args:
        uri: File with a line of column names. They are separated by commas, tabs or semicolons, and so is the rest.
        column: A column that must be there.

    Raises:
        DataError: Not UTF-8, not CSV, no such column, or more cells than columns.
    """
    try:
        text = files.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{uri}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
        raise DataError(msg) from None
    line = 0
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, column), strict=True)
        names = [name.strip() for name in next(table, [])]
        if column not in names:
            msg = f"{uri} has no column {column!r} in its first line, but {names or 'nothing'}"
            raise DataError(msg)
        line = table.line_num
        for cells in table:
            where, line = f"{uri}:{line + 1}", table.line_num  # a cell with line ends lasts several lines
            if len(cells) > len(names):
                msg = f"{where}: more cells than columns; put a text that holds the separator in double quotes"
                raise DataError(msg)
            if any(cell.strip() for cell in cells):
                yield where, dict(itertools.zip_longest(names, (cell.strip() for cell in cells), fillvalue=""))
    except csv.Error as error:
        msg = f"{uri}:{line + 1}: not valid CSV: {error}"
        raise DataError(msg) from None


def _delimiter(text: str, column: str) -> str:
    """The separator that cuts `column` out of the first line; a comma where none does."""
    first = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    for delimiter in _DELIMITERS:
        names = next(csv.reader([first], delimiter=delimiter), [])
        if column in (name.strip() for name in names):
            return delimiter
    return _DELIMITERS[0]
