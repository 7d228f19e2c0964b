"""Dead letters that come back: after a replay all is as if the contract had been right at once."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from millstream.pipelines import exit_codes
from millstream.transforms.letters import Marks
from millstream.transforms.runs import RunStore

from tests.pipelines.clicks import Done, JobFolder, ingest, judge, page_views, rows_of

pytestmark = pytest.mark.slow

WRONG, RIGHT = "[view, cart, buy]", "[view, click, cart, buy]"
"""Event types that the contract lets pass: clicks are refused first."""
AGGREGATES = """
  - name: visits
    window: {session: 30m}
    by: [page]
    metrics: {events: count(), landing: first(user_id)}
    output: parquet:warehouse/visits
  - name: trend
    window: {sliding: 2h, every: 1h}
    by: [event_type]
    metrics: {events: count(), mean: mean(quantity)}
    output: parquet:warehouse/trend
"""
GOING_ON = "until: now\nlate: jsonl:warehouse/late\ndisorder: 1h\n"
FAILS = {"ENCODING", "MALFORMED", "REQUIRED", "TYPE", "ENUM", "RANGE", "FORMAT", "LENGTH"}


class Job(JobFolder):
    """The example's job, with a contract that can be wrong."""

    def contract(self, types: str) -> None:
        path = self.path / "clickstream.odcs.yaml"
        text, count = re.subn(r"validValues: \[.*?\]", f"validValues: {types}", path.read_text())
        assert count == 1
        path.write_text(text, "utf-8")

    def add(self, text: str) -> None:
        with open(self.job, "a", encoding="utf-8") as file:
            file.write(text)

    def ingest(self, *flags: str) -> Done:
        done = ingest("--job", self.job, *flags)
        assert done.code == exit_codes.OK, done.err
        return done

    def ingest_with_late_records(self) -> None:
        """Two runs, the second over files whose records are late by then."""
        held = {path: path.read_bytes() for path in (self.files[1], *self.files[14:])}
        for path in held:
            path.unlink()
        self.ingest()
        for path, data in held.items():
            path.write_bytes(data)
        self.ingest()

    def letters_command(self, action: str, *flags: str) -> Done:
        command = [sys.executable, "-m", "millstream.pipelines.cli", "dead-letters", action]
        done = subprocess.run(
            [*command, "--job", self.job, *flags], capture_output=True, text=True, timeout=120
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def replay(self, *flags: str) -> Done:
        done = self.letters_command("replay", *flags)
        assert done.code == exit_codes.OK, done.err
        return done

    def open_letters(self) -> int:
        """How many letters are not settled."""
        rows = self.table("dead_letters", "jsonl")
        marks = Marks(str(self.path / "warehouse" / "ledger"))
        import pyarrow as pa

        ids = pa.array([row["id"] for row in rows], pa.string())
        attempts = pa.array([row["attempt"] for row in rows], pa.int32())
        return sum(
            status in ("open", "failed") for status in marks.statuses(ids, attempts).to_pylist()
        )

    def counted(self, output: str) -> Counter[str]:
        return Counter(json.dumps(row, default=str, sort_keys=True) for row in self.table(output))

    def assert_as_if_right_at_once(self) -> None:
        expected = self.expected()
        assert self.records() == expected.records
        assert self.page_views() == page_views(expected.records)
        assert len(self.table("page_views")) == len(page_views(expected.records))
        assert self.open_letters() == sum(expected.letters.values())
        assert not self.staged()


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> Path:
    return JobFolder.make(tmp_path_factory.mktemp("replay") / "day", events=600).path


@pytest.fixture
def job(day, tmp_path) -> Job:
    shutil.copytree(day, tmp_path / "job")
    job = Job(tmp_path / "job")
    job.contract(WRONG)
    return job


def test_after_a_fix_all_is_as_if_it_had_been_right_at_once(job):
    job.ingest()
    refused = job.open_letters()
    job.contract(RIGHT)
    assert "would replay" in job.replay("--dry_run").out
    assert job.open_letters() == refused
    done = job.replay()
    assert f"replaying {refused} dead letters" in done.err
    job.assert_as_if_right_at_once()
    again = [row for row in job.table("dead_letters", "jsonl") if row["attempt"]]
    assert {row["attempt"] for row in again} == {1}
    first = {
        row["id"]: row["run_id"] for row in job.table("dead_letters", "jsonl") if not row["attempt"]
    }
    assert all(first[row["id"]] == row["replay_of"] for row in again)


def test_twice_is_once(job):
    job.ingest()
    job.contract(RIGHT)
    job.replay()
    failing = sum(job.expected().letters.values())
    done = job.replay()
    assert f"replaying {failing} dead letters" in done.err
    job.assert_as_if_right_at_once()
    assert {row["attempt"] for row in job.table("dead_letters", "jsonl")} == {0, 1, 2}


def test_some_now_and_the_rest_later(job):
    job.ingest()
    job.contract(RIGHT)
    before = job.open_letters()
    source = str(job.files[0])
    job.replay("--where", f"code=ENUM and source={source}")
    assert before > job.open_letters() > sum(job.expected().letters.values())
    job.replay("--where", "code=ENUM")
    expected = job.expected()
    assert job.records() == expected.records
    assert job.page_views() == page_views(expected.records)


def test_what_is_discarded_does_not_come_back(job):
    job.ingest()
    job.contract(RIGHT)
    records = job.records()
    done = job.letters_command("discard", "--where", "code=ENUM", "--reason", "a test")
    assert done.code == exit_codes.OK, done.err
    job.replay()
    assert job.records() == records


def test_a_run_whose_letters_were_replayed_is_not_replaced(job):
    """What was replayed is there already, and would come in a second time."""
    text = Path(job.job).read_text("utf-8")
    Path(job.job).write_text(text[: text.index("aggregates:")], "utf-8")
    job.ingest("--run_id", "night")
    job.contract(RIGHT)
    job.replay()
    records = job.records()
    done = ingest("--job", job.job, "--run_id", "night")
    assert done.code == exit_codes.FAILED
    assert "dead letters of run night were replayed" in done.err
    assert job.records() == records


def test_windows_that_overlap_and_sessions_are_corrected(job, day, tmp_path):
    job.add(AGGREGATES)
    clean = Job(shutil.copytree(job.path, tmp_path / "clean"))
    clean.contract(RIGHT)
    clean.ingest()
    job.ingest()
    job.contract(RIGHT)
    job.replay()
    for output in ("visits", "trend", "page_views"):
        assert job.counted(output) == clean.counted(output), output


@pytest.mark.parametrize("aggregates", ["", AGGREGATES])
def test_a_job_that_goes_on_takes_back_dead_and_late_records(job, tmp_path, aggregates):
    job.add(aggregates + GOING_ON)
    clean = Job(shutil.copytree(job.path, tmp_path / "clean"))
    clean.contract(RIGHT)
    clean.ingest("--close_windows")
    job.ingest_with_late_records()
    late = len({row["id"] for row in job.table("late", "jsonl")})
    assert late > 5
    job.contract(RIGHT)
    job.replay()
    job.replay("--late")
    assert "nothing to replay" in job.replay("--late").out
    job.ingest("--close_windows")
    assert job.records() == clean.records()
    for output in ("visits", "trend", "page_views") if aggregates else ("page_views",):
        assert job.counted(output) == clean.counted(output), output


def test_late_records_that_fail_again_stay_late_and_can_be_replayed_again(job, tmp_path):
    job.add(AGGREGATES + GOING_ON)
    clean = Job(shutil.copytree(job.path, tmp_path / "clean"))
    clean.contract(RIGHT)
    clean.ingest("--close_windows")
    job.contract(RIGHT)
    job.ingest_with_late_records()
    rows, letters = job.table("late", "jsonl"), job.table("dead_letters", "jsonl")
    assert len({row["id"] for row in rows}) < len(rows)  # some are late for several aggregates
    before = {name: job.counted(name) for name in ("visits", "trend", "page_views")}
    job.contract("[no_such_type]")
    job.replay("--late")
    again = [row for row in job.table("late", "jsonl") if row["attempt"] == 1]
    assert late_for(again) == late_for(rows)
    assert {code for row in again for code in row["codes"]} == {"ENUM"}
    assert job.table("dead_letters", "jsonl") == letters
    assert {name: job.counted(name) for name in before} == before
    job.contract(RIGHT)
    job.replay("--late")
    assert "nothing to replay" in job.replay("--late").out
    job.ingest("--close_windows")
    assert job.records() == clean.records()
    for name in before:
        assert job.counted(name) == clean.counted(name), name


def late_for(letters: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Which letters they are, and late for what."""
    return Counter(
        (row["id"], pair["value"])
        for row in letters
        for pair in row["attributes"]
        if pair["key"] == "aggregate"
    )


def test_states_of_another_aggregate_are_not_gone_on_with(job):
    job.add(GOING_ON)
    job.ingest()
    job.contract(RIGHT)
    text = Path(job.job).read_text("utf-8")
    Path(job.job).write_text(text.replace("revenue: sum(amount)", "revenue: max(amount)"), "utf-8")
    before = job.counted("page_views"), job.records()
    done = job.letters_command("replay")
    assert done.code == exit_codes.USAGE
    assert "the aggregate 'page_views' has changed" in done.err
    assert (job.counted("page_views"), job.records()) == before


def test_duplicates_of_what_is_there_already_stay_out(job):
    job.add("deduplicate: run\nduplicates: parquet:warehouse/duplicates\n")
    lines = [
        line
        for path in job.files
        if path.suffix == ".jsonl"
        for line in path.read_bytes().splitlines()
    ]
    twice = [line for line in lines if b'"click"' in line or b'"view"' in line][:40]
    job.put("again.jsonl", b"\n".join(twice))
    job.ingest()
    job.contract(RIGHT)
    job.replay()
    ids = Counter(row["event_id"] for row in job.table())
    assert max(ids.values()) == 1
    assert set(ids) == {row[0] for row in job.expected().records}


def test_in_a_table_the_greatest_revision_stands(job):
    text = Path(job.job).read_text("utf-8")
    database = job.path / "lake.duckdb"
    text = text.replace("parquet:warehouse/page_views", f"duckdb:{database}/views")
    Path(job.job).write_text(text, "utf-8")
    job.ingest()
    job.contract(RIGHT)
    job.replay()
    with duckdb.connect(str(database)) as lake:
        rows: list[Any] = lake.execute(
            "SELECT window_start, page, event_type, events, revenue, visitors FROM views QUALIFY "
            "coalesce(revision, 0) = max(coalesce(revision, 0)) "
            "OVER (PARTITION BY window_start, page, event_type)"
        ).fetchall()
    found = {(row[0].astimezone(), *row[1:3]): row[3:] for row in rows}
    wanted = page_views(job.expected().records)
    assert {(k[0].timestamp(), *k[1:]): v for k, v in found.items()} == {
        (k[0].timestamp(), *k[1:]): v for k, v in wanted.items()
    }


@pytest.mark.parametrize("lateness", ["", "    allowed_lateness: 1h\n"])
def test_in_a_table_of_upserts_a_window_has_one_row(job, lateness, cli):
    """Once its records were replayed, and once it was made anew after that."""
    text = Path(job.job).read_text("utf-8")
    database = job.path / "lake.duckdb"
    upsert = f"duckdb:{database}/views?mode=upsert\n{lateness}"
    text = text.replace("parquet:warehouse/page_views\n", upsert)
    Path(job.job).write_text(text, "utf-8")
    job.add(GOING_ON)
    job.ingest("--close_windows")
    job.contract(RIGHT)
    job.replay()
    select = "SELECT epoch(window_start), page, event_type, events, revenue, visitors FROM views"
    wanted = page_views(job.expected().records)
    expected = sorted(
        ((key[0].timestamp(), *key[1:], *row) for key, row in wanted.items()), key=repr
    )
    assert sorted(lake(job, select), key=repr) == expected
    lake(job, "UPDATE views SET events = 0 WHERE window_start < '2026-11-23 12:00Z'")
    span = ("--from", "2026-11-23", "--to", "2026-11-23T12:00", "--parallel", "1")
    done = cli("backfill", "--job", job.job, *span, "--publish")
    assert done.code == exit_codes.OK, done.err
    assert sorted(lake(job, select), key=repr) == expected


@pytest.mark.parametrize("more", ["", GOING_ON])
def test_what_a_destination_refused_is_counted_once(job, tmp_path, more):
    """It is in the windows since it was read, however often the table refuses it."""
    job.contract(RIGHT)
    text = Path(job.job).read_text("utf-8")
    text = text.replace("parquet:warehouse/clicks\n", "duckdb:lake.duckdb/clicks\n")
    Path(job.job).write_text(text + more, "utf-8")
    flags = ["--close_windows"] if more else []
    clean = Job(shutil.copytree(job.path, tmp_path / "clean"))
    clean.ingest(*flags)
    ((table,),) = lake(clean, "SELECT sql FROM duckdb_tables() WHERE table_name = 'clicks'")
    lake(job, table.rstrip(";").removesuffix(")") + ", CHECK (event_type <> 'view'))")
    job.ingest(*flags)
    every = "SELECT event_id FROM clicks ORDER BY ALL"
    assert 0 < len(lake(job, every)) < len(lake(clean, every))
    job.replay()  # all of which are refused again
    for statement in ("CREATE TABLE kept AS FROM clicks", "DROP TABLE clicks", table):
        lake(job, statement)
    lake(job, "INSERT INTO clicks FROM kept")
    job.replay()
    assert lake(job, every) == lake(clean, every)
    assert job.counted("page_views") == clean.counted("page_views")


def lake(job: Job, statement: str) -> list[Any]:
    with duckdb.connect(str(job.path / "lake.duckdb")) as database:
        return database.execute(statement).fetchall()


def test_keys_that_the_output_does_not_hold_cannot_be_compared(job):
    renamed = "SELECT * EXCLUDE (event_id), event_id AS id FROM records"
    job.add(f"deduplicate: run\nsteps:\n- sql: {renamed}\n")
    job.ingest()
    job.contract(RIGHT)
    before = job.counted("clicks")
    done = job.letters_command("replay")
    assert done.code == exit_codes.USAGE
    assert "the output has no event_id, a field of the key" in done.err
    assert job.counted("clicks") == before


def test_two_at_once_exclude_each_other(job):
    job.ingest()
    with RunStore(str(job.path / "warehouse" / "ledger")).lock("replay"):
        done = job.letters_command("replay")
    assert done.code == exit_codes.REFUSED
    assert "another run of this job is at work" in done.err


@pytest.mark.parametrize("going_on", [False, True])
def test_a_replay_that_is_killed_is_completed(job, going_on):
    if going_on:
        job.add(GOING_ON)
    job.ingest(*(["--close_windows"] if going_on else []))
    job.contract(RIGHT)
    drawn = random.Random(7)
    command = [sys.executable, "-m", "millstream.pipelines.cli", "dead-letters", "replay"]
    for _ in range(6):
        process = subprocess.Popen(
            [*command, "--job", job.job], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(drawn.uniform(0.8, 5))
        process.kill()
        process.wait(60)
    job.replay("--wait", "90")
    expected = job.expected()
    assert job.records() == expected.records
    assert job.page_views() == page_views(expected.records)
    assert job.open_letters() == sum(expected.letters.values())


def test_csv_needs_its_header(tmp_path):
    folder = Job(JobFolder.make(tmp_path / "job").path)
    text = Path(folder.job).read_text("utf-8")
    text = re.sub(r"(?m)^input: .*", "input: events/*.csv", text)
    Path(folder.job).write_text(text, "utf-8")
    contract = folder.path / "clickstream.odcs.yaml"
    head = "page,event_id,ts,user_id,event_type,amount,quantity"
    uuid = "00000000-0000-4000-8000-00000000000"
    lines = [
        f"/a,{uuid}{i},2026-11-29T00:00:0{i}Z,u{i},{'click' if i % 2 else 'view'},1.50,2"
        for i in range(6)
    ]
    folder.put("a.csv", "\n".join([head, *lines, ""]).encode())
    assert contract.exists()
    folder.contract(WRONG)
    folder.ingest()
    assert len(folder.table()) == 3
    folder.contract(RIGHT)
    folder.replay()
    assert len(folder.table()) == 6
    assert len(rows_of(f"parquet:{folder.path}/warehouse/page_views")) == 2


def test_a_mistake_in_the_clauses(job):
    done = job.letters_command("replay", "--where", "colour=red")
    assert done.code == exit_codes.USAGE
    assert "colour" in done.err


def test_what_others_refused_and_fails_again_keeps_its_id(job):
    """Google's tables say neither what a letter is called, nor which attempt it is."""
    job.contract(RIGHT)
    good = next(line for line in job.files[0].read_bytes().splitlines() if judge(line)[1])
    theirs = job.path / "theirs"
    theirs.mkdir()
    rows = [
        {
            "timestamp": f"2026-11-24T00:00:0{n}Z",
            "payloadString": payload.decode(),
            "payloadBytes": None,
            "attributes": [],
            "errorMessage": "cannot parse",
            "stacktrace": None,
        }
        for n, payload in enumerate([good, b"{}", b"{}"])
    ]
    (theirs / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    place = ("--letters", f"jsonl:{theirs}")
    listed = job.letters_command("list", *place, "--json", "--samples", "9").out.splitlines()
    ids = {sample["id"] for line in listed for sample in json.loads(line)["samples"]}
    job.replay(*place)
    assert sum(job.records().values()) == 1
    again = job.table("dead_letters", "jsonl")
    assert [row["attempt"] for row in again] == [1, 1]
    assert len({row["id"] for row in again} & ids) == 2
    assert "nothing to replay" in job.replay(*place).out
