"""What the functions of metrics have in common: groups of rows, states, errors.

A function never sees a window or a key, only :class:`Groups`. What any order of rows and merges
leaves the same: counts, sums and means of integers and decimals, minimum, maximum, first and last
are exact; sums and means of floats, and all variances and standard deviations, which are computed
of float64, are so up to rounding; sketches are so within a tolerance that their class states. The
same batches, merged in the same order, give the same bytes of state and result in every function.

Nulls are as in SQL: ``count()`` counts rows, everything else leaves nulls out, and of no values at
all a count is 0 and anything else null.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ..contract import Field


class AggregateError(ValueError):
    """An aggregate that cannot be computed as it is written. The message names the metric or key,
    what was expected, and the nearest right name."""


class AggregateOverflow(OverflowError):
    """A result that its type cannot represent. The message names the metric and the group."""


class Unrepresentable(ArithmeticError):
    """The result of one row of states does not fit: where, and into what."""

    def __init__(self, row: int, type: pa.DataType, value: Any) -> None:
        super().__init__(row, type, value)
        self.row, self.type, self.value = row, type, value


@dataclass
class Groups:
    """Which group each row of a table belongs to.

    ``ids`` holds one number a row, 0 … ``count`` - 1; every number occurs.
    """

    ids: np.ndarray
    count: int

    @cached_property
    def sizes(self) -> np.ndarray:
        """Rows of each group: int64."""
        return np.bincount(self.ids, minlength=self.count)

    def present(self, column: pa.Array) -> tuple[np.ndarray, pa.Array]:
        """The group numbers and values of the rows that are not null."""
        if not column.null_count:
            return self.ids, column
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        return self.ids[valid], column.drop_null()


class Function:
    """What a metric computes. ``takes`` are the field types; ``optional``: may have no field.

    ``wanted`` and ``example`` say, in messages, what stands between the parentheses. A function
    that has a parameter after the field says in ``parameter`` what is expected there.

    States are lists of arrays, one row a group: those of :meth:`parts`, then of
    :meth:`open_parts`, which :meth:`seal` empties and which are never stored.
    """

    takes: tuple[str, ...] = ("integer", "number", "decimal")
    optional = False
    wanted = "the field"
    example = "amount"
    parameter = ""

    def at(self, parameter: float) -> Function:
        """The function with its parameter.

        Raises:
            ValueError: it is out of range.
        """
        raise NotImplementedError

    def refusal(self, field: Field) -> str:
        """Why a field of a right type cannot be used; empty if it can."""
        return ""

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        """Names and types of the state columns."""
        raise NotImplementedError

    def open_parts(self, field: Field | None) -> dict[str, pa.DataType]:
        """Names and types of the columns that states have besides while they are being merged."""
        return {}

    def result(self, field: Field | None) -> pa.DataType:
        """Type of the finalised column."""
        raise NotImplementedError

    def partial(
        self, groups: Groups, column: pa.Array, field: Field | None, times: pa.Array
    ) -> list[pa.Array]:
        """States of rows. ``column`` holds the field's values (without a field: any column),
        ``times`` the event times, without nulls."""
        raise NotImplementedError

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        """States of groups of states."""
        raise NotImplementedError

    def seal(self, states: list[pa.Array], longer_than: int) -> list[pa.Array]:
        """States whose open parts hold at most ``longer_than`` values in each group."""
        return states

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        """The result of each row of sealed states.

        Raises:
            Unrepresentable: a result does not fit :meth:`result`.
        """
        raise NotImplementedError


def add_counts(groups: Groups, counts: pa.Array) -> np.ndarray:
    """Sums of an int64 column without nulls: int64."""
    total = np.zeros(groups.count, np.int64)
    np.add.at(total, groups.ids, counts.to_numpy())
    return total


def count_present(groups: Groups, column: pa.Array) -> np.ndarray:
    """Rows of each group in which a column is not null: int64."""
    ids, _ = groups.present(column)
    return groups.sizes if ids is groups.ids else np.bincount(ids, minlength=groups.count)


def no_values(groups: Groups, ids: np.ndarray) -> np.ndarray | None:
    """Where a group has none of ``ids``; None if there is no such group."""
    if ids is groups.ids:
        return None
    return np.bincount(ids, minlength=groups.count) == 0


def by_arrow(groups: Groups, column: pa.Array, how: str) -> pa.Array:
    """An aggregation of Arrow's own, one row a group."""
    table = pa.table({"id": groups.ids, "value": column})
    found = table.group_by("id", use_threads=False).aggregate([("value", how)])
    place = np.empty(groups.count, np.int64)
    place[found["id"].to_numpy()] = np.arange(groups.count)
    return found[f"value_{how}"].combine_chunks().take(pa.array(place))


def to_numpy(values: pa.Array) -> np.ndarray:
    """The values as numpy has them, copied if need be."""
    return values.to_numpy(zero_copy_only=False)


def doubles(values: pa.Array) -> np.ndarray:
    """Integers, decimals or floats without nulls as float64, rounded if need be."""
    if pt.is_decimal(values.type):
        values = values.cast(pa.float64())
    return to_numpy(values).astype(np.float64, copy=False)


def lists_of(lengths: np.ndarray, values: pa.Array) -> pa.Array:
    """One list a group, of consecutive values."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def refuse_infinite(results: pa.Array) -> None:
    """Hold floats against what float64 can represent.

    Raises:
        Unrepresentable: the first that is infinite or no number.
    """
    finite = pc.is_finite(results).fill_null(True)
    if not pc.all(finite, min_count=0).as_py():
        row = finite.index(False).as_py()
        raise Unrepresentable(row, results.type, results[row].as_py())
