"""References in tables and views of PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa

from ...schemas.arrow import arrow_type
from ...schemas.contract import Field
from ...schemas.forms.ddl import quoted
from ..write.postgresql.destination import PostgresqlDestination, open_destination
from ..write.postgresql.session import Session
from .sources import SourceError, Unavailable, as_source, chosen, fields_of
from .spec import ReferenceSpec

_NATIVE = {
    "bigint": "int64",
    "boolean": "bool",
    "bytea": "binary",
    "date": "date32",
    "double precision": "double",
    "integer": "int32",
    "real": "float",
    "smallint": "int16",
    "text": "string",
}
"""Types that the driver reads as what they are → Arrow's alias."""
_TIMES = {
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "timestamp without time zone": pa.timestamp("us"),
    "time without time zone": pa.time64("us"),
}
_DECIMAL = re.compile(r"numeric\((\d+),(\d+)\)")
_COLUMNS = (
    "SELECT attname::text, format_type(atttypid, atttypmod)::text FROM pg_attribute "
    "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)


class PostgresqlSource:
    """A table or view."""

    def __init__(self, spec: ReferenceSpec, table: PostgresqlDestination) -> None:
        self._spec = spec
        self._table = table
        self._name = ".".join(map(quoted, table.target.split(".")))

    def fields(self, expected: Mapping[str, Field]) -> tuple[Field, ...]:
        with self._connected() as db:
            return fields_of(self._columns(db), self._spec)

    def batches(self) -> Iterator[pa.RecordBatch]:
        with self._connected() as db:
            schema = chosen(self._columns(db), self._spec)
            columns = ", ".join(self._selected(column) for column in schema)
            for batch in _read(db, f"SELECT {columns} FROM {self._name}", self._spec.place):
                arrays = [
                    values.cast(column.type)
                    for values, column in zip(batch.columns, schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def version(self) -> str:
        return ""

    def _columns(self, db: Session) -> pa.Schema:
        """The table's columns, in types that keep all of their values."""
        found = dict(db.run(_COLUMNS, self._name))  # type: ignore[arg-type]
        if not found:
            raise SourceError(f"{self._spec.place}: there is no such table, or it has no columns")
        return pa.schema([pa.field(name, self._type(name, said)) for name, said in found.items()])

    def _type(self, name: str, said: str) -> pa.DataType:
        if said in _NATIVE:
            return pa.type_for_alias(_NATIVE[said])
        if said in _TIMES:
            return _TIMES[said]
        if digits := _DECIMAL.fullmatch(said):
            precision, scale = int(digits[1]), int(digits[2])
            if scale <= precision <= 76:
                return arrow_type(Field(name, "decimal", precision=precision, scale=scale))
        if said.startswith("numeric") and name in self._spec.columns:
            raise SourceError(
                f"{self._spec.place}: {name} is {said}, of any number of digits: give the table, "
                "or a view of it, numeric(38,9) or so"
            )
        return pa.string()  # read as PostgreSQL writes it: UUIDs, JSON, enums, …

    def _selected(self, column: pa.Field) -> str:
        """A column as SQL, in its type; what is without end is null in validity."""
        name = quoted(column.name)
        valid = self._spec.validity
        if valid and column.name in valid.columns:
            infinity = "infinity" if column.name == valid.to else "-infinity"
            return f"NULLIF({name}, '{infinity}') AS {name}"
        if pa.types.is_string(column.type) or pa.types.is_decimal(column.type):
            return f"{name}::text AS {name}"
        return name

    @contextmanager
    def _connected(self) -> Iterator[Session]:
        with as_source(), self._table.connected() as db:
            yield db


def _read(db: Session, statement: str, place: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from db.read(statement)
    except OSError as error:
        if "ERROR:" in str(error):  # which may have a row's values
            said = "PostgreSQL fails on a row; select all of it with psql to see why"
            raise SourceError(f"{place}: {said}") from None
        raise Unavailable(f"{place}: the connection is lost") from error


def open_source(spec: ReferenceSpec) -> PostgresqlSource:
    """The source of ``postgresql://[USER@]HOST[:PORT]/DATABASE/[SCHEMA.]TABLE``.

    Raises:
        SourceError: the URI has another shape, or a password.
    """
    with as_source():
        table = open_destination("postgresql", spec.uri.partition(":")[2], "reference")
    said = table.options
    if said.mode != "append" or said.partition_by or said.deleted:
        raise SourceError(
            f"from: {spec.place}: mode, partition_by and deleted are for destinations"
        )
    return PostgresqlSource(spec, table)
