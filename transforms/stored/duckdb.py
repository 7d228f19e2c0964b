"""A table of a DuckDB file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from ...schemas.forms.ddl import quoted
from ..receipts import Part
from ..write.destination import Output
from ..write.duckdb.destination import DuckDbDestination
from ..write.duckdb.session import connected
from ..write.duckdb.table import exists, qualified
from .filter import AnyItem, Compare, Filter, IsIn, Like
from .sql import Where
from .stored import Stored, table_name

_ROWS = 1 << 16


class DuckDb:
    """DuckDB's SQL."""

    def quoted(self, name: str) -> str:
        return quoted(name)

    def value(self, value: Any, number: int) -> str:
        return "?"

    def compare(self, left: str, operator: str, value: str, sample: Any) -> str:
        return f"{left} {operator} {value}"

    def among(self, left: str, values: str) -> str:
        # Not list_contains, which looks at the whole list for each row.
        return f"{left} IN (SELECT unnest({values}))"

    def like(self, left: str, pattern: str) -> str:
        return f"{left} LIKE {pattern} ESCAPE '\\'"

    def any_item(self, column: str, judge: Callable[[Callable[[str], str]], str]) -> str:
        met = judge(lambda name: f"item.{quoted(name)}")
        return f"EXISTS (SELECT 1 FROM (SELECT unnest({column}) AS item) WHERE {met})"


class StoredDuckDb(Stored):
    """The table ``table`` of ``file``. While another process has the file open, it is not
    available."""

    pushes = (Compare, IsIn, Like, AnyItem)

    def __init__(self, place: str, asked: pa.Schema | None, file: str, table: str) -> None:
        super().__init__(place, asked)
        self._file = file
        self._table = table

    def find(self) -> pa.Schema | None:
        if not os.path.exists(self._file):
            return None
        with self._connected() as db:
            if not exists(db, self._table):
                return None
            return db.sql(f"FROM {qualified(self._table)} LIMIT 0").to_arrow_table().schema

    def read(self, names: Collection[str], where: Filter) -> Iterator[pa.RecordBatch]:
        said = Where(DuckDb())
        columns = ", ".join(map(quoted, names))
        query = f"SELECT {columns} FROM {qualified(self._table)}{said.clause(where)}"
        with self._connected() as db:
            yield from db.sql(query, params=said.values).to_arrow_reader(_ROWS)

    @contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with connected(self._file, self.place) as db:
            db.execute("SET TimeZone = 'UTC'")
            yield db


def open_stored(output: Output, part: Part, schema: pa.Schema | None) -> StoredDuckDb:
    """The table of a part."""
    to = output.destination
    assert isinstance(to, DuckDbDestination)
    return StoredDuckDb(to.place, schema, to.file, table_name(to, part))
