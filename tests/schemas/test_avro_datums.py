"""Avro data to Arrow: as they were written, by polars and by Python alike, and never a guess."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import json
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow_json import json_rows
from millstream.schemas.avro.datums import AvroDatums
from millstream.schemas.avro.types import AvroSchemaError, parse_avro_schema
from millstream.schemas.avro.with_polars import is_readable

from tests.avro_support import Tagged, encoded, kind_of

Strategy = st.SearchStrategy[Any]


class Made(NamedTuple):
    """An Avro type, values of it, and what each is in JSON."""

    schema: Any
    values: Strategy
    said: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


_EPOCH = dt.datetime(1970, 1, 1)
_TEXT = st.text('aé"\\\n漢', max_size=70)


def _instant(unit: int, zone: str) -> Callable[[int], str]:
    digits = {1000: 3, 10**6: 6, 10**9: 9}[unit]

    def said(count: int) -> str:
        seconds, rest = divmod(count, unit)
        return f"{(_EPOCH + dt.timedelta(seconds=seconds)).isoformat()}.{rest:0{digits}}{zone}"

    return said


def _counts(unit: int) -> Strategy:
    return st.integers(-(10**9) * unit, 4 * 10**9 * unit)


def _decimal(scale: int) -> Callable[[bytes], str]:
    return lambda value: f"{Decimal(int.from_bytes(value, 'big', signed=True)).scaleb(-scale):E}"


_LONGS = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
_SCALARS: list[Made] = [
    Made("null", st.none(), _same),
    Made("boolean", st.booleans(), _same),
    Made("int", st.integers(-(2**31), 2**31 - 1) | st.integers(-200, 200), _same),
    Made("long", _LONGS, _same),
    Made("float", _FLOATS, _same),
    Made("double", st.floats(allow_nan=False, allow_infinity=False), _same),
    Made("string", _TEXT, _same),
    Made("bytes", _TEXT.map(str.encode), bytes.decode),
    Made({"type": "string", "logicalType": "uuid"}, st.uuids().map(str), _same),
    Made(
        {"type": "int", "logicalType": "date"},
        st.integers(-100_000, 100_000),
        lambda days: (_EPOCH + dt.timedelta(days)).date().isoformat(),
    ),
    Made(
        {"type": "int", "logicalType": "time-millis"},
        st.integers(0, 86_399_999),
        lambda n: _instant(1000, "")(n)[11:],
    ),
    Made(
        {"type": "long", "logicalType": "time-micros"},
        st.integers(0, 86_399_999_999),
        lambda n: _instant(10**6, "")(n)[11:],
    ),
    Made({"type": "bytes", "logicalType": "decimal", "precision": 80}, st.just(b"a"), bytes.decode),
    Made({"type": "long", "logicalType": "date"}, _LONGS, _same),
]
for _name, _unit in (("millis", 1000), ("micros", 10**6), ("nanos", 10**9)):
    for _local, _zone in (("", "Z"), ("local-", "")):
        _logical = {"type": "long", "logicalType": f"{_local}timestamp-{_name}"}
        _SCALARS.append(Made(_logical, _counts(_unit), _instant(_unit, _zone)))


@st.composite
def types(draw: st.DrawFn, depth: int = 3, names: Any = None) -> Made:
    """Types of every kind, with values."""
    kinds = ["scalar", "scalar", "nullable", "enum", "fixed", "decimal"]
    kinds += ["record", "array", "map", "union"] if depth else []
    kind = draw(st.sampled_from(kinds))
    number = names()
    if kind == "nullable":
        return _nullable(draw(types(depth, names)), draw(st.booleans()))
    if kind == "scalar":
        return draw(st.sampled_from(_SCALARS))
    if kind == "enum":
        symbols = ["A", "b", "_c"]
        schema = {"type": "enum", "name": f"ns.E{number}", "symbols": symbols}
        return Made(schema, st.sampled_from(symbols), _same)
    if kind == "fixed":
        if draw(st.booleans()):
            schema = {"type": "fixed", "name": f"ns.F{number}", "size": 16, "logicalType": "uuid"}
            some = st.binary(min_size=16, max_size=16)
            return Made(schema, some, lambda b: str(uuid.UUID(bytes=b)))
        size = draw(st.integers(1, 3))
        schema = {"type": "fixed", "name": f"ns.F{number}", "size": size}
        letters = st.lists(st.sampled_from(b"abc"), min_size=size, max_size=size)
        return Made(schema, letters.map(bytes), bytes.decode)
    if kind == "decimal":
        return draw(_decimals(number))
    inner = [draw(types(depth - 1, names)) for _ in range(draw(st.integers(1, 3)))]
    if kind == "record":
        return _record(f"ns.R{number}", inner)
    if kind == "union":
        return draw(_unions(inner))
    one = inner[0]
    if kind == "array":
        schema = {"type": "array", "items": one.schema}
        return Made(schema, st.lists(one.values, max_size=3), lambda v: [one.said(i) for i in v])
    schema = {"type": "map", "values": one.schema}
    return Made(
        schema,
        st.dictionaries(_TEXT, one.values, max_size=3),
        lambda v: {key: one.said(i) for key, i in v.items()},
    )


@st.composite
def _decimals(draw: st.DrawFn, number: int) -> Made:
    precision = draw(st.integers(1, 76))
    scale = draw(st.integers(0, precision))
    logical = {"logicalType": "decimal", "precision": precision, "scale": scale}
    if draw(st.booleans()):
        size = draw(st.integers(precision // 2 + 1, 40))
        schema = {"type": "fixed", "name": f"ns.D{number}", "size": size, **logical}
        return Made(schema, st.binary(min_size=size, max_size=size), _decimal(scale))
    return Made({"type": "bytes", **logical}, st.binary(max_size=40), _decimal(scale))


def _nullable(made: Made, null_first: bool) -> Made:
    if isinstance(made.schema, list) or made.schema == "null":
        return made
    schema = ["null", made.schema] if null_first else [made.schema, "null"]
    said = made.said
    return Made(schema, st.none() | made.values, lambda v: None if v is None else said(v))


def _record(name: str, inner: list[Made]) -> Made:
    fields = [{"name": f"f{i}", "type": made.schema} for i, made in enumerate(inner)]
    values = st.fixed_dictionaries({f"f{i}": made.values for i, made in enumerate(inner)})
    return Made(
        {"type": "record", "name": name, "fields": fields},
        values,
        lambda v: {f"f{i}": made.said(v[f"f{i}"]) for i, made in enumerate(inner)},
    )


@st.composite
def _unions(draw: st.DrawFn, inner: list[Made]) -> Made:
    """A union of several types."""
    branches: dict[str, Made] = {}
    for one in [*inner, *draw(st.lists(st.sampled_from(_SCALARS[:8]), max_size=2))]:
        schema = one.schema
        if not isinstance(schema, list):
            kind = kind_of(schema)
            named = kind in ("record", "enum", "fixed")
            branches.setdefault(schema["name"] if named else kind, one)
    if not branches:
        return _SCALARS[1]
    made = list(branches.values())
    tagged = [
        of.values.map(lambda v, i=i: None if made[i].schema == "null" else Tagged(i, v))
        for i, of in enumerate(made)
    ]
    return Made(
        [of.schema for of in made],
        st.one_of(tagged),
        lambda v: None if v is None else made[v[0]].said(v[1]),
    )


@st.composite
def records(draw: st.DrawFn) -> Made:
    """The schema of a file, with values."""
    numbers = iter(range(10**6))
    inner = [draw(types(2, lambda: next(numbers))) for _ in range(draw(st.integers(1, 4)))]
    return _record("Top", inner)


@given(st.data(), records())
def test_fastavro_reads_what_is_written_here(data, made):
    written = encoded(made.schema, data.draw(made.values))
    stream = io.BytesIO(written)
    fastavro.schemaless_reader(stream, _bare(made.schema), None)
    assert stream.tell() == len(written)


def _bare(schema: Any) -> Any:
    """The schema without logical types: some values are beyond Python's."""
    if isinstance(schema, list):
        return [_bare(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    bare = {key: value for key, value in schema.items() if key != "logicalType"}
    for key in ("items", "values"):
        if key in bare:
            bare[key] = _bare(bare[key])
    if "fields" in bare:
        bare["fields"] = [{**f, "type": _bare(f["type"])} for f in bare["fields"]]
    return bare


def said_by(batch: pa.RecordBatch) -> list[Any]:
    return [json.loads(row, parse_float=_number) for row in json_rows(batch).to_pylist()]


def _number(text: str) -> Any:
    """A float, or a decimal where the text has more digits than floats."""
    return float(text)


def like(found: Any, expected: Any) -> bool:
    """Equal; where a decimal is expected (its text), equal to all digits that a double has."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(like(found[k], expected[k]) for k in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(like, found, expected))
    if isinstance(expected, str) and not isinstance(found, str):
        return float(found) == float(expected)
    return found == expected


Cut = tuple[int, bytes]


def blocks_of(schema: Any, values: list[Any], cuts: list[int]) -> list[Cut]:
    data = [encoded(schema, value) for value in values]
    bounds = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [(b - a, b"".join(data[a:b])) for a, b in itertools.pairwise(bounds)]


def the_same(some: Any, other: Any) -> None:
    assert some.counts == other.counts
    assert some.corrupt.keys() == other.corrupt.keys()
    assert some.payloads.equals(other.payloads)
    assert json_rows(some.batch).equals(json_rows(other.batch))


@given(st.data(), records(), st.lists(st.integers(0, 9), max_size=3))
def test_what_was_written_is_read(data, made, cuts):
    values = data.draw(st.lists(made.values, max_size=5))
    blocks = blocks_of(made.schema, values, cuts)
    schema = parse_avro_schema(json.dumps(made.schema))
    careful = AvroDatums(schema, fast=False).read(blocks)
    assert not careful.corrupt
    assert careful.counts == [count for count, _ in blocks]
    assert careful.payloads.to_pylist() == [encoded(made.schema, value) for value in values]
    careful.batch.validate(full=not any("json" in str(f.type) for f in careful.batch.schema))
    found = said_by(careful.batch)
    assert len(found) == len(values)
    assert all(map(like, found, [made.said(value) for value in values]))
    the_same(AvroDatums(schema).read(blocks), careful)


@given(st.data(), records(), st.lists(st.integers(0, 9), max_size=3))
def test_of_corrupt_bytes_polars_and_python_make_the_same(data, made, cuts):
    values = data.draw(st.lists(made.values, min_size=1, max_size=4))
    blocks = blocks_of(made.schema, values, cuts)
    broken = [data.draw(_broken(block)) for block in blocks]
    schema = parse_avro_schema(json.dumps(made.schema))
    careful = AvroDatums(schema, fast=False).read(broken)
    the_same(AvroDatums(schema).read(broken), careful)
    untouched = {i for i, block in enumerate(blocks) if block == broken[i]}
    assert not untouched & careful.corrupt.keys()
    for i, (count, _) in enumerate(broken):
        assert careful.counts[i] == (0 if i in careful.corrupt else count)


@st.composite
def _broken(draw: st.DrawFn, block: Cut) -> Cut:
    count, data = block
    kind = draw(st.sampled_from(["none", "flip", "flip", "cut", "more", "count"]))
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    if kind == "flip" and data:
        octet = data[at] ^ draw(st.sampled_from([1, 2, 64, 128, 255]))
        return count, data[:at] + bytes([octet]) + data[at + 1 :]
    if kind == "cut":
        return count, data[:at]
    if kind == "more":
        return count, data + draw(st.binary(min_size=1, max_size=3))
    if kind == "count":
        return draw(st.sampled_from([count + 1, count - 1, -1, 2**40])), data
    return block


@pytest.mark.parametrize(
    ("schema", "fast"),
    [
        (["null", "string"], True),
        ([{"type": "enum", "name": "E", "symbols": ["a"]}, "null"], True),
        ({"type": "array", "items": ["null", {"type": "array", "items": "boolean"}]}, True),
        ({"type": "fixed", "name": "F", "size": 0}, False),
        ({"type": "map", "values": "int"}, False),
        ("null", False),
        (["null", "int", "string"], False),
        (["int"], False),
        ({"type": "array", "items": {"type": "record", "name": "N", "fields": []}}, False),
    ],
)
def test_what_polars_reads(schema, fast):
    """So that the laws above do compare two readers, and polars meets nothing it cannot read."""
    fields = [{"name": "a", "type": schema}]
    said = json.dumps({"type": "record", "name": "R", "fields": fields})
    assert is_readable(parse_avro_schema(said).record) is fast


def test_polars_does_read(monkeypatch):
    schema = parse_avro_schema('{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}')
    datums = AvroDatums(schema)
    monkeypatch.setattr(datums, "_read_carefully", None)
    assert datums.read([(2, b"\x02\x04"), (1, b"\x06")]).batch.to_pylist() == [
        {"a": 1},
        {"a": 2},
        {"a": 3},
    ]


def test_without_polars_all_is_read_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    schema = parse_avro_schema('{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}')
    assert AvroDatums(schema).read([(2, b"\x02\x04")]).batch.to_pylist() == [{"a": 1}, {"a": 2}]


# ------------------------------------------------------------------------------ what is corrupt


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("boolean", b"\x02", "record 0 has the boolean 2"),
        ("int", b"\x80\x80\x80\x80\x10", "record 0 has an int of more than 32 bits"),
        ("long", b"\xff" * 10 + b"\x01", "record 0 has an integer of more than 10 bytes"),
        ("long", b"\xff" * 9 + b"\x02", "record 0 has an integer of more than 64 bits"),
        ("long", b"\xff", "record 0 ends too early"),
        ("double", b"\x00" * 8 + b"\x01", "1 bytes are left over after 1 records"),
        ("string", b"\x01", "record 0 has a string of -1 bytes"),
        ("string", b"\x04a", "record 0 ends too early"),
        (["null", "int"], b"\x04", "record 0 has the branch 2 of 2"),
        (["null", "int", "long"], b"\x01", "record 0 has the branch -1 of 3"),
        ({"type": "enum", "name": "E", "symbols": ["a"]}, b"\x02", "has the symbol 1 of 1"),
        ({"type": "array", "items": "int"}, b"\xfe\xff\xff\x03\x00", "has an array or map of"),
        ({"type": "array", "items": "null"}, b"\xfe\xff\xff\x03\x00", "has an array or map of"),
        ({"type": "array", "items": "int"}, b"\x01\x04\x02\x00", "1 items of 1 bytes, not of 2"),
    ],
)
def test_why_a_block_is_corrupt(kind, data, reason):
    said = {"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]}
    found = AvroDatums(parse_avro_schema(json.dumps(said))).read([(1, data)])
    assert reason in found.corrupt[0]
    assert found.batch.num_rows == 0


def test_arrays_in_blocks_with_their_sizes_are_read():
    """As Go's libraries write them; also integers that are longer than they need be."""
    items = {"type": "array", "items": "int"}
    said = {"type": "record", "name": "R", "fields": [{"name": "a", "type": items}]}
    data = b"\x03\x04\x02\x04" + b"\x02\x86\x00" + b"\x00"
    found = AvroDatums(parse_avro_schema(json.dumps(said))).read([(1, data)])
    assert found.batch.to_pylist() == [{"a": [1, 2, 3]}]


LINKED = {
    "type": "record",
    "name": "List",
    "fields": [{"name": "v", "type": "bytes"}, {"name": "next", "type": ["null", "List"]}],
}
TREE = {
    "type": "record",
    "name": "Tree",
    "fields": [
        {"name": "at", "type": {"type": "int", "logicalType": "date"}},
        {"name": "children", "type": {"type": "array", "items": "Tree"}},
        {"name": "by", "type": ["null", "int", {"type": "map", "values": "Tree"}]},
    ],
}


def test_records_that_hold_themselves_are_json():
    top = {"type": "record", "name": "R", "fields": [
        {"name": "list", "type": ["null", LINKED]},
        {"name": "tree", "type": TREE},
        {"name": "more", "type": {"type": "array", "items": "List"}},
    ]}  # fmt: skip
    leaf = {"at": 0, "children": [], "by": None}
    five = {**leaf, "by": Tagged(1, 5)}
    tree = {"at": 1, "children": [leaf], "by": Tagged(2, {"é": five})}
    linked = {"v": b'\xff"', "next": {"v": b"", "next": None}}
    value = {"list": linked, "tree": tree, "more": [{"v": b"x", "next": None}]}
    blocks = [(2, encoded(top, value) + encoded(top, {**value, "list": None, "more": []}))]
    batch = AvroDatums(parse_avro_schema(json.dumps(top))).read(blocks).batch
    assert batch.column("list").cast(pa.binary()).to_pylist() == [
        b'{"v":"\xff\\"","next":{"v":"","next":null}}',
        None,
    ]
    assert json.loads(batch.column("tree")[0].as_py()) == {
        "at": "1970-01-02",
        "children": [{"at": "1970-01-01", "children": [], "by": None}],
        "by": {"é": {"at": "1970-01-01", "children": [], "by": 5}},
    }
    assert batch.column("more").to_pylist()[0] == ['{"v":"x","next":null}']


def test_depth_is_bounded():
    schema = parse_avro_schema(json.dumps(LINKED))
    deep = b"\x00\x02" * 90 + b"\x00\x00"
    assert AvroDatums(schema).read([(1, deep)]).counts == [1]
    deeper = b"\x00\x02" * 1_000_000 + b"\x00\x00"
    found = AvroDatums(schema).read([(1, deeper), (1, b"\x00\x00")])
    assert found.corrupt == {0: "record 0 is nested more than 100 levels deep"}
    assert found.counts == [0, 1]


# --------------------------------------------------------------------------------- schemas


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ('"string"', "is of kind bytes: only records can be read"),
        ('{"type":"record","name":"R","fields":[{"name":"a","type":"Nope"}]}', "names 'Nope'"),
        ('{"type":"record","name":"R"}', "is no Avro schema"),
        ('{"type":"array"}', "is no Avro schema"),
        ("[]", "has a union of 0 types"),
        ('["null",["null","int"]]', "has a union in a union"),
        ("5", "is no Avro schema"),
        ('{"type":"fixed","name":"F","size":-1}', "gives F the size -1"),
        ('["int",{"type":"fixed","name":"F","size":1},{"type":"fixed","name":"F","size":2}]',
         "defines F twice"),
        ('{"type":"array","items":' * 3000 + '"int"' + "}" * 3000, "is not JSON"),
        ('{"type":"array","items":' * 101 + '"int"' + "}" * 101, "more than 100 levels deep"),
    ],
)  # fmt: skip
def test_schemas_that_cannot_be_read_by(text, reason):
    with pytest.raises(AvroSchemaError) as caught:
        parse_avro_schema(text)
    assert reason in str(caught.value)


def test_names_are_looked_for_as_the_specification_says():
    inner = {"type": "fixed", "name": "F", "size": 1}
    said = {"type": "record", "name": "a.R", "fields": [
        {"name": "x", "type": inner},
        {"name": "y", "type": "F"},
        {"name": "z", "type": "a.F"},
        {"name": "n", "type": {"type": "record", "name": "b.N", "fields": [
            {"name": "q", "type": {"type": "fixed", "name": "F", "size": 2}},
            {"name": "r", "type": "F"},
        ]}},
        {"name": "w", "type": "b.F"},
    ]}  # fmt: skip
    fields = dict(parse_avro_schema(json.dumps(said)).record.fields)
    assert [fields[name].size for name in "xyzw"] == [1, 1, 1, 2]
    assert [of.size for _, of in fields["n"].fields] == [2, 2]


def test_a_few_lines_that_would_be_a_billion_fields_are_refused():
    types: list[Any] = [{"name": "r0", "type": "int"}]
    for i in range(40):
        inner = f"R{i - 1}" if i else "int"
        fields = [{"name": name, "type": inner} for name in "ab"]
        types.append({"name": f"r{i}", "type": {"type": "record", "name": f"R{i}",
                                                "fields": fields}})  # fmt: skip
    with pytest.raises(AvroSchemaError, match="more than 20000 fields"):
        parse_avro_schema(json.dumps({"type": "record", "name": "T", "fields": types}))
