"""DuckDB: ``INSERT … SELECT`` from an Arrow table."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import pyarrow as pa
from columns import SCHEMA

from native import Held, Way

_DDL = """
CREATE TABLE "{table}" (event_id VARCHAR, user_id VARCHAR, ts TIMESTAMPTZ, page VARCHAR,
    country VARCHAR, duration_ms BIGINT, price DECIMAL(10,2))
"""


def insert_select(place: str, rows: pa.Table) -> Callable[[], None]:
    file, table = _parts(place)

    def load() -> None:
        with duckdb.connect(file) as db:
            db.register("arrow_rows", rows)
            db.execute(f'INSERT INTO "{table}" SELECT * FROM arrow_rows')

    return load


WAYS = (Way("INSERT … SELECT of an Arrow table", insert_select),)


def prepare(place: str) -> None:
    file, table = _parts(place)
    with duckdb.connect(file) as db:
        db.execute(_DDL.format(table=table))


def read(place: str) -> Held:
    file, table = _parts(place)
    names = ", ".join(SCHEMA.names)
    with duckdb.connect(file, read_only=True) as db:
        db.execute("SET TimeZone = 'UTC'")
        found = db.sql(f'SELECT {names} FROM "{table}"')
        types = dict(zip(found.columns, map(str, found.types), strict=True))
        return Held(found.to_arrow_table().cast(SCHEMA), types)


def drop(place: str) -> None:
    file, table = _parts(place)
    with duckdb.connect(file) as db:
        db.execute(f'DROP TABLE "{table}"')


def _parts(place: str) -> tuple[str, str]:
    file, _, table = place.removeprefix("duckdb:").rpartition("/")
    return file, table
