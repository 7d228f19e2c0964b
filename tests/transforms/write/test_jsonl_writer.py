"""JSON lines: what is written reads back as what was written, for every type of a contract."""

import base64
import datetime as dt
import io
import json
import math
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas import dead_letters
from millstream.schemas.arrow import IDENTITY_FIELDS
from millstream.transforms.write import jsonl
from millstream.transforms.write.jsonl import JsonLinesEncoder


class Number(str):
    """A JSON number as it is spelled."""


def encode(batch):
    file = io.BytesIO()
    encoder = JsonLinesEncoder(file, batch.schema)
    encoder.write(batch)
    encoder.close()
    return file.getvalue()


def refuse(word):
    raise AssertionError(f"{word} is not JSON")


def decode(data, schema):
    lines = data.decode().split("\n")
    assert lines.pop() == ""
    rows = [
        json.loads(line, parse_int=Number, parse_float=Number, parse_constant=refuse)
        for line in lines
    ]
    for row in rows:
        assert list(row) == schema.names
    return [{field.name: value_of(row[field.name], field.type) for field in schema} for row in rows]


def value_of(raw, kind):
    if raw is None:
        return None
    if pa.types.is_dictionary(kind):
        return value_of(raw, kind.value_type)
    if pa.types.is_struct(kind):
        assert list(raw) == [field.name for field in kind]
        return {field.name: value_of(raw[field.name], field.type) for field in kind}
    if pa.types.is_list(kind):
        return [value_of(item, kind.value_type) for item in raw]
    if pa.types.is_floating(kind):
        value = float(raw)
        return pa.scalar(value, kind).as_py()
    for matches, read in READ:
        if matches(kind):
            return read(raw)
    raise AssertionError(kind)


READ = [
    (pa.types.is_boolean, lambda raw: raw),
    (pa.types.is_integer, lambda raw: int(raw)),
    (pa.types.is_decimal, lambda raw: Decimal(raw)),
    (pa.types.is_string, lambda raw: raw),
    (pa.types.is_binary, lambda raw: base64.b64decode(raw, validate=True)),
    (pa.types.is_timestamp, dt.datetime.fromisoformat),
    (pa.types.is_date, dt.date.fromisoformat),
    (pa.types.is_time, dt.time.fromisoformat),
]


def same(left, right):
    """Equal, where NaN equals NaN and -0.0 does not equal 0.0."""
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or repr(left) == repr(right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right and type(left) is type(right)


def integers(kind):
    bits = kind.bit_width
    signed = pa.types.is_signed_integer(kind)
    low = -(2 ** (bits - 1)) if signed else 0
    return st.integers(low, low + 2**bits - 1)


def decimals(kind):
    limit = 10**kind.precision - 1
    return st.integers(-limit, limit).map(lambda n: Decimal(f"{n}E-{kind.scale}"))


SCALARS = {
    pa.string(): st.text(st.characters(exclude_categories=["Cs"])),
    pa.bool_(): st.booleans(),
    pa.float64(): st.floats(),
    pa.float32(): st.floats(width=32),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(dt.UTC)),
    pa.timestamp("us"): st.datetimes(),
    pa.time64("us"): st.times(),
    pa.binary(): st.binary(),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["a", 'q"', "b\n"]),
    **{
        kind: integers(kind)
        for kind in (
            pa.int8(), pa.int16(), pa.int32(), pa.int64(),
            pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
        )
    },
    **{
        kind: decimals(kind)
        for kind in (
            pa.decimal128(1, 0), pa.decimal128(9, 2), pa.decimal128(38, 38), pa.decimal256(76, 40),
        )
    },
}  # fmt: skip


def nested(children):
    def lists(child):
        kind, values = child
        return pa.list_(pa.field("item", kind)), st.lists(values, max_size=4)

    def structs(fields):
        kind = pa.struct([pa.field(name, kind) for name, (kind, _) in fields.items()])
        return kind, st.fixed_dictionaries({name: values for name, (_, values) in fields.items()})

    names = st.sampled_from(["a", "b", 'q"', "ü"])
    return children.map(lists) | st.dictionaries(names, children, min_size=1, max_size=3).map(
        structs
    )


def nullable(child):
    kind, values = child
    return kind, st.none() | values


TYPES = st.recursive(st.sampled_from(sorted(SCALARS.items(), key=str)).map(nullable), nested)


@st.composite
def batches(draw):
    size = draw(st.integers(1, 12))
    columns = draw(st.lists(TYPES.map(nullable), min_size=1, max_size=4))
    arrays = [
        pa.array(draw(st.lists(values, min_size=size, max_size=size)), kind)
        for kind, values in columns
    ]
    batch = pa.RecordBatch.from_arrays(arrays, [f'c"{i}' for i in range(len(arrays))])
    start = draw(st.integers(0, size - 1))
    return batch.slice(start, draw(st.integers(1, size - start)))


@given(batches(), st.integers(1, 5))
def test_reads_back_the_same(batch, piece):
    expected = batch.to_pylist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "PIECE_ROWS", piece)  # so that kernels see slices
        written = decode(encode(batch), batch.schema)
    assert same(written, expected), (written, expected)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_are_as_short_as_pythons(values):
    for line, value in zip(encode(batch_of(x=values)).split(), values, strict=True):
        digits = [c for c in line[5:-1].partition(b"e")[0].decode() if c.isdigit()]
        ours = "".join(digits).strip("0")
        assert len(ours) <= len("".join(c for c in repr(value).partition("e")[0] if c.isdigit()))


def batch_of(**columns):
    return pa.RecordBatch.from_pydict(columns)


def test_the_form_of_each_type():
    when = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([1]),
            pa.array([0.1]),
            pa.array([Decimal("1.50")], pa.decimal128(9, 2)),
            pa.array([True]),
            pa.array([when], pa.timestamp("us", "UTC")),
            pa.array([when.date()]),
            pa.array([when.time()], pa.time64("us")),
            pa.array([b"\x00\xff"]),
            pa.array(['say "hi"\n']),
            pa.array([[{"k": None}]]),
            pa.array([None]),
        ],
        list("abcdefghijk"),
    )
    assert encode(batch) == (
        b'{"a":1,"b":0.1,"c":1.50,"d":true,"e":"2026-01-02T03:04:05.000678Z","f":"2026-01-02",'
        b'"g":"03:04:05.000678","h":"AP8=","i":"say \\"hi\\"\\n","j":[{"k":null}],"k":null}\n'
    )


def test_what_json_has_no_number_for_is_a_string_and_never_null():
    batch = batch_of(x=[float("nan"), float("inf"), -float("inf"), None, 1.5])
    assert encode(batch).split() == [
        b'{"x":"NaN"}', b'{"x":"Infinity"}', b'{"x":"-Infinity"}', b'{"x":null}', b'{"x":1.5}',
    ]  # fmt: skip


def test_only_some_values_need_an_escape():
    values = ["plain", None, 'a "b"', "c\\d", "", "e\x00f", *["plain"] * 20]
    assert [row["x"] for row in map(json.loads, encode(batch_of(x=values)).splitlines())] == values


def test_years_before_1000_have_four_digits():
    batch = batch_of(x=pa.array([dt.datetime(7, 1, 1)], pa.timestamp("us", "UTC")))
    assert encode(batch) == b'{"x":"0007-01-01T00:00:00.000000Z"}\n'


def test_what_lies_under_nulls_is_not_written():
    items = pa.array(["a", "hidden", "b"])
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 2, 3]), items, mask=pa.array([False, True, False])
    )
    structs = pa.StructArray.from_arrays([items], ["s"], mask=pa.array([False, True, False]))
    assert [json.loads(line) for line in encode(batch_of(x=lists, y=structs)).splitlines()] == [
        {"x": ["a"], "y": {"s": "a"}}, {"x": None, "y": None}, {"x": ["b"], "y": {"s": "b"}},
    ]  # fmt: skip


def test_no_columns():
    batch = pa.RecordBatch.from_struct_array(pa.array([{}, {}], pa.struct([])))
    assert encode(batch) == b"{}\n{}\n"


def test_batches_of_many_rows_are_written_in_pieces(monkeypatch):
    batch = batch_of(x=list(range(100)), y=[f"v{i}" for i in range(100)])
    whole = encode(batch)
    monkeypatch.setattr(jsonl, "PIECE_ROWS", 7)
    assert encode(batch) == whole
    monkeypatch.setattr(jsonl, "PIECE_BYTES", 1)
    assert encode(batch) == whole


def test_identity_and_dead_letters_can_be_written():
    schema = pa.schema([*dead_letters.SCHEMA, *IDENTITY_FIELDS])
    JsonLinesEncoder(io.BytesIO(), schema)


def test_a_type_without_json_form_is_named():
    schema = pa.schema([("a", pa.list_(pa.struct([("b", pa.duration("s"))])))])
    with pytest.raises(TypeError, match=r"column 'a\[\]\.b': Arrow type duration"):
        JsonLinesEncoder(io.BytesIO(), schema)
