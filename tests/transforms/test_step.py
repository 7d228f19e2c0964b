"""Steps of any kind: what is kept, left out and failed on is all that came, in its order."""

from __future__ import annotations

import datetime as dt
import pickle
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import batch_schema
from millstream.schemas.contract import Contract, Field
from millstream.schemas.sql.step import SqlStep
from millstream.schemas.steps import StepError, in_pieces, plain_type
from millstream.transforms.dead_letters import Origin
from millstream.transforms.python_step import PythonStep
from millstream.transforms.step import Step
from millstream.transforms.tallies import Tally

from tests import strategies
from tests.running import rows, run

UTC = pa.timestamp("us", "UTC")
CONTRACT = Contract(
    "sales",
    "1.2.0",
    "sales",
    (
        Field("n", "integer"),
        Field("text", "string"),
        Field("amount", "number"),
        Field("small", "number", storage="float32"),
        Field("price", "decimal", precision=10, scale=2),
        Field("ok", "boolean"),
        Field("day", "date"),
        Field("ts", "timestamp"),
        Field("clock", "time"),
        Field("device", "object", fields=(Field("os", "string"), Field("v", "integer"))),
        Field("tags", "array", items=Field("item", "string")),
    ),
    event_time="ts",
)
SCHEMA = batch_schema(CONTRACT)
RECORD = {
    "n": 5,
    "text": "a",
    "amount": 1.5,
    "small": 0.5,
    "price": Decimal("9.99"),
    "ok": True,
    "day": dt.date(1969, 12, 31),
    "ts": dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC),
    "clock": dt.time(23, 59, 59),
    "device": {"os": "linux", "v": 1},
    "tags": ["a", None],
}


def batch_of(numbers, source="a.jsonl", first=0):
    """Records of these ``n``; a record's payload is its ``n``."""
    records = [
        RECORD | {"n": n, "_source": source, "_position": first + i, "_payload": str(n).encode()}
        for i, n in enumerate(numbers)
    ]
    return pa.RecordBatch.from_pylist(records, SCHEMA)


def numbers_of(batch, name="n"):
    return batch[name].to_pylist()


def python_step(function, over: Any = "batch", adds=None, schema=SCHEMA):
    return PythonStep(f"{__name__}:{function}", schema, over, adds)


# ------------------------------------------------------------------- one step in three ways
# of n it keeps what is no multiple of three, and adds its half; it fails on negative numbers


def halves_of_batch(batch):
    if pc.any(pc.less(batch["n"], 0)).as_py():
        raise ValueError("negative")
    left = [n % 3 != 0 for n in batch["n"].to_pylist()]
    batch = batch.filter(pa.array(left, pa.bool_()))
    return batch.append_column("half", pc.divide(batch["n"], 2))


def halves_of_row(record):
    if record["n"] < 0:
        raise ValueError("negative")
    return record | {"half": record["n"] // 2} if record["n"] % 3 else None


HALVES = {
    "batch": python_step("halves_of_batch"),
    "row": python_step("halves_of_row", "row", {"half": "integer"}),
    "sql": SqlStep(
        "SELECT *, CASE WHEN n < 0 THEN error('negative') ELSE n // 2 END AS half FROM records "
        "WHERE n % 3 <> 0 OR n < 0",
        SCHEMA,
    ),
}
NUMBERS = st.lists(st.integers(-5, 10), max_size=20)


@pytest.mark.parametrize("kind", HALVES)
def test_the_columns_are_known_before_the_run(kind):
    assert HALVES[kind].schema == pa.schema(
        [*list(SCHEMA)[:-3], ("half", pa.int64()), *list(SCHEMA)[-3:]]
    )


@settings(max_examples=25)
@given(numbers=NUMBERS, data=st.data())
@pytest.mark.parametrize("kind", HALVES)
def test_all_that_came_is_kept_failed_or_left_out_however_it_is_cut(kind, numbers, data):
    batch = batch_of(numbers)
    bounds = data.draw(strategies.cuts(len(numbers)))
    kept, failed = [], []
    for first, end in pairwise(bounds):
        records, failures = HALVES[kind].attempt(batch.slice(first, end - first))
        assert records.schema == HALVES[kind].schema
        kept += records.to_pylist()
        failed += [first + row for row, _ in failures]
        assert all("negative" in str(error) for _, error in failures)
    assert failed == [i for i, n in enumerate(numbers) if n < 0]
    sound = [i for i, n in enumerate(numbers) if n >= 0 and n % 3]
    expected = [batch.to_pylist()[i] | {"half": numbers[i] // 2} for i in sound]
    assert kept == expected


@pytest.mark.parametrize("kind", HALVES)
def test_steps_are_picklable(kind):
    step = pickle.loads(pickle.dumps(HALVES[kind]))
    assert numbers_of(step.attempt(batch_of([1, 3, 4])).records, "half") == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", HALVES)
def test_in_a_pipeline_every_record_is_accounted_for(kind):
    batches = [
        batch_of([1, -1, 2, 3, -2, 4]),
        batch_of([6, 7], "b.jsonl"),
        batch_of([8, 9, 3], first=6),
        batch_of([-7], "c.jsonl"),
        batch_of([]),
    ]
    step = Step(HALVES[kind], contract=CONTRACT, origin=Origin("step", "job", "run"))
    found = run(lambda p: (p | beam.Create(batches, reshuffle=False) | step)._asdict())

    read = Counter(r["_source"] for r in rows(batches))
    kept = Counter(r["_source"] for r in rows(found["records"]))
    dead = Counter(r["source"] for r in rows(found["dead_letters"]))
    filtered = Counter()
    for tally in found["tallies"]:
        assert isinstance(tally, Tally)
        assert tally.outcome == "filtered"
        assert tally.rows > 0
        filtered[tally.source] += tally.rows
    assert read == kept + dead + filtered
    assert filtered == {"a.jsonl": 3, "b.jsonl": 1}
    assert all(batch.num_rows for batch in found["records"])
    assert sorted(numbers_of(batch) for batch in found["records"]) == [[1, 2, 4], [7], [8]]

    letters = sorted(rows(found["dead_letters"]), key=lambda r: (r["source"], r["position"]))
    assert [(r["source"], r["position"], r["payloadBytes"]) for r in letters] == [
        ("a.jsonl", "1", b"-1"),
        ("a.jsonl", "4", b"-2"),
        ("c.jsonl", "0", b"-7"),
    ]
    letter = letters[0]
    [violation] = letter["violations"]
    assert (violation["field"], violation["code"]) == ("", "STEP")
    assert violation["message"].endswith("negative")
    assert (letter["stage"], letter["pipeline"], letter["run_id"]) == ("step", "job", "run")
    assert (letter["contract_id"], letter["contract_version"]) == ("sales", "1.2.0")
    assert letter["event_time"] == RECORD["ts"]


@pytest.mark.slow
def test_a_step_can_follow_a_step():
    first = python_step("halves_of_row", "row", {"half": "integer"})
    second = SqlStep("SELECT n, half::VARCHAR AS ts FROM records WHERE half > 0", first.schema)
    third = SqlStep("SELECT 1 // (n - 4) AS x FROM records", second.schema)

    def build(pipeline):
        records, lost = pipeline | beam.Create([batch_of([1, 2, 4, 5])]), []
        for i, step in enumerate((first, second, third)):
            result = records | f"Step{i}" >> Step(step, contract=CONTRACT)
            records, lost = result.records, [*lost, result.dead_letters]
        return {"records": records, "lost": lost | beam.Flatten()}

    found = run(build)
    assert [numbers_of(batch, "x") for batch in found["records"]] == [[0, 1]]
    [letter] = rows(found["lost"])
    assert (letter["payloadBytes"], letter["event_time"]) == (
        b"4",
        None,
    )  # `ts` is no time any more


def test_a_step_needs_the_identity_of_records():
    schema = pa.schema([("n", pa.int64()), *list(SCHEMA)[-3:-1]])
    with pytest.raises(ValueError, match="needs batches with _payload"):
        Step(SqlStep("SELECT n FROM records", schema))


# ------------------------------------------------------------------- what dead letters show

ODD = {
    "long": ValueError("x" * 1000),
    "lines": KeyError("a\n  b"),
    "surrogate": ValueError("bad \ud800"),
    "silent": RuntimeError(),
}


def fail_oddly(record):
    raise ODD[record["text"]]


NO_INTEGER = SqlStep("SELECT text::INT AS n FROM records", SCHEMA)


def messages(step, batch, **options):
    result = run(lambda p: (p | beam.Create([batch]) | Step(step, **options))._asdict())
    return [r["violations"][0]["message"] for r in rows(result["dead_letters"])]


def test_errors_are_shown_short_and_on_one_line():
    batch = pa.RecordBatch.from_pylist(
        [r | {"text": t} for r, t in zip(batch_of(range(4)).to_pylist(), ODD, strict=True)], SCHEMA
    )
    assert messages(python_step("fail_oddly", "row"), batch) == [
        f"ValueError: {'x' * 200}…",
        "KeyError: 'a\\n b'",
        "ValueError: bad \\ud800",
        "RuntimeError",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "field",
    [
        Field("email", "string", classification="PII"),
        Field("o", "object", fields=(Field("email", "string", classification="restricted"),)),
        Field("l", "array", items=Field("item", "string", classification="secret")),
    ],
)
def test_where_fields_are_classified_texts_of_errors_are_not_shown(field):
    contract = Contract("c", "1", "c", (*CONTRACT.fields, field))
    [hidden] = messages(NO_INTEGER, batch_of([1]), contract=contract)
    assert hidden == "SqlError: its text is not shown, as records hold classified fields"


@pytest.mark.slow
def test_else_they_are():
    said = "Conversion Error: Could not convert string 'a' to INT32 when casting from source column"
    assert messages(NO_INTEGER, batch_of([1]), contract=CONTRACT) == [f"SqlError: {said} text"]


# ------------------------------------------------------------------------ over batches: rules


def keep_all(batch):
    return batch


def backwards(batch):
    return batch.take(pa.array(np.arange(batch.num_rows)[::-1]))


def as_table(batch):
    return pa.table(batch.select(["_row", "n"])).filter(pc.field("n") > 1)


def other_arrow_types(batch):
    return pa.record_batch(
        {
            "large": batch["text"].cast(pa.large_string()),
            "view": batch["text"].cast(pa.string_view()),
            "encoded": batch["text"].dictionary_encode(),
            "nanos": batch["ts"].cast(pa.timestamp("ns", "UTC")),
            "naive": batch["ts"].cast(pa.timestamp("us")),
            "millis": pa.nulls(batch.num_rows, pa.time32("ms")),
            "day": batch["day"].cast(pa.date64()),
            "lists": batch["tags"].cast(pa.large_list(pa.large_string())),
            "short": batch["price"].cast(pa.decimal256(12, 2)),
            "_row": batch["_row"].cast(pa.uint32()),
        }
    )


def nothing_known(batch):
    known = [n if n != 2 else None for n in batch["n"].to_pylist()]
    column = pa.array(known) if batch.num_rows else pa.array([], pa.int64())
    return batch.select(["_row"]).append_column("m", column)


def not_a_number(batch):
    zero = pc.subtract(batch["n"], batch["n"]).cast(pa.float64())
    n = batch["n"].cast(pa.float64())
    return batch.select(["_row"]).append_column(
        "tags",
        pa.array([[v, None] for v in pc.divide(n, zero).to_pylist()], pa.list_(pa.float64())),
    )


def test_columns_are_given_the_plain_types():
    step = python_step("other_arrow_types")
    strings = pa.list_(pa.field("item", pa.string()))
    types = [pa.string()] * 3 + [UTC] * 2
    types += [pa.time64("us"), pa.date32(), strings, pa.decimal128(12, 2)]
    assert step.schema.types[:-3] == types
    [found] = step.attempt(batch_of([1])).records.to_pylist()
    assert [found[name] for name in ("large", "view", "encoded")] == ["a"] * 3
    assert [found[name] for name in ("nanos", "naive")] == [RECORD["ts"]] * 2
    assert [found[name] for name in ("day", "lists")] == [RECORD["day"], RECORD["tags"]]


def test_the_order_is_that_of_the_batch():
    assert numbers_of(python_step("backwards").attempt(batch_of([3, 1, 2])).records) == [3, 1, 2]


def test_a_table_will_do():
    records, failures = python_step("as_table").attempt(batch_of([1, 2]))
    assert (numbers_of(records), numbers_of(records, "_position"), failures) == ([2], [1], [])


def test_a_column_of_nulls_is_of_any_type():
    records, failures = python_step("nothing_known").attempt(batch_of([2]))
    assert (numbers_of(records, "m"), failures) == ([None], [])


def test_values_that_no_field_can_be_are_failures():
    records, failures = python_step("not_a_number").attempt(batch_of([0, 1, -1]))
    assert records.num_rows == 0
    said = "tags holds NaN or an infinity, which no field can be"
    assert [str(error) for _, error in failures] == [said] * 3


def first_alone_is_odd(change):
    """A function that keeps everything, but of a batch with ``n`` 1 gives what ``change`` makes."""

    def function(batch):
        return change(batch) if pc.any(pc.equal(batch["n"], 1)).as_py() else batch

    return function


no_row = first_alone_is_odd(lambda b: b.drop_columns(["_row"]))
twice = first_alone_is_odd(lambda b: pa.concat_batches([b, b]))
beyond = first_alone_is_odd(
    lambda b: b.set_column(b.num_columns - 1, "_row", pa.array(np.arange(1, b.num_rows + 1)))
)
null_row = first_alone_is_odd(
    lambda b: b.set_column(b.num_columns - 1, "_row", pa.nulls(b.num_rows, pa.int64()))
)
other_type = first_alone_is_odd(lambda b: b.set_column(0, "n", b["n"].cast(pa.string())))
one_less = first_alone_is_odd(lambda b: b.drop_columns(["text"]))
one_more = first_alone_is_odd(lambda b: b.append_column("new", b["n"]))
same_name = first_alone_is_odd(lambda b: b.append_column("n", b["n"]))
no_batch = first_alone_is_odd(lambda b: b.to_pylist())
too_fine = first_alone_is_odd(
    lambda b: b.set_column(
        b.schema.get_field_index("ts"), "ts", pa.array([1] * b.num_rows, pa.timestamp("ns", "UTC"))
    )
)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_row", "the result has no column _row; keep it beside the record's"),
        ("twice", "it names a record more than once"),
        ("beyond", "it names records that are not of the batch"),
        ("null_row", "its values are no numbers of records"),
        ("other_type", "n is of the type string, and of an empty batch it is int64"),
        ("one_less", "the column text is missing, which the result of an empty batch has"),
        ("one_more", "the column new is not in the result of an empty batch"),
        ("same_name", "two columns have one name"),
        ("no_batch", "expected a pyarrow.RecordBatch, got a value of the type list"),
        ("too_fine", "would lose data"),
    ],
)
def test_a_result_that_is_none_is_a_failure_of_its_records_alone(function, message):
    records, failures = python_step(function).attempt(batch_of([0, 2, 1, 4]))
    assert [row for row, _ in failures] == [2]
    assert message in str(failures[0].error)
    assert numbers_of(records) == [0, 2, 4]


def fails_on_nothing(batch):
    return batch["n"][0]


def hides(batch):
    return batch.append_column("_hidden", batch["n"])


def source_of_its_own(batch):
    return batch.append_column("_source", pa.array(["x"] * batch.num_rows, pa.string()))


def doubled(batch):
    return batch.append_column("n", batch["n"])


def untyped(batch):
    return batch.append_column("x", pa.nulls(batch.num_rows))


def binary(batch):
    return batch.append_column("x", pa.nulls(batch.num_rows, pa.binary()))


NO_FUNCTION = 5


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            f"{__name__}:keep_al",
            f"the module {__name__} has no 'keep_al'; did you mean 'keep_all'?",
        ),
        (f"{__name__}:NO_FUNCTION", "NO_FUNCTION is a value of the type int, no function"),
        ("no_such_module:f", "no_such_module cannot be imported: ModuleNotFoundError: No module"),
        ("no_such_module:f", "it must be importable wherever the job runs"),
        (__name__, "expected package.module:function"),
        (":f", "expected package.module:function"),
        (f"{__name__}:fails_on_nothing", "fails on an empty batch: IndexError"),
        (f"{__name__}:hides", "the name _hidden is reserved: it begins with _"),
        (f"{__name__}:source_of_its_own", "the name _source is reserved"),
        (f"{__name__}:doubled", "two columns are named n"),
        (f"{__name__}:untyped", "x is of the Arrow type null"),
        (f"{__name__}:binary", "x is of the Arrow type binary"),
        (f"{__name__}:no_batch_at_all", "fails on an empty batch: expected a pyarrow.RecordBatch"),
    ],
)
def test_what_is_no_step_is_an_error_at_start(target, message):
    with pytest.raises(StepError) as caught:
        PythonStep(target, SCHEMA)
    assert message in str(caught.value)


def no_batch_at_all(batch):
    return None


def test_a_record_cannot_have_the_column_of_the_row():
    schema = pa.schema([("_row", pa.int64()), *list(SCHEMA)[-3:]])
    with pytest.raises(StepError, match="the column name _row is reserved"):
        python_step("keep_all", schema=schema)


# --------------------------------------------------------------------------- over rows: rules

RESULTS = {
    "same": lambda r: r,
    "number": lambda r: 7,
    "unknown": lambda r: r | {"amuont": 1},
    "missing": lambda r: {k: v for k, v in r.items() if k != "text"},
    "string_for_integer": lambda r: r | {"n": "7"},
    "true_for_integer": lambda r: r | {"n": True},
    "float_for_integer": lambda r: r | {"n": 7.0},
    "too_large": lambda r: r | {"n": 2**63},
    "float_for_decimal": lambda r: r | {"price": 1.5},
    "too_precise": lambda r: r | {"price": Decimal("1.234")},
    "too_wide": lambda r: r | {"price": Decimal("123456789.00")},
    "bytes_for_string": lambda r: r | {"text": b"a"},
    "surrogate": lambda r: r | {"text": "\ud800"},
    "nan": lambda r: r | {"amount": float("nan")},
    "beyond_float32": lambda r: r | {"small": 1e300},
    "one_for_true": lambda r: r | {"ok": 1},
    "time_stamp_for_date": lambda r: r | {"day": r["ts"]},
    "date_for_time_stamp": lambda r: r | {"ts": r["day"]},
    "naive": lambda r: r | {"ts": r["ts"].replace(tzinfo=None)},
    "list_for_object": lambda r: r | {"device": []},
    "unknown_inside": lambda r: r | {"device": {"oss": "x"}},
    "wrong_inside": lambda r: r | {"device": {"os": 1}},
    "string_for_list": lambda r: r | {"tags": "a"},
    "wrong_item": lambda r: r | {"tags": ["a", 1]},
    "wrong_addition": lambda r: r | {"net": 1.5},
}


def result_of_its_kind(record):
    return RESULTS[record["text"]](record)


WRONG = {
    "number": "expected a dict or None, got a value of the type int",
    "unknown": "the key 'amuont' is neither a field nor in adds; did you mean 'amount'?",
    "missing": "the key 'text' is missing; for no value give None",
    "string_for_integer": "n: expected an int, got a value of the type str",
    "true_for_integer": "n: expected an int, got a value of the type bool",
    "float_for_integer": "n: expected an int, got a value of the type float",
    "too_large": "n: ",
    "float_for_decimal": "price: expected a Decimal, got a value of the type float",
    "too_precise": "price: ",
    "too_wide": "price: ",
    "bytes_for_string": "text: expected a str, got a value of the type bytes",
    "surrogate": "text: ",
    "nan": "amount holds NaN or an infinity",
    "beyond_float32": "small holds NaN or an infinity",
    "one_for_true": "ok: expected a bool, got a value of the type int",
    "time_stamp_for_date": "day: expected a date, got a value of the type datetime",
    "date_for_time_stamp": "ts: expected a datetime with a zone, got a value of the type date",
    "naive": "ts: expected a datetime with a zone, got one without",
    "list_for_object": "device: expected a dict, got a value of the type list",
    "unknown_inside": "device: there is no field 'oss'; did you mean 'os'?",
    "wrong_inside": "device.os: expected a str, got a value of the type int",
    "string_for_list": "tags: expected a list, got a value of the type str",
    "wrong_item": "tags[]: expected a str, got a value of the type int",
    "wrong_addition": "net: expected a Decimal, got a value of the type float",
}


@given(st.lists(st.sampled_from(list(RESULTS)), max_size=8))
@settings(max_examples=40)
def test_a_value_that_does_not_fit_is_a_failure_of_its_record_alone(kinds):
    check_results(kinds)


def test_every_result_that_does_not_fit_is_refused():
    assert set(RESULTS) == {*WRONG, "same"}
    check_results(list(RESULTS))


def check_results(kinds):
    batch = batch_of(range(len(kinds)))
    column = pa.array(kinds, pa.string())
    batch = batch.set_column(batch.schema.get_field_index("text"), "text", column)
    step = python_step("result_of_its_kind", "row", {"net": "decimal(10, 2)"})
    records, failures = step.attempt(batch)
    assert {row for row, _ in failures} == {i for i, kind in enumerate(kinds) if kind in WRONG}
    for row, error in failures:
        assert isinstance(error, StepError)
        assert WRONG[kinds[row]] in str(error)
    assert numbers_of(records) == [i for i, kind in enumerate(kinds) if kind == "same"]
    assert all(record["net"] is None for record in records.to_pylist())


def every_word(record):
    return record | {
        "n": str(record["n"]),
        "string": "x",
        "integer": 1,
        "number": 1,
        "decimal": Decimal("1.5"),
        "boolean": False,
        "date": dt.date(2020, 1, 1),
        "timestamp": dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
        "time": dt.time(1),
    }


def test_fields_are_added_and_given_other_types():
    words = ["string", "integer", "number", "boolean", "date", "timestamp", "time"]
    adds = {"n": "string", **{word: word for word in words}, "decimal": "decimal(40,2)"}
    step = python_step("every_word", "row", adds)
    assert step.schema.names[:11] == SCHEMA.names[:11]
    added = [pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.date32(), UTC, pa.time64("us")]
    assert step.schema.types[0] == pa.string()
    assert step.schema.types[11:19] == [*added, pa.decimal256(40, 2)]
    [found] = step.attempt(batch_of([7])).records.to_pylist()
    assert (found["n"], found["number"], found["decimal"]) == ("7", 1.0, Decimal("1.50"))
    assert found["timestamp"] == dt.datetime(2019, 12, 31, 23, tzinfo=dt.UTC)
    assert {name: found[name] for name in SCHEMA.names[1:11]} == {
        name: RECORD[name] for name in SCHEMA.names[1:11]
    }


@pytest.mark.parametrize(
    ("over", "adds", "message"),
    [
        ("row", {"net": "decimal"}, "net is of the type 'decimal', which there is not; did you"),
        ("row", {"net": "intger"}, "did you mean 'integer'?"),
        ("row", {"net": "decimal(77,2)"}, "net is of the type 'decimal(77,2)', which there is not"),
        ("row", {"net": "decimal(2,3)"}, "which there is not"),
        ("row", {"_net": "string"}, "the name _net is reserved"),
        ("batch", {"net": "string"}, "adds is for over: row"),
        ("rows", {}, "over is 'rows', expected 'batch' or 'row'"),
    ],
)
def test_what_is_added_wrongly_is_an_error_at_start(over, adds, message):
    with pytest.raises(StepError) as caught:
        python_step("keep_all", over, adds)
    assert message in str(caught.value)


# ----------------------------------------------------------------------------------- pieces


@given(st.lists(st.booleans(), max_size=40))
def test_pieces_find_what_fails_alone(fails):
    def work(row, size):
        assert size > 0
        if any(fails[row : row + size]):
            raise ValueError(row)
        return list(range(row, row + size))

    results, failures = in_pieces(len(fails), work)
    assert [row for piece in results for row in piece] == [i for i, f in enumerate(fails) if not f]
    assert [row for row, _ in failures] == [i for i, f in enumerate(fails) if f]
    assert [error.args for _, error in failures] == [(row,) for row, _ in failures]


@pytest.mark.parametrize(("every", "most"), [(1, 1010), (2, 2020), (100, 200), (1000, 40)])
def test_failures_cost_few_calls(every, most):
    calls = []

    def work(row, size):
        calls.append(size)
        if any(i % every == 0 for i in range(row, row + size)):
            raise ValueError

    in_pieces(1000, work)
    assert len(calls) <= most


def test_plain_types_of_nested_columns():
    nested = pa.struct([("l", pa.list_view(pa.dictionary(pa.int8(), pa.large_string())))])
    items = pa.list_(pa.field("item", pa.string()))
    assert plain_type(nested, "x") == pa.struct([("l", items)])
    with pytest.raises(StepError, match="x is of the Arrow type duration"):
        plain_type(pa.duration("us"), "x")
