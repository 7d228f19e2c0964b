"""Reference data: what a key is given is what a loop over all rows would find."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field
from millstream.schemas.enrich import reference as reference_module
from millstream.schemas.enrich.index import NONE, KeyIndex
from millstream.schemas.enrich.json_fields import NoField, fields_of_json
from millstream.schemas.enrich.misses import (
    Misses,
    Refused,
    enriched,
    enriched_schema,
)
from millstream.schemas.enrich.reference import (
    NOT_THEN,
    BadReference,
    Reference,
    check_comparable,
    hash_in_pieces,
)
from millstream.schemas.enrich.spec import EnrichJob, LookupJob, Validity
from millstream.schemas.keys import hash_keys
from millstream.schemas.rules import has_restricted
from millstream.schemas.steps import Failure, StepError

UTC = pa.timestamp("us", "UTC")
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def moment(us: int | None) -> dt.datetime | None:
    return None if us is None else EPOCH + dt.timedelta(microseconds=us)


# ------------------------------------------------------------------------------------ index

HALVES = st.sampled_from([0, 1, 2**32, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1])
HASHES = st.tuples(HALVES, HALVES)


def halves(hashes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([high for high, _ in hashes], np.uint64),
        np.array([low for _, low in hashes], np.uint64),
    )


@given(st.sets(HASHES, max_size=30), st.lists(HASHES, max_size=30))
def test_an_index_knows_its_keys_and_no_others(there, asked):
    keys = sorted(there)
    index = KeyIndex(*halves(keys))
    numbers = {key: number for number, key in enumerate(keys)}
    assert index.find(*halves(asked)).tolist() == [numbers.get(key, NONE) for key in asked]
    assert len(index) == len(keys)


def test_an_index_finds_all_of_many_keys():
    random = np.random.default_rng(1)
    high = np.unique(random.integers(0, 2**64, 100_000, np.uint64))
    low = random.integers(0, 2**64, len(high), np.uint64)
    order = random.permutation(len(high))
    index = KeyIndex(high, low)
    assert (index.find(high[order], low[order]) == order).all()
    assert (index.find(high, low ^ np.uint64(1)) == NONE).all()


# ------------------------------------------------------------------------------------ keys

KINDS: dict[str, tuple[list[pa.DataType], list[Any]]] = {
    "string": (
        [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())],
        ["", "a", "b", "é", "a longer one"],
    ),
    "integer": ([pa.int64(), pa.int8(), pa.int32(), pa.uint8(), pa.uint64()], [0, 1, 2, 100]),
    "decimal": (
        [pa.decimal128(10, 2), pa.decimal128(20, 5), pa.decimal256(60, 3)],
        [Decimal("0"), Decimal("1.5"), Decimal("-2.25")],
    ),
    "timestamp": ([UTC, pa.timestamp("ms", "UTC"), pa.timestamp("s")], [EPOCH, moment(10**6)]),
    "date": ([pa.date32()], [dt.date(1969, 12, 31), dt.date(2024, 2, 29)]),
    "boolean": ([pa.bool_()], [False, True]),
    "number": ([pa.float64(), pa.float32()], [0.0, -0.0, 1.5]),
}


@st.composite
def keyed(draw: st.DrawFn, most: int = 12) -> tuple[pa.Schema, pa.Schema, list[Any], list[Any]]:
    """The types of a key in records and in a reference, and keys of both, with nulls."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3))
    ours, theirs = (
        pa.schema(
            [(f"k{i}", draw(st.sampled_from(KINDS[kind][0]))) for i, kind in enumerate(kinds)]
        )
        for _ in range(2)
    )
    keys = st.tuples(*(st.sampled_from([None, *KINDS[kind][1]]) for kind in kinds))
    asked, there = (draw(st.lists(keys, max_size=most)) for _ in range(2))
    return ours, theirs, asked, there


def columns_of(keys: Sequence[tuple[Any, ...]], schema: pa.Schema) -> list[pa.Array]:
    return [
        pa.array([_without_zone(key[i], field.type) for key in keys], field.type)
        for i, field in enumerate(schema)
    ]


def _without_zone(value: Any, type: pa.DataType) -> Any:
    """Arrow would take an aware time for one of the local zone."""
    if isinstance(value, dt.datetime) and type.tz is None:
        return value.replace(tzinfo=None)
    return value


def reference_of(
    keys: Sequence[tuple[Any, ...]],
    schema: pa.Schema,
    validity: Validity | None = None,
    **more: Any,
) -> Reference:
    """A reference whose column ``n`` numbers its rows."""
    columns = [*columns_of(keys, schema), pa.array(range(len(keys)), pa.int64()), *more.values()]
    rows = pa.table(columns, names=[*schema.names, "n", *more])
    return Reference(rows, schema.names, ["n"], validity)


def batch_of(keys: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(columns_of(keys, schema), schema.names)


def is_whole(key: tuple[Any, ...]) -> bool:
    return None not in key


@given(keyed())
def test_a_key_is_given_its_only_row(drawn):
    ours, theirs, asked, there = drawn
    there = list({key: key for key in there}.values())  # 0.0 and -0.0 are one
    reference = reference_of(there, theirs)
    rows = reference.find(batch_of(asked, ours))
    expected = [there.index(key) if key in there and is_whole(key) else None for key in asked]
    assert reference.take("n", rows).to_pylist() == expected
    assert len(reference) == sum(map(is_whole, there))


@given(keyed())
def test_a_key_in_several_rows_is_refused_and_counted(drawn):
    _, theirs, _, there = drawn
    repeated = sum(n > 1 for key, n in Counter(there).items() if is_whole(key))
    if not repeated:
        reference_of(there, theirs)
        return
    with pytest.raises(BadReference) as caught:
        reference_of(there, theirs)
    said = "is 1 key" if repeated == 1 else f"are {repeated} keys"
    assert f"there {said} in more than one row" in str(caught.value)


@given(keyed(), st.lists(st.integers(0, 12), max_size=3))
def test_however_rows_are_cut_hashes_are_those_of_keys(drawn, cuts):
    _, theirs, _, there = drawn
    table = pa.Table.from_batches([batch_of(there, theirs)])
    parts = [table.slice(at, size) for at, size in zip(cuts, cuts[1:] or [3], strict=False)]
    whole = pa.concat_tables([table, *parts])
    found = hash_in_pieces(whole, theirs.names)
    [batch] = whole.combine_chunks().to_batches() or [batch_of([], theirs)]
    expected = hash_keys(batch, theirs.names)
    assert found.kinds == expected.kinds
    assert (found.high == expected.high).all()
    assert (found.low == expected.low).all()
    rows = [None if rows is None else rows.tolist() for rows in (found.rows, expected.rows)]
    assert rows[0] == rows[1]


def test_many_rows_are_found_where_they_are():
    schema = pa.schema([("k", pa.string())])
    keys = [(f"k{n}" if n % 7 else None,) for n in range(20_000)]
    reference = reference_of(keys, schema)
    asked = [*keys[::-1], ("other",)]
    found = reference.take("n", reference.find(batch_of(asked, schema))).to_pylist()
    assert found == [*(n if n % 7 else None for n in range(19_999, -1, -1)), None]
    assert reference.nbytes > 20_000 * 24


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(pa.string(), pa.int64()), (pa.int64(), pa.float64()), (pa.date32(), UTC)],
)
def test_what_is_never_equal_is_refused_with_both_types(ours, theirs):
    with pytest.raises(BadReference) as caught:
        check_comparable(pa.field("country", ours), pa.field("id", theirs))
    assert f"country of the records is of the type {ours}" in str(caught.value)
    assert f"id of the reference of the type {theirs}" in str(caught.value)


def test_a_nested_key_is_refused():
    with pytest.raises(BadReference, match="of which no key can be made"):
        check_comparable(pa.field("a", pa.list_(pa.int8())), pa.field("b", pa.int8()))


# -------------------------------------------------------------------------------- validity

US = st.integers(-5, 5)
SPANS = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.none() | US, st.none() | US), max_size=8
)
ASKED = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.none() | US), max_size=12)
TEXT = pa.schema([("k", pa.string())])


def bounds(span: tuple[str | None, int | None, int | None]) -> tuple[float, float]:
    _, start, end = span
    return -np.inf if start is None else start, np.inf if end is None else end


def times_of(values: Sequence[int | None]) -> pa.Array:
    return pa.array(values, pa.int64()).cast(UTC)


def spans_of(spans: Sequence[Any], *, closes: bool = True) -> Reference:
    validity = Validity("from", "to" if closes else None)
    starts, ends = (times_of([span[i] for span in spans]) for i in (1, 2))
    more = {"from": starts, "to": ends} if closes else {"from": starts}
    return reference_of([(key,) for key, _, _ in spans], TEXT, validity, **more)


def overlapping(spans: Sequence[Any]) -> set[str]:
    """The keys of which two rows are valid at one time."""
    found = set()
    for i, one in enumerate(spans):
        for other in spans[:i]:
            if one[0] is not None and one[0] == other[0]:
                start = max(bounds(one)[0], bounds(other)[0])
                if start < min(bounds(one)[1], bounds(other)[1]):
                    found.add(one[0])
    return found


@given(SPANS, ASKED)
def test_a_key_is_given_the_row_that_is_valid_at_its_time(spans, asked):
    spans = [span for span in spans if bounds(span)[0] <= bounds(span)[1]]
    lasting = [span for span in spans if bounds(span)[0] < bounds(span)[1]]
    if twice := overlapping(lasting):
        with pytest.raises(BadReference) as caught:
            spans_of(spans)
        said = "is 1 key" if len(twice) == 1 else f"are {len(twice)} keys"
        assert f"there {said} with rows whose validity overlaps" in str(caught.value)
        return
    check_as_of(spans_of(spans), spans, lasting, asked)


@given(SPANS, ASKED)
def test_without_an_end_a_row_is_valid_until_the_next_is(spans, asked):
    spans = list({span[:2]: span for span in spans if span[0] is not None}.values())
    closed = []
    for key, start, _ in spans:
        later = [
            s for k, s, _ in spans if k == key and s is not None and s > bounds((k, start, 0))[0]
        ]
        closed.append((key, start, min(later, default=None)))
    check_as_of(spans_of(spans, closes=False), closed, closed, asked)


def check_as_of(
    reference: Reference, spans: Sequence[Any], lasting: Sequence[Any], asked: Sequence[Any]
) -> None:
    keys = batch_of([(key,) for key, _ in asked], TEXT)
    rows = reference.find(keys, times_of([time for _, time in asked]))
    expected = []
    for key, time in asked:
        found = NONE
        if key is not None and any(key == span[0] for span in lasting):
            found = NOT_THEN
        for number, span in enumerate(spans):
            start, end = bounds(span)
            if key is not None and span[0] == key and time is not None and start <= time < end:
                found = number
        expected.append(found)
    assert rows.tolist() == expected
    assert reference.take("n", rows).to_pylist() == [n if n >= 0 else None for n in expected]


def test_two_rows_from_one_time_on_overlap():
    with pytest.raises(BadReference, match="there is 1 key with rows whose validity overlaps"):
        spans_of([("a", 1, None), ("a", 1, None), ("b", 1, None)], closes=False)


@pytest.mark.slow
def test_a_key_of_many_rows():
    spans = [("a", n, n + 1) for n in range(-1000, 1000)]
    asked = [("a", n) for n in range(-1001, 1001)]
    check_as_of(spans_of(spans[::-1]), spans[::-1], spans, asked)


def test_days_are_valid_from_midnight():
    days = pa.array([dt.date(2024, 1, 1)])
    reference = reference_of([("a",)], TEXT, Validity("from"), **{"from": days})
    midnight = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    times = pa.array([midnight - dt.timedelta(microseconds=1), midnight], UTC)
    assert reference.find(batch_of([("a",), ("a",)], TEXT), times).tolist() == [NOT_THEN, 0]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (times_of([2]), times_of([1]), "in 1 rows from lies after to"),
        (pa.array(["2024-01-01"]), times_of([1]), "from is of the type string; expected a time"),
        (times_of([-(2**62)]), times_of([1]), "from has times outside of the years 1 to 9999"),
        (times_of([1]), times_of([2**62]), "to has times outside of the years 1 to 9999"),
    ],
)
def test_validity_that_is_none_is_refused(start, end, message):
    with pytest.raises(BadReference) as caught:
        reference_of([("a",)], TEXT, Validity("from", "to"), **{"from": start, "to": end})
    assert message in str(caught.value)


# ---------------------------------------------------------------------------------- values


def test_a_value_that_no_field_can_be_is_told_where_it_is_found():
    rows = pa.table({"k": ["a", "b", "c"], "x": [1.0, float("nan"), None]})
    reference = Reference(rows, ["k"], ["x"])
    found = reference.find(batch_of([("c",), ("b",), ("d",), ("b",), ("a",)], TEXT))
    errors = reference.errors(found)
    assert list(errors) == [1, 3]
    assert "x holds NaN or an infinity" in str(errors[1])


def test_nested_values_are_taken_too():
    values = pa.array([{"x": [1, 2]}, {"x": None}], pa.struct([("x", pa.list_(pa.int8()))]))
    reference = Reference(pa.table({"k": ["a", "b"], "v": values}), ["k"], ["v"])
    rows = reference.find(batch_of([("b",), ("z",), ("a",)], TEXT))
    assert reference.take("v", rows).to_pylist() == [{"x": None}, None, {"x": [1, 2]}]


def test_more_text_than_offsets_reach_is_taken_too(monkeypatch):
    monkeypatch.setattr(reference_module, "_MOST_TEXT", 10)
    text = pa.chunked_array([["a text", None], ["another text"]])
    reference = Reference(pa.table({"k": ["a", "b", "c"], "t": text}), ["k"], ["t"])
    taken = reference.take("t", reference.find(batch_of([("c",), ("z",), ("a",)], TEXT)))
    assert taken.type == pa.string()
    assert taken.to_pylist() == ["another text", None, "a text"]


def test_an_empty_reference_knows_nothing():
    reference = reference_of([], TEXT)
    rows = reference.find(batch_of([("a",), (None,)], TEXT))
    assert reference.take("n", rows).to_pylist() == [None, None]
    spans = spans_of([])
    assert spans.find(batch_of([("a",)], TEXT), times_of([1])).tolist() == [NONE]


# ---------------------------------------------------------------------------------- misses

CONTRACT = Contract(
    "c",
    "1",
    "c",
    (
        Field("country", "string"),
        Field("email", "string", classification="PII"),
        Field("n", "integer"),
        Field("ts", "timestamp"),
    ),
    event_time="ts",
)
RECORDS = pa.schema(
    [("country", pa.string()), ("email", pa.string()), ("n", pa.int64()), ("ts", UTC)]
)


def said_of(on: list[str], *, not_then: bool = False, event_time: str | None = None, **values: Any):
    record = {"country": "XX", "email": "a@b", "n": 7, "ts": moment(0)} | values
    batch = pa.RecordBatch.from_pylist([record, record], RECORDS)
    misses = Misses(on, "duckdb:f/t", CONTRACT, event_time)
    [failure] = misses.failures(batch, np.array([1]), np.array([not_then]))
    assert failure.row == 1
    assert isinstance(failure.error, Refused)
    return failure.error.field, str(failure.error)


def test_a_miss_says_which_value_is_not_there():
    assert said_of(["country"]) == ("country", "duckdb:f/t has nothing for country 'XX'")
    assert said_of(["country", "n"]) == ("", "duckdb:f/t has nothing for country 'XX', n 7")


def test_a_miss_does_not_tell_classified_values():
    field, said = said_of(["email", "n"])
    assert said == "duckdb:f/t has nothing for email a value not shown, n 7"
    assert field == ""


def test_a_miss_of_a_null_says_so():
    _, said = said_of(["country", "n"], country=None, n=None)
    assert said == "country and n is null, so that duckdb:f/t has nothing for it"


def test_a_miss_in_time_says_when():
    at = {"not_then": True, "event_time": "ts"}
    assert said_of(["n"], **at)[1].endswith("for n 7 at 1970-01-01 00:00:00+00:00")
    assert said_of(["n"], **at, ts=None)[1].endswith("for n 7: the event time is null")
    assert said_of(["n"], event_time="ts")[1].endswith("for n 7")


def test_records_that_miss_alike_share_what_is_said():
    batch = pa.RecordBatch.from_pylist([{"n": 7}, {"n": 8}, {"n": 7}], RECORDS)
    failures = Misses(["n"], "x").failures(batch, np.arange(3), np.zeros(3, bool))
    assert failures[0].error is failures[2].error
    assert failures[0].error is not failures[1].error


def test_new_columns_come_before_hidden_ones():
    schema = pa.schema([("a", pa.int8()), ("_unknown", pa.string()), ("_source", pa.string())])
    new = enriched_schema(schema, {"b": pa.bool_()})
    assert new.names == ["a", "_unknown", "b", "_source"]
    with pytest.raises(StepError, match="have a field a already"):
        enriched_schema(schema, {"a": pa.bool_()})
    with pytest.raises(StepError, match="the name _b is reserved"):
        enriched_schema(schema, {"_b": pa.bool_()})


@given(st.data())
def test_what_fails_or_is_left_out_does_not_go_on(data):
    size = data.draw(st.integers(0, 6))
    rows = st.sets(st.sampled_from(range(size)) if size else st.nothing())
    failed, gone = data.draw(rows), data.draw(rows)
    batch = pa.RecordBatch.from_arrays([pa.array(range(size), pa.int64())], ["a"])
    schema = enriched_schema(batch.schema, {"b": pa.int64()})
    added = pa.array([-n for n in range(size)], pa.int64())
    mask = np.isin(np.arange(size), sorted(gone))
    failures = [Failure(row, ValueError()) for row in sorted(failed, reverse=True)]
    records, found = enriched(batch, {"b": added}, schema, mask, failures)
    left = [n for n in range(size) if n not in failed | gone]
    assert records.to_pylist() == [{"a": n, "b": -n} for n in left]
    assert [failure.row for failure in found] == sorted(failed)


def test_classified_fields_are_found_inside_others():
    inside = Field("o", "object", fields=(Field("x", "string", classification="secret"),))
    assert has_restricted([Field("a", "string"), Field("l", "array", items=inside)])
    assert not has_restricted([Field("l", "array", items=Field("item", "string"))])


# ------------------------------------------------------------------------------------ jobs


def test_what_a_job_says_is_understood():
    said = {
        "from": "csv:a.csv",
        "on": {"a": "b"},
        "add": {"c": "d"},
        "valid": {"from": "f", "to": "t"},
        "refresh": "5m",
    }
    job = msgspec.convert(said, EnrichJob)
    assert (job.source, job.refresh_seconds, job.missing) == ("csv:a.csv", 300.0, "keep")
    assert job.columns == ("b", "d", "f", "t")
    assert job.valid == Validity("f", "t")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"on": {}}, "on: expected at least one field"),
        ({"add": {}}, "add: expected at least one column, or missing: dead or filter"),
        ({"refresh": "often"}, "refresh: expected a duration"),
        ({"max_bytes": 0}, "max_bytes: expected at least 1"),
        ({"valid": {"form": "x"}}, "unknown field `form`"),
        ({"missing": "drop"}, "Invalid enum value 'drop'"),
        ({"frm": "x"}, "unknown field `frm`"),
    ],
)
def test_what_a_job_cannot_mean_is_refused(said, message):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"from": "x", "on": {"a": "b"}, "add": {"c": "d"}} | said, EnrichJob)
    assert message in str(caught.value)


def test_without_columns_records_can_only_be_chosen():
    job = msgspec.convert({"from": "x", "on": {"a": "b"}, "missing": "filter"}, EnrichJob)
    assert job.columns == ("b",)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"on": []}, "on: expected at least one field"),
        ({"on": ["a", "a"]}, "on: a field is there twice"),
        ({"adds": {}}, "adds: expected at least one column"),
        ({"batch": 0}, "batch: expected at least 1"),
        ({"cache": -1}, "cache: expected at least 0"),
        ({"attempts": 0}, "attempts: expected at least 1"),
        ({"per_second": 0}, "per_second: expected more than 0"),
        ({"ttl": "1x"}, "ttl: expected a duration"),
        ({"on_failure": "ignore"}, "Invalid enum value 'ignore'"),
    ],
)
def test_what_a_lookup_cannot_mean_is_refused(said, message):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"python": "m:f", "on": ["a"], "adds": {"b": "string"}} | said, LookupJob)
    assert message in str(caught.value)


# ----------------------------------------------------------------------------- JSON's types


def test_types_are_those_that_records_have():
    records = [
        b'{"s": "x", "i": 1, "x": 1, "b": true, "o": {"a": 1}, "n": null, "m": 1}',
        b"no JSON",
        b"[1]",
        b'{"s": null, "i": -5, "x": 1.5, "b": false, "l": [], "m": "1"}',
    ]
    found = fields_of_json(records, list("sixboln"), {})
    assert [field.type for field in found] == [
        "string", "integer", "number", "boolean", "json", "json", "string",
    ]  # fmt: skip
    expected = {"m": Field("m", "string")}
    assert fields_of_json(records, ["m"], expected) == (expected["m"],)
    with pytest.raises(NoField, match="m is integer and string: say with types which it is"):
        fields_of_json(records, ["m"], {})
    with pytest.raises(NoField, match="there is no field 'ss'"):
        fields_of_json(records, ["ss"], expected)
    assert fields_of_json([], ["m"], {}) == (Field("m", "string"),)
