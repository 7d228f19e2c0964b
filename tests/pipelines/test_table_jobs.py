"""Whole jobs whose outputs are tables: what arrives, what is refused, what is said."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from millstream.pipelines import exit_codes
from millstream.transforms.write.duckdb import destination
from millstream.transforms.write.errors import Unavailable

from tests.pipelines.clicks import JobFolder, Letter, expected, page_views, record_row

JOB = """\
name: clickstream
contract: clickstream.odcs.yaml
input: [events/*]
output: duckdb:w.duckdb/clicks
dead_letters: duckdb:w.duckdb/dead_letters
ledger: duckdb:w.duckdb/ledger
state: state
aggregates:
  - name: page_views
    window: {fixed: 1m}
    by: [page, event_type]
    metrics: {events: count(), revenue: sum(amount), visitors: approx_distinct(user_id)}
    output: duckdb:w.duckdb/page_views
"""


class Warehouse:
    """A job over DuckDB tables, and what it made."""

    def __init__(self, path: Path, job: str = JOB):
        self.path = path
        self.events = JobFolder.make(path, events=300)
        self.say(job)

    def say(self, job: str) -> None:
        (self.path / "job.yaml").write_text(job)

    @property
    def job(self) -> str:
        return str(self.path / "job.yaml")

    def rows(self, query: str) -> list:
        with duckdb.connect(str(self.path / "w.duckdb")) as db:
            db.execute("SET TimeZone = 'UTC'")
            cursor = db.execute(query)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def records(self) -> Counter:
        return Counter(map(record_row, self.rows("FROM clicks")))

    def letters(self) -> Counter:
        return Counter(
            Letter(
                Path(row["source"]).name,
                row["position"],
                row["payloadBytes"],
                tuple(sorted(row["codes"])),
            )
            for row in self.rows("FROM dead_letters")
        )

    def page_views(self) -> dict:
        return {
            (row["window_start"], row["page"], row["event_type"]): (
                row["events"],
                row["revenue"],
                row["visitors"],
            )
            for row in self.rows("FROM page_views")
        }

    def ledger(self) -> dict:
        return {
            row["output"]: (row["read"], row["written"], row["dead"])
            for row in self.rows(
                "SELECT output, sum(read)::INT AS read, sum(written)::INT AS written, "
                "sum(dead)::INT AS dead FROM ledger GROUP BY output"
            )
        }


@pytest.fixture
def warehouse(tmp_path) -> Warehouse:
    return Warehouse(tmp_path)


@pytest.mark.slow
def test_everything_goes_to_tables(warehouse, ingest_here):
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.OK, done.err
    found = warehouse.events.expected()
    assert warehouse.records() == found.records
    assert warehouse.letters() == found.letters
    assert warehouse.page_views() == page_views(found.records)
    (states,) = warehouse.rows("SELECT sum(rows)::INT AS held FROM page_views__states")
    written, dead = found.records.total(), found.letters.total()
    assert states == {"held": written}
    both = (written + dead, written, dead)
    assert warehouse.ledger() == {"records": both, "page_views": both}
    assert not list(warehouse.path.rglob("*.staged"))


@pytest.mark.slow
def test_the_second_time_changes_nothing(warehouse, ingest_here):
    ingest_here("--job", warehouse.job)
    before = [warehouse.records(), warehouse.letters(), warehouse.page_views(), warehouse.ledger()]
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.OK
    assert "has been committed already: nothing to do" in done.err
    assert before == [
        warehouse.records(), warehouse.letters(), warehouse.page_views(), warehouse.ledger()
    ]  # fmt: skip


@pytest.mark.slow
def test_what_the_table_refuses_is_a_dead_letter_and_in_the_ledger(warehouse, ingest_here):
    warehouse.rows(
        "CREATE TABLE clicks (event_id VARCHAR, event_type VARCHAR CHECK (event_type <> 'buy'), "
        "amount DECIMAL(12,2))"
    )
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.OK, done.err
    found = warehouse.events.expected()
    bought = sum(n for row, n in found.records.items() if row[3] == "buy")
    written, dead = found.records.total(), found.letters.total()
    assert 0 < bought < written
    assert warehouse.records() == Counter(
        {row: n for row, n in found.records.items() if row[3] != "buy"}
    )
    refused = [row for row in warehouse.rows("FROM dead_letters") if row["stage"] == "write"]
    assert len(refused) == bought
    for row in refused:
        assert json.loads(row["payloadBytes"])["event_type"] == "buy"
        assert (row["codes"], row["contract_version"]) == (["DESTINATION"], "1.0.0")
        assert "CHECK" in row["errorMessage"]
    assert warehouse.ledger() == {
        "records": (written + dead, written - bought, dead + bought),
        "page_views": (written + dead, written, dead),
    }
    assert "balanced" in done.out
    assert warehouse.events.expected().letters == warehouse.letters() - Counter(
        {letter: n for letter, n in warehouse.letters().items() if letter.codes == ("DESTINATION",)}
    )


@pytest.mark.slow
@pytest.mark.parametrize("at", ["before", "after"])
@pytest.mark.parametrize("output", ["records", "dead_letters", "ledger"])
def test_a_commit_that_is_cut_off_is_completed(warehouse, ingest_here, monkeypatch, output, at):
    warehouse.rows("CREATE TABLE clicks (event_type VARCHAR CHECK (event_type <> 'buy'))")
    real = destination.DuckDbDestination.load

    def cut(self, commit, loads):
        if self.name != output:
            return real(self, commit, loads)
        if at == "after":
            real(self, commit, loads)
        raise Unavailable("the line is dead")

    monkeypatch.setattr(destination.DuckDbDestination, "load", cut)
    done = ingest_here("--job", warehouse.job, "--retry_seconds=0")
    assert done.code == exit_codes.FAILED
    assert "the line is dead" in done.err
    assert "the same command completes it" in done.err
    monkeypatch.setattr(destination.DuckDbDestination, "load", real)
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.OK, done.err
    found = warehouse.events.expected()
    written, dead = found.records.total(), found.letters.total()
    bought = sum(n for row, n in found.records.items() if row[3] == "buy")
    assert warehouse.ledger()["records"] == (written + dead, written - bought, dead + bought)
    assert warehouse.records().total() == written - bought
    assert warehouse.letters().total() == dead + bought
    assert not list(warehouse.path.rglob("*.staged"))


@pytest.mark.slow
def test_an_answer_that_is_lost_is_asked_for_again(warehouse, ingest_here, monkeypatch):
    real = destination.DuckDbDestination.load
    lost = {"records", "page_views", "dead_letters", "ledger"}

    def lose(self, commit, loads):
        real(self, commit, loads)
        if self.name in lost:
            lost.remove(self.name)
            raise Unavailable("no answer came")

    monkeypatch.setattr(destination.DuckDbDestination, "load", lose)
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.OK, done.err
    assert not lost
    assert done.err.count("no answer came; asked again in") == 4
    assert warehouse.records() == warehouse.events.expected().records


@pytest.mark.slow
def test_tables_and_files_side_by_side(tmp_path, ingest_here):
    job = JOB.replace("duckdb:w.duckdb/ledger\nstate: state", "jsonl:out/ledger")
    warehouse = Warehouse(tmp_path, job.replace("duckdb:w.duckdb/page_views", "parquet:out/views"))
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.OK, done.err
    assert warehouse.records() == warehouse.events.expected().records
    assert list((tmp_path / "out/views").glob("*.parquet"))
    assert list((tmp_path / "out/ledger").glob("*.jsonl"))


@pytest.mark.slow
def test_an_upsert_keeps_each_key_once(tmp_path, ingest_here):
    job = JOB.replace("w.duckdb/clicks", "w.duckdb/clicks?mode=upsert")
    warehouse = Warehouse(tmp_path, job)
    ingest_here("--job", warehouse.job)
    # Of one key the latest event stands, of events at one time the last of the file that is last.
    last: dict = {}
    for path in warehouse.events.files:
        for row in expected([path]).records:
            if row[0] not in last or row[1] >= last[row[0]][1]:
                last[row[0]] = row
    assert warehouse.records() == Counter(last.values())
    # Read again under another run id: nothing changes.
    done = ingest_here("--job", warehouse.job, "--run_id=again", "--reprocess")
    assert done.code == exit_codes.OK, done.err
    assert warehouse.records() == Counter(last.values())


@pytest.mark.slow
def test_a_run_id_is_not_used_for_another_plan(warehouse, ingest_here):
    assert ingest_here("--job", warehouse.job, "--run_id=night").code == exit_codes.OK
    before = warehouse.records()
    warehouse.events.put("more.jsonl", b"")
    done = ingest_here("--job", warehouse.job, "--run_id=night")
    assert done.code == exit_codes.FAILED
    assert "already holds run night with another plan" in done.err
    assert "give this run another run id" in done.err
    assert warehouse.records() == before


def test_a_table_that_does_not_fit_is_refused_before_the_run(warehouse, ingest_here):
    warehouse.rows("CREATE TABLE clicks (event_id VARCHAR, amount VARCHAR, ts DATE)")
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.USAGE
    assert "job.yaml:4 output: table clicks does not fit" in done.err
    for line in ("- amount VARCHAR", "+ amount DECIMAL(10,2)", "- ts DATE"):
        assert line in done.err
    assert not (warehouse.path / "state").exists(), "nothing was begun"


@pytest.mark.slow
def test_columns_that_a_table_lacks_are_added(warehouse, ingest_here):
    warehouse.rows("CREATE TABLE clicks (event_id VARCHAR, mine INTEGER)")
    warehouse.rows("INSERT INTO clicks VALUES ('old', 7)")
    assert ingest_here("--job", warehouse.job).code == exit_codes.OK
    (old,) = warehouse.rows("FROM clicks WHERE event_id = 'old'")
    assert (old["mine"], old["page"]) == (7, None)
    assert warehouse.records().total() == warehouse.events.expected().records.total() + 1


def edited(old: str, new: str) -> str:
    assert old in JOB
    return JOB.replace(old, new)


@pytest.mark.parametrize(
    ("job", "said"),
    [
        pytest.param(
            edited("state: state\n", ""),
            "job.yaml:6 ledger: the ledger goes to no folder of files: say with state: DIR",
            id="no state",
        ),
        pytest.param(
            edited("w.duckdb/clicks", "w.duckdb/page_views"),
            "job.yaml: outputs 'records' and 'page_views' have the same place",
            id="one table for two outputs",
        ),
        pytest.param(
            edited("w.duckdb/clicks", "w.duckdb/clicks?mode=upsrt"),
            "job.yaml:4 output: duckdb: no mode 'upsrt'; did you mean 'upsert'?",
            id="a misspelt mode",
        ),
        pytest.param(
            edited("w.duckdb/clicks", "w.duckdb/clicks?mode=replace"),
            "job.yaml:4 output: duckdb: mode=replace replaces partitions: say partition_by",
            id="replace without partitions",
        ),
        pytest.param(
            edited("w.duckdb/clicks", "w.duckdb/clicks?mode=upsert&deleted=page"),
            "job.yaml:4 output: deleted=page: no such Boolean column",
            id="a marker that is no Boolean",
        ),
        pytest.param(
            edited("w.duckdb/page_views", "w.duckdb/page_views?mode=upsert"),
            "job.yaml:13 aggregates[0].output: mode=upsert would put a run's own results",
            id="results in place of others'",
        ),
        pytest.param(
            edited("w.duckdb/clicks", "none/w.duckdb/clicks"),
            "there is no folder",
            id="no folder",
        ),
        pytest.param(
            edited("duckdb:w.duckdb/clicks", "duckdb:w.duckdb"),
            "names no table; write duckdb:FILE/TABLE",
            id="no table",
        ),
        pytest.param(
            edited("duckdb:w.duckdb/dead_letters", "'duckdb:'"),
            "job.yaml:5 dead_letters: duckdb: names no place; write duckdb:FILE/TABLE",
            id="nothing",
        ),
    ],
)
def test_a_mistake_is_found_before_the_run(tmp_path, ingest_here, job, said):
    warehouse = Warehouse(tmp_path, job)
    os.chdir(tmp_path)
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.USAGE
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "state").exists()
