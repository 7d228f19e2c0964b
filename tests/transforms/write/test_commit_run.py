"""A run's end: balanced or nothing, once or completed, in any order, through any crash."""

import itertools
import json
from pathlib import Path

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.transforms import storage
from millstream.transforms.lock import Locked
from millstream.transforms.plan import InputFile, Plan
from millstream.transforms.runs import AlreadyCommitted, RunRecord, RunStore
from millstream.transforms.tallies import Tally
from millstream.transforms.write import (
    CommitRun,
    DestinationError,
    Output,
    Stage,
    Unbalanced,
    clear_staging,
    commit_run,
    complete,
)
from millstream.transforms.write.commit import _commit_unattended, balanced
from millstream.transforms.write.files import live_files
from millstream.transforms.write.stage import stage_batches
from storage_support import crash_points, interleave
from test_stage import letters
from write_support import numbers, staged

RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"


def found(value):
    assert value is not None
    return value


class Job:
    """A small job: records and dead letters of one plan, beside a ledger, in one folder."""

    def __init__(self, folder, *values, dead=1, bundles=2):
        self.folder = Path(folder)
        self.values, self.dead, self.bundles = values, dead, bundles
        self.records = Output("records", f"parquet:{folder}/records")
        self.letters = Output("dead", f"jsonl:{folder}/dead", "dead_letters")
        self.outputs = [self.records, self.letters]
        self.ledger_uri = f"jsonl:{folder}/ledger"
        self.store = RunStore(f"{folder}/ledger")
        inputs = tuple(InputFile(f"{v}.jsonl", 1, "1") for v in values)
        self.plan = Plan("job", "c", "1", "d", inputs)

    def facts(self, token):
        """What the pipeline gives: other files with every attempt, the same rows."""
        cut = [self.values[i :: self.bundles] for i in range(self.bundles)]
        batches = [numbers(*values, source="a") for values in cut if values]
        dead = [letters(("a", str(i), ["TYPE"])) for i in range(self.dead)]
        receipts = staged(self.records, token, *batches)
        for batch in dead:
            receipts += stage_batches(self.letters, token, [batch])
        return [Tally("a", "read", len(self.values) + self.dead), *receipts]

    def launch(self, run_id: str | None = "r1") -> RunRecord:
        """What a launcher does, from begin to record."""
        with self.store.lock(run_id or self.plan.run_id) as lock:
            decision = self.store.begin(self.plan, run_id)
            if decision.kind == "resume":
                complete(self.store, found(decision.prepared), check=lock.check)
                decision = self.store.begin(self.plan, run_id)
            if decision.kind == "done":
                return found(decision.record)
            return self.commit(decision.token)

    def commit(self, token):
        facts = self.facts(token)
        return commit_run(self.store, token, self.outputs, self.ledger_uri, facts)

    def unattended(self, token, **options):
        """What workers do, once nobody holds the lock for them."""
        options = {"patience": 0, "reprocess": False, **options}
        return _commit_unattended(
            self.facts(token), self.store, token, self.outputs, self.ledger_uri, **options
        )

    def rows(self):
        tables = [pq.read_table(path)["n"].to_pylist() for path in live_files(self.records.uri)]
        return sorted(itertools.chain(*tables))

    def lines(self, name):
        return [
            json.loads(line)
            for path in live_files(f"jsonl:{self.folder}/{name}")
            for line in Path(path).read_text().splitlines()
        ]

    def check_seen_files(self):
        """Who reads by glob sees what the manifests name, and nothing lies about."""
        for name, form in (("records", "parquet"), ("dead", "jsonl"), ("ledger", "jsonl")):
            seen = sorted(map(str, (self.folder / name).glob(f"*.{form}")))
            assert seen == sorted(live_files(f"{form}:{self.folder}/{name}"))
        assert not list(self.folder.rglob("*.staged"))


def test_a_run_is_committed_and_recorded(tmp_path):
    job = Job(tmp_path, 1, 2, 3, dead=2)
    record = job.launch()
    assert record.status == "committed"
    assert record.rows == {"records": 3, "dead": 2}
    assert record == job.store.record(job.plan.token("r1"))
    assert job.rows() == [1, 2, 3]
    assert len(job.lines("dead")) == 2
    (row,) = job.lines("ledger")
    assert (row["read"], row["written"], row["dead"]) == (5, 3, 2)
    job.check_seen_files()


def test_twice_is_once(tmp_path):
    job = Job(tmp_path, 1, 2)
    first = job.launch()
    assert job.launch() == first
    assert job.commit(job.plan.token("r1")) == first, "a retried commit is a no-op too"
    assert job.rows() == [1, 2]
    assert len(job.lines("ledger")) == 1


def test_another_plan_replaces_all_outputs(tmp_path):
    Job(tmp_path, 1, 2, dead=3).launch()
    job = Job(tmp_path, 2, 3, dead=1)
    job.launch()
    assert job.rows() == [2, 3]
    assert len(job.lines("dead")) == 1
    assert len(job.lines("ledger")) == 1
    job.check_seen_files()


def test_two_runs_lie_beside_each_other(tmp_path):
    Job(tmp_path, 1).launch("r1")
    job = Job(tmp_path, 2)
    job.launch("r2")
    assert job.rows() == [1, 2]
    assert {row["run_id"] for row in job.lines("ledger")} == {"r1", "r2"}


def test_unbalanced_commits_nothing(tmp_path):
    job = Job(tmp_path, 1, 2)
    token = job.store.begin(job.plan).token
    facts = [*job.facts(token), Tally("b", "read", 4)]
    with pytest.raises(Unbalanced, match="output 'records', source b: 4 records missing"):
        commit_run(job.store, token, job.outputs, job.ledger_uri, facts)
    record = found(job.store.record(token))
    assert record.status == "failed"
    assert "source b: 4 records missing" in record.error
    assert {row.source: row.missing for row in record.ledger} == {"a": 0, "b": 4}
    assert job.rows() == []
    assert not list(tmp_path.rglob("*.parquet"))
    assert job.store.prepared(token) is None
    clear_staging(job.store, token, job.outputs)
    assert not list(tmp_path.rglob("*.staged"))
    assert job.store.begin(job.plan).kind == "start"


def test_what_can_be_completed_is_not_cleared(tmp_path):
    job = Job(tmp_path, 1)
    token = job.store.begin(job.plan).token
    job.store.prepare(balanced(job.store, token, job.outputs, job.ledger_uri, job.facts(token)))
    clear_staging(job.store, token, job.outputs)
    job.launch(None)
    assert job.rows() == [1]


def test_receipts_of_an_output_that_is_not_committed(tmp_path):
    job = Job(tmp_path, 1)
    token = job.store.begin(job.plan).token
    stray = Output("stray", f"parquet:{tmp_path}/stray")
    facts = [*job.facts(token), *staged(stray, token, numbers(1))]
    with pytest.raises(Unbalanced, match=r"'stray'.*the run commits no such output"):
        commit_run(job.store, token, job.outputs, job.ledger_uri, facts)


def test_outputs_in_one_place_are_refused(tmp_path):
    job = Job(tmp_path)
    token = job.plan.token()
    same_place = [job.records, Output("more", job.records.uri)]
    with pytest.raises(DestinationError, match="'records' and 'more' have the same place"):
        CommitRun(job.store, token, same_place, job.ledger_uri)
    with pytest.raises(DestinationError, match="'dead' and 'ledger' have the same place"):
        CommitRun(job.store, token, job.outputs, job.letters.uri)


def test_of_two_that_nobody_waits_for_the_second_commits_nothing(tmp_path):
    """Both were launched before either had committed, so that no launcher could see it."""
    job, other = Job(tmp_path, 1, 2), Job(tmp_path, 2, 3)
    one, two = (j.store.begin(j.plan, run_id).token for j, run_id in ((job, "a"), (other, "b")))
    assert job.unattended(one).status == "committed"
    assert job.unattended(one).status == "committed", "a retried bundle is told the same"
    with pytest.raises(AlreadyCommitted, match=r"run a has already committed 2\.jsonl"):
        other.unattended(two)
    assert job.rows() == [1, 2]
    assert found(job.store.record(two)).status == "failed"
    assert "run a has already committed" in found(job.store.record(two)).error
    assert other.unattended(two, reprocess=True).status == "committed"
    assert job.rows() == [1, 2, 2, 3]


def test_who_is_not_waited_for_waits_for_the_lock(tmp_path):
    job = Job(tmp_path, 1)
    token = job.store.begin(job.plan).token
    with job.store.lock("gc"), pytest.raises(Locked, match="run gc"):
        job.unattended(token)
    assert job.rows() == []
    job.unattended(token)
    assert job.rows() == [1]
    with job.store.lock("gc"):
        pass  # it has been given back


def test_a_lost_lock_stops_the_commits(tmp_path):
    job = Job(tmp_path, 1)
    token = job.store.begin(job.plan).token
    prepared = balanced(job.store, token, job.outputs, job.ledger_uri, job.facts(token))

    def lost():
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        complete(job.store, job.store.prepare(prepared), check=lost)
    assert job.rows() == []


@settings(max_examples=25)
@given(st.randoms())
def test_the_order_of_facts_does_not_matter(tmp_path_factory, source):
    digests = []
    for _ in range(2):
        job = Job(tmp_path_factory.mktemp("order"), 1, 2, 3, 4, dead=0)
        token = job.store.begin(job.plan).token
        facts = job.facts(token)
        source.shuffle(facts)
        record = commit_run(job.store, token, job.outputs, job.ledger_uri, facts)
        digests.append(record.digests)
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_every_crash_of_a_launch_can_be_mended(tmp_path_factory):
    """Died anywhere from begin to record, then launched again with other bundles."""

    def prepare():
        folder = tmp_path_factory.mktemp("crash")
        Job(folder, 0, dead=0).launch("r0")
        Job(folder, 1, 9, dead=2).launch("r1")
        return folder

    points = 0
    for folder in crash_points(lambda folder: _launch(folder, bundles=2), prepare):
        points += 1
        job = _launch(folder, bundles=3)
        assert job.rows() == [0, 2, 3, 9]
        assert len(job.lines("dead")) == 1
        assert sorted(row["read"] for row in job.lines("ledger")) == [1, 4]
        assert job.store.begin(job.plan, "r1").kind == "done"
        job.check_seen_files()
    assert points > 60


def _launch(folder, bundles):
    job = Job(folder, 2, 3, 9, dead=1, bundles=bundles)
    # The process that died is this one, which lives: its lock would stand.
    for path in storage.list_files(f"{folder}/ledger/_millstream/lock"):
        Path(path).unlink()
    job.launch("r1")
    return job


@settings(max_examples=30)
@given(st.lists(st.integers(0, 1), max_size=120))
def test_racing_attempts_of_one_run_commit_once(tmp_path_factory, schedule):
    """A zombie and its successor reach the commit at the same time, each with its own files."""
    folder = tmp_path_factory.mktemp("race")
    jobs = [Job(folder, 1, 2, 3, bundles=bundles) for bundles in (1, 3)]
    token = jobs[0].store.begin(jobs[0].plan).token
    facts = [job.facts(token) for job in jobs]

    def attempt(number):
        job = jobs[number]
        return commit_run(job.store, token, job.outputs, job.ledger_uri, facts[number])

    one, two = interleave(iter(schedule), lambda: attempt(0), lambda: attempt(1))
    assert isinstance(one, RunRecord)
    assert one == two
    assert one.status == "committed"
    job = jobs[0]
    assert job.rows() == [1, 2, 3]
    assert len(job.lines("ledger")) == 1
    assert complete(job.store, found(job.store.prepared(token))) == one
    job.check_seen_files()


def run_pipeline(job, token, batches, tallies):
    seen = f"{job.folder}/seen"
    with beam.Pipeline(RUNNER) as pipeline:
        records = pipeline | "Records" >> beam.Create(batches)
        dead = pipeline | "Dead" >> beam.Create([letters(("a", "9", ["UNREADABLE"]))] * job.dead)
        facts = (
            pipeline | "Tallies" >> beam.Create(tallies),
            records | "StageRecords" >> Stage(job.records, token),
            dead | "StageDead" >> Stage(job.letters, token),
        )
        _ = (
            facts
            | beam.Flatten()
            | CommitRun(job.store, token, job.outputs, job.ledger_uri)
            | beam.Map(lambda record: storage.write_replace(seen, str(record.rows).encode()))
        )
    return Path(seen).read_text()


@pytest.mark.slow
def test_a_pipeline_commits(tmp_path):
    job = Job(tmp_path, 1, 2, 3)
    token = job.store.begin(job.plan).token
    batches = [numbers(1, 2, source="a"), numbers(3, source="b")]
    tallies = [Tally("a", "read", 3), Tally("b", "read", 1)]
    assert run_pipeline(job, token, batches, tallies) == "{'records': 3, 'dead': 1}"
    assert job.rows() == [1, 2, 3]
    assert found(job.store.record(token)).unreadable == ("a @ 9",)
    job.check_seen_files()


@pytest.mark.slow
def test_a_pipeline_that_nobody_waits_for_commits(tmp_path):
    job = Job(tmp_path, 1, 2, dead=0)
    token = job.store.begin(job.plan).token
    with beam.Pipeline(RUNNER) as pipeline:
        commit = CommitRun(job.store, token, job.outputs, job.ledger_uri, unattended=True)
        _ = pipeline | beam.Create(job.facts(token)) | commit
    assert job.rows() == [1, 2]


def test_a_pipeline_without_input_commits(tmp_path):
    job = Job(tmp_path, dead=0)
    token = job.store.begin(job.plan).token
    assert run_pipeline(job, token, [], []) == "{'records': 0, 'dead': 0}"
    assert job.store.begin(job.plan).kind == "done"


@pytest.mark.slow
def test_a_pipeline_that_lost_records_fails(tmp_path):
    job = Job(tmp_path, 1)
    token = job.store.begin(job.plan).token
    with pytest.raises(Exception, match="source a: 1 records missing"):
        run_pipeline(job, token, [numbers(1, source="a")], [Tally("a", "read", 3)])
    assert found(job.store.record(token)).status == "failed"
    assert job.rows() == []
