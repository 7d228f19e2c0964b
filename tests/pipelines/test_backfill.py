"""Backfills of whole jobs: nothing is touched before it is published, and then all is right."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from millstream.pipelines import exit_codes
from millstream.transforms.runs import RunStore

from tests.pipelines.clicks import JobFolder, page_views
from tests.pipelines.test_kill import Left, assert_gone

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "millstream.pipelines.cli", "backfill"]
DAY = ("--from", "2026-11-22", "--to", "2026-11-25")
"""A span with all events of the example."""
AGGREGATES = """
  - name: visits
    window: {session: 30m}
    by: [page]
    metrics: {events: count(), landing: first(user_id), spent: sum(amount)}
    output: parquet:warehouse/visits
  - name: trend
    window: {sliding: 2h, every: 1h}
    by: [event_type]
    metrics: {events: count(), mean: mean(quantity), spent: sum(amount)}
    output: parquet:warehouse/trend
"""
NAMES = ("page_views", "visits", "trend")
GOING_ON = "until: now\nlate: jsonl:warehouse/late\ndisorder: 1h\n"


class Job(JobFolder):
    """The example's job, whose aggregates can be wrong."""

    def add(self, text: str) -> None:
        with open(self.job, "a", encoding="utf-8") as file:
            file.write(text)

    def replace(self, old: str, new: str) -> None:
        path = Path(self.job)
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    def counted(self, output: str) -> Counter[str]:
        return Counter(json.dumps(row, default=str, sort_keys=True) for row in self.table(output))

    def live(self) -> dict[str, tuple[int, bytes]]:
        """All files but those of backfills."""
        return {path: held for path, held in self.snapshot().items() if "/backfills/" not in path}

    def runs(self) -> list[str]:
        store = RunStore(str(self.path / "warehouse" / "ledger"))
        return sorted(run for run in store.runs() if run.startswith("backfill-"))


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> Path:
    return JobFolder.make(tmp_path_factory.mktemp("backfill") / "day", events=600).path


@pytest.fixture
def job(day, tmp_path) -> Job:
    shutil.copytree(day, tmp_path / "job")
    return Job(tmp_path / "job")


@pytest.fixture
def backfill(cli, job):
    """``millstream backfill`` in this process, which has to end well."""

    def run(*flags: str, code: int = exit_codes.OK):
        given = [] if "--from" in flags else DAY
        done = cli("backfill", "--job", job.job, "--parallel", "1", *given, *flags)
        assert done.code == code, done.err
        return done

    return run


def copy_of(job: Job, path: Path) -> Job:
    return Job(Path(shutil.copytree(job.path, path)))


def test_a_corrected_metric_becomes_visible_when_it_is_published(
    job, tmp_path, ingest_here, backfill
):
    job.add(AGGREGATES)
    clean = copy_of(job, tmp_path / "clean")
    assert ingest_here("--job", clean.job).code == exit_codes.OK
    job.replace("sum(amount)", "sum(quantity)")
    job.replace("session: 30m", "session: 10m")
    assert ingest_here("--job", job.job).code == exit_codes.OK
    job.replace("sum(quantity)", "sum(amount)")
    job.replace("session: 10m", "session: 30m")
    before = job.live()
    done = backfill("--partition", "6h", "--report", str(tmp_path / "report.json"))
    assert "nothing of it is visible" in done.out
    assert job.live() == before
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert report["total"]["trend"]["changed"] > 0
    assert report["total"]["trend"]["metrics"]["events"]["changed"] == 0
    assert report["total"]["trend"]["metrics"]["spent"]["changed"] > 0
    assert len(report["parts"]) == 12

    done = backfill("--partition", "6h", "--publish")
    assert "12 of" in done.err or "of 14 parts have been read before" in done.err
    for name in NAMES:
        assert job.counted(name) == clean.counted(name), name
    assert not job.staged()
    done = backfill("--partition", "6h", "--publish")
    assert "published 0 parts" in done.out


def test_what_is_right_is_said_to_be_equal(job, tmp_path, ingest_here, backfill):
    job.add(AGGREGATES)
    assert ingest_here("--job", job.job).code == exit_codes.OK
    for source in ("output", "input"):
        backfill("--source", source, "--report", str(tmp_path / "report.json"))
        total = json.loads((tmp_path / "report.json").read_bytes())["total"]
        for name in NAMES:
            found = total[name]
            assert found["old"] == found["new"] == found["equal"] > 0, (source, name)


def test_only_what_is_asked_is_made_anew(job, ingest_here, backfill):
    job.add(AGGREGATES)
    job.replace("sum(amount)", "sum(quantity)")
    assert ingest_here("--job", job.job).code == exit_codes.OK
    job.replace("sum(quantity)", "sum(amount)")
    before = {name: job.table(name) for name in NAMES}
    backfill(
        "--from", "2026-11-23T06:00Z", "--to", "2026-11-23T12:00Z",
        "--aggregate", "trend", "--publish",
    )  # fmt: skip
    assert job.table("visits") == before["visits"]
    within = [row["window_start"].hour in range(6, 12) for row in before["trend"]]
    assert any(within)
    kept = [row for row, inside in zip(before["trend"], within, strict=True) if not inside]
    now = [row for row in job.table("trend") if row["window_start"].hour not in range(6, 12)]
    key = lambda row: (row["window_start"], row["event_type"])  # noqa: E731
    assert sorted(now, key=key) == sorted(kept, key=key)
    assert sorted(job.table("trend"), key=key) != sorted(before["trend"], key=key)


def test_a_job_without_records_is_made_anew_from_its_input(job, tmp_path, ingest_here, backfill):
    job.replace("output: parquet:warehouse/clicks\n", "deduplicate: run\n")
    Path(job.path / "events" / "again.jsonl").write_bytes(job.files[3].read_bytes())
    clean = copy_of(job, tmp_path / "clean")
    assert ingest_here("--job", clean.job).code == exit_codes.OK
    job.replace("revenue: sum(amount)", "revenue: max(amount)")
    assert ingest_here("--job", job.job).code == exit_codes.OK
    job.replace("revenue: max(amount)", "revenue: sum(amount)")
    job.put("unread.jsonl", job.files[4].read_bytes())
    done = backfill("--publish")
    assert "1 files that no run has read" in done.err
    assert job.counted("page_views") == clean.counted("page_views")


def test_tables_are_replaced_in_one_transaction(job, tmp_path, ingest_here, backfill):
    lake = job.path / "warehouse" / "lake.duckdb"
    lake.parent.mkdir()
    job.add("state: warehouse/state\n")
    for name in ("clicks", "page_views"):
        job.replace(f"parquet:warehouse/{name}", f"duckdb:warehouse/lake.duckdb/{name}")
    job.replace("distinct(user_id)", "distinct(page)")
    assert ingest_here("--job", job.job).code == exit_codes.OK
    job.replace("distinct(page)", "distinct(user_id)")
    before = lake_rows(lake)
    backfill()
    assert lake_rows(lake) == before
    backfill("--publish")
    expected = page_views(job.expected().records)
    assert lake_rows(lake) == Counter(
        (*key[:3], events, revenue, visitors)
        for key, (events, revenue, visitors) in expected.items()
    )
    with duckdb.connect(str(lake)) as db:
        held = db.execute(
            'SELECT count(DISTINCT contribution), sum("rows") FROM page_views__states'
        )
        contributions, records = held.fetchall()[0]
    assert (contributions, records) == (1, sum(job.expected().records.values()))


def lake_rows(lake: Path) -> Counter[Any]:
    with duckdb.connect(str(lake)) as db:
        db.execute("SET TimeZone = 'UTC'")
        rows = db.execute(
            "SELECT window_start, page, event_type, events, revenue, visitors FROM page_views"
        ).fetchall()
    return Counter(rows)


def test_workers_of_a_runner_read_it_too(job, ingest_here, backfill):
    assert ingest_here("--job", job.job).code == exit_codes.OK
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    done = backfill("--partition", "12h", "--runner=FnApiRunner", *workers)
    assert "page_views" in done.out
    units = list((job.path / "warehouse/ledger/_millstream/backfills").glob("*/units/*.json"))
    assert len(units) == 6


def test_only_one_publishes_at_a_time(job, ingest_here, backfill):
    assert ingest_here("--job", job.job).code == exit_codes.OK
    store = RunStore(str(job.path / "warehouse" / "ledger"))
    with store.lock("another"):
        done = backfill("--publish", code=exit_codes.REFUSED)
        assert "another run of this job is at work" in done.err
        backfill()
    backfill("--publish")


def test_a_job_that_goes_on_is_made_anew_up_to_its_open_windows(
    job, tmp_path, ingest_here, backfill
):
    job.add(AGGREGATES + GOING_ON)
    clean = copy_of(job, tmp_path / "clean")
    assert ingest_here("--job", clean.job, "--close_windows").code == exit_codes.OK
    job.replace("sum(amount)", "sum(quantity)")
    assert ingest_here("--job", job.job).code == exit_codes.OK
    done = backfill(code=exit_codes.USAGE)
    latest = re.search(r"the latest is (\S+)", done.err)
    assert latest
    assert ingest_here("--job", job.job, "--close_windows").code == exit_codes.OK
    job.replace("sum(quantity)", "sum(amount)")
    done = backfill("--to", "2026-11-26", "--from", "2026-11-22", code=exit_codes.USAGE)
    until = re.search(r"the latest is (\S+)", done.err)
    assert until
    assert until[1] > latest[1]
    for name in NAMES:
        span = ("--from", "2026-11-22", "--to", last_of(backfill, name))
        backfill("--aggregate", name, "--publish", *span)
        assert job.counted(name) == clean.counted(name), name
        done = backfill("--aggregate", name, "--source", "input", "--publish", *span)
        assert job.counted(name) == clean.counted(name), name


def last_of(backfill, name: str) -> str:
    """The latest end that there is."""
    done = backfill(
        "--from", "2026-11-22", "--to", "2026-12-01", "--aggregate", name, code=exit_codes.USAGE
    )
    found = re.search(r"the latest is (\S+)", done.err)
    assert found
    return found[1]


def test_an_aggregate_that_is_added_gets_its_history(job, tmp_path, ingest_here, backfill):
    job.add(GOING_ON)
    held = {path: path.read_bytes() for path in (job.files[1], *job.files[14:])}
    for path in held:
        path.unlink()
    assert ingest_here("--job", job.job).code == exit_codes.OK
    job.replace(GOING_ON, AGGREGATES + GOING_ON)
    for path, data in held.items():
        path.write_bytes(data)
    assert ingest_here("--job", job.job, "--close_windows").code == exit_codes.OK
    clean = copy_of(job, tmp_path / "clean")
    shutil.rmtree(clean.path / "warehouse")
    assert ingest_here("--job", clean.job, "--close_windows").code == exit_codes.OK
    span = ("--from", "2026-11-22", "--to", last_of(backfill, "visits"))
    done = backfill("--aggregate", "visits", "--publish", *span, code=exit_codes.USAGE)
    assert "late records of these aggregates are open" in done.err
    replay = [*COMMAND[:3], "dead-letters", "replay", "--late", "--job", job.job]
    assert subprocess.run(replay, capture_output=True, timeout=120).returncode == exit_codes.OK
    assert job.counted("trend") != clean.counted("trend")
    for name in ("visits", "trend"):
        span = ("--from", "2026-11-22", "--to", last_of(backfill, name))
        backfill("--aggregate", name, "--publish", *span)
        assert job.counted(name) == clean.counted(name), name


def test_mistakes_are_said_before_anything_is_read(job, ingest_here, backfill):
    assert ingest_here("--job", job.job).code == exit_codes.OK
    wrong = exit_codes.USAGE
    done = backfill("--aggregate", "page_view", code=wrong)
    assert "did you mean" in done.err
    done = backfill("--from", "2026-11-23T00:00:30Z", "--to", "2026-11-24", code=wrong)
    assert "the nearest edges are 2026-11-23 and 2026-11-23T00:01:00Z" in done.err
    assert "is not after" in backfill("--from", "2026-11-24", "--to", "2026-11-23", code=wrong).err
    assert "expected a date" in backfill("--from", "soon", "--to", "2026-11-23", code=wrong).err
    assert "not a multiple" in backfill("--partition", "90s", code=wrong).err
    assert "would read 3 parts; 0 are done" in backfill("--dry_run").out
    assert not (job.path / "warehouse/ledger/_millstream/backfills").exists()


def test_a_backfill_that_is_killed_goes_on(job, tmp_path, ingest_here):
    """SIGKILL anywhere while it reads, and while it publishes."""
    job.add(AGGREGATES)
    clean = copy_of(job, tmp_path / "clean")
    assert ingest_here("--job", clean.job).code == exit_codes.OK
    job.replace("sum(amount)", "sum(quantity)")
    assert ingest_here("--job", job.job).code == exit_codes.OK
    job.replace("sum(quantity)", "sum(amount)")
    whole = copy_of(job, tmp_path / "whole")
    flags = [*DAY, "--partition", "4h", "--parallel", "2", "--publish"]
    started = time.monotonic()
    done = subprocess.run([*COMMAND, "--job", whole.job, *flags], timeout=240, capture_output=True)
    assert done.returncode == exit_codes.OK, done.stderr
    seconds = time.monotonic() - started
    chance = random.Random(20261129)
    backfills = job.path / "warehouse/ledger/_millstream"
    moments = [
        lambda: any(backfills.glob("backfills/*/units/*.json")),
        lambda: len(list(backfills.glob("runs/backfill-*/*/record.json"))) > 1,
        lambda: len(list(backfills.glob("runs/backfill-*/*/prepared.json"))) > 3,
        *(after(chance.uniform(0.3, 0.95) * seconds) for _ in range(2)),
    ]
    killed = 0
    for moment in moments:
        killed += killed_at([*COMMAND, "--job", job.job, *flags], moment, 3 * seconds)
    assert killed >= 3
    done = subprocess.run([*COMMAND, "--job", job.job, *flags], timeout=240, capture_output=True)
    assert done.returncode == exit_codes.OK, done.stderr
    for name in NAMES:
        assert job.counted(name) == clean.counted(name) == whole.counted(name), name
    assert not job.staged()


def after(seconds: float):
    """The moment so long after it is first asked for."""
    began: list[float] = []

    def moment() -> bool:
        began.append(time.monotonic())
        return time.monotonic() - began[0] >= seconds

    return moment


def killed_at(command: list[str], moment, seconds: float) -> bool:
    """Whether a command was at work at a moment, at which it is killed; nothing outlives it."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + seconds
        while process.poll() is None and not moment() and time.monotonic() < until:
            time.sleep(0.01)
        was_at_work = process.poll() is None
        left = Left(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert_gone(left)
    return was_at_work
