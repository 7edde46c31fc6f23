"""Writes the parts of a source: their images as fragments of the images table, and what was found as a file for the ingest.

A part's file appears when all of the part is written, and never changes. It is named by what the part was made from: names,
labels, and the versions of the files. So a part that is done is not done again, and one whose files were changed is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from leaml import images
from leaml.config import SourceConfig
from leaml.data import registry, tables
from leaml.data.image_table import FragmentWriter
from leaml.data.parts import Part
from leaml.data.records import Question, Record, RefusedRow, fetch
from leaml.errors import DataError
from leaml.io import files, s3, stored

_THREADS = min(4, os.cpu_count() or 1)
_ROWS = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("reason", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("stored", pa.bool_()),
        ("labels", pa.string()),
    ]
)
_FRAGMENTS = b"fragments"
_READ_AHEAD = 8
"""Files of parts in flight: what unites them may be one process far from the storage."""


@dataclass(frozen=True)
class PartRow:
    """A record as a part's file holds it: an image, one that cannot be used, or label rows without any.

    Attributes:
        image_id: Its identity; None: it could not be read, or there is none.
        uri: Its name, as tables hold it.
        reason: Why it cannot be used; None: it can, or there is none.
        width: In pixels; 0 for one that cannot be used.
        height: In pixels.
        stored: Whether it has a row in the part's fragments: the first of those with the same bytes has.
        questions: Its questions.
        refused: Label rows that cannot be used.
    """

    image_id: str | None
    uri: str
    reason: str | None
    width: int
    height: int
    stored: bool
    questions: tuple[Question, ...]
    refused: tuple[RefusedRow, ...]

    @property
    def is_record(self) -> bool:
        """Whether it is a record, and not the label rows of none."""
        return self.image_id is not None or self.reason is not None


@dataclass(frozen=True)
class WrittenPart:
    """A part that is written: its file, and its `key` and `after`."""

    file: str
    key: str
    after: str


@dataclass(frozen=True)
class PartWriter:
    """Reads and checks the images of a part and writes them, unless that was done before. Other processes may do others.

    Attributes:
        source: What the parts belong to.
        images_out: Folder of the images table.
        max_pixels: Larger images are quarantined.
        split: Value of the column `split`; None: what the source says.
        copy: Whether all images are copied.
    """

    source: SourceConfig
    images_out: str
    max_pixels: int
    split: str | None
    copy: bool

    def __call__(self, part: Part) -> WrittenPart:
        """Raises DataError where the source or the table's folder fails; an image that cannot be read stops nothing."""
        file = self._file(part)
        if not files.exists(file):
            self._write(part, file)
        return WrittenPart(file, part.key, part.after)

    def _write(self, part: Part, file: str) -> None:
        fragments = FragmentWriter(self.images_out)
        rows: list[dict[str, object]] = []
        seen: set[str] = set()

        for record, checked in _inspected(fetch(self._records(part)), self.max_pixels):
            row = _row(record)
            if isinstance(record, RefusedRow):
                pass
            elif isinstance(checked, str):
                row["reason"] = checked
            else:
                row |= {"width": checked.width, "height": checked.height, "stored": row["image_id"] not in seen}
                if row["stored"]:
                    seen.add(str(row["image_id"]))
                    fragments.add(_image_row(str(row["image_id"]), record, checked, self.split, self.copy))
            rows.append(row)

        known = {_FRAGMENTS: json.dumps(fragments.close()).encode()}
        table = tables.table(rows, _ROWS).replace_schema_metadata(known)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        # Another process may be at the same part, such as that of an ingest that was killed: the first one counts
        files.write_bytes(file, buffer.getvalue(), if_absent=True)

    def _records(self, part: Part) -> Iterator[Record | RefusedRow]:
        yield from part.records
        for portion in part.portions:
            yield from registry.records_of(portion, part.wanted)

    def _file(self, part: Part) -> str:
        """Path of the part's file, which tells what the part is made from."""
        settings = (self.source.model_dump_json(), self.max_pixels, self.split, self.copy)
        digest = hashlib.sha256(repr((settings, part.portions)).encode("utf-8", "surrogatepass"))
        for record, version in zip(part.records, _versions(part.records), strict=True):
            shown = record if isinstance(record, RefusedRow) else replace(record, data=None, version=None)
            digest.update(repr((shown, version)).encode("utf-8", "surrogatepass"))
        return files.join(folder_of(self.images_out), f"part-{part.number:06d}-{digest.hexdigest()[:16]}.parquet")


def folder_of(images_out: str) -> str:
    """Folder of the files of parts, beside the images table; nobody needs it any more when the ingest is finished."""
    return f"{images_out.rstrip('/')}-parts"


def read(file: str) -> tuple[list[str], Iterator[PartRow]]:
    """The fragments of a part, as `lance_tables.commit` wants them, and its rows in order. Raises DataError."""
    found = pq.read_table(pa.BufferReader(files.read_bytes(file)))  # in one request, however small its parts are
    return json.loads(found.schema.metadata[_FRAGMENTS]), (_part_row(row) for row in found.to_pylist())


def read_ahead(written: Iterable[WrittenPart]) -> Iterator[tuple[WrittenPart, list[str], Iterator[PartRow]]]:
    """Parts with their fragments and rows, in order, read in threads while others are written. Raises as `read` does."""
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        pending: deque[tuple[WrittenPart, Future[tuple[list[str], Iterator[PartRow]]]]] = deque()
        for part in written:
            pending.append((part, pool.submit(read, part.file)))
            while pending and (pending[0][1].done() or len(pending) >= _READ_AHEAD):
                first, found = pending.popleft()
                yield first, *found.result()
        for first, found in pending:
            yield first, *found.result()


def _versions(records: Iterable[Record | RefusedRow]) -> list[str]:
    """What tells the content of each record: its bytes, or else the version of its file."""

    def version(record: Record | RefusedRow) -> str:
        if isinstance(record, RefusedRow) or record.error is not None:
            return ""
        if record.data is not None:
            return tables.image_id(record.data)
        if record.version is not None:
            return record.version.version
        with contextlib.suppress(DataError):  # why it cannot be read is said when it is read
            return stored.version(record.uri)
        return ""

    with ThreadPoolExecutor(s3.PARALLEL) as pool:
        return list(pool.map(version, records))


def _inspected(
    records: Iterable[Record | RefusedRow], max_pixels: int
) -> Iterator[tuple[Record | RefusedRow, images.ImageInfo | str]]:
    """Each record with its size or the reason against it, in order; decoding runs in threads, a few images at a time."""

    def check(record: Record | RefusedRow) -> images.ImageInfo | str:
        if isinstance(record, RefusedRow):
            return ""
        if record.error is not None or record.data is None:
            return f"not read: {record.error or 'no data'}"
        try:
            return images.inspect(record.data, max_pixels)
        except images.ImageRejected as error:
            return error.reason

    with ThreadPoolExecutor(_THREADS) as pool:
        pending: deque[tuple[Record | RefusedRow, Future[images.ImageInfo | str]]] = deque()
        for record in records:
            pending.append((record, pool.submit(check, record)))
            if len(pending) >= 2 * _THREADS:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()


def _row(record: Record | RefusedRow) -> dict[str, object]:
    """The row of a record without what its image was found to be."""
    if isinstance(record, RefusedRow):
        return {"uri": "", "stored": False, "labels": _labels((), (record,))}
    identity = None if record.data is None else tables.image_id(record.data)
    labels = _labels(record.questions, record.refused) if record.questions or record.refused else None
    return {"image_id": identity, "uri": text(record.uri), "stored": False, "labels": labels}


def _labels(questions: Iterable[Question], refused: Iterable[RefusedRow]) -> str:
    asked = [(q.question, q.answer, q.question_type, q.options, q.where, q.doubts) for q in questions]
    return json.dumps([asked, [(r.where, r.reason, r.detail) for r in refused]])


def _part_row(row: dict[str, object]) -> PartRow:
    asked, refused = json.loads(str(row["labels"])) if row["labels"] else ((), ())
    questions = tuple(
        Question(question, answer, kind, None if options is None else tuple(options), where, tuple(doubts))
        for question, answer, kind, options, where, doubts in asked
    )
    size = {key: row[key] or 0 for key in ("width", "height")}
    made = {**row, **size, "questions": questions, "refused": tuple(RefusedRow(*each) for each in refused)}
    del made["labels"]
    return PartRow(**made)  # type: ignore[arg-type]


def _image_row(identity: str, record: Record, info: images.ImageInfo, split: str | None, copy: bool) -> tables.ImageRow:
    place = None if copy else record.place
    if place is not None and text(place.file) != place.file:
        place = None  # a table could not hold its name
    return {
        "image_id": identity,
        "uri": text(record.uri),
        "bytes": record.data if place is None else None,
        "file": None if place is None or place.file == record.uri else place.file,
        "offset": None if place is None else place.offset,
        "length": None if place is None else place.length,
        "width": info.width,
        "height": info.height,
        "source": record.source,
        "split": split or record.split,
    }


def text(path: str) -> str:
    """File names are bytes; those that are not UTF-8 are shown with escapes, as Parquet text must be UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()
