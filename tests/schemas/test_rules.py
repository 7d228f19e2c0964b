"""Rules, judged a column at a time: each kind by example, all of them against a plain reference."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import arrow_type
from millstream.schemas.codes import Code
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.rules import FORMATS, KINDS, RESTRICTED, Violation, find_violations

from tests import reference, strategies


def judge(field: Field, *values: Any) -> list[Violation]:
    return find_violations([pa.array(values, arrow_type(field))], [field])


def broken(field: Field, *values: Any) -> list[Any]:
    """Those of the values that break a rule of the field."""
    return [values[v.row] for v in judge(field, *values)]


# -------------------------------------------------------------------------------- each kind

STRING, INTEGER, NUMBER = Field("v", "string"), Field("v", "integer"), Field("v", "number")
DECIMAL = Field("v", "decimal", precision=10, scale=2)
ARRAY = Field("v", "array", items=Field("item", "integer"))
OBJECT = Field("v", "object", fields=(Field("a", "integer"), Field("b", "string")))
DATE, TIME = Field("v", "date"), Field("v", "time")
TIMESTAMP, BOOLEAN, JSON = Field("v", "timestamp"), Field("v", "boolean"), Field("v", "json")
NOON = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)

CASES: list[tuple[str, Any, Field, list[Any], list[Any]]] = [
    # kind, value, field, what keeps it, what breaks it
    ("minimum", 3, INTEGER, [3, 4, 2**63 - 1], [2, -(2**63)]),
    ("minimum", 0.5, NUMBER, [0.5, 1e308], [0.49999999999999994, -1e308]),
    ("minimum", Decimal("0.10"), DECIMAL, [Decimal("0.10")], [Decimal("0.09"), Decimal(-1)]),
    ("minimum", dt.date(2026, 1, 1), DATE, [dt.date(2026, 1, 1)], [dt.date(2025, 12, 31)]),
    ("minimum", NOON, TIMESTAMP, [NOON, NOON + SECOND], [NOON - SECOND]),
    ("minimum", dt.time(8), TIME, [dt.time(8)], [dt.time(7, 59, 59, 999_999)]),
    ("maximum", 3, INTEGER, [3, -(2**63)], [4]),
    ("maximum", 0.1, NUMBER, [0.1, -0.0], [0.10000000000000002]),
    ("maximum", NOON, TIMESTAMP, [NOON], [NOON + SECOND]),
    ("exclusiveMinimum", 3, INTEGER, [4], [3, 2]),
    ("exclusiveMinimum", 0.0, NUMBER, [5e-324], [0.0, -0.0]),
    ("exclusiveMinimum", Decimal(0), DECIMAL, [Decimal("0.01")], [Decimal(0)]),
    ("exclusiveMaximum", 3, INTEGER, [2], [3, 4]),
    ("exclusiveMaximum", dt.date.max, DATE, [dt.date.min], [dt.date.max]),
    ("multipleOf", 3, INTEGER, [0, 3, -6, 2**63 - 1 - 1], [1, -1, 2**63 - 1]),
    ("multipleOf", 1000, replace(INTEGER, storage="int8"), [0], [1, -128, 127]),
    ("multipleOf", 128, replace(INTEGER, storage="int8"), [0, -128], [1, 127]),
    ("multipleOf", 2**63, replace(INTEGER, storage="uint64"), [0, 2**63], [2**63 + 1, 2**64 - 1]),
    ("multipleOf", 0.1, NUMBER, [0.3, 0.7, -1.1, 1e22, 123456.7], [0.35, 0.30000000000000004]),
    ("multipleOf", 0.01, NUMBER, [0.07, 4.35, 1.1, 1e15, 0.57], [0.075, 1e-300]),
    ("multipleOf", 1, NUMBER, [1e9, 1e300, -0.0], [1000000000.5, 1e9 + 1e-6, 100000000000.00002]),
    ("multipleOf", 0.1, replace(NUMBER, storage="float32"), [0.3, 1e6], [0.35, 1000000.0625]),
    ("multipleOf", 5e-324, NUMBER, [5e-324, 1.0], []),
    ("multipleOf", 1e-9, NUMBER, [1e-9, 123456.789, 1e20], [1e-10, 123456.7890000001]),
    ("multipleOf", 1e300, NUMBER, [0.0, 3e300], [1.0, 1e299]),
    (
        "multipleOf", Decimal("0.05"), Field("v", "decimal", precision=40, scale=2),
        [Decimal("1234567890123456789012345678901234567.05"), Decimal(0)], [Decimal("0.01")],
    ),
    ("minLength", 2, STRING, ["ab", "漢字", "👍🏽"], ["", "a", "漢"]),
    ("maxLength", 2, STRING, ["", "漢字", "é1"], ["abc", "e\u0301a"]),  # code points, not letters
    ("minItems", 2, ARRAY, [[1, None], [1, 1, 1]], [[], [1]]),
    ("maxItems", 1, ARRAY, [[], [None]], [[1, 2]]),
    ("minItems", 2, JSON, ["[1, {}]", ' [[],"[,"]', '{"a":1}', "5", '"x"', "false"], ["[]", "[1]"]),
    ("maxItems", 1, JSON, ["[1e999]", "{}", "5"], ["[1,2]"]),
    ("minProperties", 1, OBJECT, [{"a": 1}, {"a": 1, "b": "x"}], [{}, {"a": None}]),
    ("maxProperties", 1, OBJECT, [{}, {"b": "x", "a": None}], [{"a": 1, "b": "x"}]),
    ("minProperties", 1, JSON, ['{"a":null}', "[]", "5"], ["{}", " { } "]),
    ("maxProperties", 1, JSON, ['{"a":[1,2]}', "[1,2]"], ['{"a":1,"b":2}']),
    ("uniqueItems", True, ARRAY, [[], [1, 2, None]], [[1, 2, 1], [None, None]]),
    ("uniqueItems", False, ARRAY, [[1, 1]], []),
    (
        "uniqueItems", True, JSON,
        ['[1, "1", 1.5, true]', '{"a":1}', '"aa"', "[1e999, 1e998]"],
        ['[{"a":1,"b":2}, {"b": 2, "a": 1}]', '["é", "\\u00e9"]', "[1e999,1e999]"],
    ),
    ("pattern", "[0-9]", STRING, ["a1", "1"], ["", "a", "\u0661"]),
    ("pattern", "^[a-z]+$", STRING, ["abc"], ["abc\n", "Abc", ""]),
    ("pattern", r"^\d\w\s$", STRING, ["1a "], ["\u0661a ", "1é ", "1a\u00a0"]),
    # look-around and back-references, which RE2 does not have: the same in Python's re
    ("pattern", "^(?!x)[a-z]+$", STRING, ["abc"], ["xbc", "abc\n", ""]),
    ("pattern", r"^(?=\d)\w\w\s?$", STRING, ["1a ", "1a"], ["\u0661a", "1é", "1a\u00a0"]),
    ("pattern", r"^(.)\1$", STRING, ["aa", "漢漢"], ["ab", "aaa"]),
    ("pattern", r"(?<=[$])\$$", STRING, ["$$"], ["$", "$$\n", "$$x"]),
    ("pattern", r"(?m)^(?!x).$", STRING, ["a\nxx", "xx\nb"], ["xx\nxx"]),
    ("pattern", r"^(?!a)[]$^]+$", STRING, ["]$^"], ["]$^\n", "a"]),
    ("enum", ("a", "b"), STRING, ["a", "b"], ["", "A", "c"]),
    ("enum", (1, 2**63 - 1), INTEGER, [1, 2**63 - 1], [0]),
    ("enum", (0.1, 1e300), NUMBER, [0.1, 1e300], [0.2]),
    ("enum", (0.1,), replace(NUMBER, storage="float32"), [float(np.float32(0.1))], [0.5]),
    ("enum", (Decimal("1.5"),), DECIMAL, [Decimal("1.50")], [Decimal("1.51")]),
    ("enum", (Decimal("1.555"), Decimal(1)), DECIMAL, [Decimal(1)], [Decimal("1.55")]),
    ("enum", (True,), BOOLEAN, [True], [False]),
    ("enum", (dt.date.min, dt.date.max), DATE, [dt.date.max], [dt.date(2026, 1, 1)]),
    ("enum", (NOON,), TIMESTAMP, [NOON], [NOON + SECOND]),
    ("enum", (dt.time(8),), TIME, [dt.time(8)], [dt.time(9)]),
    ("enum", (1, 1000, -5), replace(INTEGER, storage="uint8"), [1], [0, 255]),
    # bounds that a field's own type does not hold
    ("minimum", 0, replace(INTEGER, storage="uint64"), [0, 2**64 - 1], []),
    ("maximum", 2**64 - 2, replace(INTEGER, storage="uint64"), [2**64 - 2], [2**64 - 1]),
    ("minimum", -1, replace(INTEGER, storage="uint64"), [0, 2**64 - 1], []),
    ("minimum", 1000, replace(INTEGER, storage="int8"), [], [127, -128]),
    ("exclusiveMaximum", 0.5, INTEGER, [0, -1], [1]),
    ("maximum", 10**30, INTEGER, [2**63 - 1], []),
    ("maximum", 0.1, replace(NUMBER, storage="float32"), [float(np.float32(0.1))], [0.5]),
    ("minimum", Decimal("0.005"), DECIMAL, [Decimal("0.01")], [Decimal("0.00")]),
    ("minimum", Decimal("0.5"), Field("v", "decimal", precision=76), [Decimal(1)], [Decimal(0)]),
    ("maximum", 2**53 + 1, NUMBER, [2.0**53], [2.0**53 + 2]),
]  # fmt: skip

FORMAT_CASES = {
    "uuid": (
        ["00000000-0000-0000-0000-000000000000", "F81D4FAE-7dec-11d0-a765-00a0c91e6bf6"],
        ["", "f81d4fae7dec11d0a76500a0c91e6bf6", "{f81d4fae-7dec-11d0-a765-00a0c91e6bf6}",
         "g81d4fae-7dec-11d0-a765-00a0c91e6bf6", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6\n"],
    ),
    "email": (
        ["a@b", "o'brien+tag@mail.example.org", "a.b@" + "x" * 63],
        ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@-b", "a@b-", "a@b..c", "a@" + "x" * 64, "é@b"],
    ),
    "hostname": (
        ["localhost", "xn--bcher-kva.example", "a-b.c1"],
        ["", ".", "a.", "-a", "a-", "a_b", "a..b", "bücher.example", "a b"],
    ),
    "ipv4": (
        ["0.0.0.0", "255.255.255.255", "10.1.99.200"],
        ["", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4 ", "1.2.3.4/8", "0x1.2.3.4"],
    ),
    "ipv6": (
        ["::", "::1", "2001:db8::1", "::ffff:192.0.2.1", "1:2:3:4:5:6:7:8"],
        ["", ":", "1::2::3", "12345::", "1:2:3:4:5:6:7", "192.0.2.1", "::1 ", "[::1]", "::g"],
    ),
    "uri": (
        ["https://example.org/a?b#c", "urn:isbn:0451450523", "mailto:a@b", "x:", "a+b-c.d:e"],
        ["", "example.org", "/a", "1a:b", "a b:c", "http://a b", "http://<a>", "h:\n", ":a"],
    ),
    "byte": (
        ["", "aGk=", "aGkh", "aA==", "+/+/"],
        ["a", "aG", "aGk", "aGk==", "aG=k", "a-_=", "aGk=\n"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "field", "good", "bad"), CASES)
def test_each_kind(kind, value, field, good, bad):
    field = replace(field, rules=(Rule(kind, value),))
    values = [None, *good, *bad, None]
    found = judge(field, *values)
    assert [values[v.row] for v in found] == bad
    assert {(v.field, v.code) for v in found} <= {("v", reference.CODES[kind])}
    assert judge(field) == []
    assert judge(field, None) == []


@pytest.mark.parametrize("name", FORMAT_CASES)
def test_each_format(name):
    good, bad = FORMAT_CASES[name]
    field = replace(STRING, rules=(Rule("format", name),))
    assert broken(field, *good, None, *bad) == bad
    assert {v.code for v in judge(field, *bad)} == {Code.FORMAT}


def test_every_kind_and_format_has_a_case():
    assert {case[0] for case in CASES} | {"format"} == KINDS == set(reference.CODES)
    assert set(FORMAT_CASES) == {*FORMATS, "ipv6"} == set(strategies.FORMATTED)


# -------------------------------------------------------------------------------------- laws


@settings(max_examples=100)
@given(st.data())
def test_columns_are_judged_as_values_are(data):
    """Row by row in plain Python or all at once: the same violations in the same order."""
    to = data.draw(strategies.contracts().map(_without_formats))
    rows = st.fixed_dictionaries({f.name: strategies.any_values(f) for f in to.fields})
    records = data.draw(st.lists(rows, max_size=4))
    columns = [pa.array([r[f.name] for r in records], arrow_type(f)) for f in to.fields]
    found = find_violations(columns, to.fields)
    by_row = [[(v.field, v.code) for v in found if v.row == i] for i in range(len(records))]
    expected = [reference.broken_rules(record, to.fields) for record in records]
    assert [sorted(row) for row in by_row] == [sorted(row) for row in expected]

    # a slice of a batch, as other transforms may hand it on, is judged as a batch of its own
    start = data.draw(st.integers(0, len(records)))
    sliced = find_violations([c.slice(start) for c in columns], to.fields)
    assert [v for v in found if v.row >= start] == [v._replace(row=v.row + start) for v in sliced]


def _without_formats(to: Contract) -> Contract:
    def bare(field: Field) -> Field:
        return replace(
            field,
            rules=tuple(r for r in field.rules if r.kind != "format"),
            fields=tuple(map(bare, field.fields)),
            items=field.items and bare(field.items),
        )

    return replace(to, fields=tuple(map(bare, to.fields)))


@settings(max_examples=50)
@given(st.data())
def test_null_breaks_no_rule_of_values(data):
    """That something must be there is one question, what it must be another."""
    field = data.draw(strategies.fields())
    found = judge(field, None, None)
    assert [v.code for v in found] == [Code.REQUIRED] * (2 * field.required)


@settings(max_examples=200)
@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(["0.1", "0.01", "0.05", "3", "0.3", "1e-9", "7e5", "2.5", "1"]),
    st.integers(-3, 3),
)
@example(3, "0.1", 0)
@example(10**12, "0.1", 1)
def test_a_float_is_a_multiple_if_it_is_the_one_nearest_to_it(count, step, ulps):
    """Decimal steps have no exact double; neighbours of a multiple are none."""
    number = float(count * Decimal(step))
    for _ in range(abs(ulps)):
        number = float(np.nextafter(number, np.inf * ulps))
    field = replace(NUMBER, rules=(Rule("multipleOf", float(step)),))
    expected = reference.breaks(field.rules[0], field, number)
    assert bool(broken(field, number)) == expected
    if ulps == 0:
        assert not expected


def test_a_rule_costs_python_nothing_where_all_is_well(monkeypatch):
    """The common kinds are compiled: no value of a good batch becomes a Python object."""
    columns = []
    fields = []
    for kind, value, field, good, _ in CASES:
        if kind in ("minimum", "maxLength", "enum") and field in (STRING, INTEGER, NUMBER, DATE):
            fields.append(replace(field, rules=(Rule(kind, value),)))
            columns.append(pa.array(good * (60 // len(good)), arrow_type(field)))
    assert len(fields) > 5

    class NoPython:
        """An array that can be computed with, but not looked into."""

    with monkeypatch.context() as patch:
        patch.setattr("millstream.schemas.rules._each", NoPython)
        patch.setattr("millstream.schemas.rules.shown", NoPython)
        for column, field in zip(columns, fields, strict=True):
            assert find_violations([column], [field]) == []


# ------------------------------------------------------------------------------------- paths

C = Field("c", "integer", required=True, rules=(Rule("minimum", 0),))
B = Field(
    "b",
    "array",
    rules=(Rule("minItems", 1),),
    items=Field("item", "object", required=True, fields=(C,)),
)
A = Field("a", "object", required=True, fields=(B,))


def test_paths_lead_to_the_value():
    rows = [
        {"b": [{"c": 1}, {"c": -1}, {"c": -2}]},
        None,
        {"b": []},
        {"b": None},
        {"b": [None, {"c": None}, {"c": 0}]},
    ]
    found = [(v.row, v.field, v.code) for v in judge(A, *rows)]
    assert found == [
        (1, "a", Code.REQUIRED),
        (2, "a.b", Code.ITEMS),
        (4, "a.b[0]", Code.REQUIRED),
        (4, "a.b[1].c", Code.REQUIRED),
        (0, "a.b[1].c", Code.RANGE),
        (0, "a.b[2].c", Code.RANGE),
    ]


def test_arrays_of_arrays():
    inner = Field("item", "array", items=replace(C, name="item"))
    field = Field("v", "array", items=inner)
    found = judge(field, [[1], None, [0, -1]], None, [], [[], [None]])
    assert [(v.row, v.field) for v in found] == [(3, "v[1][0]"), (0, "v[2][1]")]


def test_rows_may_be_numbered_by_the_caller():
    column = pa.array([{"b": [{"c": -1}]}, None], arrow_type(A))
    found = find_violations([column], [A], np.array([70, 90]))
    assert [(v.row, v.field) for v in found] == [(90, "a"), (70, "a.b[0].c")]


def test_what_lies_hidden_behind_a_null_is_not_judged():
    """Arrow lets a null list or struct have content; filters of other libraries leave such."""
    content = pa.array([{"c": -1}, {"c": -2}, {"c": -3}], arrow_type(B).value_type)
    mask = pa.array([False, True, False])
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 2, 3], pa.int32()), content, type=arrow_type(B), mask=mask
    )
    found = find_violations([lists], [B])
    assert [(v.row, v.field) for v in found] == [(0, "b[0].c"), (2, "b[0].c")]
    hidden = pa.StructArray.from_arrays(
        [pa.array([-1, -2], pa.int64())], fields=[pa.field("c", pa.int64())],
        mask=pa.array([True, False]),
    )  # fmt: skip
    found = find_violations([hidden], [Field("o", "object", fields=(C,))])
    assert [(v.row, v.field) for v in found] == [(1, "o.c")]


# ---------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("kind", "value", "field", "bad", "message"),
    [
        ("minimum", 3, INTEGER, 2, "expected at least 3, got 2"),
        ("exclusiveMaximum", 3.5, NUMBER, 4.0, "expected less than 3.5, got 4.0"),
        ("maxLength", 2, STRING, "abc", "expected at most 2 characters, got 3"),
        ("minItems", 1, ARRAY, [], "expected at least 1 items, got 0"),
        ("minProperties", 2, OBJECT, {"a": 1}, "expected at least 2 properties, got 1"),
        ("pattern", "^a", STRING, "b'\"", "expected a match of ^a, got 'b\\'\"'"),
        ("format", "uuid", STRING, "x", "expected a UUID (RFC 9562), got 'x'"),
        ("enum", ("a", "b"), STRING, "c", "expected one of a, b, got 'c'"),
        ("multipleOf", 0.1, NUMBER, 0.35, "expected a multiple of 0.1, got 0.35"),
        (
            "enum", tuple(map(str, range(13))), STRING, "x",
            "expected one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more, got 'x'",
        ),
    ],
)  # fmt: skip
def test_messages_carry_what_was_expected_and_what_came(kind, value, field, bad, message):
    [violation] = judge(replace(field, rules=(Rule(kind, value),)), bad)
    assert violation.message == message


@pytest.mark.parametrize("label", sorted(RESTRICTED | {"PII", "Restricted"}))
def test_restricted_values_are_not_shown(label):
    for kind, value, field, _, bad in CASES:
        secret = replace(field, rules=(Rule(kind, value),), classification=label)
        for violation in judge(secret, *bad):
            assert violation.message.endswith("got a value not shown")
    [violation] = judge(
        replace(STRING, classification="public", rules=(Rule("enum", ("a",)),)), "b"
    )
    assert "'b'" in violation.message
