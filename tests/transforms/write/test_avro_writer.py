"""Avro: fastavro reads back what was written, and writes what has the same values."""

import datetime as dt
import io
from decimal import Decimal, localcontext
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from arrow_support import batches, same
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas import dead_letters
from millstream.transforms.write import avro, gathering
from millstream.transforms.write.avro import AvroEncoder

NAMES = ("a", "b", "_c", "string", "record")


def encode(*pieces):
    file = io.BytesIO()
    encoder = AvroEncoder(file, pieces[0].schema)
    for batch in pieces:
        encoder.write(batch)
    encoder.close()
    return file.getvalue()


def decode(data) -> list[Any]:
    with localcontext(prec=80):
        return list(fastavro.reader(io.BytesIO(data)))


def batch_of(**columns):
    return pa.RecordBatch.from_pydict(columns)


def expected(batch):
    """The rows as fastavro gives them: a uint64 is a decimal, a 32-bit float a 64-bit one."""
    return [
        {name: _expected(value, batch.schema.field(name).type) for name, value in row.items()}
        for row in batch.to_pylist()
    ]


def _expected(value, kind):
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {field.name: _expected(value[field.name], field.type) for field in kind}
    if pa.types.is_list(kind):
        return [_expected(item, kind.value_type) for item in value]
    return Decimal(value) if pa.types.is_uint64(kind) else value


@given(batches(NAMES), st.integers(1, 5))
def test_reads_back_the_same(batch, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "PIECE_ROWS", piece)
        written = decode(encode(batch))
    assert same(written, expected(batch)), (written, expected(batch))


@settings(max_examples=30)
@given(batches(NAMES))
def test_has_the_schema_that_fastavro_writes_by(batch):
    """Not the same bytes: a decimal may have fewer, an array may be cut into blocks."""
    data = encode(batch)
    schema: Any = fastavro.reader(io.BytesIO(data)).writer_schema
    again = io.BytesIO()
    with localcontext(prec=80):
        fastavro.writer(again, schema, expected(batch))
    assert same(decode(data), decode(again.getvalue()))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_varints_are_fastavros(numbers):
    ours = avro._varints(np.array(numbers, np.int64)).to_pylist()
    for number, found in zip(numbers, ours, strict=True):
        file = io.BytesIO()
        fastavro.schemaless_writer(file, "long", number)
        assert found == file.getvalue()


def test_simple_rows_have_fastavros_bytes():
    batch = batch_of(
        n=[1, None, -300], x=[1.5, None, float("-inf")], s=["", None, "ü" * 100],
        b=[True, False, None], l=[[1, None], [], None],
    )  # fmt: skip
    encoder = AvroEncoder(io.BytesIO(), batch.schema)
    parts = [
        part
        for kernel, column in zip(encoder._kernels, batch, strict=True)
        for part in kernel(column)
    ]
    rows = avro._joined(parts, 3).to_pylist()
    schema = fastavro.parse_schema(avro.avro_schema(batch.schema, "row"))
    for row, found in zip(batch.to_pylist(), rows, strict=True):
        file = io.BytesIO()
        fastavro.schemaless_writer(file, schema, row)
        assert found == file.getvalue()


def test_extremes():
    batch = batch_of(
        u=pa.array([0, 2**64 - 1], pa.uint64()),
        d=pa.array([Decimal(10**38 - 1), Decimal(-(10**38) + 1)], pa.decimal128(38, 0)),
        e=pa.array([Decimal(10**76 - 1), Decimal(-(10**76) + 1)], pa.decimal256(76, 0)),
        t=pa.array([dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)], pa.timestamp("us", "UTC")),
        i=pa.array([-(2**63), 2**63 - 1]),
    )
    assert decode(encode(batch)) == expected(batch)


def test_units_and_large_types():
    when = dt.datetime(2026, 1, 2, 3, 4, 5)
    batch = batch_of(
        s=pa.array([when, None], pa.timestamp("s", "UTC")),
        ms=pa.array([when, None], pa.timestamp("ms")),
        d=pa.array([when.date(), None], pa.date64()),
        t=pa.array([when.time(), None], pa.time32("s")),
        x=pa.array(["a", None], pa.large_string()),
        y=pa.array(["a", None], pa.string_view()),
        z=pa.array([b"ab", None], pa.binary(2)),
        l=pa.array([[1], None], pa.large_list(pa.int8())),
        f=pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
        h=pa.array(np.array([1.5, 0], np.float16)),
        u=pa.array([2**32 - 1, None], pa.uint32()),
        n=pa.nulls(2),
    )
    first, second = decode(encode(batch))
    assert first == {
        "s": when.replace(tzinfo=dt.UTC), "ms": when, "d": when.date(), "t": when.time(),
        "x": "a", "y": "a", "z": b"ab", "l": [1], "f": [1, 2], "h": 1.5, "u": 2**32 - 1, "n": None,
    }  # fmt: skip
    assert second == {**dict.fromkeys(first), "h": 0.0}


def test_nanoseconds_are_kept():
    batch = batch_of(t=pa.array([1, None], pa.timestamp("ns", "UTC")))
    assert decode(encode(batch)) == [{"t": 1}, {"t": None}]  # a type that fastavro has not


def test_the_same_rows_give_the_same_file_and_others_another_marker():
    one, again, other = (encode(batch_of(n=values)) for values in ([1, 2], [1, 2], [1, 3]))
    assert one == again
    assert one[-16:] != other[-16:]


def test_pieces_are_blocks(monkeypatch):
    monkeypatch.setattr(gathering, "PIECE_ROWS", 3)
    data = encode(batch_of(n=list(range(7))))
    blocks = list(fastavro.block_reader(io.BytesIO(data)))
    assert [block.num_records for block in blocks] == [3, 3, 1]
    assert decode(data) == [{"n": n} for n in range(7)]


def test_no_rows():
    assert decode(encode(batch_of(n=pa.array([], pa.int64())))) == []


def test_what_lies_under_nulls_is_not_written():
    items = pa.array(["a", "hidden", "b"])
    mask = pa.array([False, True, False])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3]), items, mask=mask)
    structs = pa.StructArray.from_arrays([items], ["s"], mask=mask)
    assert decode(encode(batch_of(x=lists, y=structs))) == [
        {"x": ["a"], "y": {"s": "a"}}, {"x": None, "y": None}, {"x": ["b"], "y": {"s": "b"}},
    ]  # fmt: skip


STRICT = pa.field("s", pa.string(), nullable=False)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.struct([STRICT]), pa.list_(STRICT), pa.list_(pa.struct([STRICT]))]
)
def test_a_null_where_none_is_allowed_is_refused(kind):
    """Arrow does not hold a batch against its schema; readers of Avro would read rubbish."""
    good, bad = {
        pa.string(): ("x", None),
        pa.struct([STRICT]): ({"s": "x"}, {"s": None}),
        pa.list_(STRICT): (["x"], ["x", None]),
        pa.list_(pa.struct([STRICT])): ([{"s": "x"}], [{"s": None}]),
    }[kind]
    schema = pa.schema([pa.field("c", kind, nullable=kind != pa.string())])
    assert decode(encode(pa.record_batch([pa.array([good], kind)], schema))) == [{"c": good}]
    with pytest.raises(ValueError, match="column 'c': a null where the schema allows none"):
        encode(pa.record_batch([pa.array([good, bad], kind)], schema))


def test_a_null_struct_may_hide_fields_that_are_never_null():
    kind = pa.struct([STRICT])
    column = pa.StructArray.from_arrays(
        [pa.array([None, "x"])], fields=[STRICT], mask=pa.array([True, False])
    )
    assert pc.is_null(column).to_pylist() == [True, False]
    assert decode(encode(pa.record_batch([column], pa.schema([("c", kind)])))) == [
        {"c": None}, {"c": {"s": "x"}},
    ]  # fmt: skip


def test_dead_letters_can_be_written():
    AvroEncoder(io.BytesIO(), dead_letters.SCHEMA)


def test_what_avro_has_not_is_refused_at_the_start():
    with pytest.raises(ValueError, match="column 'a-b': Avro allows only letters"):
        AvroEncoder(io.BytesIO(), pa.schema([("a-b", pa.int8())]))
    with pytest.raises(TypeError, match=r"column 'd': Arrow type duration\[s\] cannot be written"):
        AvroEncoder(io.BytesIO(), pa.schema([("d", pa.duration("s"))]))
