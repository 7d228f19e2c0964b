"""DeduplicateWithin: records of one key stay that are a horizon apart, run after run."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.pvalue import TaggedOutput
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.keys import KeyColumnError
from millstream.transforms import storage
from millstream.transforms.carry import Carry, KeyFile
from millstream.transforms.deduplicate import resolve
from millstream.transforms.deduplicate.key_files import IndexKept, read_keys
from millstream.transforms.deduplicate.restore import DUPLICATES, RestoreBatches
from millstream.transforms.deduplicate.spill import SpillBatches
from millstream.transforms.deduplicate.within import KEYS, DeduplicateWithin, ResolveWithin
from millstream.transforms.intervals.keys import Horizon, keep_keys
from millstream.transforms.tallies import TALLIES, Tally
from test_deduplicate import KEY, SCHEMA, _bundle, _sorted, batch_of, ids, order, record

from tests.running import rows, run

KINDS = ("string", "integer")
Record = dict[str, Any]


def survivors(records: Sequence[Record], horizon: int, kept: Sequence[Record] = ()) -> list[Record]:
    """By the definition: the records that stay, after those that were kept before."""
    held: defaultdict[Any, list[int]] = defaultdict(list)
    for r in kept:
        held[r["id"], r["n"]].append(r["ts"])
    stays = []
    for r in sorted(records, key=order):
        key, time = (r["id"], r["n"]), r["ts"]
        if None in (*key, time):
            stays.append(r)
        elif all(abs(time - other) >= horizon for other in held[key]):
            held[key].append(time)
            stays.append(r)
    return stays


class Within:
    """The stages one after another, without a runner, each from its pickle in every bundle."""

    def __init__(
        self,
        bundles: Sequence[Sequence[pa.RecordBatch]],
        folder: str,
        horizon: int,
        *,
        kept: Sequence[KeyFile] = (),
        shards: int = 3,
    ) -> None:
        shard_inputs = defaultdict(list)
        for bundle in bundles:
            fn = SpillBatches(KEY, "ts", folder, shards, timed=True)
            for shard, part in _bundle(fn, bundle):
                shard_inputs[shard].append(part)
        for file in kept:
            for shard, part in IndexKept(KINDS, shards).process(file):
                assert shard == file.shard
                shard_inputs[shard].append(part)
        lost = defaultdict(list)
        self.keys: list[KeyFile] = []
        for group in shard_inputs.items():
            for element in ResolveWithin(KEY, horizon, f"{folder}/keys").process(group):
                if isinstance(element, TaggedOutput):
                    assert element.tag == KEYS
                    self.keys.append(element.value)
                else:
                    lost[element[0]].append(element[1])
        self.records: list[pa.RecordBatch] = []
        self.duplicates: list[pa.RecordBatch] = []
        self.tallies: Counter[str] = Counter()
        for group in lost.items():
            for element in _bundle(RestoreBatches(shards), [group]):
                if isinstance(element, pa.RecordBatch):
                    self.records.append(element)
                elif element.tag == TALLIES:
                    self.tallies[element.value.value.source] += element.value.value.rows
                else:
                    assert element.tag == DUPLICATES
                    self.duplicates.append(element.value)

    def check(self, records: Sequence[Record], stays: Sequence[Record]) -> None:
        """Nothing may be lost, doubled, or changed."""
        assert ids(rows(self.records)) == ids(stays)
        assert _sorted([*self.records, *self.duplicates]) == _sorted([batch_of(records)])
        counts = Counter(r["_source"] for r in records)
        counts.subtract(r["_source"] for r in stays)
        assert self.tallies == +counts
        keyed = [r["ts"] for r in stays if None not in (r["id"], r["n"], r["ts"])]
        assert Counter(keyed) == Counter(
            time for file in self.keys for time in read_keys(file).time.tolist()
        )


RECORDS = st.lists(
    st.builds(
        record,
        st.sampled_from(["a", "b", "ab", None]),
        st.sampled_from([1, 2, None]),
        st.one_of(st.none(), st.integers(0, 40)),
        st.sampled_from(["x", "y"]),
    ),
    max_size=40,
)
SEEDS = st.integers(0, 10**6)


def positioned(records: Sequence[Record]) -> list[Record]:
    return [{**r, "_position": i} for i, r in enumerate(records)]


def in_bundles(records: Sequence[Record], chance: random.Random) -> list[list[pa.RecordBatch]]:
    records, bundles = list(records), []
    while records:
        bundle = []
        for _ in range(chance.randint(1, 3)):
            count = chance.randint(0, 8)
            bundle.append(batch_of(records[:count]))
            del records[:count]
        bundles.append(bundle)
    return bundles


@given(RECORDS, st.integers(1, 20), SEEDS)
@settings(max_examples=60)
def test_records_stay_by_the_definition_however_they_are_cut(
    tmp_path_factory, records, horizon, seed
):
    chance = random.Random(seed)
    records = positioned(records)
    shuffled = chance.sample(records, len(records))
    folder = str(tmp_path_factory.mktemp("spill"))
    found = Within(in_bundles(shuffled, chance), folder, horizon, shards=chance.randint(1, 4))
    found.check(records, survivors(records, horizon))


@given(RECORDS, st.integers(1, 20), SEEDS)
@settings(max_examples=60)
def test_runs_hand_on_what_they_have_kept(tmp_path_factory, records, horizon, seed):
    """Each run is judged by itself, in the order of time, against all that was kept before."""
    chance = random.Random(seed)
    records, kept = positioned(records), []
    folder = str(tmp_path_factory.mktemp("spill"))
    carry = Carry(shards=chance.randint(1, 4))
    job = Horizon(KEY, KINDS, "ts", horizon)
    while records:
        count = chance.randint(1, 15)
        came, records = records[:count], records[count:]
        files = carry.keys.files if carry.keys else ()
        found = Within(in_bundles(came, chance), folder, horizon, kept=files, shards=carry.shards)
        timed = [r for r in kept if r["ts"] is not None]
        found.check(came, stays := survivors(came, horizon, timed))
        kept += stays
        keys = keep_keys(job, carry, found.keys, (), -(10**6), f"{folder}/keys")
        carry = Carry(shards=carry.shards, keys=keys)


@given(st.permutations(range(24)), SEEDS)
@settings(max_examples=30)
def test_runs_in_any_cuts_keep_the_keys_of_one(tmp_path_factory, places, seed):
    """Where the records of a key lie within a horizon."""
    chance = random.Random(seed)
    records = positioned([record(f"k{i % 6}", ts=i % 6 * 100 + i % 9) for i in places])
    folder = str(tmp_path_factory.mktemp("spill"))
    one = Within(in_bundles(records, chance), folder, 9)
    left, found, carry = list(records), [], Carry(shards=2)
    while left:
        count = chance.randint(1, 9)
        kept = carry.keys.files if carry.keys else ()
        part = Within(in_bundles(left[:count], chance), folder, 9, kept=kept, shards=2)
        keys = keep_keys(Horizon(KEY, KINDS, "ts", 9), carry, part.keys, (), 0, f"{folder}/keys")
        carry = Carry(shards=2, keys=keys)
        found += rows(part.records)
        del left[:count]
    assert Counter(r["id"] for r in found) == Counter(r["id"] for r in rows(one.records))
    assert len(found) == 6


def test_a_record_that_loses_does_not_take_others_with_it(tmp_path):
    """What is lost within one file is not known before all are there."""
    first = [record("a", ts=5, position=1), record("a", ts=12, position=2)]
    second = [record("a", ts=0, position=3)]
    found = Within([[batch_of(first)], [batch_of(second)]], str(tmp_path), 10)
    assert ids(rows(found.records)) == [("a", 2), ("a", 3)]


def test_of_records_that_are_all_alike_the_first_stays(tmp_path):
    records = [record("a", ts=5, source=s, position=i) for s in "ba" for i in (3, 2)]
    found = Within([[batch_of(records)], [batch_of(records[:1])]], str(tmp_path), 10)
    assert ids(rows(found.records)) == [("a", 2)]
    assert found.tallies == {"a": 1, "b": 3}


@pytest.mark.slow
def test_buckets_are_resolved_some_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "RESOLVE_KEYS", 50)
    chance = random.Random(4)
    records = positioned([record(f"k{chance.randrange(200)}", ts=i % 50) for i in range(600)])
    found = Within(in_bundles(records, chance), str(tmp_path), 7)
    found.check(records, survivors(records, 7))
    assert len(found.keys) > 6
    assert max(file.rows for file in found.keys) <= 60


def test_keys_of_other_kinds_cannot_be_compared(tmp_path):
    kept = Within([[batch_of([record("a")])]], str(tmp_path), 5, shards=1).keys
    (index,) = IndexKept(("binary", "integer"), 1).process(kept[0])
    fn = SpillBatches(KEY, "ts", str(tmp_path), 1, timed=True)
    ((_, part),) = _bundle(fn, [batch_of([record("a")])])
    with pytest.raises(KeyColumnError, match="binary, integer in the keys of the runs before"):
        list(ResolveWithin(KEY, 5, str(tmp_path)).process((0, [index[1], part])))


@pytest.mark.slow
def test_a_pipeline_goes_on_from_another(tmp_path):
    chance = random.Random(2)
    records = positioned(
        [record(f"k{chance.randrange(300)}", ts=chance.randrange(40)) for _ in range(2000)]
    )
    kept: list[Record] = []
    carry = Carry(shards=2)
    for half in (records[:1000], records[1000:]):
        files = carry.keys.files if carry.keys else ()

        def build(pipeline: Any, half: Any = half, files: Any = files) -> dict[str, Any]:
            within = DeduplicateWithin(
                KEY,
                event_time="ts",
                horizon_us=15,
                spill=str(tmp_path / "spill"),
                folder=str(tmp_path / "keys"),
                kept=files,
                kinds=KINDS,
                shards=2,
            )
            batches = [batch_of(half[i : i + 100]) for i in range(0, len(half), 100)]
            return (pipeline | beam.Create(batches) | within)._asdict()

        found = run(build)
        stays = survivors(half, 15, kept)
        assert ids(rows(found["records"])) == ids(stays)
        assert _sorted(found["records"] + found["duplicates"]) == _sorted([batch_of(half)])
        assert found["tallies"] == [Tally("a", "duplicate", len(half) - len(stays))]
        assert sum(file.rows for file in found["keys"]) == len(stays)
        kept += stays
        job = Horizon(KEY, KINDS, "ts", 15)
        keys = keep_keys(job, carry, found["keys"], (), 0, str(tmp_path / "keys"))
        carry = Carry(shards=2, keys=keys)
    storage.delete_folder(str(tmp_path / "spill"))
    assert [path.name for path in Path(tmp_path).iterdir()] == ["keys"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": "id"}, "key: expected the names of one or more fields, got 'id'"),
        ({"shards": 0}, "shards: expected 1 to 1024, got 0"),
        ({"horizon_us": 0}, "horizon_us: expected at least 1, got 0"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    given = {"key": KEY, "event_time": "ts", "horizon_us": 1, "spill": "/no", "folder": "/no"}
    with pytest.raises(ValueError, match=message):
        DeduplicateWithin(**{**given, **arguments})


def test_an_unbounded_input_is_refused():
    records: Any = beam.Pipeline() | beam.Create([batch_of([], SCHEMA)])
    records.is_bounded = False
    with pytest.raises(ValueError, match="an unbounded PCollection has no end"):
        _ = records | DeduplicateWithin(
            KEY, event_time="ts", horizon_us=1, spill="/nowhere", folder="/nowhere"
        )
