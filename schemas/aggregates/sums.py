"""Sums and means, exact for integers and decimals in any order of addition."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ..contract import Field
from .functions import (
    Function,
    Groups,
    Unrepresentable,
    add_counts,
    by_arrow,
    count_present,
    no_values,
    refuse_infinite,
    to_numpy,
)

INTEGER_SUM = pa.decimal128(38, 0)
WIDEST_SUMMED = 57
"""Digits of a decimal that can be summed: so 10**19 values fit the 76 digits of the state."""

_LOW = 0xFFFFFFFF


class Sum(Function):
    """``sum(field)``: int64 of integers, decimal of decimals (the same scale), float64 of numbers.

    Integers and decimals are kept wide enough that no order of addition overflows on the way.
    """

    def refusal(self, field: Field) -> str:
        if field.type != "decimal" or field.precision <= WIDEST_SUMMED:
            return ""
        return f"at most {WIDEST_SUMMED} digits can be summed exactly, and it has {field.precision}"

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        assert field is not None
        if field.type == "number":
            return {"sum": pa.float64()}
        return {"sum": INTEGER_SUM if field.type == "integer" else pa.decimal256(76, field.scale)}

    def result(self, field: Field | None) -> pa.DataType:
        assert field is not None
        if field.type != "decimal":
            return pa.int64() if field.type == "integer" else pa.float64()
        wide = field.precision > 38
        return pa.decimal256(76, field.scale) if wide else pa.decimal128(38, field.scale)

    def partial(
        self, groups: Groups, column: pa.Array, field: Field | None, times: pa.Array
    ) -> list[pa.Array]:
        return [_sums(groups, column, self.parts(field)["sum"])]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        return [_sums(groups, states[0], states[0].type)]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        sums, type = states[0], self.result(field)
        if pt.is_floating(type):
            refuse_infinite(sums)
            return sums
        try:
            return sums.cast(type)
        except pa.ArrowInvalid:
            for row, value in enumerate(sums):
                try:
                    value.cast(type)
                except pa.ArrowInvalid:
                    raise Unrepresentable(row, type, value.as_py()) from None
            raise


class Mean(Sum):
    """``mean(field)``: the exact sum (of numbers: the float sum) by the count, as float64."""

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {**super().parts(field), "count": pa.int64()}

    def result(self, field: Field | None) -> pa.DataType:
        return pa.float64()

    def partial(
        self, groups: Groups, column: pa.Array, field: Field | None, times: pa.Array
    ) -> list[pa.Array]:
        sums = super().partial(groups, column, field, times)
        return [*sums, pa.array(count_present(groups, column))]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        return [*super().merge(groups, states), pa.array(add_counts(groups, states[1]))]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        sums, counts = states
        if pt.is_floating(sums.type):
            refuse_infinite(sums)
        counts = counts.to_numpy()
        # Divided as decimals first, a sum would lose the digits that the type has no room for.
        means = to_numpy(sums.cast(pa.float64())) / np.maximum(counts, 1)
        return pa.array(means, mask=counts == 0)


def _sums(groups: Groups, column: pa.Array, type: pa.DataType) -> pa.Array:
    """Sums as ``type``, null where all values are."""
    if pt.is_floating(column.type):
        ids, values = groups.present(column)
        sums = np.bincount(ids, to_numpy(values), groups.count)
        return pa.array(sums, pa.float64(), mask=no_values(groups, ids))
    if pt.is_integer(column.type):
        ids, values = groups.present(column)
        numbers = to_numpy(values)
        if numbers.dtype != np.uint64:
            numbers = numbers.astype(np.int64, copy=False)
        return _exact_sums(groups, ids, numbers, INTEGER_SUM)
    if pt.is_decimal128(column.type) and column.type != type:
        if column.type.precision <= 18:
            ids, values = groups.present(column)
            return _exact_sums(
                groups, ids, _low_words(values), pa.decimal128(38, column.type.scale)
            ).cast(type)
        if column.type.precision + len(str(len(column))) > 38:
            column = column.cast(type)  # the sums might not fit 128 bits
    return by_arrow(groups, column, "sum").cast(type)


def _low_words(values: pa.Array) -> np.ndarray:
    """Decimals of at most 18 digits, without nulls, as integers of their last place."""
    words = np.frombuffer(values.buffers()[1], np.int64)
    return words[2 * values.offset : 2 * (values.offset + len(values)) : 2]


def _exact_sums(
    groups: Groups, ids: np.ndarray, numbers: np.ndarray, type: pa.DataType
) -> pa.Array:
    """Sums of int64 or uint64 as 128-bit decimals, which no batch can overflow."""
    peak = max((abs(int(numbers.min())), abs(int(numbers.max()))), default=0) if len(ids) else 0
    low = np.zeros(groups.count, np.int64)
    if peak * len(ids) < 1 << 63:
        np.add.at(low, ids, numbers.astype(np.int64, copy=False))
        high = low >> 63
    else:
        high = np.zeros(groups.count, np.int64)
        np.add.at(low, ids, (numbers & _LOW).astype(np.int64, copy=False))
        np.add.at(high, ids, (numbers >> 32).astype(np.int64, copy=False))
        high += low >> 32
        low = (high << 32) | (low & _LOW)
        high >>= 32
    words = np.empty((groups.count, 2), np.int64)
    words[:, 0], words[:, 1] = low, high
    none = no_values(groups, ids)
    valid = None if none is None else pa.array(~none).buffers()[1]
    return pa.Array.from_buffers(type, groups.count, [valid, pa.py_buffer(words)])
