"""Rows of JSON objects as Arrow columns, by nobody's code but the standard library's."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as pt


def table_of(texts: Iterable[bytes], schema: pa.Schema) -> pa.Table:
    """Columns of ``schema``; names that no object has are left out."""
    # Numbers keep all digits; a whole number may be a float's, and of that -0 is not 0.
    rows = [json.loads(text, parse_float=Decimal, parse_int=Decimal) for text in texts]
    names = {name for row in rows for name in row}
    kept = [field for field in schema if field.name in names or not rows]
    columns = [pa.array([value_of(row.get(f.name), f.type) for row in rows], f.type) for f in kept]
    return pa.Table.from_arrays(columns, schema=pa.schema(kept))


def value_of(value: Any, kind: Any) -> Any:
    """A value of JSON or Avro as Arrow takes it for a type."""
    if value is None:
        return None
    if pt.is_struct(kind):
        return {field.name: value_of(value.get(field.name), field.type) for field in kind}
    if pt.is_list(kind):
        return [value_of(item, kind.value_type) for item in value]
    if pt.is_floating(kind):
        return _NOT_NUMBERS[value] if value in _NOT_NUMBERS else float(value)
    if pt.is_decimal(kind):
        return Decimal(value)
    if pt.is_integer(kind):
        return int(value)
    return _parsed(value, kind) if isinstance(value, str) else value


_NOT_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _parsed(text: str, kind: Any) -> Any:
    """What JSON has no form for, and holds as a string."""
    if pt.is_binary(kind):
        return base64.b64decode(text)
    if pt.is_timestamp(kind):
        return dt.datetime.fromisoformat(text)
    if pt.is_date(kind):
        return dt.date.fromisoformat(text)
    if pt.is_time(kind):
        return dt.time.fromisoformat(text)
    return text
