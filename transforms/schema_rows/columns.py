"""Lists of Python values to columns: exactly, or not at all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from decimal import Decimal
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from apache_beam.utils.timestamp import Timestamp

from .types import SchemaRowsError, is_list, kind_of_arrow

Writer = Callable[[list[Any]], pa.Array]


def row_writer(columns: Any, path: str) -> Callable[[list[Any]], list[pa.Array]]:
    """What makes columns of rows."""
    writers = [(field.name, _writer(field, path + field.name)) for field in columns]

    def write(rows: list[Any]) -> list[pa.Array]:
        return [write(_values(rows, name, path)) for name, write in writers]

    return write


def _values(rows: list[Any], name: str, path: str) -> list[Any]:
    try:
        return list(map(attrgetter(name), rows))
    except AttributeError:
        pass
    try:
        return [row[name] if isinstance(row, Mapping) else getattr(row, name) for row in rows]
    except (AttributeError, KeyError):
        raise SchemaRowsError(f"field {path}{name}: a row does not have it") from None


def _writer(field: pa.Field, path: str) -> Writer:
    """What makes a column of values, ``None`` included where it may be."""
    write = _writer_of(field.type, path)
    if field.nullable:
        return write

    def write_all(values: list[Any]) -> pa.Array:
        if None in values:
            raise SchemaRowsError(f"field {path}: a value is None, where none may be")
        return write(values)

    return write_all


def _writer_of(type: pa.DataType, path: str) -> Writer:
    if pt.is_struct(type):
        return _struct_writer(type, path)
    if is_list(type):
        return _list_writer(type, path)
    if pt.is_map(type):
        return _map_writer(type, path)
    kind = kind_of_arrow(type)
    if kind not in _ACCEPTED:
        raise SchemaRowsError(f"field {path}: of a type that rows do not have: {type}")
    accepted, refused, prepare = _ACCEPTED[kind]

    def write(values: list[Any]) -> pa.Array:
        for found in set(map(_type, values)):
            if found is not NoneType and (
                not issubclass(found, accepted) or issubclass(found, refused)
            ):
                raise SchemaRowsError(f"field {path}: expected a value for {type}, got {found!r}")
        try:
            return _exact(prepare(values, type), values, type)
        except (ValueError, ArithmeticError):  # Arrow's text holds the value
            raise SchemaRowsError(
                f"field {path}: a value does not fit {type}; which one is not said, as fields may "
                "be restricted"
            ) from None

    return write


_type = type
NoneType = type(None)


def _exact(column: pa.Array, values: list[Any], type: pa.DataType) -> pa.Array:
    """A column, unless numbers became infinite as they became smaller ones."""
    if pt.is_float32(type) and pc.any(pc.is_inf(column)).as_py():
        doubles = pa.array(values, pa.float64())
        if not pc.all(pc.equal(pc.is_inf(column), pc.is_inf(doubles))).as_py():
            raise ValueError("too large")
    return column


def _plain(values: list[Any], type: pa.DataType) -> pa.Array:
    return pa.array(values, type)


def _instants(values: list[Any], type: pa.DataType) -> pa.Array:
    micros = pa.array([None if value is None else _micros(value) for value in values], pa.int64())
    return micros.cast(pa.timestamp("us", type.tz)).cast(type)


def _micros(value: Any) -> int:
    if isinstance(value, Timestamp):
        return value.micros  # refuses what has nanoseconds
    if value.tzinfo is None:
        raise ValueError("no zone")
    if getattr(value, "nanosecond", 0):  # pandas'
        raise ValueError("nanoseconds")
    return (value - _EPOCH) // _MICROSECOND


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def _times(values: list[Any], type: pa.DataType) -> pa.Array:
    return pa.array([None if value is None else _time(value) for value in values], type)


def _time(value: Any) -> dt.time:
    if isinstance(value, str):
        if len(value) > len("12:00:00.000001"):  # the parser would cut off what is finer
            raise ValueError("too fine")
        value = dt.time.fromisoformat(value)
    if value.tzinfo is not None:
        raise ValueError("a zone")
    return value


_ACCEPTED: dict[str, tuple[Any, Any, Callable[[list[Any], pa.DataType], pa.Array]]] = {
    "string": (str, (), _plain),
    "binary": (bytes, (), _plain),
    "boolean": ((bool, np.bool_), (), _plain),
    "integer": ((int, np.integer), bool, _plain),
    "number": ((float, int, np.floating, np.integer), bool, _plain),
    "decimal": ((Decimal, int), bool, _plain),
    "date": (dt.date, dt.datetime, _plain),
    "timestamp": ((Timestamp, dt.datetime), (), _instants),
    "time": ((dt.time, str), (), _times),
}
"""Kind of column → Python types whose values it holds, those that it does not, and what makes it.
Arrow itself would cut 3.7 to 3 for an integer, and a ``datetime`` to its date."""


def _struct_writer(type: pa.DataType, path: str) -> Writer:
    write = row_writer(type, f"{path}.")

    def write_rows(values: list[Any]) -> pa.Array:
        there = [value is not None for value in values]
        held = write([value for value in values if value is not None])
        if not all(there):
            places = np.cumsum(there) - 1
            at = pa.array(places, pa.int64(), mask=~np.array(there))
            held = [column.take(at) for column in held]
        mask = pa.array(~np.array(there, bool))
        fields = list(type)
        if not fields:
            return pa.array([{} if one else None for one in there], type)
        return pa.StructArray.from_arrays(held, fields=fields, mask=mask)

    return write_rows


def _list_writer(type: pa.DataType, path: str) -> Writer:
    write_items = _writer(type.value_field, f"{path}[]")

    def write(values: list[Any]) -> pa.Array:
        lists = _lists(values, path)
        items = write_items([item for one in lists for item in one])
        plain = pa.ListArray.from_arrays(
            _offsets(lists), items, pa.list_(type.value_field), mask=_nulls(values)
        )
        return plain if plain.type == type else plain.cast(type)

    return write


def _lists(values: list[Any], path: str) -> list[Any]:
    for value in values:
        if isinstance(value, str | bytes | Mapping):
            raise SchemaRowsError(f"field {path}: expected a list, got {_type(value)!r}")
    try:
        return [() if value is None else list(value) for value in values]
    except TypeError:
        raise SchemaRowsError(
            f"field {path}: expected lists, got what cannot be iterated"
        ) from None


def _map_writer(type: pa.DataType, path: str) -> Writer:
    write_keys = _writer(type.key_field, f"{path} (keys)")
    write_values = _writer(type.item_field, f"{path}[]")

    def write(values: list[Any]) -> pa.Array:
        for value in values:
            if value is not None and not isinstance(value, Mapping):
                raise SchemaRowsError(f"field {path}: expected a map, got {_type(value)!r}")
        maps = [value or {} for value in values]
        keys = write_keys([key for one in maps for key in one])
        items = write_values([item for one in maps for item in one.values()])
        offsets = pa.array(
            [None if v is None else at for v, at in zip(values, _starts(maps), strict=False)]
            + [len(keys)],
            pa.int32(),
        )
        return pa.MapArray.from_arrays(offsets, keys, items, type)

    return write


def _offsets(lists: list[Any]) -> pa.Array:
    return pa.array(_starts(lists), pa.int32())


def _starts(lists: list[Any]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int32)


def _nulls(values: list[Any]) -> pa.Array:
    return pa.array([value is None for value in values], pa.bool_())
