"""Batches as Beam's rows, and back: whatever is drawn comes back, or is refused by its name."""

from __future__ import annotations

import datetime as dt
import pickle
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Optional

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.coders import RowCoder
from apache_beam.transforms.window import FixedWindows, SlidingWindows, TimestampedValue
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow import batch_schema, record_schema
from millstream.schemas.contract import Contract, Field
from millstream.transforms.schema_rows import FromSchemaRows, SchemaRowsError, ToSchemaRows
from millstream.transforms.schema_rows.from_rows import _ToBatches
from millstream.transforms.schema_rows.to_rows import _ToRows
from millstream.transforms.schema_rows.types import declared_schema, not_null, row_type

from tests import strategies
from tests.running import RUNNER, run

UTC = dt.UTC
ORDERS = Contract(
    "orders",
    "1.0.0",
    "orders",
    (
        Field("id", "integer", required=True),
        Field("at", "timestamp"),
        Field("price", "decimal", precision=6, scale=2),
        Field("day", "date"),
        Field("tags", "array", items=Field("item", "string")),
        Field("buyer", "object", fields=(Field("name", "string", required=True),)),
    ),
    event_time="at",
)
RECORDS = [
    {
        "id": 1,
        "at": dt.datetime(2026, 11, 24, 12, 0, 0, 1, UTC),
        "price": Decimal("1.10"),
        "day": dt.date(2026, 11, 24),
        "tags": ["a", None],
        "buyer": {"name": "Ann"},
    },
    dict.fromkeys(["at", "price", "day", "tags", "buyer"]) | {"id": 2},
]
BATCH = pa.RecordBatch.from_pylist(RECORDS, record_schema(ORDERS))


def through(*transforms: Any, elements: Any = (BATCH,)) -> list[Any]:
    """What transforms, one after the other, make of elements."""

    def build(pipeline: Any) -> dict[str, Any]:
        found = pipeline | beam.Create(list(elements))
        for i, transform in enumerate(transforms):
            found = found | f"T{i}" >> transform
        return {"found": found}

    return run(build)["found"]


# ----------------------------------------------------------------------------------------- laws


def _fits(field: Field, name: str) -> Field:
    """A drawn field as Beam's schema can hold it."""
    inner = tuple(_fits(f, f"f{i}") for i, f in enumerate(field.fields))
    items = field.items and _fits(field.items, "item")
    field = replace(field, name=name, fields=inner, items=items)
    if field.type == "decimal":
        precision = min(field.precision, 28)
        return replace(field, precision=precision, scale=min(field.scale, precision))
    return replace(field, storage="uint32") if field.storage == "uint64" else field


fitting = strategies.contracts(rules=False).map(
    lambda c: replace(c, fields=tuple(_fits(f, f"f{i}") for i, f in enumerate(c.fields)))
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Contract, pa.RecordBatch]:
    contract = draw(fitting)
    record = st.fixed_dictionaries({f.name: strategies.values(f) for f in contract.fields})
    records = draw(st.lists(record, min_size=1, max_size=5))
    batch = pa.RecordBatch.from_pylist(records, record_schema(contract))
    start = draw(st.integers(0, len(records) - 1))
    return contract, batch.slice(start)


def rows_of(batch: pa.RecordBatch, columns: Contract | pa.Schema) -> tuple[Any, list[Any]]:
    """The type of rows, and the rows themselves once they have been through Beam's coder."""
    schema = declared_schema(columns)
    kind = row_type(schema)
    to_rows = pickle.loads(pickle.dumps(_ToRows(schema, kind)))
    to_rows.setup()
    coder = RowCoder.from_type_hint(kind, None)
    return kind, [coder.decode(coder.encode(row)) for row in to_rows.process(batch)]


def batch_of(rows: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    to_batches = pickle.loads(pickle.dumps(_ToBatches(schema, False)))
    to_batches.setup()
    to_batches.start_bundle()
    for row in rows:
        assert not list(to_batches.process(row, "window", Timestamp(0)))
    (found,) = to_batches.finish_bundle()
    return found.value


@given(batches())
def test_what_a_contract_can_say_goes_through_rows_and_back_unchanged(
    drawn: tuple[Contract, pa.RecordBatch],
) -> None:
    contract, batch = drawn
    _, rows = rows_of(batch, contract)
    back = batch_of(rows, record_schema(contract))
    back.validate(full=True)
    assert back.schema == batch.schema
    assert back.to_pylist() == batch.to_pylist()
    assert back.equals(batch)


ZONED = pa.timestamp("us", "Europe/Berlin")
AWKWARD = pa.table(
    {
        "nan": pa.array([float("nan"), -0.0, float("inf"), None]),
        "dictionary": pa.array(["a", None, "a", "b"]).dictionary_encode(),
        "large": pa.array(["é", "", None, "\0"], pa.large_string()),
        "view": pa.array(["é", "", None, "\0"], pa.string_view()),
        "fixed": pa.array([b"ab", None, b"\0\xff", b"cd"], pa.binary(2)),
        "seconds": pa.array([0, -1, None, 2**31], pa.timestamp("s", "UTC")),
        "millis": pa.array([0, -1, None, 2**31], pa.timestamp("ms", "+02:00")),
        "zoned": pa.array([0, -1, None, 253402200799999999], ZONED),
        "lists": pa.array([[1], [], None, [None, 2]], pa.large_list(pa.int8())),
        "pairs": pa.array([[1, 2], [3, None], None, [4, 5]], pa.list_(pa.int8(), 2)),
        "map": pa.array([[("a", 1)], [], None, [("b", None)]], pa.map_(pa.string(), pa.int64())),
        "count": pa.array([1, 2, 3, 4], pa.uint8()),
        "empty": pa.array([{}, None, {}, {}], pa.struct([])),
        "nested": pa.array(
            [{"x": [{"y": 1}]}, None, {"x": None}, {"x": [None]}],
            pa.struct({"x": pa.list_(pa.struct({"y": pa.int32()}))}),
        ),
    }
)


@pytest.mark.parametrize("start", [0, 1, 3])
def test_arrow_types_that_no_contract_has_come_back_too(start: int) -> None:
    batch = AWKWARD.combine_chunks().to_batches()[0].slice(start)
    _, rows = rows_of(batch, batch.schema)
    back = batch_of(rows, batch.schema)
    back.validate(full=True)
    for name in batch.schema.names:
        # as text, in which NaN is itself and -0.0 is not 0.0
        assert str(back.column(name).to_pylist()) == str(batch.column(name).to_pylist()), name
    assert back.schema == batch.schema


def test_the_schema_says_what_is_required_and_the_least_type_that_holds_all_values() -> None:
    kind = dict(row_type(declared_schema(ORDERS))._fields)
    assert kind["id"] is np.int64
    assert kind["at"] == Optional[Timestamp]  # noqa: UP045
    assert kind["tags"] == Optional[Sequence[Optional[str]]]  # noqa: UP045
    ints = pa.schema([(t, pa.type_for_alias(t)) for t in ("int8", "uint8", "uint16", "uint32")])
    found = [not_null(hint) for _, hint in row_type(ints)._fields]
    assert found == [np.int16, np.int16, np.int32, np.int64]


# ----------------------------------------------------------------------- what cannot be, by name


HUGE = Field("item", "integer", storage="uint64")


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (Field("n", "integer", storage="uint64"), "field n: Beam's schema has no place for uint64"),
        (Field("_id", "string"), 'field _id: .*named tuples.*SELECT "_id" AS other_name'),
        (Field("class", "string"), "field class: .*named tuples"),
        (Field("user-id", "string"), "field user-id: .*named tuples"),
        (
            Field(
                "o",
                "object",
                fields=(Field("a", "array", items=Field("_x", "integer", storage="uint64")),),
            ),
            r"field o\.a\[\]: .*uint64",
        ),
    ],
)
def test_a_contract_that_beams_schema_has_no_place_for(field: Field, said: str) -> None:
    with pytest.raises(SchemaRowsError, match=said):
        ToSchemaRows(Contract("c", "1", "c", (field,)))


@pytest.mark.parametrize(
    ("type", "said"),
    [
        (pa.timestamp("ns", "UTC"), r"cast it to microseconds: timestamp\('us', 'UTC'\)"),
        (pa.timestamp("us"), r"with a zone: timestamp\('us', 'UTC'\)"),
        (pa.duration("s"), "leave it out"),
        (pa.time32("s"), "leave it out"),
        (pa.float16(), "leave it out"),
        (pa.date64(), "leave it out"),
    ],
)
def test_an_arrow_type_that_beams_schema_has_no_place_for(type: pa.DataType, said: str) -> None:
    with pytest.raises(SchemaRowsError, match=f"field x: .* has no place for .*{said}"):
        ToSchemaRows(pa.schema([("x", type)]))


LONG = Decimal("12345678901234567890123456789")


@pytest.mark.parametrize("type", [pa.decimal128(38, 9), pa.decimal256(60, 20)])
def test_decimals_are_exact_or_refused(type: pa.DataType) -> None:
    schema = pa.schema([("d", type)])
    held = pa.record_batch({"d": pa.array([Decimal("1.10"), None, Decimal(-7)], type)})
    kind, rows = rows_of(held, schema)
    assert batch_of(rows, FromSchemaRows().schema_of(_of_type(kind))).equals(held)
    with pytest.raises(SchemaRowsError, match="field d: a decimal of more than 28 digits"):
        rows_of(pa.record_batch({"d": pa.array([LONG], type)}), schema)


def _of_type(kind: Any) -> Any:
    pipeline = beam.Pipeline(runner=RUNNER)
    return pipeline | beam.Create([]) | beam.Map(lambda x: x).with_output_types(kind)


def test_two_fields_of_one_name() -> None:
    with pytest.raises(SchemaRowsError, match="field x: there are two"):
        ToSchemaRows(pa.schema([("x", pa.int8()), ("x", pa.int8())]))


def _batch(values: list[Any], type: pa.DataType, name: str = "x") -> pa.RecordBatch:
    return pa.record_batch({name: pa.array(values, type)})


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (_batch([None], pa.int64()), "field x: 1 values are null.*Validate"),
        (_batch(["a"], pa.string()), "field x: batches have string, ToSchemaRows was told int64"),
        (_batch([1], pa.int64(), "y"), "batches have the columns 'y'; ToSchemaRows was told 'x'"),
    ],
)
def test_batches_that_are_not_as_was_told(batch: pa.RecordBatch, said: str) -> None:
    with pytest.raises(Exception, match=said):
        through(
            ToSchemaRows(Contract("c", "1", "c", (Field("x", "integer", True),))), elements=[batch]
        )


def test_a_map_that_has_a_key_twice() -> None:
    held = pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    with pytest.raises(SchemaRowsError, match="field m: a map has a key twice"):
        rows_of(pa.record_batch({"m": held}), pa.schema([("m", held.type)]))


class Order(NamedTuple):
    id: int
    note: str | None


@pytest.mark.parametrize(
    ("fields", "columns", "said"),
    [
        (
            [("idd", int)],
            ORDERS,
            "the rows have no field 'id'; did you mean 'idd'",
        ),
        (
            [("x", str)],
            {"x": pa.int64()},
            "field x: expected values for int64, .* declare string",
        ),
        ([("x", float)], {"x": pa.int64()}, "field x: expected .* int64, and rows declare number"),
        ([("x", Sequence[str])], {"x": pa.list_(pa.int8())}, r"field x\[\]: .* declare string"),
        ([("x", Any)], None, "field x: its type is not known"),
        ([("x", Sequence[Any])], None, r"field x\[\]: its type is not known"),
        (
            [("x", RowTypeConstraint.from_fields([("y", int)]))],
            {"x": pa.struct({"z": pa.int64()})},
            "field x: expected the fields 'z', and rows declare 'y'",
        ),
    ],
)
def test_rows_that_cannot_be_batches_are_refused_before_anything_runs(
    fields: list[tuple[str, Any]], columns: Any, said: str
) -> None:
    rows = _of_type(RowTypeConstraint.from_fields(fields))
    columns = pa.schema(columns) if isinstance(columns, dict) else columns
    with pytest.raises(SchemaRowsError, match=said):
        _ = rows | FromSchemaRows(columns)


def test_elements_that_are_no_rows() -> None:
    pipeline = beam.Pipeline(runner=RUNNER)
    with pytest.raises(SchemaRowsError, match=r"no row with a schema: make them with beam\.Select"):
        _ = pipeline | beam.Create(["a"]) | FromSchemaRows()


SECRET = "s3cret"


@pytest.mark.parametrize(
    ("value", "type", "said"),
    [
        (3.7, pa.int64(), "expected a value for int64, got <class 'float'>"),
        (3.0, pa.int64(), "expected a value for int64"),
        (True, pa.int64(), "expected a value for int64, got <class 'bool'>"),
        (True, pa.float64(), "expected a value for double, got <class 'bool'>"),
        (SECRET, pa.int64(), "expected a value for int64, got <class 'str'>"),
        (b"a", pa.string(), "expected a value for string, got <class 'bytes'>"),
        ("a", pa.binary(), "expected a value for binary, got <class 'str'>"),
        (300, pa.int8(), "a value does not fit int8"),
        (2**53 + 1, pa.float64(), "a value does not fit double"),
        (1e39, pa.float32(), "a value does not fit float"),
        (1.5, pa.decimal128(5, 2), "expected a value for decimal128"),
        (Decimal("1.234"), pa.decimal128(5, 2), "a value does not fit decimal128"),
        (Decimal("NaN"), pa.decimal128(5, 2), "a value does not fit decimal128"),
        (dt.datetime(2026, 1, 1, 12, tzinfo=UTC), pa.date32(), "expected a value for date32"),
        (dt.datetime(2026, 1, 1, 12), ZONED, "a value does not fit timestamp"),
        (Timestamp(1, 123456789, 9), ZONED, "a value does not fit timestamp"),
        (Timestamp(micros=1), pa.timestamp("ms", "UTC"), "a value does not fit timestamp"),
        ("12:00:00.0000001", pa.time64("us"), "a value does not fit time64"),
        ("12:00Z", pa.time64("us"), "a value does not fit time64"),
        ("noon", pa.time64("us"), "a value does not fit time64"),
        ("\ud800", pa.string(), "a value does not fit string"),
        ("ab", pa.list_(pa.string()), "expected a list, got <class 'str'>"),
        (5, pa.list_(pa.string()), "expected lists"),
        ([1], pa.map_(pa.string(), pa.int64()), "expected a map, got <class 'list'>"),
        (beam.Row(b=1), pa.struct({"a": pa.int64()}), r"field x\.a: a row does not have it"),
    ],
)
def test_a_value_is_taken_exactly_or_refused_without_being_told(
    value: Any, type: pa.DataType, said: str
) -> None:
    with pytest.raises(SchemaRowsError, match=said) as caught:
        batch_of([beam.Row(x=value)], pa.schema([("x", type)]))
    assert SECRET not in str(caught.value)
    assert "x" in str(caught.value).split(":")[0]


@pytest.mark.parametrize(
    ("value", "type", "expected"),
    [
        (np.int64(3), pa.int8(), 3),
        (3, pa.float64(), 3.0),
        (3, pa.decimal128(5, 2), Decimal("3.00")),
        (dt.time(12, 0, 0, 1), pa.time64("us"), dt.time(12, 0, 0, 1)),
        ("12:00", pa.time64("us"), dt.time(12)),
        (dt.datetime(2026, 1, 1, tzinfo=UTC), ZONED, dt.datetime(2026, 1, 1, tzinfo=UTC)),
        ({"a": 1}, pa.struct({"a": pa.int64()}), {"a": 1}),
        (("a", "b"), pa.list_(pa.string()), ["a", "b"]),
        (float("inf"), pa.float32(), float("inf")),
    ],
)
def test_values_that_are_as_good(value: Any, type: pa.DataType, expected: Any) -> None:
    found = batch_of([beam.Row(x=value), beam.Row(x=None)], pa.schema([("x", type)]))
    assert found.column("x").to_pylist() == [expected, None]


def test_what_must_be_there() -> None:
    schema = pa.schema([pa.field("x", pa.int64(), nullable=False)])
    with pytest.raises(SchemaRowsError, match="field x: a value is None"):
        batch_of([beam.Row(x=None)], schema)


# ------------------------------------------------------------------------------- in pipelines


def test_a_batch_through_beams_own_transforms() -> None:
    found = through(
        ToSchemaRows(ORDERS),
        beam.Reshuffle(),  # through the coder
        FromSchemaRows(ORDERS),
    )
    together = pa.concat_batches(found).sort_by("id")
    assert together.to_pylist() == RECORDS
    assert together.schema == BATCH.schema


def test_identity_is_left_out_and_other_fields_keep_their_types() -> None:
    full = pa.RecordBatch.from_pylist(
        [{**RECORDS[0], "_source": "f", "_position": 0, "_payload": b"{}"}], batch_schema(ORDERS)
    )
    told = batch_schema(ORDERS)
    (batch,) = through(
        ToSchemaRows(told),
        beam.Select("id", "price", again="id"),
        FromSchemaRows(pa.schema([("price", pa.decimal128(6, 2))])),
        elements=[full],
    )
    assert batch.schema.names == ["price", "id", "again"]
    assert batch.to_pylist() == [{"price": Decimal("1.10"), "id": 1, "again": 1}]


def test_fields_are_grouped_and_summed_by_beam() -> None:
    (row,) = through(
        ToSchemaRows(ORDERS),
        beam.GroupBy(lambda row: "all").aggregate_field("id", sum, "total"),
    )
    assert row.total == 3


def test_named_tuples_need_no_contract() -> None:
    (batch,) = through(
        beam.Map(lambda i: Order(i, "é" if i else None)).with_output_types(Order),
        FromSchemaRows(),
        elements=[0, 1],
    )
    assert batch.schema == pa.schema([pa.field("id", pa.int64(), False), ("note", pa.string())])
    assert batch.to_pylist() == [{"id": 0, "note": None}, {"id": 1, "note": "é"}]


def test_beams_parquet_writer_takes_the_rows(tmp_path: Path) -> None:
    small = pa.schema([("a", pa.int32()), ("b", pa.string())])
    through(
        ToSchemaRows(small),
        beam.io.WriteToParquet(str(tmp_path / "out")),
        elements=[pa.RecordBatch.from_pylist([{"a": 1, "b": "x"}, {"a": None, "b": None}], small)],
    )
    found = pq.read_table(tmp_path)
    assert found.to_pylist() == [{"a": 1, "b": "x"}, {"a": None, "b": None}]


WINDOW, TIME = beam.DoFn.WindowParam, beam.DoFn.TimestampParam


def _stamped(row: Any, window: Any = WINDOW, at: Any = TIME) -> tuple[Any, int, str]:
    return getattr(row, "id", None), at.micros, str(window)


WINDOWS = [
    beam.WindowInto(FixedWindows(10)),
    beam.WindowInto(SlidingWindows(10, 5)),
    beam.Map(lambda x: x),  # the global window
]


@pytest.mark.parametrize("windows", WINDOWS, ids=["fixed", "sliding", "global"])
def test_windows_and_time_stamps_of_rows_survive(windows: Any) -> None:
    def orders() -> Any:
        return beam.Map(lambda i: TimestampedValue(Order(i, None), i)).with_output_types(Order)

    def there_and_back() -> list[Any]:
        return [FromSchemaRows(timestamps=True), ToSchemaRows(ORDER_SCHEMA)]

    times = [25, 3, 12, 17]
    before = through(orders(), windows, beam.Map(_stamped), elements=times)
    after = through(orders(), windows, *there_and_back(), beam.Map(_stamped), elements=times)
    assert sorted(after) == sorted(before)


ORDER_SCHEMA = pa.schema([pa.field("id", pa.int64(), False), pa.field("note", pa.string())])


def test_a_batch_holds_rows_of_one_window_and_has_their_earliest_time() -> None:
    def look(
        batch: pa.RecordBatch,
        window: Any = beam.DoFn.WindowParam,
        at: Any = beam.DoFn.TimestampParam,
    ) -> Any:
        return sorted(batch.column("id").to_pylist()), float(at), float(window.start)

    found = through(
        beam.Map(lambda i: TimestampedValue(Order(i, None), i)).with_output_types(Order),
        beam.WindowInto(FixedWindows(10)),
        FromSchemaRows(),
        beam.Map(look),
        elements=[25, 3, 12, 17, 4],
    )
    # a window's rows may have come in several bundles, each of which made batches of its own
    for ids, at, start in found:
        assert at == min(ids)
        assert {i // 10 * 10 for i in ids} == {start}
    assert sorted(i for ids, _, _ in found for i in ids) == [3, 4, 12, 17, 25]


def test_a_batchs_own_window_and_time_go_to_its_rows() -> None:
    found = through(
        beam.Map(lambda batch: TimestampedValue(batch, 12)),
        beam.WindowInto(FixedWindows(10)),
        ToSchemaRows(ORDERS),
        beam.Map(_stamped),
    )
    assert found == [(1, 12_000_000, "[10.0, 20.0)"), (2, 12_000_000, "[10.0, 20.0)")]


def test_many_rows_leave_in_batches_of_some_megabytes() -> None:
    to_batches = _ToBatches(pa.schema([("id", pa.int64()), ("note", pa.string())]), True)
    to_batches.setup()
    to_batches.start_bundle()
    made = [
        value.value
        for i in range(30_500)
        for value in to_batches.process(Order(i, "x" * 1000), "w", Timestamp(micros=-i))
    ]
    made += [value.value for value in to_batches.finish_bundle()]
    assert [batch.num_rows for batch in made] == [5000, 5000, 5000, 5000, 5000, 5000, 500]
    assert pa.Table.from_batches(made)["id"].to_pylist() == list(range(30_500))
