"""A job with everything: repeated keys, steps, all windows; on every runner that starts here.

What must come out is found row by row, in plain Python, from the input.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from millstream.pipelines import exit_codes

from tests.pipelines import clicks
from tests.pipelines.clicks import Done, JobFolder, Row, ingest

pytestmark = pytest.mark.slow

STEPS = """
- sql: >
    SELECT * REPLACE (upper(page) AS page), CAST(amount * 0.9 AS DECIMAL(12, 3)) AS net,
      100 // (quantity - 4) AS ratio, CAST(substr(user_id, 2) AS INTEGER) AS user_number
    FROM records WHERE event_type <> 'cart'
- python: job_steps:no_searches
- {python: "job_steps:marked", over: row, adds: {mark: string}}
"""
FUNCTIONS = """
import pyarrow.compute as pc


def no_searches(batch):
    return batch.filter(pc.not_equal(batch["page"], "/SEARCH"))


def marked(record):
    if record["user_number"] % 97 == 0:
        raise LookupError("no such user")
    return {**record, "mark": f"{record['page']}!"}
"""
AGGREGATES = """
- name: sliding
  window: {sliding: 3h, every: 1h}
  by: [event_type]
  metrics: {events: count(), spread: stddev(amount), gross: "sum(net * 2)"}
  output: parquet:warehouse/sliding
- name: sessions
  window: {session: 20m}
  by: [user_id]
  metrics: {events: count(), first: first(page), buys: "count_if(event_type = 'buy')"}
  output: parquet:warehouse/sessions
- name: daily
  window: {daily: Australia/Lord_Howe}
  by: []
  metrics: {events: count(), net: sum(net), middle: "quantile(amount, 0.5)"}
  output: parquet:warehouse/daily
"""
FLAGS = [
    *("--job", "job.yaml", "--deduplicate", "run", "--duplicates", "parquet:warehouse/duplicates"),
    *("--steps", STEPS, "--aggregates", AGGREGATES),
    *("--output", "parquet:warehouse/clicks?partition_by=date(ts),event_type"),
]


class Outcome(NamedTuple):
    """What must become of the records that keep the contract."""

    written: list[Row]  # with net, ratio, user_number, mark
    duplicate: int
    filtered: int
    failed: int


def expected(files: list[Path]) -> Outcome:
    first: dict[str, tuple[Any, Row]] = {}
    duplicate = 0
    for path in sorted(files):
        for position, payload in clicks.lines(clicks.contents(path)):
            _, row = clicks.judge(payload)
            if row is None:
                continue
            place = (row[1], str(path), position)
            if row[0] in first:
                duplicate += 1
            if row[0] not in first or place < first[row[0]][0]:
                first[row[0]] = (place, row)
    written, filtered, failed = [], 0, 0
    for _, row in first.values():
        kind, page, amount, quantity = row[3], row[4].upper(), row[5], row[6]
        number = int(row[2][1:])
        if kind == "cart":
            filtered += 1
        elif quantity == 4:  # which divides by zero
            failed += 1
        elif page == "/SEARCH":
            filtered += 1
        elif number % 97 == 0:
            failed += 1
        else:
            net = None if amount is None else amount * Decimal("0.9")
            ratio = None if quantity is None else math.trunc(100 / (quantity - 4))
            written.append((*row[:4], page, *row[5:], net, ratio, number, f"{page}!"))
    return Outcome(written, duplicate, filtered, failed)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return JobFolder.make(tmp_path_factory.mktemp("widened") / "job", events=4800).path / "events"


@pytest.fixture(scope="module")
def outcome(files) -> Outcome:
    return expected(list(files.iterdir()))


def run(files: Path, tmp_path: Path, *flags: str) -> tuple[JobFolder, Done]:
    folder = JobFolder.make(tmp_path / "job")
    shutil.copytree(files, folder.path / "events", dirs_exist_ok=True)
    (folder.path / "job_steps.py").write_text(FUNCTIONS)
    return folder, ingest(*FLAGS, *flags, cwd=folder.path, seconds=240)


def windows_of(name: str) -> Callable[[list[Row]], Iterator[tuple[datetime, datetime, list[Row]]]]:
    return {"sliding": _sliding, "sessions": _sessions, "daily": _daily}[name]


def _sliding(rows: list[Row]) -> Iterator[tuple[datetime, datetime, list[Row]]]:
    hour = timedelta(hours=1)
    starts = {row[1].replace(minute=0, second=0, microsecond=0) for row in rows}
    for start in sorted({start - hour * back for start in starts for back in range(3)}):
        inside = [row for row in rows if start <= row[1] < start + 3 * hour]
        yield start, start + 3 * hour, inside


def _sessions(rows: list[Row]) -> Iterator[tuple[datetime, datetime, list[Row]]]:
    gap = timedelta(minutes=20)
    session: list[Row] = []
    for row in sorted(rows, key=lambda row: row[1]):
        if session and row[1] - session[-1][1] >= gap:
            yield session[0][1], session[-1][1] + gap, session
            session = []
        session.append(row)
    yield session[0][1], session[-1][1] + gap, session


def _daily(rows: list[Row]) -> Iterator[tuple[datetime, datetime, list[Row]]]:
    zone = ZoneInfo("Australia/Lord_Howe")
    for day in sorted({row[1].astimezone(zone).date() for row in rows}):
        start, end = (
            datetime(d.year, d.month, d.day, tzinfo=zone).astimezone(UTC)
            for d in (day, day + timedelta(days=1))
        )
        yield start, end, [row for row in rows if row[1].astimezone(zone).date() == day]


def grouped(name: str, rows: list[Row], key: int | None) -> dict[Row, list[Row]]:
    """(window's start and end, key) → its rows."""
    by_key: dict[Any, list[Row]] = {}
    for row in rows:
        by_key.setdefault(() if key is None else (row[key],), []).append(row)
    return {
        (start, end, *keys): inside
        for keys, ours in by_key.items()
        for start, end, inside in windows_of(name)(ours)
    }


def check(folder: JobFolder, done: Done, outcome: Outcome) -> None:
    assert done.code == exit_codes.OK, done.err
    uri = "parquet:" + str(folder.path / "warehouse/clicks?partition_by=date(ts),event_type")
    found = Counter(
        (*clicks.record_row({**row, "event_type": kind}),
         row["net"], row["ratio"], row["user_number"], row["mark"])
        for kind, rows in _by_partition(uri).items()
        for row in rows
    )  # fmt: skip
    assert found == Counter(outcome.written)
    assert len(folder.table("duplicates")) == outcome.duplicate
    letters = folder.table("dead_letters", "jsonl")
    failed = [letter for letter in letters if letter["codes"] == ["STEP"]]
    assert len(failed) == outcome.failed
    assert {letter["stage"] for letter in failed} == {"step"}
    for letter in failed:  # it can come back: these are the bytes that the source held
        (path,) = [p for p in folder.files if p.name == Path(letter["source"]).name]
        at = int(letter["position"])
        assert clicks.contents(path)[at:].split(b"\n")[0] == letter["payloadBytes"]
    for row in folder.ledger():
        assert row["read"] == sum(
            row[name] for name in ("written", "dead", "duplicate", "filtered", "late")
        )
    for output in ("records", "sliding", "sessions", "daily"):
        ours = [row for row in folder.ledger() if row["output"] == output]
        assert sum(row["duplicate"] for row in ours) == outcome.duplicate
        assert sum(row["filtered"] for row in ours) == outcome.filtered
        assert sum(row["written"] for row in ours) == len(outcome.written)
    check_aggregates(folder, outcome.written)
    assert folder.staged() == []
    assert list((folder.path / "warehouse").rglob("_deduplicate")) == []


def check_aggregates(folder: JobFolder, rows: list[Row]) -> None:
    expected = grouped("sliding", rows, 3)
    found = {_key(row, "event_type"): row for row in folder.table("sliding")}
    assert found.keys() == expected.keys()
    for key, inside in expected.items():
        amounts = [float(row[5]) for row in inside if row[5] is not None]
        assert found[key]["events"] == len(inside)
        assert found[key]["gross"] == _sum([row[9] for row in inside], 2)
        spread = statistics.stdev(amounts) if len(amounts) > 1 else None
        assert found[key]["spread"] == (None if spread is None else pytest.approx(spread))

    expected = grouped("sessions", rows, 2)
    found = {_key(row, "user_id"): row for row in folder.table("sessions")}
    assert found.keys() == expected.keys()
    for key, inside in expected.items():
        assert found[key]["events"] == len(inside)
        assert found[key]["buys"] == sum(row[3] == "buy" for row in inside)
        assert found[key]["first"] == min((row[1], row[4]) for row in inside)[1]

    expected = grouped("daily", rows, None)
    found = {_key(row): row for row in folder.table("daily")}
    assert found.keys() == expected.keys()
    for key, inside in expected.items():
        amounts = sorted(float(row[5]) for row in inside if row[5] is not None)
        assert found[key]["events"] == len(inside)
        assert found[key]["net"] == _sum([row[9] for row in inside], 1)
        rank = sum(amount <= found[key]["middle"] for amount in amounts) / len(amounts)
        assert rank == pytest.approx(0.5, abs=0.03)


def _key(row: dict[str, Any], *keys: str) -> Row:
    return (row["window_start"], row["window_end"], *(row[name] for name in keys))


def _sum(values: list[Decimal | None], times: int) -> Decimal | None:
    present = [value for value in values if value is not None]
    return sum(present, Decimal(0)) * times if present else None


def _by_partition(uri: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of the folders of each event type, of which the files do not tell."""
    import pyarrow.parquet as pq
    from millstream.transforms.write.files import live_files

    found: dict[str, list[dict[str, Any]]] = {}
    for path in map(Path, live_files(uri)):
        day, kind = path.parent.parent.name, path.parent.name.removeprefix("event_type=")
        rows = pq.ParquetFile(path).read().to_pylist()
        assert {f"ts_date={row['ts']:%Y-%m-%d}" for row in rows} == {day}
        found.setdefault(kind, []).extend(rows)
    return found


def test_one_process(files, tmp_path, outcome):
    check(*run(files, tmp_path, "--helpers=0"), outcome)
    assert outcome.failed > 100
    assert outcome.duplicate > 10
    assert outcome.filtered > 500


def test_several_shards(files, tmp_path, outcome):
    check(*run(files, tmp_path, "--shards=5", "--helpers=1"), outcome)


def test_several_worker_processes(files, tmp_path, outcome):
    processes = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    check(*run(files, tmp_path, *processes), outcome)


@pytest.mark.service
def test_prism(files, tmp_path, outcome, prism):
    flags = ["--runner=PrismRunner", f"--prism_location={prism}"]
    check(*run(files, tmp_path, *flags), outcome)


def test_what_another_run_has_committed_is_a_duplicate(files, tmp_path):
    folder = JobFolder.make(tmp_path / "job")
    shutil.copytree(files, folder.path / "events", dirs_exist_ok=True)
    flags = ["--job", "job.yaml", "--deduplicate", "committed"]
    inputs = sorted(str(path) for path in folder.files)
    done = ingest(*flags, "--input", *inputs[:12], cwd=folder.path)
    assert done.code == exit_codes.OK, done.err
    again = folder.put("again.jsonl", clicks.contents(folder.files[3]) + b'{"event_id": "x"}\n')
    done = ingest(*flags, "--input", str(again), *inputs[12:], cwd=folder.path)
    assert done.code == exit_codes.OK, done.err
    ids = [row["event_id"] for row in folder.table()]
    valid = folder.expected().records
    assert Counter(ids) == Counter({row[0] for row in valid})
    (ours,) = [
        row for row in folder.ledger()
        if row["source"] == str(again) and row["output"] == "records"
    ]  # fmt: skip
    assert ours["written"] == 0
    assert ours["duplicate"] == ours["read"] - ours["dead"] > 100
