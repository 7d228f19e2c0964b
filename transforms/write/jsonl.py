"""JSON lines, written column by column: no Python object is made for a value that needs none.

How values are written: integers, floats (shortest form that reads back the same) and decimals as
JSON numbers; NaN and the infinities, for which JSON has no number, as the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"`` (as protobuf's JSON mapping does, and BigQuery reads them); time
stamps as ISO 8601 with their unit's digits, with ``Z`` if they have a zone; dates and times as
ISO 8601; binary as base64; null as ``null``.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

MAX_BYTES = 128 << 20
"""A batch above this size is written in halves: Arrow's strings end at 2 GiB a column."""

_ENCODER = msgspec.json.Encoder()
_ESCAPED = r'["\\\x00-\x1f]'
_NOT_NUMBERS = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


class JsonLinesEncoder:
    """Writes each row as a JSON object on a line of its own.

    Raises:
        TypeError: a column of a type that has no JSON form; the message names it.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self._file = file
        self._kernels = [_kernel(field.type, field.name) for field in schema]
        self._keys = _keys(schema.names)

    def write(self, batch: pa.RecordBatch) -> None:
        rows = batch.num_rows
        if rows > 1 and batch.nbytes > MAX_BYTES:
            self.write(batch.slice(0, rows // 2))
            self.write(batch.slice(rows // 2))
        elif rows:
            self._file.write(_bytes_of(self._lines(batch)))

    def close(self) -> None:
        pass  # JSON lines have no end of their own

    def _lines(self, batch: pa.RecordBatch) -> pa.Array:
        if not self._kernels:
            return pa.array(["{}\n"] * batch.num_rows)
        columns = [kernel(column) for kernel, column in zip(self._kernels, batch, strict=True)]
        return _object(self._keys, columns, "}\n")


def _keys(names: list[str]) -> list[str]:
    return [
        ("," if i else "{") + _ENCODER.encode(name).decode() + ":" for i, name in enumerate(names)
    ]


def _object(keys: list[str], columns: list[pa.Array], end: str) -> pa.Array:
    parts: list[Any] = [part for pair in zip(keys, columns, strict=True) for part in pair]
    return pc.binary_join_element_wise(
        *parts, end, "", null_handling="replace", null_replacement="null"
    )


def _bytes_of(lines: pa.Array) -> memoryview:
    """The strings' bytes, one after the other: an Arrow column holds them just so."""
    _, offsets, data = lines.buffers()
    ends = np.frombuffer(offsets, np.int32, len(lines) + 1, lines.offset * 4)
    return memoryview(data)[ends[0] : ends[-1]]


# Kernels: each takes an array of one type and gives its values' JSON as strings, null for null.

Kernel = Callable[[pa.Array], pa.Array]


def _kernel(type: pa.DataType, path: str) -> Kernel:
    if pt.is_dictionary(type):
        inner = _kernel(type.value_type, path)
        return lambda array: inner(array.dictionary_decode())
    if pt.is_struct(type):
        return _struct_kernel(type, path)
    if pt.is_list(type) or pt.is_large_list(type) or pt.is_fixed_size_list(type):
        return _list_kernel(_kernel(type.value_type, f"{path}[]"))
    for matches, kernel in _KERNELS:
        if matches(type):
            return kernel
    raise TypeError(f"column {path!r}: Arrow type {type} cannot be written as JSON")


def _struct_kernel(type: pa.DataType, path: str) -> Kernel:
    fields = list(type)
    kernels = [_kernel(field.type, f"{path}.{field.name}") for field in fields]
    keys = _keys([field.name for field in fields])

    def write(array: pa.Array) -> pa.Array:
        if not kernels:
            objects = pa.array(["{}"] * len(array), pa.string())
        else:
            # Not flatten: a field under a null struct may hold anything, and is thrown away.
            values = [kernel(array.field(i)) for i, kernel in enumerate(kernels)]
            objects = _object(keys, values, "}")
        return _with_nulls_of(array, objects)

    return write


def _list_kernel(kernel: Kernel) -> Kernel:
    def write(array: pa.Array) -> pa.Array:
        items = pc.fill_null(kernel(array.flatten()), "null")
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = np.zeros(len(array) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), items), ",")
        lists = pc.binary_join_element_wise("[", joined, "]", "")
        return _with_nulls_of(array, lists)

    return write


def _with_nulls_of(array: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(array.is_valid(), values, None) if array.null_count else values


def _cast(array: pa.Array) -> pa.Array:
    return array.cast(pa.string())


def _quoted(array: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"', array, '"', "")


def _floats(array: pa.Array) -> pa.Array:
    text = _cast(array)
    odd = pc.invert(pc.is_finite(array))
    if pc.any(odd).as_py():
        words = pa.array([_NOT_NUMBERS[word] for word in text.filter(odd).to_pylist()], pa.string())
        text = pc.replace_with_mask(text, pc.fill_null(odd, False), words)
    return text


def _timestamps(array: pa.Array) -> pa.Array:
    # Arrow counts from the epoch in UTC whatever the zone: without it, the cast needs no zone data.
    text = pc.replace_substring(
        _cast(array.cast(pa.timestamp(array.type.unit))), " ", "T", max_replacements=1
    )
    return pc.binary_join_element_wise('"', text, 'Z"' if array.type.tz else '"', "")


def _binaries(array: pa.Array) -> pa.Array:
    encode = binascii.b2a_base64
    return _quoted(
        pa.array(
            [None if v is None else encode(v, newline=False) for v in array.to_pylist()],
            pa.string(),
        )
    )


def _strings(array: pa.Array) -> pa.Array:
    array = _cast(array)
    if not _needs_escape(array):
        return _quoted(array)
    mask = pc.fill_null(pc.match_substring_regex(array, _ESCAPED), False)
    if pc.sum(mask).as_py() * 2 > len(array):
        return _with_nulls_of(array, _encoded(array))
    return pc.replace_with_mask(_quoted(array), mask, _encoded(array.filter(mask)))


def _needs_escape(array: pa.Array) -> bool:
    """Whether any byte of the column needs an escape: one look at all bytes, not one a value.

    May say yes for bytes under nulls.
    """
    data = np.frombuffer(_bytes_of(array), np.uint8) if array.buffers()[2] else np.empty(0)
    if not data.size:
        return False
    return bool(data.min() < 0x20 or (data == ord('"')).any() or (data == ord("\\")).any())


def _encoded(array: pa.Array) -> pa.Array:
    """Every value by msgspec, whose lines become Arrow strings by their line ends alone."""
    if not len(array):
        return pa.array([], pa.string())
    text = np.frombuffer(_ENCODER.encode_lines(array.to_pylist()), np.uint8)
    ends = np.flatnonzero(text == ord("\n"))  # within a JSON string a line end is always escaped
    lengths = np.diff(ends, prepend=-1) - 1
    offsets = np.zeros(len(ends) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    data = text[text != ord("\n")]
    return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(data))


_KERNELS: list[tuple[Callable[[pa.DataType], bool], Kernel]] = [
    (pt.is_null, lambda array: pa.nulls(len(array), pa.string())),
    (pt.is_boolean, _cast),
    (pt.is_integer, _cast),
    (pt.is_floating, _floats),
    (pt.is_decimal, _cast),
    (lambda t: pt.is_string(t) or pt.is_large_string(t) or pt.is_string_view(t), _strings),
    (
        lambda t: (
            pt.is_binary(t)
            or pt.is_large_binary(t)
            or pt.is_fixed_size_binary(t)
            or pt.is_binary_view(t)
        ),
        _binaries,
    ),
    (pt.is_timestamp, _timestamps),
    (pt.is_date, lambda array: _quoted(_cast(array.cast(pa.date32())))),
    (pt.is_time, lambda array: _quoted(_cast(array))),
]
