"""Metrics over a few groups, by any way that batches and merges can go."""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import Any

import pyarrow as pa
from millstream.schemas.aggregates.spec import AggregateSpec, aggregate_spec
from millstream.schemas.aggregates.states import finalise, merge_states, partial_states, seal_states
from millstream.schemas.arrow import record_schema
from millstream.schemas.contract import Contract, Field

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
Row = tuple[str, int, Any]
"""A group's name, an event time in microseconds since 1970, and a value."""


@cache
def contract_of(x: Field) -> Contract:
    """Records of an event time ``ts``, a group ``g`` and the field ``x``."""
    fields = (Field("ts", "timestamp", required=True), Field("g", "string"), x)
    return Contract("id", "1", "things", fields, event_time="ts")


@cache
def spec_of(metric: str, x: Field) -> AggregateSpec:
    """One window, which holds every event time from 1970 on, for each group."""
    window, contract = {"fixed": "100000d"}, contract_of(x)
    return aggregate_spec("of", window=window, by=["g"], metrics={"m": metric}, contract=contract)


def batch_of(rows: list[Row], x: Field) -> pa.RecordBatch:
    groups, times, values = zip(*rows, strict=True) if rows else ((), (), ())
    schema = record_schema(contract_of(x))
    columns = [pa.array(times, pa.int64()).view(schema.field("ts").type), groups, values]
    arrays = [
        c if isinstance(c, pa.Array) else pa.array(c, f.type)
        for c, f in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def states_of(rows: list[Row], metric: str, x: Field, chance: Any = None) -> pa.Table:
    """Sealed states of rows: of one batch; with ``chance`` shuffled, cut and merged at random."""
    spec = spec_of(metric, x)
    if chance is None:
        return merge_states([partial_states(batch_of(rows, x), spec, open=True)], spec)
    rows = list(rows)
    chance.shuffle(rows)
    cuts = sorted(chance.randrange(len(rows) + 1) for _ in range(chance.randrange(5)))
    pieces = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    states = [partial_states(batch_of(p, x), spec, open=chance.random() < 0.7) for p in pieces]
    while len(states) > 1 and chance.random() < 0.8:
        chance.shuffle(states)
        some = [states.pop() for _ in range(chance.randint(1, len(states)))]
        merged = merge_states(some, spec, open=True)
        states.append(seal_states(merged, spec, chance.randrange(4)))
    return merge_states(states, spec)


def results_of(rows: list[Row], metric: str, x: Field, chance: Any = None) -> dict[str, Any]:
    """The metric's value of each group."""
    visible = finalise(states_of(rows, metric, x, chance), spec_of(metric, x))
    return dict(zip(visible["g"].to_pylist(), visible["m"].to_pylist(), strict=True))


def grouped(rows: list[Row]) -> dict[str, list[tuple[int, Any]]]:
    """Times and values of each group, nulls left out."""
    groups: dict[str, list[tuple[int, Any]]] = {}
    for group, time, value in rows:
        members = groups.setdefault(group, [])
        if value is not None:
            members.append((time, value))
    return groups
