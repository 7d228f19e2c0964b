"""Metrics of aggregates: what each takes, the state it is kept as, and the result it gives.

A metric never sees a window or a key, only :class:`Groups`. Counts, integers, decimals, minimum and
maximum are exact in any order of rows and merges; sums and means of floats up to rounding. Nulls
are as in SQL: ``count()`` counts rows, everything else leaves nulls out, and of no values at all a
count is 0 and anything else null.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasketches
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from .arrow import arrow_type
from .contract import Contract, Field
from .problems import did_you_mean, list_names

INTEGER_SUM = pa.decimal128(38, 0)
WIDEST_SUMMED = 57
"""Digits of a decimal that can be summed: so 10**19 values fit the 76 digits of the state."""
LG_K = 12
"""Logarithm of a sketch's size: 4096 registers, a standard error of 1.6 %."""

_LOW = 0xFFFFFFFF
_SKETCHES: Any = datasketches  # its names come from an extension module without type stubs


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

    States are lists of arrays, one row a group: those of :meth:`parts`, then of
    :meth:`open_parts`, which :meth:`seal` empties and which are never stored.
    """

    takes: tuple[str, ...] = ("integer", "number", "decimal")
    optional = False

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

    def partial(self, groups: Groups, column: pa.Array, field: Field | None) -> list[pa.Array]:
        """States of rows. ``column`` holds the field's values (without a field: any column)."""
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


class Count(Function):
    """``count()``: rows. ``count(field)``: rows in which the field is not null. int64."""

    takes = (
        "string", "integer", "number", "decimal", "boolean",
        "date", "timestamp", "time", "object", "array", "json",
    )  # fmt: skip
    optional = True

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {"count": pa.int64()}

    def result(self, field: Field | None) -> pa.DataType:
        return pa.int64()

    def partial(self, groups: Groups, column: pa.Array, field: Field | None) -> list[pa.Array]:
        return [pa.array(groups.sizes if field is None else _counts(groups, column))]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        return [pa.array(add_counts(groups, states[0]))]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        return states[0]


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

    def partial(self, groups: Groups, column: pa.Array, field: Field | None) -> list[pa.Array]:
        return [_sums(groups, column, self.parts(field)["sum"])]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        return [_sums(groups, states[0], states[0].type)]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        sums, type = states[0], self.result(field)
        if pt.is_floating(type):
            _refuse_infinite(sums)
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

    def partial(self, groups: Groups, column: pa.Array, field: Field | None) -> list[pa.Array]:
        return [*super().partial(groups, column, field), pa.array(_counts(groups, column))]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        return [*super().merge(groups, states), pa.array(add_counts(groups, states[1]))]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        sums, counts = states
        if pt.is_floating(sums.type):
            _refuse_infinite(sums)
        counts = counts.to_numpy()
        # Divided as decimals first, a sum would lose the digits that the type has no room for.
        means = _numbers(sums.cast(pa.float64())) / np.maximum(counts, 1)
        return pa.array(means, mask=counts == 0)


class Extreme(Function):
    """``min(field)`` and ``max(field)``: of the field's own type; strings by their UTF-8 bytes."""

    takes = ("integer", "number", "decimal", "string", "date", "timestamp", "time")

    def __init__(self, which: str) -> None:
        self._which = which

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {self._which: self.result(field)}

    def result(self, field: Field | None) -> pa.DataType:
        assert field is not None
        return arrow_type(field)

    def partial(self, groups: Groups, column: pa.Array, field: Field | None) -> list[pa.Array]:
        if not (pt.is_integer(column.type) or pt.is_floating(column.type)):
            return [_by_arrow(groups, column, self._which)]
        ids, values = groups.present(column)
        numbers = _numbers(values)
        if pt.is_floating(column.type):
            numbers = numbers + numbers.dtype.type(0)  # of -0.0 and 0.0 neither is less
            least, greatest = -np.inf, np.inf
        else:
            least, greatest = np.iinfo(numbers.dtype).min, np.iinfo(numbers.dtype).max
        low = self._which == "min"
        found = np.full(groups.count, greatest if low else least, numbers.dtype)
        (np.minimum if low else np.maximum).at(found, ids, numbers)
        return [pa.array(found, column.type, mask=_no_values(groups, ids))]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        return self.partial(groups, states[0], None)

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        return states[0]


class ApproxDistinct(Function):
    """``approx_distinct(field)``: an estimate of the number of different values; int64.

    The state is a HyperLogLog sketch (``lg_k`` 12, HLL_8) in the compact serialisation of Apache
    DataSketches, which its libraries for other languages read. Fed to it are strings, decimals'
    texts, 64-bit integers (also for booleans, and for days, or microseconds, of dates and times)
    and doubles. The library passes over empty strings, so they are fed as ``"\\0"``.

    A sketch per group and batch would be dear, so distinct values are gathered first (the open
    part) and become a sketch at the end, or when there are many.
    """

    takes = ("string", "integer", "number", "decimal", "boolean", "date", "timestamp", "time")

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {"sketch": pa.binary()}

    def open_parts(self, field: Field | None) -> dict[str, pa.DataType]:
        assert field is not None
        return {"values": pa.list_(_hashable(pa.nulls(0, arrow_type(field))).type)}

    def result(self, field: Field | None) -> pa.DataType:
        return pa.int64()

    def partial(self, groups: Groups, column: pa.Array, field: Field | None) -> list[pa.Array]:
        ids, values = groups.present(_hashable(column))
        return [pa.nulls(groups.count, pa.binary()), _distinct(groups.count, ids, values)]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        sketches, lists = states
        ids = np.repeat(groups.ids, lists.value_lengths().to_numpy())
        merged: list[Any] = [None] * groups.count
        several: dict[int, Any] = {}
        found, present = groups.present(sketches)
        for group, sketch in zip(found.tolist(), present.to_pylist(), strict=True):
            if group in several:
                several[group].update(_SKETCHES.hll_sketch.deserialize(sketch))
            elif merged[group] is None:
                merged[group] = sketch
            else:
                several[group] = _union(merged[group], sketch)
        for group, union in several.items():
            merged[group] = union.get_result(_SKETCHES.HLL_8).serialize_compact()
        distinct = _distinct(groups.count, ids, lists.flatten())
        return [pa.array(merged, pa.binary()), distinct]

    def seal(self, states: list[pa.Array], longer_than: int) -> list[pa.Array]:
        sketches, lists = states
        lengths = lists.value_lengths().to_numpy()
        long = lengths > longer_than
        if not long.any():
            return states
        merged = sketches.to_pylist()
        values = lists.filter(pa.array(long)).flatten().to_pylist()
        start = 0
        for group in np.flatnonzero(long).tolist():
            end = start + int(lengths[group])
            merged[group] = _sketch(values[start:end], merged[group])
            start = end
        kept = lists.flatten().filter(pa.array(np.repeat(~long, lengths)))
        return [pa.array(merged, pa.binary()), _lists(np.where(long, 0, lengths), kept)]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        return pa.array([_estimate(sketch) for sketch in states[0].to_pylist()], pa.int64())


FUNCTIONS: dict[str, Function] = {
    "count": Count(),
    "sum": Sum(),
    "min": Extreme("min"),
    "max": Extreme("max"),
    "mean": Mean(),
    "approx_distinct": ApproxDistinct(),
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A function of :data:`FUNCTIONS`, and the dotted path of the field that it is of, if any."""

    function: str
    field: str | None = None

    def __str__(self) -> str:
        return f"{self.function}({self.field or ''})"


_METRIC = re.compile(r"\s*(\w+)\s*\(\s*(.*?)\s*\)\s*")


def parse_metric(text: str) -> Metric:
    """A metric as it is written: ``count()``, ``sum(amount)``, ``approx_distinct(device.os)``.

    Raises:
        AggregateError: not of that form, or no such function.
    """
    match = _METRIC.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise AggregateError(f"expected a metric such as count() or sum(amount), got {text!r}")
    function, field = match[1], match[2]
    if function not in FUNCTIONS:
        hint = did_you_mean(function, FUNCTIONS) or f"; expected {list_names(FUNCTIONS)}"
        raise AggregateError(f"{text}: no function {function!r}{hint}")
    if field == "*":
        raise AggregateError(f"{text}: '*' is no field" + "; write count()" * (function == "count"))
    if not field and not FUNCTIONS[function].optional:
        raise AggregateError(f"{text}: expected the field, as in {function}(amount)")
    return Metric(function, field or None)


def metric_field(metric: Metric, contract: Contract) -> Field | None:
    """The field that a metric is of.

    Raises:
        AggregateError: the contract has no such field, or the function does not take its type.
    """
    if metric.field is None:
        return None
    function = FUNCTIONS[metric.function]
    field = find_field(metric.field, contract, str(metric))
    if field.type not in function.takes:
        takes = list_names(function.takes)
        raise AggregateError(f"{metric}: {metric.field} is of type {field.type}, expected {takes}")
    if reason := function.refusal(field):
        raise AggregateError(f"{metric}: {reason}")
    return field


def find_field(path: str, contract: Contract, wanted_by: str) -> Field:
    """The field at a dotted path.

    Raises:
        AggregateError: no such field; the message begins with ``wanted_by``.
    """
    try:
        return contract.field(path)
    except KeyError:
        hint = did_you_mean(path, contract.paths())
        where = f"{wanted_by}: the contract {contract.name} has no field {path!r}{hint}"
        raise AggregateError(where) from None


def add_counts(groups: Groups, counts: pa.Array) -> np.ndarray:
    """Sums of an int64 column without nulls: int64."""
    total = np.zeros(groups.count, np.int64)
    np.add.at(total, groups.ids, counts.to_numpy())
    return total


def _numbers(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)


def _counts(groups: Groups, column: pa.Array) -> np.ndarray:
    ids, _ = groups.present(column)
    return groups.sizes if ids is groups.ids else np.bincount(ids, minlength=groups.count)


def _no_values(groups: Groups, ids: np.ndarray) -> np.ndarray | None:
    """Where a group has none of ``ids``; None if there is no such group."""
    if ids is groups.ids:
        return None
    return np.bincount(ids, minlength=groups.count) == 0


def _by_arrow(groups: Groups, column: pa.Array, how: str) -> pa.Array:
    """An aggregation of Arrow's own, one row a group."""
    table = pa.table({"id": groups.ids, "value": column})
    found = table.group_by("id", use_threads=False).aggregate([("value", how)])
    place = np.empty(groups.count, np.int64)
    place[found["id"].to_numpy()] = np.arange(groups.count)
    return found[f"value_{how}"].combine_chunks().take(pa.array(place))


def _sums(groups: Groups, column: pa.Array, type: pa.DataType) -> pa.Array:
    """Sums as ``type``, null where all values are."""
    if pt.is_floating(column.type):
        ids, values = groups.present(column)
        sums = np.bincount(ids, _numbers(values), groups.count)
        return pa.array(sums, pa.float64(), mask=_no_values(groups, ids))
    if pt.is_integer(column.type):
        ids, values = groups.present(column)
        numbers = _numbers(values)
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
    return _by_arrow(groups, column, "sum").cast(type)


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
    none = _no_values(groups, ids)
    valid = None if none is None else pa.array(~none).buffers()[1]
    return pa.Array.from_buffers(type, groups.count, [valid, pa.py_buffer(words)])


def _refuse_infinite(sums: pa.Array) -> None:
    finite = pc.is_finite(sums).fill_null(True)
    if not pc.all(finite, min_count=0).as_py():
        row = finite.index(False).as_py()
        raise Unrepresentable(row, sums.type, sums[row].as_py())


def _hashable(column: pa.Array) -> pa.Array:
    """The values as a sketch is fed with them: int64, float64 or string."""
    type = column.type
    if pt.is_string(type):
        return column
    if pt.is_decimal(type):
        return column.cast(pa.string())
    if pt.is_floating(type):
        return column.cast(pa.float64())
    if pt.is_uint64(type) or pt.is_timestamp(type) or pt.is_time64(type):
        return column.view(pa.int64())
    return (column.view(pa.int32()) if pt.is_date32(type) else column).cast(pa.int64())


def _distinct(count: int, ids: np.ndarray, values: pa.Array) -> pa.Array:
    """A list of different values for each group."""
    encoded = values.dictionary_encode()
    size = max(len(encoded.dictionary), 1)
    pairs = np.sort(ids.astype(np.int64) * size + encoded.indices.to_numpy())
    first = np.ones(len(pairs), bool)
    first[1:] = pairs[1:] != pairs[:-1]
    groups, codes = np.divmod(pairs[first], size)
    return _lists(np.bincount(groups, minlength=count), encoded.dictionary.take(pa.array(codes)))


def _lists(lengths: np.ndarray, values: pa.Array) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _sketch(values: list[Any], before: bytes | None) -> bytes:
    sketch = _SKETCHES.hll_sketch(LG_K, _SKETCHES.HLL_8)
    update = sketch.update
    for value in values:
        update("\0" if value == "" else value)
    if before is None:
        return sketch.serialize_compact()
    union = _union(before)
    union.update(sketch)
    return union.get_result(_SKETCHES.HLL_8).serialize_compact()


def _union(*sketches: bytes) -> Any:
    union = _SKETCHES.hll_union(LG_K)
    for sketch in sketches:
        union.update(_SKETCHES.hll_sketch.deserialize(sketch))
    return union


def _estimate(sketch: bytes | None) -> int:
    if sketch is None:
        return 0
    if len(sketch) < 1 << LG_K:
        # It still lists the hashes of all its values: their number knows no order.
        return round(_SKETCHES.hll_sketch.deserialize(sketch).get_estimate())
    # A union that was updated twice no longer knows the order of arrival: its estimate (the
    # "composite" one) depends on the values alone.
    return round(_union(sketch, sketch).get_estimate())
