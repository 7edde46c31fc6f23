"""What a reader yields: one record per image, with all its questions."""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypedDict, TypeVar

from leaml.config import SourceConfig
from leaml.data.embedded import Embedded
from leaml.data.lost_images import Lost
from leaml.errors import ConfigError, DataError
from leaml.io import files
from leaml.io.stored import StoredFile

MAX_IMAGE_BYTES = 256 << 20
"""Larger files are not read into memory, in bytes."""

SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
"""Files that tell a folder of `datasets.save_to_disk` from others; here, because `datasets` is slow to import."""
NO_QUESTION, NOT_READ, HIDDEN = "no question in it", "member of a kind that is not read", "hidden member"
"""Reasons of what lies beside images and is no label row: it is counted, and no fault."""

_READ_AHEAD = 8  # files in flight: hides the latency of object stores at a bounded cost in memory


@dataclass(frozen=True)
class Question:
    """A question about an image and its answer.

    Attributes:
        question: What is asked.
        answer: The reply; with options a letter, several letters or the text of one.
        question_type: Name of its kind.
        options: The texts behind the letters A, B, ...
        where: File and line (or row) that it comes from; None: known by the image alone.
        doubts: What is odd about the row though it is used, see `leaml.data.label_rows`.
    """

    question: str
    answer: str
    question_type: str | None = None
    options: tuple[str, ...] | None = None
    where: str | None = field(default=None, compare=False)
    doubts: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class RefusedRow:
    """A label row that cannot be used: its file and line, the kind of fault (the same for many rows) and this one's detail."""

    where: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}{f': {self.detail}' if self.detail else ''}"


class RowFields(TypedDict):
    """The fields of a `Record` that its label rows fill."""

    questions: tuple[Question, ...]
    refused: tuple[RefusedRow, ...]


@dataclass
class LabelRows:
    """The label rows of one image while a source is read: `Record(..., **rows.fields())`; `where` it is named first."""

    questions: list[Question] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    where: str | None = None

    def add(self, row: Question | RefusedRow | None) -> None:
        """Add what `label_rows.parse` made of a row; None, a row without a question, is no label row."""
        if isinstance(row, Question):
            self.questions.append(row)
        elif row is not None:
            self.refused.append(row)

    def fields(self) -> RowFields:
        """The fields of a Record."""
        return {"questions": tuple(self.questions), "refused": tuple(self.refused)}


@dataclass(frozen=True)
class Place:
    """Where the bytes of an image can be read again: a file, or `length` bytes of it from `offset` on."""

    file: str
    offset: int | None = None
    length: int | None = None


@dataclass(frozen=True)
class NamedBy:
    """The label row that names an image first, and the folder in which the image is looked for."""

    where: str | None
    folder: str


@dataclass(frozen=True)
class Record:
    """One image: its encoded bytes, or `error` where they could not be had; its questions, and the label rows refused.

    With neither the image is the file at `uri`, which is read later, in parallel with others, as `fetch` does. Rows that name
    no image that can be had are refused with the first record of their file. An image without a `place`, such as a frame of a
    video or a cell of a table, is always copied.
    """

    uri: str
    source: str
    split: str | None
    data: bytes | None
    questions: tuple[Question, ...] = ()
    error: str | None = None
    refused: tuple[RefusedRow, ...] = ()
    place: Place | None = None
    named: NamedBy | None = None
    """For the error of an image that is read later."""
    version: StoredFile | None = None
    """The file at `uri`, where the reader knows it from a listing."""


@dataclass(frozen=True)
class CountingCost:
    """What it costs to count a source's images and questions before a run.

    Attributes:
        sample: Records that are read to count questions; of larger sources these are taken for all.
        whole: Counting images means reading all of their bytes, so that it is not done.
    """

    sample: int = 5_000
    whole: bool = False


Item = TypeVar("Item", Record, Record | RefusedRow)
"""What a reader yields, or the records alone."""
Keep = Callable[[str], bool]
"""Asked by a reader before it loads the image with this URI: is it wanted?"""
Reader = Callable[[SourceConfig, Keep], Iterator[Record | RefusedRow]]
"""A format's function: the records of a source, one an image, and label rows that belong to none."""


@dataclass(frozen=True)
class Portion:
    """A part of a source that can be read apart from the others, such as a shard.

    Attributes:
        name: What is read, different for each portion.
        size: Its bytes, about.
        version: Another one when something else would be read.
        read: Yields its records; can be pickled.
    """

    name: str
    size: int
    version: str
    read: Callable[[Keep], Iterator[Record | RefusedRow]] = field(repr=False)


ListPortions = Callable[[SourceConfig, Keep], Iterator[Portion]]
"""Names the portions of a source, in order, reading as little as it can."""


def counting_costs(sample: int = CountingCost.sample, whole: bool = False) -> Callable[[Reader], Reader]:
    """Decorator of a reader: what it says of itself, see `CountingCost`."""

    def mark(read: Reader) -> Reader:
        vars(read)["counting"] = CountingCost(sample, whole)
        return read

    return mark


def in_portions(portions: ListPortions) -> Reader:
    """Makes a reader of what names the portions of a source: its records are theirs, and an ingest reads several at once."""

    @functools.wraps(portions)
    def read(source: SourceConfig, keep: Keep) -> Iterator[Record | RefusedRow]:
        for portion in portions(source, keep):
            yield from portion.read(keep)

    vars(read)["portions"] = portions
    return read


def fetch(records: Iterable[Item], locate: Callable[[str], str] | None = None) -> Iterator[Item]:
    """Fill in the bytes of records that have neither data nor error, reading ahead in threads; the order stays.

    Args:
        records: Records without data; refused rows among them stay as they are.
        locate: Path of the file from the record's URI; default: the URI itself.
    """
    lost = functools.cache(Lost)

    def load(record: Item) -> Item:
        if isinstance(record, RefusedRow) or record.data is not None or record.error is not None:
            return record
        # What is elsewhere than its URI says, such as in a package, may be missing on another machine
        place = None if locate else Place(record.uri)
        try:
            data = files.read_bytes(locate(record.uri) if locate else record.uri, MAX_IMAGE_BYTES)
            return replace(record, data=data, place=place)
        except DataError as error:
            named = record.named
            return replace(
                record, error=_at(named.where, lost(named.folder).explain(record.uri, error)) if named else str(error)
            )

    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        pending: deque[Future[Item]] = deque()
        for record in records:
            pending.append(pool.submit(load, record))
            if len(pending) >= _READ_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def by_image(
    groups: Mapping[str, LabelRows],
    folder: str,
    source: str,
    split: str | None,
    keep: Keep,
    embedded: Embedded,
    loose: Sequence[RefusedRow] = (),
) -> Iterator[Record]:
    """Records of images named relative to `folder`, or held in `embedded`, with their label rows.

    Args:
        groups: Name of the image to its label rows; a name outside of the folder becomes a record with `error`.
        folder: Folder of the images.
        source: Name of the format.
        split: Split of all records.
        keep: Which images are wanted.
        embedded: Images that stand in the file itself.
        loose: Refused rows that belong to no image; they come with the first record.

    Raises:
        DataError: There are refused rows, and no image.
    """
    if loose and not groups:
        msg = f"{len(loose)} label rows and none has an image; the first is {loose[0]}; correct the file"
        raise DataError(msg)

    first = tuple(loose)
    for name, rows in groups.items():
        made = Record(name, source, split, None, **rows.fields())
        if name in embedded:
            fault = embedded.fault(name)
            made = replace(made, uri=embedded.uri(name), error=fault and _at(rows.where, fault))
        else:
            try:
                made = replace(made, uri=files.resolve(folder, name), named=NamedBy(rows.where, folder))
            except DataError as error:
                made = replace(made, uri=_own(name), error=_at(rows.where, str(error)))
        if keep(made.uri):
            data = embedded.data(name) if name in embedded else None
            yield replace(made, data=data, refused=made.refused + first)
            first = ()


def _own(name: str) -> str:
    """A name for tables: of a long text the beginning, and a hash that tells it from others that begin so."""
    shown = files.shown(name)
    return name if shown == name else f"{shown}#{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _at(where: str | None, message: str) -> str:
    return f"{where}: {message}" if where else message


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
