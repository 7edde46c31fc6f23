"""What the types of a table's columns say about their values, once those are Python's own.

A float of 16 or 32 bits becomes Python's, of 64, with digits that nobody wrote: 0.1 is 0.0999755859375 then. Texts are bytes in
tables of programs that write no logical types, and a month of pandas' is a number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from leaml.data import json_text
from leaml.data.label_keys import COLUMNS


class NoPython:
    """A value that Python cannot hold, or that means something else there: it is no text, whatever the label."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind

    def __repr__(self) -> str:
        return f"a value of the type {self._kind}"


def label_columns(schema: pa.Schema) -> list[str]:
    """The columns in which labels may be: question and answer among others, and what holds no bytes.

    Images, sound and their like are left out, whether alone, in lists or in objects.
    """
    return [column.name for column in schema if column.name in COLUMNS or not _holds_bytes(column.type)]


def rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, object]]:
    """The rows of a table as Python's values, as the one who wrote them had them.

    Floats of 16 and 32 bits are the shortest decimals that they stand for (0.1), JSON is what it holds. A time in a zone that
    nobody knows, or out of Python's range, is `NoPython`, and so is a value of a type that this process does not know.
    """
    columns = {field.name: _values(batch.column(n), field.type) for n, field in enumerate(batch.schema)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def as_text(value: object) -> object:
    """Bytes as the text that they are in UTF-8, inside of lists and objects too; what is none stays."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, Mapping):
        return {name: as_text(one) for name, one in value.items()}
    return type(value)(map(as_text, value)) if isinstance(value, list | tuple) else value


def _values(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> list[object]:
    try:
        values = column.to_pylist()
    except (pa.ArrowException, OverflowError, ValueError):  # times and objects that Python has no value for
        values = [_value(scalar) for scalar in column]
    return [_as_written(value, kind) for value in values]


def _value(scalar: pa.Scalar) -> object:
    try:
        found: object = scalar.as_py()
    except (pa.ArrowException, OverflowError, ValueError):
        found = NoPython(scalar.type)
    return found


def _as_written(value: object, kind: pa.DataType) -> object:
    if isinstance(kind, pa.BaseExtensionType) and isinstance(value, str | int | float | bytes | list | dict):
        if kind.extension_name == "arrow.json" and isinstance(value, str):
            return _of_json(value)
        # what it is stored as, and not what it means: a number of months for one of pandas' periods
        return value if isinstance(value, bool) else NoPython(kind)

    if pa.types.is_dictionary(kind):
        return _as_written(value, kind.value_type)
    if isinstance(value, float) and not value.is_integer():
        if pa.types.is_float16(kind):
            return float(str(np.float16(value)))
        if pa.types.is_float32(kind):
            return float(str(np.float32(value)))

    if pa.types.is_struct(kind) and isinstance(value, Mapping):
        types = {field.name: field.type for field in kind}
        return {name: _as_written(one, types[name]) for name, one in value.items()}
    if kind.num_fields == 1 and isinstance(value, list):
        return [_as_written(one, kind.field(0).type) for one in value]
    if isinstance(value, tuple):  # of a map, whose type has objects of key and value in its place
        return tuple(_as_written(one, field.type) for one, field in zip(value, kind, strict=True))
    return value


def _of_json(text: str) -> object:
    try:
        return json_text.loads(text)
    except ValueError:
        return text


def _holds_bytes(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_bytes(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    bytes_types = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_one(kind) for is_one in bytes_types) or any(
        _holds_bytes(kind.field(index).type) for index in range(kind.num_fields)
    )
