"""From decoded Python objects to typed Arrow columns, in two steps.

*Storage* columns hold what JSON itself can say: dates, times and decimals are still text. They are
built from Python objects in one pass. :func:`convert` then makes the contract's types of them, a
column at a time, and tells which elements were not what they should be.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import arrow_type
from ..codes import Code
from ..contract import Field
from ..paths import Paths, list_lengths
from ..temporal import expected, parse_column

TEMPORAL = frozenset({"date", "time", "timestamp"})


class Number(str):
    """The text of a JSON number, so that decimals are read exactly and a string is no number."""

    __slots__ = ()


class Misfit(NamedTuple):
    """An element that could not be converted: its row, path, code, and what was expected."""

    row: int
    field: str
    code: Code
    expected: str
    value: str
    of: Field


def storage_type(field: Field) -> pa.DataType:
    """The Arrow type of a storage column."""
    if field.type in TEMPORAL or field.type == "decimal":
        return pa.string()
    if field.type == "object":
        return pa.struct([pa.field(f.name, storage_type(f)) for f in field.fields])
    if field.type == "array":
        assert field.items is not None
        return pa.list_(pa.field("item", storage_type(field.items)))
    return pa.float64() if field.type == "number" else arrow_type(field)


def column_builder(field: Field, attributes: bool = True) -> Callable[[list[Any]], pa.Array]:
    """A function from a list of values (or ``None``) to their storage column.

    Args:
        attributes: objects are msgspec Structs with attributes ``f0``, ``f1``, … in the order of
            the contract; otherwise they are dicts by field name.
    """
    to = storage_type(field)
    if field.type == "object":
        getters = object_getters(field.fields, attributes)
        builders = [column_builder(f, attributes) for f in field.fields]
        return lambda values: _structs(values, to, getters, builders)
    if field.type == "array":
        assert field.items is not None
        build = column_builder(field.items, attributes)
        return lambda values: _lists(values, to, build)
    if field.type == "json" and attributes:
        return lambda values: pa.array(list(map(_raw_text, values)), to)
    return lambda values: pa.array(values, to)


def _raw_text(raw: Any) -> str | None:
    text = None if raw is None else bytes(raw).decode()
    return None if text == "null" else text


def object_getters(fields: Sequence[Field], attributes: bool) -> list[Callable[[Any], Any]]:
    """One function a field that takes the field's value out of an object."""
    if attributes:
        return [operator.attrgetter(f"f{i}") for i in range(len(fields))]
    return [lambda o, n=f.name: o.get(n) for f in fields]


def _structs(
    values: list[Any],
    to: pa.DataType,
    getters: list[Callable[[Any], Any]],
    builders: list[Callable[[list[Any]], pa.Array]],
) -> pa.Array:
    nulls = None
    if None in values:
        nulls = pa.array([v is None for v in values], pa.bool_())
        columns = [
            build([None if v is None else get(v) for v in values])
            for get, build in zip(getters, builders, strict=True)
        ]
    else:
        columns = [
            build(list(map(get, values))) for get, build in zip(getters, builders, strict=True)
        ]
    return pa.StructArray.from_arrays(columns, fields=list(to), mask=nulls)


def _lists(values: list[Any], to: pa.DataType, build: Callable[[list[Any]], pa.Array]) -> pa.Array:
    lengths = np.fromiter((0 if v is None else len(v) for v in values), np.int32, len(values))
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    items = build(list(itertools.chain.from_iterable(v for v in values if v is not None)))
    nulls = pa.array([v is None for v in values], pa.bool_()) if None in values else None
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=to, mask=nulls)


def convert(
    column: pa.Array, field: Field, at: Paths | None = None
) -> tuple[pa.Array, list[Misfit]]:
    """A storage column as the contract's type; misfits become null and are listed.

    Args:
        at: where its elements are; by default it is a column of whole records.
    """
    misfits: list[Misfit] = []
    return _convert(column, field, at or Paths.of(field.name), misfits), misfits


def needs_conversion(field: Field) -> bool:
    """Whether a storage column differs from, or may not fit, the contract's type."""
    if field.type in TEMPORAL or field.type == "decimal" or field.storage == "float32":
        return True
    nested = (*field.fields, *((field.items,) if field.items else ()))
    return any(map(needs_conversion, nested))


def _convert(column: pa.Array, field: Field, at: Paths, misfits: list[Misfit]) -> pa.Array:
    if not needs_conversion(field):
        return column
    if field.type in TEMPORAL:
        converted, refused = parse_column(column, field)
        if refused is not None:
            what = expected(field)
            for i in refused.tolist():
                value = column[i].as_py()
                misfits.append(Misfit(at.row(i), at.path(i), Code.FORMAT, what, value, field))
        return converted
    if field.type == "decimal":
        return _decimals(column, field, at, misfits)
    if field.type == "number":
        return _single_floats(column, field, at, misfits)
    if field.type == "object":
        children = [
            _convert(child, f, at.child(f.name), misfits)
            for child, f in zip(column.flatten(), field.fields, strict=True)
        ]
        nulls = column.is_null() if column.null_count else None
        return pa.StructArray.from_arrays(children, fields=list(arrow_type(field)), mask=nulls)
    if field.type == "array":
        return _list_items(column, field, at, misfits)
    return column


def _list_items(column: pa.Array, field: Field, at: Paths, misfits: list[Misfit]) -> pa.Array:
    assert field.items is not None
    lengths = list_lengths(column)
    values = _convert(column.flatten(), field.items, at.items(lengths), misfits)
    offsets = np.zeros(len(column) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    nulls = column.is_null() if column.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=arrow_type(field), mask=nulls)


def _single_floats(column: pa.Array, field: Field, at: Paths, misfits: list[Misfit]) -> pa.Array:
    single = column.cast(pa.float32(), safe=False)
    too_large = pc.is_inf(single)
    if pc.any(too_large).as_py():
        for i in np.flatnonzero(too_large.fill_null(False).to_numpy(zero_copy_only=False)).tolist():
            what = "a number that a 32-bit float can hold"
            value = Number(column[i].as_py())
            misfits.append(Misfit(at.row(i), at.path(i), Code.RANGE, what, value, field))
        single = pc.if_else(too_large, pa.scalar(None, pa.float32()), single)
    return single


def _decimals(texts: pa.Array, field: Field, at: Paths, misfits: list[Misfit]) -> pa.Array:
    """Exact decimals of number texts; plain notation that surely fits is cast as a column."""
    whole = field.precision - field.scale
    digits = f"[0-9]{{1,{whole}}}" if whole else "0"
    fraction = f"(?:[.][0-9]{{1,{field.scale}}})?" if field.scale else ""
    plain = pc.match_substring_regex(texts, f"^-?{digits}{fraction}$")
    if pc.all(plain).as_py() is not False:
        return texts.cast(arrow_type(field))
    values: list[Decimal | None] = []
    for i, text in enumerate(texts.to_pylist()):
        value = None if text is None else exact_decimal(text, field)
        if text is not None and value is None:
            what = f"a decimal of {field.precision} digits, {field.scale} after the point"
            wrong = Misfit(at.row(i), at.path(i), Code.PRECISION, what, Number(text), field)
            misfits.append(wrong)
        values.append(value)
    return pa.array(values, arrow_type(field))


def exact_decimal(text: str, field: Field) -> Decimal | None:
    """The value of a JSON number, or ``None`` if precision and scale cannot hold it exactly."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    sign, digits, exponent = value.as_tuple()
    if not value or not isinstance(exponent, int):
        return Decimal(0) if not value else None
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    if exponent + zeros < -field.scale or value.adjusted() >= field.precision - field.scale:
        return None
    # Arrow misreads what has more digits than its widest decimal, zeros or not
    return Decimal((sign, digits[: len(digits) - zeros], exponent + zeros))
