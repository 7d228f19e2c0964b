"""Live jobs on Prism over made-up records: stopped, killed and gone on with, and always exact."""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.cli import main
from millstream.schemas.odcs import load_contract
from millstream.transforms.carry import Carry
from millstream.transforms.intervals.chain import Chain
from millstream.transforms.read.generated.inputs import GeneratedInput, parse_input
from millstream.transforms.read.generated.samples import GeneratedLines
from millstream.transforms.read.generated.stream import began_us, partition_of
from millstream.transforms.runs import RunStore

from tests.pipelines.clicks import Expected, JobFolder, Letter, judge, page_views
from tests.pipelines.kafka_jobs import Live

pytestmark = pytest.mark.slow

WINDOW = timedelta(seconds=2)
STREAM = "generate://?rate=2000&broken=0.02&disorder=1s"


@dataclass
class StreamJob:
    """The example's job over made-up records, with short windows."""

    folder: JobFolder
    uri: str

    @classmethod
    def make(cls, path: Path, uri: str = STREAM, lines: str = "", every: float = 1) -> StreamJob:
        folder = JobFolder.make(path)
        job = Path(folder.job)
        text = re.sub(r"input: .*", f"input: {uri}", job.read_text("utf-8"))
        text = text.replace("{fixed: 1m}", "{fixed: 2s}")
        text += f"late: jsonl:warehouse/late\ndisorder: 1s\ncommit_every: {every}\n"
        job.write_text(text + lines, "utf-8")
        return cls(folder, uri)

    def live(self, prism: str, *arguments: str) -> Live:
        """Read on Prism for as long as the block lasts."""
        command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", "--job"]
        flags = ["--streaming", "--runner=PrismRunner", f"--prism_location={prism}"]
        return Live([*command, self.folder.job, *flags, *arguments], self.folder.path / "live.log")

    def run(self, *arguments: str) -> int:
        """Read up to now."""
        return main(["ingest", "--job", self.folder.job, "--until=now", *arguments])

    @property
    def chain(self) -> Chain:
        return Chain(RunStore(str(self.folder.path / "warehouse" / "ledger")))

    def commits(self, more: int) -> Callable[[], bool]:
        """That there are so many commits more than now."""
        wanted = self.chain.newest() + more
        return lambda: self.chain.newest() >= wanted

    @property
    def carry(self) -> Carry:
        head = self.chain.head()
        assert head is not None
        return head.carry

    def expected(self) -> Expected:
        """What must have come out of all records up to the positions that are committed."""
        contract = load_contract(str(self.folder.path / "clickstream.odcs.yaml"))
        carry = self.carry
        began = began_us(carry.sources)
        assert began is not None
        lines = GeneratedLines(contract, self.input, began)
        found = Expected()
        for source, state in carry.sources.items():
            payloads = lines.lines(partition_of(source), 0, state.next).to_pylist()
            found.read[source] += len(payloads)
            for position, payload in enumerate(payloads):
                codes, row = judge(payload)
                if row is None:
                    letter = Letter(source, str(position), payload, tuple(sorted(codes)))
                    found.letters[letter] += 1
                else:
                    found.written[source] += 1
                    found.records[row] += 1
        return found

    @property
    def input(self) -> GeneratedInput:
        return parse_input(self.uri)

    def assert_exact(self) -> Expected:
        """All that was read is where it belongs, once; all windows have been given."""
        expected = self.expected()
        assert self.folder.records() == expected.records
        assert self.folder.letters() == expected.letters
        assert self.folder.table("late", "jsonl") == []
        views = self.folder.page_views()
        assert len(views) == len(self.folder.table("page_views")), "a window was given twice"
        assert views == page_views(expected.records, WINDOW)
        self.assert_balanced()
        return expected

    def assert_balanced(self) -> None:
        """Every commit balances, and begins with what the one before it left open."""
        runs: dict[str, list[dict[str, Any]]] = {}
        for row in self.folder.ledger():
            runs.setdefault(row["run_id"], []).append(row)
        assert sorted(runs) == [f"c{n:010d}" for n in range(1, len(runs) + 1)]
        left: Counter[str] = Counter()
        for run in sorted(runs):
            begun, open_after = Counter[str](), Counter[str]()
            for row in runs[run]:
                out = sum(row[name] for name in _OUTCOMES)
                assert row["open_before"] + row["read"] == out, row
                begun[row["source"]] += row["open_before"]
                open_after[row["source"]] += row["open_after"]
            assert +begun == +left
            left = open_after
        assert not +left


_OUTCOMES = ("written", "dead", "duplicate", "filtered", "late", "open_after")


def test_a_stream_that_is_stopped_goes_on_and_up_to_now_after_it(prism, tmp_path):
    job = StreamJob.make(tmp_path / "job")
    for _ in range(2):
        begun = job.chain.newest()
        with job.live(prism) as live:
            live.until(job.commits(2), 120)
            given = len(job.folder.page_views())
        assert live.code == exit_codes.OK, live.said
        said = re.findall(r"stopped after \d+ s and (\d+) commits: DONE", live.said)
        assert int(said[-1]) == job.chain.newest() - begun
        assert given
    assert job.run("--close_windows") == exit_codes.OK
    assert job.assert_exact().read.total() > 4000
    assert job.folder.staged() == []


def test_windows_are_closed_when_it_stops_if_the_job_says_so(prism, tmp_path):
    job = StreamJob.make(tmp_path / "job")
    with job.live(prism, "--close_windows") as live:
        live.until(job.commits(2), 120)
    assert live.code == exit_codes.OK, live.said
    job.assert_exact()


def test_a_stream_that_ends_is_given_whole(prism, tmp_path):
    """A count, and no pace: all of it is there at once, and then nothing more comes."""
    uri = "generate://?rate=0&count=60000&broken=0.02&disorder=1s"
    job = StreamJob.make(tmp_path / "job", uri, lines="idle: 1s\n")
    with job.live(prism) as live:
        # Once nothing comes, event time goes on with the clock, and the last windows close.
        live.until(lambda: job.chain.newest() > 0 and not any_open(job), 120)
    assert live.code == exit_codes.OK, live.said
    assert job.assert_exact().read.total() == 60_000


def any_open(job: StreamJob) -> bool:
    """Whether something is left to be read, or a window to be closed."""
    carry = job.carry
    if sum(state.next for state in carry.sources.values()) < (job.input.count or 0):
        return True
    return any(windows.records for windows in carry.aggregates.values())


@pytest.mark.parametrize("seed", range(1))
def test_killed_at_any_moment_nothing_is_lost_or_doubled(prism, tmp_path, seed):
    job = StreamJob.make(tmp_path / "job", lines="helpers: 0\n")
    chance = random.Random(seed)
    for _ in range(3):
        with job.live(prism) as live:
            live.until(job.commits(1), 120)
            time.sleep(chance.uniform(0, 2.5))
            live.kill()
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


STEP = """
import os

def through(batch):
    if batch.num_rows and os.path.exists("{path}"):
        raise SystemExit("the step has had enough")
    return batch
"""


def step_of(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lines of a job with a step, in a module that this process and its children can import."""
    (folder / f"{name}.py").write_text(source, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(folder))
    return f'steps: [{{python: "{name}:through"}}]\n'


def test_a_step_that_gives_up_ends_the_job_and_says_why(prism, tmp_path, monkeypatch):
    marker = tmp_path / "enough"
    step = step_of("giving_up", STEP.format(path=marker), tmp_path, monkeypatch)
    job = StreamJob.make(tmp_path / "job", lines=step)
    with job.live(prism) as live:
        live.until(job.commits(2), 120)
        marker.touch()
        live.code = live.process.wait(60)
    assert live.code == exit_codes.FAILED, live.said
    assert "the run failed: SystemExit: the step has had enough" in live.said
    assert "go on by the same command" in live.said
    marker.unlink()
    with job.live(prism) as live:
        live.until(job.commits(2), 120)
    assert live.code == exit_codes.OK, live.said
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


SLOW = """
import time
from millstream.transforms.intervals import slices

commit = slices.commit_interval

def slowly(*args, **kwargs):
    time.sleep(3)
    return commit(*args, **kwargs)

slices.commit_interval = slowly

def through(batch):
    return batch
"""


def test_slices_that_wait_while_a_commit_takes_its_time_are_not_lost(prism, tmp_path, monkeypatch):
    """A runner that divides a bundle of a stateful step gives one key to two workers at once."""
    step = step_of("slow_commits", SLOW, tmp_path, monkeypatch)
    job = StreamJob.make(tmp_path / "job", lines=step, every=0.01)
    with job.live(prism) as live:
        live.until(job.commits(4), 60)
    assert live.code == exit_codes.OK, live.said
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


def test_an_output_that_cannot_be_written_ends_the_job_and_says_which(prism, tmp_path):
    job = StreamJob.make(tmp_path / "job")
    views, away = tmp_path / "job/warehouse/page_views", tmp_path / "away"
    with job.live(prism) as live:
        live.until(job.commits(2), 120)
        views.rename(away)
        views.write_bytes(b"in the way")
        live.code = live.process.wait(120)
    assert live.code == exit_codes.FAILED, live.said
    assert re.search(r"the run failed: .*page_views", live.said)
    views.unlink()
    away.rename(views)
    with job.live(prism) as live:
        live.until(job.commits(2), 120)
    assert live.code == exit_codes.OK, live.said
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


# Up to now, without a runner that streams


def test_runs_up_to_now_add_up(tmp_path):
    job = StreamJob.make(tmp_path / "job", "generate://?rate=0&count=9000&broken=0.02&disorder=1s")
    for count in (2000, 2001, 9000):
        uri = job.uri.replace("9000", str(count))
        assert job.run(f"--input={uri}") == exit_codes.OK
        assert sum(state.next for state in job.carry.sources.values()) == count
    assert job.run("--close_windows") == exit_codes.OK
    assert job.assert_exact().read.total() == 9000


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("generate://?rate=0", "rate=0 has no end: say count=… too, or a rate"),
        ("generate://?rate=0&count=9&cuont=9", "no option 'cuont'; did you mean 'count'?"),
        ("generate://clicks?rate=5", "records are made up by the job's contract"),
    ],
)
def test_mistakes_are_told(tmp_path, capsys, uri, said):
    job = StreamJob.make(tmp_path / "job", uri)
    assert job.run() == exit_codes.USAGE
    assert said in capsys.readouterr().err


def test_other_records_than_those_of_the_last_run_are_refused(tmp_path, capsys):
    job = StreamJob.make(tmp_path / "job", "generate://?rate=0&count=100")
    assert job.run() == exit_codes.OK
    before = job.folder.snapshot()
    assert job.run("--input=generate://?rate=0&count=200&seed=2") == exit_codes.USAGE
    assert "options of generate:// have changed since the last run" in capsys.readouterr().err
    assert job.folder.snapshot() == before
