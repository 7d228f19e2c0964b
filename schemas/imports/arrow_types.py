"""Fields of Arrow's types, those that no contract has among them: a Parquet file's columns."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.types as pt

from ..arrow import field_of_arrow
from ..contract import Field, Rule
from .imported import ITEM, CannotImport, Imported, Notes, Path


def import_parquet(file: str) -> Imported:
    """The contract of a Parquet file's rows.

    Raises:
        CannotImport: it cannot be read, or is no Parquet file.
    """
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except FileNotFoundError as error:
        raise CannotImport(f"{file}: cannot be read: no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise CannotImport(f"{file}: no Parquet file: {error}") from error
    notes = Notes()
    return Imported("", fields_of_arrow(schema, notes), notes=notes)


def fields_of_arrow(columns: Iterable[pa.Field], notes: Notes, at: Path = ()) -> tuple[Field, ...]:
    """The fields that hold what Arrow columns hold; what is lost is noted."""
    return tuple(_field(column, (*at, column.name), notes) for column in columns)


def _field(column: pa.Field, path: Path, notes: Notes) -> Field:
    name = path[-1] if path[-1] != ITEM else "item"
    made = _of_type(name, column.type, path, notes)
    described = (column.metadata or {}).get(b"description")
    return Field(
        name,
        made.type,
        required=not column.nullable,
        rules=made.rules,
        fields=made.fields,
        items=made.items,
        storage=made.storage,
        precision=made.precision,
        scale=made.scale,
        zone=made.zone,
        description=described.decode("utf-8", "replace") if described else None,
    )


def _of_type(name: str, kind: pa.DataType, path: Path, notes: Notes) -> Field:
    if pt.is_struct(kind) and kind.num_fields:
        return Field(name, "object", fields=fields_of_arrow(kind, notes, path))
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_list_view(kind):
        return Field(name, "array", items=_field(kind.value_field, (*path, ITEM), notes))
    if pt.is_fixed_size_list(kind):
        sizes = (Rule("minItems", kind.list_size), Rule("maxItems", kind.list_size))
        item = _field(kind.value_field, (*path, ITEM), notes)
        return Field(name, "array", items=item, rules=sizes)
    if pt.is_dictionary(kind):
        return _of_type(name, kind.value_type, path, notes)
    if pt.is_large_string(kind) or pt.is_string_view(kind):
        return Field(name, "string")
    if pt.is_timestamp(kind):
        if kind.tz is None:
            notes.add(path, f"{kind}, without a zone: read as UTC")
            return Field(name, "timestamp", zone="UTC")
        if str(kind) != "timestamp[us, tz=UTC]":
            notes.add(path, f"{kind}: held in microseconds, UTC")
        return Field(name, "timestamp")
    if pt.is_date(kind):
        return Field(name, "date")
    if pt.is_time(kind):
        return Field(name, "time")
    try:
        return field_of_arrow(name, kind)
    except TypeError:
        return _unlike(name, kind, path, notes)


def _unlike(name: str, kind: pa.DataType, path: Path, notes: Notes) -> Field:
    """A field for a type that no contract has."""
    if pt.is_map(kind) or pt.is_struct(kind):
        notes.add(path, f"{kind}: kept as JSON")
        return Field(name, "json")
    if pt.is_duration(kind):
        notes.add(path, f"{kind}: held as its number of {kind.unit}")
        return Field(name, "integer")
    if pt.is_float16(kind):
        notes.add(path, "halffloat: held in 32 bits")
        return Field(name, "number", storage="float32")
    if pt.is_decimal(kind):
        notes.add(path, f"{kind}: digits before the point only, which no contract says")
        return Field(name, "decimal", precision=min(76, kind.precision - min(kind.scale, 0)))
    notes.add(path, f"{kind}: no type of a contract, read as a string")
    return Field(name, "string")
