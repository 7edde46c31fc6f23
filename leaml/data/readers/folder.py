"""A folder of image files, searched recursively; no questions."""

from __future__ import annotations

from collections.abc import Iterator

from leaml import images
from leaml.config import SourceConfig
from leaml.data.records import Keep, Record, need_path, refuse_split
from leaml.io import stored


def read(source: SourceConfig, keep: Keep) -> Iterator[Record]:
    """The folder's images by `stored.image_files`, in the order of their paths."""
    refuse_split("folder", source.split)
    for file in stored.image_files(need_path("folder", source.path), images.SUFFIXES):
        if keep(file.uri):
            yield Record(file.uri, "folder", None, None, version=file)
