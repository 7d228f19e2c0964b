"""A connection to PostgreSQL: statements, COPY of Arrow batches, and errors in our words.

No message has a row's values: fields may be restricted. PostgreSQL's own tell a row's values in
their detail, and some in their first line, so that rows are spoken of by SQLSTATE and constraint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from adbc_driver_postgresql import dbapi

from ..errors import DestinationError, Unavailable

ROW_STATES = ("22", "23", "54000", "P0")
"""What the SQLSTATE of an error begins with that single rows cause: data, constraints, values that
are too large (as for an index), and what triggers raise."""
ROW_PATTERNS = ", ".join(f"'{state}%'" for state in ROW_STATES)
"""The same as SQL: patterns of ``LIKE``."""


class Session:
    """One connection, in one transaction at a time."""

    def __init__(self, connection: dbapi.Connection) -> None:
        self._connection = connection

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement, with values for ``$1``, ``$2``, …; gives its rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, *values: Any) -> Any:
        """The first value of a statement's first row."""
        return self.run(statement, *values)[0][0]

    def read(self, statement: str) -> Iterator[pa.RecordBatch]:
        """The rows of a statement, a batch at a time.

        Raises:
            OSError: the server fails once rows flow; there is a text alone, which may have values.
        """
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            yield from cursor.fetch_record_batch()

    def copy(
        self, schema: str | None, table: str, columns: pa.Schema, batches: Iterable[pa.RecordBatch]
    ) -> None:
        """COPY batches into a table; without a schema, into a temporary one.

        Raises:
            Exception: what ``batches`` raises, as it was raised.
        """
        failures: list[BaseException] = []

        def watched() -> Iterator[pa.RecordBatch]:
            try:
                yield from batches
            except BaseException as error:
                failures.append(error)
                raise

        reader = pa.RecordBatchReader.from_batches(columns, watched())
        try:
            with self._connection.cursor() as cursor:
                cursor.adbc_ingest(
                    table, reader, mode="append", db_schema_name=schema, temporary=schema is None
                )
        except dbapi.Error:
            if failures:  # the driver has made a text of it
                raise failures[0] from None
            raise

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.rollback()


@contextmanager
def connected(address: str, place: str) -> Iterator[Session]:
    """A connection; what goes wrong with it is said in our words.

    Args:
        address: libpq's URI. It may hold a password.
        place: what messages call it.

    Raises:
        Unavailable: the server does not answer, or cannot serve just now.
        DestinationError: it answers, and refuses.
    """
    try:
        connection = dbapi.connect(address)
    except dbapi.Error as error:
        raise not_connected(str(error), place) from error
    with connection:
        try:
            yield Session(connection)
        except dbapi.Error as error:
            if refuses_rows(error):
                raise explained(error, place) from None  # its text has the row's values
            raise explained(error, place) from error


# ---------------------------------------------------------------------------------- errors

_FOR_EVER = (
    "Name or service not known", "nodename nor servname provided", "no password supplied",
    "but SSL was required", "certificate", "private key", "invalid ", "not found",
    "channel binding",
)  # fmt: skip
"""Words of libpq's own for what trying again does not mend."""
_NOT_NOW = (
    "starting up", "shutting down", "recovery mode", "not yet accepting", "not accepting commands",
    "too many", "connection slots",
)  # fmt: skip
"""Words of a server that answers, but takes no connection just now."""


def not_connected(said: str, place: str) -> Exception:
    """The error for what libpq says where there is no connection. It gives no SQLSTATE then."""
    text = " ".join(said.partition("Failed to connect: ")[2].split()).rpartition(" failed: ")[2]
    refused = "FATAL:" in text and not any(word in text for word in _NOT_NOW)
    if "password" in text:
        text += "; set PGPASSWORD, write it into ~/.pgpass, or say password_file=PATH"
    permanent = refused or any(word in text for word in _FOR_EVER)
    return (DestinationError if permanent else Unavailable)(f"{place}: {text}")


_TRANSIENT = ("08", "40", "53", "55P03", "57")
"""Connections, conflicts of transactions, resources, locks, shutting down."""
_ADVICE = {
    "42501": "grant it to this user, or let another make the table",
    "25006": "this server takes no writes: name the primary, or say target_session_attrs=primary",
    "53100": "make room on the server",
    "3F000": "make the schema first",
}
"""SQLSTATE → what to do about it."""


def refuses_rows(error: dbapi.Error) -> bool:
    """Whether the error is about rows, of which others may be good."""
    return (error.sqlstate or "").startswith(ROW_STATES)


def explained(error: dbapi.Error, place: str) -> Exception:
    """The error to raise in place of the driver's."""
    state, said = error.sqlstate or "", _details(error)
    if refuses_rows(error):
        return DestinationError(
            f"{place}: {refusal(state, said['CONSTRAINT_NAME'], said['COLUMN_NAME'])}"
        )
    if not state:
        if isinstance(error, dbapi.OperationalError):
            return Unavailable(f"{place}: the connection is lost")
        return DestinationError(f"{place}: the driver fails with {type(error).__name__}")
    text = f"{place}: {said['MESSAGE_PRIMARY']} (SQLSTATE {state})"
    if advice := _ADVICE.get(state):
        return DestinationError(f"{text}; {advice}")
    return (Unavailable if state.startswith(_TRANSIENT) else DestinationError)(text)


def _details(error: dbapi.Error) -> defaultdict[str, str]:
    """What PostgreSQL says of an error, by the names of libpq without ``PG_DIAG_``."""
    found = defaultdict(str)
    for pair in error.details or ():
        key, value = (
            part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part)
            for part in pair
        )
        found[key.removeprefix("PG_DIAG_")] = value
    return found


_REASONS = {
    "22001": "a text is longer than its column takes",
    "22003": "a number is out of its column's range",
    "22008": "a date or time is out of its column's range",
    "22021": "a text has a character that the database cannot hold",
    "22P02": "a value is not what its column's type takes",
    "22P05": "JSON has a character that JSONB cannot hold",
    "23001": "it is referred to by constraint {0}",
    "23502": "column {1} takes no null",
    "23503": "it breaks the foreign key {0}",
    "23505": "it breaks the unique constraint {0}",
    "23514": "it breaks the check constraint {0}",
    "23P01": "it breaks the exclusion constraint {0}",
    "54000": "a value is larger than PostgreSQL can hold or index",
    "P0001": "a trigger refuses it",
}
"""SQLSTATE → why a row is refused, with the names of constraint and column."""


def refusal(state: str, constraint: str, column: str) -> str:
    """Why a row is refused, without its values."""
    reason = _REASONS.get(state, "PostgreSQL does not take it").format(constraint, column)
    return f"the table refuses a row: {reason} (SQLSTATE {state})"


NUL_REASON = "the table refuses a row: a text in column {0} has a NUL character, which PostgreSQL \
cannot hold"


def literal(text: str) -> str:
    """A text as SQL, whatever the server takes a backslash for."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
