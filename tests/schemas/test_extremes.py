"""First and last values: any order of rows gives the same, ties included."""

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_support import EPOCH, grouped, results_of, spec_of, states_of
from millstream.schemas.arrow import arrow_type
from millstream.schemas.contract import Field

words = st.sampled_from(["", "a", "b", "é", "\U0001f600", "/shop"])
TYPES = {
    "integer": (Field("x", "integer"), st.integers(-(2**63), 2**63 - 1)),
    "unsigned": (Field("x", "integer", storage="uint64"), st.integers(0, 2**64 - 1)),
    "number": (Field("x", "number"), st.floats(-10, 10) | st.sampled_from([0.0, 1e300])),
    "single": (Field("x", "number", storage="float32"), st.floats(-10, 10, width=32)),
    "decimal": (
        Field("x", "decimal", precision=5, scale=2),
        st.integers(-99999, 99999).map(lambda n: Decimal(f"{n}e-2")),
    ),
    "wide": (
        Field("x", "decimal", precision=60, scale=0),
        st.integers(-(10**50), 10**50).map(Decimal),
    ),
    "string": (Field("x", "string"), words),
    "boolean": (Field("x", "boolean"), st.booleans()),
    "date": (Field("x", "date"), st.dates()),
    "timestamp": (
        Field("x", "timestamp"),
        st.integers(-(10**15), 10**15).map(lambda us: EPOCH + dt.timedelta(microseconds=us)),
    ),
    "time": (Field("x", "time"), st.times()),
}


def comparable(value):
    return value.encode() if isinstance(value, str) else value


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=15)
@given(data=st.data(), chance=st.randoms())
def test_first_and_last_by_any_way(name, data, chance):
    field, values = TYPES[name]
    row = st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.none() | values)
    rows = data.draw(st.lists(row, max_size=20))
    for metric, choose in (("first(x)", min), ("last(x)", max)):
        found = results_of(rows, metric, field, chance)
        for group, members in grouped(rows).items():
            want = choose(members, key=lambda m: (m[0], comparable(m[1])), default=(0, None))
            assert found[group] == want[1], metric
        assert states_of(rows, metric, field, chance) == states_of(rows, metric, field)


def test_the_result_is_of_the_fields_type():
    for field, _ in TYPES.values():
        metric = spec_of("first(x)", field).metrics[0]
        assert metric.function.result(field) == arrow_type(field)
        assert metric.parts == {
            "m__time": pa.timestamp("us", "UTC"),
            "m__value": arrow_type(field),
        }


def test_a_null_is_neither_first_nor_last():
    field = Field("x", "string")
    rows = [("a", 0, None), ("a", 5, "late"), ("a", 2, "early"), ("a", 9, None), ("b", 1, None)]
    assert results_of(rows, "first(x)", field) == {"a": "early", "b": None}
    assert results_of(rows, "last(x)", field) == {"a": "late", "b": None}


def test_of_one_time_the_least_is_first_and_the_greatest_last():
    field = Field("x", "string")
    rows = [("a", 7, word) for word in ("m", "b", "z", "k")]
    assert results_of(rows, "first(x)", field) == {"a": "b"}
    assert results_of(rows, "last(x)", field) == {"a": "z"}
