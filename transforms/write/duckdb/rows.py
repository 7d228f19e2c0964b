"""Rows of one load, brought into a table of DuckDB; and those found that it refuses."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np

from ....schemas.forms.ddl import quoted
from ...receipts import moment
from ..destination import Commit
from ..refusals import refuse
from ..statements import (
    DUCKDB,
    TOMBSTONES_SUFFIX,
    bury,
    create_tombstones,
    delete_partitions,
    delete_span,
    insert,
    merge,
    winners,
    without_buried,
)
from ..tables import ROW, Load, Refused
from .session import STREAM, streamed
from .table import make, qualified

_STAGE = "temp._millstream_stage"
_WINNERS = "temp._millstream_winners"


@dataclass(frozen=True)
class Rows:
    """The rows of a load, on their way into its table."""

    db: duckdb.DuckDBPyConnection
    load: Load
    place: str

    def put(self) -> None:
        """Bring all rows into the table."""
        make(self.db, self.load, self.place)
        self._delete_replaced()
        if self.load.mode == "append":
            with streamed(self.db, self.load):
                self.db.execute(insert(self._table, STREAM, self.load))
        else:
            self._stage()
            self._put_staged()

    def put_carefully(self, commit: Commit) -> Refused:
        """Bring the rows into the table that no constraint refuses, and write the others down."""
        make(self.db, self.load, self.place)
        self._delete_replaced()
        self._stage()
        reasons = _broken(self.db, self.load)
        rows = sorted(reasons)
        refused = refuse(
            commit, self.load, np.array(rows, np.int64), [reasons[row] for row in rows]
        )
        if rows:
            self.db.execute(f"DELETE FROM {_STAGE} WHERE list_contains(?, {quoted(ROW)})", [rows])
        self._put_staged()
        return refused

    @property
    def _table(self) -> str:
        return qualified(self.load.name)

    def _delete_replaced(self) -> None:
        if span := self.load.replaces:
            bounds = [moment(span.start), moment(span.end)]
            self.db.execute(delete_span(self._table, span.column, "?", "?"), bounds)

    def _stage(self) -> None:
        """Copy the rows, numbered, into a temporary table."""
        with streamed(self.db, self.load, numbered=True):
            self.db.execute(f"CREATE TEMP TABLE {_STAGE[5:]} AS FROM {STREAM}")

    def _put_staged(self) -> None:
        db, load, table = self.db, self.load, self._table
        if load.mode == "replace":
            db.execute(delete_partitions(table, _STAGE, load.partition_by, DUCKDB))
        if load.mode == "upsert":
            db.execute(f"CREATE TEMP TABLE {_WINNERS[5:]} AS {winners(_STAGE, load)}")
            if load.deleted:
                graves = qualified(f"{load.name}{TOMBSTONES_SUFFIX}")
                db.execute(create_tombstones(graves, load, DUCKDB))
                left = without_buried(_WINNERS, graves, load, DUCKDB)
                db.execute(f"CREATE OR REPLACE TEMP TABLE {_WINNERS[5:]} AS {left}")
                db.execute(bury(graves, _WINNERS, load, DUCKDB))
            db.execute(merge(table, _WINNERS, load, DUCKDB))
            db.execute(f"DROP TABLE {_WINNERS}")
        else:
            db.execute(insert(table, _STAGE, load))
        db.execute(f"DROP TABLE {_STAGE}")


def _broken(db: duckdb.DuckDBPyConnection, load: Load) -> dict[int, str]:
    """Row number → which constraint of the table it breaks."""
    schema, _, name = load.name.rpartition(".")
    constraints = db.execute(
        "SELECT constraint_type, expression, constraint_column_names, constraint_text "
        "FROM duckdb_constraints() WHERE database_name = current_database() "
        "AND schema_name = ? AND table_name = ? ORDER BY constraint_index",
        [schema or "main", name],
    ).fetchall()
    found: dict[int, str] = {}
    for kind, expression, columns, text in constraints:
        broken = _breaking(kind, expression, columns, load)
        if broken:
            message = f"{text} of {', '.join(columns)}" if kind == "NOT NULL" else text
            query = f"SELECT {quoted(ROW)} FROM {broken}"
            for (row,) in db.execute(query).fetchall():
                found.setdefault(row, f"breaks the table's constraint {message}")
    return found


def _breaking(kind: str, expression: str | None, columns: list[str], load: Load) -> str:
    """What to select the rows from that break a constraint; empty if it is not known how."""
    if kind == "NOT NULL":
        return f"{_STAGE} WHERE {quoted(columns[0])} IS NULL"
    if kind == "CHECK":
        return f"{_STAGE} WHERE ({expression}) IS FALSE"
    if kind in ("PRIMARY KEY", "UNIQUE") and load.mode == "append":
        key = ", ".join(map(quoted, columns))
        same = " AND ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in columns)
        there = f"EXISTS (SELECT 1 FROM {qualified(load.name)} AS t WHERE {same})"
        return (
            f"(SELECT {quoted(ROW)}, {there} AS there, "
            f"row_number() OVER (PARTITION BY {key} ORDER BY {quoted(ROW)}) AS n "
            f"FROM {_STAGE} AS s) WHERE there OR n > 1"
        )
    return ""
