"""States: any split, any order, any merging gives what a row-by-row reference gives."""

import datetime as dt
import decimal
import os
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.aggregate_spec import aggregate_spec
from millstream.schemas.arrow import record_schema
from millstream.schemas.contract import Contract, Field
from millstream.schemas.metric_functions import AggregateOverflow
from millstream.schemas.states import (
    finalise,
    merge_states,
    partial_states,
    seal_states,
    state_schema,
    visible_schema,
)

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


def spec_of(window="1m", by=("page",), metrics=METRICS, contract=CONTRACT):
    return aggregate_spec(
        "page_views", window={"fixed": window}, by=by, metrics=metrics, contract=contract
    )


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


def reference(rows, spec):
    """The visible table of records, row by row, as a list of dicts."""
    groups = {}
    for row in rows:
        number = (row["ts"] - _EPOCH) // _US // spec.window_us
        keys = tuple(at_path(row, key.path) for key in spec.keys)
        groups.setdefault((number, keys), []).append(row)

    def rank(item):
        number, keys = item[0]
        as_bytes = [k.encode() if isinstance(k, str) else k for k in keys]
        return number, [(k is None, 0 if k is None else k) for k in as_bytes]

    result = []
    for (number, keys), members in sorted(groups.items(), key=rank):
        start = _EPOCH + number * spec.window_us * _US
        out = {"window_start": start, "window_end": start + spec.window_us * _US}
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

times = st.integers(-5 * 10**8, 5 * 10**8).map(lambda us: _EPOCH + us * _US) | st.datetimes(
    dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)
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


def pieces_of(rows, chance):
    """The rows, shuffled and cut into batches."""
    rows = list(rows)
    chance.shuffle(rows)
    cuts = sorted(chance.randrange(len(rows) + 1) for _ in range(chance.randrange(5)))
    return [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


def merged_somehow(rows, spec, chance):
    """States of the rows, through random batches and merges, open and sealed."""
    states = [
        partial_states(batch_of(piece), spec, "run", open=chance.random() < 0.7)
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


@settings(max_examples=150, deadline=None)
@given(tables, keys, st.sampled_from(["1s", "1m", "7m", "1d"]), st.randoms())
def test_any_split_and_order_gives_what_the_reference_gives(rows, by, window, chance):
    spec = spec_of(window, by)
    states = merged_somehow(rows, spec, chance)
    assert states.schema.equals(state_schema(spec), check_metadata=True)
    assert sum(states["rows"].to_pylist()) == len(rows)
    with decimal.localcontext(prec=60):
        try:
            expected = reference(rows, spec)
        except OverflowError:
            with pytest.raises(AggregateOverflow, match="which cannot be represented as"):
                finalise(states, spec)
            return
        visible = finalise(states, spec, merged=True)
        assert visible.schema == visible_schema(spec)
        check_same(visible, expected)
        check_same(finalise(states, spec), expected)


@settings(max_examples=40, deadline=None)
@given(tables, keys, st.randoms(), st.randoms())
def test_states_are_the_same_by_any_way(rows, by, one, other):
    metrics = {n: m for n, m in METRICS.items() if n not in ("score_sum", "score_mean", "systems")}
    spec = spec_of("1m", by, metrics)
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


def test_a_float_sum_that_overflows_names_its_group():
    spec = spec_of("1m", ("page",), {"total": "sum(score)"})
    rows = [{"ts": _EPOCH, "page": "a", "score": 1.7e308}] * 2
    with pytest.raises(AggregateOverflow, match=r"sum\(score\) is inf, .* page 'a'"):
        finalise(partial_states(batch_of(rows), spec), spec)


def test_nothing_gives_nothing():
    spec = spec_of()
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


def test_states_outlive_a_file():
    spec = spec_of()
    rows = [{"ts": _EPOCH, "page": str(i % 3), "device": {"os": str(i)}} for i in range(50)]
    states = partial_states(batch_of(rows), spec, "run")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, states.schema) as writer:
        writer.write_table(states)
    read = pa.ipc.open_file(sink.getvalue()).read_all()
    assert finalise(merge_states([read], spec), spec) == finalise(states, spec)
