"""``sql`` checks: queries over all records of a run, by DuckDB, over Parquet files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...schemas.arrow import record_schema
from ...schemas.contract import Contract
from ...schemas.quality.checks import Check, Value
from ...schemas.sql.tree import quoted
from .. import storage

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GB"
"""What DuckDB may take before it writes to a temporary folder."""


def answers(
    checks: Mapping[int, Check], files: Sequence[str], contract: Contract, rows: int
) -> dict[int, Value]:
    """What each query gives, by the check's number.

    Queries see one table of the contract's name, reach no other file and no network, and may use
    memory up to :data:`MEMORY`, then a temporary folder. One that fails, or gives no single value,
    is no reason for others to fail.

    Args:
        files: Parquet files, which hold all records; others than local ones are brought here.
        rows: records in all.
    """
    if not checks:
        return {}
    with _local(files) as paths, _database(paths, contract) as connection:
        return {number: _ask(connection, check, rows) for number, check in checks.items()}


def _ask(connection: duckdb.DuckDBPyConnection, check: Check, rows: int) -> Value:
    import duckdb

    try:
        found = connection.execute(check.text).fetchmany(2)
    except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
        said = str(error).partition("\n")[0]
        return Value(None, rows, f"the query fails: {said}")
    except duckdb.Error as error:  # whose text may hold values of records
        return Value(None, rows, f"the query fails: {type(error).__name__}")
    if len(found) != 1 or len(found[0]) != 1:
        return Value(None, rows, "the query gives no single value")
    [[value]] = found
    return Value(value, rows, "" if value is not None else "the query gives null")


@contextmanager
def _local(files: Sequence[str]) -> Iterator[list[str]]:
    """The files, those of a store as copies."""
    folder = tempfile.mkdtemp(prefix="millstream-quality-")
    try:
        paths = []
        for i, path in enumerate(files):
            if storage.is_remote(path):
                copy = os.path.join(folder, f"{i}.parquet")
                with storage.open_read(path) as source, open(copy, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                path = copy
            paths.append(os.path.abspath(path))
        yield paths
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _database(files: Sequence[str], contract: Contract) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database that has the records as a view, and reaches nothing but their files."""
    import duckdb

    columns = record_schema(contract)
    config: dict[str, Any] = {"python_enable_replacements": False}
    with tempfile.TemporaryDirectory(prefix="millstream-quality-") as spill:
        connection = duckdb.connect(":memory:", config=config)
        try:
            for name, value in _settings(spill).items():
                connection.execute(f"SET {name} = {value}")
            connection.execute(f"SET allowed_paths = {_list(files)}")
            connection.execute("SET enable_external_access = false")
            names = ", ".join(map(quoted, columns.names))
            if files:
                source = f"read_parquet({_list(files)}, union_by_name := true)"
            else:
                connection.register("nothing", pa.table(columns.empty_table()))
                source = "nothing"
            view = f"CREATE VIEW {quoted(contract.name)} AS SELECT {names} FROM {source}"
            connection.execute(view)
            connection.execute("SET lock_configuration = true")
            yield connection
        finally:
            connection.close()


def _settings(spill: str) -> dict[str, str]:
    return {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "TimeZone": "'UTC'",
        "memory_limit": f"'{MEMORY}'",
        "temp_directory": _text(spill),
        "threads": str(min(4, os.cpu_count() or 1)),
    }


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"
