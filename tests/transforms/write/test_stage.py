"""Staging: every row in one staged file, counted by its source, and nothing left of a failure."""

import datetime as dt
import errno
import hashlib
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.transforms.window import GlobalWindow
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas import dead_letters
from millstream.transforms.receipts import Part
from millstream.transforms.storage import StorageError
from millstream.transforms.tallies import count_sources
from millstream.transforms.write import gathering
from millstream.transforms.write.destination import Output
from millstream.transforms.write.stage import StageFn, unreadable
from write_support import numbers, token


@pytest.fixture
def to(tmp_path):
    return Output("events", f"parquet:{tmp_path}")


def stage(fn, *batches):
    fn.start_bundle()
    for batch in batches:
        assert fn.process(batch, 0) is None
    values = list(fn.finish_bundle())
    assert all(value.windows == (GlobalWindow(),) for value in values)
    return [value.value for value in values]


def make(to, part: Part = "data", keep_identity=False, target_bytes=None):
    return StageFn(to, token(), part, keep_identity, target_bytes)


def test_one_file_a_bundle(to):
    fn = pickle.loads(pickle.dumps(make(to)))
    (receipt,) = stage(fn, numbers(1, 2, source="a"), numbers(3, source="b"))
    data = Path(receipt.path).read_bytes()
    assert receipt.path.startswith(f"{to.destination.staging}/r1/events/")
    assert receipt.path.endswith(".parquet.staged")
    assert (receipt.rows, receipt.bytes, receipt.sources) == (3, len(data), {"a": 2, "b": 1})
    assert receipt.sha256 == hashlib.sha256(data).hexdigest()
    assert pq.read_table(receipt.path).to_pydict() == {"n": [1, 2, 3]}
    (second,) = stage(fn, numbers(4))
    assert second.path != receipt.path


def test_identity_is_kept_on_demand(to):
    (receipt,) = stage(make(to, keep_identity=True), numbers(1, source="a"))
    names = pq.read_schema(receipt.path).names
    assert names == ["n", "_source", "_position", "_payload"]


def test_no_rows_no_file(to, tmp_path):
    assert stage(make(to)) == []
    assert stage(make(to), numbers()) == []
    assert not list(tmp_path.iterdir())


def test_files_roll_at_their_target_size(tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "GATHERED_ROWS", 1)
    to = Output("events", f"jsonl:{tmp_path}")
    receipts = stage(make(to, target_bytes=20), *[numbers(1, 2) for _ in range(5)])
    assert [r.rows for r in receipts] == [4, 4, 2]


def test_another_schema_gets_another_file(to):
    other = pa.RecordBatch.from_pydict({"m": ["x"], "_source": pa.array(["s"]).dictionary_encode()})
    receipts = stage(make(to), numbers(1), other, numbers(2))
    assert [pq.read_table(r.path).to_pylist() for r in receipts] == [
        [{"n": 1}], [{"m": "x"}], [{"n": 2}],
    ]  # fmt: skip


def test_a_failed_bundle_leaves_nothing(to, tmp_path):
    fn = make(to, target_bytes=1)
    fn.start_bundle()
    fn.process(numbers(1), 0)
    fn.process(numbers(2), 0)
    assert list(tmp_path.rglob("*.staged"))
    fn.start_bundle()
    assert not list(tmp_path.rglob("*.staged"))
    fn.process(numbers(3), 0)
    fn.teardown()
    assert not list(tmp_path.rglob("*.staged"))


def test_a_finished_bundle_stays(to):
    fn = make(to)
    (receipt,) = stage(fn, numbers(1))
    fn.start_bundle()
    fn.teardown()
    assert Path(receipt.path).exists()


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_full_disk_is_named(tmp_path, monkeypatch, form):
    to = Output("events", f"{form}:{tmp_path}")
    fn = make(to)
    fn.start_bundle()
    fn.process(numbers(1), 0)

    def full(handle):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*\.staged: the disk is full"):
        list(fn.finish_bundle())
    fn.teardown()
    assert not list(tmp_path.rglob("*.staged"))


def test_a_failing_write_is_named(tmp_path, monkeypatch):
    to = Output("events", f"parquet:{tmp_path}")
    fn = make(to)
    fn.start_bundle()
    fn.process(numbers(1), 0)

    def fail(self, data):
        raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setattr("millstream.transforms.write.stage.Hashing.write", fail)
    with pytest.raises(StorageError, match=r"cannot write .*\.staged: the disk quota"):
        list(fn.finish_bundle())
    fn.teardown()


def test_a_column_that_the_format_cannot_hold_is_named(tmp_path):
    to = Output("events", f"jsonl:{tmp_path}")
    fn = make(to)
    fn.start_bundle()
    with pytest.raises(TypeError, match="column 'd': Arrow type duration"):
        fn.process(pa.RecordBatch.from_pydict({"d": pa.array([1], pa.duration("s"))}), 0)
    fn.teardown()
    assert not list(tmp_path.rglob("*.staged"))


def letters(*items):
    """Dead letters of (source, position, codes)."""
    when = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    rows = [
        {"timestamp": when, "source": source, "position": position, "codes": codes}
        for source, position, codes in items
    ]
    return pa.RecordBatch.from_pylist(rows, dead_letters.SCHEMA)


def test_dead_letters_count_by_their_own_source(tmp_path):
    to = Output("dead", f"jsonl:{tmp_path}", "dead_letters")
    batch = letters(
        ("a", "1", ["TYPE", "RANGE"]), ("b", "7-", ["UNREADABLE"]), (None, None, None),
        ("a", "2-9", ["TYPE", "UNREADABLE", "UNREADABLE"]), (None, None, ["UNREADABLE"]),
    )  # fmt: skip
    (receipt,) = stage(make(to), batch)
    assert receipt.sources == {"": 2, "a": 2, "b": 1}
    assert receipt.unreadable == (" @ ?", "a @ 2-9", "b @ 7-")
    assert len(Path(receipt.path).read_text().splitlines()) == 5


def test_unreadable_in_a_slice():
    batch = letters(("a", "1", ["UNREADABLE"]), ("b", "2", ["TYPE"]), ("c", "3", ["UNREADABLE"]))
    assert unreadable(batch.slice(1)) == ["c @ 3"]
    assert unreadable(batch.slice(1, 1)) == []


def test_states_count_their_contributions(tmp_path):
    to = Output("sums", f"parquet:{tmp_path}", "aggregates")
    batches = [pa.RecordBatch.from_pydict({"k": ["x"] * len(r), "rows": r}) for r in ([2, 3], [4])]
    (receipt,) = stage(make(to, part="states"), *batches)
    assert (receipt.part, receipt.rows, receipt.contributions) == ("states", 3, 9)
    assert receipt.sources == {}


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=20), st.data())
def test_count_sources(values, data):
    column = pa.array(values, pa.string())
    if data.draw(st.booleans()):
        column = column.dictionary_encode()
    batch = pa.RecordBatch.from_arrays([column], ["_source"])
    start = data.draw(st.integers(0, len(values)))
    expected = [v or "" for v in values[start:]]
    found = count_sources(batch.slice(start), "_source")
    assert found == {value: expected.count(value) for value in set(expected)}
    assert count_sources(batch, "source") == {}
