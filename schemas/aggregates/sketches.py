"""Estimates of how many different values there are, kept as HyperLogLog sketches."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ..arrow import arrow_type
from ..contract import Field
from .functions import Function, Groups, lists_of

LG_K = 12
"""Logarithm of a sketch's size: 4096 registers, a standard error of 1.6 %."""


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

    def partial(
        self, groups: Groups, column: pa.Array, field: Field | None, times: pa.Array
    ) -> list[pa.Array]:
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
                several[group].update(_datasketches().hll_sketch.deserialize(sketch))
            elif merged[group] is None:
                merged[group] = sketch
            else:
                several[group] = _union(merged[group], sketch)
        for group, union in several.items():
            merged[group] = union.get_result(_datasketches().HLL_8).serialize_compact()
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
        return [pa.array(merged, pa.binary()), lists_of(np.where(long, 0, lengths), kept)]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        return pa.array([_estimate(sketch) for sketch in states[0].to_pylist()], pa.int64())


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
    return lists_of(np.bincount(groups, minlength=count), encoded.dictionary.take(pa.array(codes)))


def _sketch(values: list[Any], before: bytes | None) -> bytes:
    sketch = _datasketches().hll_sketch(LG_K, _datasketches().HLL_8)
    update = sketch.update
    for value in values:
        update("\0" if value == "" else value)
    if before is None:
        return sketch.serialize_compact()
    union = _union(before)
    union.update(sketch)
    return union.get_result(_datasketches().HLL_8).serialize_compact()


def _union(*sketches: bytes) -> Any:
    union = _datasketches().hll_union(LG_K)
    for sketch in sketches:
        union.update(_datasketches().hll_sketch.deserialize(sketch))
    return union


def _estimate(sketch: bytes | None) -> int:
    if sketch is None:
        return 0
    if len(sketch) < 1 << LG_K:
        # It still lists the hashes of all its values: their number knows no order.
        return round(_datasketches().hll_sketch.deserialize(sketch).get_estimate())
    # A union that was updated twice no longer knows the order of arrival: its estimate (the
    # "composite" one) depends on the values alone.
    return round(_union(sketch, sketch).get_estimate())


@cache
def _datasketches() -> Any:
    """The library, whose names come from an extension module without type stubs.

    Importing it takes 0.1 s, which only who makes or reads a sketch shall pay.
    """
    import datasketches

    return datasketches
