"""Duplicates of an endless stream: found once and for all, whatever a runner does."""

from __future__ import annotations

import copy
import os
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from apache_beam.pvalue import TaggedOutput
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import WATERMARK
from millstream.transforms import storage
from millstream.transforms.carry import Carry, NewKeys, SourceState, Stopped
from millstream.transforms.deduplicate.horizon import TimedKeys
from millstream.transforms.deduplicate.restore import DUPLICATES
from millstream.transforms.event_clock import EventClock
from millstream.transforms.intervals import duplicates as duplicates_module
from millstream.transforms.intervals import judge_here as judge_here_module
from millstream.transforms.intervals.chain import Overtaken
from millstream.transforms.intervals.duplicates import JudgeKeys, SplitKeys
from millstream.transforms.intervals.judge_here import JudgeHere, Repeated
from millstream.transforms.intervals.keys import Horizon, keys_folder
from millstream.transforms.intervals.slices import FACTS, CommitSlicesFn
from millstream.transforms.storage import StorageError
from millstream.transforms.tallies import Tally

from tests.transforms.slices_support import (
    SECOND,
    SIZE,
    Bag,
    Job,
    Reader,
    Row,
    Slice,
    Topic,
    Value,
    batch_of,
    moment,
)

H = 20
"""The horizon, in seconds."""
HORIZON = Horizon(("page",), ("string",), "ts", H * SECOND)


class Judged(Reader):
    """A reader whose records are judged before they go on."""

    judge: Judging

    def _facts(self, source: str, start: int, rows: list[Row], clock: EventClock) -> Slice:
        batch = clock.stamp(batch_of(source, start, rows))
        facts: Slice = [Tally(source, "read", len(rows))]
        for out in self.judge(batch):
            if not isinstance(out, TaggedOutput):
                facts += self.written(out)
            elif out.tag == DUPLICATES:
                facts += self.staged("duplicates", out.value)
            else:
                assert out.tag == FACTS
                facts.append(out.value)
        return facts


class Judging:
    """The judging step in a runner's hands: its workers, and its states by shard."""

    def __init__(self, committed: Any, shards: int) -> None:
        self._make: Callable[[], Any] = lambda: JudgeKeys(HORIZON, committed, shards)
        self._split = SplitKeys(HORIZON, shards)
        self.waiting: defaultdict[int, Bag] = defaultdict(Bag)
        self.version: defaultdict[int, Value] = defaultdict(Value)
        self.fn = self._make()

    def __call__(self, batch: pa.RecordBatch) -> list[Any]:
        return [
            out
            for shard, keyed in self._split.process(batch)
            for out in self.fn.process((shard, keyed), self.waiting[shard], self.version[shard])
        ]

    def new_worker(self) -> None:
        self.fn = self._make()

    def checkpoint(self) -> Any:
        states = (self.waiting, self.version)
        return [{shard: list(state.items) for shard, state in held.items()} for held in states]

    def go_back(self, checkpoint: Any) -> None:
        waiting, version = checkpoint
        self.waiting = defaultdict(Bag, {shard: Bag(items) for shard, items in waiting.items()})
        self.version = defaultdict(Value, {shard: Value(items) for shard, items in version.items()})


class JudgingHere(Judging):
    """The judging step of the one worker that reads; ``run`` names the run of the pipeline."""

    def __init__(self, committed: Any, run: str) -> None:
        super().__init__(committed, 1)
        self._make = lambda: JudgeHere(HORIZON, committed, run)
        self.fn = self._make()

    def __call__(self, batch: pa.RecordBatch) -> list[Any]:
        return list(self.fn.process(batch))


class Pipeline:
    """A live job on a runner that keeps states, and forgets them when it is told to.

    Without ``parts`` the worker that reads judges.
    """

    def __init__(self, job: Job, topic: Topic, *, parts: int, every: float) -> None:
        self.job, self.topic, self.parts, self.every = job, topic, parts, every
        self.start()

    def start(self) -> None:
        """Begin from what is committed, with nothing in the runner's hands."""
        shards = max(self.parts, 2)
        head = self.job.commits.chain.head()
        states = head.carry.sources if head else {s: SourceState() for s in self.topic}
        carry = head.carry if head else Carry(shards=shards, sources=dict(states))
        self.reader = Judged(self.topic, self.job.outputs, dict(states))
        committed = self.job.commits.chain.carry
        here = JudgingHere(committed, uuid.uuid4().hex)
        self.reader.judge = Judging(committed, self.parts) if self.parts else here
        self._make = lambda: CommitSlicesFn(self.job.commits, self.job.plan, carry, self.every)
        self.committing = self._make()
        self.pending, self.version = Bag(), Value()
        self.between: list[Slice] = []
        """Slices that have been judged, and have not come together yet."""

    @property
    def is_read(self) -> bool:
        return all(s.next >= len(self.topic[source]) for source, s in self.reader.states.items())

    def read(self, sizes: Mapping[str, int]) -> None:
        self.between.append(self.reader.read(sizes))

    def deliver(self, chance: random.Random) -> None:
        """Have slices come together, in any order."""
        chance.shuffle(self.between)
        while self.between:
            self._give(self.between.pop())

    def end(self) -> None:
        self._give([Stopped(0)])
        assert self.pending.items == []

    def _give(self, facts: Slice) -> None:
        list(self.committing.process((0, copy.copy(facts)), self.pending, self.version))

    def checkpoint(self) -> Any:
        held = self.pending.items, self.version.items, self.between
        return (
            dict(self.reader.states),
            self.reader.judge.checkpoint(),
            [list(items) for items in held],
        )

    def go_back(self, checkpoint: Any) -> None:
        """To a checkpoint; what has been committed since is not read again."""
        states, judged, (pending, version, between) = checkpoint
        carry = self.job.commits.chain.carry()
        at = carry.sources if carry else {}
        self.reader.states = {
            source: at[source] if source in at and at[source].next > state.next else state
            for source, state in states.items()
        }
        self.reader.judge.go_back(judged)
        self.pending.items, self.version.items = list(pending), list(version)
        self.between = list(between)

    def new_worker(self, chance: random.Random) -> None:
        if chance.random() < 0.7:
            self.reader.judge.new_worker()
        if chance.random() < 0.7:
            self.committing = self._make()


@pytest.fixture(autouse=True)
def looks_often(monkeypatch) -> None:
    monkeypatch.setattr(duplicates_module, "LOOK_AT", 3)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no waiting for the disk


def judged(rows: Sequence[Row]) -> list[Row]:
    """By the definition: the rows that stay, of some that come in this order."""
    kept: list[Row] = []
    for time, page in rows:
        if not any(page == other and abs(time - at) < H for at, other in kept):
            kept.append((time, page))
    return kept


def assert_exact(job: Job, topic: Topic, kept: Sequence[Row]) -> None:
    """Those rows are there, the others are duplicates; windows hold what was kept and on time."""
    rows = [row for source in topic.values() for row in source]
    assert Counter(row["page"] for row in job.rows("records")) == Counter(p for _, p in kept)
    gone = [(row["_source"], row["_position"]) for row in job.rows("duplicates")]
    assert len(set(gone)) == len(gone) == len(rows) - len(kept)
    late = job.rows("late")
    counts = Counter[str]()
    windows = job.rows("views")
    assert len({(w["window_start"], w["page"]) for w in windows}) == len(windows)
    for window in windows:
        counts[window["page"]] += window["n"]
    for row in late:
        counts[topic[row["source"]][int(row["position"])][1]] += 1
    assert counts == Counter(page for _, page in kept)


def by_ones(rows: int, chance: random.Random, pages: int) -> list[Row]:
    """Event time goes on by a second a row, each at most 9 s behind; keys recur for ever."""
    return [(i + chance.randint(-9, 0), f"{chance.randrange(pages)}") for i in range(rows)]


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_any_cuts_keep_the_same_records(tmp_path_factory, seed):
    """Keys recur, long after they were kept last too."""
    chance = random.Random(seed)
    topic: Topic = {"p/0": by_ones(chance.randint(1, 150), chance, 4)}
    job = Job(tmp_path_factory.mktemp("job"), HORIZON)
    live = Pipeline(job, topic, parts=chance.choice([0, 1, 3]), every=chance.choice([0.0, 1e9]))
    while not live.is_read:
        live.read({"p/0": chance.randint(0, 25)})
        live.deliver(chance)
        if chance.random() < 0.2:
            live.new_worker(chance)
    live.end()
    kept = judged(topic["p/0"])
    assert_exact(job, topic, kept)
    times = Counter((row["ts"], row["page"]) for row in job.rows("records"))
    assert times == Counter((moment(time), page) for time, page in kept)
    carry = live.job.commits.chain.carry()
    assert carry is not None
    assert carry.keys is not None
    bound = carry.watermark // SECOND - 2 * H
    held = sum(file.rows for file in carry.keys.files)
    assert held <= 2 * len([time for time, _ in kept if time > bound])


def within(rows: int, chance: random.Random) -> list[Row]:
    """Rows of which those of one key lie within a horizon."""
    found = []
    for i in range(rows):
        time = max(i + chance.randint(-9, 0), 0)
        found.append((time, f"{time // H}-{chance.randrange(5)}"))
    return found


@pytest.mark.slow
@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_workers_come_and_go_the_runner_goes_back_and_forgets_all(tmp_path_factory, seed):
    chance = random.Random(seed)
    topic: Topic = {f"p/{i}": within(chance.randint(1, 120), chance) for i in range(2)}
    job = Job(tmp_path_factory.mktemp("job"), HORIZON)
    parts = chance.choice([0, 1, 2, 3])
    live = Pipeline(job, topic, parts=parts, every=chance.choice([0.0, 1e9]))
    checkpoint, troubles = live.checkpoint(), chance.randint(0, 6)
    while not live.is_read:
        live.read({source: chance.randint(0, 12) for source in topic})
        if chance.random() < 0.6:
            live.deliver(chance)
        trouble = chance.random() if troubles else 1
        if trouble < 0.15:
            live.new_worker(chance)
        elif trouble < 0.3 and live.parts:
            live.go_back(checkpoint)
            live.new_worker(chance)
        elif trouble < 0.4:
            live.start()
            checkpoint = live.checkpoint()
        elif chance.random() < 0.3:
            checkpoint = live.checkpoint()
        troubles -= trouble < 0.4 and troubles > 0
    live.deliver(chance)
    live.end()
    rows = [row for source in topic.values() for row in source]
    assert_exact(job, topic, [(0, page) for page in {page for _, page in rows}])


def one_by_one(tmp_path: Path, rows: Sequence[Row], parts: int = 1) -> Pipeline:
    return Pipeline(Job(tmp_path, HORIZON), {"p/0": list(rows)}, parts=parts, every=0.0)


@pytest.mark.slow
def test_the_state_holds_only_what_is_not_committed(tmp_path):
    rows = [(i, f"{i}") for i in range(120)]
    live = one_by_one(tmp_path, rows)
    chance = random.Random(1)
    for _ in rows:
        live.read({"p/0": 1})
        live.deliver(chance)
        assert len(live.reader.judge.waiting[0].items) <= 4
    assert live.reader.judge.fn._shards[0].known.rows <= 2 * (2 * H + 4)


def test_what_is_not_committed_stays_in_the_state(tmp_path):
    live = one_by_one(tmp_path, [(i, f"{i % 10}") for i in range(20)])
    for _ in range(10):
        live.read({"p/0": 1})
    assert len(live.reader.judge.waiting[0].items) == 10
    live.reader.judge.new_worker()
    live.read({"p/0": 10})
    facts = [fact for facts in live.between for fact in facts]
    assert Tally("p/0", "duplicate", 10) in facts
    assert sum(len(fact.keys) for fact in facts if isinstance(fact, NewKeys)) == 10 * 24


def test_a_bundle_that_fails_is_judged_as_if_it_had_not_been(tmp_path):
    """The worker keeps what it knows; the state does not."""
    live = one_by_one(tmp_path, [(0, "a"), (1, "b"), (2, "a")])
    live.read({"p/0": 1})
    judging = live.reader.judge
    checkpoint = judging.checkpoint()
    batch = batch_of("p/0", 1, live.topic["p/0"][1:])
    batch = EventClock("ts", 0, {}).stamp(batch)
    first = judging(batch)
    judging.go_back(checkpoint)
    again = judging(batch)
    assert [told(out) for out in first] == [told(out) for out in again]
    assert Tally("p/0", "duplicate", 1) in map(told, again)


def told(output: Any) -> Any:
    value = output.value if isinstance(output, TaggedOutput) else output
    if not isinstance(value, pa.RecordBatch):
        return value
    return value.drop_columns([WATERMARK]).to_pylist()


def test_files_that_a_commit_has_deleted_meanwhile_are_read_from_the_next(tmp_path):
    live = one_by_one(tmp_path, [(i, f"{i % 8}") for i in range(16)])
    chance = random.Random(1)
    live.read({"p/0": 4})
    live.deliver(chance)
    stale = live.job.commits.chain.carry()
    live.read({"p/0": 4})
    live.deliver(chance)
    current = live.job.commits.chain.carry()
    assert stale is not None
    assert stale.held_paths.isdisjoint(storage.list_files(keys_folder(f"{tmp_path}/ledger")))
    carries = iter([stale, current])
    judging = Judging(lambda: next(carries), 1)
    batch = EventClock("ts", 0, {}).stamp(batch_of("p/0", 8, live.topic["p/0"][8:]))
    assert Tally("p/0", "duplicate", 8) in [out.value for out in judging(batch)]
    judging = Judging(lambda: stale, 1)
    with pytest.raises(StorageError, match=r"cannot read .*\.keys: not found"):
        judging(batch)


def test_records_without_a_key_are_never_duplicates(tmp_path):
    rows: Any = [(1, None), (1, "a"), (2, None), (2, "a")]
    live = one_by_one(tmp_path, rows, parts=2)
    live.read({"p/0": 4})
    facts = live.between[0]
    assert Tally("p/0", "duplicate", 1) in facts
    keys = [TimedKeys.of_bytes(fact.keys) for fact in facts if isinstance(fact, NewKeys)]
    assert [key.time.tolist() for key in keys] == [[SECOND]]


# ------------------------------------------------------- judged by the worker that reads


def test_records_that_come_again_are_refused(tmp_path):
    """A runner for which this is meant does nothing twice. If it did, they would be lost."""
    live = one_by_one(tmp_path, [(i, f"{i}") for i in range(6)], parts=0)
    checkpoint = live.checkpoint()
    live.read({"p/0": 4})
    live.go_back(checkpoint)
    with pytest.raises(Repeated, match="p/0: positions from 0 on have been read again by a run"):
        live.read({"p/0": 4})


def test_two_memories_never_judge_for_one_run(tmp_path):
    """The second does not know what the first has kept, and is not committed."""
    live = one_by_one(tmp_path, [(1, "a"), (2, "b"), (3, "a")], parts=0)
    live.every = 1e9
    live.committing = live._make()
    live.read({"p/0": 2})
    live.reader.judge = JudgingHere(live.job.commits.chain.carry, "another")
    live.read({"p/0": 1})
    live.deliver(random.Random(1))
    with pytest.raises(Overtaken, match="two workers have looked for duplicates at once"):
        live.end()
    assert live.job.commits.chain.newest() == 0
    live.start()
    live.read({"p/0": 3})
    live.deliver(random.Random(1))
    live.end()
    assert_exact(live.job, live.topic, [(1, "a"), (2, "b")])


def test_two_workers_never_judge_at_once(tmp_path):
    """A runner that has split a bundle may let both halves begin with one state."""
    live = one_by_one(tmp_path, [(1, "a"), (2, "b"), (3, "c"), (4, "b")])
    live.every = 1e9
    live.committing = live._make()
    live.read({"p/0": 1})
    state = live.reader.judge.checkpoint()
    live.read({"p/0": 1})
    live.reader.judge.go_back(state)
    live.read({"p/0": 1})
    live.deliver(random.Random(1))
    with pytest.raises(Overtaken, match="two workers have looked for duplicates at once"):
        live.end()
    assert live.job.commits.chain.newest() == 0


@pytest.mark.slow
def test_the_memory_forgets_what_is_long_past(tmp_path, monkeypatch):
    monkeypatch.setattr(judge_here_module, "LOOK_AT", 3)
    live = one_by_one(tmp_path, [(i, f"{i}") for i in range(120)], parts=0)
    for _ in range(120):
        live.read({"p/0": 1})
        live.deliver(random.Random(1))
    assert live.reader.judge.fn._memory().known.rows <= 2 * (2 * H + 4)


def test_windows_are_of_a_size():
    """What the tests here stand on: rows are late for windows before they are for the horizon."""
    assert SIZE < H
