"""States: any split, any order, any merging gives what a row-by-row reference gives."""

import datetime as dt
import decimal
import functools
import os
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.aggregates.functions import AggregateOverflow
from millstream.schemas.aggregates.spec import aggregate_spec
from millstream.schemas.aggregates.states import (
    finalise,
    merge_states,
    partial_states,
    seal_states,
    state_schema,
    visible_schema,
)
from millstream.schemas.aggregates.windows import Daily, Fixed, Session, Sliding
from millstream.schemas.arrow import record_schema
from millstream.schemas.contract import Contract, Field

FIELDS = (
    Field("ts", "timestamp", required=True),
    Field("page", "string"),
    Field("device", "object", fields=(Field("os", "string"), Field("cores", "integer"))),
    Field("score", "number"),
    Field("premium", "boolean"),
    Field("price", "decimal", precision=10, scale=2),
    Field("assets", "decimal", precision=38, scale=2),
    Field("clicks", "integer"),
    Field("serial", "integer", storage="uint64"),
    Field("day", "date"),
    Field("clock", "time"),
    Field("rows", "string"),
)
CONTRACT = Contract("id", "1", "clicks", FIELDS, event_time="ts")
METRICS = {
    "events": "count()",
    "pages": "count(page)",
    "cores": "sum(device.cores)",
    "clicked": "sum(clicks)",
    "most": "max(clicks)",
    "score_sum": "sum(score)",
    "score_mean": "mean(score)",
    "least": "min(score)",
    "revenue": "sum(price)",
    "price_mean": "mean(price)",
    "cheapest": "min(price)",
    "assets_sum": "sum(assets)",
    "first": "min(ts)",
    "last_page": "max(page)",
    "last_day": "max(day)",
    "earliest": "min(clock)",
    "systems": "approx_distinct(device.os)",
}


def spec_of(window: Any = "1m", by=("page",), metrics=METRICS, contract=CONTRACT):
    if isinstance(window, str):
        window = {"fixed": window}
    return aggregate_spec("page_views", window=window, by=by, metrics=metrics, contract=contract)


def batch_of(rows, contract=CONTRACT):
    return pa.RecordBatch.from_pylist(rows, record_schema(contract))


# The reference

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_US = dt.timedelta(microseconds=1)


def at_path(row, path):
    for part in path.split("."):
        row = row and row[part]
    return row


def compute(function, values):
    """A metric over Python values, nulls among them."""
    present = [v for v in values if v is not None]
    if function == "count":
        return len(present)
    if function == "approx_distinct":
        return len(set(present))
    if not present:
        return None
    if function in ("min", "max"):
        return {"min": min, "max": max}[function](present)
    total = sum(present)
    if function == "mean":
        return float(total) / len(present)
    if isinstance(total, int) and not -(2**63) <= total < 2**63:
        raise OverflowError(total)
    if isinstance(total, Decimal) and abs(total) >= Decimal(10) ** 36:
        raise OverflowError(total)
    return total


def fixed_windows(times, window):
    size = window.size_us * _US
    starts = {_EPOCH + (time - _EPOCH) // size * size for time in times}
    return [(start, start + size) for start in starts]


def sliding_windows(times, window):
    size, every = window.size_us * _US, window.every_us * _US
    starts = set()
    for time in times:
        start = _EPOCH + (time - _EPOCH) // every * every
        while start + size > time:
            starts.add(start)
            start -= every
    return [(start, start + size) for start in starts]


def session_windows(times, window):
    gap = window.gap_us * _US
    sessions = []
    for time in sorted(times):
        if sessions and time - sessions[-1][1] < gap:
            sessions[-1][1] = time
        else:
            sessions.append([time, time])
    return [(first, last + gap) for first, last in sessions]


@functools.cache
def midnight(zone, day):
    """The first second whose date is that of a day, or a later one."""
    tz, at = ZoneInfo(zone), dt.datetime.combine(day, dt.time(), dt.UTC) - dt.timedelta(hours=30)
    for step in (dt.timedelta(hours=1), dt.timedelta(minutes=1), dt.timedelta(seconds=1)):
        while at.astimezone(tz).date() < day:
            at += step
        at -= step
    return at + dt.timedelta(seconds=1)


def daily_windows(times, window):
    windows = set()
    for time in times:
        day = time.astimezone(ZoneInfo(window.zone)).date()
        starts = sorted({midnight(window.zone, day + dt.timedelta(days=n)) for n in range(-1, 4)})
        after = next(i for i, start in enumerate(starts) if start > time)
        windows.add((starts[after - 1], starts[after]))
    return list(windows)


WINDOWS_OF = {
    Fixed: fixed_windows,
    Sliding: sliding_windows,
    Session: session_windows,
    Daily: daily_windows,
}


def reference(rows, spec):
    """The visible table of records, row by row, as a list of dicts."""
    groups = {}
    for row in rows:
        keys = tuple(at_path(row, key.path) for key in spec.keys)
        groups.setdefault(keys, []).append(row)

    def rank(item):
        (start, _), keys, _ = item
        as_bytes = [k.encode() if isinstance(k, str) else k for k in keys]
        return start, [(k is None, 0 if k is None else k) for k in as_bytes]

    windows = []
    for keys, members in groups.items():
        for start, end in WINDOWS_OF[type(spec.window)]([r["ts"] for r in members], spec.window):
            inside = [row for row in members if start <= row["ts"] < end]
            windows.append(((start, end), keys, inside))
    result = []
    for (start, end), keys, members in sorted(windows, key=rank):
        out = {"window_start": start, "window_end": end}
        out |= {key.name: value for key, value in zip(spec.keys, keys, strict=True)}
        for m in spec.metrics:
            field = m.metric.field
            values = [at_path(row, field) if field else 1 for row in members]
            out[m.name] = compute(m.metric.function, values)
        result.append(out)
    return result


def check_same(table, expected):
    """Equal: floats within 1e-9 of the terms, everything else exactly, the order too."""
    found = table.to_pylist()
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert list(got) == list(want)
        for name, value in want.items():
            if isinstance(value, float) and not name.startswith("least"):
                assert got[name] == pytest.approx(value, rel=1e-9, abs=1e-3), name
            else:
                assert got[name] == value, name


# Records

times = (
    st.integers(-5 * 10**8, 5 * 10**8).map(lambda us: _EPOCH + us * _US)
    | st.integers(-50, 50).map(lambda tens: _EPOCH + dt.timedelta(seconds=10 * tens))
    | st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC))
)
words = st.sampled_from(["a", "b", "", "é", "\U0001f600", "/shop"])


def maybe(values):
    return st.none() | values


def money(digits):
    return st.integers(-(10**digits) + 1, 10**digits - 1).map(lambda n: Decimal(f"{n}e-2"))


records = st.fixed_dictionaries(
    {
        "ts": times,
        "page": maybe(words),
        "device": maybe(
            st.fixed_dictionaries(
                {"os": maybe(words), "cores": maybe(st.integers(-(2**63), 2**63 - 1))}
            )
        ),
        "score": maybe(st.floats(-1e6, 1e6)),
        "premium": maybe(st.booleans()),
        "price": maybe(money(10)),
        "assets": maybe(money(38)),
        "clicks": maybe(st.integers(-10, 10)),
        "day": maybe(st.dates()),
        "clock": maybe(st.times()),
    }
)
tables = st.lists(records, max_size=25)
keys = st.lists(
    st.sampled_from(
        ["page", "device.os", "device.cores", "premium", "price", "assets", "day", "clock"]
    ),
    unique=True,
    max_size=3,
)


windows = st.sampled_from(
    [
        *({"fixed": size} for size in ("1s", "1m", "7m", "1d")),
        {"sliding": "10m", "every": "1m"},
        {"sliding": "1m", "every": "1m"},
        {"sliding": "100s", "every": "70s"},
        {"sliding": "7m", "every": "3m"},
        {"sliding": "23s", "every": "2s"},
        *({"session": gap} for gap in ("1ms", "10s", "1m", "1d", "10000d")),
        *({"daily": zone} for zone in ("UTC", "Europe/Berlin", "America/Sao_Paulo")),
    ]
)


def pieces_of(rows, chance):
    """The rows, shuffled and cut into batches."""
    rows = list(rows)
    chance.shuffle(rows)
    cuts = sorted(chance.randrange(len(rows) + 1) for _ in range(chance.randrange(5)))
    return [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


def merged_somehow(rows, spec, chance, contributions=("run",)):
    """States of the rows, through random batches and merges, open and sealed."""
    states = [
        partial_states(
            batch_of(piece), spec, chance.choice(contributions), open=chance.random() < 0.7
        )
        for piece in pieces_of(rows, chance)
    ]
    while len(states) > 1 and chance.random() < 0.8:
        chance.shuffle(states)
        some = [states.pop() for _ in range(chance.randint(1, len(states)))]
        merged = merge_states(some, spec, open=chance.random() < 0.5)
        if chance.random() < 0.5 and len(merged.schema) > len(state_schema(spec)):
            merged = seal_states(merged, spec, chance.randrange(1, 4))
        states.append(merged)
    return merge_states(states, spec)


@settings(max_examples=120, deadline=None)
@given(tables, keys, windows, st.sampled_from([("run",), ("a", "b", "c")]), st.randoms())
def test_any_split_and_order_gives_what_the_reference_gives(rows, by, window, runs, chance):
    spec = spec_of(window, by)
    states = merged_somehow(rows, spec, chance, runs)
    assert states.schema.equals(state_schema(spec), check_metadata=True)
    assert sum(states["rows"].to_pylist()) == len(rows)
    with decimal.localcontext(prec=60):
        try:
            expected = reference(rows, spec)
        except OverflowError:
            with pytest.raises(AggregateOverflow, match="which cannot be represented as"):
                finalise(states, spec)
            return
        visible = finalise(states, spec)
        assert visible.schema == visible_schema(spec)
        check_same(visible, expected)
        if len(runs) == 1:
            check_same(finalise(states, spec, merged=True), expected)


@settings(max_examples=40, deadline=None)
@given(tables, keys, windows, st.randoms(), st.randoms())
def test_states_are_the_same_by_any_way(rows, by, window, one, other):
    metrics = {n: m for n, m in METRICS.items() if n not in ("score_sum", "score_mean", "systems")}
    spec = spec_of(window, by, metrics)
    assert merged_somehow(rows, spec, one) == merged_somehow(rows, spec, other)


def test_contributions_stay_apart_in_states_and_meet_in_results():
    spec = spec_of()
    rows = [{"ts": _EPOCH + i * _US, "page": "a", "clicks": i} for i in range(4)]
    first = partial_states(batch_of(rows[:1]), spec, "run-1")
    second = partial_states(batch_of(rows[1:]), spec, "run-2")
    states = merge_states([second, first], spec)
    assert states["contribution"].to_pylist() == ["run-1", "run-2"]
    assert states["rows"].to_pylist() == [1, 3]
    visible = finalise(states, spec)
    check_same(
        visible, reference([{**dict.fromkeys(f.name for f in FIELDS), **r} for r in rows], spec)
    )


def test_a_window_holds_its_start_and_not_its_end():
    spec = spec_of("1m", (), {"n": "count()"})
    seconds = [-60.000001, -60, -0.000001, 0, 59.999999, 60]
    rows = [{"ts": _EPOCH + dt.timedelta(seconds=s)} for s in seconds]
    visible = finalise(partial_states(batch_of(rows), spec), spec)
    starts = [(t - _EPOCH).total_seconds() for t in visible["window_start"].to_pylist()]
    assert starts == [-120, -60, 0, 60]
    assert visible["n"].to_pylist() == [1, 2, 2, 1]
    assert visible["window_end"].to_pylist()[2] == _EPOCH + dt.timedelta(minutes=1)


SIMPLE = {"events": "count()", "first": "min(ts)", "last": "max(ts)"}
round_times = st.integers(-30, 30).map(lambda tens: _EPOCH + dt.timedelta(seconds=10 * tens))


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(round_times, st.sampled_from(["a", "b", None])), max_size=60),
    windows,
    st.sampled_from([(), ("page",)]),
    st.sampled_from([("run",), ("a", "b")]),
    st.randoms(),
)
def test_many_records_at_the_same_few_times(records, window, by, runs, chance):
    """Where edges meet: times on the edges of windows, distances of exactly a gap."""
    rows = [{"ts": time, "page": page} for time, page in records]
    spec = spec_of(window, by, SIMPLE)
    found = finalise(merged_somehow(rows, spec, chance, runs), spec)
    assert found.to_pylist() == reference(rows, spec)


def at_seconds(*seconds, page: Any = "a"):
    return [{"ts": _EPOCH + dt.timedelta(seconds=s), "page": page} for s in seconds]


def windows_in(table):
    """(start, end, events) of each row, in seconds since 1970."""
    rows = table.to_pylist()
    edges = [
        [(r[e] - _EPOCH).total_seconds() for e in ("window_start", "window_end")] for r in rows
    ]
    return [(*edge, row["events"]) for edge, row in zip(edges, rows, strict=True)]


def test_a_late_record_bridges_two_sessions():
    spec = spec_of({"session": "1m"}, ("page",), SIMPLE)
    early = partial_states(batch_of(at_seconds(0, 10, 100, 110)), spec, "one")
    assert windows_in(finalise(early, spec)) == [(0, 70, 2), (100, 170, 2)]
    late = partial_states(batch_of(at_seconds(60)), spec, "two")
    states = merge_states([late, early], spec)
    assert states["rows"].to_pylist() == [2, 1, 2]  # nothing but results knows of the bridge
    assert windows_in(finalise(states, spec)) == [(0, 170, 5)]


def test_records_a_gap_apart_are_of_two_sessions_as_in_beam():
    spec = spec_of({"session": "1m"}, (), SIMPLE)
    states = partial_states(batch_of(at_seconds(0, 60, 119.999999, 180)), spec)
    assert windows_in(finalise(states, spec)) == [(0, 60, 1), (60, 179.999999, 2), (180, 240, 1)]


def test_keys_have_sessions_of_their_own():
    spec = spec_of({"session": "1m"}, ("page",), SIMPLE)
    rows = at_seconds(0, 100) + at_seconds(50, page=None)
    found = finalise(partial_states(batch_of(rows), spec), spec)
    assert windows_in(found) == [(0, 60, 1), (50, 110, 1), (100, 160, 1)]
    assert found["page"].to_pylist() == ["a", None, "a"]


def test_windows_overlap_and_share_a_record():
    spec = spec_of({"sliding": "5m", "every": "2m"}, (), SIMPLE)
    found = finalise(partial_states(batch_of(at_seconds(-1, 61)), spec), spec)
    edges = [(-240, 1), (-120, 2), (0, 1)]
    assert windows_in(found) == [(start, start + 300, events) for start, events in edges]


def test_days_of_a_zone():
    spec = spec_of({"daily": "Europe/Berlin"}, (), SIMPLE)
    change = dt.datetime(2026, 3, 28, 23, tzinfo=dt.UTC)
    hours = [-0.001, 0, 22.999, 23]
    rows = [{"ts": change + dt.timedelta(hours=h)} for h in hours]
    found = finalise(partial_states(batch_of(rows), spec), spec)
    assert found["events"].to_pylist() == [1, 2, 1]
    assert found["window_end"].to_pylist()[1] == change + dt.timedelta(hours=23)


@pytest.mark.parametrize("window", [{"session": "30s"}, {"sliding": "1m", "every": "20s"}])
def test_many_keys(window):
    rng = np.random.default_rng(3)
    seconds = rng.integers(-600, 600, 3000) / 10
    pages = rng.integers(0, 300, 3000)
    rows = [
        {"ts": _EPOCH + dt.timedelta(seconds=second), "page": str(page)}
        for second, page in zip(seconds.tolist(), pages.tolist(), strict=True)
    ]
    spec = spec_of(window, ("page",), SIMPLE)
    states = [partial_states(batch_of(rows[i : i + 700]), spec) for i in range(0, 3000, 700)]
    found = finalise(merge_states(states, spec), spec, merged=True)
    assert found.to_pylist() == reference(rows, spec)


KINDS = [
    {"fixed": "7m"},
    {"sliding": "7m", "every": "3m"},
    {"session": "100000d"},
    {"daily": "Asia/Tokyo"},
    {"daily": "America/New_York"},
]


@pytest.mark.parametrize("window", KINDS)
def test_the_first_and_the_last_time(window):
    """A window may reach beyond the years that datetime has: int64 still has them."""
    first, last = -62_135_596_800_000_000, 253_402_300_799_999_999
    spec = spec_of(window, (), SIMPLE)
    batch = batch_of([{}, {}])
    times = pa.array([first, last]).view(batch.schema.field("ts").type)
    states = partial_states(batch.set_column(0, batch.schema.field(0), times), spec)
    found = finalise(states, spec)
    starts, ends = (found[name].cast(pa.int64()).to_pylist() for name in found.schema.names[:2])
    assert sorted(starts) == starts
    assert starts[0] <= first < ends[0]
    assert starts[-1] <= last < ends[-1]
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert sum(found["events"].to_pylist()) >= 2


def test_a_time_that_arithmetic_might_overflow_is_refused():
    batch = batch_of([{}])
    times = pa.array([-(1 << 63)]).view(batch.schema.field("ts").type)
    with pytest.raises(ValueError, match="event time in ts is beyond 140,000 years"):
        partial_states(batch.set_column(0, batch.schema.field(0), times), spec_of())


def test_null_keys_make_a_group_and_come_last():
    spec = spec_of("1m", ("page", "device.os"), {"n": "count()"})
    rows = [
        {"ts": _EPOCH, "page": None, "device": {"os": "x"}},
        {"ts": _EPOCH, "page": "a", "device": None},
        {"ts": _EPOCH, "page": "a", "device": {"os": None}},
        {"ts": _EPOCH, "page": "a", "device": {"os": "x"}},
        {"ts": _EPOCH, "page": None},
    ]
    visible = finalise(partial_states(batch_of(rows), spec), spec)
    assert visible.select(["page", "device_os", "n"]).to_pylist() == [
        {"page": "a", "device_os": "x", "n": 1},
        {"page": "a", "device_os": None, "n": 2},
        {"page": None, "device_os": "x", "n": 1},
        {"page": None, "device_os": None, "n": 1},
    ]


def test_floats_as_keys():
    spec = spec_of("1m", ("score",), {"n": "count()"})
    rows = [{"ts": _EPOCH, "score": score} for score in (0.0, -0.0, 1.5, None)]
    visible = finalise(partial_states(batch_of(rows), spec), spec)
    assert visible["score"].to_pylist() == [0.0, 1.5, None]
    assert visible["n"].to_pylist() == [2, 1, 1]


def test_an_overflow_names_metric_window_and_keys():
    spec = spec_of("1m", ("page", "device.os"), {"clicked": "sum(clicks)"})
    rows = [{"ts": _EPOCH, "page": "a", "clicks": 1}] + [
        {"ts": _EPOCH, "page": "/buy", "device": {"os": "x"}, "clicks": 2**63 - 1}
    ] * 2
    with pytest.raises(AggregateOverflow) as caught:
        finalise(partial_states(batch_of(rows), spec), spec)
    assert str(caught.value) == (
        "page_views.clicked: sum(clicks) is 18446744073709551614, which cannot be represented as "
        "int64, in the window [1970-01-01T00:00:00+00:00, 1970-01-01T00:01:00+00:00), "
        "page '/buy', device.os 'x'"
    )


@pytest.mark.parametrize("metric", ["sum(clicks)", "sum(clicks + 0)"])
def test_an_overflow_tells_no_classified_value(metric):
    personal = {"page", "clicks"}
    fields = (replace(f, classification="pii") if f.name in personal else f for f in FIELDS)
    contract = replace(CONTRACT, fields=tuple(fields))
    spec = spec_of("1m", ("page", "device.os"), {"clicked": metric}, contract)
    row = {"ts": _EPOCH, "page": "secret", "device": {"os": "x"}, "clicks": 2**63 - 1}
    batch = batch_of([row] * 2, contract)
    for column in spec.derived:
        batch = batch.append_column(column, batch.column("clicks"))
    with pytest.raises(AggregateOverflow) as caught:
        finalise(partial_states(batch, spec), spec)
    said = str(caught.value)
    assert "secret" not in said
    assert str(2**64 - 2) not in said
    assert said.endswith("page (a value not shown), device.os 'x'")


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ({"sliding": "2m", "every": "1m"}, "1969-12-31T23:59:00+00:00, 1970-01-01T00:01:00+00:00"),
        ({"session": "1m"}, "1970-01-01T00:00:00+00:00, 1970-01-01T00:01:00.500000+00:00"),
        ({"daily": "Asia/Tokyo"}, "1969-12-31T15:00:00+00:00, 1970-01-01T15:00:00+00:00"),
    ],
)
def test_an_overflow_names_the_window_of_any_kind(window, said):
    spec = spec_of(window, ("page",), {"clicked": "sum(clicks)"})
    rows = [{"ts": _EPOCH, "page": "é", "clicks": 2**63 - 1}] * 2
    rows += [{"ts": _EPOCH + dt.timedelta(seconds=0.5), "page": "é"}]
    with pytest.raises(AggregateOverflow) as caught:
        finalise(partial_states(batch_of(rows), spec), spec)
    assert f"in the window [{said}), page 'é'" in str(caught.value)


def test_an_overflow_before_the_years_of_datetime():
    spec = spec_of({"sliding": "2m", "every": "1m"}, (), {"clicked": "sum(clicks)"})
    first = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
    with pytest.raises(
        AggregateOverflow, match=r"\[0000-12-31T23:59:00\+00:00, 0001-01-01T00:01:00"
    ):
        finalise(partial_states(batch_of([{"ts": first, "clicks": 2**63 - 1}] * 2), spec), spec)


def test_a_float_sum_that_overflows_names_its_group():
    spec = spec_of("1m", ("page",), {"total": "sum(score)"})
    rows = [{"ts": _EPOCH, "page": "a", "score": 1.7e308}] * 2
    with pytest.raises(AggregateOverflow, match=r"sum\(score\) is inf, .* page 'a'"):
        finalise(partial_states(batch_of(rows), spec), spec)


@pytest.mark.parametrize("by", [(), ("page",)])
@pytest.mark.parametrize("window", KINDS)
def test_nothing_gives_nothing(window, by):
    spec = spec_of(window, by)
    for states in (
        partial_states(batch_of([]), spec),
        merge_states([], spec),
        merge_states([partial_states(batch_of([]), spec, open=True)], spec),
    ):
        assert states.schema == state_schema(spec)
        assert states.num_rows == 0
        assert finalise(states, spec).schema == visible_schema(spec)


def test_a_record_without_event_time_is_never_dropped():
    with pytest.raises(ValueError, match="1 records have no event time in ts"):
        partial_states(batch_of([{"page": "a"}]), spec_of())


def test_many_keys_of_many_values():
    """More combinations than 64 bits count."""
    fields = [Field("ts", "timestamp"), *(Field(f"k{i}", "integer") for i in range(6))]
    contract = Contract("id", "1", "c", tuple(fields), event_time="ts")
    names = [f"k{i}" for i in range(6)]
    spec = spec_of("1s", names, {"n": "count()"}, contract)
    rng = np.random.default_rng(1)
    columns = {name: rng.permutation(5000) for name in names}
    batch = pa.record_batch({"ts": pa.array(rng.integers(0, 10**12, 5000)), **columns})
    batch = batch.cast(record_schema(contract))
    visible = finalise(partial_states(batch, spec), spec)
    by = [(name, "ascending") for name in ("window_start", *names)]
    assert visible == visible.sort_by(by)
    assert visible.num_rows == 5000


def test_a_metric_may_be_called_rows():
    spec = spec_of("1m", ("page",), {"rows": "count()"})
    states = partial_states(batch_of([{"ts": _EPOCH}] * 3), spec)
    assert finalise(states, spec)["rows"].to_pylist() == [3]


# The format


def test_the_format_is_what_it_was():
    spec = spec_of("1m", ("page", "device.os"))
    schema = state_schema(spec)
    said = {
        "metadata": {k.decode(): v.decode() for k, v in schema.metadata.items()},
        "states": [f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in schema],
        "visible": [
            f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in visible_schema(spec)
        ],
    }
    path = Path(__file__).parent.parent / "golden" / "state_schema.json"
    data = msgspec.json.format(msgspec.json.encode(said), indent=2) + b"\n"
    # A difference is a new format version, not a new golden file.
    if os.environ.get("MILLSTREAM_WRITE_GOLDEN") and not path.exists():
        path.write_bytes(data)
    assert data.decode() == path.read_text("utf-8")


def test_states_of_sessions_hold_their_ends():
    columns = [f"{f.name}: {f.type}" for f in state_schema(spec_of({"session": "1m"}, ("page",)))]
    assert columns[:5] == [
        "slice_start: timestamp[us, tz=UTC]",
        "session_end: timestamp[us, tz=UTC]",
        "page: string",
        "contribution: dictionary<values=string, indices=int32, ordered=0>",
        "rows: int64",
    ]


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (
            {"sliding": "10m", "every": "4m"},
            '"window":"sliding","window_us":600000000,"every_us":240000000,"slice_us":120000000',
        ),
        ({"session": "1m"}, '"window":"session","gap_us":60000000'),
        ({"daily": "Asia/Tokyo"}, '"window":"daily","zone":"Asia/Tokyo"'),
    ],
)
def test_states_say_what_their_windows_are(window, said):
    metadata = state_schema(spec_of(window)).metadata
    assert metadata[b"millstream.format"] == b"millstream.state/1"
    start = '{"name":"page_views",' + said + ',"event_time":"ts",'
    assert metadata[b"millstream.aggregate"].decode().startswith(start)


@pytest.mark.parametrize("window", KINDS)
def test_states_outlive_a_file(window):
    spec = spec_of(window)
    rows = [{"ts": _EPOCH, "page": str(i % 3), "device": {"os": str(i)}} for i in range(50)]
    states = partial_states(batch_of(rows), spec, "run")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, states.schema) as writer:
        writer.write_table(states)
    read = pa.ipc.open_file(sink.getvalue()).read_all()
    assert finalise(merge_states([read], spec), spec) == finalise(states, spec)
