"""What the decoder promises: strict types, every record in one place, all that is wrong at once."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import UNKNOWN, record_schema
from millstream.schemas.codes import Code
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.decoded import Decoded, UnknownFields
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.rules import find_violations

from tests import strategies


def contract(*fields: Field) -> Contract:
    return Contract("c", "1.0.0", "c", fields)


def decode(
    to: Contract | Field, *payloads: bytes | None, unknown: UnknownFields = "ignore"
) -> Decoded:
    to = contract(to) if isinstance(to, Field) else to
    decoded = JsonDecoder(to, unknown).decode(pa.array(payloads, pa.binary()))
    assert_each_in_one_place(decoded, len(payloads))
    decoded.records.validate(full=True)
    return decoded


def assert_each_in_one_place(decoded: Decoded, rows: int) -> None:
    kept = list(range(rows)) if decoded.kept is None else decoded.kept.tolist()
    assert decoded.records.num_rows == len(kept)
    assert sorted([*kept, *decoded.refused]) == list(range(rows))
    assert decoded.refused == sorted(decoded.refused)
    assert kept == sorted(kept)
    assert sorted({v.row for v in decoded.violations}) == decoded.refused


def wrong(to: Contract | Field, payload: bytes, unknown: UnknownFields = "ignore") -> Any:
    """The paths and codes of all that is wrong with one record."""
    return [(v.field, v.code) for v in decode(to, payload, unknown=unknown).violations]


def value(field: Field, text: str | bytes) -> Any:
    """What a field holds once it has read a text, which it must."""
    text = text.encode() if isinstance(text, str) else text
    decoded = decode(field, b'{"%s":%s}' % (field.name.encode(), text))
    assert decoded.refused == []
    return decoded.records.to_pylist()[0][field.name]


# ------------------------------------------------------------------------------------- laws


@settings(max_examples=60)
@given(st.data())
def test_what_was_written_is_read(data):
    """Every type, nested to three levels, with nulls, in every way of writing it."""
    to = data.draw(strategies.contracts(rules=False))
    records = data.draw(st.lists(strategies.records(to), max_size=4))
    decoded = decode(to, *(r.payload for r in records))
    assert decoded.refused == []
    assert decoded.records.schema == record_schema(to)
    assert decoded.records.to_pylist() == [_in_order(r.values, to) for r in records]


def _in_order(values: dict[str, Any], to: Contract) -> dict[str, Any]:
    return {f.name: values[f.name] for f in to.fields}


@settings(max_examples=80)
@given(st.data())
def test_one_fault_gives_its_code_at_its_path(data):
    """Faults of a type are found by the decoder, missing values by the rules after it."""
    to = data.draw(strategies.contracts())
    good = data.draw(strategies.records(to))
    broken = data.draw(strategies.broken_records(to))
    decoded = decode(to, good.payload, broken.payload, good.payload)
    found = [(v.row, v.field, v.code) for v in decoded.violations]
    kept = np.arange(3) if decoded.kept is None else decoded.kept
    for v in find_violations(decoded.records.columns, to.fields, kept):
        found.append((v.row, v.field, v.code))
    assert {row for row, _, _ in found} == {1}
    assert (1, broken.path, broken.code) in found


@settings(max_examples=30)
@given(st.data())
def test_neighbours_and_order_do_not_matter(data):
    """A record's fate is its own: alone, among others, and in another order it is the same."""
    to = data.draw(strategies.contracts(depth=2))
    some = strategies.records(to).map(lambda r: r.payload)
    some |= strategies.broken_records(to).map(lambda b: b.payload)
    payloads = data.draw(st.lists(some, min_size=1, max_size=6))
    alone = [_fates(decode(to, p))[0] for p in payloads]
    order = data.draw(st.permutations(range(len(payloads))))
    together = _fates(decode(to, *(payloads[i] for i in order)))
    assert together == [alone[i] for i in order]


def _fates(decoded: Decoded) -> list[Any]:
    """What became of each row, in the order of rows."""
    found: dict[int, Any] = {}
    rows = decoded.records.num_rows
    kept = range(rows) if decoded.kept is None else decoded.kept.tolist()
    found.update(zip(kept, decoded.records.to_pylist(), strict=True))
    for v in decoded.violations:
        found.setdefault(v.row, []).append((v.field, v.code, v.message))
    return [found[row] for row in sorted(found)]


@settings(max_examples=60)
@given(st.data())
def test_judging_at_once_is_judging_after(data):
    """Decoding with the rules finds what decoding, and then the rules, would find."""
    to = data.draw(strategies.contracts(depth=2))
    times = [None, *(f.name for f in to.fields if f.type == "timestamp")]
    to = replace(to, event_time=data.draw(st.sampled_from(times)))
    some = strategies.records(to).map(lambda r: r.payload)
    some |= strategies.records(to, lawful=False).map(lambda r: r.payload)
    some |= strategies.broken_records(to).map(lambda b: b.payload)
    payloads = pa.array(data.draw(st.lists(some, max_size=6)), pa.binary())

    parsed = JsonDecoder(to).decode(payloads)
    kept = np.arange(len(payloads)) if parsed.kept is None else parsed.kept
    broken = find_violations(parsed.records.columns, to.fields, kept)
    judged = JsonDecoder(to, judge=True).decode(payloads)
    assert_each_in_one_place(judged, len(payloads))

    assert judged.violations == sorted([*parsed.violations, *broken], key=lambda v: v.row)
    breaking = {v.row for v in broken}
    good = [i for i, row in enumerate(kept.tolist()) if row not in breaking]
    assert judged.records.to_pylist() == [parsed.records.to_pylist()[i] for i in good]
    assert judged.well_typed == [row in breaking for row in judged.refused]
    told = dict.fromkeys(judged.refused)
    if to.event_time:
        column = parsed.records.column(to.event_time).to_pylist()
        told |= {row: t for row, t in zip(kept.tolist(), column, strict=True) if row in breaking}
    assert judged.event_times.to_pylist() == list(told.values())


MIXED = contract(
    Field("n", "integer", storage="uint64"),
    Field("d", "date"),
    Field("o", "object", fields=(Field("p", "decimal", precision=5, scale=2),)),
)
GOOD = b'{"n":18446744073709551615,"d":"2026-11-24","o":{"p":1.10}}'
BAD = {
    b'{"n":18446744073709551616}': ("n", Code.RANGE),  # fails in the column, not in the decoder
    b'{"n":-1}': ("n", Code.RANGE),
    b'{"d":"2026-02-29"}': ("d", Code.FORMAT),
    b'{"o":{"p":1.001}}': ("o.p", Code.PRECISION),
    b'{"n":"\xff"}': ("", Code.ENCODING),
    b"{": ("", Code.MALFORMED),
}


@pytest.mark.parametrize("rows", [0, 1, 999, 1000, 1001, 2000, 2001])
def test_boundaries_between_chunks_do_not_matter(rows):
    """Records are decoded a thousand at a time; bad ones stand at each end of each chunk."""
    places = [i for i in (0, 499, 998, 999, 1000, 1001, 1999, 2000) if i < rows]
    bad = list(BAD)
    payloads = [GOOD] * rows
    for turn, place in enumerate(places):
        payloads[place] = bad[turn % len(bad)]
    decoded = decode(MIXED, *payloads)
    assert decoded.refused == places
    found = [(v.row, v.field, v.code) for v in decoded.violations]
    assert found == [(p, *BAD[bad[turn % len(bad)]]) for turn, p in enumerate(places)]
    assert decoded.records.to_pylist() == [
        {"n": 2**64 - 1, "d": dt.date(2026, 11, 24), "o": {"p": Decimal("1.10")}}
    ] * (rows - len(places))


def test_nothing_but_bad_records():
    decoded = decode(MIXED, *([b"x"] * 1001))
    assert decoded.records.num_rows == 0
    assert decoded.records.schema == record_schema(MIXED)
    assert decoded.refused == list(range(1001))


def test_all_that_is_wrong_with_a_record_is_said_at_once():
    """Types, ranges, formats and rules of one record, on all levels, in one go."""
    to = contract(
        Field("id", "string", True, (Rule("pattern", "^[a-z]+$"), Rule("maxLength", 2))),
        Field("amount", "number", rules=(Rule("minimum", 0.0),)),
        Field("at", "timestamp"),
        Field("gone", "string", required=True),
        Field(
            "items",
            "array",
            rules=(Rule("minItems", 5),),
            items=Field(
                "item",
                "object",
                fields=(
                    Field("sku", "string", required=True),
                    Field("price", "decimal", precision=4, scale=2),
                    Field("count", "integer", rules=(Rule("minimum", 1),), storage="uint8"),
                ),
            ),
        ),
    )
    payload = b"""{"id":"ABC","amount":"5","at":"yesterday","extra":1,"items":[
        {"sku":"a","price":1.234,"count":0}, {"price":true,"count":256}, 7]}"""
    assert sorted(wrong(to, payload, "reject")) == sorted(
        [
            ("id", Code.PATTERN),
            ("id", Code.LENGTH),
            ("amount", Code.TYPE),
            ("at", Code.FORMAT),
            ("gone", Code.REQUIRED),
            ("extra", Code.UNKNOWN_FIELD),
            ("items", Code.ITEMS),
            ("items[0].price", Code.PRECISION),
            ("items[0].count", Code.RANGE),
            ("items[1].sku", Code.REQUIRED),
            ("items[1].price", Code.TYPE),
            ("items[1].count", Code.RANGE),
            ("items[2]", Code.TYPE),
        ]
    )


@pytest.mark.parametrize(
    ("field", "payload", "path"),
    [
        # both items are null once they are cleaned away, which makes them no duplicates
        (
            Field("a", "array", items=Field("item", "string"), rules=(Rule("uniqueItems", True),)),
            b'{"a":[1,2]}',
            ["a[0]", "a[1]"],
        ),
        # a property of the wrong type is there all the same
        (
            Field("a", "object", fields=(Field("b", "date"),), rules=(Rule("minProperties", 1),)),
            b'{"a":{"b":1}}',
            ["a.b"],
        ),
        (Field("a", "string", required=True), b'{"a":1}', ["a"]),
        (
            Field("a", "array", items=Field("item", "string", required=True)),
            b'{"a":[1]}',
            ["a[0]"],
        ),
    ],
)
def test_a_wrong_value_is_not_accused_of_being_missing(field, payload, path):
    assert wrong(field, payload) == [(p, Code.TYPE) for p in path]


def test_true_accusations_are_kept_beside_wrong_items():
    field = Field(
        "a",
        "array",
        items=Field("item", "string"),
        rules=(Rule("minItems", 3), Rule("maxItems", 1)),
    )
    assert wrong(field, b'{"a":[1,"x"]}') == [
        ("a[0]", Code.TYPE),
        ("a", Code.ITEMS),
        ("a", Code.ITEMS),
    ]


# --------------------------------------------------------------------------- what is not JSON

N = Field("n", "integer")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"null",
        b"true",
        b"5",
        b'"{}"',
        b"[]",
        b'[{"n":1}]',
        b"{",
        b'{"n":1',
        b'{"n":1}}',
        b'{"n":1}{"n":2}',
        b'{"n":1} x',
        b'{"n":1},',
        b'{"n":1}\0',
        b'\0{"n":1}',
        b'\xef\xbb\xbf{"n":1}',
        b'{"n":01}',
        b'{"n":+1}',
        b'{"n":.5}',
        b'{"n":1.}',
        b'{"n":1e}',
        b'{"n":-}',
        b'{"n":0x1}',
        b'{"n":1_000}',
        b'{"n":NaN}',
        b'{"n":Infinity}',
        b'{"n":-Infinity}',
        b'{"n":nul}',
        b'{"n":True}',
        b"{'n':1}",
        b"{n:1}",
        b'{"n":1,}',
        b'{,"n":1}',
        b'{"n" 1}',
        b'{"n":1 /* one */}',
        b'{"n":\xc2\xa01}',  # a no-break space is no white space of JSON
        b'{"n":\x0c1}',
    ],
)
def test_what_is_no_json_object_is_malformed(payload):
    assert wrong(N, payload) == [("", Code.MALFORMED)]
    assert wrong(N, payload, "reject") == [("", Code.MALFORMED)]


@pytest.mark.parametrize("place", [b'{"s":%s}', b'{"x":%s}', b'{"x":{"y":[%s]}}', b"{%s:1}"])
@pytest.mark.parametrize("unknown", ["ignore", "keep", "reject"])
@pytest.mark.parametrize(
    "string",
    [
        rb'"\ud800"',
        rb'"\udc00"',
        rb'"\udc00\ud800"',
        rb'"\ud800A"',
        rb'"\q"',
        rb'"\u12"',
        rb'"\u12G4"',
        b'"\x00"',
        b'"\x1f"',
        b'"\n"',
        b'"a',
    ],
)
def test_a_broken_string_is_malformed_wherever_it_stands(place, unknown, string):
    """Decoders that skip what nobody asked for must not skip looking at it."""
    assert wrong(Field("s", "string"), place % string, unknown) == [("", Code.MALFORMED)]


@pytest.mark.parametrize("place", [b'{"s":"%s"}', b'{"x":"%s"}', b'{"x":["%s"]}', b'{"%s":1}'])
@pytest.mark.parametrize("unknown", ["ignore", "keep", "reject"])
@pytest.mark.parametrize(
    "text",
    [b"\xff", b"\x80", b"\xc3", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"],
)
def test_bytes_that_are_not_utf_8_are_refused_wherever_they_stand(place, unknown, text):
    assert wrong(Field("s", "string"), place % text, unknown) == [("", Code.ENCODING)]


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"01", b"1.", b"1e", b"- 1"])
@pytest.mark.parametrize("unknown", ["ignore", "keep", "reject"])
def test_a_broken_number_of_an_unknown_field_is_malformed(number, unknown):
    assert wrong(N, b'{"x":[%s]}' % number, unknown) == [("", Code.MALFORMED)]


@pytest.mark.parametrize("name", ["s", "x"])
@pytest.mark.parametrize("unknown", ["ignore", "keep"])
def test_nesting_is_bounded_alike_everywhere(name, unknown):
    """500 levels, the record among them, wherever the caller's own stack stands."""
    json_field = Field("s", "json")
    for levels, ok in ((499, True), (500, False), (100_000, False)):
        payload = b'{"%s":%s%s}' % (name.encode(), b"[" * levels, b"]" * levels)
        expected = [] if ok else [("", Code.MALFORMED)]
        assert wrong(json_field, payload, unknown) == expected
        assert _deeper(300, wrong, json_field, payload, unknown) == expected
    objects = b'{"%s":%s1%s}' % (name.encode(), b'{"a":' * 500, b"}" * 500)
    decoded = decode(json_field, objects, unknown=unknown)
    assert [v.message for v in decoded.violations] == ["is nested more than 500 levels deep"]


def _deeper(frames: int, call: Any, *arguments: Any) -> Any:
    return _deeper(frames - 1, call, *arguments) if frames else call(*arguments)


def test_brackets_within_strings_are_no_nesting():
    text = '"[{' * 600
    payload = json.dumps({"s": [text, "\\", '\\"', text], "n": [[]] * 600}).encode()
    assert wrong(Field("s", "json"), payload, "keep") == []


def test_a_null_payload_is_an_empty_one():
    """A dead letter for a line that is too long has none; it can be handed in again."""
    assert [v.row for v in decode(N, None, b'{"n":1}', None).violations] == [0, 2]


# --------------------------------------------------------------------------------- scalars

NUMBER = Field("v", "number")


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        (Field("v", "string"), ["5", "true", "[]", "{}"]),
        (Field("v", "boolean"), ['"true"', "0", "1", "[]"]),
        (Field("v", "integer"), ['"5"', "3.7", "5.0", "1e2", "-0.0", "true", "[5]", "1e999"]),
        (Field("v", "number"), ['"5"', '"NaN"', "true", "[5]"]),
        (Field("v", "decimal"), ['"5"', '""', "true", "[5]"]),
        (Field("v", "date"), ["20260101", "1.5", "true", "{}"]),
        (Field("v", "time"), ["12", "1.5", "true", "{}"]),
        (Field("v", "timestamp"), ["1700000000", "1.7e9", "true", "{}"]),
        (Field("v", "array", items=Field("item", "integer")), ["5", '"[]"', "{}", "true"]),
        (Field("v", "object", fields=(N,)), ["5", '"{}"', "[]", "true"]),
    ],
    ids=lambda v: v.type if isinstance(v, Field) else "",
)
def test_values_of_other_types_are_never_converted(field, texts):
    for text in texts:
        assert wrong(field, b'{"v":%s}' % text.encode()) == [("v", Code.TYPE)], text


@pytest.mark.parametrize("storage", strategies.INTEGERS)
def test_integers_fill_their_type_and_no_more(storage):
    field = Field("v", "integer", storage=storage)
    bits = int(storage.lstrip("uint"))
    low, high = (0, 2**bits - 1) if storage[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert [value(field, str(n)) for n in (low, 0, high)] == [low, 0, high]
    for n in (low - 1, high + 1, 2**64, 10**400, -(10**400)):
        assert wrong(field, b'{"v":%d}' % n) == [("v", Code.RANGE)], n


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(-0.0)
@example(1.7976931348623157e308)
def test_doubles_are_read_to_the_last_bit(number):
    read = value(NUMBER, repr(number))
    assert np.float64(read).tobytes() == np.float64(number).tobytes()


def test_a_number_that_no_double_can_hold_is_out_of_range():
    for text in ("1e999", "-1e999", "1" + "0" * 400, "1.8e308"):
        assert wrong(NUMBER, b'{"v":%s}' % text.encode()) == [("v", Code.RANGE)]
    assert value(NUMBER, "1e-999") == 0


def test_single_floats():
    field = Field("v", "number", storage="float32")
    assert value(field, "0.1") == np.float32(0.1)
    assert wrong(field, b'{"v":1e39}') == [("v", Code.RANGE)]


@given(st.integers(1 - 10**38, 10**38 - 1))
def test_decimals_are_exact_however_they_are_written(units):
    field = Field("v", "decimal", precision=38, scale=6)
    number = strategies.of_units(units, field)
    for text in strategies.texts(number, field):
        assert value(field, text) == number


@pytest.mark.parametrize(
    ("precision", "scale", "good", "bad"),
    [
        (
            5,
            2,
            ["999.99", "-999.99", "1e2", "99999e-2", "0", "-0", "0.00", "0e9"],
            ["1000", "0.001"],
        ),
        (2, 2, ["0.99", "-0.10", "0"], ["1", "0.999"]),
        (1, 0, ["9", "9.000", "0.9e1"], ["10", "0.5"]),
        (76, 38, ["9" * 38 + "." + "9" * 38], ["1" + "0" * 38, "0." + "0" * 38 + "1"]),
        (5, 2, ["1." + "0" * 9000, "0." + "0" * 9000], ["1." + "0" * 9000 + "1"]),
        (5, 2, [], ["1e999999999", "1e-999999999", "1e99999999999999999999"]),
    ],
)
def test_decimals_hold_all_digits_or_refuse(precision, scale, good, bad):
    field = Field("v", "decimal", precision=precision, scale=scale)
    for text in good:
        assert value(field, text) == Decimal(text)
    for text in bad:
        assert wrong(field, b'{"v":%s}' % text.encode()) == [("v", Code.PRECISION)]
    mixed = decode(field, *(b'{"v":%s}' % text.encode() for text in [*good, *bad, *good]))
    assert mixed.records.to_pylist() == [{"v": Decimal(text)} for text in good * 2]


def test_whole_numbers_of_thousands_of_digits():
    """Python takes time that grows with the square of their length: they are not looked at."""
    huge = b"1" * 10_000
    for field in (N, Field("n", "number"), Field("n", "decimal"), Field("n", "string")):
        assert wrong(field, b'{"n":%s}' % huge) == [("", Code.MALFORMED)]
    assert wrong(N, b'{"n":1.%s}' % huge) == [("n", Code.TYPE)]
    assert wrong(Field("n", "decimal"), b'{"n":1.%s}' % huge) == [("n", Code.PRECISION)]
    assert value(Field("n", "number"), b"1.%s" % huge) == 1 + 1 / 9
    decoded = decode(N, b'{"x":%s}' % huge, unknown="keep")
    assert decoded.records.column(UNKNOWN)[0].as_py() == f'{{"x":{huge.decode()}}}'
    assert value(Field("j", "json"), b"[%s]" % huge) == f"[{huge.decode()}]"


def test_json_is_kept_word_for_word():
    field = Field("j", "json")
    for text in ['{"b": 1.10, "a": [1e999, "\\u00e9"]}', "[]", "1.50", '"x"', "false"]:
        assert value(field, f"  {text} ") == text
    assert value(field, "null") is None


# ------------------------------------------------------------------------ keys and null values


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"n":1,"n":2}', 2),
        (b'{"n":1,"n":null}', None),
        (b'{"n":null,"n":1}', 1),
        (b'{"n":1,"\\u006e":2}', 2),
    ],
)
def test_the_last_of_repeated_keys_counts(payload, expected):
    assert decode(N, payload).records.to_pylist() == [{"n": expected}]


def test_each_of_repeated_keys_must_be_of_its_type():
    """Otherwise a record's meaning would depend on which of them a reader takes."""
    [violation] = decode(N, b'{"n":"1","n":2}').violations
    assert violation.code is Code.MALFORMED
    assert violation.message == "repeats a key, with a value that is not of its type"
    assert wrong(N, b'{"n":1,"n":"2"}') == [("n", Code.TYPE)]


def test_keys_are_matched_exactly():
    assert decode(N, b'{"N":1,"n ":2,"":3}').records.to_pylist() == [{"n": None}]


@pytest.mark.parametrize("payload", [b"{}", b'{"a":null}', b' { "a" : null } '])
def test_missing_and_null_are_the_same(payload):
    inner = Field("o", "object", fields=(Field("x", "integer"),))
    for field in (Field("a", "string"), Field("a", "array", items=inner), Field("a", "json")):
        assert decode(field, payload).records.to_pylist() == [{"a": None}]


def test_null_within_arrays_and_objects():
    item = Field("item", "object", fields=(Field("x", "date"), Field("l", "array", items=N)))
    field = Field("a", "array", items=item)
    text = '[null, {}, {"x": null, "l": []}, {"x": "2026-01-01", "l": [null, 1]}]'
    assert value(field, text) == [
        None,
        {"x": None, "l": None},
        {"x": None, "l": []},
        {"x": dt.date(2026, 1, 1), "l": [None, 1]},
    ]


# ---------------------------------------------------------------------------- unknown fields

NESTED = contract(
    Field("n", "integer"),
    Field("o", "object", fields=(Field("p", "object", fields=(Field("q", "integer"),)),)),
    Field("l", "array", items=Field("item", "object", fields=(Field("q", "integer"),))),
    Field(
        "ll",
        "array",
        items=Field(
            "item", "array", items=Field("item", "object", fields=(Field("q", "integer"),))
        ),
    ),
    Field("j", "json"),
)
WITH_UNKNOWN = b"""{"n":1, "x":1.50, "o":{"p":{"q":1,"x":[ 1e999 ]},"x":null},
    "l":[{"x":{"y":"\\u00e9"}},null,{"q":2}], "ll":[[{"x":true}]], "j":{"x":1}}"""


def test_unknown_fields_are_ignored_on_every_level():
    [record] = decode(NESTED, WITH_UNKNOWN).records.to_pylist()
    assert record == {
        "n": 1,
        "o": {"p": {"q": 1}},
        "l": [{"q": None}, None, {"q": 2}],
        "ll": [[{"q": None}]],
        "j": '{"x":1}',
    }


def test_unknown_fields_are_kept_from_every_level():
    decoded = decode(NESTED, WITH_UNKNOWN, b'{"n":1}', b"{", b'{"":0}', unknown="keep")
    assert decoded.records.schema == record_schema(NESTED, keep_unknown=True)
    kept, nothing, empty_name = decoded.records.column(UNKNOWN).to_pylist()
    assert kept == (
        '{"x":1.50,"o.p.x":[ 1e999 ],"o.x":null,"l[0].x":{"y":"\\u00e9"},"ll[0][0].x":true}'
    )
    assert nothing is None
    assert empty_name == '{"":0}'


def test_unknown_fields_are_rejected_on_every_level():
    assert wrong(NESTED, WITH_UNKNOWN, "reject") == [
        (path, Code.UNKNOWN_FIELD) for path in ("o.p.x", "o.x", "l[0].x", "ll[0][0].x", "x")
    ]


@settings(max_examples=40)
@given(st.data())
def test_unknown_fields_change_nothing_else(data):
    """A record with more than the contract names decodes as the one without."""
    to = data.draw(strategies.contracts(depth=2))
    record = data.draw(strategies.records(to))
    extra = data.draw(st.from_regex('[1-9][0-9]{0,30}|"[a-z]*"|\\[\\]|\\{\\}', fullmatch=True))
    more = record.payload[:-1] + (b"," if len(record.payload) > 2 else b"")
    more += b'"?":' + extra.encode() + b"}"
    bare, ignored = (decode(to, p).records.to_pylist() for p in (record.payload, more))
    assert ignored == bare
    kept = decode(to, more, unknown="keep").records
    assert kept.column(UNKNOWN).to_pylist() == [f'{{"?":{extra}}}']
    assert kept.drop_columns([UNKNOWN]).to_pylist() == bare
    assert wrong(to, more, "reject") == [("?", Code.UNKNOWN_FIELD)]


# ---------------------------------------------------------------------------------- messages


def test_messages_say_what_was_expected_and_what_came():
    fields = (
        Field("s", "string"),
        Field("i", "integer", storage="int8"),
        Field("d", "decimal", precision=3, scale=1),
        Field("t", "timestamp"),
        Field("o", "object", fields=(N,)),
    )
    payload = b'{"s":5,"i":3.70,"d":1.25,"t":"now","o":[1]}'
    messages = {v.field: v.message for v in decode(contract(*fields), payload).violations}
    assert messages == {
        "s": "expected a string, got an integer: 5",
        "i": "expected an integer, got a number with a fraction or exponent: 3.70",
        "d": "expected a decimal of 3 digits, 1 after the point, got 1.25",
        "t": "expected a time stamp with an offset, such as 2026-11-24T13:45:00Z, got 'now'",
        "o": "expected an object, got an array",
    }


@pytest.mark.parametrize("label", ["restricted", "PII", "Confidential"])
def test_personal_values_are_not_repeated_in_messages(label):
    fields = (
        Field("s", "string", classification=label),
        Field("i", "integer", classification=label),
        Field("d", "date", classification=label),
        Field("p", "decimal", precision=2, classification=label),
        Field("f", "number", storage="float32", classification=label),
        Field("r", "string", rules=(Rule("maxLength", 1),), classification=label),
    )
    payload = b'{"s":1234567,"i":"1234567","d":"1234567","p":1234567,"f":1e67,"r":"1234567"}'
    violations = decode(contract(*fields), payload).violations
    assert len(violations) == len(fields)
    for v in violations:
        assert "a value not shown" in v.message
        assert "67" not in v.message


def test_long_values_are_cut_in_messages():
    [violation] = decode(N, b'{"n":"%s"}' % (b"x" * 10_000)).violations
    assert len(violation.message) < 200
