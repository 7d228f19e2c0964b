"""Aggregate: whole pipelines, bundles of any size, and shards that every worker agrees on."""

import datetime as dt
import pickle
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.aggregates.spec import aggregate_spec
from millstream.schemas.aggregates.states import (
    finalise,
    merge_states,
    partial_states,
    state_schema,
    visible_schema,
)
from millstream.schemas.arrow import batch_schema
from millstream.schemas.contract import Contract, Field
from millstream.transforms import aggregate
from millstream.transforms.aggregate import VISIBLE, Aggregate, shard_of
from millstream.transforms.tallies import TALLIES, Tally

RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"

CONTRACT = Contract(
    "id",
    "1",
    "clicks",
    (
        Field("ts", "timestamp", required=True),
        Field("page", "string"),
        Field("premium", "boolean"),
        Field("user", "string"),
        Field("amount", "integer"),
        Field("score", "number"),
        Field("price", "decimal", precision=10, scale=2),
        Field("day", "date"),
    ),
    event_time="ts",
)


def spec_of(window):
    metrics = {"events": "count()", "amount": "sum(amount)", "users": "approx_distinct(user)"}
    return aggregate_spec(
        "page_views", window=window, by=["page", "premium"], metrics=metrics, contract=CONTRACT
    )


SPEC = spec_of({"fixed": "1m"})
OTHER_SPECS = [
    pytest.param(spec_of(window), id=next(iter(window)))
    for window in (
        {"sliding": "10m", "every": "4m"},
        {"session": "8s"},
        {"daily": "Atlantic/Reykjavik"},
    )
]


def batch_of(size, seed=0, source="a.jsonl", pages=7):
    """Records over an hour, on both sides of 1970."""
    rng = np.random.default_rng(seed)
    names = np.array([*(f"/p{i}" for i in range(pages)), None], object)
    columns = {
        "ts": rng.integers(-18 * 10**8, 18 * 10**8, size),
        "page": pa.array(names[rng.integers(0, pages + 1, size)], pa.string()),
        "premium": rng.integers(0, 2, size).astype(bool),
        "user": [f"u{i}" for i in rng.integers(0, 500, size)],
        "amount": rng.integers(-(2**40), 2**40, size),
        "score": pa.nulls(size, pa.float64()),
        "price": pa.nulls(size, pa.decimal128(10, 2)),
        "day": pa.nulls(size, pa.date32()),
        "_source": pa.array([source] * size, pa.string()).dictionary_encode(),
        "_position": range(size),
        "_payload": [b"{}"] * size,
    }
    schema = batch_schema(CONTRACT)
    return pa.record_batch([pa.array(columns[f.name]).cast(f.type) for f in schema], schema)


def expected(batches, spec=SPEC):
    states = merge_states([partial_states(b, spec, "run") for b in batches], spec)
    return states, finalise(states, spec)


def run_pipeline(batches, checks, options=(), spec=SPEC, **arguments):
    with beam.Pipeline(options=PipelineOptions([f"--runner={RUNNER}", *options])) as pipeline:
        records = pipeline | beam.Create(batches) | beam.Reshuffle()
        result: Any = records | "Aggregate" >> Aggregate(spec, contribution="run", **arguments)
        assert result.states.element_type is result.visible.element_type is pa.RecordBatch
        for name, check in checks.items():
            assert_that(getattr(result, name), check, label=f"Check_{name}")


def same_table(want, names=("page", "premium")):
    def check(batches):
        found = pa.Table.from_batches(batches, want.schema)
        by = [(want.schema.names[0], "ascending"), *((name, "ascending") for name in names)]
        assert found.sort_by(by).to_pylist() == want.sort_by(by).to_pylist()

    return check


BATCHES = [batch_of(3000, i, f"{'ab'[i % 2]}.jsonl") for i in range(6)]


def visible_of(batches, spec=SPEC):
    return same_table(expected(batches, spec)[1])


def states_of(batches, spec=SPEC):
    """States, by what they estimate: the bytes of a sketch depend on the order of arrival."""
    want, visible = expected(batches, spec)

    def check(found):
        for batch in found:
            assert batch.schema.equals(state_schema(spec), check_metadata=True)
        table = pa.Table.from_batches(found, want.schema)
        assert len(table) == len(want)  # each group once
        assert sum(table["rows"].to_pylist()) == sum(b.num_rows for b in batches)
        assert set(table["contribution"].to_pylist()) == {"run"}
        assert finalise(table, spec) == visible

    return check


def tallies_of(batches):
    want = {}
    for batch in batches:
        source = batch["_source"][0].as_py()
        want[source] = want.get(source, 0) + batch.num_rows

    def check(tallies):
        found = {}
        for tally in tallies:
            assert isinstance(tally, Tally)
            assert (tally.outcome, tally.output) == ("written", "page_views")
            found[tally.source] = found.get(tally.source, 0) + tally.rows
        assert found == want

    return check


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ((), {}),
        ((), {"shards": 1}),
        ((), {"max_state_bytes": 1}),
        (("--direct_running_mode=multi_threading", "--direct_num_workers=3"), {"shards": 3}),
    ],
)
def test_a_pipeline(options, arguments):
    checks = {
        "visible": visible_of(BATCHES),
        "states": states_of(BATCHES),
        "tallies": tallies_of(BATCHES),
    }
    run_pipeline(BATCHES, checks, options, **arguments)


@pytest.mark.slow
def test_a_pipeline_of_other_windows():
    with beam.Pipeline(runner=RUNNER) as pipeline:
        records = pipeline | beam.Create(BATCHES) | beam.Reshuffle()
        for param in OTHER_SPECS:
            spec: Any = param.values[0]
            small = Aggregate(spec, contribution="run", shards=3, max_state_bytes=1)
            result: Any = records | f"Aggregate_{param.id}" >> small
            for name, check in {
                "visible": visible_of(BATCHES, spec),
                "states": states_of(BATCHES, spec),
                "tallies": tallies_of(BATCHES),
            }.items():
                assert_that(getattr(result, name), check, label=f"{param.id}_{name}")


@pytest.mark.slow
def test_worker_processes_agree_on_shards():
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    checks = {"visible": visible_of(BATCHES), "states": states_of(BATCHES)}
    run_pipeline(BATCHES, checks, options)


@pytest.mark.slow
def test_a_pipeline_without_records():
    def nothing(elements):
        assert elements == []

    run_pipeline([batch_of(0)], dict.fromkeys(("visible", "states", "tallies"), nothing))


@pytest.mark.slow
def test_a_pipeline_with_windows_of_its_own():
    """The window is a column; whatever windows the elements were in cut no group apart."""
    with beam.Pipeline(runner=RUNNER) as pipeline:
        records = (
            pipeline
            | beam.Create(list(enumerate(BATCHES)))
            | beam.MapTuple(lambda i, batch: TimestampedValue(batch, i * 100))
            | beam.WindowInto(FixedWindows(60))
        )
        result: Any = records | Aggregate(SPEC)
        assert_that(result.visible, visible_of(BATCHES))


@pytest.mark.slow
def test_an_overflow_fails_the_pipeline_and_names_the_group():
    rows = [{"ts": dt.datetime(2026, 3, 1, tzinfo=dt.UTC), "page": "/buy", "amount": 2**63 - 1}] * 2
    batch = pa.RecordBatch.from_pylist(rows, batch_schema(CONTRACT).remove_metadata())
    with pytest.raises(Exception, match=r"sum\(amount\) is 18446744073709551614.*page '/buy'"):
        run_pipeline([batch], {})


@pytest.mark.slow
def test_two_aggregates_of_the_same_records():
    other = aggregate_spec(
        "daily", window={"fixed": "1d"}, by=[], metrics={"n": "count()"}, contract=CONTRACT
    )
    with beam.Pipeline(runner=RUNNER) as pipeline:
        records = pipeline | beam.Create(BATCHES)
        one: Any = records | "Aggregate_page_views" >> Aggregate(SPEC)
        two: Any = records | "Aggregate_daily" >> Aggregate(other)
        assert_that(one.visible, visible_of(BATCHES), label="one")
        assert_that(two.visible, same_table(expected(BATCHES, other)[1], ()), label="two")


# Bundles, without a runner


def run_bundles(batches, bundles, max_state_bytes, shards=3, spec=SPEC):
    """(shard, batch) elements and tallies of batches that arrive in some bundles."""
    fn = pickle.loads(pickle.dumps(Aggregate(spec, shards=shards, max_state_bytes=max_state_bytes)))
    fn = fn._partial
    states, tallies = [], []
    for bundle in bundles:
        fn.start_bundle()
        for i in bundle:
            states += fn.process(batches[i])
        for output in fn.finish_bundle():
            if isinstance(output, TaggedOutput):
                assert output.tag == TALLIES
                tallies.append(output.value.value)
            else:
                states.append(output.value)
    return states, tallies


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=8),
    st.sampled_from([SPEC, *(param.values[0] for param in OTHER_SPECS)]),
    st.sampled_from([1, 5_000, 20_000, 1 << 26]),
    st.integers(1, 4),
    st.randoms(),
)
def test_any_bundles_give_the_same(sizes, spec, max_state_bytes, shards, chance):
    batches = [batch_of(size, seed) for size, seed in sizes]
    order = list(range(len(batches)))
    chance.shuffle(order)
    cuts = sorted(chance.randrange(len(order) + 1) for _ in range(3))
    bundles = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    elements, tallies = run_bundles(batches, bundles, max_state_bytes, shards, spec)
    assert sum(t.rows for t in tallies) == sum(b.num_rows for b in batches)
    assert all(batch.num_rows for _, batch in elements)

    merge = Aggregate(spec, max_state_bytes=max_state_bytes)._merge
    states, visible = [], []
    for shard in {shard for shard, _ in elements}:
        group = [batch for s, batch in elements if s == shard]
        chance.shuffle(group)
        results = []
        for output in merge.process((shard, group)):
            if isinstance(output, TaggedOutput):
                assert output.tag == VISIBLE
                results.append(output.value)
            else:
                states.append(output)
        assert_sorted(results)
        visible += results
    same_table(expected(batches, spec)[1])(visible)
    assert len(pa.Table.from_batches(states, state_schema(spec))) == len(expected(batches, spec)[0])


def assert_sorted(results):
    table = pa.Table.from_batches(results)
    by = [(name, "ascending") for name in ("window_start", "page", "premium")]
    assert table.equals(table.sort_by(by))


def test_a_bundle_that_failed_leaves_nothing_behind():
    fn = Aggregate(SPEC)._partial
    fn.start_bundle()
    list(fn.process(BATCHES[0]))
    fn.start_bundle()
    list(fn.process(BATCHES[1]))
    *_, tally = fn.finish_bundle()
    assert tally.value.value == Tally("b.jsonl", "written", 3000, "page_views")


def test_batches_stay_small(monkeypatch):
    monkeypatch.setattr(aggregate, "BATCH_BYTES", 10_000)
    monkeypatch.setattr(aggregate, "BATCH_ROWS", 50)
    elements, _ = run_bundles(BATCHES, [range(6)], 1 << 26)
    assert max(batch.num_rows for _, batch in elements) <= 50
    assert len(elements) > 6


def test_sources_are_counted():
    def counted(column):
        return aggregate._count_sources(pa.record_batch({"_source": column}))

    column = pa.array(["b", "a", None, "b"])
    assert counted(column) == counted(column.dictionary_encode()) == {"b": 2, "a": 1, "": 1}
    assert aggregate._count_sources(pa.record_batch({"x": [1, 2]})) == {"": 2}
    assert counted(column.dictionary_encode().slice(1, 1)) == {"a": 1}


# Shards


def test_shards_are_the_same_in_every_process_and_version():
    spec = aggregate_spec(
        "a",
        window={"fixed": "1m"},
        by=["page", "premium", "amount", "score", "price", "day"],
        metrics={"n": "count()"},
        contract=CONTRACT,
    )
    rows = [
        {
            "ts": dt.datetime(1970, 1, 1, 0, i, tzinfo=dt.UTC),
            "page": None if i == 3 else f"/é{i}",
            "premium": None if i == 4 else i % 2 == 0,
            "amount": None if i == 5 else -i,
            "score": None if i == 6 else i / 7,
            "price": None if i == 7 else i,
            "day": None if i == 8 else dt.date(1969, 12, 20 + i),
        }
        for i in range(12)
    ]
    batch = pa.RecordBatch.from_pylist(rows, batch_schema(CONTRACT))
    states = merge_states([partial_states(batch, spec)], spec)
    assert shard_of(states, spec, 1000).tolist() == GOLDEN_SHARDS
    backwards = states.take(pa.array(np.arange(12)[::-1]))
    assert shard_of(backwards, spec, 1000).tolist() == GOLDEN_SHARDS[::-1]


GOLDEN_SHARDS = [946, 610, 813, 754, 591, 193, 141, 983, 340, 694, 665, 856]


@pytest.mark.parametrize("spec", OTHER_SPECS)
def test_all_slices_of_a_key_meet_where_windows_are_made_of_several(spec):
    states, _ = expected(BATCHES, spec)
    shards: dict[Any, set[int]] = {}
    for keys, shard in zip(
        states.select(["page", "premium"]).to_pylist(), shard_of(states, spec, 100), strict=True
    ):
        shards.setdefault(tuple(keys.values()), set()).add(shard)
    assert len(shards) == 16
    together = all(len(found) == 1 for found in shards.values())
    assert together == spec.window.joins_slices
    assert len(set.union(*shards.values())) > 8


@pytest.mark.slow
def test_without_keys_all_slices_meet():
    spec = aggregate_spec(
        "a", window={"session": "1s"}, by=[], metrics={"n": "count()"}, contract=CONTRACT
    )
    states, visible = expected(BATCHES, spec)
    assert len(states) > 100
    assert len(set(shard_of(states, spec, 8))) == 1
    run_pipeline(BATCHES, {"visible": same_table(visible, ())}, spec=spec)


def test_shards_are_of_about_one_size():
    states, _ = expected([batch_of(20_000, pages=300)])
    sizes = np.bincount(shard_of(states, SPEC, 8), minlength=8)
    assert sizes.min() > 0.85 * sizes.mean()
    assert sizes.max() < 1.15 * sizes.mean()


def test_visible_schema_is_that_of_the_results():
    assert expected(BATCHES)[1].schema == visible_schema(SPEC)


def test_shards_are_refused():
    with pytest.raises(ValueError, match="shards: expected at least 1, got 0"):
        Aggregate(SPEC, shards=0)
