"""The Avro schema of an Arrow schema.

A nullable field is the union ``["null", T]`` with the default ``null``, so that a reader's schema
may have fields that a file lacks. Types: integers that fit are ``int``, else ``long``; ``uint64``
fits neither and is ``decimal(20, 0)``; decimals are of ``bytes``; time stamps with a zone are
``timestamp-*``, without one ``local-timestamp-*``, in their unit, seconds in milliseconds; text of
any kind, dictionaries too, is ``string``; all binary is ``bytes``; a struct is a record whose name
is its path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

Avro = str | dict[str, Any] | list[Any]
"""An Avro schema, as JSON has it."""

UINT64 = pa.decimal128(20, 0)
"""What holds a ``uint64``: Avro's ``long`` is signed."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPE_NAMES = frozenset(
    (
        "null", "boolean", "int", "long", "float", "double", "bytes", "string",
        "record", "error", "enum", "array", "map", "union", "fixed",
    )
)  # fmt: skip


def avro_schema(schema: pa.Schema, name: str) -> dict[str, Any]:
    """The record schema of rows of ``schema``.

    Args:
        name: the record's name; what Avro allows in no name becomes ``_``.

    Raises:
        ValueError: a field's name is no Avro name (letters, digits and ``_``, no digit first), or
            is there twice; the message names the field.
        TypeError: a column is of a type that Avro has not; the message names it.
    """
    allowed = re.sub(r"[^A-Za-z0-9_]", "_", name) or "_"
    return _record(schema, f"_{allowed}" if allowed[0].isdigit() else allowed, "", "")


def _record(fields: Iterable[pa.Field], name: str, namespace: str, path: str) -> dict[str, Any]:
    # A record's namespace is the path to it: so two fields of one name, in two structs, differ.
    if name in _TYPE_NAMES:  # which Avro keeps for itself in every namespace
        namespace, name = f"{namespace}.{name}".lstrip("."), "value"
    head = {"type": "record", "name": name} | ({"namespace": namespace} if namespace else {})
    inside = f"{namespace}.{name}" if namespace else name
    found: dict[str, Any] = {}
    for field in fields:
        at = f"{path}.{field.name}" if path else field.name
        if not _NAME.fullmatch(field.name):
            raise ValueError(
                f"column {at!r}: Avro allows only letters, digits and '_' in a name, "
                "and no digit at its beginning"
            )
        if field.name in found:
            raise ValueError(f"column {at!r} is there twice")
        kind = _nullable(field, at, inside)
        default = {"default": None} if isinstance(kind, list) else {}
        found[field.name] = {"name": field.name, "type": kind, **default}
    return {**head, "fields": list(found.values())}


def _nullable(field: pa.Field, path: str, namespace: str) -> Avro:
    kind = _type(field.type, path, namespace)
    return ["null", kind] if field.nullable and kind != "null" else kind


def _type(kind: pa.DataType, path: str, namespace: str) -> Avro:
    if pt.is_dictionary(kind):
        return _type(kind.value_type, path, namespace)
    if pt.is_struct(kind):
        return _record(kind, path.rpartition(".")[2].rstrip("[]"), namespace, path)
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return {"type": "array", "items": _nullable(kind.value_field, f"{path}[]", namespace)}
    for matches, make in _TYPES:
        if matches(kind):
            return make(kind)
    raise TypeError(f"column {path!r}: Arrow type {kind} cannot be written as Avro")


def _timestamp(kind: pa.TimestampType) -> Avro:
    unit = {"s": "millis", "ms": "millis", "us": "micros", "ns": "nanos"}[kind.unit]
    return {"type": "long", "logicalType": f"{'' if kind.tz else 'local-'}timestamp-{unit}"}


def _decimal(kind: Any) -> Avro:
    return {
        "type": "bytes",
        "logicalType": "decimal",
        "precision": kind.precision,
        "scale": kind.scale,
    }


_TYPES: list[tuple[Callable[[Any], bool], Callable[[Any], Avro]]] = [
    (pt.is_null, lambda _: "null"),
    (pt.is_boolean, lambda _: "boolean"),
    (pt.is_uint64, lambda _: _decimal(UINT64)),
    (
        pt.is_integer,
        lambda kind: "long" if kind.bit_width == 64 or pt.is_uint32(kind) else "int",
    ),
    (pt.is_float64, lambda _: "double"),
    (pt.is_floating, lambda _: "float"),
    (lambda kind: pt.is_decimal(kind) and kind.scale >= 0, _decimal),
    (
        lambda kind: pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind),
        lambda _: "string",
    ),
    (
        lambda kind: (
            pt.is_binary(kind)
            or pt.is_large_binary(kind)
            or pt.is_fixed_size_binary(kind)
            or pt.is_binary_view(kind)
        ),
        lambda _: "bytes",
    ),
    (pt.is_timestamp, _timestamp),
    (pt.is_date, lambda _: {"type": "int", "logicalType": "date"}),
    (pt.is_time32, lambda _: {"type": "int", "logicalType": "time-millis"}),
    (
        lambda kind: pt.is_time64(kind) and kind.unit == "us",
        lambda _: {"type": "long", "logicalType": "time-micros"},
    ),
]
