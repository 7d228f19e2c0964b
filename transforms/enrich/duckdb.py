"""References in tables and views of DuckDB files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from ...schemas.contract import Field
from ...schemas.forms.ddl import quoted
from .. import storage
from ..write.duckdb.table import qualified
from .sources import SourceError, Unavailable, chosen, fields_of
from .spec import ReferenceSpec

_BATCH_ROWS = 1 << 16


class DuckDbSource:
    """The table ``target`` of ``file``."""

    def __init__(self, spec: ReferenceSpec, file: str, target: str) -> None:
        self._spec = spec
        self._file = file
        self._target = target

    def fields(self, expected: Mapping[str, Field]) -> tuple[Field, ...]:
        with self._connected() as db:
            found = db.sql(f"FROM {qualified(self._target)} LIMIT 0").to_arrow_table().schema
            return fields_of(chosen(found, self._spec), self._spec)

    def batches(self) -> Iterator[pa.RecordBatch]:
        columns = ", ".join(map(quoted, self._spec.columns))
        with self._connected() as db:
            query = db.sql(f"SELECT {columns} FROM {qualified(self._target)}")
            yield from query.to_arrow_reader(_BATCH_ROWS)

    def version(self) -> str:
        return ""

    @contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        if not os.path.exists(self._file):
            raise SourceError(f"{self._spec.place}: there is no file {self._file}")
        try:
            with self._connect() as db:
                db.execute("SET TimeZone = 'UTC'")
                db.execute("SET python_enable_replacements = false")
                yield db
        except duckdb.Error as error:
            said = str(error).split("\n", 1)[0]  # which holds no more than names
            if "Could not set lock" in said or "Conflicting lock" in said:
                raise Unavailable(
                    f"{self._spec.place}: another process has the file open"
                ) from error
            raise SourceError(f"{self._spec.place}: {said}") from error

    def _connect(self) -> duckdb.DuckDBPyConnection:
        try:
            return duckdb.connect(self._file, read_only=True)
        except duckdb.ConnectionException:
            # This process has it open already, to write: one that writes shares what is open.
            return duckdb.connect(self._file)


def open_source(spec: ReferenceSpec) -> DuckDbSource:
    """The source of ``duckdb:FILE/[SCHEMA.]TABLE``.

    Raises:
        SourceError: no file or no table is named.
    """
    file, slash, target = spec.uri.partition(":")[2].rpartition("/")
    if not slash or not file or not target or "?" in target:
        raise SourceError(f"from: {spec.place}: write duckdb:FILE/[SCHEMA.]TABLE")
    return DuckDbSource(spec, storage.absolute(file), target)
