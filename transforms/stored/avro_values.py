"""Records that fastavro has read as Arrow columns of types that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as pt


def columns_of(records: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """A batch of records; a field that they do not have is null."""
    columns = [_column([record.get(f.name) for record in records], f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(values: list[Any], type: pa.DataType) -> pa.Array:
    if pt.is_uint64(type):  # which Avro has no integer for
        values = [None if value is None else int(value) for value in values]
    if pt.is_decimal(type):  # of states, those are text that are too long for a service
        values = [None if value is None else Decimal(value) for value in values]
    return pa.array(values, type)
