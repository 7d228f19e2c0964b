"""Tables of DuckDB: made, given the columns that they lack, or refused with the difference."""

from __future__ import annotations

import re

import duckdb

from ....schemas.forms.ddl import quoted
from ..errors import DestinationError
from ..evolution import Column, additions, holds_all
from ..statements import DUCKDB, add_column, create_table
from ..tables import Load


def make(db: duckdb.DuckDBPyConnection, load: Load, place: str) -> None:
    """Make the load's table, or give it the columns that it lacks."""
    schema, _, _ = load.name.rpartition(".")
    if schema:
        db.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
    lacking = missing(db, load, place)
    if lacking is None:
        db.execute(create_table(qualified(load.name), load.table.fields, DUCKDB))
        return
    for column in lacking:
        db.execute(add_column(qualified(load.name), column.name, column.type))


def missing(db: duckdb.DuckDBPyConnection, load: Load, place: str) -> list[Column] | None:
    """The columns that the load's table lacks; ``None`` if there is no table.

    Raises:
        TableMismatch: it does not fit.
    """
    schema, _, name = load.name.rpartition(".")
    held = db.execute(
        "SELECT column_name, data_type, NOT is_nullable AND column_default IS NULL "
        "FROM duckdb_columns() WHERE database_name = current_database() AND table_name = ? "
        "AND schema_name = ? ORDER BY column_index",
        [name, schema or "main"],
    ).fetchall()
    if not held:
        return None
    wanted = [
        Column(field.name, _canonical(db, type), field.required)
        for field, type in zip(load.table.fields, types_of(load, place), strict=True)
    ]
    return additions(load.name, wanted, [Column(*column) for column in held], _fits)


def types_of(load: Load, place: str) -> list[str]:
    """The types of the load's columns.

    Raises:
        DestinationError: DuckDB has none for one of them.
    """
    try:
        return [DUCKDB.type(field) for field in load.table.fields]
    except ValueError as error:
        raise DestinationError(f"{place}: {error}") from None


def exists(db: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Whether there is a table of the name, which may have a schema."""
    schema, _, name = table.rpartition(".")
    query = (
        "SELECT 1 FROM duckdb_tables() "
        "WHERE table_name = ? AND schema_name = ? AND database_name = current_database()"
    )
    return bool(db.execute(query, [name, schema or "main"]).fetchall())


def qualified(name: str) -> str:
    """A table's name with its schema, quoted."""
    schema, _, table = name.rpartition(".")
    return f"{quoted(schema or 'main')}.{quoted(table)}"


def _canonical(db: duckdb.DuckDBPyConnection, type: str) -> str:
    """The type as DuckDB itself writes it."""
    ((found,),) = db.execute(f"SELECT typeof(CAST(NULL AS {type}))").fetchall()
    return found


_WIDER = {
    "TINYINT": {"SMALLINT", "INTEGER", "BIGINT", "HUGEINT"},
    "SMALLINT": {"INTEGER", "BIGINT", "HUGEINT"},
    "INTEGER": {"BIGINT", "HUGEINT"},
    "BIGINT": {"HUGEINT"},
    "UTINYINT": {"USMALLINT", "UINTEGER", "UBIGINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"},
    "USMALLINT": {"UINTEGER", "UBIGINT", "INTEGER", "BIGINT", "HUGEINT"},
    "UINTEGER": {"UBIGINT", "BIGINT", "HUGEINT"},
    "UBIGINT": {"HUGEINT"},
    "FLOAT": {"DOUBLE"},
    "JSON": {"VARCHAR"},
}  # fmt: skip
"""Type → others that hold all of its values."""
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")


def _fits(wanted: str, held: str) -> bool:
    return holds_all(wanted, held, _WIDER, _DECIMAL)
