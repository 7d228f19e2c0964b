"""Avro messages to columns: each judged by itself, and as if it had come in a file."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow_decoder import ArrowDecoder
from millstream.schemas.arrow_json import json_rows
from millstream.schemas.avro import single
from millstream.schemas.avro.columns import json_of
from millstream.schemas.avro.datums import AvroDatums
from millstream.schemas.avro.framing import BARE, CONFLUENT, SINGLE_OBJECT, Framing
from millstream.schemas.avro.messages import AvroMessageDecoder, NoSchema, OneSchema
from millstream.schemas.avro.single import SingleDatums, layout
from millstream.schemas.avro.sound import sound_datums
from millstream.schemas.avro.types import AvroSchemaError, AvroType, parse_avro_schema
from millstream.schemas.avro.values import CorruptDatum, reader_of
from millstream.schemas.avro.with_polars import PolarsReader, is_readable
from millstream.schemas.codes import Code
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.decoded import Decoded
from millstream.schemas.json.decoder import JsonDecoder
from test_avro_datums import LINKED, records

from tests import strategies
from tests.avro_support import datum_of, encoded, long, schema_of


def framed(number: int, datum: bytes, framing: Framing = CONFLUENT) -> bytes:
    return framing.magic + number.to_bytes(framing.number_bytes, framing.order) + datum


def binary(payloads: Sequence[bytes | None]) -> pa.Array:
    return pa.array(payloads, pa.binary())


class Registered(dict[int, Any]):
    """Schemas by their numbers; counts how often each is asked for."""

    def __init__(self, schemas: dict[int, Any]) -> None:
        super().__init__(schemas)
        self.asked: list[int] = []

    def __call__(self, number: int) -> str:
        self.asked.append(number)
        if number not in self:
            raise NoSchema("nobody knows")
        return json.dumps(self[number])


class Outcome(NamedTuple):
    """What became of one message."""

    record: dict[str, Any] | None
    violations: list[tuple[str, str, str]]
    well_typed: bool
    event_time: Any


def outcomes(decoded: Decoded, size: int) -> list[Outcome]:
    """What became of each message of a batch; checks that the parts of ``decoded`` agree."""
    kept = np.arange(size) if decoded.kept is None else decoded.kept
    assert (decoded.kept is None) == (not decoded.refused)
    assert sorted([*kept.tolist(), *decoded.refused]) == list(range(size))
    assert decoded.refused == sorted(decoded.refused)
    rows = [v.row for v in decoded.violations]
    assert rows == sorted(rows)
    assert set(rows) == set(decoded.refused)
    found = dict(zip(kept.tolist(), decoded.records.to_pylist(), strict=True))
    times = decoded.event_times.to_pylist()
    refused = zip(decoded.refused, decoded.well_typed, times, strict=True)
    about = {row: (good, time) for row, good, time in refused}
    return [
        Outcome(
            found.get(row),
            [(v.field, v.code.value, v.message) for v in decoded.violations if v.row == row],
            *about.get(row, (True, None)),
        )
        for row in range(size)
    ]


CONTRACT = Contract(
    "c",
    "1.0.0",
    "c",
    (
        Field("n", "integer", required=True, rules=(Rule("minimum", 0),)),
        Field("s", "string"),
        Field("at", "timestamp"),
    ),
    event_time="at",
)
_AT = {"type": "long", "logicalType": "timestamp-millis"}
FIRST = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "n", "type": "long"},
        {"name": "s", "type": ["null", "string"]},
        {"name": "at", "type": ["null", _AT]},
    ],
}
SECOND = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "extra", "type": {"type": "array", "items": ["null", "boolean"]}},
        {"name": "n", "type": ["int", "null"]},
    ],
}
THIRD = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "s", "type": {"type": "map", "values": "int"}},
        {"name": "n", "type": "string"},
    ],
}
SCHEMAS = Registered({1: FIRST, 2: SECOND, 3: THIRD, 9: FIRST, 4: "string", 5: ["no", "schema"]})

_NUMBERS = st.integers(-3, 2**31 - 1)
_FIRSTS = st.fixed_dictionaries(
    {
        "n": _NUMBERS,
        "s": st.none() | st.text(max_size=200) | st.just(b"\xff"),
        "at": st.none() | st.integers(0, 2**45) | st.just(2**62),
    }
)
_SECONDS = st.fixed_dictionaries(
    {
        "at": st.integers(0, 2**55),
        "extra": st.lists(st.none() | st.booleans(), max_size=70),
        "n": st.none() | _NUMBERS,
    }
)
_THIRDS = st.fixed_dictionaries(
    {
        "s": st.dictionaries(st.text(max_size=2), st.integers(0, 9), max_size=2),
        "n": st.text(max_size=3),
    }
)


def _messages_of(number: int, schema: Any, values: st.SearchStrategy[Any]) -> Any:
    return values.map(lambda value: framed(number, encoded(schema, value)))


MESSAGES = st.one_of(
    _messages_of(1, FIRST, _FIRSTS),
    _messages_of(2, SECOND, _SECONDS),
    _messages_of(3, THIRD, _THIRDS),
    _messages_of(9, FIRST, _FIRSTS),
)


@st.composite
def broken(draw: st.DrawFn, payload: bytes) -> bytes:
    """Some bytes of a message changed, lost or added."""
    at = draw(st.integers(0, max(len(payload) - 1, 0)))
    kind = draw(st.sampled_from(["flip", "flip", "cut", "more", "insert", "any"]))
    if kind == "flip" and payload:
        octet = payload[at] ^ draw(st.sampled_from([1, 2, 64, 128, 255]))
        return payload[:at] + bytes([octet]) + payload[at + 1 :]
    if kind == "cut":
        return payload[:at]
    if kind == "insert":
        return payload[:at] + draw(st.binary(min_size=1, max_size=9)) + payload[at:]
    if kind == "any":
        return draw(st.binary(max_size=20))
    return payload + draw(st.binary(min_size=1, max_size=3))


@pytest.fixture(autouse=True, scope="module")
def _few_are_read_as_many_are() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single, "FAST_FROM", 1)
        yield


@pytest.fixture(scope="module")
def decoder() -> AvroMessageDecoder:
    return AvroMessageDecoder(CONTRACT, SCHEMAS, "keep", judge=True)


# ------------------------------------------------------------------------------------- the laws


@given(st.data(), strategies.contracts(), st.sampled_from(["ignore", "keep"]))
def test_records_are_what_json_makes_of_them(data, contract, unknown):
    drawn = data.draw(st.lists(strategies.records(contract, lawful=False), max_size=4))
    whole = Field("whole", "object", fields=contract.fields)
    schema = schema_of(contract)
    datums = [encoded(schema, datum_of(record.values, whole)) for record in drawn]
    numbers = data.draw(st.lists(st.integers(1, 3), min_size=len(drawn), max_size=len(drawn)))
    of_json = JsonDecoder(contract, unknown, judge=True)
    expected = of_json.decode(binary([record.payload for record in drawn]))
    messages = binary(list(map(framed, numbers, datums)))
    by_number = Registered(dict.fromkeys((1, 2), schema) | {3: {**schema, "doc": "another"}})
    of_avro = AvroMessageDecoder(contract, by_number, unknown, judge=True)
    got = of_avro.decode(messages)
    assert got.records.equals(expected.records)
    assert of_avro.schema == of_json.schema
    assert got.refused == expected.refused
    assert got.well_typed == expected.well_typed
    assert got.event_times.equals(expected.event_times)
    assert {(v.row, v.field, v.code) for v in got.violations} == {
        (v.row, v.field, v.code) for v in expected.violations
    }


@given(st.data(), records())
def test_records_are_what_a_file_makes_of_them(data, made):
    values = data.draw(st.lists(made.values, max_size=5))
    datums = [encoded(made.schema, value) for value in values]
    schema = parse_avro_schema(json.dumps(made.schema))
    block = AvroDatums(schema).read([(len(datums), b"".join(datums))])
    names = ["f0", "missing"]
    fields = tuple(Field(name, "json") for name in names)
    contract = Contract("c", "1", "c", fields)
    expected = ArrowDecoder(contract, "keep").decode(block.batch)
    by_number = Registered({7: made.schema})
    got = AvroMessageDecoder(contract, by_number, "keep").decode(
        binary([framed(7, datum) for datum in datums])
    )
    assert outcomes(got, len(datums)) == outcomes(expected, len(datums))


@given(st.data(), st.lists(MESSAGES, max_size=8))
def test_each_message_is_judged_by_itself(decoder, data, messages):
    """So neither order nor mixture matter, and what is wrong with one costs no other."""
    payloads = [
        data.draw(broken(message)) if data.draw(st.booleans()) else message for message in messages
    ]
    together = outcomes(decoder.decode(binary(payloads)), len(payloads))
    assert together == [outcomes(decoder.decode(binary([p])), 1)[0] for p in payloads]


@given(st.data(), st.lists(MESSAGES, min_size=1, max_size=8))
def test_only_what_was_touched_is_refused(decoder, data, messages):
    before = outcomes(decoder.decode(binary(messages)), len(messages))
    touched = data.draw(st.sets(st.sampled_from(range(len(messages)))))
    payloads = [data.draw(broken(m)) if i in touched else m for i, m in enumerate(messages)]
    after = outcomes(decoder.decode(binary(payloads)), len(messages))
    for i in set(range(len(messages))) - touched:
        assert after[i] == before[i]


@given(st.lists(st.none() | st.binary(max_size=40), max_size=6), st.data())
def test_no_bytes_raise(payloads, data):
    numbers = st.sampled_from([b"", *(framed(n, b"") for n in (*SCHEMAS, 77))])
    payloads = [p if p is None else data.draw(numbers) + p for p in payloads]
    decoder = AvroMessageDecoder(CONTRACT, SCHEMAS, judge=True)
    outcomes(decoder.decode(binary(payloads)), len(payloads))


@given(st.data(), records())
def test_of_any_bytes_polars_and_python_make_the_same(data, made):
    datums = [encoded(made.schema, value) for value in data.draw(st.lists(made.values, max_size=5))]
    datums = [data.draw(broken(d)) if data.draw(st.booleans()) else d for d in datums]
    schema = parse_avro_schema(json.dumps(made.schema))
    fast, slow = SingleDatums(schema), SingleDatums(schema, fast=False)
    (parts, corrupt), (expected, reasons) = fast.read(binary(datums)), slow.read(binary(datums))
    assert corrupt == reasons
    found = {
        row: text
        for part in parts
        for row, text in zip(part.rows.tolist(), json_rows(part.batch).to_pylist(), strict=True)
    }
    wanted = {
        row: text
        for part in expected
        for row, text in zip(part.rows.tolist(), json_rows(part.batch).to_pylist(), strict=True)
    }
    assert found == wanted
    assert sorted([*found, *corrupt]) == list(range(len(datums)))


def soundness(schema: Any, datums: list[bytes]) -> list[bool]:
    record = parse_avro_schema(json.dumps(schema)).record
    assert is_readable(record)
    return sound_datums(record, *layout(binary(datums))).tolist()


@given(st.data(), records())
def test_polars_reads_what_is_sound(data, made):
    schema = parse_avro_schema(json.dumps(made.schema))
    if not is_readable(schema.record):
        return
    datums = [encoded(made.schema, value) for value in data.draw(st.lists(made.values, max_size=9))]
    datums = [data.draw(broken(d)) if data.draw(st.booleans()) else d for d in datums]
    sound = [d for d, good in zip(datums, soundness(made.schema, datums), strict=True) if good]
    _, _, ends = PolarsReader(schema.record).read([(len(sound), b"".join(sound))])
    assert ends.tolist() == list(itertools.accumulate(map(len, sound)))


@given(st.data(), records())
def test_what_was_written_is_sound(data, made):
    """Or all would be read in the slow way, and nobody would notice."""
    if is_readable(parse_avro_schema(json.dumps(made.schema)).record):
        values = data.draw(st.lists(made.values, min_size=1, max_size=5))
        datums = [encoded(made.schema, value) for value in values]
        assert all(soundness(made.schema, datums))


_OCTETS = b"\x00\x01\x02\x03\x04\x0f\x10\x7f\x80\x82\xff"
_SHORT = [bytes(some) for size in range(5) for some in itertools.product(_OCTETS, repeat=size)]


@pytest.mark.parametrize(
    "kind",
    [
        "boolean",
        "int",
        "long",
        "bytes",
        {"type": "fixed", "name": "F", "size": 2},
        {"type": "enum", "name": "E", "symbols": ["a", "b"]},
        ["null", "int"],
        ["boolean", "null"],
        {"type": "array", "items": "boolean"},
        {"type": "array", "items": ["null", "int"]},
        {"type": "array", "items": {"type": "fixed", "name": "F", "size": 1}},
    ],
    ids=str,
)
def test_what_is_sound_and_nothing_else_is_what_a_writer_makes(kind):
    """Of all short bytes, all datums at once."""
    said = {"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]}
    schema = parse_avro_schema(json.dumps(said))
    careful = reader_of(schema, json_of(schema))
    assert soundness(said, _SHORT) == [_is_as_written(careful, kind, some) for some in _SHORT]


def _is_as_written(careful: Any, kind: Any, datum: bytes) -> bool:
    try:
        (value,), end = careful(datum, 0)
    except (CorruptDatum, IndexError):
        return False
    if isinstance(kind, dict) and kind["type"] == "enum":
        value = kind["symbols"][value]
    return datum[:end] == encoded(kind, value) and end == len(datum)


@given(st.lists(st.integers(-(2**66), 2**66)))
def test_integers_are_sound_that_their_type_holds(values):
    for bits in (31, 63, 64, 65):
        values += [2**bits - 1, 2**bits, -(2**bits), -(2**bits) - 1]
    for kind, bits in (("int", 31), ("long", 63)):
        schema = {"type": "record", "name": "R", "fields": [{"name": "n", "type": kind}]}
        found = soundness(schema, list(map(long, values)))
        assert found == [-(2**bits) <= value < 2**bits for value in values]


# ------------------------------------------------------------------------------ what is refused


def refused(decoder: AvroMessageDecoder, payload: bytes | None) -> str:
    """Why a message is refused."""
    good = framed(1, encoded(FIRST, {"n": 1, "s": None, "at": None}))
    found = decoder.decode(binary([good, payload, good]))
    assert found.refused == [1]
    assert found.well_typed == [False]
    (violation,) = found.violations
    assert violation[:3] == (1, "", Code.MALFORMED)
    return violation.message


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (None, "is empty"),
        (b"", "is empty"),
        (b"\0\0\0", "has 3 bytes, fewer than the 5 of the framing confluent"),
        (b'{"n": 1}', "begins with 7b, not with 00 as the framing confluent does"),
        (framed(77, b"\2"), "names the schema 77, which nobody knows"),
        (framed(2**32 - 1, b"\2"), "names the schema 4294967295, which nobody knows"),
        (framed(4, b"\2a"), "names the schema 4, which is of kind bytes: only records can be read"),
        (framed(1, b""), "is no record of the schema 1: it ends too early"),
        (framed(1, b"\2"), "is no record of the schema 1: it ends too early"),
        (framed(1, b"\2\4\0"), "is no record of the schema 1: it has the branch 2 of 2"),
        (framed(9, b"\2\0\0\0\0"), "is no record of the schema 9: it has 2 bytes left over"),
    ],
)
def test_why_a_message_is_refused(decoder, payload, message):
    assert refused(decoder, payload) == message


def test_a_schema_that_is_none_is_said(decoder):
    assert refused(decoder, framed(5, b"\2")).startswith("names the schema 5, which names 'no'")


def test_all_may_be_refused(decoder):
    found = decoder.decode(binary([b"", framed(77, b""), None]))
    assert found.refused == [0, 1, 2]
    assert found.records.num_rows == 0
    assert found.records.schema == decoder.schema


def test_nothing_is_nothing(decoder):
    found = decoder.decode(binary([]))
    assert found.kept is None
    assert (found.refused, found.violations, len(found.event_times)) == ([], [], 0)
    assert found.records.schema == decoder.schema


def test_messages_that_only_break_rules_have_their_event_time(decoder):
    value = {"n": -1, "s": None, "at": 1_000}
    found = decoder.decode(binary([b"", framed(1, encoded(FIRST, value))]))
    assert found.well_typed == [False, True]
    assert [t and t.timestamp() for t in found.event_times.to_pylist()] == [None, 1]


def test_a_slice_is_decoded_as_what_it_holds(decoder):
    whole = binary([framed(1, encoded(FIRST, {"n": i, "s": "é", "at": i})) for i in range(9)])
    found = decoder.decode(whole.slice(3, 4))
    assert found.records.column("n").to_pylist() == [3, 4, 5, 6]
    assert decoder.decode(whole.slice(3, 0)).records.num_rows == 0


# -------------------------------------------------------------------- what is read all the same

_LISTS = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "a", "type": {"type": "array", "items": "int"}}],
}


def read_one(schema: Any, datum: bytes) -> Any:
    contract = Contract("c", "1", "c", (Field("a", "json"),))
    found = AvroMessageDecoder(contract, Registered({1: schema})).decode(binary([framed(1, datum)]))
    assert not found.refused, found.violations
    return json.loads(found.records.column("a")[0].as_py())


@pytest.mark.parametrize(
    "datum",
    [
        b"\x03\x04\x02\x04" + b"\x02\x86\x00" + b"\x00",  # blocks with sizes, as Go writes them
        b"\x06\x02\x04\x06\x00",
        b"\x86\x00\x02\x84\x00\x06\x00",  # integers that are longer than they need be
    ],
)
def test_arrays_may_be_written_otherwise(datum):
    assert read_one(_LISTS, datum) == [1, 2, 3]


@pytest.mark.parametrize("items", [63, 64, 65, 5000])
def test_long_arrays_are_read(items):
    values = list(range(items))
    assert read_one(_LISTS, encoded(_LISTS, {"a": values})) == values


def test_records_that_hold_themselves_are_read():
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": LINKED}]}
    value = {"v": b"x", "next": {"v": b"y", "next": None}}
    assert read_one(schema, encoded(schema, {"a": value})) == {
        "v": "x",
        "next": {"v": "y", "next": None},
    }


def test_records_without_fields_are_of_no_bytes():
    contract = Contract("c", "1", "c", (Field("a", "string"),))
    empty = {"type": "record", "name": "R", "fields": []}
    decoder = AvroMessageDecoder(contract, Registered({1: empty}))
    found = decoder.decode(binary([framed(1, b""), framed(1, b"\0"), framed(1, b"")]))
    assert found.refused == [1]
    assert found.records.to_pylist() == [{"a": None}] * 2


def test_types_of_many_bytes_make_no_numbers_overflow():
    vast = AvroType("fixed", size=2**62, least_bytes=2**62)
    fields = (("a", vast), ("b", vast), ("c", vast))
    items = AvroType("record", fields=fields, least_bytes=3 * 2**62)
    record = AvroType("record", fields=(("a", AvroType("array", items=items)),), least_bytes=1)
    datums = [b"\0", b"\x02\0", b"\xfe\xff\xff\xff\x0f\0"]
    assert sound_datums(record, *layout(binary(datums))).tolist() == [True, False, False]
    assert sound_datums(items, *layout(binary(datums))).tolist() == [False, False, False]


# ------------------------------------------------------------------------------ whom it asks


def test_a_known_schema_is_asked_for_once_an_unknown_one_again():
    schemas = Registered({1: FIRST})
    decoder = AvroMessageDecoder(CONTRACT, schemas)
    good = encoded(FIRST, {"n": 1, "s": None, "at": None})
    batch = binary([framed(1, good), framed(2, good), framed(1, good), framed(2, good)])
    assert decoder.decode(batch).refused == [1, 3]
    assert decoder.decode(batch).refused == [1, 3]
    assert schemas.asked == [1, 2, 2]
    schemas[2] = FIRST
    assert decoder.decode(batch).refused == []


def test_who_does_not_answer_makes_no_dead_letters():
    class Away(ConnectionError):
        pass

    def away(number: int) -> str:
        raise Away

    decoder = AvroMessageDecoder(CONTRACT, away)
    with pytest.raises(Away):
        decoder.decode(binary([framed(1, b"\2\0\0")]))
    assert decoder.decode(binary([b"{}"])).refused == [0]  # whoever needs no schema asks nobody


@pytest.mark.parametrize(("fast_from", "one_by_one"), [(4, 1), (5, 4)])
def test_polars_reads_what_is_sound_of_many(monkeypatch, fast_from, one_by_one):
    monkeypatch.setattr(single, "FAST_FROM", fast_from)
    decoder = AvroMessageDecoder(CONTRACT, SCHEMAS)
    datum = encoded(FIRST, {"n": 1, "s": "a", "at": None})
    batch = binary([framed(1, datum)] * 3 + [framed(1, datum[:-1])])
    decoder.decode(batch)
    reader = decoder._readers[1]
    assert isinstance(reader, SingleDatums)
    careful = _counted(monkeypatch, reader, "_careful")
    assert decoder.decode(batch).refused == [3]
    assert len(careful) == one_by_one


def _counted(monkeypatch: pytest.MonkeyPatch, of: Any, name: str) -> list[Any]:
    calls: list[Any] = []
    call: Callable[..., Any] = getattr(of, name)

    def counted(*given: Any) -> Any:
        calls.append(given)
        return call(*given)

    monkeypatch.setattr(of, name, counted)
    return calls


def test_without_polars_all_is_read_the_same(monkeypatch, decoder):
    datums = [encoded(FIRST, {"n": i, "s": None, "at": i}) for i in range(-1, 3)]
    batch = binary([framed(1, d) for d in [*datums, b"\2"]])
    monkeypatch.setitem(sys.modules, "polars", None)
    slow = AvroMessageDecoder(CONTRACT, SCHEMAS, "keep", judge=True)
    assert outcomes(slow.decode(batch), 5) == outcomes(decoder.decode(batch), 5)


# -------------------------------------------------------------------------------- other framings


def test_bare_datums_are_of_one_schema():
    decoder = AvroMessageDecoder(CONTRACT, OneSchema(json.dumps(FIRST)), framing=BARE)
    good = encoded(FIRST, {"n": 1, "s": "a", "at": None})
    found = decoder.decode(binary([good, good + b"\0", None]))
    assert found.records.column("n").to_pylist() == [1]
    assert [(v.row, v.message) for v in found.violations] == [
        (1, "is no record: it has 1 bytes left over"),
        (2, "is no record: it ends too early"),
    ]


def test_a_bare_schema_that_is_none_is_told_at_once():
    with pytest.raises(AvroSchemaError, match="is not JSON"):
        AvroMessageDecoder(CONTRACT, OneSchema("{"), framing=BARE)


def test_single_objects_name_their_schema_by_its_fingerprint():
    schemas = Registered({0xFEDCBA9876543210: FIRST})
    decoder = AvroMessageDecoder(CONTRACT, schemas, framing=SINGLE_OBJECT)
    datum = encoded(FIRST, {"n": 1, "s": "a", "at": None})
    head = bytes.fromhex("c301 1032547698badcfe")
    found = decoder.decode(binary([head + datum, b"\xc3\x02" + bytes(8), head[:9], b"\xc3"]))
    assert found.records.column("n").to_pylist() == [1]
    assert [v.message for v in found.violations] == [
        "begins with c3 02, not with c3 01 as the framing single-object does",
        "has 9 bytes, fewer than the 10 of the framing single-object",
        "has 1 bytes, fewer than the 10 of the framing single-object",
    ]


def test_dead_letters_say_how_to_read_their_payload():
    text = json.dumps(FIRST)
    bare = AvroMessageDecoder(CONTRACT, OneSchema(text), framing=BARE)
    assert bare.attributes == {"format": "avro", "avro.schema": text}
    assert AvroMessageDecoder(CONTRACT, SCHEMAS).attributes == {
        "format": "avro",
        "avro.framing": "confluent",
    }


@given(st.permutations(range(6)))
def test_order_is_kept_over_schemas(decoder, order):
    payloads = [
        framed(2, encoded(SECOND, {"n": n, "extra": [], "at": 0}))
        if n % 3 == 0
        else framed((1, 9)[n % 2], encoded(FIRST, {"n": n, "s": None, "at": None}))
        for n in order
    ]
    found = decoder.decode(binary(list(itertools.chain(payloads, [b""], payloads))))
    assert found.records.column("n").to_pylist() == [*order, *order]
    assert found.refused == [6]
