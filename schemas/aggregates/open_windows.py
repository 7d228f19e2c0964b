"""Windows that stay open from one commit to the next: which close, and what is kept of them.

A window ``[start, end)`` closes when the watermark reaches its end, and is given then; with allowed
lateness its states are kept for as long after that, and a late record gives the window again. The
watermark only grows, so the states of a slice are needed until the last window that holds it is
beyond correction. Nothing here knows Beam, or where states are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from ..arrow import WATERMARK
from ..watermarks import FOREVER, NEVER
from .functions import AggregateError
from .spec import CONTRIBUTION, SESSION_END, SLICE_START, WINDOW_END, WINDOW_START, AggregateSpec
from .states import among, finalise, group_rows, merge_states, state_schema, visible_schema
from .windows import Session, Sliding, parse_duration

PANE = "pane"
"""Column of results that may be given more than once: ``early`` (the window is still open),
``on_time`` (when it closes), ``late`` (a correction), ``retracted`` (a session that was given, and
has grown or been joined to another since: it is given under its new bounds)."""
REVISION = "revision"
"""Column of results that may be given more than once: of rows of one window and keys, the greatest
revision stands."""
PANES = (
    pa.field(PANE, pa.string(), nullable=False),
    pa.field(REVISION, pa.int64(), nullable=False),
)

Pane = Literal["retracted", "early", "on_time", "late"]


@dataclass(frozen=True)
class Trigger:
    """When windows are given, beside when they close.

    Attributes:
        lateness_us: how long after its end a window still takes records.
        early: also give open windows that have changed, with every commit.
        discarding: an early or late result is of the records since the last one, not of all.
    """

    lateness_us: int = 0
    early: bool = False
    discarding: bool = False

    @property
    def repeats(self) -> bool:
        """Whether a window may be given more than once."""
        return self.lateness_us > 0 or self.early


def trigger(
    spec: AggregateSpec, allowed_lateness: str | None, early: bool, discarding: bool
) -> Trigger:
    """The trigger that a job means.

    Raises:
        AggregateError: it cannot be had.
    """
    lateness = parse_duration(allowed_lateness, "allowed_lateness") if allowed_lateness else 0
    found = Trigger(lateness, early, discarding)
    if isinstance(spec.window, Session) and found.discarding:
        raise AggregateError(
            "window.session: what has come to a session since it was given may have given it other "
            "bounds, under which the rest was never given; leave out panes: discarding"
        )
    if discarding and not found.repeats:
        raise AggregateError(
            "discarding: says what an early or late result is of; give allowed_lateness or early"
        )
    return found


class Closed(NamedTuple):
    """What a commit makes of the windows of one shard.

    ``panes`` are results by pane, by :func:`visible_schema`; ``held`` are the states that are kept.
    """

    panes: dict[Pane, pa.Table]
    held: pa.Table

    @property
    def rows(self) -> int:
        """Results in all panes."""
        return sum(map(len, self.panes.values()))


def close(
    held: pa.Table | None,
    new: pa.Table,
    spec: AggregateSpec,
    trigger: Trigger,
    *,
    before: int,
    watermark: int,
) -> Closed:
    """Close the windows whose end the watermark has reached.

    Args:
        held: states that were kept, of one contribution.
        new: states of what came since, of the same contribution, sorted, each slice and group once;
            none of them is of a slice that is beyond correction.
        before: the watermark when ``held`` was kept.
        watermark: the watermark now, not before ``before``.

    Raises:
        AggregateOverflow: a result does not fit its type.
    """
    merged = merge_states([held, new], spec) if held is not None and len(held) else new
    panes: dict[Pane, pa.Table] = {"on_time": _between(merged, spec, before, watermark)}
    again = partial(_again, merged, new, spec, trigger)
    if isinstance(spec.window, Session):
        again = partial(_sessions_again, merged, new, spec)
    if isinstance(spec.window, Session) and trigger.repeats and held is not None:
        ended = pa.array(_micros(held[SESSION_END]) <= before)
        was_given = held if trigger.early else held.filter(ended)
        panes["retracted"] = _outgrown(was_given, merged, spec)
    if trigger.lateness_us and before > NEVER:
        panes["late"] = again(NEVER, before)
    if trigger.early:
        panes["early"] = again(watermark, FOREVER)
    keep = _ends(merged, spec, last=True) + trigger.lateness_us > watermark
    return Closed(
        {pane: table for pane, table in panes.items() if len(table)}, merged.filter(pa.array(keep))
    )


def given_schema(spec: AggregateSpec, trigger: Trigger) -> pa.Schema:
    """The columns of results: with pane and revision, where a window may be given repeatedly."""
    visible = visible_schema(spec)
    return pa.schema([*visible, *PANES]) if trigger.repeats else visible


def given(closed: Closed, spec: AggregateSpec, trigger: Trigger, revision: int) -> pa.Table:
    """Results of all panes, by :func:`given_schema`."""
    schema = given_schema(spec, trigger)
    tables = []
    for pane, table in closed.panes.items():
        columns = list(table.columns)
        if trigger.repeats:
            columns += [pa.array([pane] * len(table)), pa.array(np.full(len(table), revision))]
        tables.append(pa.Table.from_arrays(columns, schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def next_end(held: pa.Table, spec: AggregateSpec) -> int | None:
    """The least watermark at which a window of these states closes."""
    return int(_ends(held, spec, last=False).min()) if len(held) else None


def late_rows(batch: pa.RecordBatch, spec: AggregateSpec, lateness_us: int) -> np.ndarray | None:
    """A mask of the records for which a window is closed, and beyond correction, where they come.

    ``None`` if there are none. A batch without watermarks has none.
    """
    if WATERMARK not in batch.schema.names or not batch.num_rows:
        return None
    marks = batch.column(WATERMARK)
    if marks.null_count == len(marks):
        return None
    marks = marks.view(pa.int64()).fill_null(NEVER).to_numpy(zero_copy_only=False)
    times = batch.column(spec.event_time).view(pa.int64()).fill_null(0).to_numpy()
    highest = int(marks.max())
    # No window of a record closes before its own time has passed.
    if int(times.min()) + lateness_us > highest:
        return None
    closed = spec.window.first_closed(spec.window.slices(times)) + lateness_us
    late = closed <= marks
    return late if late.any() else None


def closing_times(states: pa.Table, spec: AggregateSpec) -> np.ndarray:
    """For each row of states the watermark at which its records are all given."""
    return _ends(states, spec, last=True)


def _between(merged: pa.Table, spec: AggregateSpec, after: int, until: int) -> pa.Table:
    """The windows that end after one watermark, and not after another."""
    if until <= after:
        return visible_schema(spec).empty_table()
    begun = _ends(merged, spec, last=False) <= until
    if not isinstance(spec.window, Sliding):
        begun &= _ends(merged, spec, last=True) > after
    windows = finalise(merged.filter(pa.array(begun)), spec, merged=True)
    if isinstance(spec.window, Sliding):
        ends = _micros(windows[WINDOW_END])
        windows = windows.filter(pa.array((ends > after) & (ends <= until)))
    return windows


def _again(
    merged: pa.Table,
    new: pa.Table,
    spec: AggregateSpec,
    trigger: Trigger,
    after: int,
    until: int,
) -> pa.Table:
    """The windows that what is new has touched, of those that end after one watermark and not
    after another."""
    touched = finalise(new, spec, merged=True)
    ends = _micros(touched[WINDOW_END])
    touched = touched.filter(pa.array((ends > after) & (ends <= until)))
    if trigger.discarding or not len(touched):
        return touched
    # A window's states are all in the slices from its start to its end.
    starts = _micros(touched[WINDOW_START])
    slices = _micros(merged[SLICE_START])
    near = (slices >= starts.min()) & (slices < int(_micros(touched[WINDOW_END]).max()))
    windows = finalise(merged.filter(pa.array(near)), spec, merged=True)
    same = [WINDOW_START, *(key.name for key in spec.keys)]
    return windows.filter(pa.array(among(windows, touched, same)))


def _sessions_again(
    merged: pa.Table,
    new: pa.Table,
    spec: AggregateSpec,
    after: int,
    until: int,
) -> pa.Table:
    """What :func:`_again` gives, of sessions: one that is new may lie within one that is longer."""
    touched = np.zeros(len(merged), bool)
    touched[sessions_around(new, merged, spec)] = True
    ends = _micros(merged[SESSION_END])
    touched &= (ends > after) & (ends <= until)
    return finalise(merged.filter(pa.array(touched)), spec, merged=True)


def _outgrown(given: pa.Table, merged: pa.Table, spec: AggregateSpec) -> pa.Table:
    """The sessions, of those that were given, that are part of one with other bounds now."""
    if not len(given):
        return visible_schema(spec).empty_table()
    now = sessions_around(given, merged, spec)
    bounds = (SLICE_START, SESSION_END)
    same = [_micros(given[name]) == _micros(merged[name])[now] for name in bounds]
    return finalise(given.filter(pa.array(~(same[0] & same[1]))), spec, merged=True)


def sessions_around(parts: pa.Table, merged: pa.Table, spec: AggregateSpec) -> np.ndarray:
    """For each session of ``parts`` the row of ``merged`` that it is part of.

    Sessions of one key do not overlap in ``merged``: it is the last that begins no later.
    """
    both = pa.concat_tables([merged, parts])
    names = [key.name for key in spec.keys]
    if names:
        ids = group_rows([both[name].combine_chunks() for name in names])[0].ids
    else:
        ids = np.zeros(len(both), np.int64)
    is_part = np.arange(len(both)) >= len(merged)
    order = np.lexsort((is_part, _micros(both[SLICE_START]), ids))
    latest = np.maximum.accumulate(np.where(is_part[order], -1, np.arange(len(order))))
    around = np.empty(len(both), np.int64)
    around[order] = order[latest]
    return around[len(merged) :]


def of_one(states: pa.Table, spec: AggregateSpec) -> pa.Table:
    """States of any contributions as those of one that has no name, each slice and group once."""
    return merge_states([contributed(states, spec, "")], spec)


def contributed(states: pa.Table, spec: AggregateSpec, contribution: str) -> pa.Table:
    """The same states under another contribution's name."""
    schema = state_schema(spec)
    place = schema.get_field_index(CONTRIBUTION)
    field = schema.field(place)
    column = pa.DictionaryArray.from_arrays(np.zeros(len(states), np.int32), [contribution])
    return states.set_column(place, field, column.cast(field.type))


def _ends(states: pa.Table, spec: AggregateSpec, *, last: bool) -> np.ndarray:
    if isinstance(spec.window, Session):
        return _micros(states[SESSION_END])
    slices = _micros(states[SLICE_START])
    return spec.window.last_closed(slices) if last else spec.window.first_closed(slices)


def _micros(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().view(pa.int64()).to_numpy()
