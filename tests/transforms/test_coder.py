"""The coder of record batches: what goes in comes out, and no more than that is shipped."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
from apache_beam.coders import registry
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import PAYLOADS, record_schema
from millstream.schemas.dead_letters import SCHEMA
from millstream.transforms.coder import RecordBatchCoder

from tests import strategies

CODER = RecordBatchCoder()


@settings(max_examples=60)
@given(st.data())
def test_batches_of_any_contract_come_back(data):
    """Every type, nulls, and slices, whose buffers begin in the middle."""
    to = data.draw(strategies.contracts(rules=False))
    records = data.draw(st.lists(strategies.records(to), max_size=5))
    batch = pa.RecordBatch.from_pylist([r.values for r in records], record_schema(to))
    start, end = sorted(data.draw(st.integers(0, len(records))) for _ in range(2))
    for part in (batch, batch.slice(start, end - start)):
        decoded = CODER.decode(CODER.encode(part))
        decoded.validate(full=True)
        assert decoded.schema == part.schema
        assert decoded.equals(part)


def test_a_dictionary_and_metadata_come_back():
    sources = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int32()), ["a file"])
    batch = pa.RecordBatch.from_arrays(
        [sources, pa.array([0, None]), pa.array([b"a", b""])],
        schema=PAYLOADS.with_metadata({"k": "v"}),
    )
    decoded = CODER.decode(CODER.encode(batch))
    assert decoded.equals(batch, check_metadata=True)


@pytest.mark.parametrize("schema", [PAYLOADS, SCHEMA], ids=["payloads", "dead letters"])
def test_a_batch_without_rows_comes_back(schema):
    batch = schema.empty_table().to_batches() or [pa.RecordBatch.from_pylist([], schema)]
    assert CODER.decode(CODER.encode(batch[0])).equals(batch[0])


COLUMNS = {
    "strings": pa.array([f"{i:0100}" for i in range(20_000)]),
    "binary": pa.array([b"x" * 100] * 20_000),
    "numbers": pa.array(range(200_000)),
    "booleans": pa.array([True, False] * 400_000),
    "lists": pa.array([[i] * 10 for i in range(20_000)]),
    "structs": pa.array([{"a": i, "b": str(i) * 10} for i in range(20_000)]),
    "nested": pa.array([[{"a": "x" * 50}] * 2 for i in range(20_000)]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_slice_does_not_ship_its_parent(name):
    """Pickle would: megabytes for one row."""
    batch = pa.RecordBatch.from_arrays([COLUMNS[name]], ["c"])
    row = batch.slice(len(batch) // 2 + 1, 1)
    encoded = CODER.encode(row)
    assert len(encoded) < 3000
    assert CODER.decode(encoded).equals(row)
    assert CODER.estimate_size(row) < 1000 < CODER.estimate_size(batch)


def test_it_is_what_beam_takes():
    assert isinstance(registry.get_coder(pa.RecordBatch), RecordBatchCoder)
    assert CODER.to_type_hint() is pa.RecordBatch


def test_coders_are_alike():
    """Beam compares coders where collections meet, and pickles them into the graph."""
    assert RecordBatchCoder() == CODER
    assert hash(RecordBatchCoder()) == hash(CODER)
    assert pickle.loads(pickle.dumps(CODER)) == CODER
    assert registry.get_coder(bytes) != CODER
    assert not CODER.is_deterministic()  # so that nobody groups by batches
