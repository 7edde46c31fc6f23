"""A folder of image files, searched recursively; no questions."""

from __future__ import annotations

from collections.abc import Iterator

from leaml import images
from leaml.config import SourceConfig
from leaml.data.records import Keep, Record, fetch, need_path, refuse_split
from leaml.io import files


def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """The folder's images by `files.image_files`, in the order of their paths."""
    refuse_split("folder", source.split)
    found = files.image_files(need_path("folder", source.path), images.SUFFIXES)
    yield from fetch(Record(uri, "folder", None, None) for uri in found if keep(uri))
