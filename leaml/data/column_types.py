"""What the types of a table's columns say about their values, once those are Python's own.

A float of 16 or 32 bits becomes Python's, of 64, with digits that nobody wrote: 0.1 is 0.0999755859375 then. Texts are bytes in
tables of programs that write no logical types.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from leaml.data.label_keys import COLUMNS


def label_columns(schema: pa.Schema) -> dict[str, pa.DataType]:
    """The columns in which labels may be, with their types: question and answer among others, and what holds no bytes.

    Images, sound and their like are left out, whether alone, in lists or in objects.
    """
    return {column.name: column.type for column in schema if column.name in COLUMNS or not _holds_bytes(column.type)}


def as_written(value: object, kind: pa.DataType) -> object:
    """A value of a column of type `kind`, inside of lists and objects too, as the one who wrote the column had it.

    Floats of 16 and 32 bits are the shortest decimals that they stand for (0.1), bytes are texts where they are UTF-8.
    """
    kind = _plain(kind)
    if isinstance(value, float) and pa.types.is_float16(kind):
        return float(str(np.float16(value)))
    if isinstance(value, float) and pa.types.is_float32(kind):
        return float(str(np.float32(value)))
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if pa.types.is_struct(kind) and isinstance(value, Mapping):
        types = {field.name: field.type for field in kind}
        return {name: as_written(one, types[name]) for name, one in value.items()}
    if kind.num_fields == 1 and isinstance(value, list):
        return [as_written(one, kind.field(0).type) for one in value]
    if isinstance(value, tuple):  # of a map, whose type has objects of key and value in its place
        return tuple(as_written(one, field.type) for one, field in zip(value, kind, strict=True))
    return value


def _plain(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    return _plain(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _holds_bytes(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    bytes_types = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_one(kind) for is_one in bytes_types) or any(
        _holds_bytes(kind.field(index).type) for index in range(kind.num_fields)
    )
