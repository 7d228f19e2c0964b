"""Rows that a Delta table refuses: those that break a constraint, and those it would change.

Constraints are SQL of whoever wrote the table. They are judged by deltalake's own engine, over a
scratch table of the load in a temporary folder, which takes the size of the load.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DestinationError
from ..partitions import NULL
from ..tables import ROW, Load
from . import types

_CONSTRAINT = "delta.constraints."
_PLAIN = deltalake.WriterProperties(compression="UNCOMPRESSED")
_REWRITTEN = {
    "appendOnly", "invariants", "checkConstraints", "changeDataFeed", "timestampNtz",
    "v2Checkpoint", "vacuumProtocolCheck", "domainMetadata",
}  # fmt: skip
"""Features of tables whose files can be written anew by who knows nothing more of them."""


def constraints(table: deltalake.DeltaTable) -> dict[str, str]:
    """The table's constraints: name → SQL that has to be true of every row."""
    said = {
        key.removeprefix(_CONSTRAINT): sql
        for key, sql in table.metadata().configuration.items()
        if key.startswith(_CONSTRAINT)
    }
    return {**dict(table.schema().invariants), **said}


def broken(table: deltalake.DeltaTable, load: Load, schema: pa.Schema) -> dict[int, str]:
    """Number of a row → which constraint of the table it breaks.

    Args:
        schema: the load's columns as Delta has them.
    """
    rules = constraints(table)
    if not rules or not load.rows:
        return {}
    found: dict[int, str] = {}
    numbered = pa.schema([*map(_nullable, schema), pa.field(ROW, pa.int64())])
    with tempfile.TemporaryDirectory(prefix="millstream-delta-") as folder:
        rows = types.cast(load.batches(numbered=True), numbered)
        reader = pa.RecordBatchReader.from_batches(numbered, rows)
        deltalake.write_deltalake(folder, reader, writer_properties=_PLAIN)
        scratch = deltalake.DeltaTable(folder)
        for name, sql in rules.items():
            message = f"breaks the table's constraint {name} ({sql})"
            predicate = f"({sql}\n) IS NOT TRUE"
            breaking = scratch.scan(columns=[ROW], predicate=predicate)
            for batch in pa.RecordBatchReader.from_stream(breaking):
                for row in batch.column(0).to_pylist():
                    found.setdefault(row, message)
    return found


def unpartitionable(table: deltalake.DeltaTable, load: Load) -> dict[int, str]:
    """Number of a row → why it cannot be told which partition it belongs to.

    In a column that a table is partitioned by, an empty text is null to Delta, and to deltalake
    what Hive writes for null.
    """
    texts = [
        name
        for name in table.metadata().partition_columns
        if name in load.schema.names and types.is_text(load.schema.field(name).type)
    ]
    if not texts:
        return {}
    found: dict[int, str] = {}
    at = 0
    for batch in columns_of_load(load, texts).batches():
        for name in texts:
            nulls = pc.is_in(batch.column(name), pa.array(["", NULL]))
            message = f"{name} is a text that partitions of Delta take for null"
            for row in np.flatnonzero(nulls.to_numpy(zero_copy_only=False)).tolist():
                found.setdefault(at + row, message)
        at += batch.num_rows
    return found


def check_rewritable(table: deltalake.DeltaTable, mode: str) -> None:
    """See whether files of the table may be written anew.

    Raises:
        DestinationError: the table has something about it that would be lost.
    """
    unknown = sorted(set(table.protocol().writer_features or ()) - _REWRITTEN)
    made = [field.name for field in table.schema().fields if types.is_made_by_delta(field)]
    why = ""
    if table.metadata().configuration.get("delta.appendOnly", "").lower() == "true":
        why = "the table is append-only (delta.appendOnly)"
    elif unknown:
        why = f"the table uses {', '.join(unknown)}"
    elif made:
        why = f"the table makes values of {', '.join(made)} itself"
    if why:
        raise DestinationError(f"{table.table_uri}: {why}: mode={mode} cannot write it")


def columns_of_load(load: Load, names: Sequence[str]) -> Load:
    """The same rows with some of their columns."""
    fields = tuple(field for field in load.table.fields if field.name in names)
    return dataclasses.replace(load, table=dataclasses.replace(load.table, fields=fields))


def _nullable(field: pa.Field) -> pa.Field:
    return field.with_nullable(True)
