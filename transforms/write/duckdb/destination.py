"""A table of a DuckDB file: the warehouse that needs no server.

``duckdb:FILE/[SCHEMA.]TABLE?mode=…``. Rows and token are one transaction. DuckDB lets one process
have a file open at a time: while another has, it counts as not available.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

import duckdb

from ....schemas.forms.ddl import quoted
from ... import storage
from ..destination import Commit
from ..errors import DestinationError, Taken
from ..statements import DUCKDB, TOKENS, create_tokens
from ..tables import Held, Load, Refused, TableDestination, held_by, naming, parse_options
from .rows import Rows
from .session import connected
from .table import exists, missing, qualified, types_of


@dataclass(frozen=True)
class DuckDbDestination(TableDestination):
    """A table of the DuckDB file ``file``."""

    file: str = ""

    refuses: ClassVar[bool] = True
    replaces_spans: ClassVar[bool] = True

    @property
    def service(self) -> str:
        return f"duckdb:{self.file}"

    def load(self, commit: Commit, loads: Sequence[Load]) -> None:
        with self._connected() as db:
            refused = Refused("", 0)
            db.execute("BEGIN")
            try:
                for load in loads:
                    Rows(db, load, self.place).put()
            except (duckdb.ConstraintException, duckdb.ConversionException):
                # A failed statement ends DuckDB's transaction: what is refused is found by asking.
                db.execute("ROLLBACK")
                db.execute("BEGIN")
                for load in loads:
                    found = Rows(db, load, self.place).put_carefully(commit)
                    refused = found if load.part == "data" else refused
            held = held_by(commit, loads, refused)
            self._hold(db, commit, held)

    def held(self, run_id: str) -> Held | None:
        if not os.path.exists(self.file):
            return None
        with self._connected() as db:
            if not exists(db, TOKENS):
                return None
            found = db.execute(
                f"SELECT held FROM {quoted(TOKENS)} WHERE table_name = ? AND run_id = ?",
                [self.target, run_id],
            ).fetchall()
            return Held.from_json(found[0][0]) if found else None

    def examine(self, load: Load) -> None:
        types_of(load, self.place)
        if os.path.exists(self.file):
            with self._connected() as db:
                missing(db, load, self.place)
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
            if not exists(db, TOKENS):
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
            if not exists(db, TOKENS):
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
            if not exists(db, table):
                return 0
            ((rows,),) = db.execute(
                f"{what} FROM {qualified(table)} WHERE {quoted(column)} < ?",
                [datetime.fromtimestamp(before, UTC)],
            ).fetchall()
            return rows

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

    def _connected(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        return connected(self.file, self.place)


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
    with naming(scheme):
        options = parse_options(query, DuckDbDestination.modes)
    place = f"{scheme}:{file}/{target}"
    uri = options.at(place)
    return DuckDbDestination(uri, name, place, target, options, state, file)
