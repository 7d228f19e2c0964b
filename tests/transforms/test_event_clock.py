"""Event time as records pass: the same verdict for each, however they are cut."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow import SOURCE, WATERMARK
from millstream.schemas.watermarks import NEVER
from millstream.transforms.carry import SourceState
from millstream.transforms.event_clock import EventClock

Row = tuple[str, int | None]
"""Source and event time."""

STATES = {"a": SourceState(newest=5, floor=NEVER), "b": SourceState(newest=NEVER, floor=12)}
ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(-30, 30)), max_size=40)
CUTS = st.lists(st.integers(0, 40), max_size=6)
DISORDER = st.integers(0, 20)


def batch_of(rows: list[Row], names: list[str] | None = None) -> pa.RecordBatch:
    names = names or sorted({source for source, _ in rows}) or ["a"]
    indices = pa.array([names.index(source) for source, _ in rows], pa.int32())
    sources = pa.DictionaryArray.from_arrays(indices, pa.array(names))
    times = pa.array([time for _, time in rows], pa.timestamp("us", "UTC"))
    return pa.RecordBatch.from_arrays([times, sources], names=["ts", SOURCE])


def marks(clock: EventClock, rows: list[Row], names: list[str] | None = None) -> list[int]:
    stamped = clock.stamp(batch_of(rows, names))
    return stamped.column(WATERMARK).view(pa.int64()).to_pylist()


def one_by_one(rows: list[Row], disorder: int, states: dict[str, SourceState]) -> list[int]:
    """The rule itself: the greatest event time of the source before the row, less the disorder."""
    newest = {source: state.newest for source, state in states.items()}
    found = []
    for source, time in rows:
        floor = states[source].floor if source in states else NEVER
        found.append(max(newest.get(source, NEVER) - disorder, floor))
        newest[source] = max(newest.get(source, NEVER), NEVER if time is None else time)
    return found


def cut(rows: list[Row], cuts: list[int]) -> list[list[Row]]:
    places = sorted(place % (len(rows) + 1) for place in cuts)
    return [rows[a:b] for a, b in pairwise([0, *places, len(rows)])]


@given(rows=ROWS, cuts=CUTS, disorder=DISORDER)
def test_any_cutting_gives_the_marks_of_the_rule(rows, cuts, disorder):
    clock = EventClock("ts", disorder, STATES)
    found = [mark for piece in cut(rows, cuts) for mark in marks(clock, piece)]
    assert found == one_by_one(rows, disorder, STATES)


@given(rows=ROWS, cuts=CUTS, disorder=DISORDER)
def test_it_goes_on_from_where_it_stood(rows, cuts, disorder):
    states, found = dict(STATES), []
    for piece in cut(rows, cuts):
        clock = EventClock("ts", disorder, states)
        found += marks(clock, piece)
        for source in "abc":
            floor = states.get(source, SourceState()).floor
            states[source] = SourceState(newest=clock.newest(source), floor=floor)
    assert found == one_by_one(rows, disorder, STATES)


@given(rows=ROWS, disorder=DISORDER)
def test_a_source_is_judged_by_itself_alone(rows, disorder):
    together = marks(EventClock("ts", disorder, STATES), rows)
    for source in "abc":
        alone = marks(EventClock("ts", disorder, STATES), [row for row in rows if row[0] == source])
        assert alone == [m for m, row in zip(together, rows, strict=True) if row[0] == source]


@given(rows=ROWS, disorder=DISORDER)
def test_marks_of_a_source_never_fall(rows, disorder):
    found = marks(EventClock("ts", disorder, STATES), rows)
    for source in "abc":
        own = [mark for mark, row in zip(found, rows, strict=True) if row[0] == source]
        assert own == sorted(own)


def test_a_raised_floor_holds_from_then_on():
    clock = EventClock("ts", 3, {})
    assert marks(clock, [("a", 10), ("a", 4)]) == [NEVER, 7]
    clock.raise_floor("a", 9)
    assert marks(clock, [("a", 11), ("a", 14)]) == [9, 9]
    clock.raise_floor("a", 2)
    assert marks(clock, [("a", 0)]) == [11]


def test_sources_that_a_batch_names_and_does_not_hold():
    clock = EventClock("ts", 0, {})
    assert marks(clock, [("b", 1), ("b", 2)], ["a", "b", "c"]) == [NEVER, 1]
    assert clock.newest("a") == NEVER
    assert clock.newest("b") == 2


def test_an_empty_batch():
    clock = EventClock("ts", 0, STATES)
    assert marks(clock, []) == []
    assert clock.newest("a") == 5
