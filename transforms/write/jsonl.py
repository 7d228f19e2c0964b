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
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

PIECE_ROWS = 16 * 1024
"""Rows that are written at a time: the texts of more columns than fit the cache are dear."""
PIECE_BYTES = 128 << 20
"""Bytes that are written at a time: Arrow's strings end at 2 GiB a column."""
GATHERED_ROWS = 4 * 1024
GATHERED_BYTES = 16 << 20
"""Rows and bytes that small batches are gathered to: each write costs some milliseconds."""

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
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0
        self._kernels = [_kernel(field.type, field.name) for field in schema]
        self._keys = _keys(schema.names)

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GATHERED_ROWS or self._bytes >= GATHERED_BYTES:
            self._write_gathered()

    def close(self) -> None:
        # JSON lines have no end of their own, but there may be rows that still wait
        self._write_gathered()

    def _write_gathered(self) -> None:
        if self._waiting:
            self._write_rows(pa.concat_batches(self._waiting))
            self._waiting, self._rows, self._bytes = [], 0, 0

    def _write_rows(self, batch: pa.RecordBatch) -> None:
        rows = batch.num_rows
        step = max(1, min(PIECE_ROWS, rows * PIECE_BYTES // max(1, batch.nbytes)))
        for start in range(0, rows, step):
            self._file.write(_bytes_of(self._lines(batch.slice(start, step))))

    def _lines(self, batch: pa.RecordBatch) -> pa.Array:
        columns = [kernel(column) for kernel, column in zip(self._kernels, batch, strict=True)]
        return _object(self._keys, columns, batch.num_rows, "\n")


def _keys(names: list[str]) -> list[str]:
    return [
        ("," if i else "{") + _ENCODER.encode(name).decode() + ":" for i, name in enumerate(names)
    ]


class _Text(NamedTuple):
    """The JSON of a column's values, null where a value is null; quotes are still to be put on."""

    values: pa.Array
    quote: str = ""

    def quoted(self) -> pa.Array:
        if not self.quote:
            return self.values
        return pc.binary_join_element_wise(self.quote, self.values, self.quote, "")


def _object(keys: list[str], columns: list[_Text], rows: int, end: str) -> pa.Array:
    parts: list[Any] = []
    literal = "" if keys else "{"
    for key, text in zip(keys, columns, strict=True):
        nulls = text.values.null_count
        if nulls == rows:
            literal += key + "null"
        elif nulls:
            parts += [literal + key, text.quoted()]
            literal = ""
        else:
            # Quotes that every value has are written with the key: one copy less.
            parts += [literal + key + text.quote, text.values]
            literal = text.quote
    literal += "}" + end
    if not parts:
        return pa.repeat(pa.scalar(literal), rows)
    return pc.binary_join_element_wise(
        *parts, literal, "", null_handling="replace", null_replacement="null"
    )


def _bytes_of(lines: pa.Array) -> memoryview:
    """The strings' bytes, one after the other: an Arrow column holds them just so."""
    _, offsets, data = lines.buffers()
    ends = np.frombuffer(offsets, np.int32, len(lines) + 1, lines.offset * 4)
    return memoryview(data)[ends[0] : ends[-1]]


# Kernels: each takes an array of one type and gives its values' JSON.

Kernel = Callable[[pa.Array], _Text]


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

    def write(array: pa.Array) -> _Text:
        # Not flatten: a field under a null struct may hold anything, and is thrown away.
        columns = [kernel(array.field(i)) for i, kernel in enumerate(kernels)]
        return _with_nulls_of(array, _object(keys, columns, len(array), ""))

    return write


def _list_kernel(kernel: Kernel) -> Kernel:
    def write(array: pa.Array) -> _Text:
        items = pc.fill_null(kernel(array.flatten()).quoted(), "null")
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = np.zeros(len(array) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), items), ",")
        return _with_nulls_of(array, pc.binary_join_element_wise("[", joined, "]", ""))

    return write


def _with_nulls_of(array: pa.Array, values: pa.Array) -> _Text:
    return _Text(pc.if_else(array.is_valid(), values, None) if array.null_count else values)


def _bare(array: pa.Array) -> _Text:
    return _Text(array.cast(pa.string()))


def _quoted(array: pa.Array) -> _Text:
    return _Text(array.cast(pa.string()), '"')


def _floats(array: pa.Array) -> _Text:
    text = array.cast(pa.string())
    odd = pc.fill_null(pc.invert(pc.is_finite(array)), False)
    if pc.any(odd).as_py():
        words = pa.array([_NOT_NUMBERS[word] for word in text.filter(odd).to_pylist()], pa.string())
        text = pc.replace_with_mask(text, odd, words)
    return _Text(text)


def _timestamps(array: pa.Array) -> _Text:
    # Arrow counts from the epoch in UTC whatever the zone: without it, the cast needs no zone data.
    text = array.cast(pa.timestamp(array.type.unit)).cast(pa.string())
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    return _Text(pc.binary_join_element_wise(text, "Z", "") if array.type.tz else text, '"')


def _binaries(array: pa.Array) -> _Text:
    encode = binascii.b2a_base64
    values = [None if v is None else encode(v, newline=False) for v in array.to_pylist()]
    return _Text(pa.array(values, pa.string()), '"')


def _strings(array: pa.Array) -> _Text:
    array = array.cast(pa.string())
    if not _needs_escape(array):
        return _Text(array, '"')
    mask = pc.fill_null(pc.match_substring_regex(array, _ESCAPED), False)
    if pc.sum(mask).as_py() * 2 > len(array):
        return _with_nulls_of(array, _encoded(array))
    return _Text(
        pc.replace_with_mask(_Text(array, '"').quoted(), mask, _encoded(array.filter(mask)))
    )


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
    (pt.is_null, _bare),
    (pt.is_boolean, _bare),
    (pt.is_integer, _bare),
    (pt.is_floating, _floats),
    (pt.is_decimal, _bare),
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
    (pt.is_date, lambda array: _quoted(array.cast(pa.date32()))),
    (pt.is_time, _quoted),
]
