"""What a reader yields: one record per image, with all its questions."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from leaml.data import files
from leaml.errors import ConfigError, DataError

MAX_IMAGE_BYTES = 256 << 20
"""Larger files are not read into memory, in bytes."""

_READ_AHEAD = 8  # files in flight: hides the latency of object stores at a bounded cost in memory


@dataclass(frozen=True)
class Question:
    """A question about an image and its answer."""

    question: str
    answer: str
    question_type: str | None = None
    options: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Record:
    """One image: its encoded bytes, or `error` where they could not be had."""

    uri: str
    source: str
    split: str | None
    data: bytes | None
    questions: tuple[Question, ...] = ()
    error: str | None = None


Keep = Callable[[str], bool]
"""Asked by a reader before it loads the image with this URI: is it wanted?"""


def parse_question(row: Mapping[str, Any], where: str) -> Question | None:
    """The question in `row` (keys question, answer and optionally question_type, options), or None if it has neither.

    Args:
        row: A line of a file, a JSON object, a table row.
        where: File and place of the row, for the error message.

    Raises:
        DataError: only one of question and answer, or a value that is not text.
    """
    if row.get("question") is None and row.get("answer") is None:
        return None
    options = row.get("options")
    if isinstance(options, Mapping):
        options = [options[key] for key in sorted(options)]
    return Question(
        _text(row, "question", where),
        _text(row, "answer", where),
        _text(row, "question_type", where) if row.get("question_type") is not None else None,
        None if options is None else tuple(str(option) for option in options if option is not None),
    )


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        msg = f"{where}: {key!r} must be text that is not empty, got {value!r}; mend or remove this entry"
        raise DataError(msg)
    return value


def fetch(records: Iterable[Record], locate: Callable[[str], str] | None = None) -> Iterator[Record]:
    """Fill in the bytes of records that have neither data nor error, reading ahead in threads; the order stays.

    Args:
        records: Records without data.
        locate: Path of the file from the record's URI; default: the URI itself.
    """

    def load(record: Record) -> Record:
        if record.data is not None or record.error is not None:
            return record
        try:
            return replace(record, data=files.read_bytes(locate(record.uri) if locate else record.uri, MAX_IMAGE_BYTES))
        except DataError as error:
            return replace(record, error=str(error))

    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        pending: deque[Future[Record]] = deque()
        for record in records:
            pending.append(pool.submit(load, record))
            if len(pending) >= _READ_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def by_image(groups: Mapping[str, list[Question]], folder: str, source: str, split: str | None, keep: Keep) -> Iterator[Record]:
    """Records of images named relative to `folder`, with their questions; one outside of the folder becomes an error."""

    def wanted() -> Iterator[Record]:
        for name, questions in groups.items():
            try:
                record = Record(files.resolve(folder, name), source, split, None, tuple(questions))
            except DataError as error:
                record = Record(name, source, split, None, tuple(questions), str(error))
            if keep(record.uri):
                yield record

    return fetch(wanted())


def hash_split(key: str) -> str:
    """`test` for a fifth of all keys, otherwise `train`, for data sets without an official split.

    It depends on the key alone, so files about the same images (the easy and the hard questions, say) agree on it.
    """
    return "test" if hashlib.sha256(f"split:{key}".encode()).digest()[0] < 51 else "train"


def refuse_split(name: str, split: str | None) -> None:
    """Raise ConfigError if a split is asked of a format that has none."""
    if split is not None:
        msg = f"split is {split!r}, but format {name!r} has no splits; remove it and point `path` at that part of the data"
        raise ConfigError(msg)


def need_path(name: str, path: str | None) -> str:
    """The source's path. Raises ConfigError if there is none."""
    if path is None:
        msg = f"format {name!r} needs a path; set it to a file or folder, local or s3://"
        raise ConfigError(msg)
    return path
