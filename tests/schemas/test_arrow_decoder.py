"""Arrow columns of any type: a value is what its JSON says, and nothing is made of it but that."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow import record_schema
from millstream.schemas.arrow_decoder import ArrowDecoder
from millstream.schemas.arrow_json import holds_json, is_text, json_rows, json_texts, plain
from millstream.schemas.codes import Code
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.decoded import Decoded
from millstream.schemas.json.decoder import JsonDecoder

from tests import strategies

UTC = dt.UTC


def contract(*fields: Field) -> Contract:
    return Contract("c", "1.0.0", "c", fields)


def decode(array: Any, field: Field, **options: Any) -> Decoded:
    batch = pa.RecordBatch.from_arrays([array], [field.name])
    return ArrowDecoder(contract(field), judge=True, **options).decode(batch)


def values(decoded: Decoded) -> list[Any]:
    return decoded.records.column(0).to_pylist()


def said(decoded: Decoded) -> list[tuple[int, str, str]]:
    return [(v.row, v.field, v.code.value) for v in decoded.violations]


def decimals(*texts: str, type: pa.DataType) -> pa.Array:
    return pa.array(list(map(Decimal, texts)), type)


# --------------------------------------------------------------------- the law: it is its JSON

_TEXT = st.text('aé"\\\n 1-:TZ.', max_size=6)
_ODD_TEXTS = st.sampled_from(
    ["2026-11-24", "2026-11-24T12:00:00Z", "12:30", "5", "1.5", "true", "null", "{}", "[1]", ""]
)
_INTEGERS = [getattr(pa, name)() for name in strategies.INTEGERS]
_BINARY = [pa.binary(), pa.large_binary(), pa.binary_view()]
_STRINGS = [pa.string(), pa.large_string(), pa.string_view()]
_UNITS = st.sampled_from(["s", "ms", "us", "ns"])
_COUNTS = st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**12), 10**12) | st.integers(0, 2**40)


@st.composite
def _numbers(draw: st.DrawFn, size: int) -> pa.Array:
    kind = draw(st.sampled_from(["integer", "float", "decimal", "boolean"]))
    match kind:
        case "integer":
            type = draw(st.sampled_from(_INTEGERS))
            field = Field("n", "integer", storage=str(type))
            return pa.array(draw(_lists(strategies.any_values(field), size)), type)
        case "float":
            width: Any = draw(st.sampled_from([16, 32, 64]))
            some = st.floats(allow_nan=False, allow_infinity=False, width=width)
            some |= st.sampled_from([0.0, 1.0, -3.0, 0.5, 2.0**15])
            type = {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}[width]
            return pa.array(draw(_lists(st.none() | some, size)), type)
        case "decimal":
            precision = draw(st.integers(1, 76))
            scale = draw(st.integers(0, precision))
            make = pa.decimal128 if precision <= 38 else pa.decimal256
            field = Field("n", "decimal", precision=precision, scale=scale)
            found = draw(_lists(strategies.any_values(field), size))
            return pa.array(found, make(precision, scale))
    return pa.array(draw(_lists(st.none() | st.booleans(), size)), pa.bool_())


@st.composite
def _texts(draw: st.DrawFn, size: int) -> pa.Array:
    found = draw(_lists(st.none() | _TEXT | _ODD_TEXTS, size))
    type = draw(st.sampled_from([*_STRINGS, *_BINARY, "dictionary"]))
    if type == "dictionary":
        return pa.array(found, pa.string()).dictionary_encode()
    return pa.array([None if v is None else v.encode() for v in found], pa.binary()).cast(type)


@st.composite
def _times(draw: st.DrawFn, size: int) -> pa.Array:
    unit, counts = draw(_UNITS), draw(_lists(st.none() | _COUNTS, size))
    kind = draw(st.sampled_from(["timestamp", "date", "time", "duration"]))
    if kind == "timestamp":
        return pa.array(counts, pa.int64()).view(pa.timestamp(unit, draw(st.sampled_from(_ZONES))))
    if kind == "duration":
        return pa.array(counts, pa.int64()).view(pa.duration(unit))
    small = pa.array([None if c is None else c % 2**31 - 2**30 for c in counts], pa.int32())
    if kind == "date":
        return small.view(pa.date32())
    if unit in ("s", "ms"):
        return pc.abs(small).view(pa.time32(unit))
    return pc.abs(small).cast(pa.int64()).view(pa.time64(unit))


_ZONES = [None, "UTC", "Europe/Berlin", "+01:00"]


def _lists(of: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(of, min_size=size, max_size=size)


@st.composite
def arrays(draw: st.DrawFn, size: int, depth: int = 2) -> pa.Array:
    """Arrays of any type, with values that can be written as JSON."""
    flat = [_numbers(size), _texts(size), _times(size), st.just(pa.nulls(size)), _uuids(size)]
    if not depth:
        return draw(st.one_of(flat))
    nested = [_structs(size, depth), _arrays_of(size, depth), _maps(size, depth)]
    nested += [_unions(size, depth), _json(size), _runs(size)]
    return draw(st.one_of(*flat, *nested))


@st.composite
def _uuids(draw: st.DrawFn, size: int) -> pa.Array:
    found = draw(_lists(st.none() | st.binary(min_size=16, max_size=16), size))
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(found, pa.binary(16)))


@st.composite
def _json(draw: st.DrawFn, size: int) -> pa.Array:
    found = draw(_lists(st.none() | st.sampled_from(_JSON), size))
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(found, pa.string()))


_JSON = ["{}", '{"a": 1}', "[1, 2.50]", '"a"', "5", "null", '{"a":{"b":[null]}}', "[]", "{", ""]


@st.composite
def _runs(draw: st.DrawFn, size: int) -> pa.Array:
    return pc.run_end_encode(draw(_numbers(size)))


@st.composite
def _structs(draw: st.DrawFn, size: int, depth: int) -> pa.Array:
    names = draw(st.lists(st.sampled_from("abcxyz"), min_size=1, max_size=3, unique=True))
    columns = [draw(arrays(size, depth - 1)) for _ in names]
    nulls = pa.array(draw(_lists(st.booleans(), size)), pa.bool_())
    return pa.StructArray.from_arrays(columns, names=names, mask=nulls)


@st.composite
def _arrays_of(draw: st.DrawFn, size: int, depth: int) -> pa.Array:
    lengths = draw(_lists(st.none() | st.integers(0, 3), size))
    offsets = pa.array([0, *_running(lengths)], pa.int32())
    nulls = pa.array([n is None for n in lengths], pa.bool_())
    items = draw(arrays(offsets[-1].as_py(), depth - 1))
    make = draw(st.sampled_from(["list", "large", "view", "fixed"]))
    match make:
        case "large":
            return pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), items, mask=nulls)
        case "view":
            sizes = pa.array([n or 0 for n in lengths], pa.int32())
            return pa.ListViewArray.from_arrays(offsets[:-1], sizes, items, mask=nulls)
        case "fixed":
            items = draw(arrays(size * 2, depth - 1))
            return pa.FixedSizeListArray.from_arrays(items, 2, mask=nulls)
    return pa.ListArray.from_arrays(offsets, items, mask=nulls)


def _running(lengths: list[int | None]) -> list[int]:
    return [sum(n or 0 for n in lengths[: i + 1]) for i in range(len(lengths))]


@st.composite
def _maps(draw: st.DrawFn, size: int, depth: int) -> pa.Array:
    keys = draw(
        _lists(st.none() | st.lists(st.sampled_from("abcd"), max_size=3, unique=True), size)
    )
    flat = [key for some in keys for key in some or ()]
    items = draw(arrays(len(flat), depth - 1))
    offsets = pa.array([0, *_running([None if k is None else len(k) for k in keys])], pa.int32())
    nulls = pa.array([k is None for k in keys], pa.bool_())
    return pa.MapArray.from_arrays(offsets, pa.array(flat, pa.string()), items, mask=nulls)


@st.composite
def _unions(draw: st.DrawFn, size: int, depth: int) -> pa.Array:
    codes = draw(_lists(st.integers(0, 1), size))
    parts = [draw(arrays(codes.count(code), depth - 1)) for code in (0, 1)]
    offsets = [codes[:i].count(code) for i, code in enumerate(codes)]
    return pa.UnionArray.from_dense(
        pa.array(codes, pa.int8()), pa.array(offsets, pa.int32()), parts
    )


@st.composite
def _fitting(draw: st.DrawFn, found: list[Any], field: Field) -> pa.Array:
    """What Arrow's own types make of a field's values: most of a batch should be good."""
    column = pa.array(found, record_schema(contract(field)).field(0).type)
    return (
        draw(st.sampled_from([column, column.dictionary_encode()]))
        if field.type
        in (
            "string",
            "date",
        )
        else column
    )


@st.composite
def batches(draw: st.DrawFn, of: Contract, size: int) -> pa.RecordBatch:
    """Batches whose columns are mostly those of a contract."""
    columns, names = [], []
    for field in of.fields:
        kind = draw(st.sampled_from(["missing", "any", "good", "good", "good"]))
        if kind == "any":
            columns.append(draw(arrays(size)))
        elif kind == "good":
            found = draw(_lists(strategies.any_values(replace(field, required=False)), size))
            columns.append(draw(_fitting(found, field)))
        if kind != "missing":
            names.append(field.name)
    for name in draw(st.lists(st.sampled_from(["other", "more"]), unique=True)):
        columns.append(draw(arrays(size, depth=1)))
        names.append(name)
    if not columns:
        columns, names = [pa.nulls(size)], ["nothing"]
    return pa.RecordBatch.from_arrays(columns, names)


def without_json(field: Field) -> Field:
    """A string where the contract says json: of text the two decoders have another opinion then."""
    if field.type == "json":
        return replace(field, type="string", rules=())
    return replace(
        field,
        fields=tuple(map(without_json, field.fields)),
        items=field.items and without_json(field.items),
    )


@given(st.data(), strategies.contracts(), st.integers(0, 4), st.sampled_from(["ignore", "keep"]))
def test_a_row_is_decoded_as_its_json(data, drawn, size, unknown):
    drawn = replace(drawn, fields=tuple(map(without_json, drawn.fields)))
    batch = data.draw(batches(drawn, size))
    for judge in (True, False):
        got = ArrowDecoder(drawn, unknown, judge=judge).decode(batch)
        expected = JsonDecoder(drawn, unknown, judge=judge).decode(json_rows(batch))
        assert got.refused == expected.refused
        assert got.well_typed == expected.well_typed
        assert got.event_times.equals(expected.event_times)
        assert set(said(got)) == set(said(expected))
        kept = got.kept.tolist() if got.kept is not None else list(range(size))
        assert kept == [row for row in range(size) if row not in expected.refused]
        if unknown == "keep":
            assert _unknown(got) == _unknown(expected)
        for i, field in enumerate(drawn.fields):
            assert got.records.column(i).equals(expected.records.column(i)), field


def _unknown(decoded: Decoded) -> list[Any]:
    """What is unknown, without nulls: in JSON they are there, in a column they are nothing."""
    texts = decoded.records.column("_unknown").to_pylist()
    found = [json.loads(text, parse_float=str) if text else {} for text in texts]
    return [{path: value for path, value in row.items() if value is not None} for row in found]


@given(st.data(), st.integers(0, 4))
def test_any_column_but_text_is_its_json_where_json_is_due(data, size):
    array = data.draw(arrays(size))
    if holds_json(array.type) or (is_text(plain(array).type) and array.type != pa.uuid()):
        return
    field = Field("j", "json")
    got = decode(array, field)
    texts = json_texts(array).to_pylist()
    assert values(got) == [None if t == "null" else t for t in texts]


@given(st.data(), strategies.contracts(depth=2), st.integers(1, 5))
def test_how_rows_are_cut_into_batches_does_not_matter(data, drawn, size):
    batch = data.draw(batches(drawn, size))
    decoder = ArrowDecoder(drawn, "keep", judge=True)
    whole = decoder.decode(batch)
    at = data.draw(st.integers(0, size))
    parts = [decoder.decode(batch.slice(0, at)), decoder.decode(batch.slice(at))]
    assert pa.Table.from_batches([p.records for p in parts]).equals(
        pa.Table.from_batches([whole.records])
    )
    moved = [v._replace(row=v.row + at) for v in parts[1].violations]
    assert [*parts[0].violations, *moved] == whole.violations


# ---------------------------------------------------------------------------------- examples

Made = Callable[[], pa.Array]
GOOD: list[tuple[Any, Field, list[Any]]] = [
    (pa.array([1, None], pa.int8()), Field("f", "integer", storage="uint64"), [1, None]),
    (decimals("12", type=pa.decimal128(38, 0)), Field("f", "integer"), [12]),
    (pa.array([2**63], pa.uint64()), Field("f", "integer", storage="uint64"), [2**63]),
    (pa.array([2**53 + 1]), Field("f", "number"), [float(2**53)]),
    (pa.array([0.1], pa.float32()), Field("f", "number"), [0.10000000149011612]),
    (pa.array([0.1]), Field("f", "number", storage="float32"), [0.10000000149011612]),
    (decimals("0.1", type=pa.decimal256(70, 60)), Field("f", "number"), [0.1]),
    (pa.array([19.99, 3.0]), Field("f", "decimal", precision=4, scale=2),
     [Decimal("19.99"), Decimal("3.00")]),
    (pa.array([7], pa.uint8()), Field("f", "decimal", precision=3, scale=2), [Decimal("7.00")]),
    (pa.array([2**64 - 1], pa.uint64()), Field("f", "decimal", precision=20), [Decimal(2**64 - 1)]),
    (decimals("1.10", type=pa.decimal128(9, 4)), Field("f", "decimal", precision=3, scale=1),
     [Decimal("1.1")]),
    (pa.array(["a", "é", None]).dictionary_encode(), Field("f", "string"), ["a", "é", None]),
    (pa.array([b"ab"], pa.binary(2)), Field("f", "string"), ["ab"]),
    (pa.array([dt.date(2026, 1, 2)]), Field("f", "string"), ["2026-01-02"]),
    (pa.array([dt.date(2026, 1, 2)], pa.date64()), Field("f", "date"), [dt.date(2026, 1, 2)]),
    (pa.array(["24/11/2026"]), Field("f", "date", format="dd/MM/yyyy"), [dt.date(2026, 11, 24)]),
    (pa.array([dt.date(2026, 1, 2)]), Field("f", "date", format="dd/MM/yyyy"),
     [dt.date(2026, 1, 2)]),
    (pa.array([1], pa.timestamp("s", "UTC")), Field("f", "timestamp"),
     [dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]),
    (pa.array([1999, -1], pa.timestamp("ns", "Asia/Tokyo")), Field("f", "timestamp"),
     [dt.datetime(1970, 1, 1, 0, 0, 0, 1, UTC),
      dt.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)]),
    (pa.array([dt.datetime(2026, 7, 1, 12)]), Field("f", "timestamp", zone="Europe/Berlin"),
     [dt.datetime(2026, 7, 1, 10, tzinfo=UTC)]),
    (pa.array([dt.datetime(2026, 7, 1, 12)]),
     Field("f", "timestamp", format="yyyy-MM-dd HH:mm:ss"),
     [dt.datetime(2026, 7, 1, 12, tzinfo=UTC)]),
    (pa.array([1500], pa.time64("ns")), Field("f", "time"), [dt.time(0, 0, 0, 1)]),
    (pa.array([1], pa.time32("s")), Field("f", "time"), [dt.time(0, 0, 1)]),
    (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
     Field("f", "object", fields=(Field("a", "integer"),)), [{"a": 1}]),
    (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())), Field("f", "json"), ['{"a":1}']),
    (pa.array([' {"a": 1.50} ', "null", None]), Field("f", "json"), ['{"a": 1.50}', None, None]),
    (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), Field("f", "array", items=Field("i", "integer")),
     [[1, 2]]),
    (pa.nulls(2), Field("f", "boolean"), [None, None]),
]  # fmt: skip


@pytest.mark.parametrize(("array", "field", "expected"), GOOD, ids=lambda v: str(v)[:40])
def test_what_is_exact_is_taken(array, field, expected):
    got = decode(array, field)
    assert not got.violations
    assert values(got) == expected


BAD: list[tuple[Any, Field, str, str]] = [
    (pa.array(["19.99"]), Field("f", "number"), "TYPE",
     "expected a number, got a string: '19.99'"),
    (pa.array([3.0]), Field("f", "integer"), "TYPE",
     "expected an integer, got a number with a fraction or exponent: 3.0"),
    (pa.array([300]), Field("f", "integer", storage="int8"), "RANGE",
     "expected an integer from -128 to 127, got 300"),
    (pa.array([-1]), Field("f", "integer", storage="uint8"), "RANGE",
     "expected an integer from 0 to 255, got -1"),
    (pa.array([5]), Field("f", "string"), "TYPE", "expected a string, got an integer: 5"),
    (pa.array([True]), Field("f", "integer"), "TYPE", "expected an integer, got a boolean: True"),
    (pa.array([float("nan")]), Field("f", "number"), "TYPE", "expected a number, got 'NaN'"),
    (pa.array([float("-inf")]), Field("f", "decimal"), "RANGE",
     "expected a number that a double can hold, got '-Infinity'"),
    (pa.array([1e39]), Field("f", "number", storage="float32"), "RANGE",
     "expected a number that a 32-bit float can hold, got 1e+39"),
    (pa.array([0.125]), Field("f", "decimal", precision=4, scale=2), "PRECISION",
     "expected a decimal of 4 digits, 2 after the point, got 0.125"),
    (decimals("0.1250", type=pa.decimal128(9, 4)), Field("f", "decimal", precision=4, scale=2),
     "PRECISION", "expected a decimal of 4 digits, 2 after the point, got 0.125"),
    (pa.array([b"\xffa"]), Field("f", "string"), "ENCODING",
     "is not UTF-8: invalid start byte at byte 0"),
    (pa.array([dt.datetime(2026, 7, 1, 12)]), Field("f", "timestamp"), "FORMAT",
     "expected a time stamp with an offset, such as 2026-11-24T13:45:00Z, "
     "got '2026-07-01T12:00:00.000000'"),
    (pa.array([10**12], pa.timestamp("s", "UTC")), Field("f", "timestamp"), "TYPE",
     "got 1000000000000"),
    (pa.array([-(2**31)], pa.int32()).view(pa.date32()), Field("f", "date"), "TYPE", "a date"),
    (pa.array([86_400], pa.int32()).view(pa.time32("s")), Field("f", "time"), "TYPE", "a time"),
    (pa.array([dt.date(2026, 1, 2)]), Field("f", "timestamp"), "FORMAT", "got '2026-01-02'"),
    (pa.array(["{a}"]), Field("f", "json"), "FORMAT", "expected JSON, got '{a}'"),
    (pa.array(["[" * 501 + "]" * 501]), Field("f", "json"), "FORMAT", "JSON of at most 500 levels"),
    (pa.array(["secret"]), Field("f", "number", classification="pii"), "TYPE",
     "expected a number, got a string: a value not shown"),
]  # fmt: skip


@pytest.mark.parametrize(("array", "field", "code", "message"), BAD, ids=lambda v: str(v)[:40])
def test_what_is_not_is_refused_and_only_that(array, field, code, message):
    nothing = pa.nulls(1, array.type)
    got = decode(pa.concat_arrays([nothing, array, nothing]), field)
    assert [(v.row, v.field, v.code.value) for v in got.violations] == [(1, "f", code)]
    assert message in got.violations[0].message
    assert values(got) == [None, None]
    assert got.refused == [1]


NESTED = contract(
    Field("items", "array", items=Field("item", "object", fields=(
        Field("price", "decimal", required=True, precision=5, scale=2),
        Field("at", "timestamp", rules=(Rule("minimum", dt.datetime(2026, 1, 1, tzinfo=UTC)),)),
    ))),
    Field("id", "integer", required=True),
)  # fmt: skip


def test_places_within_are_named_and_the_rest_is_judged():
    items = [
        [{"price": 1.5, "at": "2026-01-01T00:00:00Z", "more": 1}],
        None,
        [{"price": 0.001, "at": "2025-01-01T00:00:00Z", "more": None}, None, {"price": None}],
    ]
    batch = pa.record_batch({"items": items, "id": [1, 2, None], "x": [None, "y", None]})
    got = ArrowDecoder(NESTED, "reject", judge=True).decode(batch)
    assert said(got) == [
        (0, "items[0].more", "UNKNOWN_FIELD"),
        (1, "x", "UNKNOWN_FIELD"),
        (2, "items[0].price", "PRECISION"),
        (2, "items[2].price", "REQUIRED"),
        (2, "items[0].at", "RANGE"),
        (2, "id", "REQUIRED"),
    ]
    assert got.well_typed == [False, False, False]
    kept = ArrowDecoder(NESTED, "keep").decode(batch)
    assert kept.records.column("_unknown").to_pylist() == ['{"items[0].more":1}', '{"x":"y"}']


def test_only_broken_rules_leave_a_row_well_typed_and_its_event_time_known():
    fields = (
        Field("at", "timestamp", required=True),
        Field("n", "integer", rules=(Rule("minimum", 0),)),
    )
    timed = Contract("c", "1", "c", fields, event_time="at")
    at = dt.datetime(2026, 1, 1, tzinfo=UTC)
    batch = pa.record_batch({"n": [-1, -1], "at": [at.isoformat(), "never"]})
    got = ArrowDecoder(timed, judge=True).decode(batch)
    assert got.well_typed == [True, False]
    assert got.event_times.to_pylist() == [at, None]
    assert said(got) == [(0, "n", "RANGE"), (1, "at", "FORMAT"), (1, "n", "RANGE")]
    assert ArrowDecoder(timed).decode(batch).refused == [1]


def test_each_value_of_a_union_is_judged_by_its_own_type():
    codes = pa.array([0, 1, 0, 2, 1], pa.int8())
    offsets = pa.array([0, 0, 1, 0, 1], pa.int32())
    parts = [pa.array([1, None]), pa.array(["a", "b"]), pa.array([True])]
    union = pa.UnionArray.from_dense(codes, offsets, parts)
    got = decode(union, Field("f", "integer"))
    assert values(got) == [1, None]
    assert [v.message for v in got.violations] == [
        "expected an integer, got a string: 'a'",
        "expected an integer, got a boolean: True",
        "expected an integer, got a string: 'b'",
    ]
    assert values(decode(union, Field("f", "json"))) == ["1", '"a"', None, "true", '"b"']


def test_of_a_repeated_name_the_last_counts():
    batch = pa.RecordBatch.from_arrays([pa.array(["a"]), pa.array([1])], ["f", "f"])
    got = ArrowDecoder(contract(Field("f", "integer"))).decode(batch)
    assert values(got) == [1]


@pytest.mark.parametrize("unknown", ["ignore", "keep", "reject"])
def test_strings_that_are_not_utf8_are_found_wherever_they_are(unknown):
    bad = pa.array([b"\xff", b"ok"], pa.binary())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), bad)
    pairs = pa.MapArray.from_arrays(pa.array([0, 1, 2], pa.int32()), ["a", "a"], bad)
    fields = (
        Field("l", "array", items=Field("item", "string")),
        Field("o", "object", fields=(Field("a", "string"),)),
        Field("j", "json"),
    )
    batch = pa.record_batch({"l": lists, "o": pairs, "j": lists})
    got = ArrowDecoder(contract(*fields), unknown).decode(batch)
    assert said(got) == [(0, "l[0]", "ENCODING"), (0, "o", "ENCODING"), (0, "j", "ENCODING")]
    assert got.records.to_pylist()[0]["j"] == '["ok"]'
    if unknown == "keep":
        got = ArrowDecoder(contract(fields[0]), unknown).decode(batch.select(["j"]))
        assert said(got) == [(0, "j", "ENCODING")]


def test_a_decoder_travels():
    import pickle

    decoder = pickle.loads(pickle.dumps(ArrowDecoder(NESTED, "keep", judge=True)))
    assert decoder.schema == record_schema(NESTED, keep_unknown=True)


# ----------------------------------------------------------------------------- canonical JSON


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([3.0, -0.0, 1e20, 0.1]), ["3.0", "-0.0", "1e+20", "0.1"]),
        (pa.array([0.1], pa.float32()), ["0.10000000149011612"]),
        (pa.array([float("nan"), float("inf")]), ['"NaN"', '"Infinity"']),
        (pa.array([b'\xff"\\\x01\n'], pa.binary()), [b'"\xff\\"\\\\\\u0001\\n"']),
        (pa.array([uuid.UUID(int=5).bytes], pa.binary(16)), None),
        (pa.array([1], pa.duration("ms")), ["1"]),
        (pa.array([[(1, None)]], pa.map_(pa.int8(), pa.int8())), ['{"1":null}']),
        (pa.array([{"b": [1, None], "a": None}]), ['{"b":[1,null],"a":null}']),
        (pa.array([dt.datetime(2026, 1, 2)], pa.timestamp("ns")),
         ['"2026-01-02T00:00:00.000000000"']),
    ],
)  # fmt: skip
def test_the_canonical_form(array, expected):
    got = json_texts(array).cast(pa.binary()).to_pylist()
    if expected is not None:
        assert got == [e if isinstance(e, bytes) else e.encode() for e in expected]


@given(st.data(), st.integers(1, 3))
def test_every_row_is_json(data, size):
    batch = pa.RecordBatch.from_arrays([data.draw(arrays(size))], ["a"])
    for row in json_rows(batch).to_pylist():
        assert list(json.loads(row)) == ["a"]


def test_codes_are_those_of_the_closed_list():
    assert {code for _, _, code, _ in BAD} <= {code.value for code in Code}
