"""Parquet: what is written reads back, in row groups worth reading."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from millstream.schemas import dead_letters
from millstream.transforms.write import parquet
from millstream.transforms.write.parquet import ParquetEncoder


def written(batches, schema):
    file = io.BytesIO()
    encoder = ParquetEncoder(file, schema)
    for batch in batches:
        encoder.write(batch)
    encoder.close()
    assert not file.closed
    return pq.ParquetFile(io.BytesIO(file.getvalue()))


def test_reads_back_in_order():
    batches = [pa.RecordBatch.from_pydict({"n": [n, None], "s": [f"v{n}", "x"]}) for n in range(9)]
    file = written(batches, batches[0].schema)
    assert file.read().to_pylist() == pa.Table.from_batches(batches).to_pylist()
    assert file.metadata.num_row_groups == 1
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_small_batches_share_a_row_group(monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 100)
    batch = pa.RecordBatch.from_pydict({"n": range(40)})
    groups = written([batch] * 10, batch.schema).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [
        120,
        120,
        120,
        40,
    ]


def test_wide_rows_are_written_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1000)
    batch = pa.RecordBatch.from_pydict({"s": ["x" * 600] * 2})
    assert written([batch] * 3, batch.schema).metadata.num_row_groups == 3


def test_a_slice_counts_by_what_it_holds(monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_BYTES", 10_000)
    batch = pa.RecordBatch.from_pydict({"n": range(100_000)})
    slices = [batch.slice(start, 10) for start in range(0, 1000, 10)]
    assert written(slices, batch.schema).metadata.num_row_groups == 1


def test_dictionaries_that_differ():
    batches = [
        pa.RecordBatch.from_pydict({"d": pa.array([v, v]).dictionary_encode()}) for v in "abc"
    ]
    assert written(batches, batches[0].schema).read()["d"].to_pylist() == list("aabbcc")


def test_no_rows():
    assert written([], dead_letters.SCHEMA).read().schema.equals(dead_letters.SCHEMA)


def test_a_page_that_is_damaged_is_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    with path.open("wb") as file:
        encoder = ParquetEncoder(file, pa.schema([("n", pa.int64())]))
        encoder.write(pa.record_batch({"n": pa.array(range(1000), pa.int64())}))
        encoder.close()
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start + column.total_compressed_size - 1] ^= 0xFF  # the last byte of the last page
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)
