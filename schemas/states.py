"""Partial states of windowed aggregates: the format ``millstream.state/1``, and its arithmetic.

A row of states is what one contribution (a run's token) put into one slice of time and one group
of keys. States of any batches, in any order, merge into the same states; the visible table is
finalised from them. Nothing here knows Beam.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from .aggregate_spec import (
    CONTRIBUTION,
    ROWS,
    SLICE_START,
    WINDOW_END,
    WINDOW_START,
    AggregateSpec,
    NamedMetric,
)
from .metric_functions import AggregateOverflow, Groups, Unrepresentable, add_counts

FORMAT = "millstream.state/1"

_TIME = pa.timestamp("us", "UTC")
_TEXT = pa.dictionary(pa.int32(), pa.string())


def state_schema(spec: AggregateSpec, *, open: bool = False) -> pa.Schema:
    """The columns of states; open states, which are never stored, have more of them.

    ``rows`` counts the records that a row holds. The metadata names the format and carries
    :meth:`AggregateSpec.described`.
    """
    fields = [
        pa.field(SLICE_START, _TIME, nullable=False),
        *(pa.field(key.name, key.type) for key in spec.keys),
        pa.field(CONTRIBUTION, _TEXT, nullable=False),
        pa.field(ROWS, pa.int64(), nullable=False),
    ]
    for metric in spec.metrics:
        fields += [pa.field(name, type) for name, type in metric.parts.items()]
        if open:
            fields += [pa.field(name, type) for name, type in metric.open_parts.items()]
    if open:
        return pa.schema(fields)
    described = json.dumps(spec.described(), separators=(",", ":"))
    return pa.schema(fields, {"millstream.format": FORMAT, "millstream.aggregate": described})


def visible_schema(spec: AggregateSpec) -> pa.Schema:
    """The columns of results: the window, the keys, the metrics."""
    return pa.schema(
        [
            pa.field(WINDOW_START, _TIME, nullable=False),
            pa.field(WINDOW_END, _TIME, nullable=False),
            *(pa.field(key.name, key.type) for key in spec.keys),
            *(pa.field(m.name, m.function.result(m.field)) for m in spec.metrics),
        ]
    )


def partial_states(
    batch: pa.RecordBatch, spec: AggregateSpec, contribution: str = "", *, open: bool = False
) -> pa.Table:
    """The states of a batch of records: a row for each slice and group, in no order.

    Raises:
        ValueError: a record has no event time.
    """
    times = batch.column(spec.event_time)
    if times.null_count:
        raise ValueError(f"{times.null_count} records have no event time in {spec.event_time}")
    numbers = times.cast(_TIME).view(pa.int64()).to_numpy() // spec.window_us
    keys = [_comparable(_at_path(batch, key.path)) for key in spec.keys]
    groups, (numbers, *keys) = group_rows([pa.array(numbers), *keys])
    columns = [
        pa.array(numbers.to_numpy() * spec.window_us).view(_TIME),
        *keys,
        pa.DictionaryArray.from_arrays(np.zeros(groups.count, np.int32), [contribution]),
        pa.array(groups.sizes),
    ]
    for metric in spec.metrics:
        column = _at_path(batch, metric.metric.field) if metric.metric.field else times
        columns += metric.function.partial(groups, column, metric.field)
    table = pa.Table.from_arrays(columns, schema=state_schema(spec, open=True))
    return table if open else seal_states(table, spec)


def merge_states(
    tables: Iterable[pa.Table], spec: AggregateSpec, *, open: bool = False
) -> pa.Table:
    """States with each slice, group and contribution once, sorted by them (nulls last).

    Takes open and sealed states. With ``open`` the result is open, and in no order.
    """
    by = [*_grouping(spec), CONTRIBUTION]
    merged = _merge(tables, spec, by)
    return merged if open else _sorted(seal_states(merged, spec), by)


def seal_states(table: pa.Table, spec: AggregateSpec, longer_than: int = 0) -> pa.Table:
    """States whose open parts hold at most ``longer_than`` values for each group and metric; with
    0 they are sealed: the open parts are gone."""
    columns = {name: table[name] for name in table.schema.names}
    for metric in spec.metrics:
        if not metric.open_parts:
            continue
        names = [*metric.parts, *metric.open_parts]
        states = metric.function.seal([_one(columns[n]) for n in names], longer_than)
        columns.update(zip(names, states, strict=True))
    schema = state_schema(spec, open=longer_than > 0)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def finalise(states: pa.Table, spec: AggregateSpec, *, merged: bool = False) -> pa.Table:
    """The visible table of states, over all contributions, sorted by window and keys (nulls last).

    Args:
        states: sealed states.
        merged: they come from :func:`merge_states` and are of one contribution.

    Raises:
        AggregateOverflow: a result does not fit its type.
    """
    if not merged:
        by = _grouping(spec)
        states = _sorted(seal_states(_merge([states], spec, by), spec), by)
    starts = _one(states[SLICE_START])
    ends = pa.array(starts.view(pa.int64()).to_numpy() + spec.window_us).view(_TIME)
    columns = [starts, ends, *(states[key.name] for key in spec.keys)]
    for metric in spec.metrics:
        parts = [_one(states[name]) for name in metric.parts]
        try:
            columns.append(metric.function.finalise(parts, metric.field))
        except Unrepresentable as found:
            raise _overflow(found, metric, states, spec) from None
    return pa.Table.from_arrays(columns, schema=visible_schema(spec))


def _overflow(
    found: Unrepresentable, metric: NamedMetric, states: pa.Table, spec: AggregateSpec
) -> AggregateOverflow:
    row = states.slice(found.row, 1)
    start = row[SLICE_START][0].as_py()
    end = start + timedelta(microseconds=spec.window_us)
    group = "".join(f", {key.path} {row[key.name][0].as_py()!r}" for key in spec.keys)
    return AggregateOverflow(
        f"{spec.name}.{metric.name}: {metric.metric} is {found.value}, which cannot be represented "
        f"as {found.type}, in the window [{start.isoformat()}, {end.isoformat()}){group}"
    )


def _merge(tables: Iterable[pa.Table], spec: AggregateSpec, by: Sequence[str]) -> pa.Table:
    """Open states, each combination of the columns ``by`` once."""
    schema = state_schema(spec, open=True)
    opened = [_opened(table, schema) for table in tables]
    table = pa.concat_tables(opened).combine_chunks() if opened else schema.empty_table()
    columns = {name: _one(table[name]) for name in schema.names}
    groups, keys = group_rows([columns[name] for name in by])
    merged = dict(zip(by, keys, strict=True))
    if CONTRIBUTION not in merged:
        merged[CONTRIBUTION] = pa.nulls(groups.count, _TEXT)
    merged[ROWS] = pa.array(add_counts(groups, columns[ROWS]))
    for metric in spec.metrics:
        names = (*metric.parts, *metric.open_parts)
        states = metric.function.merge(groups, [columns[name] for name in names])
        merged.update(zip(names, states, strict=True))
    return pa.Table.from_arrays([merged[name] for name in schema.names], schema=schema)


def _opened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if table.schema.names == schema.names:
        return table.cast(schema) if table.schema != schema else table
    columns = []
    for field in schema:
        if field.name in table.schema.names:
            columns.append(table[field.name].cast(field.type))
        else:
            columns.append(pa.array([[]], field.type).take(pa.array(np.zeros(len(table), np.int8))))
    return pa.Table.from_arrays(columns, schema=schema)


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column if isinstance(column, pa.Array) else column.combine_chunks()


def _at_path(batch: pa.RecordBatch, path: str) -> pa.Array:
    first, *rest = path.split(".")
    column = batch.column(first)
    return pc.struct_field(column, rest) if rest else column


def _comparable(key: pa.Array) -> pa.Array:
    """The key with equal values alike: -0.0 becomes 0.0."""
    return pc.add(key, pa.scalar(0, key.type)) if pt.is_floating(key.type) else key


def _grouping(spec: AggregateSpec) -> list[str]:
    return [SLICE_START, *(key.name for key in spec.keys)]


def group_rows(keys: Sequence[pa.Array]) -> tuple[Groups, list[pa.Array]]:
    """The groups of rows that agree in every key, nulls being alike; and each group's keys.

    Arrow numbers the groups, but tells only of which rows they are made: 31 ns a row for a window
    and two strings, 3,000 groups. (Dictionary-encoding the keys and folding their codes into one
    number is dearer by 10 ns, and no cheaper where nearly every row is a group.)
    """
    names = [str(i) for i in range(len(keys))]
    table = pa.table([*keys, np.arange(len(keys[0]))], [*names, "row"])
    found = table.group_by(names, use_threads=False).aggregate([("row", "list")])
    members = _one(found["row_list"])
    ids = np.empty(len(table), np.int64)
    ids[members.flatten().to_numpy()] = np.repeat(
        np.arange(len(found)), members.value_lengths().to_numpy()
    )
    return Groups(ids, len(found)), [_one(found[name]) for name in names]


def _sorted(states: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows in the order of some columns, nulls last.

    Columns are folded into one number a row, by the rank of each of their values: of many rows,
    that takes less than half the time of sorting by several columns.
    """
    code, space = np.zeros(len(states), np.int64), 1
    for name in names:
        ranks, count = _ranks(_one(states[name]))
        if space * count >= 1 << 62:
            code, space = _ranks(pa.array(code))
        code, space = code * count + ranks, space * count
    return states.take(pa.array(np.argsort(code, kind="stable")))


def _ranks(column: pa.Array) -> tuple[np.ndarray, int]:
    """For each row the rank of its value among the different values, and how many there are."""
    if not pt.is_dictionary(column.type):
        column = column.dictionary_encode(null_encoding="encode")
    count = len(column.dictionary)
    ranks = np.empty(count, np.int64)
    ranks[pc.array_sort_indices(column.dictionary).to_numpy()] = np.arange(count)
    return ranks[column.indices.to_numpy()], count
