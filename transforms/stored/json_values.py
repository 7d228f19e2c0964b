"""JSON texts, in the form of :mod:`..write.json_text`, as Arrow columns of types that are known.

Only what is asked for is decoded: other fields are passed over as they are.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

Columns = Callable[[Sequence[Any]], pa.Array]


def row_decoder(schema: pa.Schema) -> Callable[[Sequence[bytes]], pa.RecordBatch]:
    """What makes a batch of JSON objects, one a row. A field that is not there is null.

    It raises ``msgspec.DecodeError``: a text is no such object.
    """
    decode = msgspec.json.Decoder(_object(schema)).decode
    columns = [_columns(field.type) for field in schema]
    getters = _getters(schema)

    def rows(texts: Sequence[bytes]) -> pa.RecordBatch:
        objects = list(map(decode, texts))
        arrays = [make(list(map(get, objects))) for make, get in zip(columns, getters, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    # A schema without columns has rows all the same, which no batch could hold.
    assert schema.names
    return rows


def json_column(texts: Sequence[str | None], type: pa.DataType) -> pa.Array:
    """A column of JSON texts, each a value; null where there is none.

    Raises:
        msgspec.DecodeError: a text is no such value.
    """
    decode = msgspec.json.Decoder(_nullable(type)).decode
    return _columns(type)([None if text is None else decode(text) for text in texts])


_ESCAPED = re.compile(r'["\\\x00-\x1f]')
"""What JSON escapes in a name, and msgspec takes in none of a class."""


def _fields(fields: pa.Schema | pa.StructType) -> list[pa.Field]:
    return [fields.field(i) for i in range(len(fields))]


def _is_dict(fields: pa.Schema | pa.StructType) -> bool:
    """Whether objects are decoded as dicts of raw texts, since no class can have their names."""
    return any(_ESCAPED.search(field.name) for field in _fields(fields))


@cache
def _object(fields: pa.Schema | pa.StructType) -> Any:
    """A class with an attribute ``fN`` for field N, null where it is missing; or a dict."""
    if _is_dict(fields):
        return dict[str, msgspec.Raw]
    list_of = _fields(fields)
    return msgspec.defstruct(
        "Row",
        [(f"f{i}", _nullable(field.type), None) for i, field in enumerate(list_of)],
        rename={f"f{i}": field.name for i, field in enumerate(list_of)},
        gc=False,
    )


def _getters(fields: pa.Schema | pa.StructType) -> list[Callable[[Any], Any]]:
    """What gives each field's value of what :func:`_object` decodes."""
    if _is_dict(fields):
        return [_item_getter(field) for field in _fields(fields)]
    return [attrgetter(f"f{i}") for i in range(len(fields))]


def _item_getter(field: pa.Field) -> Callable[[dict[str, msgspec.Raw]], Any]:
    decode = msgspec.json.Decoder(_nullable(field.type)).decode
    return lambda row: None if (raw := row.get(field.name)) is None else decode(raw)


def _python_type(type: Any) -> Any:
    if pt.is_dictionary(type):
        return _python_type(type.value_type)
    if pt.is_struct(type):
        return _object(type)
    if pt.is_list(type) or pt.is_large_list(type):
        return list[_nullable(type.value_type)]  # type: ignore[misc]
    return next((found for matches, found in _SCALARS if matches(type)), str)


def _nullable(type: Any) -> Any:
    """The Python type, or null, which raw text may say by itself."""
    found = _python_type(type)
    return found if found is msgspec.Raw else found | None


_SCALARS: list[tuple[Callable[[Any], bool], Any]] = [
    (pt.is_boolean, bool),
    (pt.is_integer, int),
    (pt.is_floating, msgspec.Raw),  # NaN and the infinities are strings, and -0 is no integer
    (pt.is_decimal, Decimal),
    (pt.is_binary, bytes),  # base64
    (pt.is_large_binary, bytes),
    (pt.is_date, dt.date),
    (pt.is_time, dt.time),
]
"""Time stamps are texts to Python: Arrow reads them faster, and with all their digits."""


def _columns(type: Any) -> Columns:
    """What makes an array of a type of values of :func:`_python_type`."""
    if pt.is_dictionary(type):
        inner = _columns(type.value_type)
        return lambda values: inner(values).cast(type)
    if pt.is_struct(type):
        return _structs(type)
    if pt.is_list(type):
        return _lists(type)
    if pt.is_timestamp(type):
        return lambda values: instants(pa.array(values, pa.string()), type)
    if pt.is_floating(type):
        return lambda values: _floats(values, type)
    return lambda values: pa.array(values, type)


def _structs(type: pa.StructType) -> Columns:
    columns = [_columns(field.type) for field in type]
    getters = _getters(type)

    def make(values: Sequence[Any]) -> pa.Array:
        there = [value for value in values if value is not None]
        children = [
            column(list(map(get, there))) for column, get in zip(columns, getters, strict=True)
        ]
        packed = pa.StructArray.from_arrays(children, fields=list(type))
        if len(there) == len(values):
            return packed
        present = np.fromiter((value is not None for value in values), bool, len(values))
        places = pa.array(np.cumsum(present) - 1, mask=~present)
        return packed.take(places)

    return make


def _lists(type: Any) -> Columns:
    items = _columns(type.value_type)

    def make(values: Sequence[Any]) -> pa.Array:
        lengths = np.fromiter((len(v) if v else 0 for v in values), np.int32, len(values))
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        flat = items([item for value in values if value for item in value])
        offsets: Any = pa.array(ends)
        missing = np.fromiter((v is None for v in values), bool, len(values))
        if not missing.any():
            return pa.ListArray.from_arrays(offsets, flat, type=type)
        return pa.ListArray.from_arrays(offsets, flat, type=type, mask=pa.array(missing))

    return make


def _floats(values: Sequence[msgspec.Raw | None], type: pa.DataType) -> pa.Array:
    texts = [None if v is None or (said := bytes(v)) == b"null" else said for v in values]
    return pc.utf8_trim(pa.array(texts, pa.string()), '"').cast(type)


def instants(texts: pa.Array, type: pa.DataType) -> pa.Array:
    """Time stamps of texts in ISO 8601, or as BigQuery writes them when it exports a table
    (``2026-11-29 12:00:00 UTC``)."""
    return pc.replace_substring(texts, " UTC", "Z").cast(type)
