"""Windows that stay open between commits: any cuts give what one batch over everything gives."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.aggregates import open_windows
from millstream.schemas.aggregates.functions import AggregateError
from millstream.schemas.aggregates.open_windows import (
    PANE,
    REVISION,
    Trigger,
    close,
    late_rows,
    next_end,
    trigger,
)
from millstream.schemas.aggregates.spec import AggregateSpec, aggregate_spec
from millstream.schemas.aggregates.states import finalise, merge_states, partial_states
from millstream.schemas.arrow import WATERMARK_FIELD, record_schema
from millstream.schemas.contract import Contract, Field
from millstream.schemas.watermarks import NEVER

FIELDS = (Field("ts", "timestamp", required=True), Field("page", "string"), Field("n", "integer"))
CONTRACT = Contract("id", "1", "clicks", FIELDS, event_time="ts")
SECOND = 10**6
WINDOWS = [
    {"fixed": "10s"},
    {"sliding": "10s", "every": "3s"},
    {"sliding": "12s", "every": "4s"},
    {"session": "7s"},
]
FOREVER = 1 << 61

Row = tuple[int, str | None, int]
"""Event time in seconds, page, n."""


def spec_of(window: dict[str, str]) -> AggregateSpec:
    metrics = {"events": "count()", "total": "sum(n)", "most": "max(n)"}
    return aggregate_spec("a", window=window, by=["page"], metrics=metrics, contract=CONTRACT)


def batch_of(rows: list[Row], marks: list[int] | None = None) -> pa.RecordBatch:
    schema = record_schema(CONTRACT)
    times = pa.array([t * SECOND for t, _, _ in rows], pa.int64()).view(schema.field("ts").type)
    pages, numbers = ([row[i] for row in rows] for i in (1, 2))
    columns = [times, pa.array(pages, pa.string()), pa.array(numbers, schema.field("n").type)]
    if marks is not None:
        columns.append(pa.array(marks, pa.int64()).view(WATERMARK_FIELD.type))
        schema = pa.schema([*schema, WATERMARK_FIELD])
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def states_of(rows: list[Row], spec: AggregateSpec, contribution: str = "") -> pa.Table:
    return merge_states([partial_states(batch_of(rows), spec, contribution)], spec)


def in_one_batch(rows: list[Row], spec: AggregateSpec) -> list[dict[str, Any]]:
    return finalise(states_of(rows, spec), spec).to_pylist()


def in_order(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(results, key=lambda r: (r["window_start"], r["page"] is None, r["page"] or ""))


class Stream:
    """Commits one after another, as a job makes them, of one partition."""

    def __init__(self, spec: AggregateSpec, how: Trigger, disorder: int) -> None:
        self.spec, self.how, self.disorder = spec, how, disorder
        self.held: pa.Table | None = None
        self.watermark, self.newest = NEVER, NEVER
        self.given: list[dict[str, Any]] = []
        self.late: list[Row] = []
        self.commits = 0

    def commit(self, rows: list[Row], watermark: int | None = None) -> None:
        marks = []
        for time, _, _ in rows:
            marks.append(max(self.newest - self.disorder * SECOND, NEVER))
            self.newest = max(self.newest, time * SECOND)
        late = late_rows(batch_of(rows, marks), self.spec, self.how.lateness_us)
        wanted = np.zeros(len(rows), bool) if late is None else late
        self.late += [row for row, gone in zip(rows, wanted, strict=True) if gone]
        rows = [row for row, gone in zip(rows, wanted, strict=True) if not gone]
        self.commits += 1
        new = states_of(rows, self.spec)
        before = self.watermark
        self.watermark = max(before, self.newest - self.disorder * SECOND)
        if watermark is not None:
            self.watermark = watermark
        closed = close(self.held, new, self.spec, self.how, before=before, watermark=self.watermark)
        self.held = closed.held
        results = open_windows.given(closed, self.spec, self.how, self.commits)
        self.given += results.to_pylist()

    @property
    def standing(self) -> list[dict[str, Any]]:
        """The results that stand: of each window and keys, the greatest revision."""
        found: dict[Any, dict[str, Any]] = {}
        for row in sorted(self.given, key=lambda r: r.get(REVISION, 0)):
            row = dict(row)
            pane = row.pop(PANE, None)
            row.pop(REVISION, None)
            place = row["window_start"], row["window_end"], row["page"]
            if pane == "retracted":
                assert found.pop(place) == row, "what is retracted is what was given"
            else:
                found[place] = row
        return in_order(list(found.values()))


def cut(rows: list[Row], cuts: list[int]) -> list[list[Row]]:
    places = sorted(c % (len(rows) + 1) for c in cuts)
    return [rows[a:b] for a, b in zip([0, *places], [*places, len(rows)], strict=True)]


PAGES = st.sampled_from([None, "", "a", "b"])
CUTS = st.lists(st.integers(0, 60), max_size=6)
ROWS = st.lists(st.tuples(st.integers(-90, 90), PAGES, st.integers(-9, 9)), max_size=60)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@given(rows=ROWS, cuts=CUTS, disorder=st.integers(0, 40), data=st.data())
@settings(deadline=None, max_examples=60)
def test_commits_add_up_to_one_batch_while_disorder_is_within_its_bound(
    window, rows, cuts, disorder, data
):
    rows = sorted(rows, key=lambda r: r[0] + data.draw(st.integers(0, max(disorder, 0))))
    spec = spec_of(window)
    stream = Stream(spec, Trigger(), disorder)
    for piece in cut(rows, cuts):
        stream.commit(piece)
    stream.commit([], FOREVER)
    assert not stream.late
    # Each window is given once, and whole.
    assert in_order(stream.given) == in_order(in_one_batch(rows, spec))
    assert stream.held is not None
    assert not len(stream.held)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@given(rows=ROWS, cuts=CUTS, disorder=st.integers(0, 20))
@settings(deadline=None, max_examples=60)
def test_what_is_late_depends_on_no_cut_and_the_rest_is_what_one_batch_gives(
    window, rows, cuts, disorder
):
    spec = spec_of(window)
    whole, parts = Stream(spec, Trigger(), disorder), Stream(spec, Trigger(), disorder)
    whole.commit(rows)
    for piece in cut(rows, cuts):
        parts.commit(piece)
    for stream in (whole, parts):
        stream.commit([], FOREVER)
    assert parts.late == whole.late
    left = list(rows)
    for row in whole.late:
        left.remove(row)
    assert in_order(parts.given) == in_order(whole.given) == in_order(in_one_batch(left, spec))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("early", [False, True])
@given(rows=ROWS, cuts=CUTS, disorder=st.integers(0, 20), lateness=st.integers(0, 40))
@settings(deadline=None, max_examples=40)
def test_corrections_stand_in_the_end(window, early, rows, cuts, disorder, lateness):
    spec = spec_of(window)
    stream = Stream(spec, Trigger(lateness * SECOND, early), disorder)
    for piece in cut(rows, cuts):
        stream.commit(piece)
    stream.commit([], FOREVER)
    left = list(rows)
    for row in stream.late:
        left.remove(row)
    assert stream.standing == in_order(in_one_batch(left, spec))


@pytest.mark.parametrize("window", WINDOWS[:3], ids=str)
@given(rows=ROWS, cuts=CUTS, disorder=st.integers(0, 20), lateness=st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_discarded_panes_add_up(window, rows, cuts, disorder, lateness):
    spec = spec_of(window)
    stream = Stream(spec, Trigger(lateness * SECOND, discarding=True), disorder)
    for piece in cut(rows, cuts):
        stream.commit(piece)
    stream.commit([], FOREVER)
    left = list(rows)
    for row in stream.late:
        left.remove(row)
    sums: dict[Any, list[int]] = {}
    for row in stream.given:
        total = sums.setdefault((row["window_start"], row["page"]), [0, 0])
        total[0] += row["events"]
        total[1] += row["total"]
    expected = {
        (row["window_start"], row["page"]): [row["events"], row["total"]]
        for row in in_one_batch(left, spec)
    }
    assert sums == expected


def test_panes_and_revisions():
    spec = spec_of({"fixed": "10s"})
    stream = Stream(spec, Trigger(20 * SECOND, early=True), 0)
    stream.commit([(1, "a", 1)])
    stream.commit([(12, "a", 1)])
    stream.commit([(3, "a", 5)])
    at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    first = [row for row in stream.given if row["window_start"] == at]
    assert [(r[PANE], r[REVISION], r["events"], r["total"]) for r in first] == [
        ("early", 1, 1, 1),
        ("on_time", 2, 1, 1),
        ("late", 3, 2, 6),
    ]


def test_sessions_that_grow_and_join_are_taken_back():
    spec = spec_of({"session": "5s"})
    stream = Stream(spec, Trigger(20 * SECOND, early=True), 0)
    rows: list[Row] = [(1, "a", 1), (8, "a", 1), (13, "b", 1), (4, "a", 5)]
    for row in rows:
        stream.commit([row])
    found = [
        (r[PANE], r[REVISION], r["window_start"].second, r["window_end"].second, r["total"])
        for r in stream.given
        if r["page"] == "a"
    ]
    assert found == [
        ("early", 1, 1, 6, 1),
        ("on_time", 2, 1, 6, 1),
        ("early", 2, 8, 13, 1),
        ("on_time", 3, 8, 13, 1),
        ("retracted", 4, 1, 6, 1),
        ("retracted", 4, 8, 13, 1),
        ("late", 4, 1, 13, 7),
    ]


def test_states_are_kept_only_as_long_as_they_are_needed():
    spec = spec_of({"fixed": "10s"})
    stream = Stream(spec, Trigger(5 * SECOND), 0)
    stream.commit([(1, "a", 1), (14, "a", 1)])
    assert stream.held is not None
    assert len(stream.held) == 2
    stream.commit([(15, "a", 1)])
    assert len(stream.held) == 1
    assert next_end(stream.held, spec) == 20 * SECOND


def test_what_cannot_be_had_is_refused():
    for window, asked, said in [
        ({"session": "5s"}, ("1m", False, True), "session"),
        ({"session": "5s"}, (None, True, True), "session"),
        ({"fixed": "5s"}, (None, False, True), "discarding"),
        ({"fixed": "5s"}, ("soon", False, False), "allowed_lateness"),
    ]:
        with pytest.raises(AggregateError, match=said):
            trigger(spec_of(window), *asked)
