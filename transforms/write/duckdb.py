"""A table of a DuckDB file: the warehouse that needs no server.

``duckdb:FILE/[SCHEMA.]TABLE?mode=…``. Rows and token are one transaction. DuckDB lets one process
have a file open at a time: while another has, it counts as not available.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

import duckdb
import numpy as np
import pyarrow as pa

from ...schemas.forms.ddl import quoted
from .. import storage
from .destination import Commit
from .errors import DestinationError, Taken, Unavailable
from .evolution import Column, additions
from .refusals import Refused, refuse
from .statements import (
    DUCKDB,
    TOKENS,
    TOMBSTONES_SUFFIX,
    add_column,
    bury,
    create_table,
    create_tokens,
    create_tombstones,
    delete_partitions,
    insert,
    merge,
    winners,
    without_buried,
)
from .tables import ROW, Held, Load, TableDestination, held_by, parse_options

_STAGE = "temp._millstream_stage"
_WINNERS = "temp._millstream_winners"
_STREAM = "_millstream_stream"


@dataclass(frozen=True)
class DuckDbDestination(TableDestination):
    """A table of the DuckDB file ``file``."""

    file: str = ""

    refuses: ClassVar[bool] = True

    @property
    def service(self) -> str:
        return f"duckdb:{self.file}"

    def load(self, commit: Commit, loads: Sequence[Load]) -> None:
        with self._connected() as db:
            refused = Refused("", 0)
            db.execute("BEGIN")
            try:
                self._load_all(db, loads)
            except (duckdb.ConstraintException, duckdb.ConversionException):
                # A failed statement ends DuckDB's transaction: what is refused is found by asking.
                db.execute("ROLLBACK")
                db.execute("BEGIN")
                refused = self._without_refused(db, commit, loads)
            held = held_by(commit, loads, refused)
            self._hold(db, commit, held)

    def held(self, run_id: str) -> Held | None:
        if not os.path.exists(self.file):
            return None
        with self._connected() as db:
            if not _exists(db, TOKENS):
                return None
            found = db.execute(
                f"SELECT held FROM {quoted(TOKENS)} WHERE table_name = ? AND run_id = ?",
                [self.target, run_id],
            ).fetchall()
            return Held.from_json(found[0][0]) if found else None

    def examine(self, load: Load) -> None:
        self._types(load)
        if os.path.exists(self.file):
            with self._connected() as db:
                self._missing(db, load)
        else:
            folder = os.path.dirname(self.file) or "."
            if not os.path.isdir(folder):
                raise DestinationError(f"{self.place}: there is no folder {folder}; make it first")
            if not os.access(folder, os.W_OK):
                raise DestinationError(f"{self.place}: the folder {folder} cannot be written to")

    def forget(self, before: float, keep: Sequence[str]) -> int:
        if not os.path.exists(self.file):
            return 0
        with self._connected() as db:
            if not _exists(db, TOKENS):
                return 0
            gone = db.execute(
                f"DELETE FROM {quoted(TOKENS)} WHERE table_name = ? AND epoch(committed_at) < ? "
                "AND NOT list_contains(?, run_id) RETURNING run_id",
                [self.target, before, list(keep)],
            ).fetchall()
            return len(gone)

    def old_tokens(self, before: float) -> list[str]:
        if not os.path.exists(self.file):
            return []
        with self._connected() as db:
            if not _exists(db, TOKENS):
                return []
            found = db.execute(
                f"SELECT run_id FROM {quoted(TOKENS)} "
                "WHERE table_name = ? AND epoch(committed_at) < ? ORDER BY run_id",
                [self.target, before],
            ).fetchall()
            return [run_id for (run_id,) in found]

    def expire(self, table: str, column: str, before: float, *, dry_run: bool = False) -> int:
        if not os.path.exists(self.file):
            return 0
        what = "SELECT count(*)" if dry_run else "DELETE"
        with self._connected() as db:
            if not _exists(db, table):
                return 0
            ((rows,),) = db.execute(
                f"{what} FROM {_qualified(table)} WHERE {quoted(column)} < ?",
                [datetime.fromtimestamp(before, UTC)],
            ).fetchall()
            return rows

    def _load_all(self, db: duckdb.DuckDBPyConnection, loads: Sequence[Load]) -> None:
        for load in loads:
            self._make(db, load)
            if load.mode == "append":
                with _streamed(db, load):
                    db.execute(insert(self._name(load), _STREAM, load))
            else:
                with _streamed(db, load, numbered=True):
                    db.execute(f"CREATE TEMP TABLE {_STAGE[5:]} AS FROM {_STREAM}")
                self._put(db, load)

    def _put(self, db: duckdb.DuckDBPyConnection, load: Load) -> None:
        """Bring what is staged in the database into the table."""
        table = self._name(load)
        if load.mode == "replace":
            db.execute(delete_partitions(table, _STAGE, load.partition_by, DUCKDB))
        if load.mode == "upsert":
            query = winners(_STAGE, load)
            db.execute(f"CREATE TEMP TABLE {_WINNERS[5:]} AS {query}")
            if load.deleted:
                graves = _qualified(f"{load.name}{TOMBSTONES_SUFFIX}")
                db.execute(create_tombstones(graves, load, DUCKDB))
                left = without_buried(_WINNERS, graves, load, DUCKDB)
                db.execute(f"CREATE OR REPLACE TEMP TABLE {_WINNERS[5:]} AS {left}")
                db.execute(bury(graves, _WINNERS, load, DUCKDB))
            db.execute(merge(table, _WINNERS, load, DUCKDB))
            db.execute(f"DROP TABLE {_WINNERS}")
        else:
            db.execute(insert(table, _STAGE, load))
        db.execute(f"DROP TABLE {_STAGE}")

    def _without_refused(
        self, db: duckdb.DuckDBPyConnection, commit: Commit, loads: Sequence[Load]
    ) -> Refused:
        """Load what no constraint refuses, and write the rest down."""
        refused = Refused("", 0)
        for load in loads:
            self._make(db, load)
            with _streamed(db, load, numbered=True):
                db.execute(f"CREATE TEMP TABLE {_STAGE[5:]} AS FROM {_STREAM}")
            reasons = _broken(db, load)
            if reasons:
                rows = np.array(sorted(reasons), np.int64)
                found = refuse(commit, load, rows, [reasons[row] for row in rows.tolist()])
                refused = found if load.part == "data" else refused
                db.execute(
                    f"DELETE FROM {_STAGE} WHERE list_contains(?, {quoted(ROW)})", [rows.tolist()]
                )
            self._put(db, load)
        return refused

    def _hold(self, db: duckdb.DuckDBPyConnection, commit: Commit, held: Held) -> None:
        db.execute(create_tokens(quoted(TOKENS), DUCKDB))
        try:
            db.execute(
                f"INSERT INTO {quoted(TOKENS)} (table_name, run_id, held) VALUES (?, ?, ?)",
                [self.target, commit.token.run_id, held.to_json()],
            )
            db.commit()
        except (duckdb.ConstraintException, duckdb.TransactionException) as error:
            if "Conflict" in str(error) or isinstance(error, duckdb.ConstraintException):
                raise Taken from error
            raise

    def _make(self, db: duckdb.DuckDBPyConnection, load: Load) -> None:
        """Make the load's table, or give it the columns that it lacks."""
        schema, _, _ = load.name.rpartition(".")
        if schema:
            db.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
        missing = self._missing(db, load)
        if missing is None:
            db.execute(create_table(self._name(load), load.table.fields, DUCKDB))
            return
        for column in missing:
            db.execute(add_column(self._name(load), column.name, column.type))

    def _missing(self, db: duckdb.DuckDBPyConnection, load: Load) -> list[Column] | None:
        """The columns that the table lacks; ``None`` if there is no table.

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
            for field, type in zip(load.table.fields, self._types(load), strict=True)
        ]
        return additions(load.name, wanted, [Column(*column) for column in held], _fits)

    def _types(self, load: Load) -> list[str]:
        try:
            return [DUCKDB.type(field) for field in load.table.fields]
        except ValueError as error:
            raise DestinationError(f"{self.place}: {error}") from None

    def _name(self, load: Load) -> str:
        return _qualified(load.name)

    @contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection; what goes wrong with it is said in our words."""
        try:
            with duckdb.connect(self.file) as db:
                # Rows of a table have no order: keeping one costs memory.
                db.execute("SET preserve_insertion_order = false")
                # Else a table that is not there is looked for among Python's names.
                db.execute("SET python_enable_replacements = false")
                yield db
        except duckdb.Error as error:
            raise _explained(error, self.place) from error


def open_destination(scheme: str, rest: str, name: str, state: str = "") -> DuckDbDestination:
    """The destination of ``duckdb:FILE/[SCHEMA.]TABLE?mode=…``.

    Raises:
        DestinationError: no file or no table is named, or an option cannot be used.
    """
    said, _, query = rest.partition("?")
    file, slash, target = said.rpartition("/")
    if not slash or not file or not target:
        raise DestinationError(f"{scheme}:{said} names no table; write {scheme}:FILE/TABLE")
    if "://" in file:
        raise DestinationError(f"{scheme}:{said}: DuckDB writes local files alone")
    file = storage.absolute(file)
    if os.path.isdir(file):
        raise DestinationError(
            f"{scheme}:{said} names no table; write {scheme}:FILE/TABLE ({file} is a folder)"
        )
    try:
        options = parse_options(query, DuckDbDestination.modes)
    except DestinationError as error:
        raise DestinationError(f"{scheme}: {error}") from None
    place = f"{scheme}:{file}/{target}"
    uri = f"{place}?{options.query()}" if options.query() else place
    return DuckDbDestination(uri, name, place, target, options, state, file)


def _qualified(name: str) -> str:
    """A table's name with its schema, quoted."""
    schema, _, table = name.rpartition(".")
    return f"{quoted(schema or 'main')}.{quoted(table)}"


@contextmanager
def _streamed(
    db: duckdb.DuckDBPyConnection, load: Load, *, numbered: bool = False
) -> Iterator[None]:
    """The load's rows as a table that can be read once."""
    stream = _Stream(load, numbered)
    db.register(_STREAM, stream.reader)
    try:
        yield
    except duckdb.Error:
        if stream.error:
            raise stream.error from None  # DuckDB's own would be about its text
        raise
    finally:
        # In a transaction that has failed nothing can be done but to end it.
        with suppress(duckdb.TransactionException):
            db.unregister(_STREAM)


class _Stream:
    """A load's rows, and why they could not be read to their end."""

    def __init__(self, load: Load, numbered: bool):
        self.error: Exception | None = None
        reader = load.reader(numbered=numbered)
        self.reader = pa.RecordBatchReader.from_batches(reader.schema, self._batches(reader))

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except Exception as error:
            self.error = error
            raise


def _exists(db: duckdb.DuckDBPyConnection, table: str) -> bool:
    schema, _, name = table.rpartition(".")
    query = (
        "SELECT 1 FROM duckdb_tables() "
        "WHERE table_name = ? AND schema_name = ? AND database_name = current_database()"
    )
    return bool(db.execute(query, [name, schema or "main"]).fetchall())


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
    ours, theirs = _DECIMAL.fullmatch(wanted), _DECIMAL.fullmatch(held)
    if ours and theirs:
        digits, scale = map(int, ours.groups())
        more_digits, more_scale = map(int, theirs.groups())
        return more_scale >= scale and more_digits - more_scale >= digits - scale
    return wanted == held or held in _WIDER.get(wanted, ())


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
        there = f"EXISTS (SELECT 1 FROM {_qualified(load.name)} AS t WHERE {same})"
        return (
            f"(SELECT {quoted(ROW)}, {there} AS there, "
            f"row_number() OVER (PARTITION BY {key} ORDER BY {quoted(ROW)}) AS n "
            f"FROM {_STAGE} AS s) WHERE there OR n > 1"
        )
    return ""


def _explained(error: duckdb.Error, place: str) -> Exception:
    """The error to raise in place of DuckDB's; its first line, which holds no more than names."""
    said = str(error).split("\n", 1)[0]
    if "Could not set lock" in said or "Conflicting lock" in said:
        return Unavailable(f"{place}: another process has the file open")
    if isinstance(error, duckdb.TransactionException) and "onflict" in said:
        return Unavailable(f"{place}: {said}")
    if isinstance(error, duckdb.ConstraintException):
        return DestinationError(f"{place}: the table refuses rows: {_without_values(said)}")
    return DestinationError(f"{place}: {said}")


def _without_values(said: str) -> str:
    """DuckDB's message without the key that it quotes."""
    return re.sub(r'Duplicate key ".*" violates', "a duplicate key violates", said)
