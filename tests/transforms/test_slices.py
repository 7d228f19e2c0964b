"""Slices of a stream, as they are committed: each record once, in whatever order they come."""

from __future__ import annotations

import copy
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.watermarks import NEVER
from millstream.transforms.carry import Stopped
from millstream.transforms.intervals import chain as chain_module
from millstream.transforms.intervals import slices as slices_module
from millstream.transforms.intervals.chain import Overtaken, run_id_of
from millstream.transforms.intervals.slices import CommitSlicesFn, Missing
from millstream.transforms.write.commit import Unbalanced

from tests.transforms.slices_support import Bag, Clock, Job, Reader, Slice, Topic, Value


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(tmp_path)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(slices_module, "time", made)
    return made


TIMES = st.integers(0, 80)
PAGES = st.sampled_from(["a", "b"])
TOPICS = st.dictionaries(
    st.sampled_from(["p/0", "p/1"]),
    st.lists(st.tuples(TIMES, PAGES), max_size=20),
    min_size=1,
)


def in_slices(reader: Reader, chance: random.Random) -> list[Slice]:
    found = []
    for _ in range(chance.randint(1, 6)):
        found.append(reader.read({source: chance.randint(0, 6) for source in reader.topic}))
    return [*found, reader.rest()]


@given(topic=TOPICS, seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_slices_in_any_order_add_up(tmp_path_factory, topic, seed):
    job = Job(tmp_path_factory.mktemp("job"))
    chance = random.Random(seed)
    slices = in_slices(job.reader(topic), chance)
    chance.shuffle(slices)
    waiting: list[Slice] = []
    for facts in slices:
        chance.shuffle(facts)
        waiting = job.commit(*waiting, facts)
    assert job.commit(*waiting, [Stopped(0)]) == []
    job.assert_exact(topic)


@given(topic=TOPICS, seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_going_back_to_a_checkpoint_doubles_nothing(tmp_path_factory, topic, seed):
    """The runner forgets what is waiting, and gives again what came after: cut as before, since a
    slice and the position after it are of one checkpoint."""
    job = Job(tmp_path_factory.mktemp("job"))
    chance = random.Random(seed)
    slices = in_slices(job.reader(topic), chance)
    at = 0
    waiting: list[Slice] = []
    checkpoint: tuple[int, list[Slice]] = 0, []
    backwards = chance.randint(1, 4)
    while at < len(slices):
        waiting = job.commit(*waiting, copy.copy(slices[at]))
        at += 1
        if chance.random() < 0.3:
            checkpoint = at, list(waiting)
        if backwards and chance.random() < 0.3:
            at, waiting = checkpoint[0], list(checkpoint[1])
            backwards -= 1
    job.commit(*waiting, [Stopped(0)])
    job.assert_exact(topic)


TOPIC: Topic = {
    "p/0": [(time, "a") for time in range(0, 60, 2)],
    "p/1": [(time, "b") for time in range(0, 60, 2)],
}


def test_what_is_committed_already_is_passed_over(job):
    reader = job.reader(TOPIC)
    first, second = reader.read({"p/0": 5, "p/1": 5}), reader.read({"p/0": 5})
    assert job.commit(first) == []
    assert job.commit(first) == []
    assert job.commit(first, second, first) == []
    job.commit(reader.rest(), [Stopped(0)])
    job.assert_exact(TOPIC)


def test_what_is_ahead_waits(job):
    reader = job.reader(TOPIC)
    first, second, third = (reader.read({"p/0": 5, "p/1": 3}) for _ in range(3))
    assert job.commit(third) == [third]
    assert job.commit(third, first) == [third]
    assert job.commit(third, second) == []
    assert len(job.rows("records")) == 24


def test_a_slice_that_never_comes_is_told(job, clock):
    reader = job.reader(TOPIC)
    reader.read({"p/0": 5, "p/1": 3})  # and lost
    gathered = job.gathered()
    gathered.add(reader.read({"p/0": 5, "p/1": 3}))
    list(gathered.commit())
    clock.now += 599
    gathered.add(reader.read({"p/0": 2}))
    list(gathered.commit())
    clock.now += 2
    with pytest.raises(Missing, match="p/1: positions 0 to 3 have been read and did not come"):
        list(gathered.commit())
    assert len(gathered.slices) == 2


def test_a_slice_that_is_partly_committed_is_refused(job):
    """It would have to be cut, and its states cannot be: the pipeline goes on from the commit."""
    reader = job.reader(TOPIC)
    before = reader.checkpoint()
    job.commit(reader.read({"p/0": 5, "p/1": 5}))
    with pytest.raises(Overtaken, match=r"p/[01]: positions from 0 on have been read again"):
        job.commit(before.read({"p/0": 8, "p/1": 8}))
    job.commit(job.reader(TOPIC).rest(), [Stopped(0)])
    job.assert_exact(TOPIC)


def test_a_slice_of_which_one_source_is_committed_is_refused(job):
    reader = job.reader(TOPIC)
    before = reader.checkpoint()
    job.commit(reader.read({"p/0": 5}))
    with pytest.raises(Overtaken, match="p/0: positions from 0 on"):
        job.commit(before.read({"p/0": 5, "p/1": 5}))


def test_another_process_that_commits_is_found_out(job):
    reader = job.reader(TOPIC)
    slices = reader.read({"p/0": 5, "p/1": 5}), reader.read({"p/0": 5, "p/1": 5})
    ours, theirs = job.gathered(), job.gathered()
    theirs.add(slices[0])
    list(theirs.commit())
    ours.add(slices[0])
    ours.add(slices[1])
    with pytest.raises(Overtaken):
        list(ours.commit())
    job.commit(slices[1], reader.rest(), [Stopped(0)])
    job.assert_exact(TOPIC)


def test_staged_files_of_slices_are_gone_once_they_are_committed(job, tmp_path):
    reader = job.reader(TOPIC)
    job.commit(reader.read({"p/0": 5, "p/1": 5}), reader.read({"p/0": 5}))
    assert not list(tmp_path.rglob("*.staged"))


def test_records_that_are_too_late_and_not_told_apart_are_not_lost_in_silence(job):
    reader = job.reader(TOPIC)
    job.commit(reader.read({"p/0": 20, "p/1": 20}))
    reader.states = {s: msgspec.structs.replace(v, newest=NEVER) for s, v in reader.states.items()}
    reader.topic = {source: [(1, "late")] * 30 for source in TOPIC}
    with pytest.raises(Unbalanced, match="too late, and were taken for records that are not"):
        job.commit(reader.rest())


# ----------------------------------------------------------------------- when it is due


def test_it_is_due_when_a_window_closes(job, clock):
    reader = job.reader(TOPIC)
    gathered = job.gathered()
    gathered.add(reader.read({"p/0": 5, "p/1": 4}))
    assert not gathered.is_due(60), "times up to 8 s, and the window is 10 s"
    gathered.add(reader.read({"p/0": 5}))
    assert not gathered.is_due(60), "one partition is still within it"
    gathered.add(reader.read({"p/1": 3}))
    assert gathered.is_due(60)
    list(gathered.commit())
    assert not gathered.is_due(60)
    assert {row["n"] for row in job.rows("views")} == {5}


def test_it_is_due_when_time_has_passed_and_something_is_new(job, clock):
    reader = job.reader(TOPIC)
    gathered = job.gathered()
    gathered.add(reader.read({"p/0": 2}))
    assert not gathered.is_due(5)
    clock.now += 5
    assert gathered.is_due(5)
    list(gathered.commit())
    clock.now += 50
    gathered.add(reader.read({}))
    assert not gathered.is_due(5), "nothing is new"
    list(gathered.commit())
    assert job.commits.chain.newest() == 1


def test_it_is_due_when_the_stream_stops(job, clock):
    reader = job.reader(TOPIC)
    gathered = job.gathered()
    gathered.add(reader.read({"p/0": 2}))
    gathered.add([Stopped(0)])
    assert gathered.is_due(1e9)
    list(gathered.commit())
    assert gathered.slices == []
    assert sum(row["n"] for row in job.rows("views")) == 2, "close says to give what is open"


# ------------------------------------------------------------------- in a runner's hands


class Runner:
    """Gives slices to the committing step as a runner does."""

    def __init__(self, job: Job, every: float) -> None:
        self._make = lambda: CommitSlicesFn(job.commits, job.plan, job.carry, every)
        self.pending, self.version = Bag(), Value()
        self.fn = self._make()

    def give(self, facts: Slice) -> list[Any]:
        return list(self.fn.process((0, copy.copy(facts)), self.pending, self.version))

    def new_worker(self) -> None:
        """Another worker goes on with what the runner holds."""
        self.fn = self._make()

    def checkpoint(self) -> tuple[list[Any], list[Any]]:
        return list(self.pending.items), list(self.version.items)

    def go_back(self, checkpoint: tuple[list[Any], list[Any]]) -> None:
        self.pending.items, self.version.items = list(checkpoint[0]), list(checkpoint[1])


def test_a_new_worker_reads_what_waits(job):
    reader = job.reader(TOPIC)
    runner = Runner(job, every=1e9)
    assert runner.give(reader.read({"p/0": 2})) == []
    runner.new_worker()
    assert runner.give(reader.read({"p/1": 2})) == []
    assert len(runner.pending.items) == 2
    runner.new_worker()
    runner.give(reader.rest())
    runner.new_worker()
    runner.give([Stopped(0)])
    assert runner.pending.items == []
    job.assert_exact(TOPIC)


def test_a_slice_that_waits_for_one_before_it_is_kept_by_the_runner(job, clock):
    reader = job.reader(TOPIC)
    runner = Runner(job, every=0.0)
    first, second, third = (reader.read({"p/0": 5, "p/1": 5}) for _ in range(3))
    runner.give(third)
    assert runner.pending.items == [third]
    runner.new_worker()
    runner.give(first)
    assert runner.pending.items == [third]
    runner.give(second)
    assert runner.pending.items == []
    runner.give(reader.rest())
    runner.give([Stopped(0)])
    job.assert_exact(TOPIC)


@pytest.mark.slow
def test_states_of_a_shard_without_news_outlive_the_commits_that_are_kept(job, monkeypatch):
    monkeypatch.setattr(chain_module, "KEEP_LINKS", 3)
    topic: Topic = {"p/0": [(1, page) for page in "abcdefgh"] + [(2, "a")] * 8}
    reader = job.reader(topic)
    job.carry = msgspec.structs.replace(job.carry, shards=2)
    runner = Runner(job, every=0.0)
    runner.give(reader.read({"p/0": 8}))
    for _ in range(8):
        runner.give(reader.read({"p/0": 1}))
    assert job.commits.chain.newest() == 9
    carry = job.commits.chain.carry()
    assert carry is not None
    assert any(f"/{run_id_of(1)}/" in path for path in carry.held_paths)
    runner.new_worker()
    runner.give([Stopped(0)])
    job.assert_exact(topic)


@given(topic=TOPICS, seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_workers_come_and_go_and_the_runner_goes_back(tmp_path_factory, topic, seed):
    job = Job(tmp_path_factory.mktemp("job"))
    chance = random.Random(seed)
    slices = in_slices(job.reader(topic), chance)
    runner = Runner(job, every=chance.choice([0.0, 1e9]))
    at, backwards = 0, chance.randint(0, 4)
    checkpoint = 0, runner.checkpoint()
    while at < len(slices):
        runner.give(slices[at])
        at += 1
        if chance.random() < 0.3:
            checkpoint = at, runner.checkpoint()
        if chance.random() < 0.3:
            runner.new_worker()
        if backwards and chance.random() < 0.3:
            backwards -= 1
            at = checkpoint[0]
            runner.go_back(checkpoint[1])
            if chance.random() < 0.5:
                runner.new_worker()
    runner.give([Stopped(0)])
    job.assert_exact(topic)
