"""Rows as they were read, in the columns and types that are asked for."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ..write.errors import DestinationError
from .json_values import json_column


def fitted(batch: pa.RecordBatch, schema: pa.Schema, place: str) -> pa.RecordBatch:
    """The columns of a schema: what the batch lacks is null, what is of another type is converted.

    Texts are read as JSON where a struct or a list is asked for.

    Raises:
        DestinationError: a column holds what is not of the type. No value is named.
    """
    arrays = []
    for field in schema:
        if field.name not in batch.schema.names:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        try:
            arrays.append(_converted(batch.column(field.name), field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, msgspec.DecodeError):
            held = batch.schema.field(field.name).type
            raise DestinationError(
                f"{place}: {field.name} holds what is no {field.type}: it is of the type {held}"
            ) from None  # Arrow's own words repeat a value
    nullable = pa.schema([field.with_nullable(True) for field in schema], schema.metadata)
    return pa.RecordBatch.from_arrays(arrays, schema=nullable)


def _converted(values: Any, type: Any) -> Any:
    if values.type == type:
        return values
    if pt.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pt.is_dictionary(type):
        return _converted(values, type.value_type).dictionary_encode().cast(type)
    if _is_text(values.type):
        if pt.is_nested(type):
            return json_column(values.to_pylist(), type)
        if pt.is_timestamp(type):
            return pc.replace_substring(values, " UTC", "Z").cast(type)
    if pt.is_decimal(values.type) and pt.is_floating(type):
        return values.cast(pa.string()).cast(type)  # Arrow's own way is off by a bit in one of ten
    return values.cast(type)


def _is_text(type: pa.DataType) -> bool:
    return pt.is_string(type) or pt.is_large_string(type) or pt.is_string_view(type)
