"""Arrow types of contract fields, and the columns that carry a record's identity."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as pt

from .contract import Contract, Field, LogicalType

SOURCE = "_source"
"""Where a record came from (a file's URI): dictionary<int32, string>, one value a batch."""
POSITION = "_position"
"""Where in its source: for files the byte offset of the record, in the decompressed stream."""
PAYLOAD = "_payload"
"""The record's exact bytes, without its line end."""
IDENTITY = (SOURCE, POSITION, PAYLOAD)
WATERMARK = "_watermark"
"""How far event time had come where a record was read, before it: what lateness is judged by."""
HIDDEN = (*IDENTITY, WATERMARK)
"""Columns that travel beside a record's own."""
UNKNOWN = "_unknown"
"""With ``unknown_fields: keep``, what the contract does not name: a JSON object from path to value,
or null."""

REPAIRED = "_repaired"
"""Where a job has repairs, those by which a record was rescued, as ``amount: cast; ts: trim``;
null of records that were good as they came."""
REPAIRED_FIELD = pa.field(REPAIRED, pa.string())

IDENTITY_FIELDS = (
    pa.field(SOURCE, pa.dictionary(pa.int32(), pa.string()), nullable=False),
    pa.field(POSITION, pa.int64()),
    pa.field(PAYLOAD, pa.binary()),
)

WATERMARK_FIELD = pa.field(WATERMARK, pa.timestamp("us", "UTC"))

PAYLOADS = pa.schema(IDENTITY_FIELDS)
"""Raw records, as sources give them and Parse takes them."""

_SCALARS: dict[LogicalType, pa.DataType] = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "time": pa.time64("us"),
    "json": pa.string(),
    "binary": pa.binary(),
}


def arrow_type(field: Field) -> pa.DataType:
    """The Arrow type that holds a field's values."""
    match field.type:
        case "integer":
            return pa.type_for_alias(field.storage)
        case "number":
            return pa.float32() if field.storage == "float32" else pa.float64()
        case "decimal":
            make = pa.decimal128 if field.precision <= 38 else pa.decimal256
            return make(field.precision, field.scale)
        case "object":
            return pa.struct([arrow_field(f) for f in field.fields])
        case "array":
            assert field.items is not None
            return pa.list_(pa.field("item", arrow_type(field.items)))
        case scalar:
            return _SCALARS[scalar]


def field_of_arrow(name: str, type: pa.DataType) -> Field:
    """The field whose values an Arrow type holds: what :func:`arrow_type` was given.

    Raises:
        TypeError: no field's values are held by it. The message is ``of the Arrow type …, …``.
    """
    field = _field_like(name, type)
    if field is None or arrow_type(field) != type:
        raise TypeError(f"of the Arrow type {type}, which is no type of a contract's fields")
    return field


def _field_like(name: str, type: pa.DataType) -> Field | None:
    """A field of about this type."""
    if pt.is_integer(type):
        return Field(name, "integer", storage=str(type))
    if pt.is_floating(type):
        return Field(name, "number", storage="float32" if pt.is_float32(type) else "float64")
    if pt.is_decimal(type):
        return Field(name, "decimal", precision=type.precision, scale=type.scale)
    if pt.is_struct(type):
        return Field(name, "object", fields=tuple(field_of_arrow(f.name, f.type) for f in type))
    if pt.is_list(type):
        return Field(name, "array", items=field_of_arrow("item", type.value_type))
    # Binary is not for contracts: only tables that are millstream's own have it.
    return next(
        (Field(name, k) for k, held in _SCALARS.items() if held == type and k != "binary"), None
    )


def arrow_field(field: Field) -> pa.Field:
    """A nullable Arrow field: requiredness is a rule, judged after parsing."""
    return pa.field(field.name, arrow_type(field))


def record_schema(contract: Contract, *, keep_unknown: bool = False) -> pa.Schema:
    """The columns of a contract's records, without identity."""
    fields = [arrow_field(f) for f in contract.fields]
    if keep_unknown:
        fields.append(pa.field(UNKNOWN, pa.string()))
    return pa.schema(fields)


def batch_schema(
    contract: Contract,
    *,
    keep_unknown: bool = False,
    repaired: bool = False,
    watermark: bool = False,
) -> pa.Schema:
    """The columns of a parsed batch: the record's, then its identity, then its watermark.

    Args:
        repaired: the job has repairs: the record's columns end with what was repaired.
    """
    marks = (REPAIRED_FIELD,) if repaired else ()
    hidden = (*IDENTITY_FIELDS, WATERMARK_FIELD) if watermark else IDENTITY_FIELDS
    return pa.schema([*record_schema(contract, keep_unknown=keep_unknown), *marks, *hidden])
