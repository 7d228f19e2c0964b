"""CREATE TABLE statements of a contract."""

from __future__ import annotations

from collections.abc import Callable

from ..contract import Contract, Field

DIALECTS = ("duckdb", "postgresql")

_INTEGERS = {
    "duckdb": {
        "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT",
        "uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT",
    },
    "postgresql": {
        "int8": "SMALLINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT",
        "uint8": "SMALLINT", "uint16": "INTEGER", "uint32": "BIGINT", "uint64": "NUMERIC(20,0)",
    },
}  # fmt: skip
"""PostgreSQL has no unsigned integers: the next wider type holds them."""
_FLOATS = {
    "duckdb": {"float32": "FLOAT", "float64": "DOUBLE"},
    "postgresql": {"float32": "REAL", "float64": "DOUBLE PRECISION"},
}
_SCALARS = {
    "duckdb": {
        "string": "VARCHAR", "boolean": "BOOLEAN", "date": "DATE", "time": "TIME",
        "timestamp": "TIMESTAMPTZ", "json": "JSON", "binary": "BLOB",
    },
    "postgresql": {
        "string": "TEXT", "boolean": "BOOLEAN", "date": "DATE", "time": "TIME",
        "timestamp": "TIMESTAMPTZ", "json": "JSONB", "binary": "BYTEA",
    },
}  # fmt: skip


def create_table(contract: Contract, dialect: str = "duckdb") -> str:
    """The statement that makes a table for the contract's records.

    Names are quoted. PostgreSQL keeps objects and arrays as JSONB.

    Raises:
        ValueError: no such dialect, or a decimal that DuckDB cannot hold.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"no SQL dialect {dialect!r}; there are {', '.join(DIALECTS)}")
    name = TYPES[dialect]
    lines = [
        f"  {quoted(f.name)} {name(f)}{' NOT NULL' if f.required else ''}" for f in contract.fields
    ]
    if contract.primary_key:
        lines.append(f"  PRIMARY KEY ({', '.join(map(quoted, contract.primary_key))})")
    return f"CREATE TABLE {quoted(contract.name)} (\n" + ",\n".join(lines) + "\n);"


def quoted(name: str) -> str:
    """A name as an SQL identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def _duckdb(field: Field) -> str:
    if field.type == "object":
        inner = ", ".join(f"{quoted(f.name)} {_duckdb(f)}" for f in field.fields)
        return f"STRUCT({inner})"
    if field.type == "array":
        assert field.items is not None
        return f"{_duckdb(field.items)}[]"
    if field.type == "decimal" and field.precision > 38:
        raise ValueError(f"{field.name}: DuckDB's decimals have at most 38 digits")
    return _scalar(field, "duckdb", "DECIMAL")


def _postgresql(field: Field) -> str:
    if field.type in ("object", "array"):
        return "JSONB"
    return _scalar(field, "postgresql", "NUMERIC")


def _scalar(field: Field, dialect: str, decimal: str) -> str:
    if field.type == "integer":
        return _INTEGERS[dialect][field.storage]
    if field.type == "number":
        return _FLOATS[dialect][field.storage]
    if field.type == "decimal":
        return f"{decimal}({field.precision},{field.scale})"
    return _SCALARS[dialect][field.type]


TYPES: dict[str, Callable[[Field], str]] = {"duckdb": _duckdb, "postgresql": _postgresql}
"""Dialect → the type of a field's column. DuckDB's raises ``ValueError`` for a decimal that it
cannot hold."""
