"""The table of a load: found, made, or given the columns that it lacks."""

from __future__ import annotations

import deltalake
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from ..errors import DestinationError
from ..evolution import Column, TableMismatch, additions
from ..tables import Load
from . import checks, types


def opened(place: str) -> DeltaTable | None:
    """The table's newest version; ``None`` if there is no table."""
    try:
        return DeltaTable(place)
    except TableNotFoundError:
        return None


def delta_columns(load: Load) -> pa.Schema:
    """The load's columns as Delta has them.

    Raises:
        DestinationError: Delta has no such column, or no such partitions.
    """
    if load.mode != "replace":
        for partition in load.partition_by:
            if partition.function:
                raise DestinationError(
                    f"{load.name}: partition_by={partition}: a Delta table is partitioned by "
                    f"columns alone; give the contract a field that has the {partition.function}, "
                    "or leave it out (mode=replace needs no such field)"
                )
    return types.delta_schema(load.table, wide_as_text=load.part == "states")


def missing_columns(table: DeltaTable, load: Load) -> list[Column]:
    """The columns that a table lacks.

    Raises:
        DestinationError: Delta has no such columns.
        TableMismatch: the table cannot take the rows.
    """
    wanted = types.columns_of(delta_columns(load))
    held = types.columns_of(table.schema())
    missing = additions(load.name, wanted, held, types.fits)
    by = [partition.column for partition in load.partition_by]
    if by and load.mode != "replace" and by != table.metadata().partition_columns:
        laid_out = ", ".join(table.metadata().partition_columns) or "no column"
        raise TableMismatch(
            f"table {load.name} is partitioned by {laid_out}, not by {', '.join(by)}; say the same "
            "in partition_by, or write to another table"
        )
    if load.mode != "append":
        checks.check_rewritable(table, load.mode)
    return missing


def made(load: Load) -> DeltaTable:
    """The load's table: made if it is not there, with all columns of the load.

    Raises:
        DestinationError: Delta has no such columns.
        TableMismatch: the table cannot take the rows.
    """
    wanted = delta_columns(load)
    table = opened(load.name) or _create(load, wanted)
    missing = {column.name for column in missing_columns(table, load)}
    if missing:
        added = deltalake.Schema.from_arrow(
            pa.schema([field.with_nullable(True) for field in wanted if field.name in missing])
        )
        table.alter.add_columns(added.fields)
        table = DeltaTable(load.name)
    return table


def _create(load: Load, schema: pa.Schema) -> DeltaTable:
    # A table whose partitions are replaced has no columns for them: its files are cut by them, and
    # found by their statistics. So an empty text is a partition too, and a day, and an hour.
    by = [partition.column for partition in load.partition_by if load.mode != "replace"]
    try:
        return DeltaTable.create(load.name, schema, partition_by=by)
    except DeltaError:
        if found := opened(load.name):
            return found  # somebody else was first
        raise


def arrow_schema(table: DeltaTable) -> pa.Schema:
    """The table's columns in Arrow's types."""
    return pa.schema(table.schema().to_arrow())
