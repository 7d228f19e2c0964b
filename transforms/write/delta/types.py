"""What columns of a Delta table are made of, and in which form each value of a field is kept there.

========================== ======================= ===========================================
Field                      Delta                   Form
========================== ======================= ===========================================
string, json               string                  json is its text
integer int8 … int64       byte … long
integer uint8/uint16       short / integer         the next wider type: Delta has no unsigned
integer uint32             long
integer uint64             decimal(20,0)
number float32 / float64   float / double          NaN and the infinities too
decimal, up to 38 digits   decimal(p,s)
decimal, 39 digits or more string                  of partial states alone: digits as Arrow casts
                                                   them, and casts them back (``-12.50``, ``1E-40``)
boolean, date, binary      boolean, date, binary
timestamp                  timestamp               microseconds, UTC
time                       long                    microseconds since midnight
object, array              struct, array
========================== ======================= ===========================================

Types: https://github.com/delta-io/delta/blob/master/PROTOCOL.md#primitive-types
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.types as pt
from deltalake import Field as DeltaField
from deltalake import Schema as DeltaSchema
from deltalake.schema import ArrayType, DataType, MapType, PrimitiveType, StructType

from ....schemas.contract import Field
from ....schemas.table import Table
from ..errors import DestinationError
from ..evolution import Column, holds_all

DIGITS = 38
"""What Delta's decimals have at most."""

_FORBIDDEN = re.compile(r"[ ,;{}()\n\t=]")
"""Characters that no column's name has, unless the table maps its columns to other names."""
_WIDER = {
    "byte": {"short", "integer", "long"},
    "short": {"integer", "long"},
    "integer": {"long"},
    "float": {"double"},
}
"""Type → others that hold all of its values."""
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
_MADE_BY_DELTA = ("delta.generationExpression", "delta.identity.start", "CURRENT_DEFAULT")
"""Properties of columns whose values need not be given."""


def delta_schema(table: Table, *, wide_as_text: bool = False) -> pa.Schema:
    """The columns that a table has in Delta, in Arrow's types; descriptions are their comments.

    Args:
        wide_as_text: a decimal of more than 38 digits is text.

    Raises:
        DestinationError: Delta has no such column.
    """
    _check_names([field.name for field in table.fields], "")
    return pa.schema([_column(field, wide_as_text) for field in table.fields])


def columns_of(schema: pa.Schema | DeltaSchema) -> list[Column]:
    """The columns in Delta's own words."""
    said = schema if isinstance(schema, DeltaSchema) else DeltaSchema.from_arrow(schema)
    return [
        Column(field.name, _words(field.type), not field.nullable and not is_made_by_delta(field))
        for field in said.fields
    ]


def is_made_by_delta(field: DeltaField) -> bool:
    """Whether the table itself knows what a column's values are."""
    return any(name in field.metadata for name in _MADE_BY_DELTA)


def fits(wanted: str, held: str) -> bool:
    """Whether a column of the type ``held`` holds all values of the type ``wanted``."""
    return holds_all(wanted, held, _WIDER, _DECIMAL)


def cast(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Batches as columns of ``schema``, each in its type; null where a batch has no such column."""
    for batch in batches:
        names = batch.schema.names
        columns = [
            _cast(batch.column(field.name), field.type)
            if field.name in names
            else pa.nulls(batch.num_rows, field.type)
            for field in schema
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(column: pa.Array, type: pa.DataType) -> pa.Array:
    return column if column.type == type else column.cast(type)


def _column(field: Field, wide_as_text: bool) -> pa.Field:
    said = {"comment": field.description} if field.description else None
    return pa.field(field.name, _type(field, field.name, wide_as_text), not field.required, said)


_INTEGERS = {"uint8": pa.int16(), "uint16": pa.int32(), "uint32": pa.int64()}
_SCALARS = {
    "string": pa.string(),
    "json": pa.string(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "time": pa.int64(),
    "binary": pa.binary(),
}


def _type(field: Field, path: str, wide_as_text: bool) -> pa.DataType:
    match field.type:
        case "object":
            _check_names([inner.name for inner in field.fields], f"{path}.")
            return pa.struct(
                [
                    pa.field(inner.name, _type(inner, f"{path}.{inner.name}", wide_as_text))
                    for inner in field.fields
                ]
            )
        case "array":
            assert field.items is not None
            item = _type(field.items, f"{path}[]", wide_as_text)
            return pa.list_(pa.field("element", item))
        case "integer" if field.storage == "uint64":
            return pa.decimal128(20, 0)
        case "integer":
            return _INTEGERS.get(field.storage) or pa.type_for_alias(field.storage)
        case "number":
            return pa.float32() if field.storage == "float32" else pa.float64()
        case "decimal" if field.precision <= DIGITS:
            return pa.decimal128(field.precision, field.scale)
        case "decimal" if wide_as_text:
            return pa.string()
        case "decimal":
            raise DestinationError(f"{path}: Delta's decimals have at most {DIGITS} digits")
    return _SCALARS[field.type]


def _check_names(names: Iterable[str], prefix: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if _FORBIDDEN.search(name):
            raise DestinationError(
                f"{prefix}{name!r}: Delta's columns have none of ' ,;{{}}()=', tabs and line ends "
                "in their names"
            )
        other = seen.setdefault(name.lower(), name)
        if other is not name:
            raise DestinationError(
                f"{prefix}{other} and {prefix}{name}: Delta tells no columns apart by their case"
            )


def _words(type: DataType) -> str:
    match type:
        case PrimitiveType():
            return type.type
        case ArrayType():
            return f"array<{_words(type.element_type)}>"
        case MapType():
            return f"map<{_words(type.key_type)}, {_words(type.value_type)}>"
        case StructType():
            inner = ", ".join(f"{field.name}: {_words(field.type)}" for field in type.fields)
            return f"struct<{inner}>"
    return str(type)


def is_text(type: pa.DataType) -> bool:
    """Whether values are strings, whatever their layout."""
    return pt.is_string(type) or pt.is_large_string(type) or pt.is_string_view(type)
