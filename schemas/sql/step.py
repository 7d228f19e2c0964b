"""SQL over records: one projection and filter, evaluated a batch at a time by DuckDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ..arrow import HIDDEN
from ..steps import Attempt, Failure, Part, attempt_of, in_pieces, one_array, plain_type
from .failures import FAILING, failure_query
from .refusals import parse_statement
from .tree import (
    TABLE,
    SqlError,
    Statement,
    column,
    duckdb_errors,
    folded,
    hide_column,
    is_fatal,
    quoted,
    sql_text,
)

if TYPE_CHECKING:
    import duckdb
    from duckdb.sqltypes import DuckDBPyType

__all__ = ["TABLE", "SqlError", "SqlStep", "expression_type"]


class SqlStep:
    """A statement such as ``SELECT *, amount * 0.9 AS net FROM records WHERE country <> 'XX'``.

    The statement sees the record's columns, not its identity, which travels along. Rows keep
    their order. Time stamps without a zone that it gives are taken as UTC, and types that outputs
    lack become what holds their values: ``HUGEINT`` a decimal of 38 digits; ``UUID``, ``ENUM``
    and ``JSON`` a string.

    Args:
        sql: one ``SELECT`` of expressions over single records, with or without ``WHERE``.
        schema: of the batches that will come, identity columns included.

    Raises:
        SqlError: the statement is refused, or DuckDB is not installed.
    """

    schema: pa.Schema
    """Of the batches that leave: the statement's columns, then the identity columns there are."""

    def __init__(self, sql: str, schema: pa.Schema) -> None:
        self._arguments = sql, schema
        self._connection = _connect()
        records = _record_columns(schema)
        self._columns = records.names
        self._statement = parse_statement(self._connection, sql, records.names)
        bound = _bind(self._connection, sql, records)
        _check_names(bound.columns, records.names)
        self._query = _numbered(self._connection, self._statement, bound, records)
        self._result = _plain_schema(self._execute(records.empty_table()).schema)
        self.schema = pa.schema([*self._result, *(f for f in schema if f.name in HIDDEN)])

    def __reduce__(self) -> tuple[Any, ...]:
        return SqlStep, self._arguments

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The records that the statement keeps, in their order.

        Raises:
            SqlError: a record fails; which one, DuckDB does not say.
            StepError: a result is a value that no field can be, such as NaN.
        """
        records, failures = attempt_of(batch, [self._part(batch, 0)], [], self.schema)
        if failures:
            raise failures[0].error
        return records

    def attempt(self, batch: pa.RecordBatch) -> Attempt:
        """The records that the statement keeps, and those that it fails on.

        The first failures of a batch are said in DuckDB's words, which takes a query each; of the
        others only the part of the statement that fails.
        """
        try:
            return attempt_of(batch, [self._part(batch, 0)], [], self.schema)
        except SqlError:
            pass
        found = list(self._found_at_once(batch))
        sound = np.delete(np.arange(batch.num_rows), [row for row, _ in found])
        left = batch.take(pa.array(sound))
        parts, others = in_pieces(len(sound), lambda i, size: self._part(left.slice(i, size), i))
        return attempt_of(
            batch,
            [part._replace(rows=sound[part.rows]) for part in parts],
            [*found, *(Failure(int(sound[i]), error) for i, error in others)],
            self.schema,
        )

    def _part(self, batch: pa.RecordBatch, first: int) -> Part:
        """What the statement makes of a batch whose first row is numbered so."""
        table = self._execute(pa.table(batch.select(self._columns)))
        if not _is_increasing(table.column(_ROW)):
            table = table.sort_by(_ROW)
        rows = one_array(table.column(_ROW)).to_numpy() + first
        columns = table.drop_columns(_ROW).cast(self._result).columns
        arrays = list(map(one_array, columns))
        return Part(pa.RecordBatch.from_arrays(arrays, schema=self._result), rows)

    def _found_at_once(self, batch: pa.RecordBatch) -> Iterator[Failure]:
        """The failures that one query can find."""
        try:
            query = failure_query(self._connection, self._statement, _ROW)
            found = self._execute(pa.table(batch.select(self._columns)), query)
        except SqlError:  # there is no such query: all are found one by one
            return
        found = found.filter(found.column(FAILING).is_valid()).sort_by(_ROW)
        rows, parts = found.column(_ROW).to_pylist(), found.column(FAILING).to_pylist()
        for count, (row, part) in enumerate(zip(rows, parts, strict=True)):
            error = SqlError(f"{part} fails on this record, as on others of its batch")
            if count < _SAID:
                error = self._error_of(batch.slice(row, 1))
            if error:
                yield Failure(row, error)

    def _error_of(self, record: pa.RecordBatch) -> SqlError | None:
        try:
            self._part(record, 0)
        except SqlError as error:
            return error
        return None

    def _execute(self, records: pa.Table, query: str | None = None) -> pa.Table:
        numbered = records.append_column(_ROW, pa.array(np.arange(len(records))))
        try:
            with duckdb_errors():
                self._connection.register(TABLE, numbered)
                return self._connection.sql(query or self._query).to_arrow_table()
        except SqlError as error:
            if is_fatal(error):  # the database answers no query after that
                self._connection = _connect()
            raise


_SAID = 32  # failures of a batch that are said in full


def expression_type(text: str, schema: pa.Schema) -> pa.DataType:
    """The Arrow type of one scalar expression over the record columns of a schema.

    Raises:
        SqlError: it is no expression, or one that is refused.
    """
    if not text.strip():
        raise SqlError("expected an expression, got none")
    connection = _connect()
    records = _record_columns(schema)
    sql = f"SELECT (\n{text}\n) AS value FROM {TABLE}"
    statement = parse_statement(connection, sql, records.names)
    if len(statement.select["select_list"]) != 1 or statement.select["where_clause"]:
        raise SqlError(f"expected one expression, got {text!r}")
    bound = _bind(connection, sql, records)
    if len(bound.columns) != 1:
        raise SqlError(f"expected one value, got {len(bound.columns)}: {text!r}")
    cast = _cast("value", bound.types[0], "value")
    with duckdb_errors():
        found = connection.sql(f"SELECT {cast} FROM ({sql})").to_arrow_table()
    return plain_type(found.schema[0].type, text)


_ROW = "_row"  # a record's number in its batch, on its way through the query
_SETTINGS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "TimeZone": "'UTC'",
    "memory_limit": "'1GB'",
    "temp_directory": "''",
    "enable_external_access": "false",
    "lock_configuration": "true",
}


def _connect() -> duckdb.DuckDBPyConnection:
    """A database in memory that reaches nothing outside of itself."""
    try:
        import duckdb
    except ImportError as exc:
        hint = "install it with: pip install 'millstream[sql]'"
        raise SqlError(f"SQL steps need duckdb; {hint}") from exc
    connection = duckdb.connect(
        ":memory:", config={"threads": 1, "python_enable_replacements": False}
    )
    for name, value in _SETTINGS.items():
        connection.execute(f"SET {name} = {value}").fetchall()
    return connection


def _record_columns(schema: pa.Schema) -> pa.Schema:
    """The columns that a statement sees.

    Raises:
        SqlError: DuckDB cannot hold one of them.
    """
    columns = pa.schema([f for f in schema if f.name not in HIDDEN])
    if _ROW in columns.names:
        raise SqlError(f"the column name {_ROW} is reserved")
    _check_columns(columns, "")
    return columns


def _check_columns(fields: Sequence[pa.Field], prefix: str) -> None:
    seen: dict[str, str] = {}
    for field in fields:
        path = prefix + field.name
        if other := seen.get(folded(field.name)):
            raise SqlError(f"SQL cannot tell the fields {other} and {path} apart: case is ignored")
        seen[folded(field.name)] = path
        if pt.is_decimal256(field.type):
            digits = field.type.precision
            raise SqlError(f"{path} has {digits} digits, and SQL steps hold at most 38")
        if pt.is_struct(field.type):
            _check_columns(field.type.fields, f"{path}.")
        elif pt.is_list(field.type):
            _check_columns([field.type.value_field.with_name("[]")], path)


def _bind(
    connection: duckdb.DuckDBPyConnection, sql: str, columns: pa.Schema
) -> duckdb.DuckDBPyRelation:
    """What a statement gives; names and types are as it is written, so messages are as well."""
    connection.register(TABLE, columns.empty_table())
    with duckdb_errors():
        return connection.sql(sql)


def _check_names(names: Sequence[str], columns: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if folded(name) in seen:
            hint = "leave one out, as in * EXCLUDE (a), * REPLACE (… AS a)"
            raise SqlError(f"two columns are named {name}; {hint}")
        seen.add(folded(name))
        if name.startswith("_") and name not in columns:
            raise SqlError(f"the name {name} is reserved: it begins with _")


def _numbered(
    connection: duckdb.DuckDBPyConnection,
    statement: Statement,
    bound: duckdb.DuckDBPyRelation,
    records: pa.Schema,
) -> str:
    """The statement with the number of each record as its last column, and with plain types."""
    numbered = statement.copy()
    hide_column(numbered.select, _ROW)
    numbered.select["select_list"].append(column(_ROW))
    sql = sql_text(connection, numbered.tree)
    # what has been written anew is judged anew: nothing may hide between two readings
    parse_statement(connection, sql, [*records.names, _ROW])
    columns = [f"c{i}" for i in range(len(bound.columns))]
    casts = [
        f"{_cast(value, type, name)} AS {quoted(name)}"
        for value, name, type in zip(columns, bound.columns, bound.types, strict=True)
    ]
    return f"SELECT {', '.join([*casts, _ROW])} FROM ({sql}) AS t({', '.join([*columns, _ROW])})"


def _cast(value: str, type: DuckDBPyType, name: str) -> str:
    """A value as one of a type that fields of a contract have."""
    plain = _plain(type, name)
    return value if plain == str(type) else f"CAST({value} AS {plain})"


_SAME = {
    "boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger",
    "ubigint", "float", "double", "decimal", "date",
}  # fmt: skip
_PLAIN = {
    "varchar": "VARCHAR",  # JSON too
    "uuid": "VARCHAR",
    "enum": "VARCHAR",
    "hugeint": "DECIMAL(38,0)",
    "uhugeint": "DECIMAL(38,0)",
    "time": "TIME",
    "time_ns": "TIME",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "timestamp_s": "TIMESTAMP WITH TIME ZONE",
    "timestamp_ms": "TIMESTAMP WITH TIME ZONE",
    "timestamp_ns": "TIMESTAMP WITH TIME ZONE",
    "timestamp with time zone": "TIMESTAMP WITH TIME ZONE",
}
_HINTS = {
    "null": "; write NULL::VARCHAR, or another type",
    "blob": "; write base64(…)",
    "interval": "; write epoch(…), or datediff between the two times",
    "time with time zone": "; write …::TIME",
    "map": "; write map_entries(…)",
    "tuple": "; name its parts, as in {'a': 1}",
}


def _plain(type: DuckDBPyType, name: str) -> str:
    """The DuckDB type of a contract's field that holds the values of ``type``.

    Raises:
        SqlError: there is none.
    """
    kind = type.id
    if kind in _SAME:
        return str(type)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind in ("list", "array", "struct"):
        children: list[tuple[str, Any]] = type.children
        if kind != "struct":
            return _plain(dict(children)["child"], f"{name}[]") + "[]"
        fields = [f"{quoted(n)} {_plain(t, f'{name}.{n}')}" for n, t in children]
        return f"STRUCT({', '.join(fields)})"
    said = str(type).strip('"')
    raise SqlError(f"{name} is of the type {said}, which no field has{_HINTS.get(kind, '')}")


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a result, without the number of the record."""
    return pa.schema([pa.field(f.name, plain_type(f.type, f.name)) for f in schema][:-1])


def _is_increasing(rows: pa.ChunkedArray) -> bool:
    numbers = rows.to_numpy()
    return bool((numbers[1:] > numbers[:-1]).all())
