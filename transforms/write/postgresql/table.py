"""Tables of PostgreSQL: made, given the columns that they lack, or refused with the difference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ....schemas.forms.ddl import quoted
from ..errors import DestinationError
from ..evolution import Column, TableMismatch, additions
from ..statements import (
    POSTGRESQL,
    TOMBSTONES_SUFFIX,
    add_column,
    create_table,
    create_tombstones,
)
from ..tables import Load
from .session import Session

LONGEST_NAME = 63
"""Bytes of a name; PostgreSQL cuts longer ones, so that two can become one."""
_FILLED = 80
"""Per cent of a page that rows fill at first in a table that is upserted to: a new version of a row
that finds room beside the old one needs no new entries in indexes.
https://www.postgresql.org/docs/current/storage-hot.html"""
_OLDEST = 150000
"""The first version that has ``MERGE``."""


@dataclass(frozen=True)
class LoadedTable:
    """The table of a load, seen from within a transaction of ``db``."""

    db: Session
    schema: str
    load: Load
    place: str

    @property
    def name(self) -> str:
        """The table's name, without its schema."""
        return self.load.name.rpartition(".")[2]

    @property
    def quoted(self) -> str:
        """The table's name in SQL."""
        return qualified(self.schema, self.name)

    @property
    def tombstones(self) -> str:
        """The name in SQL of the table of deleted keys."""
        return qualified(self.schema, f"{self.name}{TOMBSTONES_SUFFIX}")

    def lock(self) -> None:
        """Wait for others who change the table, or rows of it, and keep them out until the
        transaction ends."""
        lock(self.db, self.quoted)

    def make(self) -> None:
        """Make the table, or give it the columns that it lacks.

        Raises:
            TableMismatch: it cannot take the rows.
            DestinationError: nor can the database.
        """
        self._check()
        missing = self._missing()
        if missing or missing is None:
            self.lock()
            self._change(self._missing())  # another may have done it meanwhile
        if self.load.deleted:
            self._make_tombstones()

    def is_native(self) -> bool:
        """Whether rows can be copied into the table itself: its columns are of the very types that
        a new table's would be, and no policy judges the rows, which COPY cannot do."""
        types = self.types()
        same = all(types[column.name] == column.type for column in self._wanted)
        return same and not self.db.one("SELECT row_security_active($1::text)", self.quoted)

    def types(self) -> dict[str, str]:
        """The types of its columns; of those that are written, it is PostgreSQL's own types."""
        return {column.name: column.type for column in self._held() or ()}

    def collations(self) -> dict[str, str]:
        """What follows the type of a text in another table, so that it is compared as the table's
        column of that name is."""
        found = self.db.run(
            "SELECT attname::text, format(' COLLATE %I.%I', nspname, collname) FROM pg_attribute "
            "JOIN pg_collation c ON c.oid = attcollation JOIN pg_namespace n "
            "ON n.oid = collnamespace WHERE attrelid = to_regclass($1) AND attnum > 0 "
            "AND NOT attisdropped",
            self.quoted,
        )
        return dict(found)  # type: ignore[arg-type]

    def _check(self) -> None:
        names = [self.name, *self.load.schema.names]
        names += [f"{self.name}{TOMBSTONES_SUFFIX}"] if self.load.deleted else []
        for name in names:
            if len(name.encode()) > LONGEST_NAME:
                raise DestinationError(
                    f"{self.place}: the name {name} is longer than {LONGEST_NAME} bytes"
                )
        version, encoding = self.db.run(
            "SELECT current_setting('server_version_num')::int, getdatabaseencoding()::text"
        )[0]
        if encoding != "UTF8":
            raise DestinationError(
                f"{self.place}: the database keeps text as {encoding}, not as UTF8: not every text "
                "can be held"
            )
        if self.load.mode == "upsert" and version < _OLDEST:
            raise DestinationError(f"{self.place}: mode=upsert needs PostgreSQL 15 or later")

    @cached_property
    def _wanted(self) -> list[Column]:
        return [
            Column(field.name, _canonical(POSTGRESQL.type(field)), field.required)
            for field in self.load.table.fields
        ]

    def _missing(self) -> list[Column] | None:
        """The columns that the table lacks; ``None`` if there is no table."""
        held = self._held()
        if held is None:
            return None
        missing = additions(self.load.name, self._wanted, held, _fits)
        if self.load.mode == "upsert" and not self._is_unique():
            key = ", ".join(map(quoted, self.load.key))
            raise TableMismatch(
                f"table {self.load.name} has no unique index of its key, which mode=upsert needs; "
                f"make one: CREATE UNIQUE INDEX ON {self.quoted} ({key})"
            )
        return missing

    def _held(self) -> list[Column] | None:
        kind = self.db.run("SELECT relkind FROM pg_class WHERE oid = to_regclass($1)", self.quoted)
        if not kind:
            return None
        if kind[0][0] not in ("r", "p", "f"):
            raise TableMismatch(f"{self.place}: {self.quoted} is no table, but a view or the like")
        found = self.db.run(
            "SELECT attname::text, format_type(atttypid, atttypmod) || CASE "
            "WHEN attgenerated <> '' THEN ' GENERATED' "
            "WHEN attidentity = 'a' THEN ' GENERATED AS IDENTITY' ELSE '' END, "
            "attnotnull AND NOT atthasdef AND attidentity = '' FROM pg_attribute "
            "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            self.quoted,
        )
        return [Column(*column) for column in found]

    def _is_unique(self) -> bool:
        """Whether a unique index sees to it that no two rows have one key."""
        indexes = self.db.run(
            "SELECT array(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid "
            "AND attnum = ANY ((indkey::int2[])[0:indnkeyatts - 1])) FROM pg_index "
            "WHERE indrelid = to_regclass($1) AND indisunique AND indisvalid AND indimmediate "
            "AND indpred IS NULL AND indexprs IS NULL",
            self.quoted,
        )
        return any(set(names) == set(self.load.key) for (names,) in indexes)

    def _change(self, missing: Sequence[Column] | None) -> None:
        if missing is None:
            room = f" WITH (fillfactor = {_FILLED})" if self.load.key else ""
            self.db.run(create_table(self.quoted, self.load.table.fields, POSTGRESQL) + room)
            if self.load.key:
                # By bytes: it is fast, and no new version of a language's rules breaks the index.
                self._index(self.quoted, dict.fromkeys(self.load.key, ' COLLATE "C"'))
            return
        for column in missing:
            self.db.run(add_column(self.quoted, column.name, column.type))

    def _make_tombstones(self) -> None:
        if exists(self.db, self.tombstones):
            return
        self.lock()
        if not exists(self.db, self.tombstones):  # nor has another made it meanwhile
            self.db.run(create_tombstones(self.tombstones, self.load, POSTGRESQL))
            self._index(self.tombstones, self.collations())

    def _index(self, table: str, collations: Mapping[str, str]) -> None:
        """Give a new table of an upsert a unique index of the key."""
        fields = [self.load.table.field(name) for name in self.load.key]
        for field in fields:
            if field.type == "string":
                column = f"{quoted(field.name)} TYPE TEXT{collations.get(field.name, '')}"
                self.db.run(f"ALTER TABLE {table} ALTER {column}")
        names = ", ".join(map(quoted, self.load.key))
        if all(field.required for field in fields):
            self.db.run(f"ALTER TABLE {table} ADD PRIMARY KEY ({names})")
        else:  # which takes rows whose key has a null
            self.db.run(f"CREATE UNIQUE INDEX ON {table} ({names})")


def lock(db: Session, name: str) -> None:
    """Take a lock of that name until the transaction ends, waiting for whoever holds it."""
    db.run("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"millstream {name}")


def exists(db: Session, table: str) -> bool:
    """Whether there is a table, or the like, of that name; it is quoted."""
    return db.one("SELECT to_regclass($1) IS NOT NULL", table)


def qualified(schema: str, name: str) -> str:
    """A table's name with its schema, quoted."""
    return f"{quoted(schema)}.{quoted(name)}"


_SPELLED = {"TIMESTAMPTZ": "timestamp with time zone", "TIME": "time without time zone"}
_WIDER = {
    "smallint": {"integer", "bigint", "numeric"},
    "integer": {"bigint", "numeric"},
    "bigint": {"numeric"},
    "real": {"double precision"},
    "text": {"character varying"},
    "jsonb": {"json", "text", "character varying"},
}
"""Type → others that hold all of its values."""
_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")


def _canonical(type: str) -> str:
    """The type as PostgreSQL itself writes it."""
    return _SPELLED.get(type, type.lower())


def _fits(wanted: str, held: str) -> bool:
    if wanted == held or held in _WIDER.get(wanted, ()):
        return True
    ours, theirs = _NUMERIC.fullmatch(wanted), _NUMERIC.fullmatch(held)
    if ours and held == "numeric":
        return True
    if theirs is None or not (ours or wanted in _DIGITS):
        return False
    digits, scale = map(int, ours.groups()) if ours else (_DIGITS[wanted], 0)
    more_digits, more_scale = map(int, theirs.groups())
    return more_scale >= scale and more_digits - more_scale >= digits - scale
