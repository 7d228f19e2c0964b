"""The least and the greatest value, and the values at the least and the greatest event time."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ..arrow import arrow_type
from ..contract import Field
from .functions import Function, Groups, by_arrow, no_values, to_numpy

Which = Literal["min", "max"]

_TIME = pa.timestamp("us", "UTC")


class Extreme(Function):
    """``min(field)`` and ``max(field)``: of the field's own type; strings by their UTF-8 bytes."""

    takes = ("integer", "number", "decimal", "string", "date", "timestamp", "time")

    def __init__(self, which: Which) -> None:
        self._which: Which = which

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {self._which: self.result(field)}

    def result(self, field: Field | None) -> pa.DataType:
        assert field is not None
        return arrow_type(field)

    def partial(
        self, groups: Groups, column: pa.Array, field: Field | None, times: pa.Array
    ) -> list[pa.Array]:
        return [_extremes(groups, column, self._which)]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        return [_extremes(groups, states[0], self._which)]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        return states[0]


class AtExtremeTime(Function):
    """``first(field)`` and ``last(field)``: the value at the least or the greatest event time of
    the rows in which the field is not null; of the field's own type.

    Of several values at that time ``first`` takes the least and ``last`` the greatest, as
    ``min`` and ``max`` find them, so the order of rows does not matter.
    """

    takes = (*Extreme.takes, "boolean")

    def __init__(self, which: Which) -> None:
        self._which: Which = which

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {"time": _TIME, "value": self.result(field)}

    def result(self, field: Field | None) -> pa.DataType:
        assert field is not None
        return arrow_type(field)

    def partial(
        self, groups: Groups, column: pa.Array, field: Field | None, times: pa.Array
    ) -> list[pa.Array]:
        return self.merge(groups, [times.cast(_TIME), column])

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        times, values = states
        stamps = times.view(pa.int64()).fill_null(0).to_numpy()
        ids, present = groups.ids, np.ones(len(values), bool)
        if values.null_count:
            present = values.is_valid().to_numpy(zero_copy_only=False)
            ids, stamps = ids[present], stamps[present]
        found = _extreme_numbers(groups.count, ids, stamps, self._which)
        at = stamps == found[ids]
        rows = np.flatnonzero(present)[at]
        held = np.zeros(groups.count, bool)
        held[ids] = True
        place = np.cumsum(held) - 1  # among the groups that have a value
        some = Groups(place[ids[at]], int(held.sum()))
        best = _extremes(some, values.take(pa.array(rows)), self._which)
        return [
            pa.array(found, mask=~held).view(_TIME),
            best.take(pa.array(place, mask=~held)),
        ]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        return states[1]


def _extremes(groups: Groups, column: pa.Array, which: Which) -> pa.Array:
    """The extreme value of each group, null where all are."""
    if not (pt.is_integer(column.type) or pt.is_floating(column.type)):
        return by_arrow(groups, column, which)
    ids, values = groups.present(column)
    numbers = to_numpy(values)
    if pt.is_floating(column.type):
        numbers = numbers + numbers.dtype.type(0)  # of -0.0 and 0.0 neither is less
    found = _extreme_numbers(groups.count, ids, numbers, which)
    return pa.array(found, column.type, mask=no_values(groups, ids))


def _extreme_numbers(count: int, ids: np.ndarray, numbers: np.ndarray, which: Which) -> np.ndarray:
    """The extreme number of each group; of none, what no number can exceed."""
    if numbers.dtype.kind == "f":
        least, greatest = -np.inf, np.inf
    else:
        least, greatest = np.iinfo(numbers.dtype).min, np.iinfo(numbers.dtype).max
    low = which == "min"
    found = np.full(count, greatest if low else least, numbers.dtype)
    (np.minimum if low else np.maximum).at(found, ids, numbers)
    return found
