"""Variances and standard deviations against exact fractions."""

import math
import random
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_support import grouped, results_of, states_of
from millstream.schemas.aggregates.functions import AggregateOverflow, Groups
from millstream.schemas.aggregates.moments import Variance
from millstream.schemas.contract import Field

NUMBER = Field("x", "number")
EPSILON = 2.0**-52


def exact(values):
    """The sample variance of at least two values."""
    values = [Fraction(v) for v in values]
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / (len(values) - 1)


def check(found, values):
    """Within what float64 can tell of values as large, whose means are rounded at every merge."""
    if len(values) < 2:
        assert found is None
        return
    want = exact(values)
    rounding = EPSILON * max(abs(float(v)) for v in values)
    allowed = 1e-12 * float(want) + 8 * rounding * math.sqrt(want) + 8 * rounding**2 + 1e-300
    assert abs(Fraction(found) - want) <= Fraction(allowed), (found, float(want))


def rows_of(values):
    row = st.tuples(st.sampled_from("abc"), st.just(0), st.none() | values)
    return st.lists(row, max_size=40)


offsets = st.sampled_from([0.0, 1.0, 1e9, -1e15])
numbers = st.floats(-1e6, 1e6) | st.integers(-5, 5).map(float) | st.floats(-1e140, 1e140)


@given(rows_of(numbers), offsets, st.randoms())
def test_a_variance_is_the_exact_one_by_any_way(rows, offset, chance):
    rows = [(g, t, v if v is None else v + offset) for g, t, v in rows]
    found = results_of(rows, "variance(x)", NUMBER, chance)
    groups = grouped(rows)
    assert found.keys() == groups.keys()
    for group, members in groups.items():
        check(found[group], [v for _, v in members])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (Field("x", "integer"), st.integers(-(2**63), 2**63 - 1)),
        (Field("x", "integer", storage="uint64"), st.integers(0, 2**64 - 1)),
        (Field("x", "integer", storage="int8"), st.integers(-128, 127)),
        (
            Field("x", "decimal", precision=12, scale=2),
            st.integers(-(10**12) + 1, 10**12 - 1).map(lambda n: Decimal(f"{n}e-2")),
        ),
        (
            Field("x", "decimal", precision=60, scale=0),
            st.integers(-(10**60) + 1, 10**60 - 1).map(Decimal),
        ),
        (Field("x", "number", storage="float32"), st.floats(-(2.0**99), 2.0**99, width=32)),
    ],
)
@settings(max_examples=15)
@given(data=st.data(), chance=st.randoms())
def test_every_numeric_type(field, values, data, chance):
    rows = data.draw(rows_of(values))
    found = results_of(rows, "variance(x)", field, chance)
    for group, members in grouped(rows).items():
        check(found[group], [v for _, v in members])


@settings(max_examples=30)
@given(rows_of(st.floats(-1e100, 1e100)))
def test_a_standard_deviation_is_the_root_of_the_variance(rows):
    deviations = results_of(rows, "stddev(x)", NUMBER)
    for group, variance in results_of(rows, "variance(x)", NUMBER).items():
        expected = None if variance is None else math.sqrt(variance)
        assert deviations[group] == expected


def test_an_example():
    rows = [("a", 0, v) for v in (2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0)]
    assert results_of(rows, "variance(x)", NUMBER)["a"] == pytest.approx(32 / 7, rel=1e-15)
    assert results_of(rows, "stddev(x)", NUMBER)["a"] == pytest.approx(math.sqrt(32 / 7), rel=1e-15)


@pytest.mark.parametrize("value", [0.1, -1e300, 5e-324, 1e9 + 1e-6, 0.0])
def test_of_equal_values_it_is_exactly_zero(value):
    rows = [("a", 0, value)] * 50
    for seed in range(5):
        assert results_of(rows, "variance(x)", NUMBER, random.Random(seed)) == {"a": 0.0}


def test_a_tiny_variance_beside_a_large_mean():
    step = 2.0**-20
    values = [1e9 + step * (i % 7) for i in range(7000)]
    rows = [("a", 0, v) for v in values]
    want = float(exact(values))
    assert results_of(rows, "variance(x)", NUMBER)["a"] == pytest.approx(want, rel=1e-12)
    # In a state the mean is a float64, of which the last place here is a tenth of a step.
    merged = results_of(rows, "variance(x)", NUMBER, random.Random(3))["a"]
    assert merged == pytest.approx(want, rel=1e-3)


def test_a_far_value_among_near_ones():
    values = [1.0, 2.0, 3.0, 1e100]
    for order in (values, values[::-1]):
        found = results_of([("a", 0, v) for v in order], "variance(x)", NUMBER)["a"]
        assert found == pytest.approx(float(exact(values)), rel=1e-14)


@pytest.mark.parametrize(
    ("values", "metric"),
    [
        ([1e300, -1e300], "variance(x)"),
        ([1e300, -1e300], "stddev(x)"),
        ([1.7e308, -1.7e308, 0.0], "variance(x)"),
        ([1e200, 0.0], "stddev(x)"),
    ],
)
def test_what_float64_cannot_hold_is_refused(values, metric):
    for seed in (None, 1, 2):
        chance = None if seed is None else random.Random(seed)
        with pytest.raises(AggregateOverflow, match="cannot be represented as double"):
            results_of([("a", 0, v) for v in values], metric, NUMBER, chance)


def test_what_has_no_values_takes_no_part():
    rows = [("a", 0, None), ("a", 0, None), ("b", 0, 3.0), ("c", 0, 1.0), ("c", 0, None)]
    assert results_of(rows, "variance(x)", NUMBER) == {"a": None, "b": None, "c": None}
    states = states_of(rows, "variance(x)", NUMBER)
    assert states["m__count"].to_pylist() == [0, 1, 1]
    assert states["m__mean"].to_pylist() == [0, 3, 1]
    function = Variance()
    parts = [pa.array(v) for v in ([0, 2, 0], [0.0, 5.0, 0.0], [0.0, 2.0, 0.0])]
    merged = function.merge(Groups(np.zeros(3, np.int64), 1), parts)
    assert [part.to_pylist() for part in merged] == [[2], [5.0], [2.0]]
