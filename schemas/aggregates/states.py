"""Partial states of windowed aggregates: the format ``millstream.state/1``, and its arithmetic.

A row of states is what one contribution (a run's token) put into one slice of time and one group
of keys; with session windows, into one session, whose end the row holds too. States of any batches,
in any order, merge into the same states; the visible table is finalised from them: windows that are
made of several slices, and sessions of several contributions, are joined there. Nothing here knows
Beam.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ..rules import holds_restricted
from .functions import AggregateOverflow, Groups, Unrepresentable, add_counts
from .spec import (
    CONTRIBUTION,
    ROWS,
    SESSION_END,
    SLICE_START,
    WINDOW_END,
    WINDOW_START,
    AggregateSpec,
    NamedMetric,
)
from .windows import Session, Sliding, join_overlapping

FORMAT = "millstream.state/1"

_TIME = pa.timestamp("us", "UTC")
_TEXT = pa.dictionary(pa.int32(), pa.string())
_FARTHEST_US = 1 << 62


def state_schema(spec: AggregateSpec, *, open: bool = False) -> pa.Schema:
    """The columns of states; open states, which are never stored, have more of them.

    ``rows`` counts the records that a row holds. The metadata names the format and carries
    :meth:`AggregateSpec.described`.
    """
    fields = [
        pa.field(SLICE_START, _TIME, nullable=False),
        *([pa.field(SESSION_END, _TIME, nullable=False)] if _has_sessions(spec) else []),
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
        ValueError: a record has no event time, or one too far away to reckon with.
    """
    times = batch.column(spec.event_time)
    starts = spec.window.slices(_event_times(times, spec))
    columns = {SLICE_START: _instants(starts)}
    if _has_sessions(spec):
        columns[SESSION_END] = _instants(spec.window.ends(starts))
    for key in spec.keys:
        columns[key.name] = _comparable(_at_path(batch, key.path))
    groups, states = _group(columns, spec, [key.name for key in spec.keys])
    states[CONTRIBUTION] = pa.DictionaryArray.from_arrays(
        np.zeros(groups.count, np.int32), [contribution]
    )
    states[ROWS] = pa.array(groups.sizes)
    for metric in spec.metrics:
        column = _at_path(batch, metric.column) if metric.column else times
        parts = metric.function.partial(groups, column, metric.field, times)
        states.update(zip((*metric.parts, *metric.open_parts), parts, strict=True))
    table = _table(states, state_schema(spec, open=True))
    return table if open else seal_states(table, spec)


def merge_states(
    tables: Iterable[pa.Table], spec: AggregateSpec, *, open: bool = False
) -> pa.Table:
    """States with each slice (or session), group and contribution once, sorted by them, nulls last.

    Takes open and sealed states. With ``open`` the result is open, and in no order.
    """
    by = [*(key.name for key in spec.keys), CONTRIBUTION]
    merged = _merge(tables, spec, by)
    return merged if open else _sorted(seal_states(merged, spec), [SLICE_START, *by])


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
    return _table(columns, state_schema(spec, open=longer_than > 0))


def finalise(states: pa.Table, spec: AggregateSpec, *, merged: bool = False) -> pa.Table:
    """The visible table of states, over all contributions, sorted by window and keys (nulls last).

    Args:
        states: sealed states.
        merged: they come from :func:`merge_states` and are of one contribution.

    Raises:
        AggregateOverflow: a result does not fit its type.
    """
    by = [key.name for key in spec.keys]
    if isinstance(spec.window, Sliding):
        windows = _slide(states, spec.window, spec, by)
    else:
        windows = states if merged else _merge([states], spec, by)
    if windows is not states:
        windows = _sorted(seal_states(windows, spec), [SLICE_START, *by])
    starts = _one(windows[SLICE_START])
    if _has_sessions(spec):
        ends = _one(windows[SESSION_END])
    else:
        ends = _instants(spec.window.ends(_micros(starts)))
    columns = [starts, ends, *(windows[name] for name in by)]
    for metric in spec.metrics:
        parts = [_one(windows[name]) for name in metric.parts]
        try:
            columns.append(metric.function.finalise(parts, metric.field))
        except Unrepresentable as found:
            group = [column[found.row] for column in columns[: 2 + len(by)]]
            raise _overflow(found, metric, group, spec) from None
    return pa.Table.from_arrays(columns, schema=visible_schema(spec))


def _slide(states: pa.Table, window: Sliding, spec: AggregateSpec, by: Sequence[str]) -> pa.Table:
    """Open states of windows, their starts in the place of slices'.

    A window is made of whole periods and of the head of the next. Periods are joined two by two,
    then four by four and so on: of n in a window, each state is merged about log n times, not n.
    """
    starts = _micros(_one(states[SLICE_START]))
    into_period = starts % window.every_us
    whole, head_us = divmod(window.size_us, window.every_us)

    def merge(*tables: pa.Table) -> pa.Table:
        return _merge(tables, spec, by)

    periods = merge(_moved(states, into_period))
    joined, count = periods, 1
    for bit in f"{whole:b}"[1:]:
        joined, count = merge(joined, _moved(joined, count * window.every_us)), 2 * count
        if bit == "1":
            joined, count = merge(periods, _moved(joined, window.every_us)), count + 1
    if not head_us:
        return joined
    heads = _moved(states, into_period + whole * window.every_us)
    return merge(joined, heads.filter(pa.array(into_period < head_us)))


def _moved(states: pa.Table, earlier_us: np.ndarray | int) -> pa.Table:
    """States whose slices begin earlier."""
    starts = _instants(_micros(_one(states[SLICE_START])) - earlier_us)
    place = states.schema.get_field_index(SLICE_START)
    return states.set_column(place, states.schema.field(place), starts)


def _overflow(
    found: Unrepresentable, metric: NamedMetric, group: Sequence[pa.Scalar], spec: AggregateSpec
) -> AggregateOverflow:
    start, end, *values = group
    said = {
        key.path: "(a value not shown)" if holds_restricted(key.field) else repr(value.as_py())
        for key, value in zip(spec.keys, values, strict=True)
    }
    result = "a value not shown" if metric.is_hidden else found.value
    return AggregateOverflow(
        f"{spec.name}.{metric.name}: {metric.metric} is {result}, which cannot be represented "
        f"as {found.type}, in the window [{_iso(start)}, {_iso(end)})"
        + "".join(f", {path} {value}" for path, value in said.items())
    )


def _iso(instant: pa.Scalar) -> str:
    """ISO 8601 of any year, also of those that ``datetime`` does not have."""
    return f"{np.datetime64(instant.value, 'us')}".removesuffix(".000000") + "+00:00"


def _merge(tables: Iterable[pa.Table], spec: AggregateSpec, by: Sequence[str]) -> pa.Table:
    """Open states, each slice (or session) and combination of the columns ``by`` once."""
    schema = state_schema(spec, open=True)
    opened = [_opened(table, schema) for table in tables]
    table = pa.concat_tables(opened).combine_chunks() if opened else schema.empty_table()
    columns = {name: _one(table[name]) for name in schema.names}
    groups, merged = _group(columns, spec, by)
    if CONTRIBUTION not in merged:
        merged[CONTRIBUTION] = pa.nulls(groups.count, _TEXT)
    merged[ROWS] = pa.array(add_counts(groups, columns[ROWS]))
    for metric in spec.metrics:
        names = (*metric.parts, *metric.open_parts)
        states = metric.function.merge(groups, [columns[name] for name in names])
        merged.update(zip(names, states, strict=True))
    return _table(merged, schema)


def _group(
    columns: Mapping[str, pa.Array], spec: AggregateSpec, by: Sequence[str]
) -> tuple[Groups, dict[str, pa.Array]]:
    """Which rows make one row of states; and of each such row the slice and the columns ``by``.

    Rows are of one slice and agree in ``by``; of sessions, they agree and overlap.
    """
    if not _has_sessions(spec):
        names = [SLICE_START, *by]
        groups, found = group_rows([columns[name] for name in names])
        return groups, dict(zip(names, found, strict=True))
    starts, ends = _micros(columns[SLICE_START]), _micros(columns[SESSION_END])
    if by:
        alike, found = group_rows([columns[name] for name in by])
    else:
        alike, found = Groups(np.zeros(len(starts), np.int64), min(len(starts), 1)), []
    groups, firsts, ends = join_overlapping(alike.ids, starts, ends)
    those = pa.array(alike.ids[firsts])
    grouped = {name: column.take(those) for name, column in zip(by, found, strict=True)}
    grouped[SLICE_START], grouped[SESSION_END] = _instants(starts[firsts]), _instants(ends)
    return groups, grouped


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


def _has_sessions(spec: AggregateSpec) -> bool:
    return isinstance(spec.window, Session)


def _event_times(column: pa.Array, spec: AggregateSpec) -> np.ndarray:
    """Microseconds since 1970-01-01, which no window's arithmetic overflows."""
    if column.null_count:
        raise ValueError(f"{column.null_count} records have no event time in {spec.event_time}")
    times = _micros(column.cast(_TIME))
    if len(times) and not -_FARTHEST_US < times.min() <= times.max() < _FARTHEST_US:
        raise ValueError(f"a record's event time in {spec.event_time} is beyond 140,000 years")
    return times


def _micros(instants: pa.Array) -> np.ndarray:
    return instants.view(pa.int64()).to_numpy()


def _instants(micros: np.ndarray) -> pa.Array:
    return pa.array(micros).view(_TIME)


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column if isinstance(column, pa.Array) else column.combine_chunks()


def _at_path(batch: pa.RecordBatch, path: str) -> pa.Array:
    first, *rest = path.split(".")
    column = batch.column(first)
    return pc.struct_field(column, rest) if rest else column


def _comparable(key: pa.Array) -> pa.Array:
    """The key with equal values alike: -0.0 becomes 0.0."""
    return pc.add(key, pa.scalar(0, key.type)) if pt.is_floating(key.type) else key


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


def among(table: pa.Table, wanted: pa.Table, names: Sequence[str]) -> np.ndarray:
    """A mask of the rows that agree in columns with a row that is wanted, nulls being alike."""
    parts = [part.select(names) for part in (table, wanted)]
    both = pa.concat_tables(parts, promote_options="permissive")
    groups, _ = group_rows([both[name].combine_chunks() for name in names])
    is_wanted = np.zeros(groups.count, bool)
    is_wanted[groups.ids[len(table) :]] = True
    return is_wanted[groups.ids[: len(table)]]


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
