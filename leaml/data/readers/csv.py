"""Label rows in a table of text, CSV or TSV: see leaml.data.delimited."""

from __future__ import annotations

from collections.abc import Iterator

from leaml.config import SourceConfig
from leaml.data import delimited, row_files
from leaml.data.records import Keep, Record, need_path


def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """One record per image, in the order of first mention. Raises DataError naming file and line."""
    path = need_path("csv", source.path)
    labels = (
        (where, {name: cell for name, cell in cells.items() if cell or name == "options"})
        for where, cells in delimited.rows(path, "image")
    )
    yield from row_files.records(path, labels, source, keep)
