"""Jobs that go on and keep of each key one record: across runs, slices, partitions and restarts."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.cli import main
from millstream.transforms.carry import Carry
from millstream.transforms.intervals.chain import Chain
from millstream.transforms.intervals.keys import keys_folder
from millstream.transforms.runs import RunStore
from millstream.transforms.storage import list_files

from tests.pipelines.clicks import Expected, JobFolder, Row, page_views
from tests.pipelines.kafka_jobs import Live, Message, TopicJob, events
from tests.services import kafka
from tests.services.kafka import Kafka
from tests.services.serving import free_port, or_skip, serving

ONCE = """\
deduplicate: horizon
horizon: 36h
duplicates: parquet:warehouse/duplicates
"""


def once(records: Counter[Row]) -> Counter[Row]:
    """Each record once: those of one key are alike."""
    assert len({row[0] for row in records}) == len(records)
    return Counter(dict.fromkeys(records, 1))


def carry_of(folder: JobFolder) -> Carry:
    found = Chain(RunStore(str(folder.path / "warehouse/ledger"))).carry()
    assert found is not None
    return found


def assert_duplicates(folder: JobFolder, expected: Counter[Row]) -> None:
    """As many records are duplicates as there are more than one, and they are kept with the places
    that they are from. The files that hold keys are those that the newest commit names."""
    more = Counter(row[0] for row in expected.elements())
    more -= Counter(row[0] for row in expected)
    rows = folder.table("duplicates")
    assert Counter(row["event_id"] for row in rows) == more
    assert len({(row["_source"], row["_position"]) for row in rows}) == more.total()
    ledger = [row for row in folder.ledger() if row["output"] == "records"]
    assert sum(row["duplicate"] for row in ledger) == more.total()
    keys = carry_of(folder).keys
    assert keys is not None
    home = str(folder.path / "warehouse/ledger")
    assert sorted(file.path for file in keys.files) == list_files(keys_folder(home))


# Files


class FilesJob(JobFolder):
    """The example's job over files, of which each comes a second time under another name."""

    @classmethod
    def begin(cls, path: Path, seed: int = 7) -> FilesJob:
        made = cls.make(path, events=2400, seed=seed)
        text = Path(made.job).read_text("utf-8")
        text = text.replace("[events/*.jsonl, events/*.jsonl.gz]", "[events/*]")
        Path(made.job).write_text(f"{text}late: jsonl:warehouse/late\nuntil: now\n{ONCE}", "utf-8")
        (path / "events").rename(path / "waiting")
        (path / "events").mkdir()
        return cls(path)

    def arrive(self, count: int, chance: random.Random) -> bool:
        """Have some files arrive, and some of those that have arrived already come again."""
        arrived = self.files
        for i, file in enumerate(chance.sample(arrived, min(len(arrived), count))):
            shutil.copy(file, file.with_name(f"again-{len(arrived) + i}-{file.name[-16:]}"))
        waiting = sorted((self.path / "waiting").iterdir())
        for file in waiting[:count]:
            file.rename(self.path / "events" / file.name)
        return len(waiting) > count

    def run(self, *arguments: str) -> int:
        return main(["ingest", "--job", self.job, *arguments])

    def assert_exact(self) -> None:
        expected = self.expected()
        records = once(expected.records)
        assert self.records() == records
        assert self.letters() == expected.letters
        assert self.table("late", "jsonl") == []
        assert len(self.table("page_views")) == len(self.page_views()), "a window was given twice"
        assert self.page_views() == page_views(records)
        assert_duplicates(self, expected.records)
        for row in self.ledger():
            out = sum(row[n] for n in ("written", "dead", "duplicate", "filtered", "late"))
            assert row["open_before"] + row["read"] == out + row["open_after"], row


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_runs_over_files_keep_each_record_once(tmp_path, seed):
    chance = random.Random(seed)
    job = FilesJob.begin(tmp_path / "job")
    while job.arrive(chance.randint(2, 9), chance):
        assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


@pytest.mark.slow
def test_keys_are_forgotten_two_horizons_later(tmp_path):
    job = FilesJob.begin(tmp_path / "job")
    chance = random.Random(1)
    counts = []
    while job.arrive(3, chance):
        assert job.run("--horizon=2h") == exit_codes.OK
        keys = carry_of(job).keys
        assert keys is not None
        counts.append(sum(file.rows for file in keys.files))
    assert len(once(job.expected().records)) > 2000
    assert max(counts) < 1500, "of at most nine hours, of which half are still needed"


@pytest.mark.slow
def test_a_job_without_aggregates_and_with_duplicates_that_are_only_counted(tmp_path):
    job = FilesJob.begin(tmp_path / "job")
    chance = random.Random(1)
    arguments = ("--aggregates=[]", "--late=", "--duplicates=")
    while job.arrive(8, chance):
        assert job.run(*arguments) == exit_codes.OK
    assert job.run(*arguments) == exit_codes.OK
    expected = job.expected().records
    assert job.records() == once(expected)
    counted = sum(row["duplicate"] for row in job.ledger())
    assert counted == expected.total() - len(expected)
    assert carry_of(job).watermark > 0


@pytest.mark.slow
def test_without_deduplicate_keys_are_forgotten(tmp_path):
    job = FilesJob.begin(tmp_path / "job")
    chance = random.Random(1)
    job.arrive(2, chance)
    assert job.run() == exit_codes.OK
    home = str(job.path / "warehouse/ledger")
    assert list_files(keys_folder(home))
    job.arrive(2, chance)
    assert job.run("--deduplicate=no", "--horizon=", "--duplicates=") == exit_codes.OK
    assert carry_of(job).keys is None
    assert list_files(keys_folder(home)) == []


@pytest.mark.slow
def test_a_key_that_has_become_another_is_refused(tmp_path, capsys):
    job = FilesJob.begin(tmp_path / "job")
    chance = random.Random(1)
    job.arrive(2, chance)
    assert job.run() == exit_codes.OK
    before = job.snapshot()
    contract = job.path / "clickstream.odcs.yaml"
    text = contract.read_text("utf-8").replace("primaryKey: true", "unique: true", 1)
    text = text.replace("name: user_id\n", "name: user_id\n        primaryKey: true\n", 1)
    contract.write_text(text, "utf-8")
    job.arrive(2, chance)
    assert job.run() == exit_codes.USAGE
    said = capsys.readouterr().err
    assert re.search(
        r"job.yaml:\d+ deduplicate: the primary key is user_id \(string\), and the keys that were "
        r"kept before are event_id \(string\): these cannot be compared",
        said,
    )
    assert job.snapshot() == before


@pytest.mark.slow
def test_keys_that_dead_attempts_left_are_garbage(tmp_path, capsys):
    job = FilesJob.begin(tmp_path / "job")
    job.arrive(2, random.Random(1))
    assert job.run() == exit_codes.OK
    folder = Path(keys_folder(str(job.path / "warehouse/ledger")))
    (named,) = folder.iterdir()
    (folder / "0-left.keys").write_bytes(b"left")
    assert main(["gc", "--job", job.job, "--older_than=0s"]) == exit_codes.OK
    assert "0-left.keys (kept by no commit)" in capsys.readouterr().out
    assert list(folder.iterdir()) == [named]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--horizon="], "deduplicate: say too how far apart records of one key are"),
        (["--deduplicate=no"], "horizon: is of no use without deduplicate: horizon"),
        (["--deduplicate=run"], "horizon: is of no use without deduplicate: horizon"),
        (["--until=", "--late="], "deduplicate: horizon is for jobs that go on"),
        (["--horizon=soon"], "--horizon: expected a duration"),
        (["--horizon=0s"], "--horizon: expected more than nothing, got '0s'"),
        (
            ["--until=", "--streaming", "--deduplicate=run", "--horizon="],
            "no end at which all its records could be compared: say deduplicate: horizon",
        ),
        (
            [
                *("--until=", "--streaming", "--deduplicate=committed", "--horizon="),
                *("--input=kafka://127.0.0.1:1/clicks", "--runner=PrismRunner"),
                f"--prism_location={sys.executable}",  # never run: the job is refused before
            ],
            "no end at which all its records could be compared: say deduplicate: horizon",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, arguments, said, capsys):
    job = FilesJob.begin(tmp_path / "job")
    job.arrive(1, random.Random(1))
    assert job.run(*arguments) == exit_codes.USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("primaryKey: true", "unique: true", "has no primary key"),
        ("property: eventTime", "property: other", "has no event time"),
    ],
)
def test_a_contract_without_a_key_or_a_time_is_refused(tmp_path, capsys, old, new, said):
    job = FilesJob.begin(tmp_path / "job")
    job.arrive(1, random.Random(1))
    contract = job.path / "clickstream.odcs.yaml"
    contract.write_text(contract.read_text("utf-8").replace(old, new), "utf-8")
    assert job.run("--aggregates=[]", "--late=") == exit_codes.USAGE
    assert re.search(f"deduplicate: the contract clicks.* {said}", capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_run_over_files_that_is_killed_is_mended_by_the_next(tmp_path, seed):
    chance = random.Random(seed)
    job = FilesJob.begin(tmp_path / "job")
    command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", "--job", job.job]
    while job.arrive(5, chance):
        killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.8, 2.2))
        killed.kill()
        killed.wait()
    assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    assert main(["gc", "--job", job.job, "--older_than=0s"]) == exit_codes.OK
    job.assert_exact()


# Topics


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    with or_skip("kafka", kafka.why_not, kafka.running) as peer:
        yield peer


class DistinctJob(TopicJob):
    """The example's job over a topic that holds messages more than once."""

    def begin(self, lines: str = "") -> DistinctJob:
        self.write(lines=f"{ONCE}{lines}")
        return self

    def expected(self) -> Expected:
        found = super().expected()
        found.records = once(found.records)
        return found

    def assert_exact(self) -> None:
        super().assert_exact()
        assert_duplicates(self.folder, super().expected().records)


@pytest.fixture
def job(broker, tmp_path) -> DistinctJob:
    made = DistinctJob.make(tmp_path / "job", broker)
    assert isinstance(made, DistinctJob)
    return made.begin()


def with_copies(messages: Sequence[Message], chance: random.Random) -> list[Message]:
    """Messages of which one in three comes again: at once, soon or much later, in any partition."""
    placed: list[tuple[float, Message]] = []
    for i, (partition, payload) in enumerate(messages):
        placed.append((i, (partition, payload)))
        while chance.random() < 0.25:
            later = i + chance.choice([0, chance.uniform(0, 20), chance.uniform(0, 900)])
            placed.append((later, (chance.randrange(4), payload)))
    return [message for _, message in sorted(placed, key=lambda item: item[0])]


@pytest.mark.service
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_runs_over_a_topic_keep_each_record_once(job, seed):
    chance = random.Random(seed)
    waiting = with_copies(events(3000, seed=seed), chance)
    while waiting:
        count = chance.randint(1, 1500)
        job.send(waiting[:count])
        waiting = waiting[count:]
        assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


@pytest.mark.service
@pytest.mark.slow
def test_a_run_over_a_topic_that_is_killed_is_mended_by_the_next(job):
    chance = random.Random(3)
    waiting = with_copies(events(2000, seed=3), chance)
    for piece in (waiting[:900], waiting[900:1800], waiting[1800:]):
        job.send(piece)
        job.run_killed(after=chance.uniform(1.0, 2.5))
    assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    assert main(["gc", "--job", job.folder.job, "--older_than=0s"]) == exit_codes.OK
    job.assert_exact()


@pytest.fixture
def runner(prism) -> list[str]:
    return ["--runner=PrismRunner", f"--prism_location={prism}"]


@pytest.fixture
def endpoint(prism) -> Iterator[list[str]]:
    """The flags of a runner of which it is not known that it is Prism: there keys are held in the
    runner's state."""
    port = free_port()
    with serving([prism, f"--job_port={port}", "--serve_http=false"], port):
        endpoint = ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"]
        yield [*endpoint, "--environment_type=LOOPBACK", "--shards=1"]


def sent(job: TopicJob) -> int:
    return sum(map(len, job.sent.values()))


@pytest.mark.service
@pytest.mark.slow
@pytest.mark.parametrize("rows", [300, 50_000])
def test_a_live_job_keeps_each_record_once(job, runner, rows):
    """Across slices, partitions and a restart, and up to now after it."""
    job.begin(f"commit_every: 1\npoll_rows: {rows}\n")
    waiting = with_copies(events(5000, seed=rows), random.Random(rows))
    third = len(waiting) // 3
    job.send(waiting[:third])
    for piece in (waiting[third : 2 * third], waiting[2 * third :]):
        with job.live(runner) as live:
            live.until(lambda: job.committed() >= sent(job))
            for i in range(0, len(piece), 400):
                job.send(piece[i : i + 400])
                time.sleep(0.1)
            live.until(lambda piece=piece: job.committed() >= sent(job) - len(piece) // 2)
        assert live.code == exit_codes.OK, live.said
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


@pytest.mark.service
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1))
def test_a_live_job_that_is_killed_keeps_each_record_once(job, runner, seed):
    chance = random.Random(seed)
    job.begin("commit_every: 0.5\nhelpers: 0\n")
    waiting = with_copies(events(3000, seed=seed), chance)
    third = len(waiting) // 3
    for piece in (waiting[:third], waiting[third : 2 * third], waiting[2 * third :]):
        before = job.committed()
        with job.live(runner) as live:
            for i in range(0, len(piece), 200):
                job.send(piece[i : i + 200])
                time.sleep(0.1)
            live.until(lambda before=before: job.committed() > before)
            time.sleep(chance.uniform(0, 1.5))
            live.kill()
    assert job.run("--close_windows") == exit_codes.OK
    assert main(["gc", "--job", job.folder.job, "--older_than=0s"]) == exit_codes.OK
    job.assert_exact()


@pytest.mark.service
@pytest.mark.slow
def test_a_live_job_forgets_keys_two_horizons_later(job, runner):
    job.write(lines="deduplicate: horizon\nhorizon: 10s\ncommit_every: 0.5\npoll_rows: 200\n")
    waiting: list[Any] = events(6000, seconds=600, disorder=5)
    with job.live(runner, "--disorder=5s") as live:
        job.send(waiting)
        live.until(lambda: job.committed() >= 6000, 120)
    assert live.code == exit_codes.OK, live.said
    keys = carry_of(job.folder).keys
    assert keys is not None
    # Ten records a second, of 20 s and what the watermark is behind; as many may be forgotten late.
    assert sum(file.rows for file in keys.files) < 1000
    job.assert_balanced()


@pytest.mark.service
@pytest.mark.slow
@pytest.mark.parametrize("rows", [300, 50_000])
def test_a_runner_that_holds_the_keys_keeps_each_record_once(job, endpoint, rows):
    """Prism may have two workers judge at once, which is found out: then the job ends, and goes on
    by the same command."""
    job.begin(f"commit_every: 1\npoll_rows: {rows}\n")
    waiting = with_copies(events(4000, seed=rows), random.Random(rows))
    half = len(waiting) // 2
    for piece in (waiting[:half], waiting[half:]):
        job.send(piece)
        for _ in range(6):
            with job.live(endpoint) as live:
                wait_for(live, lambda: job.committed() >= sent(job))
            if live.code == exit_codes.OK:
                break
            assert "two workers have looked for duplicates at once" in live.said
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


def wait_for(live: Live, is_so: Callable[[], bool]) -> None:
    """Wait for something to be so, or for the job to end."""
    deadline = time.monotonic() + 90
    while not is_so() and live.process.poll() is None:
        assert time.monotonic() < deadline, live.said
        time.sleep(0.1)
