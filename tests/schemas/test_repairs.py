"""Repairs: what they make of values, what they leave alone, and what is refused before a run."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow import REPAIRED
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.csv.decoder import CsvDecoder
from millstream.schemas.csv.options import CsvOptions
from millstream.schemas.csv.payloads import decode_payloads
from millstream.schemas.csv.written import Written
from millstream.schemas.decoded import Decoded
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.repairs.payloads import CsvPayloads, JsonPayloads
from millstream.schemas.repairs.repairs import Repairs
from millstream.schemas.repairs.rescue import rescued
from millstream.schemas.repairs.spec import RepairError, RepairJob

UTC = dt.UTC
PRICE = Field("price", "decimal", required=True, precision=10, scale=2)
FIELDS = (
    Field("id", "string", required=True),
    Field("n", "integer", required=True, rules=(Rule("minimum", 0), Rule("maximum", 1000))),
    Field("ok", "boolean"),
    Field("x", "number", rules=(Rule("exclusiveMinimum", 0.0),)),
    Field("country", "string", required=True, rules=(Rule("enum", ("GB", "NO", "SE")),)),
    Field("ts", "timestamp", required=True, rules=(
        Rule("minimum", dt.datetime(2020, 1, 1, tzinfo=UTC)),
    )),
    Field("day", "date", rules=(Rule("exclusiveMaximum", dt.date(2030, 1, 1)),)),
    Field("clock", "time"),
    Field("items", "array", items=Field("item", "object", fields=(PRICE,))),
    Field("tags", "array", items=Field("item", "string", rules=(Rule("pattern", "^[a-z]+$"),))),
    Field("note", "string"),
    Field("raw", "json"),
)  # fmt: skip
CONTRACT = Contract("c", "1", "c", FIELDS, event_time="ts")


def repair(field: str, **how: Any) -> RepairJob:
    return RepairJob(field=field, **how)


def after(record: dict[str, Any], *entries: RepairJob, contract: Contract = CONTRACT) -> Any:
    """What is made of a record, as plain values; all of its fields may be wrong."""
    wrong = [entry.field.replace("[]", "[0]") for entry in entries]
    found, _ = Repairs(contract, entries).repaired(_raw(record), wrong)
    return json.loads(msgspec.json.encode(found), parse_float=Decimal)


def _raw(record: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(msgspec.json.encode(record), type=dict[str, msgspec.Raw])


# ----------------------------------------------------------------------------- single repairs


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("n", "3", 3),
        ("n", "3.0", 3),
        ("n", "1e3", 1000),
        ("n", 3.0, 3),
        ("n", "+3", 3),
        ("n", "3.5", "3.5"),
        ("n", "007", "007"),
        ("n", " 3", " 3"),
        ("n", "1e999999", "1e999999"),
        ("n", True, True),
        ("x", "2.50", Decimal("2.50")),
        ("x", "NaN", "NaN"),
        ("ok", "TRUE", True),
        ("ok", "yes", "yes"),
        ("ok", 1, 1),
        ("note", 1, "1"),
        ("note", False, "false"),
        ("note", None, None),
        ("note", [1], [1]),
    ],
)
def test_cast(field, value, expected):
    found = after({field: value}, repair(field, cast=True))[field]
    assert (found, type(found)) == (expected, type(expected))


def test_a_cast_keeps_every_digit():
    text = "12345678901234567890.12345678901234567890"
    assert after({"x": text}, repair("x", cast=True))["x"] == Decimal(text)
    record = {"note": msgspec.Raw(text.encode())}
    found, _ = Repairs(CONTRACT, [repair("note", cast=True)]).repaired(record, ["note"])
    assert found["note"] == text


def test_trim_map_default_and_rename():
    assert after({"country": " GB\n"}, repair("country", trim=True)) == {"country": "GB"}
    words = {"UK": "GB", "47": "NO", "true": "SE"}
    for value, expected in (("UK", "GB"), (47, "NO"), (True, "SE"), ("FR", "FR"), (None, None)):
        assert after({"country": value}, repair("country", map=words)) == {"country": expected}
    assert after({"note": "n/a"}, repair("note", map={"n/a": None})) == {"note": None}
    for record in ({}, {"n": None}):
        assert after(record, repair("n", default=0)) == {"n": 0}
    assert after({"n": 5}, repair("n", default=0)) == {"n": 5}
    assert after({"land": "NO"}, repair("country", rename="land")) == {"country": "NO"}
    both = {"land": "NO", "country": "GB"}
    assert after(both, repair("country", rename="land")) == both


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("n", -1, 0),
        ("n", 1001.5, 1000),
        ("n", 2**80, 1000),
        ("n", 7, 7),
        ("n", "-1", "-1"),  # which is text, and for a cast
        ("ts", "1999-01-01T00:00:00+01:00", "2020-01-01T00:00:00Z"),
        ("ts", "whenever", "whenever"),
        ("day", "2030-01-01", "2029-12-31"),
    ],
)
def test_clamp(field, value, expected):
    assert after({field: value}, repair(field, clamp=True)) == {field: expected}


@pytest.mark.parametrize(
    ("field", "value", "expected", "how"),
    [
        ("ts", "01/02/2026 13:30", "2026-02-01T12:30:00Z",
         {"date_format": "%d/%m/%Y %H:%M", "timezone": "Europe/Oslo"}),
        ("ts", "25/10/2026 02:30", "2026-10-25T00:30:00Z",  # twice: the earlier one
         {"date_format": "%d/%m/%Y %H:%M", "timezone": "Europe/Oslo"}),
        ("ts", "29/03/2026 02:30", "2026-03-29T01:00:00Z",  # never: the next that exists
         {"date_format": "%d/%m/%Y %H:%M", "timezone": "Europe/Oslo"}),
        ("ts", "01 Feb 2026 13:30 +0200", "2026-02-01T11:30:00Z",
         {"date_format": "%d %b %Y %H:%M %z"}),
        ("ts", "2026-02-30", "2026-02-30", {"date_format": "%Y-%m-%d", "timezone": "UTC"}),
        ("ts", 5, 5, {"date_format": "%Y%m%d", "timezone": "UTC"}),
        ("day", "20260201", "2026-02-01", {"date_format": "%Y%m%d"}),
        ("clock", "1:05 PM", "13:05:00", {"date_format": "%I:%M %p"}),
    ],
)  # fmt: skip
def test_another_date_format(field, value, expected, how):
    assert after({field: value}, repair(field, **how)) == {field: expected}


@pytest.mark.parametrize(
    ("type", "format", "zone", "expected"),
    [
        ("timestamp", "dd.MM.yyyy HH:mm:ss", "Europe/Oslo", "01.02.2026 14:30:00"),
        ("timestamp", "yyyyMMdd'T'HHmmssSSSXXX", None, "20260201T133000000Z"),
        ("timestamp", "yyyy-MM-dd HH:mm:ss", None, "2026-02-01 13:30:00"),
        ("date", "dd/MM/yyyy", None, "01/02/2026"),
        ("time", "HH.mm", None, "13.30"),
    ],
)
def test_it_is_written_in_the_contracts_own_format(type, format, zone, expected):
    field = Field("at", type, required=True, format=format, zone=zone)
    contract = Contract("c", "1", "c", (field,))
    entry = repair("at", date_format="%Y|%m|%d|%H|%M")
    if type == "timestamp":
        entry = repair("at", date_format="%Y|%m|%d|%H|%M", timezone="UTC")
    found = after({"at": "2026|02|01|13|30"}, entry, contract=contract)
    assert found == {"at": expected}
    decoded = JsonDecoder(contract, judge=True).decode(pa.array([json.dumps(found).encode()]))
    assert decoded.refused == []


def test_items_of_arrays_one_by_one():
    record = _raw({"items": [{"price": "1.50", "x": 1}, {"price": 2}, 7]})
    entries = [repair("items[].price", cast=True)]
    found, marks = Repairs(CONTRACT, entries).repaired(record, ["items[0].price", "items[2]"])
    assert msgspec.json.encode(found["items"]) == b'[{"price":1.50,"x":1},{"price":2},7]'
    assert marks == ["items[].price: cast"]
    assert after({"tags": [" a "]}, repair("tags[]", trim=True)) == {"tags": ["a"]}


def test_only_what_is_wrong_is_touched():
    entries = [repair("country", trim=True), repair("note", trim=True), repair("n", cast=True)]
    record = _raw({"note": " kept ", "country": " GB", "n": "5"})
    found, marks = Repairs(CONTRACT, entries).repaired(record, ["country", "", "raw"])
    assert marks == ["country: trim"]
    assert (bytes(found["note"]), bytes(found["n"])) == (b'" kept "', b'"5"')


# ---------------------------------------------------------------------- refused before the run


@pytest.mark.parametrize(
    ("entry", "key", "said"),
    [
        (repair("contry", trim=True), "field", "did you mean 'country'?"),
        (repair("items.price", cast=True), "field", "did you mean 'items[].price'?"),
        (repair("n"), "", "one of them"),
        (repair("n", trim=True, cast=True), "", "one of them"),
        (repair("n", default="x"), "default", "does not keep the contract: expected an integer"),
        (repair("n", default=-1), "default", "expected at least 0"),
        (repair("note", default=""), "default", "is not required"),
        (repair("country", map={"UK": "XX"}), "map", "'UK' is mapped to what does not keep"),
        (repair("country", map={"UK": None}), "map", "does not keep the contract"),
        (repair("note", clamp=True), "clamp", "no minimum and no maximum"),
        (repair("x", clamp=True), "clamp", "no value to clamp to"),
        (repair("ts", cast=True), "cast", "cannot be cast"),
        (repair("note", date_format="%Y"), "date_format", "is for dates and times"),
        (repair("day", date_format="%Q"), "date_format", "cannot be used"),
        (repair("day", date_format="%d/%d/%Y"), "date_format", "cannot be used"),
        (repair("day", date_format="%H:%M"), "date_format", "the year, the month and the day"),
        (repair("clock", date_format="%Y-%m-%d"), "date_format", "the hour and the minute"),
        (repair("ts", date_format="%Y%m%d"), "date_format", "say timezone"),
        (repair("ts", date_format="%Y%m%d", timezone="Oslo"), "timezone", "no such zone"),
        (repair("day", date_format="%Y%m%d", timezone="UTC"), "timezone", "for time stamps"),
        (repair("n", cast=True, timezone="UTC"), "timezone", "belongs to date_format"),
        (repair("country", rename="note"), "rename", "is a field of the contract"),
        (repair("tags[]", rename="label"), "rename", "have no names"),
    ],
)
def test_what_cannot_work_is_said_at_once(entry, key, said):
    with pytest.raises(RepairError) as error:
        Repairs(CONTRACT, [repair("n", cast=True), entry])
    assert error.value.key == key
    assert error.value.entry == 1
    assert said in str(error.value)


# -------------------------------------------------------------------------------------- laws

ENTRIES = (
    repair("id", rename="ID"),
    repair("n", cast=True),
    repair("n", default=0),
    repair("n", clamp=True),
    repair("ok", cast=True),
    repair("country", trim=True),
    repair("country", map={"UK": "GB"}),
    repair("ts", date_format="%d/%m/%Y %H:%M:%S", timezone="UTC"),
    repair("day", date_format="%Y%m%d"),
    repair("items[].price", cast=True),
    repair("tags[]", trim=True),
)
MOMENTS = st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2035, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0)
)


@st.composite
def pairs(draw) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record as it should be, and as it came: the same, or broken in ways that are repaired."""

    def either(good: Any, *bad: Any) -> tuple[Any, Any]:
        return good, draw(st.sampled_from([good, *bad]))

    moment = draw(MOMENTS)
    n = draw(st.integers(0, 1000))
    country = draw(st.sampled_from(["GB", "NO", "SE"]))
    bad_country = [f" {country}", "UK" if country == "GB" else f"{country} "]
    day = draw(st.dates(dt.date(2000, 1, 1), dt.date(2029, 12, 31)))
    price = draw(st.decimals(0, 1000, places=2))
    tag = draw(st.sampled_from(["a", "bc"]))
    both: dict[str, tuple[Any, Any]] = {
        "id": (draw(st.text(min_size=1)),) * 2,
        "n": either(n, str(n), f"{n}.0", *([-5] if n == 0 else []), *([None] if n == 0 else [])),
        "ok": either(*draw(st.sampled_from([(True, "True"), (False, "false"), (None, None)]))),
        "country": either(country, *bad_country),
        "ts": either(f"{moment.isoformat()}Z", moment.strftime("%d/%m/%Y %H:%M:%S")),
        "day": either(day.isoformat(), day.strftime("%Y%m%d")),
        "note": (draw(st.none() | st.text()),) * 2,
        "raw": (draw(st.sampled_from([None, [1, 2.50], {"a": " b "}])),) * 2,
    }
    good: dict[str, Any] = {name: value for name, (value, _) in both.items()}
    came: dict[str, Any] = {name: value for name, (_, value) in both.items()}
    items = either(_number(price), str(price))
    good["items"], came["items"] = ([{"price": value}] for value in items)
    tags = either(tag, f" {tag}")
    good["tags"], came["tags"] = ([value, "x"] for value in tags)
    if draw(st.booleans()):
        came["ID"] = came.pop("id")
    return good, came


def _number(value: Decimal) -> msgspec.Raw:
    return msgspec.Raw(str(value).encode())


def _encoded(record: dict[str, Any]) -> bytes:
    return msgspec.json.encode(record)


def outcome(decoded: Decoded, payloads: pa.Array, how: Any) -> Decoded:
    return rescued(decoded, payloads.take(pa.array(decoded.refused, pa.int64())), how)


def assert_as_it_should_have_been(found: Decoded, clean: Decoded, was_refused: list[int]) -> None:
    assert clean.refused == []
    assert found.refused == []
    assert found.violations == []
    assert found.kept is None or found.kept.tolist() == list(range(clean.records.num_rows))
    assert found.records.drop_columns([REPAIRED]).equals(clean.records)
    marks = found.records.column(REPAIRED)
    assert [row for row, mark in enumerate(marks.to_pylist()) if mark] == was_refused


@given(st.lists(pairs(), max_size=8))
def test_repaired_json_is_what_it_should_have_been(several):
    clean, came = (
        pa.array([msgspec.json.encode(pair[i]) for pair in several], pa.binary()) for i in (0, 1)
    )
    decoder = JsonDecoder(CONTRACT, "keep", judge=True)
    how = JsonPayloads(CONTRACT, ENTRIES, "keep")
    before = decoder.decode(came)
    found = outcome(before, came, how)
    # A name that is not the contract's is left where the record is good without it.
    assert_as_it_should_have_been(found, decoder.decode(clean), before.refused)
    # What was repaired once needs no repair.
    again = [msgspec.json.encode(pair[0]) for pair in several]
    assert how.rewritten(pa.array(again, pa.binary()), [[] for _ in again]) == [None] * len(again)


CSV_NAMES = [name for name in (field.name for field in FIELDS) if name != "id"]


def csv_line(record: dict[str, Any], names: list[str], options: CsvOptions) -> bytes:
    """A record as CSV of a dialect; null is an empty cell without quotes."""
    cells = []
    for name in names:
        value = record.get(name)
        if value is None:
            cells.append("")
            continue
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        doubled = text.replace(options.quote, options.quote * 2)
        cells.append(f"{options.quote}{doubled}{options.quote}")
    return options.delimiter.join(cells).encode(options.encoding)


@given(st.lists(pairs(), max_size=8), st.sampled_from([",", ";", "\t"]), st.sampled_from("\"'"))
def test_repaired_csv_is_what_it_should_have_been(several, delimiter, quote):
    options = CsvOptions(delimiter=delimiter, quote=quote)
    clean_names, came_names = ["id", *CSV_NAMES], ["ID", "id", *CSV_NAMES]
    clean = pa.array([csv_line(good, clean_names, options) for good, _ in several], pa.binary())
    came = pa.array([csv_line(bad, came_names, options) for _, bad in several], pa.binary())
    before = decode_payloads(CsvDecoder(CONTRACT, came_names, options, judge=True), came)
    found = outcome(
        before, came, CsvPayloads(CONTRACT, ENTRIES, "ignore", Written(options, tuple(came_names)))
    )
    expected = decode_payloads(CsvDecoder(CONTRACT, clean_names, options, judge=True), clean)
    assert_as_it_should_have_been(found, expected, before.refused)


NASTY = st.sampled_from(
    ["1e999999999999999999999", "-1e-99999999999999999999", "9" * 5000, "0001-01-01T00:00:00+01:00",
     "01/01/0001 00:00:00", "31/12/9999 23:59:59", "99991231", "\0", "", "true", "[", '{"price":'],
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | NASTY | st.text(max_size=5)
    | st.sampled_from([b"1e400", b"9" * 5000, b"-0.0", b"1.0e2"]).map(msgspec.Raw),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["price", "ID", "x"]), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
ANYTHING = st.dictionaries(
    st.sampled_from([*(field.name for field in FIELDS), "ID", "other"]), VALUES
).map(msgspec.json.encode)


@given(st.lists(st.binary(max_size=30) | ANYTHING | pairs().map(lambda p: _encoded(p[1]))))
def test_each_record_has_one_outcome_whatever_it_holds(payloads):
    came = pa.array(payloads, pa.binary())
    decoder = JsonDecoder(CONTRACT, judge=True)
    before = decoder.decode(came)
    found = outcome(before, came, JsonPayloads(CONTRACT, ENTRIES))
    kept = list(range(len(came))) if found.kept is None else found.kept.tolist()
    assert sorted([*kept, *found.refused]) == list(range(len(came)))
    assert kept == sorted(kept)
    assert found.records.num_rows == len(kept)
    assert {v.row for v in found.violations} == set(found.refused)
    stays = set(found.refused)
    assert [v for v in before.violations if v.row in stays] == found.violations
    assert len(found.well_typed) == len(found.event_times) == len(found.refused)


@given(st.lists(pairs().map(lambda pair: pair[0]), min_size=1, max_size=5))
def test_good_records_are_left_as_they_are(records):
    payloads = pa.array([msgspec.json.encode(r) for r in records], pa.binary())
    decoded = JsonDecoder(CONTRACT, judge=True).decode(payloads)
    found = outcome(decoded, payloads, JsonPayloads(CONTRACT, ENTRIES))
    assert found.records.drop_columns([REPAIRED]).equals(decoded.records)
    assert found.records.column(REPAIRED).null_count == len(records)
    assert found.kept is decoded.kept


@given(
    st.lists(
        st.tuples(*(NASTY | st.text(max_size=5) | st.sampled_from([" 3", "3.0"]) for _ in FIELDS)),
        max_size=4,
    )
)
def test_cells_may_hold_anything(several):
    names, options = [field.name for field in FIELDS], CsvOptions()
    lines = [csv_line(dict(zip(names, cells, strict=True)), names, options) for cells in several]
    came = pa.array(lines, pa.binary())
    before = decode_payloads(CsvDecoder(CONTRACT, names, options, judge=True), came)
    found = outcome(
        before, came, CsvPayloads(CONTRACT, ENTRIES, "ignore", Written(options, tuple(names)))
    )
    assert found.records.num_rows + len(found.refused) == len(came)


@pytest.mark.parametrize("value", [b'"\xff"', b"1e99999999999999999999", b"[[[", b"9" * 5000])
def test_values_that_nobody_can_read_stay_as_they_are(value):
    for field in FIELDS:
        entries = [entry for entry in ENTRIES if entry.field == field.name]
        record = {field.name: msgspec.Raw(value)}
        found, marks = Repairs(CONTRACT, entries).repaired(record, [field.name])
        assert (bytes(found[field.name]), marks) == (value, [])


# ------------------------------------------------------------------------------------- formats


def test_numbers_keep_their_digits_and_unknown_fields_their_text():
    payload = b'{"id":"a","n":"1","country":"GB","ts":"2026-01-01T00:00:00Z"'
    payloads = pa.array([payload + b',"z":1.10,"y":[ 1e400 ]}'])
    decoded = JsonDecoder(CONTRACT, "keep", judge=True).decode(payloads)
    found = outcome(decoded, payloads, JsonPayloads(CONTRACT, ENTRIES, "keep"))
    assert found.records.column("_unknown").to_pylist() == ['{"z":1.10,"y":[ 1e400 ]}']
    assert found.records.column(REPAIRED).to_pylist() == ["n: cast"]


def test_a_name_that_the_job_rejects_is_renamed():
    payload = b'{"id":"a","n":1,"country":"GB","ts":"2026-01-01T00:00:00Z","remark":"x"}'
    payloads = pa.array([payload])
    decoded = JsonDecoder(CONTRACT, "reject", judge=True).decode(payloads)
    entries = (repair("note", rename="remark"),)
    found = outcome(decoded, payloads, JsonPayloads(CONTRACT, entries, "reject"))
    assert found.records.column("note").to_pylist() == ["x"]


def test_csv_cells_that_are_blank_but_for_space_are_null_unless_quoted():
    contract = Contract("c", "1", "c", (
        Field("n", "integer"), Field("s", "string", rules=(Rule("pattern", "^[a-z]*$"),)),
    ))  # fmt: skip
    entries = (repair("n", trim=True), repair("s", trim=True))
    lines = pa.array([b"  ,x", b'1,"  "', b"2,  ", b" 3 , y"])
    before = decode_payloads(CsvDecoder(contract, ["n", "s"], CsvOptions(), judge=True), lines)
    assert before.refused == [0, 1, 2, 3]
    how = CsvPayloads(contract, entries, "ignore", Written(CsvOptions(), ("n", "s")))
    found = outcome(before, lines, how)
    assert found.records.column("n").to_pylist() == [None, 1, 2, 3]
    assert found.records.column("s").to_pylist() == ["x", "", None, "y"]


def test_csv_of_another_encoding_with_nested_json():
    fields = (Field("name", "string", required=True), FIELDS[8], Field("n", "integer"))
    contract = Contract("c", "1", "c", fields)
    options = CsvOptions(delimiter=";", encoding="cp1252")
    columns = ["navn", "items", "n"]
    row = io.StringIO()
    csv.writer(row, delimiter=";").writerow(['Ærlig; "han"\nselv', '[{"price": "1.5"}]', "2.0"])
    lines = pa.array([row.getvalue().rstrip("\r\n").encode("cp1252")])
    entries = (
        repair("name", rename="navn"), repair("items[].price", cast=True), repair("n", cast=True),
    )  # fmt: skip
    decoder = CsvDecoder(contract, columns, options, judge=True)
    how = CsvPayloads(contract, entries, "ignore", Written(options, tuple(columns)))
    found = outcome(decode_payloads(decoder, lines), lines, how)
    assert found.records.to_pylist() == [
        {
            "name": 'Ærlig; "han"\nselv',
            "items": [{"price": Decimal("1.50")}],
            "n": 2,
            REPAIRED: "name: rename; items[].price: cast; n: cast",
        }
    ]
