"""What a part's windows are made of: the states of its own unit, and of those that windows reach
into.

A window belongs to the part in which it begins. Sliding windows reach a known time into what
follows; a session reaches as far as it goes on, and one that began before the part is not the
part's, whatever of it lies within.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ...schemas.aggregates.spec import SESSION_END, SLICE_START, WINDOW_START, AggregateSpec
from ...schemas.aggregates.states import finalise, merge_states, state_schema
from ...schemas.aggregates.windows import Session
from .parts import Part, needed_from, needed_until
from .units import Unit, Units


class Made(NamedTuple):
    """The windows that begin in a part: their states, of one contribution without a name, and their
    results. Of sliding windows the states are of the slices in the part."""

    states: pa.Table
    visible: pa.Table


@dataclass(frozen=True)
class Results:
    """Makes results of units that are done.

    Args:
        done: in order of time, without gaps; parts and what lies around them.

    All methods raise ``StorageError``, and ``AggregateOverflow`` if a result does not fit.
    """

    units: Units
    done: Sequence[Unit]

    def of_part(self, part: Part, spec: AggregateSpec) -> Made:
        """The windows of a part."""
        if isinstance(spec.window, Session):
            states = self._sessions(part, spec)
            return Made(states, finalise(states, spec, merged=True))
        near = self._between(spec, part.start, needed_until(spec.window, part.end))
        states = merge_states([near], spec)
        visible = _within(finalise(states, spec, merged=True), WINDOW_START, part)
        return Made(_within(states, SLICE_START, part), visible)

    def goes_on(self, spec: AggregateSpec, end: int) -> bool:
        """Whether a session that begins before an instant may go on after all units."""
        if not isinstance(spec.window, Session):
            return False
        covered = self.done[-1].end
        over = needed_from(spec.window, end)
        tables = [self.units.states(unit, spec) for unit in self.done if unit.end > over]
        before = [_filtered(table, micros(table, SESSION_END) > end) for table in tables]
        merged = merge_states(before, spec)
        begun = micros(merged, SLICE_START) < end
        return bool((begun & (micros(merged, SESSION_END) > covered)).any())

    def _sessions(self, part: Part, spec: AggregateSpec) -> pa.Table:
        lookback = needed_from(spec.window, part.start)
        tables = []
        for unit in self.done:
            if lookback < unit.end <= part.start:
                table = self.units.states(unit, spec)
                tables.append(_filtered(table, micros(table, SESSION_END) > part.start))
            elif part.start <= unit.start < part.end:
                tables.append(self.units.states(unit, spec))
        merged, covered = merge_states(tables, spec), part.end
        for unit in self.done:
            if unit.start < part.end:
                continue
            ours = _filtered(merged, micros(merged, SLICE_START) < part.end)
            if not (micros(ours, SESSION_END) > covered).any():
                break
            merged, covered = merge_states([merged, self.units.states(unit, spec)], spec), unit.end
        return _within(merged, SLICE_START, part)

    def _between(self, spec: AggregateSpec, start: int, end: int) -> pa.Table:
        near = Part(start, end)
        tables = [state_schema(spec).empty_table()]
        for unit in self.done:
            if unit.start < end and unit.end > start:
                tables.append(_within(self.units.states(unit, spec), SLICE_START, near))
        return pa.concat_tables(tables)


def micros(table: pa.Table, column: str) -> np.ndarray:
    """A column of time stamps as microseconds."""
    return table[column].combine_chunks().view(pa.int64()).to_numpy()


def _within(table: pa.Table, column: str, part: Part) -> pa.Table:
    starts = micros(table, column)
    return _filtered(table, (starts >= part.start) & (starts < part.end))


def _filtered(table: pa.Table, mask: np.ndarray) -> pa.Table:
    return table.filter(pa.array(mask))
