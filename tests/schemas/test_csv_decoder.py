"""CSV records to columns: what the JSON decoder makes of the same records, and no laxer."""

from __future__ import annotations

import csv
import io
import json
import re
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.schemas.codes import Code
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.csv.cells import split_cells
from millstream.schemas.csv.decoder import CsvDecoder, CsvRecords, HeaderError
from millstream.schemas.csv.options import CsvOptions
from millstream.schemas.csv.text_columns import text_converter
from millstream.schemas.decoded import Decoded
from millstream.schemas.json.decoder import JsonDecoder

from tests import strategies

PLAIN = CsvOptions()


def records(lines: list[bytes], end: bytes = b"\n", at: int = 0) -> CsvRecords:
    """Records as they lie in a file."""
    sizes = np.array([len(line) for line in lines], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes + len(end))[:-1]]) if lines else sizes
    return CsvRecords(at, end.join(lines), starts, starts + sizes, {})


def decode(contract: Contract, columns: list[str], lines: list[bytes], **more: Any) -> Decoded:
    """Decode records, whose options may be among what else the decoder is told."""
    end = more.pop("end", b"\n")
    options = more.pop("options", PLAIN)
    return CsvDecoder(contract, columns, options, **more).decode(records(lines, end))


# -------------------------------------------------------------------- the same as JSON records


def cells_of(payload: bytes, contract: Contract) -> list[str | None]:
    """The cells that say what a JSON record says."""
    raw = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    found = []
    for field in contract.fields:
        text = bytes(raw.get(field.name, b"null")).decode()
        if text == "null":
            found.append(None)
        elif field.type in ("string", "date", "time", "timestamp"):
            found.append(json.loads(text))
        else:
            found.append(text)
    return found


@st.composite
def written(draw: st.DrawFn, cells: list[str | None], options: CsvOptions) -> bytes:
    """A record of some cells, in quotes where that has to be and elsewhere at will."""
    d, q = options.delimiter, options.quote
    found = []
    for text in cells:
        if text is None:
            found.append(draw(st.sampled_from(options.null)))
        elif text in options.null or {d, q, "\r", "\n"} & set(text) or draw(st.booleans()):
            found.append(q + text.replace(q, q * 2) + q)
        else:
            found.append(text)
    return d.join(found).encode(options.encoding)


dialects = st.builds(
    CsvOptions,
    delimiter=st.sampled_from(",;|\t"),
    quote=st.sampled_from("\"'"),
    null=st.sampled_from((("",), ("", "NULL"), ("\\N",))),
)
ends = st.sampled_from((b"\n", b"\r\n", b"\n\n"))


@settings(max_examples=100)
@given(st.data(), strategies.contracts(), dialects, ends, st.booleans())
def test_records_are_read_as_the_same_records_in_json_are(data, contract, options, end, judge):
    """Good or bad, with all that is wrong with them."""
    some = data.draw(st.lists(strategies.records(contract, lawful=False), max_size=5))
    assert_same(data, contract, [r.payload for r in some], options, end, judge)


@settings(max_examples=60)
@given(st.data(), strategies.contracts(rules=False), dialects)
def test_what_is_wrong_in_nested_json_is_told_as_for_json_records(data, contract, options):
    faults = strategies.broken_records(contract).filter(lambda b: set(".[") & set(b.path))
    if not any(field.type in ("object", "array") for field in contract.fields):
        return
    payloads = [data.draw(faults).payload]
    assert_same(data, contract, payloads, options, b"\n", True)


def assert_same(
    data: Any,
    contract: Contract,
    payloads: list[bytes],
    options: CsvOptions,
    end: bytes,
    judge: bool,
) -> None:
    expected = JsonDecoder(contract, judge=judge).decode(pa.array(payloads, pa.binary()))
    order = data.draw(st.permutations(range(len(contract.fields))))
    names = [contract.fields[i].name for i in order] + ["more"]
    lines = []
    for payload in payloads:
        cells = cells_of(payload, contract)
        lines.append(data.draw(written([*(cells[i] for i in order), "x"], options)))
    found = decode(contract, names, lines, options=options, end=end, judge=judge)
    assert found.records.equals(expected.records)
    assert found.records.schema == expected.records.schema
    assert found.refused == expected.refused
    assert sorted(found.violations) == sorted(expected.violations)
    assert found.well_typed == expected.well_typed
    assert found.event_times == expected.event_times


@settings(max_examples=100)
@given(
    # a bare carriage return it leaves without quotes
    st.lists(
        st.lists(st.text(max_size=5).map(lambda t: t.replace("\r", "\n")), min_size=2, max_size=2),
        max_size=6,
    ),
    st.sampled_from((csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC)),
    st.sampled_from(("\n", "\r\n")),
    st.sampled_from(",;\t"),
)
def test_what_pythons_csv_module_writes_is_read(table, quoting, end, delimiter):
    file = io.StringIO()
    writer = csv.writer(file, quoting=quoting, lineterminator=end, delimiter=delimiter)
    lines = []
    for row in table:
        file.truncate(file.seek(0))
        writer.writerow(row)
        lines.append(file.getvalue().removesuffix(end).encode())
    options = CsvOptions(delimiter=delimiter, null=())
    found = decode(TEXTS, ["a", "b"], lines, options=options, end=end.encode())
    assert [list(r.values()) for r in found.records.to_pylist()] == table


TEXTS = Contract("c", "1", "c", (Field("a", "string"), Field("b", "string")))
_PIECES = ('"', '""', ",", "a", "é", "\n", "\r\n", "\r", " ", "\t", "\0", "NA", "\ufeff")


def is_record(text: str, quote: str = '"') -> bool:
    """Whether a text is one record, not blank, with its quotes in order and its line end gone."""
    cell = f"(?:{quote}(?:[^{quote}]|{quote}{quote})*{quote}|(?!{quote})[^,\n]*)"
    return (
        bool(re.fullmatch(f"{cell}(?:,{cell})*", text))
        and bool(text.strip(" \t\r"))
        and text[-1] != "\r"
    )


@settings(max_examples=200)
@given(
    st.lists(
        st.lists(st.sampled_from(_PIECES) | st.text(max_size=2), min_size=1, max_size=8)
        .map("".join)
        .filter(is_record),
        max_size=5,
    ),
    ends,
)
@example(["\ufeffa,b"], b"\n")
def test_cells_are_cut_as_pythons_csv_module_cuts_them(texts, end):
    """With whatever is lax in both: quotes inside of a cell that does not start with one."""
    options = CsvOptions(null=("NA",))
    found = decode(TEXTS, ["a", "b"], [t.encode() for t in texts], options=options, end=end)
    rows = found.records.to_pylist()
    numbers = range(len(texts)) if found.kept is None else found.kept.tolist()
    faults = {v.row: v.message for v in found.violations}
    expected = {}
    for i, text in enumerate(texts):
        quoted = split_cells(text.encode(), options)
        if any("\r" in c.text.decode() and not c.quoted for c in quoted):
            assert faults.pop(i) == "has a carriage return outside quotes"
            continue
        [cells] = csv.reader([text], strict=False)
        assert [c.text.decode() for c in quoted] == cells
        if len(cells) == 2:
            expected[i] = [
                None if c.text == b"NA" and not c.quoted else c.text.decode() for c in quoted
            ]
        else:
            assert f"{len(cells)} cell" in faults.pop(i)
    assert {i: list(r.values()) for i, r in zip(numbers, rows, strict=True)} == expected
    assert not faults


# --------------------------------------------------------------------------------------- types


def one(field: Field, text: str) -> tuple[Any, str | None, str]:
    """What one text becomes: a value, or a code and a message."""
    # beside a good one too: a column with one bad text goes another way
    alone = text_converter(field)(pa.array([text]))
    among = text_converter(field)(pa.array([None, text, None, text]))
    assert among.column[1] == alone.column[0] == among.column[3]
    assert not among.column[0].is_valid
    assert [v.row for v in among.violations] == ([1, 3] if alone.violations else [])
    if not alone.violations:
        return alone.column[0].as_py(), None, ""
    [violation] = alone.violations
    assert not alone.column[0].is_valid
    assert violation.field == field.name
    return None, violation.code.value, violation.message


BYTE = Field("b", "integer", storage="int8")
UNSIGNED = Field("u", "integer", storage="uint64")
LONG = Field("l", "integer")
NUMBER = Field("n", "number")
SINGLE = Field("s", "number", storage="float32")
PRICE = Field("p", "decimal", precision=5, scale=2)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        (BYTE, "+5", 5),
        (BYTE, "-128", -128),
        (BYTE, "0000000000000000000000127", 127),
        (BYTE, "-0", 0),
        (UNSIGNED, "18446744073709551615", 2**64 - 1),
        (UNSIGNED, "-0", 0),
        (LONG, "-9223372036854775808", -(2**63)),
        (NUMBER, "+.5", 0.5),
        (NUMBER, "5.", 5.0),
        (NUMBER, "-1.5e-3", -0.0015),
        (NUMBER, "1E+2", 100.0),
        (NUMBER, "007", 7.0),
        (NUMBER, "1e-999", 0.0),
        (NUMBER, "0.1", 0.1),
        (NUMBER, "123456789012345678901234567890", 123456789012345678901234567890.0),
        (SINGLE, "0.5", 0.5),
        (PRICE, "+1.5", Decimal("1.50")),
        (PRICE, ".5", Decimal("0.50")),
        (PRICE, "1.500000", Decimal("1.50")),
        (PRICE, "1e2", Decimal("100.00")),
        (PRICE, "-999.99", Decimal("-999.99")),
        (PRICE, "00000999", Decimal("999.00")),
        (Field("b", "boolean"), "true", True),
        (Field("b", "boolean"), "FALSE", False),
        (Field("b", "boolean"), "tRue", True),
        (Field("s", "string"), " a ", " a "),
        (Field("j", "json"), ' {"a": 1e999} ', '{"a": 1e999}'),
        (Field("j", "json"), "null", None),
        (Field("a", "array", items=LONG), "[1, null]", [1, None]),
    ],
)
def test_texts_of_a_type(field, text, value):
    found, code, _ = one(field, text)
    assert code is None
    assert found == value
    assert type(found) is type(value)


NO_NUMBERS = [
    "", " ", "5 ", " 5", "\t5", "5\n", "a", "0x1F", "0X1f", "1_000", "1,000", "--5", "+-5", "5-",
    "-", "+", "nan", "NaN", "inf", "-Infinity", "infinity", "1e", "e5", ".", "-.", "1.2.3", "٣",
    "½", "1d", "1f", "0b1", "1e+", "1 2", "5\0", "true", "null", "１",
]  # fmt: skip


@pytest.mark.parametrize("text", [*NO_NUMBERS, "5.0", "1e2", "5.", ".5"])
@pytest.mark.parametrize("field", [BYTE, UNSIGNED, LONG])
def test_what_is_no_integer(field, text):
    assert one(field, text) == (None, "TYPE", f"expected an integer, got {text!r}")


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize("field", [NUMBER, SINGLE, PRICE])
def test_what_is_no_number(field, text):
    assert one(field, text) == (None, "TYPE", f"expected a number, got {text!r}")


@pytest.mark.parametrize(
    ("field", "text", "code", "message"),
    [
        (BYTE, "128", "RANGE", "expected an integer from -128 to 127, got 128"),
        (BYTE, "-129", "RANGE", "expected an integer from -128 to 127, got -129"),
        (UNSIGNED, "-1", "RANGE", "expected an integer from 0 to 18446744073709551615, got -1"),
        (UNSIGNED, str(2**64), "RANGE", f"expected an integer from 0 to {2**64 - 1}, got {2**64}"),
        (LONG, "9" * 5000, "RANGE", f"expected an integer from {-(2**63)} to {2**63 - 1}, "
         f"got {'9' * 80}…"),
        (NUMBER, "1e400", "RANGE", "expected a number that a double can hold, got 1e400"),
        (NUMBER, "-1e400", "RANGE", "expected a number that a double can hold, got -1e400"),
        (SINGLE, "1e39", "RANGE", "expected a number that a 32-bit float can hold, got 1e+39"),
        (PRICE, "1.234", "PRECISION",
         "expected a decimal of 5 digits, 2 after the point, got 1.234"),
        (PRICE, "1000", "PRECISION",
         "expected a decimal of 5 digits, 2 after the point, got 1000"),
        (PRICE, "1e999999999999", "PRECISION",
         "expected a decimal of 5 digits, 2 after the point, got 1e999999999999"),
        (Field("b", "boolean"), "1", "TYPE", "expected a boolean, true or false, got '1'"),
        (Field("b", "boolean"), "yes", "TYPE", "expected a boolean, true or false, got 'yes'"),
        (Field("b", "boolean"), " true", "TYPE", "expected a boolean, true or false, got ' true'"),
        (Field("d", "date"), "2026-02-29", "FORMAT",
         "expected a date such as 2026-11-24, got '2026-02-29'"),
        (Field("t", "time"), "24:00", "FORMAT",
         "expected a time of day such as 13:45:00, got '24:00'"),
        (Field("o", "object", fields=(LONG,)), "[]", "TYPE", "expected an object, got an array"),
        (Field("o", "object", fields=(LONG,)), "{", "TYPE",
         "expected an object as JSON, got '{'"),
        (Field("o", "object", fields=(LONG,)), "", "TYPE", "expected an object as JSON, got ''"),
        (Field("a", "array", items=LONG), "[1,]", "TYPE", "expected an array as JSON, got '[1,]'"),
        (Field("j", "json"), "abc", "TYPE", "expected a value as JSON, got 'abc'"),
        (Field("j", "json"), "NaN", "TYPE", "expected a value as JSON, got 'NaN'"),
        (Field("j", "json"), "[" * 600 + "]" * 600, "MALFORMED",
         "is nested more than 500 levels deep"),
        (Field("p", "integer", classification="pii"), "x", "TYPE",
         "expected an integer, got a value not shown"),
    ],
)  # fmt: skip
def test_texts_that_a_field_refuses(field, text, code, message):
    assert one(field, text) == (None, code, message)


@pytest.mark.parametrize("cell", ['1}, "x": {', '1,"j":2', '1},{"j":1', "1} ", '1,"k":[2'])
def test_json_does_not_reach_out_of_its_cell(cell):
    assert one(Field("j", "json"), cell)[1] == "TYPE"


def test_what_is_wrong_inside_a_required_object_does_not_make_it_missing():
    inner = (Field("x", "integer"), Field("y", "integer", required=True))
    contract = Contract("c", "1", "c", (Field("o", "object", required=True, fields=inner),))
    found = decode(contract, ["o", "z"], [b'"{""x"":""a"",""y"":1}",'], judge=True)
    assert [(v.field, v.code) for v in found.violations] == [("o.x", Code.TYPE)]


def test_nested_fields_that_the_contract_does_not_name():
    contract = Contract("c", "1", "c", (Field("o", "object", fields=(Field("x", "integer"),)),))
    lines = [b'"{""x"":1,""n"":1.50}",a', b'"{""x"":1}",', b'"{""n"":2}",']
    kept = decode(contract, ["o", "z"], lines, unknown="keep")
    said = kept.records.column(1).to_pylist()
    assert said == ['{"z":"a","o.n":1.50}', None, '{"o.n":2}']
    refused = decode(contract, ["o", "z"], lines, unknown="reject")
    assert [(v.row, v.field, v.code) for v in refused.violations] == [
        (0, "o.n", Code.UNKNOWN_FIELD),
        (0, "z", Code.UNKNOWN_FIELD),
        (2, "o.n", Code.UNKNOWN_FIELD),
    ]


# ------------------------------------------------------------------------------------- records


def test_records_at_fault_leave_the_others_where_they_are():
    """Whatever is wrong with some, and wherever they are, the rows of all others are kept."""
    contract = Contract("c", "1", "c", (Field("n", "integer"), Field("s", "string")))
    bad = [b"1", b"1,2,3", b"1,\xff", b"1,a\rb", b"x,y"]
    good = [b"%d,\xc3\xa9" % i for i in range(20)]
    rng = np.random.default_rng(1)
    for _ in range(30):
        lines = [*good, *bad, *bad]
        rng.shuffle(lines)
        found = decode(contract, ["n", "s"], lines, end=b"\r\n")
        assert found.kept is not None
        assert [lines[i] for i in found.kept] == [line for line in lines if line in good]
        said = [b"%d,%s" % (r["n"], r["s"].encode()) for r in found.records.to_pylist()]
        assert said == [line for line in lines if line in good]
        assert found.refused == [i for i, line in enumerate(lines) if line in bad]


def test_only_records_at_fault():
    contract = Contract("c", "1", "c", (Field("n", "integer", required=True), Field("s", "string")))
    for lines in ([b"1"], [b"\xff,1"], []):
        found = decode(contract, ["n", "s"], lines, judge=True)
        assert found.records.num_rows == 0
        assert [len(found.refused), len(found.violations)] == [len(lines)] * 2


def test_a_field_without_a_column_is_missing():
    contract = Contract("c", "1", "c", (Field("n", "integer", required=True), Field("s", "string")))
    found = decode(contract, ["s"], [b"a"], judge=True)
    assert [v.message for v in found.violations] == ["is required, but missing or null"]
    assert decode(contract, ["n"], [b"1"]).records.to_pylist() == [{"n": 1, "s": None}]


def test_without_quotes_there_are_none():
    found = decode(TEXTS, ["a", "b"], [b'"a,b"', b'"",'], options=CsvOptions(quote=""))
    assert found.records.to_pylist() == [{"a": '"a', "b": 'b"'}, {"a": '""', "b": None}]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["a", "b", "a"], "has a header that names the column 'a' twice"),
        (["A"], "expected 'a', 'b', got 'A'; did you mean 'a'"),
        ([f"c{i}" for i in range(100)], "'c39' and 60 more$"),
    ],
)
def test_headers_that_cannot_be_used(columns, message):
    with pytest.raises(HeaderError, match=message):
        CsvDecoder(TEXTS, columns, PLAIN)


def test_rules_are_judged_where_that_is_asked_for():
    contract = Contract("c", "1", "c", (Field("n", "integer", rules=(Rule("minimum", 5),)),))
    assert decode(contract, ["n"], [b"1"]).refused == []
    found = decode(contract, ["n"], [b"1", b"7"], judge=True)
    assert (found.refused, found.well_typed) == ([0], [True])


# ------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"delimiter": ""}, "delimiter: expected one ASCII character, got ''"),
        ({"delimiter": "||"}, "delimiter: expected one ASCII character, got '||'"),
        ({"delimiter": "¦"}, "delimiter: expected one ASCII character, got '¦'"),
        ({"delimiter": "\n"}, "delimiter: expected one ASCII character, got '\\n'"),
        ({"delimiter": ";", "quote": ";"}, "quote: expected one ASCII character that is not the "),
        ({"quote": "''"}, "quote: expected one ASCII character that is not the delimiter, or none"),
        ({"header": False}, "header: expected true, or the names of the columns, got false"),
        ({"encoding": "latin_2"}, "encoding: no text encoding 'latin_2'"),
        ({"encoding": "base64"}, "encoding: no text encoding 'base64'"),
        ({"encoding": "iso8859_51"}, "'iso8859_51'; did you mean 'iso8859_5'"),
        ({"null": ["", "a,b"]}, "null: expected texts without delimiters, quotes and line ends"),
        ({"nulls": []}, "unknown field `nulls`"),
    ],
)
def test_options_that_cannot_be_used(said, message):
    with pytest.raises(msgspec.ValidationError, match=re.escape(message)):
        msgspec.convert(said, CsvOptions)


def test_options_as_a_job_says_them():
    said = {"delimiter": "\t", "quote": "", "header": ["a", "b"], "null": [], "encoding": "cp1252"}
    options = msgspec.convert(said, CsvOptions)
    assert options.header == ("a", "b")
    assert hash(options) == hash(msgspec.convert(said, CsvOptions))
