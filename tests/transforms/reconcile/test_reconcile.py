"""Two places held against each other: checksums as laws, differences row by row, their names."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import POSITION, SOURCE
from millstream.transforms.reconcile import By, Compared, parse_by
from millstream.transforms.reconcile import compare as comparing
from millstream.transforms.reconcile import spill as spilling
from millstream.transforms.reconcile.columns import common_type, in_common
from millstream.transforms.reconcile.hashes import Hashes, hash_column, hash_rows
from millstream.transforms.reconcile.parts import Names, partitions
from millstream.transforms.reconcile.summary import Summary, summarise
from millstream.transforms.stored.shape import fitted
from reconcile_support import InMemory, batch, compared, expected_kinds

SCHEMA = pa.schema(
    [
        pa.field("n", pa.int64()),
        pa.field("f", pa.float64()),
        pa.field("d", pa.decimal128(20, 3)),
        pa.field("t", pa.string()),
        pa.field("b", pa.bool_()),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("day", pa.date32()),
        pa.field("raw", pa.binary()),
        pa.field("l", pa.list_(pa.field("item", pa.string()))),
        pa.field("s", pa.struct([pa.field("x", pa.int32()), pa.field("y", pa.string())])),
    ]
)
NOON = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
_texts = st.sampled_from(["", "a", "b", "ab", "ä"])
_rows = st.fixed_dictionaries(
    {
        "n": st.none() | st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)]),
        "f": st.none() | st.sampled_from([0.0, -0.0, 1.5, float("inf"), float("nan")]),
        "d": st.none() | st.sampled_from([Decimal("0"), Decimal("1.500"), Decimal("-7.125")]),
        "t": st.none() | _texts,
        "b": st.none() | st.booleans(),
        "at": st.none() | st.sampled_from([NOON, NOON + dt.timedelta(microseconds=1)]),
        "day": st.none() | st.sampled_from([NOON.date(), NOON.date() + dt.timedelta(days=1)]),
        "raw": st.none() | st.sampled_from([b"", b"\xff"]),
        "l": st.none() | st.lists(st.none() | _texts, max_size=2),
        "s": st.none() | st.fixed_dictionaries({"x": st.none() | st.just(0), "y": _texts}),
    }
)


def canonical(row: dict[str, Any]) -> str:
    """A row as text that is the same for the same values."""
    f = row["f"]
    return repr({**row, "f": f if f is None or f != f else f + 0.0})


def summary(rows: list[dict[str, Any]], cuts: int = 1) -> Summary:
    """The summary of rows in so many batches."""
    whole = Summary()
    for i in range(cuts):
        part = batch(rows[i::cuts], SCHEMA)
        if part.num_rows:
            hashes = hash_rows([hash_column(column) for column in part.columns])
            whole += summarise(part, np.zeros(part.num_rows, np.int32), hashes)[0]
    return whole


@settings(max_examples=150, deadline=None)
@given(st.lists(_rows, max_size=5), st.lists(_rows, max_size=5), st.randoms(), st.data())
def test_checksums_are_equal_exactly_if_the_same_rows_are_there(one, other, chance, data):
    if data.draw(st.booleans()):
        other = [dict(row) for row in one]
        chance.shuffle(other)
        for row in data.draw(st.lists(_rows, max_size=1)):  # one row, or none, is another
            name = data.draw(st.sampled_from(SCHEMA.names))
            if other:
                other[0][name] = row[name]
    same = Counter(map(canonical, one)) == Counter(map(canonical, other))
    assert summary(one).is_like(summary(other)) == same
    assert (summary(one).checksum == summary(other).checksum) == same


@settings(max_examples=60, deadline=None)
@given(st.lists(_rows, max_size=12), st.integers(1, 5), st.randoms())
def test_a_summary_is_the_same_in_any_order_and_however_rows_are_cut(rows, cuts, chance):
    rows = [row if row["f"] is None or np.isfinite(row["f"]) else {**row, "f": 2.5} for row in rows]
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert summary(shuffled, cuts) == summary(rows)


def test_sums_are_exact():
    numbers = [2**63 - 1] * 3 + [-5, None]
    prices = [Decimal("99999999999999999.999")] * 1000
    schema = pa.schema([("n", pa.int64()), ("u", pa.uint64()), ("d", pa.decimal128(20, 3))])
    rows = [{"n": n, "u": 2**64 - 1, "d": d} for n, d in zip(numbers * 200, prices, strict=True)]
    part = batch(rows, schema)
    nothing = np.zeros(len(rows), np.uint64)
    (found,) = summarise(part, np.zeros(len(rows), np.int32), Hashes(nothing, nothing)).values()
    twice = found + found
    assert twice.columns["n"].sum == 400 * (3 * (2**63 - 1) - 5)
    assert twice.columns["u"].sum == 2000 * (2**64 - 1)
    assert twice.columns["d"].sum == 2 * sum(prices)
    assert (twice.columns["n"].nulls, twice.columns["n"].least) == (400, -5)


def test_sums_of_floats_are_compensated():
    schema = pa.schema([("f", pa.float64())])
    total = Summary()
    for value in [1e17, 1.0, -1e17] * 50:
        part = batch([{"f": value}], schema)
        nothing = np.zeros(1, np.uint64)
        total += summarise(part, np.zeros(1, np.int32), Hashes(nothing, nothing))[0]
    assert total.columns["f"].sum == 50.0


@pytest.mark.parametrize(
    "held",
    [
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["x", "a", "b", "a"])[1:],
    ],
)
def test_a_hash_does_not_depend_on_how_values_are_held(held):
    expected = hash_column(pa.array(["a", "b", "a"]))
    assert all(map(np.array_equal, hash_column(held), expected))


@pytest.mark.parametrize("column", SCHEMA.names)
def test_hashes_of_slices_are_slices_of_hashes(column):
    chance = random.Random(7)
    rows = [
        {"n": i, "f": i / 2, "d": Decimal(i), "t": str(i % 3), "b": i % 2 == 0, "at": NOON,
         "day": NOON.date(), "raw": bytes([i]), "l": [str(i)] * (i % 3), "s": {"x": i, "y": ""}}
        if chance.random() < 0.7 else dict.fromkeys(SCHEMA.names)
        for i in range(20)
    ]  # fmt: skip
    whole = batch(rows, SCHEMA).column(column)
    for half, part in zip(hash_column(whole), hash_column(whole[5:13]), strict=True):
        assert half[5:13].tolist() == part.tolist()


def test_what_is_not_compared_says_so():
    with pytest.raises(TypeError, match="map"):
        hash_column(pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())))


KEYED = Compared(pa.schema([("k", pa.string()), ("v", pa.int64())]), key=("k",))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=8),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=8),
)
def test_rows_that_differ_are_counted_as_they_are_one_by_one(source, destination):
    here, there = ([{"k": k, "v": v} for k, v in side] for side in (source, destination))
    found = compared(here, there, KEYED, "unused")
    assert found.kinds == expected_kinds(source, destination)
    assert found.unexplained == found.kinds.total()
    named = Counter(row.kind for row in found.named)
    assert named == Counter({kind: min(10, n) for kind, n in found.kinds.items()})
    assert (found.source_rows, found.destination_rows) == (len(source), len(destination))


def test_rows_are_named():
    source = [{"k": str(i), "v": i} for i in range(100)]
    destination = [dict(row) for row in source if row["k"] != "7"]
    destination[3]["v"] = -3
    destination += [{"k": "new", "v": 0}, {"k": "50", "v": 50}]
    found = compared(source, destination, KEYED, "unused")
    told = {row.kind: (dict(row.key), dict(row.changes)) for row in found.named}
    assert told == {
        "missing": ({"k": "7"}, {}),
        "extra": ({"k": "new"}, {}),
        "more": ({"k": "50"}, {}),
        "changed": ({"k": "3"}, {"v": (3, -3)}),
    }
    assert (found.changed, found.looked_at) == ({"v": 1}, 1)
    (partition,) = found.partitions
    assert (partition.source_keys, partition.destination_keys) == (100, 100)


def test_keys_with_a_null_in_them_are_compared_as_whole_rows():
    source = [{"k": None, "v": 1}, {"k": None, "v": 2}]
    found = compared(source, [{"k": None, "v": 2}, {"k": None, "v": 3}], KEYED, "unused")
    assert found.kinds == {"missing": 1, "extra": 1}


def test_without_a_key_whole_rows_are_named():
    how = Compared(KEYED.schema)
    found = compared([{"k": "a", "v": 1}], [{"k": "a", "v": 2}], how, "unused")
    assert [(row.kind, row.key) for row in found.named] == [
        ("missing", {"k": "a", "v": 1}),
        ("extra", {"k": "a", "v": 2}),
    ]


def test_only_partitions_that_differ_are_looked_into():
    how = Compared(
        pa.schema([("k", pa.int64()), ("at", pa.timestamp("us", "UTC"))]),
        ("k",),
        (By("at", "day"),),
    )
    source = [{"k": i, "at": NOON + dt.timedelta(days=i % 3)} for i in range(30)]
    found = compared(source, source[:-1], how, "unused")
    assert [row.key for row in found.named] == [{"k": 29}]
    assert [(p.name, p.is_alike, p.source_keys) for p in found.partitions] == [
        ("at=2026-11-29", True, 0),
        ("at=2026-11-30", True, 0),
        ("at=2026-12-01", False, 10),
    ]


def test_a_row_that_has_moved_to_another_partition_is_changed():
    how = Compared(pa.schema([("k", pa.int64()), ("c", pa.string())]), ("k",), (By("c"),))
    found = compared([{"k": 1, "c": "NO"}], [{"k": 1, "c": None}], how, "unused")
    assert found.kinds == {"changed": 1}
    assert found.named[0].changes == {"c": ("NO", None)}
    assert [p.name for p in found.partitions] == ["c=(null)", "c=NO"]


def test_what_has_a_reason_is_counted_and_not_named():
    schema = pa.schema([*KEYED.schema, (SOURCE, pa.string()), (POSITION, pa.int64())])
    rows = [{"k": str(i), "v": i, SOURCE: "in", POSITION: i} for i in range(10)]

    def explain(rows, kinds, sources):
        return ["bad luck" if row["position"] < 4 else "" for row in rows if sources == ["in"]]

    found = comparing.reconcile(
        InMemory([batch(rows, schema)], schema),
        InMemory([batch(rows[5:], KEYED.schema)], KEYED.schema),
        KEYED, "unused", explain=explain,
    )  # fmt: skip
    assert found.reasons == {"bad luck": 4}
    assert found.unexplained == 1
    assert [(row.key, row.source, row.position) for row in found.named] == [({"k": "4"}, "in", 4)]


def test_many_rows_wait_in_files(tmp_path, monkeypatch):
    monkeypatch.setattr(spilling, "RUN_ROWS", 700)
    monkeypatch.setattr(comparing, "_JUDGED_ROWS", 500)
    how = Compared(pa.schema([("k", pa.int64()), ("v", pa.int64())]), ("k",))
    rows = [{"k": i, "v": i % 7} for i in range(5_000)]
    lacking = {11, 222, 3333}
    there = [row for row in rows if row["k"] not in lacking]
    monkeypatch.setattr("millstream.transforms.reconcile.side.BATCH_ROWS", 100)

    def place(rows: list[dict[str, Any]]) -> InMemory:
        pieces = [rows[i : i + 100] for i in range(0, len(rows), 100)]
        return InMemory([batch(piece, how.schema) for piece in pieces], how.schema)

    one, other = place(rows * 2), place(there * 2)
    found = comparing.reconcile(one, other, how, str(tmp_path), threads=2)
    assert len(list(tmp_path.glob("*.rows"))) > 20
    assert found.kinds == {"missing": 6}
    assert {row.key["k"] for row in found.named} == lacking


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.uint64(), pa.decimal128(20, 0)),
        (pa.float32(), pa.float64(), pa.float32()),
        (pa.decimal128(10, 2), pa.decimal128(12, 6), pa.decimal128(14, 6)),
        (pa.int64(), pa.decimal128(10, 2), pa.decimal128(22, 2)),
        (pa.decimal128(10, 2), pa.float64(), pa.float64()),
        (pa.date32(), pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
        (pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
        (pa.string(), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.string()),
    ],
)
def test_values_are_compared_in_a_type_that_holds_them(one, other, expected):
    assert common_type(one, other) == expected
    assert common_type(other, one) == expected


def test_a_decimal_is_the_double_nearest_to_it():
    held = pa.RecordBatch.from_pydict(
        {"v": pa.array([Decimal(n) / 100 for n in range(-5000, 5000)], pa.decimal128(10, 2))}
    )
    found = fitted(held, pa.schema([("v", pa.float64())]), "here")
    assert found.column("v").to_pylist() == [n / 100 for n in range(-5000, 5000)]


def test_columns_of_one_side_are_told():
    found = in_common(pa.schema([("a", pa.int64()), ("b", pa.int64())]), pa.schema([("b", pa.int8()), ("c", pa.int8())]))  # fmt: skip  # noqa: E501
    assert found.schema == pa.schema([("b", pa.int64())])
    assert (found.source_only, found.destination_only) == (("a",), ("c",))
    with pytest.raises(ValueError, match="destination has no column 'a'"):
        in_common(pa.schema([("a", pa.int64())]), pa.schema([("b", pa.int64())]), ["a"])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (Compared(pa.schema([])), "no column in common"),
        (Compared(KEYED.schema, ("key",)), "no column 'key'"),
        (Compared(KEYED.schema, by=(By("v", "day"),)), "no day"),
        (Compared(KEYED.schema, by=(By("vv"),)), "no column 'vv'"),
        (Compared(pa.schema([("b", pa.binary())]), by=(By("b"),)), "names no partition"),
        (Compared(pa.schema([("m", pa.map_(pa.string(), pa.int8()))])), "m is map.*not compared"),
        (Compared(pa.schema([("l", pa.list_(pa.int8(), 2))])), "l is fixed.*not compared"),
    ],
)
def test_what_cannot_be_compared_is_refused(how, said):
    with pytest.raises(ValueError, match=said):
        compared([], [], how, "unused")


@pytest.mark.parametrize(
    ("type", "values"),
    [
        (pa.timestamp("us", "UTC"), [10**18, -(10**18)]),
        (pa.timestamp("ns", "UTC"), [10**18 + 1, 1]),
        (pa.date32(), [10**7, -(10**7)]),
        (pa.time64("ns"), [1, 2]),
        (pa.duration("us"), [1, -1]),
        (pa.list_(pa.timestamp("us")), [[10**18], [0]]),
    ],
    ids=str,
)
def test_what_python_has_no_value_for_is_compared_all_the_same(type, values):
    column = pa.array(values, type)
    schema = pa.schema([("k", pa.int64()), ("v", type)])
    one = pa.record_batch([pa.array([1, 2]), column], schema)
    other = pa.record_batch([pa.array([1, 2]), column.take(pa.array([0, 0]))], schema)
    how = Compared(schema, ("k",))
    found = comparing.reconcile(
        InMemory([one], schema), InMemory([other], schema), how, "unused", threads=1
    )
    assert found.kinds == {"changed": 1}
    (row,) = found.named
    assert (row.key, list(row.changes)) == ({"k": 2}, ["v"])
    assert all(map(str, row.changes["v"]))


def test_partitions_have_one_name_however_batches_come():
    names = Names()
    by = (By("c"), By("at", "hour"))
    schema = pa.schema([("c", pa.string()), ("at", pa.timestamp("us", "UTC"))])
    rows = [{"c": "a", "at": NOON}, {"c": None, "at": None}, {"c": "b", "at": NOON}]
    one = [names.all[n] for n in partitions(batch(rows, schema), by, names)]
    other = [names.all[n] for n in partitions(batch(rows[::-1], schema), by, names)]
    assert one == other[::-1] == ["c=a/at=2026-11-29T12", "c=(null)/at=(null)", "c=b/at=2026-11-29T12"]  # fmt: skip  # noqa: E501


def test_parse_by():
    assert parse_by("ts:month") == By("ts", "month")
    assert parse_by("country") == By("country")
    with pytest.raises(ValueError, match="did you mean 'month'"):
        parse_by("ts:mnth")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | st.binary(max_size=20) | st.integers(90, 200).map(bytes), max_size=8))
def test_hashes_of_texts_are_equal_exactly_if_they_are(values):
    found = hash_column(pa.array(values, pa.binary()))
    pairs = list(zip(found.high.tolist(), found.low.tolist(), strict=True))
    assert len(set(pairs)) == len(set(values))
    assert len(set(found.high.tolist())) == len(set(found.low.tolist())) == len(set(values))
    large = hash_column(pa.array([b"x", *values, b"y"], pa.large_binary())[1:-1])
    assert list(zip(large.high.tolist(), large.low.tolist(), strict=True)) == pairs


@pytest.mark.parametrize("values", [[], [None], ["", None]])
def test_hashes_of_nothing(values):
    for type in (pa.string(), pa.list_(pa.string()), pa.null() if values != ["", None] else pa.string()):  # fmt: skip  # noqa: E501
        found = hash_column(pa.array([], type) if not values else pa.nulls(len(values), type))
        assert len(found.high) == len(values)
