"""Runs that go on from one another: any cuts add up to what one batch over everything gives."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.cli import main

from tests.pipelines.clicks import Expected, JobFolder, page_views

LATE = "late: jsonl:warehouse/late\n"


class GoingOn(JobFolder):
    """The example's job, run again and again while files arrive."""

    @classmethod
    def begin(cls, path: Path, files: Path) -> GoingOn:
        made = cls.make(path)
        job = Path(made.job)
        text = job.read_text("utf-8").replace("[events/*.jsonl, events/*.jsonl.gz]", "[events/*]")
        job.write_text(text + LATE + "until: now\n", "utf-8")
        shutil.copytree(files, path / "waiting")
        return cls(path)

    @property
    def waiting(self) -> list[Path]:
        """Files that have not arrived yet, the oldest first."""
        return sorted((self.path / "waiting").iterdir())

    def arrive(self, count: int) -> None:
        """Have the next files arrive."""
        for file in self.waiting[:count]:
            file.rename(self.path / "events" / file.name)

    def run(self, *arguments: str) -> int:
        return main(["ingest", "--job", self.job, *arguments])

    def late(self) -> list[dict[str, Any]]:
        return self.table("late", "jsonl")

    def runs(self) -> list[list[dict[str, Any]]]:
        """The ledger, by run."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.ledger():
            found.setdefault(row["run_id"], []).append(row)
        return [found[run] for run in sorted(found)]


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> Path:
    """The files of a day of 4,800 events, each of an hour."""
    return JobFolder.make(tmp_path_factory.mktemp("day") / "day", events=4800).path / "events"


@pytest.fixture
def job(day, tmp_path) -> GoingOn:
    return GoingOn.begin(tmp_path / "job", day)


def assert_as_one_batch(job: GoingOn) -> Expected:
    expected = job.expected()
    assert job.records() == expected.records
    assert job.letters() == expected.letters
    assert len(job.table("page_views")) == len(job.page_views()), "a window was given twice"
    assert job.page_views() == page_views(expected.records)
    return expected


def assert_balanced(job: GoingOn) -> None:
    """Every run balances, and begins with as many open records as the one before it left."""
    left: Counter[str] = Counter()
    for rows in job.runs():
        begun: Counter[str] = Counter()
        for row in rows:
            out = sum(row[n] for n in ("written", "dead", "duplicate", "filtered", "late"))
            assert row["open_before"] + row["read"] == out + row["open_after"], row
            begun[row["source"]] += row["open_before"]
        assert +begun == +left
        left = Counter()
        for row in rows:
            left[row["source"]] += row["open_after"]
    assert not +left


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_runs_add_up_to_one_batch(job, seed):
    chance = random.Random(seed)
    while job.waiting:
        job.arrive(chance.randint(1, 12))
        assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    assert_as_one_batch(job)
    assert_balanced(job)
    assert job.late() == []


def test_a_window_that_is_not_over_stays_open(job, capsys):
    job.arrive(1)
    assert job.run() == exit_codes.OK
    newest = max(row[1] for row in job.expected().records)
    closed = [start + timedelta(minutes=1) for start, *_ in job.page_views()]
    assert max(closed) <= newest - timedelta(minutes=1), "the disorder that is the default"
    assert re.search(r"page_views.*open after", capsys.readouterr().out)
    (rows,) = job.runs()
    (row,) = [row for row in rows if row["output"] == "page_views"]
    assert row["open_after"] > 0


@pytest.mark.slow
def test_nothing_new_is_nothing_to_do(job, capsys):
    job.arrive(2)
    assert job.run() == exit_codes.OK
    before = job.snapshot()
    assert job.run() == exit_codes.OK
    assert "nothing new since run c0000000001: nothing to do" in capsys.readouterr().err
    assert job.snapshot() == before


@pytest.mark.slow
def test_a_first_run_without_input_commits_nothing_but_itself(job):
    assert job.run("--allow_no_input") == exit_codes.OK
    assert (job.records(), job.page_views()) == (Counter(), {})
    job.arrive(24)
    assert job.run("--close_windows") == exit_codes.OK
    assert_as_one_batch(job)


@pytest.mark.slow
def test_files_that_are_gone_need_not_be_kept(job):
    job.arrive(3)
    assert job.run() == exit_codes.OK
    kept = {file.name: file.read_bytes() for file in job.files}
    for file in job.files:
        file.unlink()
    job.arrive(24)
    assert job.run("--close_windows") == exit_codes.OK
    for name, data in kept.items():
        job.put(name, data)
    assert_as_one_batch(job)


@pytest.mark.slow
def test_a_file_that_was_read_and_changes_is_told(job, capsys):
    job.arrive(2)
    assert job.run() == exit_codes.OK
    with job.files[0].open("ab") as file:
        file.write(b"{}\n")
    job.arrive(1)
    before = job.snapshot()
    assert job.run() == exit_codes.USAGE
    said = capsys.readouterr().err
    assert f"{job.files[0]} was read by an earlier run, and has changed since" in said
    assert job.snapshot() == before


@pytest.mark.slow
def test_what_comes_too_late_is_kept_and_told(job):
    job.arrive(4)
    late_file = job.files[0]
    held = late_file.read_bytes()
    late_file.unlink()
    assert job.run() == exit_codes.OK
    job.put(late_file.name, held)
    assert job.run() == exit_codes.OK
    written = 0
    for row in job.runs()[1]:
        if row["output"] == "page_views" and row["read"]:
            assert row["late"] == row["read"] - row["dead"] > 0
        if row["output"] == "records":
            assert row["late"] == 0
            written += row["written"]
    late = job.late()
    assert len(late) == written
    lines = held.splitlines()
    assert all(row["payloadBytes"] in lines for row in late)
    assert {tuple(row["codes"]) for row in late} == {("LATE",)}
    assert {row["attributes"][0]["value"] for row in late} == {"page_views"}
    assert {row["source"] for row in late} == {str(late_file)}
    assert job.records() == job.expected().records, "records are never late"


@pytest.mark.slow
def test_allowed_lateness_corrects_windows_in_a_table(job):
    text = Path(job.job).read_text("utf-8")
    text = text.replace(
        "output: parquet:warehouse/page_views",
        "output: duckdb:warehouse.duckdb/page_views?mode=upsert\n    allowed_lateness: 3h",
    )
    Path(job.job).write_text(text, "utf-8")
    files = job.waiting[:6]
    random.Random(5).shuffle(files)
    for file in files:
        file.rename(job.path / "events" / file.name)
        assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    late = {row["payloadBytes"] for row in job.late()}
    expected = job.expected().records
    with duckdb.connect(str(job.path / "warehouse.duckdb")) as database:
        found = database.execute(
            "SELECT window_start, page, event_type, events, pane FROM page_views"
        ).fetchall()
    views = {(start, page, kind): events for start, page, kind, events, _ in found}
    assert len(views) == len(found)
    ids = {json.loads(payload)["event_id"] for payload in late}
    on_time = Counter({row: n for row, n in expected.items() if row[0] not in ids})
    wanted = {key: value[0] for key, value in page_views(on_time).items()}
    assert {(k[0].astimezone(), *k[1:]): v for k, v in views.items()} == {
        (k[0].astimezone(), *k[1:]): v for k, v in wanted.items()
    }
    assert {pane for *_, pane in found} == {"on_time", "late"}


@pytest.mark.slow
def test_sessions_that_grow_are_given_anew_and_their_old_rows_retracted(job):
    plain = Path(job.job).read_text("utf-8")
    sessions = plain.replace("{fixed: 1m}", "{session: 45m}")
    output = "output: duckdb:warehouse.duckdb/page_views?mode=upsert\n    allowed_lateness: 3d"
    text = sessions.replace("output: parquet:warehouse/page_views", output + "\n    early: true")
    Path(job.job).write_text(text, "utf-8")
    files = job.waiting[:4]
    random.Random(2).shuffle(files)
    for file in files:
        file.rename(job.path / "events" / file.name)
        assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    assert not job.late()
    columns = "window_start, window_end, page, event_type, events, revenue, visitors"
    with duckdb.connect(str(job.path / "warehouse.duckdb")) as database:
        panes = Counter(p for (p,) in database.execute("SELECT pane FROM page_views").fetchall())
        standing = f"SELECT {columns} FROM page_views WHERE pane <> 'retracted'"
        found = Counter(map(str, database.execute(standing).fetchall()))
    assert panes["retracted"] > 0
    batch = re.sub("until: now|late: .*", "", sessions).replace("warehouse/", "batch/")
    (job.path / "batch.yaml").write_text(batch, "utf-8")
    assert main(["ingest", "--job", str(job.path / "batch.yaml")]) == exit_codes.OK
    with duckdb.connect() as database:
        batch = f"SELECT {columns} FROM '{job.path}/batch/page_views/*.parquet'"
        assert found == Counter(map(str, database.execute(batch).fetchall()))


@pytest.mark.slow
def test_early_results_are_told_apart(job):
    text = Path(job.job).read_text("utf-8")
    Path(job.job).write_text(
        text.replace(
            "output: parquet:warehouse/page_views",
            "output: parquet:warehouse/page_views\n    early: true",
        ),
        "utf-8",
    )
    job.arrive(1)
    assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    last: dict[Any, dict[str, Any]] = {}
    for row in sorted(job.table("page_views"), key=lambda row: row["revision"]):
        last[row["window_start"], row["page"], row["event_type"]] = row
    assert {row["pane"] for row in job.table("page_views")} == {"early", "on_time"}
    assert {row["pane"] for row in last.values()} == {"on_time"}
    wanted = {key: value[0] for key, value in page_views(job.expected().records).items()}
    assert {key: row["events"] for key, row in last.items()} == wanted


@pytest.mark.slow
def test_an_aggregate_that_changes_with_windows_open_is_refused(job, capsys):
    job.arrive(1)
    assert job.run() == exit_codes.OK
    text = Path(job.job).read_text("utf-8")
    Path(job.job).write_text(text.replace("by: [page, event_type]", "by: [page]"), "utf-8")
    job.arrive(1)
    assert job.run() == exit_codes.USAGE
    assert re.search(
        r"job.yaml:\d+ aggregates: the aggregate 'page_views' has changed, and \d+ records are in "
        "its open windows",
        capsys.readouterr().err,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--late="], "late is not given"),
        (["--run_id=mine"], "run_id: runs that go on are numbered"),
        (["--until=tomorrow"], "--until: expected '' or 'now', got 'tomorrow'"),
        (["--disorder=soon"], "--disorder: expected a duration"),
        (["--until=", "--late="], ""),
        (["--until="], "late: is for jobs that go on"),
    ],
)
def test_what_cannot_be_meant_is_refused(job, arguments, said, capsys):
    job.arrive(1)
    code = job.run(*arguments)
    assert said in capsys.readouterr().err
    assert code == (exit_codes.USAGE if said else exit_codes.OK)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_killed_is_mended_by_the_next(job, seed):
    chance = random.Random(seed)
    command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", "--job", job.job]
    while job.waiting:
        job.arrive(8)
        killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.8, 2.2))
        killed.kill()
        killed.wait()
    assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    assert_as_one_batch(job)
    assert_balanced(job)


def test_moments_are_of_the_day(day):
    """What the other tests stand on: hours of a day, in the order of their names."""
    names = [file.name for file in sorted(day.iterdir())]
    assert len(names) == 24
    assert all(datetime.strptime(name[:13], "%Y-%m-%d-%H") for name in names)


@pytest.mark.slow
def test_files_that_keep_arriving_are_followed(job):
    text = Path(job.job).read_text("utf-8").replace("until: now\n", "commit_every: 0.2\n")
    Path(job.job).write_text(text, "utf-8")
    command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", "--job", job.job]
    following = subprocess.Popen(
        [*command, "--streaming", "--close_windows"], stdout=subprocess.DEVNULL
    )
    try:
        while job.waiting:
            job.arrive(6)
            arrived = len(job.files)
            deadline = time.monotonic() + 60
            while len({row["source"] for row in job.ledger() if row["read"]}) < arrived:
                assert following.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        following.terminate()
        assert following.wait(60) == exit_codes.OK
    finally:
        following.kill()
    assert_as_one_batch(job)
    assert_balanced(job)
