"""Rows as BigQuery takes them: what its formats have no form for, converted; what it cannot hold.

The columns of a stage differ from those of the table: TIME and JSON are strings, which neither a
Parquet file nor a stream of Arrow batches brings in as such; SQL makes them of it. An array in an
array is a record with one field, ``item``; a null array is an empty one, as in every table of
BigQuery. See https://cloud.google.com/bigquery/docs/loading-data-cloud-storage-parquet and
https://cloud.google.com/bigquery/docs/supported-data-types.
"""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....schemas.arrow import arrow_type
from ....schemas.contract import Field

_EXACT_INTEGERS = range(-(1 << 63), 1 << 64)
"""Whole numbers that JSON in BigQuery holds with all of their digits."""
_PERHAPS_WIDE = r"[0-9][0-9.]{15}|[eE][+-]?[0-9]{3}"
"""Nothing but a text in which this is found holds a number that a float does not."""


def is_as_it_is(field: Field) -> bool:
    """Whether a staged file holds the field's values in a form that BigQuery loads."""
    if field.type == "array":
        assert field.items is not None
        return field.items.type != "array" and is_as_it_is(field.items)
    if field.type == "integer":
        return field.storage != "uint64"
    if field.type == "object":
        return all(map(is_as_it_is, field.fields))
    return field.type != "time"


def is_said_in_text(field: Field) -> bool:
    """Whether a stage holds the field's values, or some in it, as strings that SQL has to read."""
    if field.items is not None:
        return is_said_in_text(field.items)
    return field.type in ("time", "json") or any(map(is_said_in_text, field.fields))


def converted(batch: pa.RecordBatch, fields: Sequence[Field], schema: pa.Schema) -> pa.RecordBatch:
    """The batch's rows as a stage takes them; ``schema`` is :func:`converted_schema`'s, with any
    columns not nullable."""
    columns = [_converted(batch.column(field.name), field) for field in fields]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def converted_schema(fields: Sequence[Field]) -> pa.Schema:
    """The columns that :func:`converted` makes, all nullable."""
    return pa.schema([(field.name, _type(field)) for field in fields])


def _type(field: Field) -> pa.DataType:
    match field.type:
        case "array":
            assert field.items is not None
            item = _type(field.items)
            if field.items.type == "array":
                item = pa.struct([("item", item)])
            return pa.list_(pa.field("item", item))
        case "object":
            return pa.struct([(f.name, _type(f)) for f in field.fields])
        case "integer":
            return pa.decimal128(20, 0) if field.storage == "uint64" else pa.int64()
        case "number":
            return pa.float64()
        case "time":
            return pa.string()
    return arrow_type(field)


def _converted(values: Any, field: Field) -> Any:
    if field.type == "array":
        return _list(values, field)
    if field.type == "object":
        pairs = zip(values.flatten(), field.fields, strict=True)
        children = [_converted(child, inner) for child, inner in pairs]
        return pa.StructArray.from_arrays(
            children, fields=list(_type(field)), mask=values.is_null()
        )
    wanted = _type(field)
    return values if values.type == wanted else values.cast(wanted)


def _list(values: Any, field: Field) -> Any:
    """A list of what the field's items are converted to; none is null."""
    assert field.items is not None
    items = _converted(values.flatten(), field.items)
    if field.items.type == "array":
        items = pa.StructArray.from_arrays([items], ["item"])
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=_type(field))


def may_be_unfit(field: Field) -> bool:
    """Whether a column may hold values, other than null, that BigQuery does not."""
    return field.type in ("array", "json") or any(map(may_be_unfit, field.fields))


def unfit(batch: pa.RecordBatch, fields: Sequence[Field]) -> dict[int, str]:
    """Row of the batch → why BigQuery cannot hold it, for those that it cannot.

    Arrays hold no nulls, required columns neither, and JSON no number that is rounded when it is
    read. The reasons name columns, and hold no values.
    """
    found: dict[int, str] = {}
    for field in fields:
        column = batch.column(field.name)
        if field.required and field.type != "array" and column.null_count:
            for row in _numbers(column.is_null()):
                found.setdefault(row, f"{field.name} is null, and required")
        if may_be_unfit(field):
            for row, reason in _unfit(column, field, field.name, np.arange(batch.num_rows)):
                found.setdefault(row, reason)
    return found


def _unfit(values: Any, field: Field, path: str, rows: np.ndarray) -> Iterator[tuple[int, str]]:
    """``rows`` has the row of each value."""
    if field.type == "array":
        assert field.items is not None
        parents = rows[pc.list_parent_indices(values).to_numpy()]
        items = values.flatten()
        for row in np.unique(parents[_numbers(items.is_null())]).tolist():
            yield row, f"{path} holds a null, which no array of BigQuery does"
        yield from _unfit(items, field.items, f"{path}[]", parents)
    elif field.type == "object":
        for child, inner in zip(values.flatten(), field.fields, strict=True):
            yield from _unfit(child, inner, f"{path}.{inner.name}", rows)
    elif field.type == "json":
        perhaps = _numbers(pc.match_substring_regex(values, _PERHAPS_WIDE))
        for n in perhaps:
            if not _is_exact(values[n].as_py()):
                yield int(rows[n]), f"{path} holds a number that BigQuery's JSON would round"


def _numbers(mask: Any) -> list[int]:
    """Where a mask is true."""
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False)).tolist()


def _is_exact(text: str) -> bool:
    """Whether all numbers of a JSON text are what is left of them in a float, or an integer."""
    exact = True

    def whole(digits: str) -> None:
        nonlocal exact
        exact = exact and int(digits) in _EXACT_INTEGERS

    def fraction(digits: str) -> None:
        nonlocal exact
        exact = exact and Decimal(repr(float(digits))) == Decimal(digits)

    try:
        json.loads(text, parse_int=whole, parse_float=fraction)
    except ValueError:
        return False
    return exact
