"""Where in a Parquet file its row groups lie, by its footer.

Only asked for once a row group could not be read, to name its bytes. pyarrow knows them too, but
ends the process when it is asked for those of some broken footers (``RowGroupMetaData.column``,
pyarrow 25).

Sources: ``parquet.thrift`` of Apache Parquet, and the compact protocol of Apache Thrift.
"""

from __future__ import annotations

import struct
from typing import Any

_MAX_NESTING = 20

_GROUPS, _COLUMNS, _CHUNK, _SIZE, _DATA, _DICTIONARY = 4, 1, 3, 7, 9, 11
"""Numbers of fields: of the file, a row group, a column, and of a column's metadata."""


def row_group_bytes(footer: bytes) -> list[tuple[int, int]]:
    """The bytes [start, end) of each row group, by a footer: the file's metadata alone.

    Raises:
        ValueError: it is no such thing.
    """
    try:
        said, _ = _struct(footer, 0, 0)
        return [_bytes_of(group) for group in said[_GROUPS]]
    except (IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"not the metadata of a Parquet file: {error!r}") from error


def _bytes_of(group: dict[int, Any]) -> tuple[int, int]:
    chunks = [column[_CHUNK] for column in group[_COLUMNS]]
    starts = [chunk.get(_DICTIONARY) or chunk[_DATA] for chunk in chunks]
    ends = [start + chunk[_SIZE] for start, chunk in zip(starts, chunks, strict=True)]
    return min(starts), max(ends)


# The compact protocol: each function takes the bytes and an offset, and gives a value and its end.


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        fields[number], at = _value(data, at, head & 15, depth, in_struct=True)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int, *, in_struct: bool) -> tuple[Any, int]:
    if depth > _MAX_NESTING:
        raise ValueError("nested too deeply")
    match kind:
        case 1 | 2:
            return (kind == 1, at) if in_struct else (data[at] == 1, at + 1)
        case 3:
            return data[at], at + 1
        case 4 | 5 | 6:
            return _integer(data, at)
        case 7:
            return struct.unpack_from("<d", data, at)[0], at + 8
        case 8:
            size, at = _unsigned(data, at)
            if at + size > len(data):
                raise IndexError
            return data[at : at + size], at + size
        case 9 | 10:
            return _list(data, at, depth)
        case 12:
            return _struct(data, at, depth + 1)
    raise ValueError(f"type {kind}")  # maps, which Parquet has not


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    head = data[at]
    size, at = (head >> 4, at + 1) if head >> 4 < 15 else _unsigned(data, at + 1)
    values = []
    for _ in range(size):
        value, at = _value(data, at, head & 15, depth + 1, in_struct=False)
        values.append(value)
    return values, at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        if data[at] < 128:
            return value, at + 1
        at, shift = at + 1, shift + 7


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return (value >> 1) ^ -(value & 1), at
