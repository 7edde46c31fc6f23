"""Reads a source once and writes the contract tables: images, labeled rows, and the quarantine of what cannot be used."""

from __future__ import annotations

import hashlib
import itertools
import os
import posixpath
import sqlite3
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from leaml import images
from leaml.config import SourceConfig
from leaml.config.limits import MAX_PIXELS
from leaml.data import registry, store, tables
from leaml.data.image_table import ImageTableWriter
from leaml.data.label_counts import NO_IMAGE, LabelCounts, RefusedFile
from leaml.data.records import Question, Record, RefusedRow
from leaml.errors import DataError
from leaml.images.sizes import LargestSizes
from leaml.io import files
from leaml.text.scoring import answer_key, normalise

_THREADS = min(4, os.cpu_count() or 1)
_LABELED_BATCH = 4096


@dataclass(frozen=True)
class IngestResult:
    """What an ingest wrote: distinct images, labeled rows, the rows of the quarantine table, and counts of the label rows."""

    images: int
    rows: int
    quarantined: list[tables.QuarantineRow]
    labels: LabelCounts
    seen: int = 0
    """Images of the source that were looked at, equal ones and unusable ones included."""
    complete: bool = True
    """False where only the beginning of the source was read."""
    copies: int = 0
    """Images that have the bytes of another one and another name; see `store.copies_file`."""
    largest: tuple[tuple[int, int], ...] = ()
    """Width and height of the largest images, one of each shape; see `LargestSizes`."""


class QuarantineError(DataError):
    """Too many images cannot be used; `result` says what was found."""

    def __init__(self, message: str, result: IngestResult) -> None:
        super().__init__(message)
        self.result = result


def ingest(
    source: SourceConfig,
    images_out: str,
    labeled_out: str | None,
    max_pixels: int = MAX_PIXELS,
    max_quarantined: float = 0.05,
    split: str | None = None,
    progress: Callable[[int], None] | None = None,
    labels_matter: bool = True,
    first: int | None = None,
    copy: bool = True,
    keep_refused: bool = False,
) -> IngestResult:
    """Write a source as contract tables. Memory holds one fragment of the images at a time, whatever the size of the source.

    The same bytes met twice are one image; its questions are united: an equal row is kept once, an equal question with
    another answer stays beside the first, and its further names stand in `store.copies_file`.

    Args:
        source: What to read.
        images_out: Folder of the images table; one of an earlier attempt is removed.
        labeled_out: File for the labeled rows; None: do not write them.
        max_pixels: Larger images are quarantined.
        max_quarantined: Largest share of the images that may be unreadable, and of the label rows that may be unusable.
        split: Value of the column `split`; None: what the source says.
        progress: Called with the number of images seen so far.
        labels_matter: Whether unusable label rows can stop the ingest; of an unlabeled source nobody needs them.
        first: Read no more than so many images, to find out what would be refused; None: all.
        copy: Write the bytes of all images; False: only of those that are no file, nor a range of one, that can be read again.
        keep_refused: Write the labeled rows also where too many images or rows cannot be used, for a higher limit.

    Returns:
        Counts, and the rows of the quarantine table (see `quarantine_file`).

    Raises:
        DataError: The source cannot be read.
        QuarantineError: Too many of its images or label rows cannot be used; images, quarantine and `refused_rows_file` are
            written before that.
    """
    records = registry.read(source)
    files.delete_tree(store.copies_file(images_out))  # of an earlier attempt; there may be none now

    with tempfile.TemporaryDirectory() as folder:
        out = _Tables(images_out, folder, split, copy)
        number, quarantined = _filled(out, _inspected(itertools.islice(records, first), max_pixels), progress)
        out.close()

        tables.write(quarantine_file(images_out, labeled_out), tables.table(quarantined, tables.QUARANTINE))
        if out.refused.rows:
            files.publish_file(out.refused.path, refused_rows_file(images_out, labeled_out))
        if out.copies:
            files.publish_file(out.named, store.copies_file(images_out))

        counts = (out.images, out.rows, quarantined, out.counts, number)
        result = IngestResult(*counts, number != first, out.copies, tuple(out.largest.sizes()))
        if labeled_out is not None and keep_refused:
            files.publish_file(out.labeled, labeled_out)
        if result.complete:  # of a part of the images nobody knows the share
            check_limits(result, max_quarantined, source, labels_matter)
        if labeled_out is not None and not keep_refused:
            files.publish_file(out.labeled, labeled_out)
    return result


def _filled(
    out: _Tables, inspected: Iterable[tuple[Record, images.ImageInfo | str]], progress: Callable[[int], None] | None
) -> tuple[int, list[tables.QuarantineRow]]:
    """Put all records into the tables; how many there are, and the quarantined ones."""
    number, quarantined = 0, []

    for number, (record, checked) in enumerate(inspected, 1):
        if isinstance(checked, str):
            quarantined.append(_quarantined(record, checked))
            out.refuse(record)
        else:
            out.add(record, checked)
        if progress is not None:
            progress(number)
    return number, quarantined


def quarantine_file(images_out: str, labeled_out: str | None) -> str:
    """Path of the quarantine table: beside the labeled file, or else beside the folder of images."""
    beside = labeled_out or images_out.rstrip("/") + ".parquet"
    return files.join(posixpath.dirname(beside), f"quarantine-{posixpath.basename(beside)}")


def refused_rows_file(images_out: str, labeled_out: str | None) -> str:
    """Path of the list of label rows that were refused, a CSV file beside the quarantine table; there only if some were."""
    return quarantine_file(images_out, labeled_out).replace("quarantine-", "refused-").removesuffix(".parquet") + ".csv"


def _inspected(records: Iterable[Record], max_pixels: int) -> Iterator[tuple[Record, images.ImageInfo | str]]:
    """Each record with its size or the reason against it, in order; decoding runs in threads, a few images at a time."""

    def check(record: Record) -> images.ImageInfo | str:
        if record.error is not None or record.data is None:
            return f"not read: {record.error or 'no data'}"
        try:
            return images.inspect(record.data, max_pixels)
        except images.ImageRejected as error:
            return error.reason

    with ThreadPoolExecutor(_THREADS) as pool:
        pending: deque[tuple[Record, Future[images.ImageInfo | str]]] = deque()
        for record in records:
            pending.append((record, pool.submit(check, record)))
            if len(pending) >= 2 * _THREADS:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()


class _Seen:
    """Which keys were added before; on disk, because ten million of them would take gigabytes of memory."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        # Nobody reads this file after a crash
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, key: str) -> bool:
        """Whether the key is new."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:16]
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1

    def close(self) -> None:
        self._database.close()


class _Tables:
    """Sorts accepted records into the images table and one local file of labeled rows, `labeled`."""

    def __init__(self, images_out: str, folder: str, split: str | None, copy: bool) -> None:
        self.images = self.rows = self.copies = 0
        self._copy = copy
        self.labeled = str(Path(folder) / "labeled.parquet")
        self._split = split
        self._seen = _Seen(str(Path(folder) / "seen.sqlite"))
        self._images = ImageTableWriter(images_out)
        self._writer = pq.ParquetWriter(self.labeled, tables.LABELED)
        self._pending: list[tables.LabeledRow] = []
        self.named = str(Path(folder) / "copies.parquet")
        self._names = pq.ParquetWriter(self.named, tables.COPIES)
        self._further: list[dict[str, object]] = []
        self.counts, self.refused = LabelCounts(), RefusedFile(Path(folder) / "refused.csv")
        self.largest = LargestSizes()

    def refuse(self, record: Record) -> None:
        """Count the label rows of an image that cannot be used."""
        self._refuse(record.refused)
        self._refuse(RefusedRow(q.where or _text(record.uri), NO_IMAGE) for q in record.questions)

    def _refuse(self, rows: Iterable[RefusedRow]) -> None:
        for row in rows:
            self.counts.refuse(row)
            self.refused.add(row)

    def add(self, record: Record, info: images.ImageInfo) -> None:
        """Add an image, unless it is there, and those of its questions that are new."""
        identity = tables.image_id(record.data or b"")
        if self._seen.add(identity):
            self._images.add(_image_row(identity, record, info, self._split, self._copy))
            self.images += 1
            self.largest.add(info.width, info.height)
            self._seen.add(_name_key(identity, record))
        elif record.uri and self._seen.add(_name_key(identity, record)):
            self._further.append({"image_id": identity, "uri": _text(record.uri)})
            self.copies += 1
        self._refuse(record.refused)
        for question in record.questions:
            self._label(identity, question, question.where or _text(record.uri))
        if max(len(self._pending), len(self._further)) >= _LABELED_BATCH:
            self._flush()

    def _label(self, identity: str, question: Question, where: str) -> None:
        """Add a labeled row unless an equal one is there."""
        row = repr((identity, question.question, question.options))
        new = self._seen.add(repr((row, question.answer, question.question_type)))
        # The same words in other cases, and the same options in another order, are the same question
        offered = None if question.options is None else sorted(map(normalise, question.options))
        asked = repr((identity, normalise(question.question), offered))
        # Two types of one question and answer are two rows, but no contradiction
        asked_before = not self._seen.add(f"asked {asked}")
        meant = answer_key(question.answer, question.question_type, question.options)
        new_answer = self._seen.add(f"answered {asked} {sorted(meant)}")
        conflicting = asked_before and new_answer
        self.counts.use(question, where, new, conflicting)
        if new:
            self._pending.append(_labeled_row(identity, question, where))

    def close(self) -> None:
        """Write what is pending and finish all files."""
        self.refused.close()
        self._flush()
        self._writer.close()
        self._names.close()
        self._images.close()
        self._seen.close()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(tables.table(self._pending, tables.LABELED))
            self.rows += len(self._pending)
            self._pending = []
        if self._further:
            self._names.write_table(tables.table(self._further, tables.COPIES))
            self._further = []


def _name_key(identity: str, record: Record) -> str:
    return f"named {identity} {record.uri}"


def _image_row(identity: str, record: Record, info: images.ImageInfo, split: str | None, copy: bool) -> tables.ImageRow:
    place = None if copy else record.place
    if place is not None and _text(place.file) != place.file:
        place = None  # a table could not hold its name
    return {
        "image_id": identity,
        "uri": _text(record.uri),
        "bytes": record.data if place is None else None,
        "file": None if place is None or place.file == record.uri else place.file,
        "offset": None if place is None else place.offset,
        "length": None if place is None else place.length,
        "width": info.width,
        "height": info.height,
        "source": record.source,
        "split": split or record.split,
    }


def _labeled_row(identity: str, question: Question, where: str) -> tables.LabeledRow:
    return {
        "image_id": identity,
        "question": question.question,
        "answer": question.answer,
        "question_type": question.question_type,
        "options": None if question.options is None else list(question.options),
        "where": _text(where),
    }


def _quarantined(record: Record, reason: str) -> tables.QuarantineRow:
    identity = None if record.data is None else tables.image_id(record.data)
    return {"image_id": identity, "uri": _text(record.uri), "step": "ingest", "reason": reason}


def _text(path: str) -> str:
    """File names are bytes; those that are not UTF-8 are shown with escapes, as Parquet text must be UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def check_limits(result: IngestResult, max_quarantined: float, source: SourceConfig, labels_matter: bool) -> None:
    """Refuse a source of which too much cannot be used.

    Args:
        result: What the ingest has found.
        max_quarantined: Share, from 0 to 1, of images and of label rows that may be unusable.
        source: Named in the message.
        labels_matter: Whether label rows are looked at too.

    Raises:
        QuarantineError: More than that share is unusable, or all of them are.
    """
    _check_images(result, max_quarantined, source)
    if labels_matter:
        try:
            result.labels.check(max_quarantined, source.path or source.format)
        except DataError as error:
            raise QuarantineError(str(error), result) from None


def _check_images(result: IngestResult, max_quarantined: float, source: SourceConfig) -> None:
    bad, total = len(result.quarantined), result.seen
    if bad <= max_quarantined * total and bad < total:
        return
    summary = ", ".join(f"{count} {reason}" for reason, count in reasons(result.quarantined).items())
    first = result.quarantined[0]
    msg = (
        f"{bad} of {total} images of {source.path or source.format} cannot be used, over the limit of "
        f"{max_quarantined:.0%} (data.max_quarantined): {summary}; the first is {first['uri']}: "
        f"{first['reason']}; fix the data or raise the limit"
    )
    raise QuarantineError(msg, result)


def reasons(quarantined: list[tables.QuarantineRow]) -> dict[str, int]:
    """How many rows of a quarantine table have each kind of reason (what stands before the colon), most first."""
    return dict(Counter(row["reason"].partition(":")[0] for row in quarantined).most_common())
