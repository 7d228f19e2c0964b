"""Metrics of SQL expressions: the columns that they need, and their results."""

import datetime as dt
import statistics
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.aggregates.functions import AggregateError
from millstream.schemas.aggregates.metrics import derived_column, parse_metric
from millstream.schemas.aggregates.spec import aggregate_spec
from millstream.schemas.aggregates.states import finalise, partial_states
from millstream.schemas.arrow import record_schema
from millstream.schemas.contract import Contract, Field
from millstream.schemas.sql.step import SqlStep

FIELDS = (
    Field("ts", "timestamp", required=True),
    Field("event_type", "string"),
    Field("amount", "number"),
    Field("quantity", "integer"),
    Field("price", "decimal", precision=10, scale=2),
    Field("device", "object", fields=(Field("os", "string"),)),
    Field("unit price", "number"),
    Field("tags", "array", items=Field("item", "string")),
)
CONTRACT = Contract("id", "1", "orders", FIELDS, event_time="ts")


def spec_of(*metrics):
    return aggregate_spec(
        "orders",
        window={"fixed": "1d"},
        by=[],
        metrics={f"m{i}": metric for i, metric in enumerate(metrics)},
        contract=CONTRACT,
    )


def test_an_expression_becomes_a_column_and_equal_ones_share_it():
    spec = spec_of(
        "sum(amount * quantity)", "quantile(amount * quantity, 0.5)", "max(amount)", "count()"
    )
    column = derived_column("amount * quantity")
    assert spec.derived == {column: "amount * quantity"}
    assert [metric.column for metric in spec.metrics] == [column, column, "amount", None]
    assert [metric.field and metric.field.type for metric in spec.metrics] == [
        "number", "number", "number", None,
    ]  # fmt: skip
    assert spec.metrics[0].parts == {"m0__sum": pa.float64()}


def test_a_specification_describes_its_metrics_whole():
    metrics = ["count_if(event_type = 'buy, sell')", "quantile(amount / 2, 0.25)", "first(amount)"]
    described = spec_of(*metrics).described()["metrics"]
    assert [said["metric"] for said in described] == metrics
    for text in metrics:
        assert str(parse_metric(text)) == text


@pytest.mark.parametrize("text", ["device.os", "amount", "unit price"])
def test_a_fields_path_is_the_field(text):
    spec = spec_of(f"count({text})")
    assert not spec.derived
    assert spec.metrics[0].column == text


@pytest.mark.parametrize(
    ("metric", "type"),
    [
        ("sum(quantity + 1)", "integer"),
        ("sum(price * 2)", "decimal"),
        ("mean(price / 3)", "number"),
        ("max(upper(event_type))", "string"),
        ("last(ts + INTERVAL 1 HOUR)", "timestamp"),
        ("min(ts::DATE)", "date"),
        ("count_if(amount > 10)", "boolean"),
        ("approx_distinct(lower(device.os))", "string"),
        ("count(tags[1])", "string"),
        ("count([quantity])", "array"),
        ("count({'a': quantity})", "object"),
    ],
)
def test_the_type_of_an_expression(metric, type):
    [named] = spec_of(metric).metrics
    assert named.field is not None
    assert named.field.type == type


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("sum(amont)", "has no field 'amont'; did you mean 'amount'?"),
        ("sum(amont * 2)", "metrics.m0: sum(amont * 2): "),
        ("sum(amount *)", "metrics.m0: sum(amount *): "),
        ("sum(event_type || 'x')", "event_type || 'x' is of type string, expected 'integer'"),
        ("count_if(amount + 1)", "amount + 1 is of type number, expected 'boolean'"),
        ("sum(sum(amount) + 1)", "metrics.m0: sum(sum(amount) + 1): "),
        ("max(random() + 1)", "metrics.m0: max(random() + 1): "),
        ("first([quantity])", "[quantity] is of type array, expected"),
    ],
)
def test_an_expression_is_refused(metric, message):
    with pytest.raises(AggregateError) as caught:
        spec_of(metric)
    assert message in str(caught.value)


def maybe(values):
    return st.none() | values


records = st.fixed_dictionaries(
    {
        "ts": st.just(dt.datetime(2024, 5, 1, tzinfo=dt.UTC)),
        "event_type": maybe(st.sampled_from(["buy", "view", "it's"])),
        "amount": maybe(st.integers(-100, 100).map(float)),
        "quantity": maybe(st.integers(-100, 100)),
    }
)


@settings(max_examples=25)
@given(st.lists(records, min_size=1, max_size=12))
def test_results_of_expressions(rows):
    spec = spec_of(
        "sum(amount * quantity)",
        "count_if(event_type = 'it''s' AND amount > 0)",
        "quantile(amount + quantity, 0.5)",
    )
    batch = pa.RecordBatch.from_pylist(rows, record_schema(CONTRACT))
    columns = "".join(f', (\n{text}\n) AS "{name}"' for name, text in spec.derived.items())
    batch = SqlStep(f"SELECT *{columns} FROM records", batch.schema).apply(batch)
    [found] = finalise(partial_states(batch, spec), spec).to_pylist()

    whole = [r for r in rows if None not in (r["amount"], r["quantity"])]
    products = [r["amount"] * r["quantity"] for r in whole]
    sums = [r["amount"] + r["quantity"] for r in whole]
    assert found["m0"] == (sum(products) if products else None)
    assert found["m1"] == sum(r["event_type"] == "it's" and (r["amount"] or 0) > 0 for r in rows)
    assert found["m2"] == (statistics.median_low(sums) if sums else None)


def test_plain_fields_need_no_database(monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert spec_of("sum(amount)", "quantile(amount, 0.5)").derived == {}
    with pytest.raises(AggregateError, match=r"pip install 'millstream\[\w+\]'"):
        spec_of("sum(amount * 2)")


def test_overflow_names_the_expression():
    spec = spec_of("sum(amount * 2)")
    name = derived_column("amount * 2")
    batch = pa.record_batch(
        {
            "ts": pa.array([0, 0]).view(pa.timestamp("us", "UTC")),
            name: np.array([1.7e308, 1.7e308]),
        }
    )
    with pytest.raises(OverflowError, match=r"orders\.m0: sum\(amount \* 2\) is inf"):
        finalise(partial_states(batch, spec), spec)
