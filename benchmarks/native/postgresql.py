"""PostgreSQL: the COPY of ADBC's driver, straight into the table. Read back by psycopg's."""

from __future__ import annotations

import io
from collections.abc import Callable

import psycopg
import pyarrow as pa
import pyarrow.csv as pv
from columns import SCHEMA
from psycopg import sql

from native import Held, Way

_DDL = """
CREATE TABLE {} (event_id text, user_id text, ts timestamptz, page text, country text,
    duration_ms bigint, price numeric(10,2))
"""
_TYPES = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = CAST(%s AS regclass) AND attname = ANY(%s)
"""


def adbc_copy(place: str, rows: pa.Table) -> Callable[[], None]:
    from adbc_driver_postgresql import dbapi

    database, table = place.rsplit("/", 1)

    def load() -> None:
        with dbapi.connect(database) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest(table, rows, mode="append")
            connection.commit()

    return load


WAYS = (Way("ADBC COPY", adbc_copy),)


def prepare(place: str) -> None:
    _run(place, _DDL)


def read(place: str) -> Held:
    database, table = place.rsplit("/", 1)
    with psycopg.connect(database, options="-c timezone=UTC") as connection:
        types = connection.execute(_TYPES, [f'"{table}"', SCHEMA.names]).fetchall()
        columns = sql.SQL(", ").join(map(sql.Identifier, SCHEMA.names))
        query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv)")
        text = io.BytesIO()
        with connection.cursor() as cursor:
            for piece in _copied(cursor, query.format(columns, sql.Identifier(table))):
                text.write(piece)
    text.seek(0)
    options = pv.ConvertOptions(
        column_types=SCHEMA, strings_can_be_null=True, quoted_strings_can_be_null=False,
        null_values=[""],
    )  # fmt: skip
    rows = pv.read_csv(text, pv.ReadOptions(column_names=SCHEMA.names), None, options)
    return Held(rows, dict(types))


def drop(place: str) -> None:
    _run(place, "DROP TABLE {}")


def _copied(cursor: psycopg.Cursor, query: sql.Composed):
    with cursor.copy(query) as copy:
        yield from copy


def _run(place: str, statement: str) -> None:
    database, table = place.rsplit("/", 1)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(table)))  # type: ignore[arg-type]
