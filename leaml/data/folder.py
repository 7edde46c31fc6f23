"""A folder of image files, searched recursively; no questions."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from leaml import images
from leaml.config import SourceConfig
from leaml.data import files
from leaml.data.records import Keep, Record, fetch, need_path, refuse_split
from leaml.data.registry import reader


@reader("folder")
def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """Image files by suffix, in the order of their paths; hidden files are left out."""
    refuse_split("folder", source.split)
    found = files.listing(need_path("folder", source.path), images.SUFFIXES)
    visible = (uri for uri in found if not posixpath.basename(uri).startswith("."))
    yield from fetch(Record(uri, "folder", None, None) for uri in visible if keep(uri))
