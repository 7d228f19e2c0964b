"""The example job, from its files to what it commits, against a judgement made row by row."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import re
import shutil
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from apache_beam.utils.windowed_value import WindowedValue
from millstream.pipelines import exit_codes
from millstream.transforms.read.files import match_files
from millstream.transforms.runs import RunStore
from millstream.transforms.storage import StorageError
from millstream.transforms.write import commit
from millstream.transforms.write.files import FilesDestination

from tests.pipelines.clicks import (
    EXAMPLE,
    Expected,
    JobFolder,
    Letter,
    as_decimal,
    as_moment,
    grouped,
    ingest,
    judge,
    page_views,
    revenue,
    rows_of,
    visitors,
)

GOOD = {
    "event_id": "5c1d0b8e-6b1f-4f2c-9f0e-7f6a3d1c2b90",
    "ts": "2026-11-23T10:00:00.250Z",
    "user_id": "u7",
    "event_type": "buy",
    "page": "/basket",
    "amount": 12.5,
    "quantity": 2,
    "device": {"os": "linux", "width": 1080},
    "tags": ["new"],
}


def event(**changes) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def slow(value: Any) -> Any:
    """A parameter that only the full test run tries."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="session")
def day_files(tmp_path_factory) -> Path:
    """A day of 2,400 generated events."""
    return JobFolder.make(tmp_path_factory.mktemp("day") / "day", events=2400).path


@pytest.fixture
def day(day_files, tmp_path) -> JobFolder:
    """That day, in a folder of its own."""
    shutil.copytree(day_files, tmp_path / "day")
    return JobFolder(tmp_path / "day")


@pytest.fixture
def folder(tmp_path) -> JobFolder:
    """The example's job, without input so far."""
    made = JobFolder.make(tmp_path / "job")
    job = Path(made.job)
    text = job.read_text("utf-8").replace("[events/*.jsonl, events/*.jsonl.gz]", "[events/*]")
    job.write_text(text, "utf-8")
    return made


@pytest.fixture(scope="module")
def done_day(day_files, tmp_path_factory) -> JobFolder:
    """That day, after the job has run in a process of its own. Not to be changed."""
    path = tmp_path_factory.mktemp("done") / "day"
    shutil.copytree(day_files, path)
    done = ingest("--job", str(path / "job.yaml"))
    assert done.code == exit_codes.OK, done.err
    assert done.err == ""
    (path / "said.txt").write_text(done.out, "utf-8")
    return JobFolder(path)


@pytest.mark.slow
def test_the_generated_day_is_worth_testing_with(done_day):
    expected = done_day.expected()
    assert sum(expected.read.values()) > 2400
    assert expected.records.total() > 2300
    assert {code for letter in expected.letters for code in letter.codes} == {
        *("MALFORMED", "ENCODING", "TYPE", "REQUIRED", "FORMAT", "ENUM", "RANGE")
    }
    assert max(expected.records.values()) == 2, "no event comes twice"


def test_every_record_is_in_exactly_one_output(done_day):
    expected = done_day.expected()
    assert done_day.records() == expected.records
    assert done_day.letters() == expected.letters


def test_a_dead_letter_says_where_it_came_from_and_why(done_day):
    (record,) = (done_day.path / "warehouse/ledger/_millstream/runs").iterdir()
    for letter in done_day.table("dead_letters", "jsonl"):
        assert Path(letter["source"]) in done_day.files
        assert letter["run_id"] == record.name
        assert letter["pipeline"] == "clickstream"
        assert letter["contract_id"] == "5c1d0b8e-6b1f-4f2c-9f0e-7f6a3d1c2b90"
        assert letter["contract_version"] == "1.0.0"
        assert letter["stage"] in ("parse", "validate")
        assert letter["attempt"] == 0
        assert letter["violations"]
        assert all(v["code"] in letter["codes"] and v["message"] for v in letter["violations"])
        assert letter["payloadString"] == letter["payloadBytes"].decode("utf-8", "replace")


def test_one_dead_letter_tells_all_that_is_wrong(done_day):
    both = [le for le in done_day.letters() if le.codes == ("ENUM", "RANGE")]
    assert both, "the generator breaks two rules of one record"


@pytest.mark.slow
def test_windows_are_aggregated_exactly(done_day):
    assert done_day.page_views() == page_views(done_day.expected().records)
    for row in done_day.table("page_views"):
        assert row["window_end"] - row["window_start"] == timedelta(minutes=1)


def test_the_ledger_balances_by_source_and_output(done_day):
    expected = done_day.expected()
    rows = done_day.ledger()
    assert {row["output"] for row in rows} == {"records", "page_views"}
    for output in ("records", "page_views"):
        ours = {Path(row["source"]).name: row for row in rows if row["output"] == output}
        assert {source: row["read"] for source, row in ours.items()} == expected.read
        assert {source: row["written"] for source, row in ours.items()} == expected.written
        assert {source: row["dead"] for source, row in ours.items()} == expected.dead
        for row in ours.values():
            assert row["read"] == row["written"] + row["dead"]
            for other in ("duplicate", "filtered", "late", "open_before", "open_after"):
                assert row[other] == 0


def test_the_run_record_says_what_was_committed(done_day):
    expected = done_day.expected()
    (record,) = RunStore(str(done_day.path / "warehouse/ledger")).committed()
    assert record.status == "committed"
    assert record.rows == {
        "records": expected.records.total(),
        "page_views": len(page_views(expected.records)),
        "dead_letters": expected.letters.total(),
    }
    assert record.unreadable == ()
    assert len(record.ledger) == 2 * len(done_day.files)


def test_what_the_command_prints(done_day):
    said = (done_day.path / "said.txt").read_text("utf-8")
    expected = done_day.expected()
    assert said.count("balanced") == 2
    assert f"{expected.records.total():,} rows  parquet:{done_day.path}/warehouse/clicks" in said
    letters = f"{expected.letters.total():,} rows  jsonl:{done_day.path}/warehouse/dead_letters"
    assert letters in said
    assert ": committed in " in said


def test_only_whole_committed_files_are_visible(done_day):
    folders = {str(Path(name).parent) for name in done_day.visible()}
    assert folders == {
        f"warehouse/{name}" for name in ("clicks", "page_views", "dead_letters", "ledger")
    }
    assert done_day.staged() == []


# Again:


def test_the_same_run_again_changes_nothing(day, ingest_here):
    assert ingest_here("--job", day.job).code == exit_codes.OK
    before = day.snapshot()
    again = ingest_here("--job", day.job)
    assert again.code == exit_codes.OK
    assert "committed already: nothing to do" in again.err
    assert "balanced" in again.out
    assert day.snapshot() == before


@pytest.mark.slow
def test_settings_that_do_not_change_what_comes_out_are_the_same_run(folder, ingest_here):
    folder.put("a.jsonl", event())
    assert ingest_here("--job", folder.job).code == exit_codes.OK
    again = ingest_here("--job", folder.job, "--helpers=0", "--shards=2", "--wait=1")
    assert "nothing to do" in again.err


@pytest.mark.slow
def test_a_run_id_with_other_input_is_replaced(folder, ingest_here):
    folder.put("a.jsonl", event(page="/a") + b"\nnonsense\n")
    first = ingest_here("--job", folder.job, "--run_id", "night")
    assert first.code == exit_codes.OK
    files = set(folder.visible())
    folder.put("a.jsonl", event(page="/b") + b"\n" + event(page="/c"))
    second = ingest_here("--job", folder.job, "--run_id", "night")
    assert second.code == exit_codes.OK
    assert "run night holds another plan, which this one replaces" in second.err
    expected = folder.expected()
    assert folder.records() == expected.records
    assert folder.letters() == Counter()
    assert folder.page_views() == page_views(expected.records)
    assert [row["read"] for row in folder.ledger()] == [2, 2]
    assert not files & set(folder.visible()), "what was replaced is still there"


@pytest.mark.slow
def test_input_that_another_run_committed_is_refused(folder, ingest_here):
    folder.put("a.jsonl", event())
    assert ingest_here("--job", folder.job).code == exit_codes.OK
    folder.put("b.jsonl", event(page="/b"))
    before = folder.snapshot()
    refused = ingest_here("--job", folder.job)
    assert refused.code == exit_codes.REFUSED
    assert refused.out == ""
    assert refused.err.count("\n") == 1
    assert "has already committed" in refused.err
    assert "a.jsonl" in refused.err
    assert folder.snapshot() == before
    allowed = ingest_here("--job", folder.job, "--reprocess")
    assert allowed.code == exit_codes.OK, allowed.err
    assert folder.records() == folder.expected().records + Counter({_row(page="/basket"): 1})


@pytest.mark.slow
def test_new_input_alone_is_a_run_of_its_own(folder, ingest_here):
    folder.put("a.jsonl", event())
    assert ingest_here("--job", folder.job).code == exit_codes.OK
    new = folder.put("b.jsonl", event(page="/b"))
    assert ingest_here("--job", folder.job, "--input", str(new)).code == exit_codes.OK
    assert folder.records() == folder.expected().records
    assert folder.page_views() == page_views(folder.expected().records)


@pytest.mark.slow
def test_a_lock_that_another_run_holds(folder, ingest_here):
    folder.put("a.jsonl", event())
    with RunStore(str(folder.path / "warehouse/ledger")).lock("other"):
        refused = ingest_here("--job", folder.job)
        assert refused.code == exit_codes.REFUSED
        assert refused.err.count("\n") == 1
        assert "another run of this job is at work: run other, process" in refused.err
        assert folder.visible() == []
    assert ingest_here("--job", folder.job).code == exit_codes.OK


# What goes wrong:


@pytest.mark.parametrize("cut", [400, slow(5)])
def test_a_truncated_gzip_file_is_read_as_far_as_it_goes(folder, ingest_here, cut):
    whole = b"".join(event(page=f"/{n}") + b"\n" for n in range(2000))
    data = gzip.compress(whole, mtime=0)
    path = folder.put("a.jsonl.gz", data[:-cut])
    folder.put("b.jsonl", event())
    done = ingest_here("--job", folder.job)
    assert done.code == exit_codes.INCOMPLETE
    assert f"could not be read to its end: {path} @ " in done.err
    assert "balanced" in done.out
    (letter,) = folder.letters()
    assert letter.codes == ("UNREADABLE",)
    start = int(letter.position.removesuffix("-"))
    assert whole[start:].startswith(letter.payload or b"")
    read = whole[:start].splitlines()
    assert Counter(row[4] for row in folder.records().elements()) == Counter(
        [*(json.loads(line)["page"] for line in read), "/basket"]
    )
    (record,) = RunStore(str(folder.path / "warehouse/ledger")).committed()
    assert record.unreadable == (f"{path} @ {start}-",)
    again = ingest_here("--job", folder.job)
    assert again.code == exit_codes.INCOMPLETE, "a run that read not all says so each time"


@pytest.mark.slow
def test_what_is_no_gzip_file_at_all(folder, ingest_here):
    folder.put("a.jsonl.gz", event())
    done = ingest_here("--job", folder.job)
    assert done.code == exit_codes.INCOMPLETE
    assert set(folder.letters()) == {Letter("a.jsonl.gz", "0-", None, ("UNREADABLE",))}


@pytest.mark.parametrize("stage", [slow("read"), "parse"])
def test_a_record_that_gets_lost_fails_the_run(folder, ingest_here, monkeypatch, stage):
    """A stage with a fault in it: nothing becomes visible, and the message says how many."""
    folder.put("a.jsonl", b"".join(event(page=f"/{n}") + b"\n" for n in range(5)))
    lose_a_row(monkeypatch, stage)
    done = ingest_here("--job", folder.job)
    assert done.code == exit_codes.UNBALANCED
    assert done.out == ""
    assert "the run does not balance, and nothing was committed:" in done.err
    assert "output 'records', source " in done.err
    assert re.search("1 records? missing", done.err)
    assert "Traceback" not in done.err
    assert folder.visible() == []
    assert folder.staged() == []
    monkeypatch.undo()
    assert ingest_here("--job", folder.job).code == exit_codes.OK
    assert folder.records() == folder.expected().records


@pytest.mark.slow
def test_a_failure_after_an_unbalanced_run_is_not_taken_for_one(folder, ingest_here, monkeypatch):
    folder.put("a.jsonl", event() + b"\n" + event())
    with monkeypatch.context() as patch:
        lose_a_row(patch, "parse")
        assert ingest_here("--job", folder.job).code == exit_codes.UNBALANCED
    shutil.rmtree(folder.path / "warehouse/clicks", ignore_errors=True)
    (folder.path / "warehouse/clicks").write_text("in the way", "utf-8")
    done = ingest_here("--job", folder.job)
    assert done.code == exit_codes.FAILED
    assert "a part of the path is a file" in done.err
    assert "does not balance" not in done.err


def lose_a_row(patch, stage: str) -> None:
    """Put a fault into a stage: it drops the first row of each batch."""
    from millstream.transforms import parse
    from millstream.transforms.read import json_lines

    faulty = {"read": json_lines._ReadLines, "parse": parse._ParseBatches}[stage]
    real = faulty.process

    def process(self, *arguments):
        for given in real(self, *arguments):
            if isinstance(given, WindowedValue):
                yield given.with_value(given.value.slice(1))
            else:
                yield given.slice(1)

    process.__signature__ = inspect.signature(real)  # pyright: ignore[reportFunctionMemberAccess]
    patch.setattr(faulty, "process", process)


@pytest.mark.parametrize("key", ["output", slow("dead_letters"), "ledger"])
def test_a_place_that_cannot_be_written(folder, ingest_here, key):
    folder.put("a.jsonl", event() + b"\nnonsense\n")
    (folder.path / "file").write_text("in the way", "utf-8")
    place = folder.path / "file" / "below"
    done = ingest_here("--job", folder.job, f"--{key}", f"jsonl:{place}")
    assert done.code == exit_codes.FAILED
    assert done.out == ""
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("millstream: the run failed: cannot ")
    assert f"{place}/" in done.err
    assert "a part of the path is a file, not a folder" in done.err
    assert folder.visible() == []


@pytest.mark.slow
def test_a_commit_that_fails_half_way_is_completed_by_the_same_command(
    folder, ingest_here, monkeypatch
):
    folder.put("a.jsonl", event() + b"\nnonsense\n")
    real = FilesDestination.commit

    def commit_some(self, *arguments):
        if self.name == "dead_letters":
            raise StorageError("cannot write x: the disk is full")
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FilesDestination, "commit", commit_some)
        done = ingest_here("--job", folder.job)
    assert done.code == exit_codes.FAILED
    assert done.err == (
        "millstream: the run failed: cannot write x: the disk is full (in step CommitRun/Commit); "
        "some of it may be visible, and the same command completes it\n"
    )
    assert len(folder.visible()) == 2
    staged = folder.staged()
    assert len(staged) == 1
    again = ingest_here("--job", folder.job)
    assert again.code == exit_codes.OK
    assert "completing what run" in again.err
    assert folder.records() == folder.expected().records
    assert folder.letters() == folder.expected().letters
    assert folder.staged() == []


@pytest.mark.slow
def test_a_runner_that_fails_after_the_commit_fails_nothing(folder, ingest_here, monkeypatch):
    folder.put("a.jsonl", event())
    real = commit.commit_run

    def commit_then_fail(*arguments, **options):
        real(*arguments, **options)
        raise RuntimeError("the lights went out")

    monkeypatch.setattr(commit, "commit_run", commit_then_fail)
    done = ingest_here("--job", folder.job)
    assert done.code == exit_codes.OK
    assert "committed, although the runner failed afterwards: the lights went out" in done.err
    assert "balanced" in done.out
    assert folder.records() == folder.expected().records


def test_a_folder_without_permission(folder, ingest_here, skip_visibly):
    folder.put("a.jsonl", event())
    locked = folder.path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        skip_visibly("no folder is closed to this user (root)")
    done = ingest_here("--job", folder.job, "--output", f"parquet:{locked}/clicks")
    assert done.code == exit_codes.FAILED
    assert "permission denied" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_a_file_that_changes_between_plan_and_reading(folder, ingest_here, monkeypatch):
    path = folder.put("a.jsonl", event())

    def match_then_change(*arguments):
        found = match_files(*arguments)
        path.write_bytes(event(page="/other!"))
        os.utime(path, ns=(1, 1))
        return found

    monkeypatch.setattr("millstream.transforms.read.files.match_files", match_then_change)
    done = ingest_here("--job", folder.job)
    assert done.code == exit_codes.FAILED
    assert "a.jsonl: the file has changed since the run was planned; run again" in done.err
    assert folder.visible() == []


# Shapes of jobs and input:


def _row(**changes: Any) -> Any:
    return judge(event(**changes))[1]


@pytest.mark.slow
def test_an_empty_file_is_in_the_ledger(folder, ingest_here):
    folder.put("empty.jsonl", b"")
    folder.put("blank.jsonl", b"\n  \n\r\n")
    folder.put("empty.jsonl.gz", gzip.compress(b""))
    done = ingest_here("--job", folder.job)
    assert done.code == exit_codes.OK, done.err
    assert {(Path(row["source"]).name, row["read"]) for row in folder.ledger()} == {
        *(("empty.jsonl", 0), ("blank.jsonl", 0), ("empty.jsonl.gz", 0))
    }
    assert folder.records() == Counter()
    assert folder.page_views() == {}


@pytest.mark.slow
def test_no_input_where_that_is_allowed(folder, ingest_here):
    done = ingest_here("--job", folder.job, "--allow_no_input")
    assert done.code == exit_codes.OK, done.err
    assert "(no records)" in done.out
    assert folder.ledger() == []


@pytest.mark.parametrize("form", ["parquet", slow("jsonl")])
def test_records_alone(folder, ingest_here, form):
    bare = event(amount=None, quantity=None, device=None, tags=None)
    folder.put("a.jsonl", event() + b"\n" + bare)
    done = ingest_here(
        *("--job", folder.job, "--aggregates", "[]"),
        *("--output", f"{form}:{folder.path}/warehouse/clicks"),
    )
    assert done.code == exit_codes.OK, done.err
    assert folder.records(form) == folder.expected().records
    assert not (folder.path / "warehouse/page_views").exists()


@pytest.mark.parametrize("form", ["parquet", slow("jsonl")])
def test_aggregates_alone(folder, ingest_here, form):
    folder.put("a.jsonl", b"\n".join(event(user_id=f"u{n % 7}") for n in range(50)))
    spec = (
        (folder.path / "job.yaml")
        .read_text("utf-8")
        .replace("parquet:warehouse/page_views", f"{form}:warehouse/page_views")
    )
    (folder.path / "job.yaml").write_text(spec, "utf-8")
    done = ingest_here("--job", folder.job, "--output", "")
    assert done.code == exit_codes.OK, done.err
    assert folder.page_views(form) == page_views(folder.expected().records)
    assert not (folder.path / "warehouse/clicks").exists()
    assert {row["output"] for row in folder.ledger()} == {"page_views"}


@pytest.mark.slow
def test_dead_letters_as_parquet(folder, ingest_here):
    folder.put("a.jsonl", b"\xff\xfe\n\x00\n" + event(amount="1") + b"\n")
    to = f"parquet:{folder.path}/warehouse/dead_letters"
    assert ingest_here("--job", folder.job, "--dead_letters", to).code == exit_codes.OK
    assert folder.letters("parquet") == folder.expected().letters
    assert folder.letters("parquet").total() == 3


@pytest.mark.slow
def test_several_aggregates_over_long_windows(day, ingest_here):
    aggregates = f"""
- name: types
  window: {{fixed: 6h}}
  by: [event_type]
  metrics:
    {{n: count(), sold: count(amount), revenue: sum(amount), items: sum(quantity),
      least: min(amount), most: max(amount), mean: mean(amount), first: min(ts),
      users: approx_distinct(user_id)}}
  output: parquet:{day.path}/warehouse/types
- name: systems
  window: {{fixed: 1d}}
  by: [device.os]
  metrics: {{n: count()}}
  output: jsonl:{day.path}/warehouse/systems
- name: all
  window: {{fixed: 1d}}
  metrics: {{n: count()}}
  output: jsonl:{day.path}/warehouse/all
"""
    done = ingest_here("--job", day.job, "--aggregates", aggregates)
    assert done.code == exit_codes.OK, done.err
    records = day.expected().records

    def metrics(rows):
        amounts = [row[5] for row in rows if row[5] is not None]
        items = [row[6] for row in rows if row[6] is not None]
        return {
            "n": len(rows),
            "sold": len(amounts),
            "revenue": revenue(rows),
            "least": min(amounts, default=None),
            "most": max(amounts, default=None),
            "first": min(row[1] for row in rows),
            "items": sum(items) if items else None,
        }

    wanted = grouped(records, timedelta(hours=6), (3,), lambda rows: rows)
    found = {(row["window_start"], row["event_type"]): row for row in day.table("types")}
    assert found.keys() == wanted.keys()
    for key, rows in wanted.items():
        exact = metrics(rows)
        assert {name: found[key][name] for name in exact} == exact
        assert found[key]["users"] == pytest.approx(visitors(rows), rel=0.05)
        amounts = [float(row[5]) for row in rows if row[5] is not None]
        mean = sum(amounts) / len(amounts) if amounts else None
        assert found[key]["mean"] == (mean and pytest.approx(mean))
    systems = {
        (as_moment(row["window_start"]), row["device_os"]): row["n"]
        for row in day.table("systems", "jsonl")
    }
    by_os = Counter((row[1].replace(hour=0, minute=0, second=0, microsecond=0), row[7][0])
                    for row in records.elements())  # fmt: skip
    assert systems == by_os
    assert [row["n"] for row in day.table("all", "jsonl")] == [records.total()]
    assert len({row["output"] for row in day.ledger()}) == 4


@pytest.mark.slow
def test_a_key_or_value_that_is_null_is_a_group_and_no_value(folder, ingest_here):
    lines = [event(device=None), event(device={"os": "ios"}, amount=None)]
    folder.put("a.jsonl", b"\n".join(lines))
    aggregates = (
        "[{name: systems, window: {fixed: 1d}, by: [device.os], "
        "metrics: {n: count(), wide: count(device.width), revenue: sum(amount)}, "
        f"output: 'jsonl:{folder.path}/warehouse/systems'}}]"
    )
    assert ingest_here("--job", folder.job, "--aggregates", aggregates).code == exit_codes.OK
    found = {
        row["device_os"]: (row["n"], row["wide"], as_decimal(row["revenue"]))
        for row in folder.table("systems", "jsonl")
    }
    assert found == {None: (1, 0, Decimal("12.5")), "ios": (1, 0, None)}


@pytest.mark.slow
def test_unknown_fields(folder, ingest_here):
    folder.put("a.jsonl", event(colour="red", device={"os": "ios", "cpu": 1.50}) + b"\n" + event())
    spec = ["--job", folder.job, "--run_id", "same"]
    assert ingest_here(*spec).code == exit_codes.OK
    assert "_unknown" not in folder.table()[0]
    assert ingest_here(*spec, "--unknown_fields=keep").code == exit_codes.OK
    kept = {row["_unknown"] for row in folder.table()}
    assert kept == {None, '{"device.cpu":1.5,"colour":"red"}'}
    assert ingest_here(*spec, "--unknown_fields=reject").code == exit_codes.OK
    assert len(folder.table()) == 1
    (letter,) = folder.letters()
    assert letter.codes == ("UNKNOWN_FIELD",)
    (row,) = folder.table("dead_letters", "jsonl")
    assert [v["field"] for v in row["violations"]] == ["device.cpu", "colour"]


@pytest.mark.slow
def test_records_that_are_too_long(folder, ingest_here):
    long = event(page="/" + "x" * 150)
    folder.put("a.jsonl", b"\n".join([event(), long, event(page="/end")]))
    limit = len(long) - 1
    done = ingest_here("--job", folder.job, f"--max_record_bytes={limit}")
    assert done.code == exit_codes.OK, done.err
    start = len(event()) + 1
    (letter,) = folder.letters()
    assert letter == Letter("a.jsonl", f"{start}-{start + len(long)}", None, ("OVERSIZE",))
    assert sorted(row["page"] for row in folder.table()) == ["/basket", "/end"]


@pytest.mark.slow
def test_compression_by_the_flag(folder, ingest_here):
    path = folder.put("plain.log", gzip.compress(event()))
    done = ingest_here("--job", folder.job, "--input", str(path), "--compression=gzip")
    assert done.code == exit_codes.OK, done.err
    assert folder.records() == Counter({_row(): 1})


@pytest.mark.slow
def test_a_file_that_two_patterns_match_is_read_once(folder, ingest_here):
    folder.put("a.jsonl", event())
    both = [f"{folder.path}/events/*.jsonl", f"{folder.path}/events/a*"]
    assert ingest_here("--job", folder.job, "--input", *both).code == exit_codes.OK
    assert folder.records().total() == 1


@pytest.mark.slow
def test_names_that_are_not_ascii(folder, ingest_here):
    folder.put("Zürich 東京.jsonl", event(page="/東京") + b"\nnonsense\n")
    done = ingest_here("--job", folder.job)
    assert done.code == exit_codes.OK, done.err
    assert folder.letters() == folder.expected().letters
    assert folder.records() == folder.expected().records


def test_the_example_is_the_one_of_the_readme():
    readme = (EXAMPLE.parents[1] / "README.md").read_text("utf-8")
    for line in (EXAMPLE / "job.yaml").read_text("utf-8").splitlines():
        assert line in readme


def test_an_expected_result_of_nothing_is_nothing(folder):
    assert folder.expected() == Expected()
    assert rows_of(f"parquet:{folder.path}/warehouse/clicks") == []
