"""CSV: what is written reads back as what was written, null and the empty string apart."""

import csv
import datetime as dt
import io
import json
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from arrow_support import batches, same
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas import dead_letters
from millstream.transforms.write import gathering
from millstream.transforms.write.csv import CsvEncoder
from test_jsonl_writer import Number, refuse, value_of


def encode(*pieces):
    file = io.BytesIO()
    encoder = CsvEncoder(file, pieces[0].schema)
    for batch in pieces:
        encoder.write(batch)
    encoder.close()
    return file.getvalue()


def batch_of(**columns):
    return pa.RecordBatch.from_pydict(columns)


class Quoted(str):
    """A field that was in quotes."""


def records(data):
    r"""The fields of RFC 4180 text whose lines end in ``\n``: an automaton, and nothing lenient."""
    text, at, lines = data.decode(), 0, [[]]
    while at < len(text):
        if text[at] == '"':
            end = at + 1
            while text[end] != '"' or text[end + 1] == '"':
                end += 2 if text[end] == '"' else 1
            field, at = Quoted(text[at + 1 : end].replace('""', '"')), end + 1
        else:
            end = min(text.index(mark, at) for mark in ",\n" if mark in text[at:])
            field, at = text[at:end], end
            assert '"' not in field
            assert "\r" not in field
        lines[-1].append(field)
        assert text[at] in ",\n"
        if text[at] == "\n":
            lines.append([])
        at += 1
    assert lines.pop() == []
    return lines


def read(field, kind):
    if field == "" and not isinstance(field, Quoted):
        return None
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_nested(kind):
        assert isinstance(field, Quoted)
        found = json.loads(field, parse_int=Number, parse_float=Number, parse_constant=refuse)
        return value_of(found, kind)
    textual = pa.types.is_string(kind) or pa.types.is_binary(kind)
    assert isinstance(field, Quoted) == textual
    if pa.types.is_boolean(kind):
        return {"true": True, "false": False}[field]
    return value_of(str(field), kind)


@given(batches(), st.integers(1, 5))
def test_reads_back_the_same(batch, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "PIECE_ROWS", piece)
        header, *lines = records(encode(batch))
    assert header == batch.schema.names
    kinds = batch.schema.types
    written = [[read(*pair) for pair in zip(line, kinds, strict=True)] for line in lines]
    expected = [list(row.values()) for row in batch.to_pylist()]
    assert same(written, expected), (written, expected)


TEXTS = st.text(st.sampled_from('",\r\nax "')) | st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(st.none() | TEXTS, st.none() | TEXTS), min_size=1))
def test_others_read_strings_and_nulls(rows):
    left, right = zip(*rows, strict=True)
    batch = batch_of(x=pa.array(left, pa.string()), y=pa.array(right, pa.string()))
    data = encode(batch)
    options = {
        "parse_options": pacsv.ParseOptions(newlines_in_values=True),
        "convert_options": pacsv.ConvertOptions(
            column_types={"x": pa.string(), "y": pa.string()},
            strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False,
        ),
    }  # fmt: skip
    assert pacsv.read_csv(io.BytesIO(data), **options).to_pylist() == batch.to_pylist()
    plain = [[text or "" for text in row] for row in rows]
    assert list(csv.reader(io.StringIO(data.decode(), newline="")))[1:] == plain


def test_duckdb_reads_it(tmp_path):
    when = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)
    batch = batch_of(
        n=[1, None, 3],
        x=[1.5, float("nan"), -float("inf")],
        d=pa.array([Decimal("1.50"), None, Decimal("-2.25")], pa.decimal128(9, 2)),
        s=["", None, 'a "b",\nc'],
        t=pa.array([when, None, when], pa.timestamp("us", "UTC")),
        b=[True, None, False],
    )
    (tmp_path / "x.csv").write_bytes(encode(batch))
    kinds = ["BIGINT", "DOUBLE", "DECIMAL(9,2)", "VARCHAR", "TIMESTAMPTZ", "BOOLEAN"]
    columns = dict(zip(batch.schema.names, kinds, strict=True))
    found = duckdb.execute(
        "select n, x, d, s, epoch_us(t), b "
        f"from read_csv('{tmp_path}/x.csv', header=true, allow_quoted_nulls=false, "
        f"columns={columns})"
    ).fetchall()
    micros = int(when.timestamp()) * 10**6 + 678
    assert found[0] == (1, 1.5, Decimal("1.50"), "", micros, True)
    assert found[1][2:] == (None, None, None, None)
    assert str(found[1][1]) == "nan"
    assert found[2] == (3, -float("inf"), Decimal("-2.25"), 'a "b",\nc', micros, False)


def test_the_form_of_each_type():
    when = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([1, None]),
            pa.array([0.1, float("nan")]),
            pa.array([float("inf"), -float("inf")]),
            pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
            pa.array([True, False]),
            pa.array([when, None], pa.timestamp("us", "UTC")),
            pa.array([when.date(), None]),
            pa.array([when.time(), None], pa.time64("us")),
            pa.array([b"\x00\xff", b""]),
            pa.array(['say "hi"\n', ""]),
            pa.array([[{"k": None}], []]),
            pa.array([None, None]),
        ],
        ["a", "b,", 'c"', "", *"efghijkl"],
    )
    assert encode(batch) == (
        b'a,"b,","c""","",e,f,g,h,i,j,k,l\n'
        b"1,0.1,Infinity,1.50,true,2026-01-02T03:04:05.000678Z,2026-01-02,03:04:05.000678,"
        b'"AP8=","say ""hi""\n","[{""k"":null}]",\n'
        b',NaN,-Infinity,,false,,,,"","","[]",\n'
    )


def test_one_header_however_the_batches_are_cut(monkeypatch):
    monkeypatch.setattr(gathering, "GATHERED_ROWS", 2)
    assert encode(*[batch_of(n=[i]) for i in range(5)]) == b"n\n0\n1\n2\n3\n4\n"


def test_no_rows_are_a_header():
    assert encode(batch_of(a=pa.array([], pa.string()), b=[])) == b"a,b\n"


def test_dead_letters_can_be_written():
    CsvEncoder(io.BytesIO(), dead_letters.SCHEMA)


def test_a_type_without_text_form_is_named():
    with pytest.raises(TypeError, match=r"column 'd': Arrow type duration\[s\] cannot be written"):
        CsvEncoder(io.BytesIO(), pa.schema([("d", pa.duration("s"))]))
