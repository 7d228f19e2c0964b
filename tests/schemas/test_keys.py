"""Hashes of keys: equal if and only if the keys are, whatever the Arrow encoding."""

import datetime as dt
import zlib
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas import keys
from millstream.schemas.keys import KeyColumnError, hash_keys

I64 = st.sampled_from([0, 1, -1, 255, 256, 2**31, -(2**63), 2**63 - 1]) | st.integers(-3, 3)
TEXT = st.text("ab\0é", max_size=3)
SMALL = st.integers(-3, 3)


def decimals(scale):
    units = st.sampled_from([0, 1, -1, 10, 100, -100, 105, 10**17]) | st.integers(-20, 20)
    return units.map(lambda n: Decimal((int(n < 0), tuple(map(int, str(abs(n)))), -scale)))


def ticks(unit):
    return I64 if unit == "ns" else st.sampled_from([0, 1, -1, 1000, -1000, 10**6, 10**9, 1500])


VALUES = {
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.binary(): st.binary(max_size=2),
    pa.binary(2): st.binary(min_size=2, max_size=2),
    pa.bool_(): st.booleans(),
    pa.int8(): SMALL,
    pa.int64(): I64,
    pa.uint8(): st.integers(0, 3),
    pa.uint64(): st.sampled_from([0, 1, 255, 2**63 - 1, 2**63, 2**64 - 1]),
    pa.float32(): st.sampled_from([0.0, -0.0, 1.0, 0.5, float("inf"), float("nan")]),
    pa.float64(): st.sampled_from([0.0, -0.0, 1.0, 0.1, -1.0, float("nan"), -float("nan")]),
    pa.decimal128(20, 0): decimals(0),
    pa.decimal128(20, 2): decimals(2),
    pa.decimal256(60, 3): decimals(3),
    pa.decimal64(18, 1): st.integers(-20, 20).map(lambda n: Decimal(n).scaleb(-1)),
    pa.date32(): SMALL.map(lambda n: dt.date(1970, 1, 5) + dt.timedelta(n)),
    **{pa.timestamp(unit, "UTC"): ticks(unit) for unit in ("s", "ms", "us", "ns")},
    pa.timestamp("us"): ticks("us"),
    pa.time32("ms"): st.integers(0, 3),
    pa.time64("us"): st.sampled_from([0, 1, 1000, 2000]),
    pa.duration("ms"): SMALL,
}


def array(values, type):
    bits = getattr(type, "bit_width", 0) if pa.types.is_temporal(type) else 0
    if bits and values and any(isinstance(value, int) for value in values):
        return pa.array(values, pa.int32() if bits == 32 else pa.int64()).view(type)
    return pa.array(values, type)


def comparable(value, type):
    """A value and its kind, so that Python's ``==`` of them is what the module's docstring says."""
    kind = keys._kind("", type)
    match kind:
        case "number":
            single = float(np.float32(value)) if type == pa.float32() else value
            return kind, "NaN" if single != single else single
        case "timestamp" | "time" | "duration":
            return kind, value * 10**9 // {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[type.unit]
        case _:
            return kind, value


@st.composite
def columns(draw, rows=None, types=None):
    """Columns with their types and Python values."""
    rows = draw(st.integers(0, 6)) if rows is None else rows
    types = types or draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3))
    lists = [
        draw(st.lists(st.none() | VALUES[t] | VALUES[t], min_size=rows, max_size=rows))
        for t in types
    ]
    return types, lists


def batch_of(types, lists):
    arrays = [array(values, type) for values, type in zip(lists, types, strict=True)]
    return pa.record_batch(arrays, [f"k{i}" for i in range(len(arrays))])


def hashed(batch, key=None):
    """For each row the hash with its kinds, or ``None`` if the row has no key."""
    found = hash_keys(batch, key or batch.schema.names)
    rows = range(batch.num_rows) if found.rows is None else found.rows.tolist()
    assert len(found.high) == len(found.low) == len(rows)
    hashes = dict(zip(rows, zip(found.high.tolist(), found.low.tolist(), strict=True), strict=True))
    return [hashes.get(row) and (found.kinds, *hashes[row]) for row in range(batch.num_rows)]


def keys_of(types, lists):
    """For each row its key as Python compares it, or ``None`` if it has none."""
    return [
        None if None in row else tuple(map(comparable, row, types))
        for row in zip(*lists, strict=True)
    ]


@given(st.data())
def test_equal_keys_and_only_they_have_equal_hashes(data):
    first = data.draw(columns())
    same_kind = data.draw(st.booleans())
    types = [
        data.draw(st.sampled_from([t for t in VALUES if keys._kind("", t) == keys._kind("", one)]))
        for one in first[0]
    ]
    second = data.draw(columns(types=types if same_kind else None))
    wanted = keys_of(*first) + keys_of(*second)
    found = hashed(batch_of(*first)) + hashed(batch_of(*second))
    for a, hash_a in zip(wanted, found, strict=True):
        assert (a is None) == (hash_a is None)
        for b, hash_b in zip(wanted, found, strict=True):
            if a is not None and b is not None:
                assert (a == b) == (hash_a == hash_b), (a, b)


@given(columns(), st.data())
def test_the_arrow_encoding_does_not_matter(drawn, data):
    batch = batch_of(*drawn)
    wanted = hashed(batch)
    start = data.draw(st.integers(0, batch.num_rows))
    assert hashed(batch.slice(start, 2)) == wanted[start : start + 2]
    order = data.draw(st.permutations(range(batch.num_rows)))
    assert hashed(batch.take(pa.array(order, pa.int64()))) == [wanted[i] for i in order]
    encoded = [
        column if pa.types.is_null(column.type) else _as_dictionary(column)
        for column in batch.columns
    ]
    as_dictionary = pa.record_batch(encoded, batch.schema.names)
    assert hashed(as_dictionary) == wanted
    assert hashed(as_dictionary.slice(start)) == wanted[start:]


def _as_dictionary(column):
    # With a null in the dictionary too, and values that no row refers to.
    codes = pa.array(range(len(column)), pa.int32())
    return pa.DictionaryArray.from_arrays(codes, column)


@pytest.mark.parametrize("type", VALUES, ids=str)
def test_no_rows(type):
    found = hash_keys(pa.record_batch([pa.array([], type)], ["k"]), ["k"])
    assert len(found.high) == 0
    assert hashed(pa.record_batch([pa.nulls(3, type)], ["k"])) == [None] * 3


def one(*values):
    """The hash of one key."""
    batch = pa.record_batch([pa.array([value]) for value in values], list("abc")[: len(values)])
    (found,) = hashed(batch)
    return found


def test_the_parts_of_a_key_are_kept_apart():
    assert one("a", "bc") != one("ab", "c")
    assert one("", "a") != one("a", "")
    assert one("a", "") != one("a")
    assert one("", None) is None
    assert one("", "") is not None
    assert one(b"ab\0") != one(b"ab")


def test_values_of_different_kinds_differ():
    values = (1, "1", b"1", 1.0, True, Decimal(1))
    alike = [found for value in values if (found := one(value))]
    assert len({kinds for kinds, *_ in alike}) == len(values)
    assert len({tuple(hash) for _, *hash in alike}) == len(values)
    assert one("a", 1) != one("a", 1.0)
    assert one(1, "a") != one("a", 1)


def test_a_whole_number_beyond_64_bits_signed():
    minus = pa.record_batch([pa.array([-1], pa.int64())], ["k"])
    most = pa.record_batch([pa.array([2**64 - 1], pa.uint64())], ["k"])
    assert hashed(minus) != hashed(most)


@pytest.mark.parametrize("precision", [38, 76])
def test_decimals_by_value(precision):
    make = pa.decimal128 if precision == 38 else pa.decimal256

    def of(text, scale):
        return hashed(pa.record_batch([pa.array([Decimal(text)], make(precision, scale))], ["k"]))

    assert of("1.5", 1) == of("1.50", 2) == of("1.5", 30)
    assert of("0", 0) == of("0.00", 2)
    assert of("15", 0) != of("1.5", 1)
    assert of("1500", -2) == of("1500.0", 1) != of("-1500", 0)
    digits = "9" * precision
    assert of(digits, 0) != of(f"0.{digits}", precision)


def test_decimals_of_a_slice():
    column = pa.array([Decimal(9), Decimal(1), Decimal(2)], pa.decimal256(76, 1))
    batch = pa.record_batch([column], ["k"])
    assert hashed(batch.slice(1)) == hashed(batch)[1:]


def test_floats_that_are_equal():
    bits = np.array([0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001], np.uint64)
    nan = hashed(pa.record_batch({"k": bits.view(np.float64)}))
    assert len(set(nan)) == 1
    assert one(0.0) == one(-0.0) != nan[0]
    single = pa.record_batch([pa.array([0.5], pa.float32())], ["k"])
    assert hashed(single) == [one(0.5)]


def test_times_by_value():
    same = {"ms": 1500, "us": 1_500_000, "ns": 1_500_000_000}
    for make in (pa.timestamp, pa.duration):
        columns = [pa.array([ticks]).view(make(unit)) for unit, ticks in same.items()]
        assert len({hashed(pa.record_batch([column], ["k"]))[0] for column in columns}) == 1
    longest = pa.record_batch([pa.array([2**63 - 1]).view(pa.timestamp("s"))], ["k"])
    assert hashed(longest) != [None]


def test_null_is_no_key():
    batch = pa.record_batch({"a": ["x", None, None, "y"], "b": [1, 2, None, None]})
    for key, rows in ((["a", "b"], [0]), (["a"], [0, 3])):
        found = hash_keys(batch, key)
        assert found.rows is not None
        assert found.rows.tolist() == rows
        assert len(found.high) == len(rows)
    assert hashed(pa.record_batch([pa.nulls(2)], ["k"])) == [None, None]


def test_a_string_is_hashed_as_it_is():
    found = hash_keys(pa.record_batch({"k": ["é"]}), ["k"])
    wanted = xxhash.xxh3_128_digest("é".encode(), zlib.crc32(b"string"))
    assert found.high.astype("<u8").tobytes() + found.low.astype("<u8").tobytes() == wanted


def test_views_are_hashed_as_what_they_show():
    for view, plain in ((pa.string_view(), pa.string()), (pa.binary_view(), pa.binary())):
        rows = [pa.record_batch([pa.array(["x", None, "y" * 20], t)], ["k"]) for t in (view, plain)]
        assert hashed(rows[0]) == hashed(rows[1])


def test_an_extension_is_hashed_as_what_it_stores():
    raw = pa.array([b"0123456789abcdef"], pa.binary(16))
    uuid = pa.ExtensionArray.from_storage(pa.uuid(), raw)
    assert hashed(pa.record_batch([uuid], ["k"])) == hashed(pa.record_batch([raw], ["k"]))


def test_a_missing_column():
    with pytest.raises(KeyColumnError, match="no column 'evnt_id'; did you mean 'event_id'"):
        hash_keys(pa.record_batch({"event_id": ["x"]}), ["evnt_id"])


@pytest.mark.parametrize("values", [[{"a": 1}], [[1]]])
def test_a_nested_column(values):
    with pytest.raises(
        KeyColumnError, match=r"column 'k' is of type .*of which no key can be made"
    ):
        hash_keys(pa.record_batch({"k": values}), ["k"])
