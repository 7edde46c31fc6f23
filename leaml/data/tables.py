"""Arrow schemas of every table, checked at every read and write.

Tables hold encoded image bytes or a URI, never pixels. `image_id` is the SHA-256 of the encoded bytes (32 hex digits).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from leaml.errors import DataError
from leaml.io import files

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("bytes", pa.binary()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source", pa.string()),
        ("split", pa.string()),
    ]
)
"""`bytes` is null where an image is not copied: it is the file at `uri`, or `length` bytes from `offset` on in `file`."""


class ImageRow(TypedDict):
    """A row of `IMAGES`."""

    image_id: str
    uri: str
    bytes: bytes | None
    file: str | None
    offset: int | None
    length: int | None
    width: int
    height: int
    source: str
    split: str | None


LABELED = pa.schema(
    [
        ("image_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("question_type", pa.string()),
        ("options", pa.list_(pa.string())),
        ("where", pa.string()),
    ]
)
"""`where`: file and line that a row comes from, for messages."""


class LabeledRow(TypedDict):
    """A row of `LABELED`."""

    image_id: str
    question: str
    answer: str
    question_type: str | None
    options: list[str] | None
    where: str | None


CAPTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("caption", pa.string()),
        ("model", pa.string()),
        ("mean_logprob", pa.float32()),
        ("finish_reason", pa.string()),
    ]
)
_REPLY = pa.struct([("text", pa.string()), ("mean_logprob", pa.float64()), ("cut", pa.bool_())])
CANDIDATES = pa.schema(
    [
        ("image_id", pa.string()),
        ("caption", pa.string()),
        ("replies", pa.list_(_REPLY)),
        ("answers", pa.list_(pa.struct([("question", pa.string()), ("given", pa.bool_()), ("replies", pa.list_(_REPLY))]))),
        ("base", pa.list_(pa.struct([("question", pa.string()), ("answer", pa.string())]))),
    ]
)
"""What a generator wrote about an image, before any filter: the replies that are to hold a pair, the answers to each question
that was put to it again or is `given` by the configuration, and with `filter.hardness` the base's answers to these questions.

`mean_logprob` is the mean natural log-probability per token; `cut` says that a reply ended at the token limit.
"""
PAIR = pa.struct(
    [
        ("question", pa.string()),
        ("answer", pa.string()),
        ("mean_logprob", pa.float32()),
        ("votes", pa.float32()),
        ("roundtrip", pa.string()),
        ("accepted", pa.bool_()),
        ("reason", pa.string()),
    ]
)


class PairRow(TypedDict):
    """A `PAIR`: a generated pair with its verdict; `reason` is empty where it was accepted."""

    question: str
    answer: str
    mean_logprob: float
    votes: float | None
    roundtrip: str | None
    accepted: bool
    reason: str


PSEUDO_QA = pa.schema([("image_id", pa.string()), ("caption", pa.string()), ("pairs", pa.list_(PAIR))])
COPIES = pa.schema([("image_id", pa.string()), ("uri", pa.string())])
"""Further names of images whose bytes a source holds more than once."""
QUARANTINE = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("step", pa.string()), ("reason", pa.string())])


class QuarantineRow(TypedDict):
    """A row of `QUARANTINE`; an image that could not be read has no id."""

    image_id: str | None
    uri: str | None
    step: str
    reason: str


EXAMPLES = pa.schema(
    [
        ("image_id", pa.string()),
        ("request", pa.string()),
        ("reply", pa.string()),
        ("prefix", pa.string()),
        ("held_out", pa.bool_()),
    ]
)
ANSWERS = pa.schema(
    [
        ("image_id", pa.string()),
        (
            "answers",
            pa.list_(
                pa.struct(
                    [
                        ("question", pa.string()),
                        ("answer", pa.string()),
                        ("prediction", pa.string()),
                        ("correct", pa.bool_()),
                        ("question_type", pa.string()),
                        ("logprob", pa.float32()),
                    ]
                )
            ),
        ),
    ]
)
"""Predictions while they are made: one nested row per image; `PREDICTIONS` is the exploded table.

`logprob` is the sum of the natural log-probabilities of the prediction's tokens; null where no model made it.
"""

PREDICTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("prediction", pa.string()),
        ("correct", pa.bool_()),
        ("question_type", pa.string()),
        ("logprob", pa.float32()),
    ]
)


class Prediction(TypedDict):
    """A row of `PREDICTIONS` without its image; `answer` and `correct` are None where no answer is known."""

    question: str
    answer: str | None
    prediction: str
    correct: bool | None
    question_type: str | None
    logprob: float | None


REPLIES = pa.schema(
    [
        ("image_id", pa.string()),
        (
            "replies",
            pa.list_(
                pa.struct(
                    [
                        ("question", pa.string()),
                        ("options", pa.list_(pa.string())),
                        ("prediction", pa.string()),
                        ("logprob", pa.float32()),
                        ("own", pa.bool_()),
                        ("error", pa.string()),
                    ]
                )
            ),
        ),
    ]
)
"""Answers of a model to questions without a known one, per image; `own`: the model's reply is the answer or names it."""
ANSWERED = pa.schema(
    [
        ("image_id", pa.string()),
        ("file", pa.string()),
        ("question", pa.string()),
        ("prediction", pa.string()),
        ("confidence", pa.float32()),
        ("calibrated", pa.bool_()),
        ("logprob", pa.float32()),
        ("error", pa.string()),
    ]
)
"""Answers to questions without a known one (`leaml predict`); `error` says why a row has no prediction."""


def image_id(data: bytes) -> str:
    """Identity of an image: the first 32 hex digits of the SHA-256 of its encoded bytes."""
    return hashlib.sha256(data).hexdigest()[:32]


def table(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    """Build a table from dictionaries; missing keys become null, unknown keys are errors."""
    known = set(schema.names)
    for row in rows:
        if unknown := set(row) - known:
            msg = f"unknown columns {sorted(unknown)}; the table has {schema.names}"
            raise DataError(msg)
    return pa.Table.from_pylist(rows, schema=schema)


def check(found: pa.Table, schema: pa.Schema, origin: str) -> pa.Table:
    """Cast a table to its contract; absent nullable columns become null, further ones are dropped.

    Args:
        found: The table as it was read.
        schema: One of this module.
        origin: Where it was read, for messages.

    Raises:
        DataError: A column occurs twice or has another type, or image_id, question or answer, where
            the schema has them, are absent or have nulls. A quarantine needs none of them.
    """
    # an image that could not be read has no id, and stands in the quarantine with its name alone
    required = set() if schema is QUARANTINE else {"image_id", "question", "answer"} & set(schema.names)
    columns = []

    for field in schema:
        if found.column_names.count(field.name) > 1:
            msg = f"{origin}: column {field.name!r} occurs twice; rename or remove one of them"
            raise DataError(msg)

        if field.name not in found.column_names:
            if field.name in required:
                msg = f"{origin}: column {field.name!r} is missing; it has {found.column_names}"
                raise DataError(msg)
            columns.append(pa.nulls(found.num_rows, field.type))
            continue

        try:
            columns.append(found[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            msg = f"{origin}: column {field.name!r} is {found[field.name].type}, expected {field.type}: {error}"
            raise DataError(msg) from None

        if field.name in required and columns[-1].null_count:
            msg = f"{origin}: column {field.name!r} has {columns[-1].null_count} empty values"
            raise DataError(msg)
    return pa.table(columns, schema=schema)


def write(uri: str, rows: pa.Table) -> None:
    """Publish a table as one Parquet file, atomically."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    files.write_bytes(uri, buffer.getvalue())


def read(uri: str, schema: pa.Schema | None = None, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file.

    Args:
        uri: Local path or s3://bucket/key.
        schema: Contract that the result is checked against, see `check`; None: it is not checked.
        columns: Names of those to read; None: all.

    Raises:
        DataError: The file cannot be read or breaks the contract; the message names it.
    """
    with files.open_native(uri) as source:
        try:
            found = pq.read_table(source, columns=columns)
        except pa.ArrowInvalid as error:
            msg = f"{uri} is not a readable Parquet file: {error}"
            raise DataError(msg) from None
        except OSError as error:
            msg = f"{uri} could not be read to its end: {error}; check the file and the connection to its storage"
            raise DataError(msg) from None
    return found if schema is None else check(found, schema, uri)
