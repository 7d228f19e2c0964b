"""DuckDB, which runs inside whoever opens its file: here a folder with one database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Database:
    """A database's file: see :class:`tests.services.peers.Peer`."""

    file: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def uri(self, table: str, query: str = "") -> str:
        place = f"duckdb:{self.file}/{table}"
        return f"{place}?{query}" if query else place

    def read(self, table: str, schema: pa.Schema) -> pa.Table:
        with self.opened(read_only=True) as connection:
            read = connection.sql(f"SELECT * FROM {_quoted(table)}").to_arrow_table()
        kept = [column for column in schema if column.name in read.schema.names]
        return read.select([column.name for column in kept]).cast(pa.schema(kept))

    def refuse_negative(self, table: str, column: str) -> None:
        """DuckDB takes constraints with a new table alone: the table is made anew."""
        with self.opened() as connection:
            found = connection.execute(
                "SELECT sql FROM duckdb_tables() WHERE table_name = ?", [table]
            ).fetchone()
            made = found[0].rstrip().removesuffix(";").removesuffix(")")
            old = _quoted(f"{table} before")
            connection.begin()
            connection.execute(f"ALTER TABLE {_quoted(table)} RENAME TO {old}")
            connection.execute(f"{made}, CHECK ({_quoted(column)} >= 0))")
            connection.execute(f"INSERT INTO {_quoted(table)} SELECT * FROM {old}")
            connection.execute(f"DROP TABLE {old}")
            connection.commit()

    def interrupt_commit(self) -> tuple[str, str]:
        return "duckdb:DuckDBPyConnection", "commit"

    @contextmanager
    def opened(self, *, read_only: bool = False) -> Iterator[Any]:
        """A connection of DuckDB's own."""
        import duckdb

        with duckdb.connect(str(self.file), read_only=read_only) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection


def why_not() -> str:
    """Why it cannot be used here, and what to do; empty if it can."""
    return "" if find_spec("duckdb") else "duckdb is not installed; pip install -e '.[dev]'"


@contextmanager
def running() -> Iterator[Database]:
    """An empty database, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="millstream-duckdb-") as path:
        yield Database(Path(path) / "warehouse.duckdb")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
