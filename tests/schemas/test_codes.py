"""Every code has a case that gives it, and the list of codes is what has been promised.

Codes are stable: dashboards and replays select by them.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pytest
from millstream.schemas.aggregates.open_windows import Trigger
from millstream.schemas.aggregates.spec import aggregate_spec
from millstream.schemas.arrow import batch_schema
from millstream.schemas.codes import VERSION, Code
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.decoded import UnknownFields
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.rules import find_violations
from millstream.schemas.sql.step import SqlStep
from millstream.transforms.carry import Opened
from millstream.transforms.dead_letters import Origin
from millstream.transforms.intervals.accumulate import Accumulate
from millstream.transforms.read import ReadFromJsonLines
from millstream.transforms.step import Step
from millstream.transforms.tallies import Tally

from tests.running import rows, run


def test_the_codes_are_those_that_were_promised():
    """A difference here is a new ``VERSION``, and never a code that is gone or renamed."""
    assert VERSION == 4
    assert [code.value for code in Code] == [
        "MALFORMED",
        "ENCODING",
        "OVERSIZE",
        "UNREADABLE",
        "REQUIRED",
        "TYPE",
        "FORMAT",
        "RANGE",
        "PRECISION",
        "MULTIPLE_OF",
        "LENGTH",
        "PATTERN",
        "ENUM",
        "ITEMS",
        "UNKNOWN_FIELD",
        "STEP",
        "DESTINATION",
        "LATE",
        "UNMATCHED",
        "SERVICE",
    ]
    assert all(code == code.name == str(code) for code in Code)


class Case(NamedTuple):
    """One record, under a contract of one field ``v``, and the only violation that it gives."""

    code: Code
    field: Field
    payload: bytes
    path: str
    message: str
    unknown: UnknownFields = "ignore"


ITEM = Field("item", "object", fields=(Field("price", "decimal", precision=4, scale=2),))


def with_rule(kind: str, value: Any, **of: Any) -> Field:
    return Field("v", **of, rules=(Rule(kind, value),))


CASES = {
    "trailing bytes": Case(
        Code.MALFORMED, Field("v", "integer"), b'{"v":1}x', "",
        "is not JSON: ",  # the rest is the parser's own
    ),
    "no object": Case(
        Code.MALFORMED, Field("v", "integer"), b"[1]", "", "expected a JSON object, got an array"
    ),
    "nested too deeply": Case(
        Code.MALFORMED, Field("v", "json"), b'{"v":%s%s}' % (b"[" * 500, b"]" * 500), "",
        "is nested more than 500 levels deep",
    ),
    "too many digits": Case(
        Code.MALFORMED, Field("v", "number"), b'{"v":%s}' % (b"9" * 4301), "",
        "holds a whole number of more than 4300 digits",
    ),
    "a repeated key": Case(
        Code.MALFORMED, Field("v", "integer"), b'{"v":"1","v":1}', "",
        "repeats a key, with a value that is not of its type",
    ),
    "not UTF-8": Case(
        Code.ENCODING, Field("v", "string"), b'{"v":"\xff"}', "",
        "is not UTF-8: invalid start byte at byte 6",
    ),
    "missing": Case(
        Code.REQUIRED, Field("v", "string", required=True), b"{}", "v",
        "is required, but missing or null",
    ),
    "null": Case(
        Code.REQUIRED, Field("v", "array", items=Field("item", "string", required=True)),
        b'{"v":["a",null]}', "v[1]", "is required, but missing or null",
    ),
    "a string for a number": Case(
        Code.TYPE, Field("v", "number"), b'{"v":"5"}', "v", "expected a number, got a string: '5'"
    ),
    "a fraction for an integer": Case(
        Code.TYPE, Field("v", "integer"), b'{"v":3.7}', "v",
        "expected an integer, got a number with a fraction or exponent: 3.7",
    ),
    "no such day": Case(
        Code.FORMAT, Field("v", "date"), b'{"v":"2026-02-29"}', "v",
        "expected a date such as 2026-11-24, got '2026-02-29'",
    ),
    "no UUID": Case(
        Code.FORMAT, with_rule("format", "uuid", type="string"), b'{"v":"x"}', "v",
        "expected a UUID (RFC 9562), got 'x'",
    ),
    "below the minimum": Case(
        Code.RANGE, with_rule("minimum", 0.5, type="number"), b'{"v":0}', "v",
        "expected at least 0.5, got 0.0",
    ),
    "outside the type": Case(
        Code.RANGE, Field("v", "integer", storage="uint8"), b'{"v":256}', "v",
        "expected an integer from 0 to 255, got 256",
    ),
    "beyond any double": Case(
        Code.RANGE, Field("v", "number"), b'{"v":1e999}', "v",
        "expected a number that a double can hold, got 1e999",
    ),
    "too many digits after the point": Case(
        Code.PRECISION, Field("v", "array", items=ITEM), b'{"v":[{},{"price":1.234}]}',
        "v[1].price",
        "expected a decimal of 4 digits, 2 after the point, got 1.234",
    ),
    "no multiple": Case(
        Code.MULTIPLE_OF, with_rule("multipleOf", 5, type="integer"), b'{"v":7}', "v",
        "expected a multiple of 5, got 7",
    ),
    "too short": Case(
        Code.LENGTH, with_rule("minLength", 3, type="string"), b'{"v":"ab"}', "v",
        "expected at least 3 characters, got 2",
    ),
    "no match": Case(
        Code.PATTERN, with_rule("pattern", "^[a-z]+$", type="string"), b'{"v":"A"}', "v",
        "expected a match of ^[a-z]+$, got 'A'",
    ),
    "no valid value": Case(
        Code.ENUM, with_rule("enum", ("a", "b"), type="string"), b'{"v":"c"}', "v",
        "expected one of a, b, got 'c'",
    ),
    "too few items": Case(
        Code.ITEMS, with_rule("minItems", 2, type="array", items=ITEM), b'{"v":[{}]}', "v",
        "expected at least 2 items, got 1",
    ),
    "repeated items": Case(
        Code.ITEMS, with_rule("uniqueItems", True, type="json"), b'{"v":[1,1]}', "v",
        "expected items that differ from each other, got '[1,1]'",
    ),
    "a field that nobody knows": Case(
        Code.UNKNOWN_FIELD, Field("v", "array", items=ITEM), b'{"v":[{"prize":1}]}', "v[0].prize",
        "is not in the contract", "reject",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_codes_of_records(name):
    case = CASES[name]
    to = Contract("c", "1.0.0", "c", (case.field,))
    decoded = JsonDecoder(to, case.unknown).decode(pa.array([case.payload]))
    [violation] = decoded.violations or find_violations(decoded.records.columns, to.fields)
    assert violation[:3] == (0, case.path, case.code)
    assert violation.message.startswith(case.message)


FILES = {
    Code.OVERSIZE: (
        "long.jsonl",
        b'{"v":"%s"}\n' % (b"x" * 100),
        "0-108",
        "is 108 bytes long, more than the 50 that max_record_bytes allows",
    ),
    Code.UNREADABLE: (
        "cut.jsonl.gz",
        gzip.compress(b'{"v":1}\n' * 3, compresslevel=0)[:-9],
        "16-",
        "the file is truncated: the compressed data ends too early",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("code", FILES)
def test_codes_of_files(tmp_path: Path, code):
    """What never becomes a record has no field; its position names its bytes."""
    name, data, position, message = FILES[code]
    (tmp_path / name).write_bytes(data)
    read = ReadFromJsonLines(str(tmp_path / name), max_record_bytes=50)
    [letter] = rows(run(lambda p: (p | read)._asdict())["dead_letters"])
    assert letter["violations"] == [{"field": "", "code": code.value, "message": message}]
    assert letter["codes"] == [code.value]
    assert letter["position"] == position


@pytest.mark.slow
def test_the_code_of_steps():
    to = Contract("c", "1.0.0", "c", (Field("v", "integer"),))
    batch = pa.RecordBatch.from_pylist(
        [{"v": 0, "_source": "a.jsonl", "_position": 7, "_payload": b'{"v":0}'}], batch_schema(to)
    )
    step = Step(SqlStep("SELECT 1 // v AS v FROM records", batch.schema), contract=to)
    [letter] = rows(run(lambda p: (p | beam.Create([batch]) | step)._asdict())["dead_letters"])
    [violation] = letter["violations"]
    assert (violation["field"], violation["code"]) == ("", Code.STEP.value)
    assert violation["message"].startswith("SqlError: Invalid Input Error: Division by zero")
    assert (letter["codes"], letter["stage"]) == ([Code.STEP.value], "step")
    assert (letter["source"], letter["position"]) == ("a.jsonl", "7")
    assert letter["payloadBytes"] == b'{"v":0}'


def test_the_code_of_late_records():
    to = Contract("c", "1.0.0", "c", (Field("t", "timestamp", True),), event_time="t")
    spec = aggregate_spec("a", window={"fixed": "1s"}, by=[], metrics={"n": "count()"}, contract=to)
    rows_of = [
        {"t": 0, "_source": "kafka:t/0", "_position": 7, "_payload": b"{}", "_watermark": 999_999},
        {
            "t": 1,
            "_source": "kafka:t/0",
            "_position": 8,
            "_payload": b"{}",
            "_watermark": 1_000_000,
        },
    ]
    batch = pa.RecordBatch.from_pylist(rows_of, batch_schema(to, watermark=True))
    enter = Accumulate(spec, Trigger(), shards=1, contribution="r", origin=Origin("", "job", "r1"))
    done = run(lambda p: (p | beam.Create([batch]) | enter)._asdict())
    [letter] = rows(done["late"])
    [violation] = letter["violations"]
    assert (violation["field"], violation["code"]) == ("t", Code.LATE.value)
    assert (letter["codes"], letter["stage"]) == ([Code.LATE.value], "aggregate")
    assert (letter["source"], letter["position"]) == ("kafka:t/0", "8")
    assert letter["attributes"] == [{"key": "aggregate", "value": "a"}]
    assert sorted(done["facts"]) == [
        Opened("a", "kafka:t/0", 1_000_000, 1),
        Tally("kafka:t/0", "late", 1, "a"),
    ]


def test_every_code_has_a_case():
    assert {case.code for case in CASES.values()} | set(FILES) | {
        Code.STEP,
        Code.DESTINATION,
        Code.LATE,
        Code.UNMATCHED,
        Code.SERVICE,
    } == set(Code)


def test_every_code_says_what_it_means():
    """The docstrings are the reference that users read."""
    source = Path(__file__).parents[2].joinpath("schemas", "codes.py").read_text("utf-8")
    for code in Code:
        assert re.search(rf'{code.name} = "{code.value}"\n    """[A-Z]', source), code
