"""JSON lines that we have written, read by DuckDB where it is installed: several times as fast.

Only types whose texts DuckDB reads exactly as they were written are left to it. It reads a string
as a number where it is asked for one, and so it is for files of ours alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from ...schemas.forms.ddl import quoted
from .. import storage
from .json_values import instants

LEAST_BYTES = 8 << 20
"""Of a file that is worth the 25 ms that it takes to begin: streams write many that are small."""


def reads(path: str, wanted: pa.Schema) -> bool:
    """Whether :func:`batches` can read a file, and it pays."""
    if storage.is_remote(path) or any(c in path for c in "*?["):  # which would name several files
        return False
    if os.path.getsize(path) < LEAST_BYTES:
        return False
    return all(_sql(field.type) for field in wanted) and find_spec("duckdb") is not None


def batches(path: str, wanted: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
    """All rows of a file, in their order, so many at a time. A field that is not there is null.

    Raises:
        duckdb.Error: what a line holds is not of the types that are wanted, or it is longer than
            DuckDB takes.
    """
    import duckdb

    columns = {field.name: _sql(field.type) for field in wanted}
    said = ", ".join(f"{quoted(name)}: '{type}'" for name, type in columns.items())
    names = ", ".join(map(quoted, columns))
    query = (
        f"SELECT {names} FROM read_ndjson(?, columns = {{{said}}}, compression = 'none', "
        "hive_partitioning = false)"
    )
    with duckdb.connect(config={"python_enable_replacements": "false"}) as db:
        for batch in db.sql(query, params=[path]).to_arrow_reader(rows):
            arrays = [_cast(batch.column(f.name), f.type) for f in wanted]
            yield pa.RecordBatch.from_arrays(arrays, schema=wanted)


def _sql(type: Any) -> str:
    """The type that DuckDB reads it as; empty if it is not left to DuckDB."""
    if pt.is_dictionary(type):
        return _sql(type.value_type)
    if pt.is_list(type):
        item = _sql(type.value_type)
        return f"{item}[]" if item else ""
    if pt.is_struct(type):
        fields = [(field.name, _sql(field.type)) for field in type]
        if not all(sql for _, sql in fields):
            return ""
        return f"STRUCT({', '.join(f'{quoted(name)} {sql}' for name, sql in fields)})"
    if pt.is_int32(type) or pt.is_int64(type):
        return "BIGINT"
    return "VARCHAR" if pt.is_string(type) or pt.is_timestamp(type) else ""


def _cast(column: Any, type: Any) -> Any:
    return instants(column, type) if pt.is_timestamp(type) else column.cast(type)
