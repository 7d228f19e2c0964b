"""Which rows are read: conditions on columns, all of which hold.

A condition on what is null does not hold. Filters are pushed to where rows lie, as far as that can
judge them, and are judged on Arrow's columns elsewhere: the rows are the same.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

Operator = Literal["=", "<", "<=", ">", ">="]
Value = str | int | bool | dt.datetime | dt.date

_COMPARE: dict[Operator, Callable[[Any, Any], pa.Array]] = {
    "=": pc.equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@dataclass(frozen=True)
class Compare:
    """A column compared with a value: time stamps with those that have a zone, texts by bytes."""

    column: str
    operator: Operator
    value: Value

    def mask(self, values: pa.Array) -> pa.Array:
        """Whether it holds of each value; null where the value is."""
        return _COMPARE[self.operator](values, _scalar(self.value, values.type))


@dataclass(frozen=True)
class IsIn:
    """A column whose value is one of some."""

    column: str
    values: tuple[Value, ...]

    def mask(self, values: pa.Array) -> pa.Array:
        """Whether it holds of each value."""
        return pc.is_in(values, pa.array([_plain(v) for v in self.values], values.type))


@dataclass(frozen=True)
class Like:
    """A text that looks like a pattern, in which ``*`` stands for any text, and all else for
    itself."""

    column: str
    pattern: str

    @property
    def like(self) -> str:
        """The pattern as SQL's ``LIKE`` has it, with a backslash before what is not meant."""
        escaped = self.pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return escaped.replace("*", "%")

    def mask(self, values: pa.Array) -> pa.Array:
        """Whether it holds of each value; null where the value is."""
        return pc.match_like(values.cast(pa.string()), self.like)


@dataclass(frozen=True)
class AnyItem:
    """A list of structs, of which at least one meets all conditions on its fields."""

    column: str
    conditions: tuple[Compare | IsIn | Like, ...]

    def mask(self, values: pa.Array) -> pa.Array:
        """Whether it holds of each list."""
        items = pc.list_flatten(values)
        fields = [_decoded(pc.struct_field(items, each.column)) for each in self.conditions]
        holds = [each.mask(f) for each, f in zip(self.conditions, fields, strict=True)]
        met = functools.reduce(pc.and_kleene, holds, pa.array(np.ones(len(items), bool)))
        rows = pc.list_parent_indices(values).filter(pc.fill_null(met, False))
        found = np.zeros(len(values), bool)
        found[rows.to_numpy()] = True
        return pa.array(found)


Condition = Compare | IsIn | Like | AnyItem


@dataclass(frozen=True)
class Filter:
    """Conditions that all hold of a row; of no conditions, every row."""

    conditions: tuple[Condition, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.conditions)

    def __and__(self, other: Filter) -> Filter:
        return Filter((*self.conditions, *other.conditions))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are judged, each once."""
        return tuple(dict.fromkeys(each.column for each in self.conditions))

    def divided(self, pushed: Callable[[Condition], bool]) -> tuple[Filter, Filter]:
        """The conditions for which ``pushed`` is true, and the others."""
        chosen = [pushed(each) for each in self.conditions]
        pairs = list(zip(self.conditions, chosen, strict=True))
        return (
            Filter(tuple(each for each, yes in pairs if yes)),
            Filter(tuple(each for each, yes in pairs if not yes)),
        )

    def kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of which all conditions hold."""
        for each in self.conditions:
            mask = each.mask(_decoded(batch.column(each.column)))
            batch = batch.filter(mask)  # null is no
        return batch


ALL = Filter()
"""Every row."""


def between(column: str, start: Value | None, end: Value | None) -> Filter:
    """Values from ``start`` up to, not including, ``end``; without one of them, on and on."""
    bounds: list[tuple[Operator, Value | None]] = [(">=", start), ("<", end)]
    return Filter(tuple(Compare(column, op, v) for op, v in bounds if v is not None))


def is_in(column: str, values: Iterable[Value]) -> Filter:
    """Values that are one of some, each named once."""
    return Filter((IsIn(column, tuple(dict.fromkeys(values))),))


def matching(column: str, pattern: str) -> Compare | Like:
    """The condition that a text is a pattern's: the same text, if there is no ``*`` in it."""
    return Like(column, pattern) if "*" in pattern else Compare(column, "=", pattern)


def values_of(condition: Compare | IsIn | Like) -> Sequence[Value]:
    """The values that a condition compares with, as SQL takes them."""
    match condition:
        case Compare(_, _, value):
            return [value]
        case IsIn(_, values):
            return values
        case Like():
            return [condition.like]


def _decoded(values: Any) -> Any:
    return values.dictionary_decode() if pt.is_dictionary(values.type) else values


def _scalar(value: Value, type: pa.DataType) -> pa.Scalar:
    return pa.scalar(_plain(value), type)


def _plain(value: Value) -> Value:
    """A time stamp as one of UTC: Arrow asks for no zone's data then."""
    return value.astimezone(dt.UTC) if isinstance(value, dt.datetime) and value.tzinfo else value
