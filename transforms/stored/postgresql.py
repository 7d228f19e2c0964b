"""A table of PostgreSQL.

Rows come by COPY, which streams and takes no parameters: values stand in settings of the
transaction, ``millstream.vN``, and the statement reads them from there.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec
import pyarrow as pa

from ...schemas.forms.ddl import quoted
from ..receipts import Part
from ..write.destination import Output
from ..write.errors import DestinationError, Unavailable
from ..write.postgresql.destination import PostgresqlDestination
from ..write.postgresql.session import Session, literal
from .filter import AnyItem, Compare, Filter, IsIn, Like
from .sql import Where
from .stored import Stored, table_name

_NATIVE = {
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "double precision": pa.float64(),
    "integer": pa.int32(),
    "real": pa.float32(),
    "smallint": pa.int16(),
    "text": pa.string(),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "timestamp without time zone": pa.timestamp("us"),
    "time without time zone": pa.time64("us"),
}
"""Types that the driver reads as what they are; others are read as PostgreSQL writes them."""
_DECIMAL = re.compile(r"numeric\((\d+),(\d+)\)")
_COLUMNS = (
    "SELECT attname::text, format_type(atttypid, atttypmod)::text FROM pg_attribute "
    "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)
_CASTS = {bool: "boolean", int: "numeric", dt.datetime: "timestamptz", dt.date: "date", str: "text"}


class PostgreSql:
    """PostgreSQL's SQL. Values are settings of the transaction."""

    def quoted(self, name: str) -> str:
        return quoted(name)

    def value(self, value: Any, number: int) -> str:
        said = f"current_setting('{setting(number)}')"
        if isinstance(value, list):
            cast = _CASTS[type(value[0])] if value else "text"
            return f"(SELECT v::{cast} FROM jsonb_array_elements_text({said}::jsonb) AS v)"
        return f"{said}::{_CASTS[type(value)]}"

    def compare(self, left: str, operator: str, value: str, sample: Any) -> str:
        by_bytes = ' COLLATE "C"' if isinstance(sample, str) and operator != "=" else ""
        return f"{left}{by_bytes} {operator} {value}"

    def among(self, left: str, values: str) -> str:
        return f"{left} IN {values}"

    def like(self, left: str, pattern: str) -> str:
        return f"{left} LIKE {pattern} ESCAPE E'\\\\'"

    def any_item(self, column: str, judge: Callable[[Callable[[str], str]], str]) -> str:
        met = judge(lambda name: f"(item ->> {literal(name)})")
        items = f"jsonb_array_elements(CASE jsonb_typeof({column}) WHEN 'array' THEN {column} END)"
        return f"EXISTS (SELECT 1 FROM {items} AS item WHERE {met})"


class StoredPostgresql(Stored):
    """A table or view. Objects and arrays are JSONB there."""

    pushes = (Compare, IsIn, Like, AnyItem)

    def __init__(
        self, place: str, asked: pa.Schema | None, to: PostgresqlDestination, table: str
    ) -> None:
        super().__init__(place, asked)
        self._to = to
        self._name = ".".join(map(quoted, table.split(".")))

    def find(self) -> pa.Schema | None:
        with self._to.connected() as db:
            found = db.run(_COLUMNS, self._name)
        return pa.schema([(name, _type(said)) for name, said in found]) if found else None

    def read(self, names: Collection[str], where: Filter) -> Iterator[pa.RecordBatch]:
        assert self.found is not None
        said = Where(PostgreSql())
        columns = ", ".join(_selected(self.found.field(name)) for name in names)
        query = f"SELECT {columns} FROM {self._name}{said.clause(where)}"
        with self._to.connected() as db:
            for number, value in enumerate(said.values):
                db.run("SELECT set_config($1, $2, true)", setting(number), _written(value))
            yield from _streamed(db, query, self.place)


def setting(number: int) -> str:
    """What the setting is called that holds a value."""
    return f"millstream.v{number}"


def _type(said: str) -> pa.DataType:
    if digits := _DECIMAL.fullmatch(said):
        precision, scale = int(digits[1]), int(digits[2])
        if scale <= precision <= 76:
            return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
    return _NATIVE.get(said, pa.string())


def _selected(column: pa.Field) -> str:
    """A column as SQL, in a type that the driver reads."""
    name = quoted(column.name)
    as_text = pa.types.is_string(column.type) or pa.types.is_decimal(column.type)
    return f"{name}::text AS {name}" if as_text else name


def _written(value: Any) -> str:
    """A value as the text of a setting."""
    if isinstance(value, list):
        return msgspec.json.encode(list(map(_written, value))).decode()
    return value.isoformat() if isinstance(value, dt.date) else str(value)


def _streamed(db: Session, statement: str, place: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from db.read(statement)
    except OSError as error:
        if "ERROR:" in str(error):  # which may have a row's values
            raise DestinationError(
                f"{place}: PostgreSQL fails on a row; select all of it with psql to see why"
            ) from None
        raise Unavailable(f"{place}: the connection is lost") from error


def open_stored(output: Output, part: Part, schema: pa.Schema | None) -> StoredPostgresql:
    """The table of a part."""
    to = output.destination
    assert isinstance(to, PostgresqlDestination)
    return StoredPostgresql(to.place, schema, to, table_name(to, part))
