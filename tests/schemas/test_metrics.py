"""Metrics: how they are read, what they refuse, and their arithmetic beyond 64 bits."""

import decimal
import random
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.aggregates.functions import AggregateError, Groups, Unrepresentable
from millstream.schemas.aggregates.metrics import FUNCTIONS, Metric, metric_field, parse_metric
from millstream.schemas.arrow import arrow_type
from millstream.schemas.contract import Contract, Field

DEVICE = Field("device", "object", fields=(Field("os", "string"), Field("model", "json")))
FIELDS = (
    DEVICE,
    Field("tags", "array", items=Field("item", "string")),
    Field("page", "string"),
    Field("amount", "number"),
    Field("clicks", "integer", storage="int32"),
    Field("serial", "integer", storage="uint64"),
    Field("price", "decimal", precision=10, scale=2),
    Field("assets", "decimal", precision=38, scale=4),
    Field("mass", "decimal", precision=57, scale=3),
    Field("wide", "decimal", precision=58, scale=3),
    Field("premium", "boolean"),
    Field("day", "date"),
    Field("ts", "timestamp", required=True),
    Field("clock", "time"),
)
CONTRACT = Contract("id", "1", "clicks", FIELDS, event_time="ts")
ALL = "all rows"
NO_TIMES = pa.array([], pa.timestamp("us", "UTC"))  # of which first and last alone make use


def run(text, values, splits=(ALL,), group=0):
    """The result of a metric over values in one group, through partial, merge, seal, finalise."""
    metric = parse_metric(text)
    function, field = metric.computed_by, metric_field(metric, CONTRACT)
    assert field is not None
    column = pa.array(values, arrow_type(field))
    pieces = [column] if splits == (ALL,) else _cut(column, splits)
    partials = [
        function.partial(Groups(np.zeros(len(p), np.int64), 1), p, field, NO_TIMES)
        for p in pieces
        if len(p)
    ]
    states = [pa.concat_arrays(arrays) for arrays in zip(*partials, strict=True)]
    merged = function.merge(Groups(np.zeros(len(partials), np.int64), 1), states)
    sealed = function.seal(merged, 0)[: len(function.parts(field))]
    types = list(function.parts(field).values())
    assert [s.type for s in sealed] == types
    result = function.finalise(sealed, field)
    assert result.type == function.result(field)
    return result.to_pylist()[group]


def _cut(column, places):
    places = sorted({0, *(p % (len(column) + 1) for p in places), len(column)})
    return [column.slice(a, b - a) for a, b in pairwise(places)]


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("count()", Metric("count")),
        (" sum( amount ) ", Metric("sum", "amount")),
        ("approx_distinct(device.os)", Metric("approx_distinct", "device.os")),
        ("quantile(amount, 0.95)", Metric("quantile", "amount", 0.95)),
        ("quantile( amount ,1 )", Metric("quantile", "amount", 1.0)),
        ("quantile(amount, 1e-7)", Metric("quantile", "amount", 1e-7)),
        ("count_if(amount > 10)", Metric("count_if", "amount > 10")),
        ("sum(round(amount, 2))", Metric("sum", "round(amount, 2)")),
        ("sum(amount, clicks)", Metric("sum", "amount, clicks")),
        ("quantile(greatest(amount, 0.5), 0.9)", Metric("quantile", "greatest(amount, 0.5)", 0.9)),
        ("quantile([a, b][1], .5)", Metric("quantile", "[a, b][1]", 0.5)),
        ("count_if(page IN ('a,b', ')'))", Metric("count_if", "page IN ('a,b', ')')")),
        ("count_if(page = 'it''s, (')", Metric("count_if", "page = 'it''s, ('")),
        ('max("a ""(,"" b")', Metric("max", '"a ""(,"" b"')),
        ("""count_if(page = '"')""", Metric("count_if", """page = '"'""")),
        ("sum(\n  amount\n  * clicks\n)", Metric("sum", "amount\n  * clicks")),
    ],
)
def test_a_metric_is_read(text, metric):
    assert parse_metric(text) == metric
    assert parse_metric(str(metric)) == metric


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amount", "expected a metric such as count() or sum(amount), got 'amount'"),
        (7, "expected a metric such as count() or sum(amount), got 7"),
        (
            "sum(amount) + sum(clicks)",
            "expected a metric such as count() or sum(amount), got 'sum(",
        ),
        ("sum((amount)", "expected a metric such as count() or sum(amount), got 'sum((amount)'"),
        ("sum(amount))", "expected a metric such as count()"),
        ("count_if(page = 'a)", "expected a metric such as count()"),
        ("count_if(page = 'a' || ')", "expected a metric such as count()"),
        ("summ(amount)", "summ(amount): no function 'summ'; did you mean 'sum'?"),
        (
            "kurtosis(amount)",
            "kurtosis(amount): no function 'kurtosis'; expected 'count', 'count_if'",
        ),
        ("sum()", "sum(): expected the field, as in sum(amount)"),
        ("count_if( )", "count_if( ): expected a condition, as in count_if(amount > 10)"),
        ("quantile()", "expected the field and the quantile, as in quantile(amount, 0.95)"),
        ("quantile(amount)", "quantile(amount): expected the field and the quantile, as in"),
        ("quantile(, 0.5)", "quantile(, 0.5): expected the field and the quantile, as in"),
        ("quantile(amount, 95)", "95): expected a quantile from 0 to 1, such as 0.95, got '95'"),
        ("quantile(amount, -0.1)", "expected a quantile from 0 to 1, such as 0.95, got '-0.1'"),
        ("quantile(amount, nan)", "expected a quantile from 0 to 1, such as 0.95, got 'nan'"),
        ("quantile(amount, p95)", "expected a quantile from 0 to 1, such as 0.95, got 'p95'"),
        ("quantile(amount,)", "expected a quantile from 0 to 1, such as 0.95, got ''"),
        ("count(*)", "count(*): '*' is no field; write count()"),
        ("sum(amuont)", "the contract clicks has no field 'amuont'; did you mean 'amount'?"),
        ("max(device.so)", "has no field 'device.so'; did you mean 'device.os'?"),
        ("sum(page)", "sum(page): page is of type string, expected 'integer', 'number' or"),
        ("min(premium)", "min(premium): premium is of type boolean"),
        ("mean(ts)", "mean(ts): ts is of type timestamp"),
        ("stddev(ts)", "stddev(ts): ts is of type timestamp, expected 'integer', 'number'"),
        ("quantile(page, 0.5)", "quantile(page, 0.5): page is of type string, expected"),
        ("first(tags)", "first(tags): tags is of type array, expected 'integer', 'number'"),
        ("last(device)", "last(device): device is of type object"),
        ("count_if(clicks)", "count_if(clicks): clicks is of type integer, expected 'boolean'"),
        ("approx_distinct(device)", "device is of type object"),
        ("approx_distinct(device.model)", "device.model is of type json"),
        ("sum(wide)", "at most 57 digits can be summed exactly, and it has 58"),
        ("max(tags.item)", "has no field 'tags.item'"),
    ],
)
def test_a_metric_is_refused(text, message):
    with pytest.raises(AggregateError) as caught:
        metric_field(parse_metric(text), CONTRACT)
    assert message in str(caught.value)


def test_result_types():
    def result(text):
        metric = parse_metric(text)
        return FUNCTIONS[metric.function].result(metric_field(metric, CONTRACT))

    assert result("count(tags)") == result("approx_distinct(page)") == pa.int64()
    assert result("sum(clicks)") == result("sum(serial)") == pa.int64()
    assert result("sum(price)") == pa.decimal128(38, 2)
    assert result("sum(mass)") == pa.decimal256(76, 3)
    assert result("mean(price)") == result("sum(amount)") == pa.float64()
    assert result("variance(price)") == result("stddev(clicks)") == pa.float64()
    assert result("quantile(price, 0.5)") == pa.float64()
    assert result("count_if(premium)") == pa.int64()
    assert result("first(premium)") == pa.bool_()
    assert result("max(price)") == pa.decimal128(10, 2)
    assert result("min(clicks)") == pa.int32()
    assert result("max(ts)") == pa.timestamp("us", "UTC")


BIG = 2**63 - 1


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([BIG, BIG, -BIG, -BIG, 5], 5),
        ([BIG], BIG),
        ([-BIG - 1], -BIG - 1),
        ([-BIG - 1, -BIG - 1, BIG, BIG, None], -2),
        ([None, None], None),
        ([2**32, -(2**32), 1], 1),
    ],
)
@pytest.mark.parametrize("splits", [(ALL,), (1, 2)])
def test_integer_sums_are_exact_beyond_64_bits_on_the_way(values, total, splits):
    contract_field = Field("n", "integer")
    function = FUNCTIONS["sum"]
    column = pa.array(values, pa.int64())
    pieces = [column] if splits == (ALL,) else _cut(column, splits)
    states = pa.concat_arrays(
        [
            function.partial(Groups(np.zeros(len(p), np.int64), 1), p, contract_field, NO_TIMES)[0]
            for p in pieces
        ]
    )
    merged = function.merge(Groups(np.zeros(len(states), np.int64), 1), [states])
    assert function.finalise(merged, contract_field).to_pylist() == [total]


@given(
    st.lists(st.integers(0, 2**64 - 1) | st.none(), min_size=1, max_size=30),
    st.lists(st.integers(0, 30)),
)
def test_unsigned_sums(values, splits):
    total = sum(v for v in values if v is not None)
    if total > BIG:
        with pytest.raises(Unrepresentable) as caught:
            run("sum(serial)", values, splits)
        assert (caught.value.row, int(caught.value.value)) == (0, total)
    else:
        empty = all(v is None for v in values)
        assert run("sum(serial)", values, splits) == (None if empty else total)


def decimals(digits, scale):
    return st.integers(-(10**digits) + 1, 10**digits - 1).map(lambda n: Decimal(f"{n}e-{scale}"))


@pytest.mark.parametrize(("name", "digits", "scale"), [("price", 10, 2), ("mass", 57, 3)])
@given(data=st.data())
def test_decimal_sums_are_exact(name, digits, scale, data):
    with decimal.localcontext(prec=90):
        values = data.draw(st.lists(decimals(digits, scale), min_size=1, max_size=20))
        splits = data.draw(st.lists(st.integers(0, 20)))
        assert run(f"sum({name})", values, splits) == sum(values)


def test_decimals_of_38_digits_are_summed_beyond_them_and_refused_at_the_end():
    with decimal.localcontext(prec=90):
        top = (Decimal(10) ** 38 - 1).scaleb(-4)
        assert run("sum(assets)", [top, top, -top, None]) == top
        with pytest.raises(Unrepresentable) as caught:
            run("sum(assets)", [top, Decimal("0.0001")], (1,))
        assert caught.value.value == Decimal(10) ** 34
        assert caught.value.type == pa.decimal128(38, 4)


def test_many_integers_in_few_groups():
    rng = np.random.default_rng(7)
    values = rng.integers(-(2**63), 2**63 - 1, 100_000)
    ids = rng.integers(0, 3, 100_000)
    ids[:3] = range(3)
    field, groups = Field("n", "integer"), Groups(ids, 3)
    [state] = FUNCTIONS["sum"].partial(groups, pa.array(values), field, NO_TIMES)
    expected = [sum(values[ids == group].tolist()) for group in range(3)]
    assert [int(v) for v in state.to_pylist()] == expected


def test_a_float_sum_that_overflows_is_refused():
    with pytest.raises(Unrepresentable):
        run("sum(amount)", [1e308, 1e308])
    with pytest.raises(Unrepresentable):
        run("mean(amount)", [1e308, 1e308], (1,))


def test_means():
    assert run("mean(clicks)", [1, 2, None], (1,)) == 1.5
    assert run("mean(price)", [Decimal("0.10"), Decimal("0.20")]) == pytest.approx(0.15)
    assert run("mean(amount)", [None, None]) is None
    assert run("mean(serial)", [2**64 - 1, 2**64 - 1]) == 2.0**64


def test_conditions_are_counted_where_they_are_true():
    assert run("count_if(premium)", [True, None, False, True], (2,)) == 2
    assert run("count_if(premium)", [None, False]) == 0


def test_of_minus_zero_and_zero_neither_is_less():
    for values in ([0.0, -0.0], [-0.0, 0.0]):
        assert str(run("min(amount)", values)) == str(run("max(amount)", values)) == "0.0"


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 300, 384, 385, 1000, 20_000])
def test_an_estimate_does_not_depend_on_order_or_layout(size):
    shuffle = random.Random(size)
    values = [f"user-{i}" for i in range(size)]
    estimates = set()
    for _ in range(6):
        repeated = [*values, *shuffle.choices(values, k=size // 4), None] if size else [None]
        shuffle.shuffle(repeated)
        splits = [shuffle.randrange(len(repeated)) for _ in range(shuffle.randrange(4))]
        estimates.add(run("approx_distinct(page)", repeated, splits or (ALL,)))
    assert len(estimates) == 1
    assert estimates.pop() == pytest.approx(size, rel=0.05)


def test_an_estimate_does_not_depend_on_when_sketches_are_made():
    function, field = FUNCTIONS["approx_distinct"], Field("page", "string")
    groups = Groups(np.repeat([0, 1, 2], [2000, 3, 300]), 3)
    values = pa.array([f"v{i}" for i in range(len(groups.ids))])
    states = function.partial(groups, values, field, NO_TIMES)
    at_once = function.finalise(function.seal(states, 0)[:1], field)
    for limit in (2, 100, 1000):
        early = function.seal(states, limit)
        assert max(early[1].value_lengths().to_pylist()) <= limit
        doubled = [pa.concat_arrays([a, b]) for a, b in zip(early, states, strict=True)]
        merged = function.merge(Groups(np.tile([0, 1, 2], 2), 3), doubled)
        assert function.finalise(function.seal(merged, 0)[:1], field) == at_once


@pytest.mark.parametrize(
    ("field", "values", "distinct"),
    [
        ("page", ["", "\x01", "é", "", None], 3),
        ("premium", [True, False, True], 2),
        ("serial", [2**64 - 1, 2**63, 0], 3),
        ("amount", [0.0, -0.0, 1.5, 1.0], 3),
        ("price", [Decimal("1.50"), Decimal("1.5"), Decimal("-1.50")], 2),
        ("mass", [Decimal(10) ** 50, Decimal(10) ** 51], 2),
        ("day", [0, 1, -1], 3),
        ("clock", [0, 1, 1], 2),
        ("ts", [0, 1, -1], 3),
        ("clicks", [], 0),
    ],
)
def test_distinct_values_of_every_type(field, values, distinct):
    assert run(f"approx_distinct({field})", [*values, None]) == distinct
