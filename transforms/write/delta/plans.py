"""Which rows of a Delta table stand no more when a load is upserted, or replaces partitions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ...receipts import Span, moment
from ..latest import KeyRange, Winners, winners
from ..partitions import Partition
from ..tables import Load
from .files import Stands
from .types import is_text

Rows = Callable[..., Iterator[pa.RecordBatch]]
"""Gives the load's rows, always the same, with the columns that are named, or all of them."""


class Plan(NamedTuple):
    """What a commit changes.

    ``stands`` tells of the table's rows, by their columns ``told``, which stay; rows outside of
    ``within`` all do, and all of them, unless it ``touches`` any. ``added`` gives the new rows,
    once the table's have been judged.
    """

    told: Sequence[str]
    within: Mapping[str, KeyRange]
    touches: bool
    stands: Stands
    added: Callable[[], Iterator[pa.RecordBatch]]


def replacing(load: Load, rows: Rows, table: pa.Schema) -> Plan:
    """The partitions that the load's rows fall into hold these rows alone.

    Args:
        table: the table's columns.
    """
    by = load.partition_by
    told = list(dict.fromkeys(partition.column for partition in by))
    replaced = winners((_distinct(_places(b, by)) for b in rows(told)), _place_names(by), ())
    return Plan(
        told=told,
        within=_within(_place_ranges(by, replaced.ranges), table),
        touches=len(replaced) > 0,
        stands=lambda batch: replaced.judge(_places(batch, by)),
        added=rows,
    )


def replacing_span(span: Span, rows: Rows) -> Plan:
    """Of a span of time the load's rows stand alone."""
    least, greatest = moment(span.start), moment(span.end)

    def stands(batch: pa.RecordBatch) -> np.ndarray:
        times = batch.column(span.column)
        within = pc.and_(pc.greater_equal(times, least), pc.less(times, greatest))
        return ~pc.fill_null(within, False).to_numpy(zero_copy_only=False)

    return Plan(
        told=[span.column],
        within={span.column: KeyRange(least, greatest)},
        touches=True,
        stands=stands,
        added=rows,
    )


def upserting(load: Load, rows: Rows, table: pa.Schema, latest: Winners) -> Plan:
    """Of each key the latest row stands, in the load or in the table.

    Args:
        table: the table's columns.
        latest: the rows of the load that stand against each other, and against deletions.
    """
    return Plan(
        told=[*load.key, *load.order],
        within=_within(latest.ranges, table),
        touches=len(latest) > 0,
        stands=latest.judge,
        added=lambda: _selected(rows(), latest.standing()),
    )


def marked(load: Load, rows: Rows) -> Rows:
    """The keys and the order of the rows that delete their key."""
    told = [*load.key, *load.order]

    def found(names: Sequence[str] = told) -> Iterator[pa.RecordBatch]:
        for batch in rows([*told, load.deleted]):
            whole = [batch.column(name).is_valid() for name in load.key]
            mask = batch.column(load.deleted)
            for valid in whole:
                mask = pc.and_(mask, valid)
            deletions = batch.filter(mask).select(list(names))
            if deletions.num_rows:
                yield deletions

    return found


def _selected(batches: Iterable[pa.RecordBatch], rows: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The rows that are true in ``rows``, which has one for each."""
    at = 0
    for batch in batches:
        some = batch.filter(pa.array(rows[at : at + batch.num_rows]))
        at += batch.num_rows
        if some.num_rows:
            yield some


def _place_names(by: Sequence[Partition]) -> list[str]:
    return [name for i in range(len(by)) for name in (f"{i}", f"{i} is null")]


def _places(batch: pa.RecordBatch, by: Sequence[Partition]) -> pa.RecordBatch:
    """The partition of each row, as columns without nulls, so that two nulls are one partition."""
    columns: list[pa.Array] = []
    for partition in by:
        values = partition.values(batch)
        columns += [_filled(values), values.is_null()]
    return pa.RecordBatch.from_arrays(columns, _place_names(by))


_FILLING = (
    (is_text, ""),
    (pt.is_boolean, False),
    (pt.is_date, dt.date(1970, 1, 1)),
    (pt.is_timestamp, dt.datetime(1970, 1, 1)),
    (pt.is_integer, 0),
)
"""What a partition's value can be → what stands for a null."""


def _filled(values: pa.Array) -> pa.Array:
    value = next(value for holds, value in _FILLING if holds(values.type))
    return pc.fill_null(values, pa.scalar(value, values.type))


def _distinct(batch: pa.RecordBatch) -> pa.RecordBatch:
    table = pa.Table.from_batches([batch])
    found = table.group_by(batch.schema.names, use_threads=False).aggregate([])
    return found.select(batch.schema.names).combine_chunks().to_batches()[0]


_STEPS = {"date": dt.timedelta(days=1), "hour": dt.timedelta(hours=1)}


def _place_ranges(by: Sequence[Partition], ranges: Mapping[str, KeyRange]) -> dict[str, KeyRange]:
    """Column → the range that the partitions' rows lie in, unless some of them have nulls there."""
    found: dict[str, KeyRange] = {}
    for i, partition in enumerate(by):
        if not ranges or ranges[f"{i} is null"].greatest:
            continue
        least, greatest = ranges[f"{i}"]
        if partition.function:
            least, greatest = _beginning(least), _beginning(greatest)
            greatest += _STEPS[partition.function]
        found[partition.column] = KeyRange(least, greatest)
    return found


def _beginning(place: dt.date | dt.datetime) -> dt.datetime:
    """The instant that a day or an hour begins at."""
    if isinstance(place, dt.datetime):
        return place.replace(tzinfo=dt.UTC)
    return dt.datetime.combine(place, dt.time(), dt.UTC)


_RELIABLE = (pt.is_integer, pt.is_string, pt.is_date, pt.is_timestamp)
"""What files can be told apart by: of decimals, deltalake's own statistics are rounded."""


def _within(ranges: Mapping[str, KeyRange], table: pa.Schema) -> dict[str, KeyRange]:
    """The ranges that files can be told apart by."""
    return {
        name: found
        for name, found in ranges.items()
        if any(holds(table.field(name).type) for holds in _RELIABLE)
        and not isinstance(found.least, dt.time)
        and "." not in name  # statistics have no other name for fields of objects
    }
