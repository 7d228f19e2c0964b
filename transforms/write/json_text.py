"""Columns as JSON texts, made without a Python object for a value that needs none.

How values are written: integers, floats (shortest form that reads back the same) and decimals as
JSON numbers; NaN and the infinities, for which JSON has no number, as the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"`` (as protobuf's JSON mapping does, and BigQuery reads them); time
stamps as ISO 8601 with their unit's digits, with ``Z`` if they have a zone; dates and times as
ISO 8601; binary as base64; null as ``null``.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

_ENCODER = msgspec.json.Encoder()
_ESCAPED = r'["\\\x00-\x1f]'
_NOT_NUMBERS = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


def json_keys(names: list[str]) -> list[str]:
    """What is written before each value of an object."""
    return [
        ("," if i else "{") + _ENCODER.encode(name).decode() + ":" for i, name in enumerate(names)
    ]


class Text(NamedTuple):
    """The texts of a column's values, null where a value is null.

    ``quote`` is still to be put on both ends of each.
    """

    values: pa.Array
    quote: str = ""

    def quoted(self) -> pa.Array:
        """The texts with their quotes."""
        if not self.quote:
            return self.values
        return pc.binary_join_element_wise(self.quote, self.values, self.quote, "")


def json_object(keys: list[str], columns: list[Text], rows: int, end: str) -> pa.Array:
    """Each row as a JSON object, with ``end`` behind it; ``keys`` are of :func:`json_keys`."""
    return joined(keys, columns, rows, ("}" if keys else "{}") + end, null="null")


def joined(before: list[str], columns: list[Text], rows: int, end: str, null: str) -> pa.Array:
    """Each row's texts in one, with what comes before each column, and behind the last."""
    parts: list[Any] = []
    literal = ""
    for key, text in zip(before, columns, strict=True):
        nulls = text.values.null_count
        if nulls == rows:
            literal += key + null
        elif nulls:
            parts += [literal + key, text.quoted()]
            literal = ""
        else:
            # Quotes that every value has are written with the key: one copy less.
            parts += [literal + key + text.quote, text.values]
            literal = text.quote
    literal += end
    if not parts:
        return pa.repeat(pa.scalar(literal), rows)
    return pc.binary_join_element_wise(
        *parts, literal, "", null_handling="replace", null_replacement=null
    )


def bytes_of(lines: pa.Array) -> memoryview:
    """The bytes of strings or binary, one after the other: an Arrow column holds them just so."""
    _, offsets, data = lines.buffers()
    if data is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int32, len(lines) + 1, lines.offset * 4)
    return memoryview(data)[ends[0] : ends[-1]]


Kernel = Callable[[pa.Array], Text]
"""Takes an array of one type and gives its values' texts."""


def json_kernel(type: pa.DataType, path: str) -> Kernel:
    """The kernel that gives the JSON of a type's values.

    Raises:
        TypeError: the type has no JSON form; the message names the column at ``path``.
    """
    if pt.is_dictionary(type):
        inner = json_kernel(type.value_type, path)
        return lambda array: inner(array.dictionary_decode())
    if pt.is_struct(type):
        return _struct_kernel(type, path)
    if pt.is_list(type) or pt.is_large_list(type) or pt.is_fixed_size_list(type):
        return _list_kernel(json_kernel(type.value_type, f"{path}[]"))
    for matches, kernel in _KERNELS:
        if matches(type):
            return kernel
    raise TypeError(f"column {path!r}: Arrow type {type} cannot be written as JSON or CSV")


def _struct_kernel(type: pa.DataType, path: str) -> Kernel:
    fields = list(type)
    kernels = [json_kernel(field.type, f"{path}.{field.name}") for field in fields]
    keys = json_keys([field.name for field in fields])

    def write(array: Any) -> Text:
        columns = [kernel(a) for kernel, a in zip(kernels, fields_of(array), strict=True)]
        return Text(with_nulls_of(array, json_object(keys, columns, len(array), "")))

    return write


def fields_of(array: pa.StructArray) -> list[pa.Array]:
    """A struct's fields, null where it is: what lies under a null may be no value at all."""
    if array.null_count:
        return array.flatten()
    return [array.field(i) for i in range(array.type.num_fields)]


def _list_kernel(kernel: Kernel) -> Kernel:
    def write(array: pa.Array) -> Text:
        items = pc.fill_null(kernel(array.flatten()).quoted(), "null")
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = np.zeros(len(array) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), items), ",")
        return Text(with_nulls_of(array, pc.binary_join_element_wise("[", joined, "]", "")))

    return write


def with_nulls_of(array: pa.Array, values: pa.Array) -> pa.Array:
    """``values``, null where ``array`` is."""
    return pc.if_else(array.is_valid(), values, None) if array.null_count else values


def _bare(array: pa.Array) -> Text:
    return Text(array.cast(pa.string()))


def _quoted(array: pa.Array) -> Text:
    return Text(array.cast(pa.string()), '"')


def floats(array: pa.Array, words: dict[str, str] = _NOT_NUMBERS) -> Text:
    """Floats; ``words`` are written for what Arrow calls ``nan``, ``inf`` and ``-inf``."""
    text = array.cast(pa.string())
    odd = pc.fill_null(pc.invert(pc.is_finite(array)), False)
    if pc.any(odd).as_py():
        words = pa.array([words[word] for word in text.filter(odd).to_pylist()], pa.string())
        text = pc.replace_with_mask(text, odd, words)
    return Text(text)


def _timestamps(array: pa.Array) -> Text:
    # Arrow counts from the epoch in UTC whatever the zone: without it, the cast needs no zone data.
    text = array.cast(pa.timestamp(array.type.unit)).cast(pa.string())
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    return Text(pc.binary_join_element_wise(text, "Z", "") if array.type.tz else text, '"')


def _binaries(array: pa.Array) -> Text:
    encode = binascii.b2a_base64
    values = [None if v is None else encode(v, newline=False) for v in array.to_pylist()]
    return Text(pa.array(values, pa.string()), '"')


def _strings(array: pa.Array) -> Text:
    array = array.cast(pa.string())
    if not _needs_escape(array):
        return Text(array, '"')
    mask = pc.fill_null(pc.match_substring_regex(array, _ESCAPED), False)
    if pc.sum(mask).as_py() * 2 > len(array):
        return Text(with_nulls_of(array, _encoded(array)))
    return Text(pc.replace_with_mask(Text(array, '"').quoted(), mask, _encoded(array.filter(mask))))


def _needs_escape(array: pa.Array) -> bool:
    """Whether any byte of the column needs an escape: one look at all bytes, not one a value.

    May say yes for bytes under nulls.
    """
    data = np.frombuffer(bytes_of(array), np.uint8)
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
    (pt.is_floating, floats),
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
