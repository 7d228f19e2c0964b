"""A table of PostgreSQL, 15 or later.

``postgresql://[USER@]HOST[:PORT]/DATABASE/[SCHEMA.]TABLE?mode=…``, and libpq's own options as
``sslmode=verify-full``. The password is libpq's business: ``PGPASSWORD``, ``~/.pgpass``, a service
of ``PGSERVICE``; or it is a file's content, with ``password_file=PATH``. Rows and token are one
transaction. Without a schema, the table is looked for, or made, along the user's ``search_path``;
the tokens' table is in the same schema.

Objects and arrays are JSONB, as :mod:`..json_text` writes them. PostgreSQL's texts and JSONB have
no NUL character: such rows are refused. A number of JSONB has no -0.0: it becomes 0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar
from urllib.parse import quote, unquote, urlencode

from adbc_driver_postgresql import dbapi

from ....schemas.forms.ddl import quoted
from ..destination import Commit
from ..errors import DestinationError, Taken
from ..statements import POSTGRESQL, TOKENS, create_tokens
from ..tables import Held, Load, Refused, TableDestination, held_by, naming, parse_options
from .rows import Rows
from .session import Session, connected, refuses_rows
from .table import LoadedTable, exists, lock, qualified

_OWN = (
    "channel_binding", "connect_timeout", "password_file", "service", "sslcert", "sslkey",
    "sslmode", "sslrootcert", "target_session_attrs",
)  # fmt: skip
"""Options of the URI that are libpq's, and ``password_file``."""
_PATHS = ("password_file", "sslcert", "sslkey", "sslrootcert")
_DEFAULTS = {
    "application_name": "millstream",
    "connect_timeout": "10",
    # A server that is gone is noticed within two minutes, not two hours.
    "keepalives_idle": "60",
    "keepalives_interval": "10",
    "keepalives_count": "6",
}
_SETTINGS = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET CONSTRAINTS ALL IMMEDIATE",  # so that a row is refused before the commit
    "SET LOCAL work_mem = '64MB'",
    "SET LOCAL jit = off",
)
_PATIENCE = "10s"
"""How long :meth:`PostgresqlDestination.examine` waits for a lock."""


@dataclass(frozen=True)
class PostgresqlDestination(TableDestination):
    """A table of the database ``database`` of ``server``, both as the URI has them."""

    server: str = ""
    database: str = ""

    refuses: ClassVar[bool] = True
    replaces_spans: ClassVar[bool] = True

    @property
    def service(self) -> str:
        return f"postgresql://{self.server.rpartition('@')[2]}"

    def load(self, commit: Commit, loads: Sequence[Load]) -> None:
        with self.connected() as db:
            try:
                return self._commit(db, commit, loads, careful=False)
            except dbapi.Error as error:
                if not refuses_rows(error):
                    raise
            # The driver can do no more in a transaction that has failed: all is done again.
            db.rollback()
            self._commit(db, commit, loads, careful=True)

    def held(self, run_id: str) -> Held | None:
        with self.connected() as db:
            tokens = qualified(self._schema(db), TOKENS)
            if not exists(db, tokens):
                return None
            query = f"SELECT held FROM {tokens} WHERE table_name = $1 AND run_id = $2"
            found = db.run(query, self._table, run_id)
            return Held.from_json(found[0][0]) if found else None

    def examine(self, load: Load) -> None:
        """All that a commit does, without rows, rolled back."""
        with self.connected() as db:
            self._begin(db)
            db.run(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
            schema = self._schema(db)
            tokens = qualified(schema, TOKENS)
            self._take(db, tokens, "")
            table = LoadedTable(db, schema, load, self.place)
            table.make()
            Rows(table).put()
            self._hold(db, tokens, "", "")
            db.rollback()

    def old_tokens(self, before: float) -> list[str]:
        query = "SELECT run_id FROM {} WHERE table_name = $1 AND committed_at < to_timestamp($2)"
        with self.connected() as db:
            tokens = qualified(self._schema(db), TOKENS)
            if not exists(db, tokens):
                return []
            found = db.run(f"{query.format(tokens)} ORDER BY run_id", self._table, before)
            return [run_id for (run_id,) in found]

    def forget(self, before: float, keep: Sequence[str]) -> int:
        statement = (
            "DELETE FROM {} WHERE table_name = $1 AND committed_at < to_timestamp($2) "
            "AND NOT run_id = ANY ($3) RETURNING 1"
        )
        with self.connected() as db:
            tokens = qualified(self._schema(db), TOKENS)
            if not exists(db, tokens):
                return 0
            gone = db.run(statement.format(tokens), self._table, before, list(keep))
            db.commit()
            return len(gone)

    def expire(self, table: str, column: str, before: float, *, dry_run: bool = False) -> int:
        with self.connected() as db:
            name = qualified(self._schema(db), table.rpartition(".")[2])
            if not exists(db, name):
                return 0
            old = f"FROM {name} WHERE {quoted(column)} < to_timestamp($1)"
            if dry_run:
                return db.one(f"SELECT count(*) {old}", before)
            rows = db.one(
                f"WITH gone AS (DELETE {old} RETURNING 1) SELECT count(*) FROM gone", before
            )
            db.commit()
            return rows

    def _commit(self, db: Session, commit: Commit, loads: Sequence[Load], *, careful: bool) -> None:
        self._begin(db)
        schema = self._schema(db)
        tokens = qualified(schema, TOKENS)
        self._take(db, tokens, commit.token.run_id)
        refused = Refused("", 0)
        for load in loads:
            table = LoadedTable(db, schema, load, self.place)
            if load.mode != "append" or load.replaces:
                table.lock()
            table.make()
            if careful:
                found = Rows(table).put_carefully(commit)
                refused = found if load.part == "data" else refused
            else:
                Rows(table).put()
        held = held_by(commit, loads, refused)
        self._hold(db, tokens, commit.token.run_id, held.to_json())
        db.commit()

    def _begin(self, db: Session) -> None:
        for setting in _SETTINGS:
            db.run(setting)

    def _take(self, db: Session, tokens: str, run_id: str) -> None:
        """Take the run id's row, waiting for whoever is about to take it too.

        Raises:
            Taken: it is held.
        """
        if not exists(db, tokens):
            lock(db, tokens)  # two that make one table at the same time fail
            db.run(create_tokens(tokens, POSTGRESQL))
        taken = db.run(
            f"INSERT INTO {tokens} (table_name, run_id, held) VALUES ($1, $2, '') "
            "ON CONFLICT DO NOTHING RETURNING 1",
            self._table, run_id,
        )  # fmt: skip
        if not taken:
            raise Taken

    def _hold(self, db: Session, tokens: str, run_id: str, held: str) -> None:
        """Write what is held into the row that was taken."""
        update = f"UPDATE {tokens} SET held = $1 WHERE table_name = $2 AND run_id = $3"
        db.run(update, held, self._table, run_id)

    @property
    def _table(self) -> str:
        """The table's name, without its schema."""
        return self.target.rpartition(".")[2]

    def _schema(self, db: Session) -> str:
        """The schema that the table is in, or would be made in.

        Raises:
            DestinationError: there is none.
        """
        said, _, name = self.target.rpartition(".")
        if said:
            if db.run("SELECT 1 FROM pg_namespace WHERE nspname = $1", said):
                return said
            raise DestinationError(f"{self.place}: there is no schema {said}; make it first")
        found = db.one(
            "SELECT coalesce((SELECT nspname::text FROM pg_class c JOIN pg_namespace n "
            "ON n.oid = relnamespace WHERE c.oid = to_regclass($1)), current_schema()::text)",
            quoted(name),
        )
        if found is None:
            raise DestinationError(f"{self.place}: no schema of the search_path exists; name one")
        return found

    @contextmanager
    def connected(self) -> Iterator[Session]:
        """A connection; what goes wrong with it is said in our words."""
        settings = {**_DEFAULTS, **self.options.own}
        if path := settings.pop("password_file", None):
            settings["password"] = _password(path)
        query = urlencode(settings, quote_via=quote)
        with connected(f"postgresql://{self.server}/{self.database}?{query}", self.place) as db:
            yield db


_SHAPE = (
    "postgresql: write postgresql://[USER@]HOST[:PORT]/DATABASE/[SCHEMA.]TABLE, without a "
    "password: that is read from PGPASSWORD, ~/.pgpass, or the file that password_file=PATH names"
)
_USER = r"(?:[^:@/?#\[\]]+@)?"
_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[^:@/?#\[\],]*)(?::\d+)?"
_SERVER = re.compile(rf"{_USER}{_HOST}(?:,{_HOST})*")


def open_destination(scheme: str, rest: str, name: str, state: str = "") -> PostgresqlDestination:
    """The destination of ``postgresql://[USER@]HOST[:PORT]/DATABASE/[SCHEMA.]TABLE?mode=…``.

    Raises:
        DestinationError: the URI has another shape, or a password, or an option cannot be used.
    """
    said, _, query = rest.partition("?")
    slashes, _, path = said.partition("//")
    server, *parts = path.split("/")
    # Nothing of a URI that is not understood is repeated: it may be a part of a password.
    if slashes or len(parts) != 2 or not all(parts) or not _SERVER.fullmatch(server):
        raise DestinationError(_SHAPE)
    if any(character in part for part in parts for character in "@#:"):
        raise DestinationError(_SHAPE)
    target = unquote(parts[1])
    if target.count(".") > 1 or not all(target.split(".")) or "\0" in unquote(path):
        raise DestinationError(_SHAPE)
    with naming(scheme):
        options = parse_options(query, PostgresqlDestination.modes, _OWN)
    own = {
        key: os.path.abspath(value) if key in _PATHS else value
        for key, value in options.own.items()
    }
    options = replace(options, own=own)
    place = f"{scheme}://{server}/{parts[0]}/{target}"
    base = f"{scheme}:{said}"
    uri = options.at(base)
    return PostgresqlDestination(uri, name, place, target, options, state, server, parts[0])


def _password(path: str) -> str:
    """What a file holds, without its line end.

    Raises:
        DestinationError: it cannot be read, or holds no password.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = file.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DestinationError(f"password_file={path}: cannot be read: {error}") from error
    if not found or "\0" in found or "\n" in found:
        raise DestinationError(f"password_file={path}: expected one line, the password")
    return found
