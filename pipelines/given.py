"""Captions of a file (`caption.file`), matched with the images of a run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import pyarrow as pa

from leaml.data import store, tables
from leaml.data.captions import Captions
from leaml.data.image_ids import SortedIds
from leaml.data.image_table import ImageTable
from leaml.data.store import ImageIndex
from leaml.errors import DataError
from leaml.io import files
from leaml.text import replies
from pipelines.progress import say

GIVEN = "captions given"
"""Name of their count."""
_PART = 2_000
"""Captions in a file."""
_BATCH = 10_000


class NamedImage(TypedDict):
    """An image under one of its names."""

    image_id: str
    uri: str


class GivenRow(TypedDict):
    """A row of the captions table, as far as a file can tell."""

    image_id: str
    caption: str
    model: str


class Given:
    """The images of a run that have a caption in a file.

    What a teacher's reply must not be, a given text must not be either: an image of such a text counts as one without.

    Args:
        given: The file; it notes which of its names are used.
        folders: Of the images tables, whose names are looked up.
        refs: The images that are to have a caption; others get no row.
    """

    def __init__(self, given: Captions, folders: list[str], refs: ImageIndex) -> None:
        self.file, self.folders, self.refs = given, folders, refs
        self.images = self.unusable = 0
        self._example = ""
        self._ids = SortedIds(refs.ids)
        self._has = np.zeros(len(self._ids), bool)

    def count(self) -> int:
        """How many images have one. Raises as `rows` does."""
        return sum(1 for _ in self.rows())

    def rows(self) -> Iterator[GivenRow]:
        """Rows of the captions table.

        Raises:
            DataError: No image has one, or a name in the file is that of several images.
        """
        looked_at, seen = np.zeros(len(self._ids), bool), ""
        for images in (part for folder in self.folders for part in _names(folder)):
            seen = seen or next((image["uri"] for image in images), "")
            places = self._ids.positions([image["image_id"] for image in images])
            for image, place in zip(images, places, strict=True):
                text = self.file.of(image["image_id"], image["uri"])
                if text is None or place < 0 or looked_at[place]:
                    continue
                looked_at[place] = True
                found, reason = replies.caption(text, "stop")
                if reason:
                    self.unusable += 1
                    self._example = self._example or f"{image['uri']}: {reason}"
                    continue
                self._has[place] = True
                self.images += 1
                yield {"image_id": image["image_id"], "caption": found, "model": "given"}
        self._refuse_none(seen)

    def _refuse_none(self, example: str) -> None:
        if self.images:
            return
        msg = f"{self.file.uri}: none of its {len(self.file)} names, such as {self.file.first_unused(1)}, is that of an image, "
        msg += f"such as {example}"
        if self.unusable:
            msg = f"{self.file.uri}: none of its texts is a caption, such as that of {self._example}"
        raise DataError(msg)

    def publish(self, output: str) -> None:
        """Write the rows as finished shards of the step in the folder `output`. Raises as `rows` does."""
        rows, number = self.rows(), 0
        while part := list(itertools.islice(rows, _PART)):
            counts = {"images": len(part), GIVEN: len(part)}
            files.write_bytes(f"{output}/counts/given-{number:06d}.json", json.dumps(counts).encode())
            tables.write(f"{output}/rows/given-{number:06d}.parquet", tables.table(part, tables.CAPTIONS))
            number += 1
        say(self.text())

    @property
    def described(self) -> ImageIndex:
        """The images that have one, once `rows` has looked them up."""
        chosen = [self._has[self._ids.positions(part.ids.to_pylist())] for part in _parts(self.refs)]
        return self.refs.take(pa.chunked_array([np.flatnonzero(np.concatenate(chosen))]))

    def text(self) -> str:
        """How many images have a caption in the file, and what of it is of no use, once `rows` has looked them up."""
        unused, twice = self.file.unused, self.file.twice
        notes = [f"{unused} of its names are no image of this run"] if unused else []
        if self.unusable:
            such = f"such as that of {self._example}"
            notes.append(f"{self.unusable} of its texts are no captions and are left out, {such}")
        notes += [f"{twice} further captions of a name are left out, the first is kept"] if twice else []
        found = f"caption: {self.images} of {len(self.refs)} images have one in {self.file.uri}"
        return found + "".join(f"; {note}" for note in notes)


def _parts(refs: ImageIndex) -> Iterator[ImageIndex]:
    for start in range(0, len(refs), _BATCH):
        yield refs[start : start + _BATCH]


def _names(folder: str) -> Iterator[list[NamedImage]]:
    """`image_id` and `uri` of every image in a folder of images, then of every copy under another name, some at a time."""
    for batch in ImageTable(folder).batches(["image_id", "uri"], _BATCH):
        yield batch.to_pylist()
    for part in store.copies(folder):
        yield part.to_pylist()
