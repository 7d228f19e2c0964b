"""JSON lines: what is written reads back as what was written, for every type of a contract."""

import base64
import datetime as dt
import io
import json
from decimal import Decimal

import pyarrow as pa
import pytest
from arrow_support import batches, same
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas import dead_letters
from millstream.schemas.arrow import IDENTITY_FIELDS
from millstream.transforms.write import gathering
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


@given(batches(), st.integers(1, 5))
def test_reads_back_the_same(batch, piece):
    expected = batch.to_pylist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "PIECE_ROWS", piece)  # so that kernels see slices
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
    monkeypatch.setattr(gathering, "PIECE_ROWS", 7)
    assert encode(batch) == whole
    monkeypatch.setattr(gathering, "PIECE_BYTES", 1)
    assert encode(batch) == whole


def test_identity_and_dead_letters_can_be_written():
    schema = pa.schema([*dead_letters.SCHEMA, *IDENTITY_FIELDS])
    JsonLinesEncoder(io.BytesIO(), schema)


def test_a_type_without_json_form_is_named():
    schema = pa.schema([("a", pa.list_(pa.struct([("b", pa.duration("s"))])))])
    with pytest.raises(TypeError, match=r"column 'a\[\]\.b': Arrow type duration"):
        JsonLinesEncoder(io.BytesIO(), schema)
