"""Unites the parts of a source in their order: each image and label row once, counts, and what is not used."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow.parquet as pq

from leaml.data import part_files, tables
from leaml.data.label_counts import NO_IMAGE, LabelCounts, RefusedFile
from leaml.data.part_files import PartRow, WrittenPart
from leaml.data.records import Question, RefusedRow
from leaml.errors import DataError
from leaml.images.sizes import LargestSizes
from leaml.text.scoring import answer_key, normalise

_LABELED_BATCH = 4096


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


class United:
    """What the parts of a source hold together: files of labeled rows (`labeled`) and of further names (`named`), and counts.

    Memory holds the names of the parts, some bytes for each image that is in several of them, and what cannot be used.

    Args:
        folder: An empty local folder.

    Attributes:
        seen: Records so far, equal ones and unusable ones included.
        images: Distinct images.
        rows: Labeled rows.
        copies: Images that have the bytes of another one and another name.
        parts: All parts so far.
        fragments: Those of all parts, in order.
        repeated: Number of a fragment to ids of its images that an earlier part has.
        quarantined: Rows of the quarantine table.
        loose: Label rows of no image before the first record.
    """

    def __init__(self, folder: str) -> None:
        self.seen = self.images = self.rows = self.copies = 0
        self.parts: list[WrittenPart] = []
        self.fragments: list[str] = []
        self.repeated: dict[int, list[str]] = {}
        self.quarantined: list[tables.QuarantineRow] = []
        self.loose: list[RefusedRow] = []
        self.labeled, self.named = (str(Path(folder) / f"{name}.parquet") for name in ("labeled", "copies"))
        self._seen = _Seen(str(Path(folder) / "seen.sqlite"))
        self._writer = pq.ParquetWriter(self.labeled, tables.LABELED)
        self._pending: list[tables.LabeledRow] = []
        self._names = pq.ParquetWriter(self.named, tables.COPIES)
        self._further: list[dict[str, object]] = []
        self.counts, self.refused = LabelCounts(), RefusedFile(Path(folder) / "refused.csv")
        self.largest = LargestSizes()

    def add(
        self,
        part: WrittenPart,
        fragments: list[str],
        rows: Iterable[PartRow],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Add the next part.

        Args:
            part: Where it is.
            fragments: Of its images.
            rows: What it holds, in order.
            progress: Called with the number of records so far.

        Raises:
            DataError: It is not the part behind the last one.
        """
        if part.after != (self.parts[-1].key if self.parts else ""):
            msg = f"the source was changed while it was listed (before {part.file}); run again to go on with what it is now"
            raise DataError(msg)
        repeated: list[str] = []

        for row in rows:
            if row.reason is not None:
                self._quarantine(row)
            elif row.image_id is not None:
                self._add(row, repeated)
            else:
                self._refuse(row.refused)
                self.loose += row.refused if not self.seen else ()
            if row.is_record:
                self.seen += 1
                if progress is not None:
                    progress(self.seen)

        self.parts.append(part)
        if repeated:
            numbers = range(len(self.fragments), len(self.fragments) + len(fragments))
            self.repeated |= dict.fromkeys(numbers, repeated)
        self.fragments += fragments

    def _quarantine(self, row: PartRow) -> None:
        self.quarantined.append({"image_id": row.image_id, "uri": row.uri, "step": "ingest", "reason": str(row.reason)})
        self._refuse(row.refused)
        self._refuse(RefusedRow(q.where or row.uri, NO_IMAGE) for q in row.questions)

    def _refuse(self, rows: Iterable[RefusedRow]) -> None:
        for row in rows:
            self.counts.refuse(row)
            self.refused.add(row)

    def _add(self, row: PartRow, repeated: list[str]) -> None:
        """Add an image, unless it is there, and those of its questions that are new."""
        identity = str(row.image_id)
        if self._seen.add(identity):
            self.images += 1
            self.largest.add(row.width, row.height)
            self._seen.add(_name_key(identity, row.uri))
        else:
            if row.stored:
                repeated.append(identity)
            if row.uri and self._seen.add(_name_key(identity, row.uri)):
                self._further.append({"image_id": identity, "uri": row.uri})
                self.copies += 1
        self._refuse(row.refused)
        for question in row.questions:
            self._label(identity, question, question.where or row.uri)
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
        self._seen.close()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(tables.table(self._pending, tables.LABELED))
            self.rows += len(self._pending)
            self._pending = []
        if self._further:
            self._names.write_table(tables.table(self._further, tables.COPIES))
            self._further = []


def _name_key(identity: str, uri: str) -> str:
    return f"named {identity} {uri}"


def _labeled_row(identity: str, question: Question, where: str) -> tables.LabeledRow:
    return {
        "image_id": identity,
        "question": question.question,
        "answer": question.answer,
        "question_type": question.question_type,
        "options": None if question.options is None else list(question.options),
        "where": part_files.text(where),
    }
