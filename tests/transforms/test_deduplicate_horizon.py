"""Keys within a horizon: judged as the definition says, however a stream is cut."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.keys import KeyColumnError, hash_keys
from millstream.schemas.watermarks import NEVER
from millstream.transforms.carry import Carry, KeptKeys, KeyFile, NewKeys
from millstream.transforms.deduplicate import horizon as horizon_module
from millstream.transforms.deduplicate.horizon import (
    NO_KEYS,
    KnownKeys,
    TimedKeys,
    joined,
    middle_of,
    to_merge,
    with_times,
)
from millstream.transforms.deduplicate.key_files import read_keys, write_keys
from millstream.transforms.intervals.keys import Horizon, keep_keys

Key = tuple[int, int, int]
"""Halves of a hash, and a time."""

HIGH = st.sampled_from([0, 1, 2, 1 << 62, 1 << 63, (1 << 64) - 1])
KEYS = st.lists(st.tuples(HIGH, st.integers(0, 2), st.integers(0, 60)), max_size=50)
HORIZONS = st.integers(1, 25)
SEEDS = st.integers(0, 10**6)


def keys_of(rows: Sequence[Key]) -> TimedKeys:
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    types = (np.uint64, np.uint64, np.int64)
    return TimedKeys(*(np.array(c, t) for c, t in zip(columns, types, strict=True)))


def rows_of(keys: TimedKeys) -> list[Key]:
    return list(zip(*(column.tolist() for column in keys), strict=True))


def judged(rows: Sequence[Key], horizon: int) -> list[bool]:
    """By the definition: whether a key like it was kept before, less than the horizon away."""
    kept: list[Key] = []
    lost = []
    for row in rows:
        lost.append(any(o[:2] == row[:2] and abs(o[2] - row[2]) < horizon for o in kept))
        if not lost[-1]:
            kept.append(row)
    return lost


@given(KEYS, HORIZONS)
def test_keys_are_judged_by_the_definition(rows, horizon):
    lost, kept = KnownKeys(horizon).judge(keys_of(rows))
    assert lost.tolist() == judged(rows, horizon)
    assert kept.high.tolist() == sorted(kept.high.tolist())
    assert Counter(rows_of(kept)) == Counter(
        r for r, gone in zip(rows, lost, strict=True) if not gone
    )


@given(KEYS, HORIZONS, SEEDS)
def test_batches_of_any_size_are_judged_alike(rows, horizon, seed):
    chance = random.Random(seed)
    known = KnownKeys(horizon)
    found: list[bool] = []
    while len(found) < len(rows):
        batch = keys_of(rows[len(found) : len(found) + chance.randint(1, 12)])
        lost, new = known.judge(batch)
        known.add(TimedKeys.of_bytes(new.to_bytes()))
        found += lost.tolist()
    assert found == judged(rows, horizon)
    assert known.rows == found.count(False)


def test_times_that_are_exactly_a_horizon_apart_are_apart():
    lost, _ = KnownKeys(10).judge(keys_of([(1, 1, time) for time in (0, 10, 19, 20)]))
    assert lost.tolist() == [False, False, True, False]


@pytest.mark.slow
def test_a_key_that_is_kept_many_times_in_one_batch():
    rows = [(7, 7, time) for time in random.Random(1).sample(range(5000), 2000)]
    assert KnownKeys(3).judge(keys_of(rows))[0].tolist() == judged(rows, 3)


@given(KEYS, st.integers(-1, 61))
def test_what_is_forgotten_is_old_and_half_of_what_is_held_is_not(rows, bound):
    known = KnownKeys(1)
    for row in rows:
        known.add(keys_of([row]))
    known.expire(bound)
    later = [row for row in rows if row[2] > bound]
    assert len(later) <= known.rows <= 2 * len(later)
    assert known.judge(keys_of(later))[0].all()


# ---------------------------------------------------------- from one commit to the next


@dataclass
class Stream:
    """A stream whose commits hand keys on, in files; what it kept, by the definition of a job."""

    folder: str
    us: int
    shards: int
    carry: Carry = field(default_factory=Carry)
    lost: list[bool] = field(default_factory=list)
    most: int = 0

    @property
    def horizon(self) -> Horizon:
        return Horizon(("id",), ("string",), "ts", self.us)

    def commit(self, rows: Sequence[Key], newest: int, chance: random.Random) -> None:
        """Judge what has come, in batches, by what is known, and hand its keys on."""
        known = KnownKeys(self.us)
        for file in self.carry.keys.files if self.carry.keys else ():
            known.add(read_keys(file))
        new, at = [], 0
        while at < len(rows):
            batch = keys_of(rows[at : at + chance.randint(1, 9)])
            lost, kept = known.judge(batch)
            known.add(kept)
            new.append(NewKeys(kept.to_bytes()))
            self.lost += lost.tolist()
            at += batch.rows
        watermark = max(self.carry.watermark, newest)
        kept = keep_keys(self.horizon, self.carry, (), new, watermark, self.folder)
        self.carry = Carry(shards=self.shards, watermark=watermark, keys=kept)
        self.most = max(self.most, len(kept.files))

    def held(self) -> list[Key]:
        assert self.carry.keys is not None
        return [row for file in self.carry.keys.files for row in rows_of(read_keys(file))]


@given(
    st.lists(st.tuples(HIGH, st.integers(0, 1), st.integers(-12, 0)), max_size=80),
    st.integers(4, 12),
    st.sampled_from([1, 2, 3, 8]),
    SEEDS,
)
def test_any_cuts_into_commits_keep_the_same_keys(tmp_path_factory, steps, us, shards, seed):
    """Time goes on by one with each record; each is up to ``us`` late, behind the watermark, and
    all are judged as if nothing was ever forgotten."""
    chance = random.Random(seed)
    rows = [(high, low, i + max(late, 1 - us)) for i, (high, low, late) in enumerate(steps)]
    stream = Stream(str(tmp_path_factory.mktemp("keys")), us, shards, Carry(shards=shards))
    at = 0
    while at < len(rows):
        count = chance.randint(1, 20)
        stream.commit(rows[at : at + count], at + len(rows[at : at + count]) - 1, chance)
        at += count
        bound = stream.carry.watermark - 2 * us
        needed = [r for r, lost in zip(rows, stream.lost, strict=False) if not lost]
        needed = [row for row in needed if row[2] > bound]
        held = stream.held()
        assert set(needed) <= set(held)
        assert len(held) <= 2 * len(needed)
    assert stream.lost == judged(rows, us)


@pytest.mark.slow
def test_many_commits_make_few_files(tmp_path):
    stream = Stream(str(tmp_path), us=10**9, shards=1)
    chance = random.Random(1)
    for i in range(300):
        stream.commit([(chance.getrandbits(64), i, i)], i, chance)
    assert stream.most <= 10
    assert len(stream.held()) == 300


@pytest.mark.slow
def test_keys_that_are_long_past_are_forgotten_though_one_is_far_ahead(tmp_path):
    stream = Stream(str(tmp_path), us=10, shards=1)
    chance = random.Random(1)
    stream.commit([(9, 9, 10**6)], 0, chance)
    for i in range(500):
        stream.commit([(chance.getrandbits(64), i, i)], i, chance)
    assert (9, 9, 10**6) in stream.held()
    assert len(stream.held()) <= 2 * 21 + 2


def test_a_commit_without_keys_names_the_files_of_the_one_before(tmp_path):
    stream = Stream(str(tmp_path), 10, 2, Carry(shards=2))
    chance = random.Random(1)
    stream.commit([(1, 1, 5), (1 << 63, 1, 6)], 6, chance)
    before = stream.carry.keys
    stream.commit([(1, 1, 5)], 7, chance)
    assert stream.lost == [False, False, True]
    assert stream.carry.keys == before
    assert before is not None
    assert {file.shard for file in before.files} == {0, 1}
    stream.commit([], 100, chance)
    assert stream.carry.keys == KeptKeys(key=("id",), kinds=("string",))


@pytest.mark.slow
def test_files_are_merged_only_up_to_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr(horizon_module, "MOST_KEYS", 64)
    stream = Stream(str(tmp_path), us=10**9, shards=1)
    chance = random.Random(1)
    for i in range(300):
        stream.commit([(chance.getrandbits(64), i, i)], i, chance)
    assert stream.carry.keys is not None
    sizes = [file.rows for file in stream.carry.keys.files]
    assert max(sizes) <= 64
    assert sum(sizes) == 300
    assert len(sizes) <= 20


@given(KEYS.filter(bool))
def test_a_file_holds_what_was_written(tmp_path_factory, rows):
    keys = joined([keys_of(rows)])
    file = write_keys(keys, 3, str(tmp_path_factory.mktemp("keys")))
    assert rows_of(read_keys(file)) == rows_of(keys)
    times = sorted(row[2] for row in rows)
    middle = times[(len(times) - 1) // 2]
    assert file == KeyFile(path=file.path, shard=3, rows=len(rows), middle=middle, newest=times[-1])
    assert middle_of(keys) == middle


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([], 0),
        ([5], 1),
        ([5, 2], 1),
        ([4, 2], 2),
        ([100, 4, 2], 2),
        ([12, 4, 2], 3),
        ([4 << 20, 4 << 20], 1),
        ([3 << 20, 1 << 20], 1),
        ([2 << 20, 1 << 20], 2),
    ],
)
def test_runs_are_merged_where_they_are_about_as_large(sizes, count):
    assert to_merge(sizes) == count


def test_nothing_is_like_nothing():
    assert joined([]) == NO_KEYS
    known = KnownKeys(1)
    known.add(NO_KEYS)
    lost, kept = known.judge(NO_KEYS)
    assert (known.rows, lost.tolist(), kept.rows) == (0, [], 0)
    assert Horizon(("id",), ("string",), "ts", 5).bound(NEVER) < NEVER


# ------------------------------------------------------------------- keys without a time


def test_a_key_without_a_time_is_like_none():
    times = pa.array([1, None, 3, None], pa.timestamp("us", "UTC"))
    batch = pa.record_batch({"id": pa.array(["a", "b", None, None]), "ts": times})
    hashes, found = with_times(hash_keys(batch, ("id",)), batch, "ts")
    assert hashes.rows is not None
    assert (hashes.rows.tolist(), found.tolist()) == ([0], [1])
    assert hashes.high.tolist() == hash_keys(batch.slice(0, 1), ("id",)).high.tolist()


def test_times_are_microseconds_whatever_the_unit():
    batch = pa.record_batch({"id": ["a"], "ts": pa.array([7], pa.timestamp("ms"))})
    hashes, found = with_times(hash_keys(batch, ("id",)), batch, "ts")
    assert (hashes.rows, found.tolist()) == (None, [7000])
    with pytest.raises(KeyColumnError, match="event time 'id': expected a timestamp, got string"):
        with_times(hashes, batch, "id")
