"""Which Beam type holds an Arrow type, and which Arrow type a Beam type."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Optional, Union, get_args, get_origin

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from apache_beam.portability.api import schema_pb2
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.utils.timestamp import Timestamp

from ...schemas.arrow import arrow_type
from ...schemas.contract import Contract, Field

TIMESTAMP = "_timestamp"
"""A column beside a record's own: the time stamp of the element that it came from."""

MAX_DIGITS = 28
"""Digits of decimals that survive Beam's coder: it decodes in Python's default context."""


class SchemaRowsError(ValueError):
    """Rows that cannot be batches, or batches that cannot be rows. The message names the field."""


def named(names: Iterable[str]) -> str:
    """Names as a message lists what is there."""
    return ", ".join(map(repr, names)) or "none"


def declared_schema(columns: Contract | pa.Schema) -> pa.Schema:
    """The columns of rows: of a contract, what it requires is never null."""
    if isinstance(columns, Contract):
        return pa.schema(list(map(_declared, columns.fields)))
    return columns


def _declared(field: Field) -> pa.Field:
    return pa.field(field.name, _declared_type(field), not field.required)


def _declared_type(field: Field) -> pa.DataType:
    if field.type == "object":
        return pa.struct(list(map(_declared, field.fields)))
    if field.type == "array" and field.items is not None:
        return pa.list_(pa.field("item", _declared_type(field.items), not field.items.required))
    return arrow_type(field)


# ----------------------------------------------------------------------------- Arrow to Beam


def row_type(columns: Iterable[pa.Field], path: str = "") -> RowTypeConstraint:
    """The type of rows that hold these columns.

    Raises:
        SchemaRowsError: a name or a type has no place in Beam's schema.
    """
    found: dict[str, Any] = {}
    digits: dict[str, Any] = {}
    for column in columns:
        at = path + column.name
        if column.name in found:
            raise SchemaRowsError(f"field {at}: there are two of that name; rename one")
        if not _is_name(column.name):
            raise SchemaRowsError(
                f"field {at}: rows are named tuples in Python, which cannot have a field of that "
                f"name; give it another before, as in SELECT {_quoted(column.name)} AS other_name"
            )
        found[column.name] = _optional(_hint(column.type, at), column.nullable)
        if pt.is_decimal(column.type):
            said = f"{column.type.precision},{column.type.scale}"
            digits[column.name] = [(_DIGITS, said)]
    return RowTypeConstraint.from_fields(list(found.items()), field_options=digits)


_DIGITS = "millstream:decimal"
"""A field's option: how many digits its decimals have, and how many of them after the point."""


def _is_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _optional(hint: Any, nullable: bool) -> Any:
    return Optional[hint] if nullable else hint  # noqa: UP045 - a hint made as it runs


def _hint(type: pa.DataType, path: str) -> Any:
    """The type hint of a value that is not null."""
    if pt.is_dictionary(type):
        return _hint(type.value_type, path)
    if pt.is_struct(type):
        return row_type(type, f"{path}.")
    if is_list(type):
        item = type.value_field
        return Sequence[_optional(_hint(item.type, f"{path}[]"), item.nullable)]
    if pt.is_map(type):
        key = _hint(type.key_type, f"{path} (keys)")
        return Mapping[key, _optional(_hint(type.item_type, f"{path}[]"), type.item_field.nullable)]
    for fits, hint in _HINTS:
        if fits(type):
            return hint
    raise SchemaRowsError(f"field {path}: Beam's schema has no place for {type}; {_mend(type)}")


def is_list(type: pa.DataType) -> bool:
    """Whether values are lists, however they are laid out."""
    return pt.is_list(type) or pt.is_large_list(type) or pt.is_fixed_size_list(type)


def is_text(type: pa.DataType) -> bool:
    """Whether values are strings, however they are laid out."""
    return pt.is_string(type) or pt.is_large_string(type) or pt.is_string_view(type)


def is_bytes(type: pa.DataType) -> bool:
    """Whether values are byte strings, however they are laid out."""
    binary = pt.is_binary(type) or pt.is_large_binary(type) or pt.is_binary_view(type)
    return binary or pt.is_fixed_size_binary(type)


def _is_instant(type: pa.DataType) -> bool:
    return pt.is_timestamp(type) and type.tz is not None and type.unit != "ns"


_HINTS: tuple[tuple[Any, Any], ...] = (
    (is_text, str),
    (is_bytes, bytes),
    (pt.is_boolean, bool),
    # not np.int8: Beam's ByteCoder refuses to encode negative numbers
    (lambda type: pt.is_int8(type) or pt.is_uint8(type) or pt.is_int16(type), np.int16),
    (lambda type: pt.is_uint16(type) or pt.is_int32(type), np.int32),
    (lambda type: pt.is_uint32(type) or pt.is_int64(type), np.int64),
    (pt.is_float32, np.float32),
    (pt.is_float64, np.float64),
    (pt.is_decimal, Decimal),
    (pt.is_date32, date),
    (_is_instant, Timestamp),
    (lambda type: pt.is_time64(type) and type.unit == "us", str),
)


def _mend(type: pa.DataType) -> str:
    if pt.is_uint64(type):
        return "take int64, or decimal(20,0)"
    if pt.is_timestamp(type):
        zone = "" if type.tz else " with a zone"
        return f"cast it to microseconds{zone}: timestamp('us', '{type.tz or 'UTC'}')"
    return "leave it out, or cast it to a string before"


# ----------------------------------------------------------------------------- Beam to Arrow

_ATOMIC = {
    schema_pb2.BYTE: pa.int8(),
    schema_pb2.INT16: pa.int16(),
    schema_pb2.INT32: pa.int32(),
    schema_pb2.INT64: pa.int64(),
    schema_pb2.FLOAT: pa.float32(),
    schema_pb2.DOUBLE: pa.float64(),
    schema_pb2.STRING: pa.string(),
    schema_pb2.BOOLEAN: pa.bool_(),
    schema_pb2.BYTES: pa.binary(),
}
_MICROS = pa.timestamp("us", "UTC")
_LOGICAL = {
    "beam:logical_type:micros_instant:v1": _MICROS,
    "beam:logical_type:millis_instant:v1": _MICROS,
    "beam:logical_type:date:v1": pa.date32(),
    "beam:logical_type:javasdk_date:v1": pa.date32(),
    "beam:logical_type:javasdk_time:v1": pa.time64("us"),
    "beam:logical_type:decimal:v1": pa.decimal128(38, 9),
    "beam:logical_type:fixed_decimal:v1": pa.decimal128(38, 9),
    "beam:logical_type:fixed_bytes:v1": pa.binary(),
    "beam:logical_type:var_bytes:v1": pa.binary(),
    "beam:logical_type:fixed_char:v1": pa.string(),
    "beam:logical_type:var_char:v1": pa.string(),
}
_ANY = "beam:logical:pythonsdk_any:v1"


def arrow_field_of(field: schema_pb2.Field, path: str = "") -> pa.Field:
    """The Arrow field that holds a field of rows.

    Raises:
        SchemaRowsError: its type says too little, or holds what Arrow's columns do not.
    """
    at = path + field.name
    type = _arrow_type_of(field.type, at)
    for option in field.options:
        if option.name == _DIGITS and pt.is_decimal(type):
            precision, scale = map(int, option.value.atomic_value.string.split(","))
            type = (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
    return pa.field(field.name, type, field.type.nullable)


def _arrow_type_of(type: schema_pb2.FieldType, path: str) -> pa.DataType:
    match type.WhichOneof("type_info"):
        case "atomic_type" if type.atomic_type in _ATOMIC:
            return _ATOMIC[type.atomic_type]
        case "row_type":
            return pa.struct([arrow_field_of(f, f"{path}.") for f in type.row_type.schema.fields])
        case "array_type" | "iterable_type":
            item = element_type(type)
            return pa.list_(pa.field("item", _arrow_type_of(item, f"{path}[]"), item.nullable))
        case "map_type":
            key, value = type.map_type.key_type, type.map_type.value_type
            held = pa.field("value", _arrow_type_of(value, f"{path}[]"), value.nullable)
            return pa.map_(_arrow_type_of(key, f"{path} (keys)"), held)
        case "logical_type" if type.logical_type.urn in _LOGICAL:
            return _LOGICAL[type.logical_type.urn]
        case "logical_type" if type.logical_type.urn == _ANY:
            raise SchemaRowsError(
                f"field {path}: its type is not known (Any); give FromSchemaRows a contract or an "
                "Arrow schema, or declare the type where the rows are made (in Beam YAML: "
                "output_type of MapToFields)"
            )
    raise SchemaRowsError(f"field {path}: of a type that no column holds: {_called(type)}")


def element_type(type: schema_pb2.FieldType) -> schema_pb2.FieldType:
    """The type of the elements of an array, or of what can be iterated."""
    array = type.array_type if type.WhichOneof("type_info") == "array_type" else type.iterable_type
    return array.element_type


def _called(type: schema_pb2.FieldType) -> str:
    info = type.WhichOneof("type_info")
    return type.logical_type.urn if info == "logical_type" else str(info)


def refuse_other_type(type: schema_pb2.FieldType, expected: pa.DataType, path: str) -> None:
    """See whether values of a Beam type can be those of an Arrow type: all or some of them.

    Raises:
        SchemaRowsError: none of them can.
    """
    given, wanted = kind_of_beam(type), kind_of_arrow(expected)
    if given is not None and given != wanted and (given, wanted) not in _ALSO:
        raise SchemaRowsError(
            f"field {path}: expected values for {expected}, and rows declare {given}"
        )
    if given == "object":
        columns = {f.name: f.type for f in expected}
        fields = {f.name: f.type for f in type.row_type.schema.fields}
        if columns.keys() != fields.keys():
            raise SchemaRowsError(
                f"field {path}: expected the fields {named(columns)}, and rows declare "
                f"{named(fields)}"
            )
        for name, column in columns.items():
            refuse_other_type(fields[name], column, f"{path}.{name}")
    elif given == "array":
        refuse_other_type(element_type(type), expected.value_type, f"{path}[]")


_ALSO = {("integer", "number"), ("integer", "decimal"), ("string", "time")}
"""Kinds in rows, and another kind of column that holds their values exactly or refuses them."""


def kind_of_beam(type: schema_pb2.FieldType) -> str | None:
    """What sort of values a Beam type has, in a contract's words; ``None`` if it does not say."""
    info = type.WhichOneof("type_info")
    if info == "logical_type" and type.logical_type.urn == _ANY:
        return None
    if info in _NESTED:
        return _NESTED[info]
    return kind_of_arrow(_arrow_type_of(type, ""))


_NESTED = {
    "row_type": "object", "array_type": "array", "iterable_type": "array", "map_type": "map",
}  # fmt: skip


def kind_of_arrow(type: pa.DataType) -> str:
    """What sort of values an Arrow type has, in a contract's words."""
    if pt.is_dictionary(type):
        return kind_of_arrow(type.value_type)
    return next((kind for fits, kind in _KINDS if fits(type)), str(type))


_KINDS: tuple[tuple[Any, str], ...] = (
    (is_text, "string"),
    (is_bytes, "binary"),
    (pt.is_boolean, "boolean"),
    (pt.is_integer, "integer"),
    (pt.is_floating, "number"),
    (pt.is_decimal, "decimal"),
    (pt.is_date, "date"),
    (pt.is_timestamp, "timestamp"),
    (pt.is_time, "time"),
    (pt.is_struct, "object"),
    (is_list, "array"),
    (pt.is_map, "map"),
)


def not_null(hint: Any) -> Any:
    """A hint without its ``Optional``."""
    if get_origin(hint) is Union:
        return next(arg for arg in get_args(hint) if arg is not type(None))
    return hint
