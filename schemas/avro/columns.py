"""Avro values to Arrow columns: what a writer's schema says that its data are.

Strings are binary columns: whether they are UTF-8 is for
:class:`~.arrow_decoder.ArrowDecoder` to say, record by record. Enums are dictionaries, maps are
maps, unions of several types are dense unions. Logical types are Arrow's own; ``duration``, which
no Arrow type is like, stays the bytes that it is. A record that holds itself is its JSON
(``arrow.json``), and so is a decimal of more digits than Arrow's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow_json import json_texts, utf8_unchecked
from .types import AvroSchema, AvroType

_STORED: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "enum": pa.int32(),
}
_LOGICAL: dict[str, pa.DataType] = {
    "date": pa.date32(),
    "time-millis": pa.time32("ms"),
    "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("ms", "UTC"),
    "timestamp-micros": pa.timestamp("us", "UTC"),
    "timestamp-nanos": pa.timestamp("ns", "UTC"),
    "local-timestamp-millis": pa.timestamp("ms"),
    "local-timestamp-micros": pa.timestamp("us"),
    "local-timestamp-nanos": pa.timestamp("ns"),
}


def column_of(type: AvroType, values: Sequence[Any]) -> pa.Array:
    """The column of values such as :mod:`.values` reads."""
    if type.recursive or type.kind == "named":
        return _json_column(values)
    match type.kind:
        case "null":
            return pa.nulls(len(values))
        case "record":
            return _records(type, values)
        case "array":
            assert type.items is not None
            flat = column_of(type.items, list(itertools.chain.from_iterable(_present(values))))
            return pa.ListArray.from_arrays(_offsets(values), flat, mask=_nulls(values))
        case "map":
            assert type.items is not None
            pairs = list(itertools.chain.from_iterable(_present(values)))
            keys = pa.array([key for key, _ in pairs], pa.binary())
            items = column_of(type.items, [item for _, item in pairs])
            return pa.MapArray.from_arrays(_offsets(values), keys, items, mask=_nulls(values))
        case "union":
            return _union(type, values)
        case "fixed":
            return with_logical_type(pa.array(values, pa.binary(type.size)), type)
        case scalar:
            return with_logical_type(pa.array(values, _STORED[scalar]), type)


def with_logical_type(stored: pa.Array, type: AvroType) -> pa.Array:
    """A column of what is stored of a scalar as what it says."""
    if type.kind == "enum":
        return pa.DictionaryArray.from_arrays(stored, pa.array(type.symbols, pa.string()))
    if type.logical == "uuid":
        return pa.ExtensionArray.from_storage(pa.uuid(), stored)
    if type.logical == "decimal":
        return _decimals(stored.cast(pa.binary()), type)
    return stored.view(_LOGICAL[type.logical]) if type.logical else stored


def json_of(schema: AvroSchema) -> Callable[[AvroType, Any], bytes]:
    """A function that gives the JSON of a value as :mod:`.arrow_json` writes it."""

    def write(type: AvroType, value: Any) -> bytes:
        if value is None:
            return b"null"
        match type.kind:
            case "named":
                return write(schema.named[type.name], value)
            case "record":
                pairs = (
                    (_text(name.encode()) + b":" + write(of, inner))
                    for (name, of), inner in zip(type.fields, value, strict=True)
                )
                return b"{" + b",".join(pairs) + b"}"
            case "array":
                assert type.items is not None
                return b"[" + b",".join([write(type.items, inner) for inner in value]) + b"]"
            case "map":
                assert type.items is not None
                pairs = [_text(key) + b":" + write(type.items, inner) for key, inner in value]
                return b"{" + b",".join(pairs) + b"}"
            case "union":
                branch, inner = value
                return write(type.branches[branch], inner)
        return json_texts(column_of(type, [value])).cast(pa.binary())[0].as_py()

    return write


def _text(text: bytes) -> bytes:
    return json_texts(pa.array([text], pa.binary())).cast(pa.binary())[0].as_py()


def _json_column(texts: Sequence[bytes | None]) -> pa.Array:
    storage = utf8_unchecked(pa.array(texts, pa.binary()))
    return pa.ExtensionArray.from_storage(pa.json_(), storage)


def _present(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _nulls(values: Sequence[Any]) -> pa.Array | None:
    return pa.array([v is None for v in values], pa.bool_()) if None in values else None


def _offsets(values: Sequence[Any]) -> pa.Array:
    lengths = [0 if value is None else len(value) for value in values]
    return pa.array([0, *itertools.accumulate(lengths)], pa.int32())


def _records(type: AvroType, values: Sequence[Any]) -> pa.Array:
    nothing = (None,) * len(type.fields)
    rows = [nothing if value is None else value for value in values]
    parts = list(zip(*rows, strict=True)) if rows else [()] * len(type.fields)
    columns = [column_of(of, part) for (_, of), part in zip(type.fields, parts, strict=True)]
    if not columns:  # a struct without fields knows its length by its nulls only
        return pa.array([None if value is None else {} for value in values], pa.struct([]))
    names = [name for name, _ in type.fields]
    return pa.StructArray.from_arrays(columns, names=names, mask=_nulls(values))


def _union(type: AvroType, values: Sequence[Any]) -> pa.Array:
    parts: list[list[Any]] = [[] for _ in type.branches]
    codes, offsets = [], []
    for value in values:
        # a union under a null record has no value: its first branch then says null
        branch, inner = (0, None) if value is None else value
        codes.append(branch)
        offsets.append(len(parts[branch]))
        parts[branch].append(inner)
    return pa.UnionArray.from_dense(
        pa.array(codes, pa.int8()),
        pa.array(offsets, pa.int32()),
        [column_of(of, part) for of, part in zip(type.branches, parts, strict=True)],
    )


def _decimals(stored: pa.Array, type: AvroType) -> pa.Array:
    """Big-endian two's complements as decimals."""
    width, most = (16, 38) if type.precision <= 38 else (32, 76)
    lengths = pc.binary_length(stored).fill_null(0).to_numpy(zero_copy_only=False)
    if lengths.max(initial=0) > width:
        return _long_decimals(stored, type)
    data = _little_endian(stored, lengths, width)
    top = data.view(np.int64)[:, -1]
    if len(top) and max(-int(top.min()), int(top.max())) >= 10**most >> (8 * width - 64):
        return _long_decimals(stored, type)
    make = pa.decimal128 if width == 16 else pa.decimal256
    validity = stored.is_valid() if stored.null_count else None
    buffers = [validity and validity.buffers()[1], pa.py_buffer(data)]
    return pa.Array.from_buffers(make(most, type.scale), len(stored), buffers)


def _little_endian(stored: pa.Array, lengths: np.ndarray, width: int) -> np.ndarray:
    """Each value as ``width`` bytes, the lowest first, its sign extended."""
    _, offsets, data = stored.buffers()
    ends = np.frombuffer(offsets, np.int32, len(stored) + 1, stored.offset * 4)[1:]
    found = np.zeros((len(stored), width), np.uint8)
    if data is None or not lengths.any():
        return found
    octets = np.frombuffer(data, np.uint8)
    first = octets.take(ends - lengths, mode="clip")
    sign = np.where((first >= 128) & (lengths > 0), 255, 0).astype(np.uint8)
    for place in range(width):
        octet = octets.take(ends - 1 - place, mode="clip")
        found[:, place] = np.where(place < lengths, octet, sign)
    return found


def _long_decimals(stored: pa.Array, type: AvroType) -> pa.Array:
    def text(value: bytes | None) -> bytes | None:
        if value is None:
            return None
        unscaled = int.from_bytes(value, "big", signed=True)
        return f"{unscaled}E-{type.scale}".encode() if type.scale else f"{unscaled}".encode()

    return _json_column([text(value) for value in stored.to_pylist()])
