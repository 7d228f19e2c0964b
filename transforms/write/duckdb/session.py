"""A connection to a DuckDB file, rows that stream into it, and errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import duckdb
import pyarrow as pa

from ..errors import DestinationError, Unavailable
from ..tables import Load

STREAM = "_millstream_stream"
"""What the rows of a load are called in SQL while they stream."""


@contextmanager
def connected(file: str, place: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection; what goes wrong with it is said in our words.

    Args:
        place: what messages begin with.

    Raises:
        Unavailable: another process has the file open, or is about to commit the same.
        DestinationError: DuckDB refuses what is done.
    """
    try:
        with duckdb.connect(file) as db:
            # Rows of a table have no order: keeping one costs memory.
            db.execute("SET preserve_insertion_order = false")
            # Else a table that is not there is looked for among Python's names.
            db.execute("SET python_enable_replacements = false")
            yield db
    except duckdb.Error as error:
        raise _explained(error, place) from error


@contextmanager
def streamed(
    db: duckdb.DuckDBPyConnection, load: Load, *, numbered: bool = False
) -> Iterator[None]:
    """The load's rows as a table that can be read once."""
    stream = _Stream(load, numbered)
    db.register(STREAM, stream.reader)
    try:
        yield
    except duckdb.Error:
        if stream.error:
            raise stream.error from None  # DuckDB's own would be about its text
        raise
    finally:
        # In a transaction that has failed nothing can be done but to end it.
        with suppress(duckdb.TransactionException):
            db.unregister(STREAM)


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
