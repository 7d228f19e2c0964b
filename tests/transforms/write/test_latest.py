"""Which row of each key stands, held against the rule said row by row."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from functools import cmp_to_key
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.keys import KeyColumnError, KeyHashes
from millstream.transforms.write import latest
from millstream.transforms.write.latest import KeyRange, winners

from tests.strategies import chunks, cuts

SCHEMA = pa.schema(
    [
        ("k", pa.string()),
        ("n", pa.int64()),
        ("at", pa.timestamp("us", "UTC")),
        ("source", pa.string()),
        ("position", pa.int64()),
        ("gone", pa.bool_()),
    ]
)
KEY = ("k", "n")
ORDER = ("at", "source", "position")

Row = dict[str, Any]

instants = st.integers(0, 2).map(lambda n: dt.datetime(2026, 1, 1 + n, tzinfo=dt.UTC))
rows = st.fixed_dictionaries(
    {
        "k": st.sampled_from([None, "", "a", "b"]),
        "n": st.sampled_from([None, 1, 2]),
        "at": st.none() | instants,
        "source": st.sampled_from([None, "", "Z", "a", "é", "\U0001f600", "\uffff"]),
        "position": st.none() | st.integers(-1, 1),
        "gone": st.sampled_from([None, False, True]),
    }
)


def batch(some: list[Row]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(some, SCHEMA)


def has_key(row: Row) -> bool:
    return None not in (row["k"], row["n"])


def compared(one: Row, other: Row) -> int:
    """What is newer is greater: value by value, nulls least, text by its bytes."""
    for name in ORDER:
        left, right = one[name], other[name]
        if isinstance(left, str):
            left = left.encode()
        if isinstance(right, str):
            right = right.encode()
        if left != right:
            return -1 if left is None or (right is not None and left < right) else 1
    return 0


def stand(some: list[Row]) -> set[int]:
    """The numbers of the rows that stand against each other, deletions among them."""
    keys = {(row["k"], row["n"]) for row in some if has_key(row)}
    found = {number for number, row in enumerate(some) if not has_key(row)}
    for key in keys:
        mine = [n for n, row in enumerate(some) if (row["k"], row["n"]) == key]

        def later(n: int, m: int) -> int:
            return compared(some[n], some[m]) or n - m

        found.add(max(mine, key=cmp_to_key(later)))
    return found


@given(st.lists(rows, max_size=30), st.data())
@settings(max_examples=300)
def test_of_a_load(some: list[Row], data: st.DataObject):
    parts = chunks(some, data.draw(cuts(len(some))))
    found = winners([batch(list(part)) for part in parts], KEY, ORDER, "gone").standing()
    expected = {n for n in stand(some) if not some[n]["gone"]}
    assert set(np.flatnonzero(found)) == expected
    assert len(found) == len(some)


@given(st.lists(rows, max_size=20), st.lists(rows, max_size=20), st.data())
@settings(max_examples=300)
def test_against_a_table(some: list[Row], held: list[Row], data: st.DataObject):
    """Each key is in a table once; what the load has later, or as late, takes its place."""
    held = [held[n] for n in sorted(stand(held))]
    latest = winners([batch(some)], KEY, ORDER, "gone")
    for _ in range(2):  # the second time as if another commit had been first
        latest.revive()
        judged = [
            latest.judge(batch(list(part))) for part in chunks(held, data.draw(cuts(len(held))))
        ]
        stands = set(np.flatnonzero(np.concatenate([*judged, np.empty(0, bool)])))
        newest = {(some[n]["k"], some[n]["n"]): some[n] for n in stand(some) if has_key(some[n])}
        for number, row in enumerate(held):
            other = newest.get((row["k"], row["n"])) if has_key(row) else None
            assert (number in stands) == (other is None or compared(row, other) > 0)
        there = {(row["k"], row["n"]): row for row in held if has_key(row)}
        standing = set(np.flatnonzero(latest.standing()))
        for number, row in enumerate(some):
            other = there.get((row["k"], row["n"])) if has_key(row) else None
            beaten = other is not None and compared(other, row) > 0
            assert (number in standing) == (
                number in stand(some) and not row["gone"] and not beaten
            )


def row(**values: Any) -> Row:
    common = {"k": "a", "n": 1, "at": None, "source": None, "position": 0, "gone": False}
    return {**common, **values}


def test_what_is_older_than_its_deletion_does_not_come_back():
    some = [row(position=1), row(k="b", position=3), row(k="c", position=2)]
    found = winners([batch(some)], KEY, ORDER, "gone")
    found.bury(batch([row(position=2), row(k="b", position=2), row(k="c", position=2)]))
    assert found.standing().tolist() == [False, True, True]


def test_a_deletion_is_not_held_up_by_one_that_is_only_noted():
    found = winners([batch([row(position=1, gone=True)])], KEY, ORDER, "gone")
    found.bury(batch([row(position=2)]))
    assert found.judge(batch([row(position=0)])).tolist() == [False]


def test_without_an_order_the_last_stands():
    some = [row(position=9), row(position=1), row(k="b")]
    found = winners([batch(some[:1]), batch(some[1:])], KEY, ())
    assert found.standing().tolist() == [False, True, True]
    assert found.judge(batch([row(position=99)])).tolist() == [False]
    assert found.standing().tolist() == [False, True, True]


def test_a_thousand_rows_of_one_key():
    some = [row(position=n * 7919 % 1000) for n in range(1000)]
    found = winners([batch(some[:400]), batch(some[400:])], KEY, ORDER)
    assert [some[n]["position"] for n in np.flatnonzero(found.standing())] == [999]


@pytest.mark.parametrize(
    ("type", "less", "more"),
    [
        (pa.decimal128(20, 0), Decimal(9), Decimal(10)),
        (pa.decimal256(50, 2), Decimal("-1.00"), Decimal("0.01")),
        (pa.uint64(), 1, 2**64 - 1),
        (pa.date32(), dt.date(1969, 12, 31), dt.date(1970, 1, 1)),
        (pa.time64("us"), dt.time(1), dt.time(2)),
        (pa.binary(), b"\x7f", b"\x80"),
        (pa.bool_(), False, True),
        (pa.large_string(), "Z", "a"),
    ],
    ids=str,
)
def test_types_that_order(type: pa.DataType, less: Any, more: Any):
    some = pa.RecordBatch.from_pydict({"k": ["a"] * 3, "v": pa.array([less, more, None], type)})
    assert winners([some], ["k"], ["v"]).standing().tolist() == [False, True, False]


def test_keys_whose_hashes_begin_alike(monkeypatch):
    """The upper half tells nothing: the lower one has to."""

    def alike(some: pa.RecordBatch, key: Any) -> KeyHashes:
        low = some["n"].to_numpy().astype(np.uint64)
        return KeyHashes(("integer",), np.zeros(len(low), np.uint64), low, None)

    monkeypatch.setattr(latest, "hash_keys", alike)
    some = [row(n=n, position=n) for n in (3, 1, 2, 1)]
    found = winners([batch(some)], ["n"], ["position"])
    assert found.judge(batch([row(n=2, position=3), row(n=0), row(n=4)])).tolist() == [True] * 3
    assert found.standing().tolist() == [True, False, False, True]


def test_ranges_of_keys():
    found = winners([batch([row(k="b", n=5), row(k="é", n=None)]), batch([row(k="a")])], KEY, ORDER)
    assert found.ranges == {"k": KeyRange("a", "é"), "n": KeyRange(1, 5)}
    assert winners([batch([row(n=None)])], KEY, ORDER).ranges == {}
    floats = pa.RecordBatch.from_pydict({"k": [1.0, float("nan")]})
    assert winners([floats], ["k"], []).ranges == {}


def test_no_rows():
    found = winners([], KEY, ORDER, "gone")
    assert len(found) == 0
    assert found.judge(batch([row()])).tolist() == [True]
    assert found.standing().tolist() == []


def test_keys_of_another_kind_are_a_mistake():
    found = winners([batch([row()])], ["n"], ORDER)
    texts = batch([row()]).set_column(1, "n", pa.array(["1"]))
    with pytest.raises(KeyColumnError, match="keys of \\('string',\\) cannot be told from"):
        found.judge(texts)
    with pytest.raises(KeyColumnError, match="no column 'm'"):
        winners([batch([row()])], ["m"], ORDER)
