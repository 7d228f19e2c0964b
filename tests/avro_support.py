"""Avro written as plainly as can be, to hold readers against.

Nothing here may import the code that it checks. fastavro would guess the branch of a union, and
lacks the libraries of some codecs.
"""

from __future__ import annotations

import bz2
import datetime as dt
import json
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from millstream.schemas.contract import Contract, Field


def encoded(schema: Any, value: Any, named: dict[str, Any] | None = None) -> bytes:
    """A datum, written as plainly as can be. (fastavro guesses a union's branch.)"""
    named = {} if named is None else named
    if isinstance(schema, list):
        branch, value = _branch(schema, value)
        return long(branch) + encoded(schema[branch], value, named)
    if str(schema) in named:
        return encoded(named[schema], value, named)
    kind = kind_of(schema)
    if kind in ("record", "enum", "fixed"):
        named[schema["name"]] = schema
    match kind:
        case "null":
            return b""
        case "boolean":
            return b"\1" if value else b"\0"
        case "int" | "long":
            return long(value)
        case "float" | "double":
            return struct.pack("<f" if kind == "float" else "<d", value)
        case "string" | "bytes":
            data = value.encode() if isinstance(value, str) else value
            return long(len(data)) + data
        case "fixed":
            return value
        case "enum":
            return long(schema["symbols"].index(value))
        case "record":
            parts = [encoded(f["type"], value[f["name"]], named) for f in schema["fields"]]
            return b"".join(parts)
        case "array":
            items = [encoded(schema["items"], item, named) for item in value]
        case "map":
            pairs = value.items()
            items = [encoded("string", k) + encoded(schema["values"], v, named) for k, v in pairs]
        case _:
            raise NotImplementedError(kind)
    return (long(len(items)) + b"".join(items) if items else b"") + long(0)


def kind_of(schema: Any) -> str:
    return schema if isinstance(schema, str) else schema["type"]


def _branch(schema: list[Any], value: Any) -> tuple[int, Any]:
    if value is None:
        return schema.index("null"), None
    if isinstance(value, Tagged):
        return value
    return 1 - schema.index("null"), value


class Tagged(NamedTuple):
    """A value of a union of several types."""

    branch: int
    value: Any


def long(value: int) -> bytes:
    zigzag = value * 2 if value >= 0 else -value * 2 - 1
    found = b""
    while zigzag > 127:
        found += bytes([zigzag % 128 + 128])
        zigzag //= 128
    return found + bytes([zigzag])


# ---------------------------------------------------------------------------------- containers

MARKER = b"0123456789abcdef"


def _snappy(data: bytes) -> bytes:
    packed = pa.Codec("snappy").compress(data, asbytes=True)
    return packed + zlib.crc32(data).to_bytes(4, "big")


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "null": bytes,
    "deflate": _deflate,
    "snappy": _snappy,
    "zstandard": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
CHECKED = ("snappy", "bzip2", "xz")
"""Codecs that notice every change of their bytes."""

Blocks = Sequence[tuple[int, bytes]]


def header(schema: Any, codec: str = "null", marker: bytes = MARKER) -> bytes:
    """The header of a file."""
    meta = {"avro.codec": codec, "avro.schema": json.dumps(schema)}
    said = b"".join(encoded("string", text) for pair in meta.items() for text in pair)
    return b"Obj\x01" + long(len(meta)) + said + long(0) + marker


def container(schema: Any, blocks: Blocks, codec: str = "null") -> bytes:
    """A file of blocks, each a number of records and their data."""
    found = header(schema, codec)
    for count, data in blocks:
        packed = CODECS[codec](data)
        found += long(count) + long(len(packed)) + packed + MARKER
    return found


# ------------------------------------------------------------------------- a contract's records

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def schema_of(contract: Contract) -> dict[str, Any]:
    """The schema that a contract's records are written by."""
    return _record_schema("Top", contract.fields, iter(range(10**6)))


def _record_schema(name: str, fields: Sequence[Field], numbers: Any) -> dict[str, Any]:
    types = [{"name": f.name, "type": ["null", _type_of(f, numbers)]} for f in fields]
    return {"type": "record", "name": name, "fields": types}


def _type_of(field: Field, numbers: Any) -> Any:
    match field.type:
        case "string" | "json":
            return "string"
        case "boolean":
            return "boolean"
        case "integer":
            wide = field.storage == "uint64"
            return {"type": "bytes", "logicalType": "decimal", "precision": 20} if wide else "long"
        case "number":
            return "float" if field.storage == "float32" else "double"
        case "decimal":
            precision, scale = field.precision, field.scale
            logical = {"logicalType": "decimal", "precision": precision, "scale": scale}
            return {"type": "bytes", **logical}
        case "date":
            return {"type": "int", "logicalType": "date"}
        case "time":
            return {"type": "long", "logicalType": "time-micros"}
        case "timestamp":
            return {"type": "long", "logicalType": "timestamp-micros"}
        case "object":
            return _record_schema(f"R{next(numbers)}", field.fields, numbers)
        case "array":
            assert field.items is not None
            return {"type": "array", "items": ["null", _type_of(field.items, numbers)]}
    raise NotImplementedError(field.type)


def datum_of(value: Any, field: Field) -> Any:
    """A field's value as Avro stores it."""
    if value is None:
        return None
    match field.type:
        case "integer" if field.storage == "uint64":
            return _complement(value)
        case "decimal":
            sign, digits, exponent = value.as_tuple()
            unscaled = int("".join(map(str, digits))) * 10 ** (exponent + field.scale)
            return _complement(-unscaled if sign else unscaled)
        case "date":
            return value.toordinal() - dt.date(1970, 1, 1).toordinal()
        case "time":
            return (dt.datetime.combine(_EPOCH, value, dt.UTC) - _EPOCH) // _MICROSECOND
        case "timestamp":
            return (value - _EPOCH) // _MICROSECOND
        case "object":
            return {f.name: datum_of(value[f.name], f) for f in field.fields}
        case "array":
            assert field.items is not None
            return [datum_of(item, field.items) for item in value]
    return value


def _complement(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
