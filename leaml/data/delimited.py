"""CSV and TSV: the columns image, question, answer and optionally question_type, options and split, as in JSON Lines.

    image,question,answer,options
    frame_0001.jpg,"Which colour, mostly?",B,red|pink

Every cell is text: "None", "NA" and "null" are answers like others, and only an empty cell is missing. A first line `sep=;`, as
Excel takes it, names the separator.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections.abc import Iterator, Sequence

from leaml.data import file_kinds, label_keys
from leaml.errors import DataError
from leaml.io import files
from leaml.text.values import shorten

_DELIMITERS = (",", "\t", ";", "|")
_HEAD = 10_000
_SEPARATOR_LINE = re.compile(r'^"?sep=(?P<separator>[,;\t|])"?[ \t,;|]*(?:\r\n?|\n)', re.I)
"""Excel's line of the separator; a program that writes it as a row of the table fills it up with separators."""
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold an image in base64


def rows(uri: str, *wanted: str) -> Iterator[tuple[str, dict[str, str]]]:
    """`(file:line, cells)` of every row that is not blank, by column; an empty cell is "".

    Args:
        uri: File with a line of column names. They are separated by commas, tabs, semicolons or "|", and so is the rest.
        wanted: Columns of which one must be there.

    Raises:
        DataError: Not UTF-8, not CSV, no such column, a name of several columns, or a cell beyond the columns that have a name.
    """
    data = files.read_bytes(uri)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = file_kinds.of_bytes(data[:16]) or "; save the file as UTF-8"
        msg = f"{uri}: not UTF-8 ({error.reason} at byte {error.start}){kind}"
        raise DataError(msg) from None

    stated = _SEPARATOR_LINE.match(text)
    text = text[stated.end() :] if stated else text
    before = line = 1 if stated else 0

    try:
        delimiter = stated["separator"] if stated else _delimiter(text, wanted)
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(filter(None, table), [])]
        line = before + table.line_num
        check_names(f"{uri}:{line}", names)
        if not set(wanted) & set(names):
            raise DataError(_no_column(uri, wanted[0], names, text))
        for cells in table:
            where, line = f"{uri}:{line + 1}", before + table.line_num  # a cell with line ends lasts several lines
            check_cells(where, names, cells)
            if any(cell.strip() for cell in cells):
                named = dict(itertools.zip_longest(names, (cell.strip() for cell in cells), fillvalue=""))
                yield where, {name: cell for name, cell in named.items() if name}
    except csv.Error as error:
        msg = f"{uri}:{line + 1}: not valid CSV: {error}"
        raise DataError(msg) from None


def check_names(where: str, names: Sequence[str]) -> None:
    """Raise DataError if two columns have one name, or names that differ in case alone: the cells of one would be lost."""
    twice = next(((name, name) for name in names if name and names.count(name) > 1), None)
    if pair := twice or label_keys.doubled(names, (*label_keys.IMAGE_KEYS, *label_keys.COLUMNS)):
        msg = f"{where}: the columns {pair[0]!r} and {pair[1]!r} have one name; rename or remove one of them"
        raise DataError(msg)


def check_cells(where: str, names: Sequence[str], cells: Sequence[str]) -> None:
    """Refuse a row of more cells than columns: part of a text with a separator in it, for one.

    Args:
        where: File and line of the row, for the message.
        names: Names of the columns. One without a name may hold nothing, but for the first.
        cells: The row.

    Raises:
        DataError: A cell stands beyond the columns, or in one without a name.
    """
    for column, cell in enumerate(cells):
        # A first column without a name is the index that pandas writes
        if column >= len(names) or (column and cell.strip() and not names[column].strip()):
            msg = f"{where}: more cells than columns; put a text that holds the separator in double quotes"
            raise DataError(msg)


def _no_column(uri: str, column: str, names: list[str], text: str) -> str:
    """What is wrong with a first line that lacks a column: the names that seem to be meant, or what else the file may be."""
    known = (column, *label_keys.COLUMNS) if column == "image" else (column,)
    renames = label_keys.suggested(tuple(names), known)
    fix = "; in its first line write " + ", ".join(f"{right!r} for {wrong!r}" for wrong, right in renames) if renames else ""
    if text.lstrip()[:1] in ("[", "{"):
        fix = file_kinds.of_text(text[:_HEAD])
    shown = shorten(names, 200) if names else "nothing"
    return f"{uri} has no column {column!r} in its first line, but {shown}{fix}"


def _delimiter(text: str, wanted: Sequence[str]) -> str:
    """The separator that cuts a wanted column out of the first line; where none does, the one that cuts it into most cells."""
    first = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    cells = {delimiter: next(csv.reader([first], delimiter=delimiter), []) for delimiter in _DELIMITERS}
    return max(_DELIMITERS, key=lambda d: (any(name.strip() in wanted for name in cells[d]), len(cells[d])))
