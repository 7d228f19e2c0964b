"""What steps of every kind have in common: their results, and how failing records are found.

A step takes batches of records with their identity and gives those that it keeps, in their order.
What it makes of them must be what fields of a contract can hold, so that whatever follows (outputs,
aggregates, further steps) need not know where a column came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from .arrow import HIDDEN, field_of_arrow

T = TypeVar("T")


class StepError(ValueError):
    """A step that cannot work as it is defined, or whose result for a record is none."""


class Failure(NamedTuple):
    """A record that a step failed on: its row in the batch, and why."""

    row: int
    error: Exception


class Attempt(NamedTuple):
    """What a step made of a batch: the records that it kept, and those that it failed on.

    Records of the batch that are in neither were left out by the step.
    """

    records: pa.RecordBatch
    failures: Sequence[Failure]


class RecordStep(Protocol):
    """A step that has been opened for batches of one schema. It is picklable."""

    schema: pa.Schema
    """Of the batches that leave: the record's columns, then the identity columns there are."""

    def attempt(self, batch: pa.RecordBatch) -> Attempt:
        """Make of a batch what can be made of it; a record that fails stops no other."""
        ...


class Part(NamedTuple):
    """A part of a step's result: its columns without identity, and their rows in the batch."""

    records: pa.RecordBatch
    rows: np.ndarray


def in_pieces(rows: int, run: Callable[[int, int], T]) -> tuple[list[T], list[Failure]]:
    """Run over all rows, in pieces that get smaller around those that fail: results, failures.

    Exactly the rows on which ``run`` raises when it is given them alone have failed. A row that
    fails costs about twice the logarithm of its distance from the next; when all do, it costs one
    call.

    Args:
        run: is called with a first row and a number of rows.
    """
    results: list[T] = []
    failures: list[Failure] = []
    row, size = 0, rows
    while row < rows:
        size = min(size, rows - row)
        try:
            results.append(run(row, size))
        except Exception as exc:
            if size > 1:
                size //= 2
                continue
            failures.append(Failure(row, exc))
            row += 1
        else:
            row += size
            size *= 2
    return results, failures


def attempt_of(
    batch: pa.RecordBatch, parts: Sequence[Part], failures: Iterable[Failure], schema: pa.Schema
) -> Attempt:
    """An attempt from its parts: with identity, and without values that no field can be.

    Args:
        schema: the step's, of whose columns the parts have those that are no identity.
    """
    columns = pa.schema([field for field in schema if field.name not in HIDDEN])
    records = pa.Table.from_batches([part.records for part in parts], columns).combine_chunks()
    rows = np.concatenate([np.empty(0, np.int64), *(part.rows for part in parts)])
    wrong = wrong_values(records)
    failures = [*failures, *(Failure(int(rows[row]), error) for row, error in wrong)]
    if wrong:
        left = np.delete(np.arange(len(rows)), [row for row, _ in wrong])
        records, rows = records.take(pa.array(left)), rows[left]
    identity = batch.select([name for name in batch.schema.names if name in HIDDEN])
    if len(rows) < batch.num_rows:
        identity = identity.take(pa.array(rows))
    arrays = [*map(one_array, records.columns), *identity.columns]
    return Attempt(
        pa.RecordBatch.from_arrays(arrays, schema=schema),
        sorted(failures, key=lambda failure: failure.row),
    )


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, which it mostly is already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


_UTC = pa.timestamp("us", "UTC")


def plain_type(type: pa.DataType, path: str) -> pa.DataType:
    """The type of a contract's field that holds the values of a column.

    Raises:
        StepError: there is none.
    """
    plain = _plain(type)
    try:
        field_of_arrow(path, plain)
    except TypeError as exc:
        raise StepError(f"{path} is {exc}") from None
    return plain


def _plain(type: pa.DataType) -> pa.DataType:
    if pt.is_dictionary(type):
        return _plain(type.value_type)
    if pt.is_large_string(type) or pt.is_string_view(type):
        return pa.string()
    if pt.is_decimal(type):
        make = pa.decimal128 if type.precision <= 38 else pa.decimal256
        return make(type.precision, type.scale)
    if pt.is_timestamp(type):
        return _UTC
    if pt.is_date(type):
        return pa.date32()
    if pt.is_time(type):
        return pa.time64("us")
    if pt.is_struct(type):
        return pa.struct([pa.field(f.name, _plain(f.type)) for f in type.fields])
    if any(is_list(type) for is_list in _LISTS):
        return pa.list_(pa.field("item", _plain(type.value_type)))
    return type


_LISTS = (
    pt.is_list,
    pt.is_large_list,
    pt.is_fixed_size_list,
    pt.is_list_view,
    pt.is_large_list_view,
)

_RANGES = {
    pa.date32(): (pa.int32(), -719162, 2932896, "a date outside of the years 1 to 9999"),
    _UTC: (
        pa.int64(),
        -62135596800_000000,
        253402300799_999999,
        "a time outside of the years 1 to 9999",
    ),
    pa.time64("us"): (pa.int64(), 0, 86399_999999, "a time of day that is not within 24 hours"),
}
"""Of types that are numbers inside: the type of these, the least and greatest of them that a
value can be, and what the others are."""


def wrong_values(records: pa.Table) -> list[Failure]:
    """The rows, of columns of plain types, that hold what no value of a field can be.

    That is a number that is NaN or infinite, and a time that no calendar or clock has.
    """
    found: dict[int, Failure] = {}
    for name, column in zip(records.schema.names, records.columns, strict=True):
        if wrong := _wrong(one_array(column)):
            mask, words = wrong
            for row in np.flatnonzero(mask).tolist():
                error = StepError(f"{name} holds {words}")
                found.setdefault(row, Failure(row, error))
    return list(found.values())


def _wrong(column: pa.Array) -> tuple[np.ndarray, str] | None:
    """A mask of the rows that are wrong, and what they hold; ``None`` if none is."""
    if pt.is_floating(column.type):
        finite = pc.is_finite(column)  # null where the value is
        if pc.all(finite).as_py() is not False:
            return None
        return _mask(pc.invert(finite)), "NaN or an infinity, which no field can be"
    if column.type in _RANGES:
        storage, least, most, words = _RANGES[column.type]
        numbers = column.view(storage)
        found = pc.min_max(numbers).as_py()
        if found["min"] is None or least <= found["min"] <= found["max"] <= most:
            return None
        return _mask(pc.or_(pc.less(numbers, least), pc.greater(numbers, most))), words
    if pt.is_struct(column.type):
        wrong = [child for child in map(_wrong, column.flatten()) if child]
        return (np.logical_or.reduce([mask for mask, _ in wrong]), wrong[0][1]) if wrong else None
    if pt.is_list(column.type) and (inner := _wrong(column.flatten())):
        mask = np.zeros(len(column), bool)
        mask[pc.list_parent_indices(column).to_numpy()[inner[0]]] = True
        return mask, inner[1]
    return None


def _mask(wrong: pa.Array) -> np.ndarray:
    return wrong.fill_null(False).to_numpy(zero_copy_only=False)
