"""Deduplicate: of each key the first stays, whatever the order, the batches and the bundles."""

import errno
import io
import os
import pickle
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import FixedWindows, GlobalWindow, TimestampedValue
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.keys import KeyColumnError
from millstream.transforms import storage
from millstream.transforms.deduplicate import Deduplicate, contest, resolve, spill, taken
from millstream.transforms.deduplicate.resolve import ResolveShard
from millstream.transforms.deduplicate.restore import RestoreBatches
from millstream.transforms.deduplicate.spill import SpillBatches
from millstream.transforms.deduplicate.taken import IndexTaken
from millstream.transforms.storage import StorageError
from millstream.transforms.tallies import TALLIES, Tally
from test_storage import _Memory

from tests.running import RUNNER, rows, run
from tests.services.object_stores import object_store

KEY = ("id", "n")
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("n", pa.int64(), metadata={"unit": "1"}),
        pa.field("ts", pa.timestamp("us", "UTC")),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("_source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("_position", pa.int64()),
        pa.field("_payload", pa.binary()),
    ],
    metadata={"of": "clicks"},
)
WITHOUT_PAYLOAD = SCHEMA.remove(len(SCHEMA) - 1)


def record(id, n=1, ts=0, source="a", position=0):
    return {"id": id, "n": n, "ts": ts, "_source": source, "_position": position}


def batch_of(records, schema=SCHEMA):
    columns: dict[str, list[Any]] = {
        name: [r[name] for r in records] for name in ("id", "n", "ts", "_source", "_position")
    }
    columns["tags"] = [[str(r["_position"])] for r in records]
    columns["_payload"] = [f"{r['_source']}@{r['_position']}\xff".encode() for r in records]
    return pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema)


def survivors(records, taken=()):
    """The reference: the first of each key, and everything without a key."""
    first: dict[Any, dict[str, Any]] = {}
    stays = []
    for r in records:
        key = (r["id"], r["n"])
        if None in key:
            stays.append(r)
        elif key not in taken and (key not in first or order(r) < order(first[key])):
            first[key] = r
    return stays + list(first.values())


def order(r):
    return r["ts"] is None, r["ts"], r["_source"], r["_position"]


def ids(records):
    return sorted((r["_source"], r["_position"]) for r in records)


class Deduplicated:
    """The stages one after another, without a runner, each from its pickle in every bundle."""

    def __init__(
        self, bundles, folder, *, key=KEY, event_time: str | None = "ts", taken=(), shards=3
    ):
        shard_inputs = defaultdict(list)
        for bundle in bundles:
            fn = SpillBatches(key, event_time, folder, shards)
            for shard, part in _bundle(fn, bundle):
                shard_inputs[shard].append(part)
        for shard, part in _bundle(IndexTaken(key, folder, shards), taken) if taken else ():
            shard_inputs[shard].append(part)
        lost = defaultdict(list)
        for path, part in _bundle(ResolveShard(key), shard_inputs.items()):
            lost[path].append(part)
        self.lost = dict(lost)
        self.records: list[pa.RecordBatch] = []
        self.duplicates: list[pa.RecordBatch] = []
        self.tallies: Counter[str] = Counter()
        for group in lost.items():
            for element in _bundle(RestoreBatches(shards), [group]):
                if isinstance(element, pa.RecordBatch):
                    self.records.append(element)
                elif element.tag == TALLIES:
                    assert element.value.value.outcome == "duplicate"
                    self.tallies[element.value.value.source] += element.value.value.rows
                else:
                    assert element.tag == "duplicates"
                    self.duplicates.append(element.value)

    def check(self, records, taken=(), schema=SCHEMA):
        """Against the reference; nothing may be lost, doubled, or changed."""
        stays = survivors(records, taken)
        assert ids(rows(self.records)) == ids(stays)
        both = [*self.records, *self.duplicates]
        assert all(b.num_rows and b.schema.equals(schema, check_metadata=True) for b in both)
        assert _sorted(both) == _sorted([batch_of(records, schema)])
        counts = Counter(r["_source"] for r in records)
        counts.subtract(r["_source"] for r in stays)
        assert self.tallies == +counts


def _bundle(fn, elements):
    """A bundle's outputs, out of their windows."""
    fn = pickle.loads(pickle.dumps(fn))
    try:
        fn.start_bundle()
        found = [value for element in elements for value in fn.process(element) or ()]
        for value in fn.finish_bundle() or ():
            inner = value.value if isinstance(value, TaggedOutput) else value
            assert inner.windows == (GlobalWindow(),)
            found.append(value if isinstance(value, TaggedOutput) else value.value)
    finally:
        fn.teardown()
    return found


def _sorted(batches):
    return sorted(rows(batches), key=lambda r: (r["_source"], r["_position"]))


# ----------------------------------------------------------------------------------- laws


@st.composite
def record_lists(draw, most=40):
    """Records with few keys and times, each with a position of its own."""
    sources = draw(st.sampled_from([("a",), ("b", "a"), ("é", "z", "B"), ("a", "a/")]))
    found = draw(
        st.lists(
            st.builds(
                record,
                id=st.sampled_from(["", "a", "b", "ab", None]),
                n=st.sampled_from([1, -1, None, 1]),
                ts=st.sampled_from([None, 0, 1, -1, 2**53]),
                source=st.sampled_from(sources),
            ),
            max_size=most,
        )
    )
    positions = draw(st.permutations(range(len(found))))
    return [{**r, "_position": p} for r, p in zip(found, positions, strict=True)]


@st.composite
def cut(draw, records, schema=SCHEMA):
    """Records as bundles of batches, of which some are slices and some have no rows."""
    ends = sorted(draw(st.lists(st.integers(0, len(records)), max_size=6)))
    whole = batch_of(records, schema)
    batches = [whole.slice(a, b - a) for a, b in zip([0, *ends], [*ends, len(records)])]  # noqa: B905
    ends = sorted(draw(st.lists(st.integers(0, len(batches)), max_size=3)))
    return [batches[a:b] for a, b in zip([0, *ends], [*ends, len(batches)])]  # noqa: B905


@given(st.data())
@settings(max_examples=60)
def test_the_first_of_each_key_stays(data):
    records = data.draw(record_lists())
    known = data.draw(st.lists(st.sampled_from(["", "a", "b"]), unique=True))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "SPILL_ROWS", data.draw(st.sampled_from([1, 5, 1 << 20])))
        patch.setattr(resolve, "RESOLVE_KEYS", data.draw(st.sampled_from([1, 3, 1 << 20])))
        paths = [_parquet(folder, {"id": [id, None], "n": [1, 1]}) for id in known]
        done = Deduplicated(
            data.draw(cut(records)),
            os.path.join(folder, "spill"),
            taken=paths,
            shards=data.draw(st.sampled_from([1, 3, 8])),
        )
    done.check(records, {(id, 1) for id in known})


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4, st.sampled_from([0, 2**63 - 1])), min_size=1))
def test_a_contest_of_hashes_of_which_halves_are_alike(keys):
    """By chance nobody sees such hashes, so here they are small numbers."""
    array = np.array(keys, np.int64)
    high, low = (array[:, i].astype(np.uint64) for i in (0, 1))
    lost = contest.beaten(high, low, [array[:, i] for i in (2, 3, 4)])
    first: dict[Any, Any] = {}
    for key in keys:
        first[key[:2]] = min(first.get(key[:2], key[2:]), key[2:])
    stays = [key for key, gone in zip(keys, lost.tolist(), strict=True) if not gone]
    assert {key[:2]: key[2:] for key in stays} == first
    assert len(stays) == len(first)


def _parquet(folder, columns, **options):
    path = os.path.join(folder, f"{len(os.listdir(folder))}.parquet")
    pq.write_table(pa.table(columns), path, **options)
    return path


# ------------------------------------------------------------------------------- examples


def test_order_of_arrival_does_not_matter(tmp_path):
    records = [record("a", ts=ts, source=s, position=p) for ts, s, p in [
        (5, "a", 1), (5, "a", 0), (None, "a", 2), (3, "z", 9), (3, "b", 10), (3, "b", 100),
    ]]  # fmt: skip
    for shown in (records, records[::-1]):
        for bundles in ([[batch_of(shown)]], [[batch_of([r])] for r in shown]):
            done = Deduplicated(bundles, str(tmp_path))
            done.check(records)
            assert ids(rows(done.records)) == [("b", 10)]


def test_without_event_time_the_position_decides(tmp_path):
    records = [record("a", ts=5, position=1), record("a", ts=1, position=2)]
    done = Deduplicated([[batch_of(records)]], str(tmp_path), event_time=None)
    assert ids(rows(done.records)) == [("a", 1)]


@pytest.mark.parametrize("event_time", [None, "day"])
def test_without_identity_one_stays(tmp_path, event_time):
    batch = pa.record_batch({"id": ["a", "b", "a"], "day": pa.array([1, 2, 0], pa.date32())})
    done = Deduplicated([[batch], [batch]], str(tmp_path), key=("id",), event_time=event_time)
    assert sorted(r["id"] for r in rows(done.records)) == ["a", "b"]
    assert sorted(r["id"] for r in rows(done.duplicates)) == ["a", "a", "a", "b"]
    assert done.tallies == {"": 4}


def test_keys_that_are_alike_only_when_they_are_put_together(tmp_path):
    batch = pa.record_batch({"a": ["a", "ab", "", None], "b": ["bc", "c", "", ""]})
    done = Deduplicated([[batch], [batch]], str(tmp_path), key=("a", "b"), event_time=None)
    assert Counter((r["a"], r["b"]) for r in rows(done.records)) == {
        ("a", "bc"): 1, ("ab", "c"): 1, ("", ""): 1, (None, ""): 2,
    }  # fmt: skip


def test_batches_without_duplicates_pass_as_they_are(tmp_path):
    batches = [batch_of([record(c, position=i)]) for i, c in enumerate("abc")]
    done = Deduplicated([batches], str(tmp_path))
    assert done.records == batches
    assert done.duplicates == []


def test_batches_of_several_schemas(tmp_path):
    """Another schema, or only other metadata, begins another file; keys are compared over all."""
    records = [record("ab"[i % 2], position=i) for i in range(8)]
    schemas = [SCHEMA, WITHOUT_PAYLOAD, SCHEMA.remove_metadata(), SCHEMA]
    batches = [batch_of(records[2 * i : 2 * i + 2], schema) for i, schema in enumerate(schemas)]
    for bundles in ([batches], [[batch] for batch in batches]):
        done = Deduplicated(bundles, str(tmp_path))
        assert ids(rows(done.records)) == [("a", 0), ("a", 1)]
        lost = sorted(done.duplicates, key=lambda b: b["_position"][0].as_py())
        assert [b.num_rows for b in lost] == [2, 2, 2]
        for batch, schema in zip(lost, schemas[1:], strict=True):
            assert batch.schema.equals(schema, check_metadata=True)


def test_the_type_of_a_key_may_widen(tmp_path):
    narrow = pa.record_batch({"id": pa.array([1, 2], pa.int32())})
    wide = pa.record_batch({"id": pa.array([2, 3], pa.int64())})
    done = Deduplicated([[narrow, wide]], str(tmp_path), key=("id",), event_time=None)
    assert sorted(r["id"] for r in rows(done.records)) == [1, 2, 3]


def test_one_key_very_often(tmp_path, monkeypatch):
    """It cannot be divided, so each index holds it only once."""
    monkeypatch.setattr(spill, "SPILL_ROWS", 100)
    monkeypatch.setattr(resolve, "RESOLVE_KEYS", 10)
    records = [record("a", ts=-i % 7, position=i) for i in range(1000)]
    held = []

    def high(part, first, last, read=resolve.highs_of):
        held.append(len(read(part, first, last)))
        return read(part, first, last)

    monkeypatch.setattr(resolve, "highs_of", high)
    path = _parquet(tmp_path, {"id": ["a"] * 500, "n": [1] * 500})
    batches = [batch_of(records[i : i + 50]) for i in range(0, 1000, 50)]
    Deduplicated([batches], str(tmp_path / "s")).check(records)
    Deduplicated([batches], str(tmp_path / "t"), taken=[path]).check(records, {("a", 1)})
    assert len(held) >= 20
    assert set(held) <= {0, 1}


def test_sub_ranges_stay_under_their_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "RESOLVE_KEYS", 50)
    records = [record(f"{i % 900}", position=i) for i in range(1200)]
    held = Counter()

    def high(part, first, last, read=resolve.highs_of):
        held[part.shard, first] += len(found := read(part, first, last))
        return found

    monkeypatch.setattr(resolve, "highs_of", high)
    bundles = [[batch_of(records[i : i + 300])] for i in range(0, 1200, 300)]
    Deduplicated(bundles, str(tmp_path)).check(records)
    assert sum(held.values()) == 1200
    assert len(held) > 20
    assert max(held.values()) <= 50


# ----------------------------------------------------------------------------- taken keys


def test_all_records_with_a_taken_key_are_duplicates(tmp_path):
    path = _parquet(
        tmp_path,
        {"x": range(9), "n": [1] * 9, "id": [*"abcdefg", None, "a"]},
        row_group_size=2,
    )
    records = [record(c, position=i) for i, c in enumerate("xaxay")]
    records += [record(None, position=9), record("a", n=2, position=10)]
    done = Deduplicated([[batch_of(records)]], str(tmp_path / "s"), taken=[path])
    done.check(records, {(c, 1) for c in "abcdefg"})
    assert ids(rows(done.records)) == [("a", 0), ("a", 4), ("a", 9), ("a", 10)]
    assert done.tallies == {"a": 3}


def test_taken_keys_of_another_encoding(tmp_path):
    columns = {
        "id": pa.array(["a", "b"]).dictionary_encode(),
        "n": pa.array([1, 1], pa.uint8()),
    }
    records = [record("a"), record("c", position=1)]
    path = _parquet(tmp_path, columns)
    Deduplicated([[batch_of(records)]], str(tmp_path / "s"), taken=[path]).check(
        records, {("a", 1)}
    )


def test_many_taken_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(taken, "SPILL_ROWS", 10)
    monkeypatch.setattr(taken, "READ_ROWS", 7)
    path = _parquet(tmp_path, {"id": [str(i) for i in range(100)], "n": [1] * 100})
    records = [record(str(i), position=i) for i in range(90, 110)]
    done = Deduplicated([[batch_of(records)]], str(tmp_path / "s"), taken=[path])
    done.check(records, {(str(i), 1) for i in range(100)})
    assert len(storage.list_files(str(tmp_path / "s"), ".taken.index")) == 8  # 14 keys each


def test_taken_keys_that_cannot_be_compared(tmp_path):
    path = _parquet(tmp_path, {"id": [1, 2], "n": [1, 1]})
    bundles = [[batch_of([record("a")])]]
    with pytest.raises(KeyColumnError) as caught:
        Deduplicated(bundles, str(tmp_path / "s"), taken=[path])
    assert str(caught.value) == (
        f"key (id, n): integer, integer in {path}; string, integer in the records: "
        "such keys cannot be compared"
    )


def test_keys_of_several_kinds(tmp_path):
    batches = [pa.record_batch({"id": ["1"]}), pa.record_batch({"id": [1]})]
    with pytest.raises(KeyColumnError, match="integer in the records; string in the records"):
        Deduplicated([batches], str(tmp_path / "s"), key=("id",), event_time=None)
    paths = [_parquet(tmp_path, {"id": ids}) for ids in (["x", "y"], [1, 2], ["z"])]
    with pytest.raises(KeyColumnError, match=f"integer in {paths[1]}; string in "):
        Deduplicated([], str(tmp_path / "s"), key=("id",), taken=paths)


def test_a_taken_file_without_the_key(tmp_path):
    path = _parquet(tmp_path, {"idd": ["a"], "n": [1]})
    with pytest.raises(KeyColumnError) as caught:
        Deduplicated([], str(tmp_path / "s"), taken=[path])
    assert str(caught.value) == f"{path}: no column 'id'; did you mean 'idd'?"


def test_a_taken_file_whose_key_is_nested(tmp_path):
    path = _parquet(tmp_path, {"id": [{"a": 1}], "n": [1]})
    with pytest.raises(KeyColumnError, match=r"\.parquet: column 'id' is of type struct"):
        Deduplicated([], str(tmp_path / "s"), taken=[path])


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "not found"), (b"no such format", "Parquet magic bytes")]
)
def test_a_taken_file_that_cannot_be_read(tmp_path, content, reason):
    path = tmp_path / "x.parquet"
    if content:
        path.write_bytes(content)
    with pytest.raises(StorageError, match=f"cannot read {path}: .*{reason}"):
        Deduplicated([], str(tmp_path / "s"), taken=[str(path)])


def test_a_taken_file_with_broken_pages(tmp_path):
    path = Path(_parquet(tmp_path, {"id": ["a" * 40, "b" * 40], "n": [1, 1]}, compression="snappy"))
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    with pytest.raises(StorageError, match=f"cannot read {path}: "):
        Deduplicated([], str(tmp_path / "s"), taken=[str(path)])


# ------------------------------------------------------------------- failures and retries


def test_what_a_failed_bundle_left_does_no_harm(tmp_path):
    records = [record("ab"[i % 2], position=i) for i in range(4)]
    died = SpillBatches(KEY, "ts", str(tmp_path), 3)
    died.start_bundle()
    died.process(batch_of(records))
    died._close()
    died.process(batch_of(records))
    left = storage.list_files(str(tmp_path))
    assert len(left) == 3  # a whole spill file with its index, and one half written
    done = Deduplicated([[batch_of(records)]], str(tmp_path))
    done.check(records)
    assert set(left) < set(storage.list_files(str(tmp_path)))
    died.start_bundle()  # the worker lives on
    assert not set(left) & set(storage.list_files(str(tmp_path)))


def test_a_worker_that_ends_leaves_nothing_half_done(tmp_path):
    fn = SpillBatches(KEY, "ts", str(tmp_path), 3)
    fn.start_bundle()
    fn.process(batch_of([record("a")]))
    fn.teardown()
    assert storage.list_files(str(tmp_path)) == []
    fn.start_bundle()
    fn.process(batch_of([record("a")]))
    assert len(list(fn.finish_bundle())) == 3
    fn.teardown()
    assert len(storage.list_files(str(tmp_path))) == 2


@pytest.mark.parametrize("shards", [[0, 1], [0, 1, 1, 2], [1, 1, 2]])
def test_mixed_attempts_of_a_bundle_are_refused(tmp_path, shards):
    (path,) = (done := Deduplicated([[batch_of([record("a")])]], str(tmp_path))).lost
    parts = [done.lost[path][shard]._replace(shard=shard) for shard in shards]
    with pytest.raises(RuntimeError, match=r"expected what it lost in each of 3 shards, got"):
        _bundle(RestoreBatches(3), [(path, parts)])


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}/file/.*: "):
        Deduplicated([[batch_of([record("a")])]], str(tmp_path / "file"))


def _fill(fn):
    fn.process(batch_of([record("a")]))
    return list(fn.finish_bundle())


@pytest.mark.parametrize("fails_at", range(8))
def test_a_disk_that_is_full(tmp_path, monkeypatch, fails_at):
    """Wherever a write fails, it is said which file it was, and nothing is left behind."""
    writes = iter(range(fails_at, -2, -1))

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if next(writes, 0) <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def open_write(path):
        Path(path).write_bytes(b"")
        return Full()

    monkeypatch.setattr(storage, "open_write", open_write)
    fn = SpillBatches(KEY, "ts", str(tmp_path), 3)
    fn.start_bundle()
    with pytest.raises(StorageError, match=r"cannot write .*\.arrow(\.index)?: the disk is full"):
        _fill(fn)
    fn.teardown()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".arrow", ".index"])
def test_a_spill_file_that_is_gone(tmp_path, suffix, monkeypatch):
    def open_read(path, read=storage.open_read):
        return read(path if not path.endswith(suffix) else "/nowhere/x")

    monkeypatch.setattr(storage, "open_read", open_read)
    with pytest.raises(StorageError, match="cannot read /nowhere/x: not found"):
        Deduplicated([[batch_of([record("a")])]] * 2, str(tmp_path))


def test_a_missing_event_time(tmp_path):
    bundles = [[batch_of([record("a")])]]
    with pytest.raises(KeyColumnError, match="no column 'tss'; did you mean 'ts'"):
        Deduplicated(bundles, str(tmp_path), event_time="tss")
    with pytest.raises(KeyColumnError, match="event time 'n': expected a timestamp, got int64"):
        Deduplicated(bundles, str(tmp_path), event_time="n")


def test_remote_files():
    _Memory.files.clear()
    _deduplicate_remote("memo://bucket/deep")


@pytest.mark.cloud
@pytest.mark.service
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_files_on_an_object_store(scheme):
    with object_store(scheme, "bucket"):
        _deduplicate_remote(f"{scheme}://bucket/deep")


def _deduplicate_remote(folder):
    records = [record("ab"[i % 2], ts=-i, position=i) for i in range(6)]
    records += [record("c", position=i) for i in range(6, 8)]
    bundles = [[batch_of(records[:4])], [batch_of(records[4:])]]
    for name, column in (("good", "id"), ("bad", "idd")):
        with storage.open_write(f"{folder}/{name}.parquet") as file:
            pq.write_table(pa.table({column: ["c"], "n": [1]}), sink := io.BytesIO())
            file.write(sink.getvalue())
    spill = f"{folder}/spill"
    Deduplicated(bundles, spill, taken=[f"{folder}/good.parquet"]).check(records, {("c", 1)})
    assert len(storage.list_files(spill)) == 5
    with pytest.raises(KeyColumnError, match=r"bad\.parquet: no column 'id'"):
        Deduplicated([], spill, taken=[f"{folder}/bad.parquet"])
    fn = SpillBatches(KEY, "ts", spill, 3)
    fn.start_bundle()
    fn.process(bundles[0][0])
    fn.teardown()
    storage.delete_folder(spill)
    assert storage.list_files(spill) == []


# ------------------------------------------------------------------------------ pipelines


def spread(seed, size, batches):
    """Many records over a few batches; each key about three times."""
    rng = np.random.default_rng(seed)
    records = [
        record(f"k{key}", ts=ts, source=f"{'ab'[i % 2]}.jsonl", position=i)
        for i, (key, ts) in enumerate(rng.integers(0, [size // 3, 5], (size, 2)).tolist())
    ]
    step = -(-size // batches)
    return records, [batch_of(records[i : i + step]) for i in range(0, size, step)]


@pytest.mark.slow
def test_a_pipeline(tmp_path):
    records, batches = spread(1, 3000, 10)
    path = _parquet(tmp_path, {"id": ["k1", "k2"], "n": [1, 1]})

    def build(pipeline):
        result: Any = (
            pipeline
            | beam.Create(batches)
            | Deduplicate(KEY, event_time="ts", spill=str(tmp_path / "s"), taken=[path])
        )
        assert result.records.element_type is result.duplicates.element_type is pa.RecordBatch
        assert result.tallies.element_type is Tally
        return result._asdict()

    found = run(build)
    stays = survivors(records, {("k1", 1), ("k2", 1)})
    assert ids(rows(found["records"])) == ids(stays)
    assert _sorted(found["records"] + found["duplicates"]) == _sorted(batches)
    counts = Counter(r["_source"] for r in records)
    counts.subtract(r["_source"] for r in stays)
    assert {t.source: t.rows for t in found["tallies"]} == counts
    assert all(t == Tally(t.source, "duplicate", t.rows) for t in found["tallies"])
    storage.delete_folder(str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
@pytest.mark.parametrize("batches", [[], [batch_of([])]])
@pytest.mark.parametrize("with_taken", [False, True])
def test_a_pipeline_without_records(tmp_path, batches, with_taken):
    paths = [_parquet(tmp_path, {"id": ["a"], "n": [1]})] * with_taken

    def build(pipeline):
        records = pipeline | beam.Create(batches)
        return (
            records | Deduplicate(KEY, event_time="ts", spill=str(tmp_path / "s"), taken=paths)
        )._asdict()

    assert run(build) == {"records": [], "duplicates": [], "tallies": []}


@pytest.mark.slow
def test_a_pipeline_in_which_all_are_duplicates(tmp_path):
    path = _parquet(tmp_path, {"id": ["a"], "n": [1]})
    batches = [batch_of([record("a", position=i)]) for i in range(3)]

    def build(pipeline):
        records = pipeline | beam.Create(batches)
        return (
            records | Deduplicate(KEY, event_time="ts", spill=str(tmp_path / "s"), taken=[path])
        )._asdict()

    found = run(build)
    assert found["records"] == []
    assert _sorted(found["duplicates"]) == _sorted(batches)
    assert found["tallies"] == [Tally("a", "duplicate", 3)]


@pytest.mark.slow
def test_a_pipeline_with_windows_of_its_own(tmp_path):
    """Windows do not keep duplicates apart."""
    records, batches = spread(2, 60, 6)

    def build(pipeline):
        windowed = (
            pipeline
            | beam.Create(list(enumerate(batches)))
            | beam.MapTuple(lambda i, batch: TimestampedValue(batch, i * 100))
            | beam.WindowInto(FixedWindows(60))
        )
        return (windowed | Deduplicate(KEY, event_time="ts", spill=str(tmp_path)))._asdict()

    assert ids(rows(run(build)["records"])) == ids(survivors(records))


@pytest.mark.slow
def test_worker_processes(tmp_path):
    records, batches = spread(3, 4000, 16)
    path = _parquet(tmp_path, {"id": ["k1", "k2"], "n": [1, 1]})
    wanted = ids(survivors(records, {("k1", 1), ("k2", 1)}))

    def check(found):
        # Other processes know nothing of this module.
        assert (
            sorted((r["_source"], r["_position"]) for batch in found for r in batch.to_pylist())
            == wanted
        )

    options = [f"--runner={RUNNER}", "--direct_running_mode=multi_processing"]
    options.append("--direct_num_workers=2")
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        result: Any = (
            pipeline
            | beam.Create(batches)
            | beam.Reshuffle()
            | Deduplicate(KEY, event_time="ts", spill=str(tmp_path / "s"), taken=[path])
        )
        assert_that(result.records, check)


def test_an_unbounded_input_is_refused():
    pipeline = beam.Pipeline()
    records: Any = pipeline | beam.Create([batch_of([])])
    records.is_bounded = False
    with pytest.raises(ValueError, match="an unbounded PCollection has no end"):
        _ = records | Deduplicate(KEY, event_time=None, spill="/nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": ()}, r"key: expected the names of one or more fields, got \(\)"),
        ({"key": "id"}, "key: expected the names of one or more fields, got 'id'"),
        ({"shards": 0}, "shards: expected 1 to 1024, got 0"),
        ({"shards": 1025}, "shards: expected 1 to 1024, got 1025"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        Deduplicate(**{"key": KEY, "event_time": None, "spill": "/nowhere", **arguments})
