"""``millstream gc`` where tables are written to: their rows and tokens, and runs that go on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.cli import main
from millstream.transforms.write.duckdb.destination import DuckDbDestination
from millstream.transforms.write.errors import DestinationError, Unavailable
from millstream.transforms.write.tables import TableDestination

from tests.pipelines.clicks import Done, page_views
from tests.pipelines.test_kill import assert_gone, run_and_kill
from tests.pipelines.test_table_jobs import JOB as TABLES
from tests.pipelines.test_table_jobs import Warehouse

ALL_AGES = (
    "--older_than=0s", "--tokens_older_than=0s", "--states_older_than=0s",
    "--dead_letters_older_than=0s",
)  # fmt: skip
MIXED = TABLES.replace("duckdb:w.duckdb/page_views", "parquet:out/views").replace(
    "duckdb:w.duckdb/dead_letters", "jsonl:out/dead_letters"
)


@pytest.fixture
def warehouse(tmp_path) -> Warehouse:
    return Warehouse(tmp_path)


def counts(warehouse: Warehouse) -> dict[str, int]:
    """Rows of each table."""
    names = [row["table_name"] for row in warehouse.rows("SELECT table_name FROM duckdb_tables()")]
    return {name: warehouse.rows(f"SELECT count(*) AS n FROM {name}")[0]["n"] for name in names}


@pytest.mark.slow
def test_what_is_committed_goes_only_if_asked_for(warehouse, cli, ingest_here):
    assert ingest_here("--job", warehouse.job).code == exit_codes.OK
    before = counts(warehouse)
    done = cli("gc", "--job", warehouse.job, "--older_than=0s")
    assert done == Done(0, "deleted 0 files, 0 bytes\n", "")
    assert counts(warehouse) == before
    assert before["_millstream_commits"] == 4


@pytest.mark.slow
def test_rows_and_tokens_are_counted(warehouse, cli, ingest_here):
    ingest_here("--job", warehouse.job)
    before = counts(warehouse)
    said = cli("gc", "--job", warehouse.job, *ALL_AGES, "--dry_run")
    assert counts(warehouse) == before
    done = cli("gc", "--job", warehouse.job, *ALL_AGES)
    assert (done.code, done.err, said.err) == (0, "", "")
    states, letters = before["page_views__states"], before["dead_letters"]
    *lines, summary = done.out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        *(["1", "tokens", f"duckdb:{warehouse.path}/w.duckdb/{name}"]
          for name in ("clicks", "page_views", "dead_letters", "ledger")),
        [f"{states:,}", "rows", f"duckdb:{warehouse.path}/w.duckdb/page_views__states"],
        [f"{letters:,}", "rows", f"duckdb:{warehouse.path}/w.duckdb/dead_letters"],
    ]  # fmt: skip
    assert "prepared.json (of a recorded run)" in lines[0]
    assert "(partial states before 20" in lines[-2]
    assert summary.startswith("deleted 1 file, ")
    assert summary.endswith(f" bytes, {states + letters:,} rows, 4 tokens")
    assert said.out.splitlines()[-1] == summary.replace("deleted", "would delete")
    assert len(said.out.splitlines()) == len(lines) + 1
    gone = dict.fromkeys(["page_views__states", "dead_letters", "_millstream_commits"], 0)
    assert counts(warehouse) == {**before, **gone}
    assert cli("gc", "--job", warehouse.job, *ALL_AGES).out == "deleted 0 files, 0 bytes\n"


@pytest.mark.slow
@pytest.mark.parametrize("job", [TABLES, MIXED], ids=["tables", "mixed"])
def test_what_is_forgotten_is_not_done_again(tmp_path, cli, ingest_here, job):
    warehouse = Warehouse(tmp_path, job)
    ingest_here("--job", warehouse.job)
    cli("gc", "--job", warehouse.job, *ALL_AGES)
    before = warehouse.records(), warehouse.ledger()
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.OK
    assert "has been committed already: nothing to do" in done.err
    assert (warehouse.records(), warehouse.ledger()) == before
    done = ingest_here("--job", warehouse.job, "--run_id=another")
    assert done.code == exit_codes.REFUSED
    assert "has already committed" in done.err
    assert warehouse.records() == warehouse.events.expected().records


@pytest.mark.slow
def test_a_forgotten_run_id_is_not_used_for_another_plan(warehouse, cli, ingest_here):
    assert ingest_here("--job", warehouse.job, "--run_id=night").code == exit_codes.OK
    cli("gc", "--job", warehouse.job, "--tokens_older_than=0s")
    before = warehouse.records()
    warehouse.events.put("more.jsonl", b"")
    done = ingest_here("--job", warehouse.job, "--run_id=night")
    assert warehouse.records() == before
    assert done.code == exit_codes.FAILED
    assert "of run night under another plan" in done.err
    assert "give this run another run id" in done.err


@pytest.mark.slow
def test_states_of_sessions_go_by_their_end(warehouse, cli, ingest_here):
    """The input is of one day, which is long past: of its sessions the last end late."""
    warehouse.say(TABLES.replace("{fixed: 1m}", "{session: 6h}"))
    ingest_here("--job", warehouse.job)
    (found,) = warehouse.rows(
        "SELECT epoch(max(slice_start)) AS start, epoch(max(session_end)) AS ended, "
        "count(*) FILTER (session_end < (SELECT max(session_end) FROM page_views__states)) AS n "
        "FROM page_views__states"
    )
    assert found["start"] < found["ended"] - 60
    between = int(time.time() - found["ended"]) + 30
    assert between > 0, "the day is in the past"
    cli("gc", "--job", warehouse.job, f"--states_older_than={between}s")
    (left,) = warehouse.rows("SELECT epoch(max(session_end)) AS ended FROM page_views__states")
    assert left["ended"] == found["ended"]


@pytest.mark.slow
def test_services_that_delete_nothing_by_age(warehouse, cli, ingest_here, monkeypatch):
    ingest_here("--job", warehouse.job)
    before = counts(warehouse)
    for name in ("old_tokens", "expire"):
        monkeypatch.setattr(DuckDbDestination, name, getattr(TableDestination, name))
    done = cli("gc", "--job", warehouse.job, *ALL_AGES)
    assert done.code == exit_codes.OK
    assert counts(warehouse) == before
    place = f"millstream: duckdb:{warehouse.path}/w.duckdb"
    for table in ("clicks", "page_views", "dead_letters", "ledger"):
        assert f"{place}/{table}: tokens stay as long as the service keeps them" in done.err
    assert f"{place}/page_views: partial states stay, since the service does not" in done.err
    assert f"{place}/dead_letters: dead letters stay, since the service does not" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("failure", [Unavailable, DestinationError])
def test_a_service_that_fails_does_not_stop_others(
    warehouse, cli, ingest_here, monkeypatch, failure
):
    ingest_here("--job", warehouse.job)
    real = DuckDbDestination.expire

    def fail(self, table, *arguments, **options):
        if table == "page_views__states":
            raise failure("the line is dead")
        return real(self, table, *arguments, **options)

    monkeypatch.setattr(DuckDbDestination, "expire", fail)
    done = cli("gc", "--job", warehouse.job, *ALL_AGES, "--retry_seconds=0")
    assert done.code == exit_codes.FAILED
    assert "millstream: the line is dead\n" in done.err
    left = counts(warehouse)
    assert left["dead_letters"] == left["_millstream_commits"] == 0
    assert left["page_views__states"] > 0
    assert " rows, 4 tokens" in done.out.splitlines()[-1]


@pytest.mark.slow
def test_a_run_that_starts_meanwhile_is_refused(warehouse, cli, ingest_here, monkeypatch):
    ingest_here("--job", warehouse.job)
    warehouse.events.put("more.jsonl", b"")
    codes = []

    def slow(self, *arguments, **options):
        codes.append(main(["ingest", "--job", warehouse.job]))
        return 0

    monkeypatch.setattr(DuckDbDestination, "expire", slow)
    done = cli("gc", "--job", warehouse.job, *ALL_AGES)
    assert done.code == exit_codes.OK
    assert codes == [exit_codes.REFUSED] * 2
    assert done.err.count("another run of this job is at work: run gc") == 2


@pytest.mark.slow
@pytest.mark.parametrize("at", ["before", "after"])
@pytest.mark.parametrize(
    ("job", "output"),
    [
        pytest.param(TABLES, "records", id="tables-records"),
        pytest.param(TABLES, "page_views", id="tables-page_views"),
        pytest.param(TABLES, "dead_letters", id="tables-dead_letters"),
        pytest.param(TABLES, "ledger", id="tables-ledger"),
        pytest.param(MIXED, "records", id="mixed-records"),
    ],
)
def test_a_run_that_was_cut_off_is_completed_after_gc(
    tmp_path, cli, ingest_here, monkeypatch, job, output, at
):
    warehouse = Warehouse(tmp_path, job)
    warehouse.rows("CREATE TABLE clicks (event_type VARCHAR CHECK (event_type <> 'buy'))")
    real = DuckDbDestination.load

    def cut(self, commit, loads):
        if self.name != output:
            return real(self, commit, loads)
        if at == "after":
            real(self, commit, loads)
        raise DestinationError("the line is dead")

    monkeypatch.setattr(DuckDbDestination, "load", cut)
    assert ingest_here("--job", warehouse.job).code == exit_codes.FAILED
    monkeypatch.setattr(DuckDbDestination, "load", real)
    swept = cli("gc", "--job", warehouse.job, *ALL_AGES)
    assert swept.code == exit_codes.OK
    assert "keeps its files" in swept.err
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.OK, done.err
    found = warehouse.events.expected()
    written, dead = found.records.total(), found.letters.total()
    bought = sum(n for row, n in found.records.items() if row[3] == "buy")
    assert warehouse.records().total() == written - bought
    assert warehouse.ledger() == {
        "records": (written + dead, written - bought, dead + bought),
        "page_views": (written + dead, written, dead),
    }
    assert not list(tmp_path.rglob("*.staged"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc (Linux)")
@pytest.mark.parametrize("there", ["staging/*/*/*", "runs/*/*/prepared.json"])
def test_a_run_that_was_killed_is_mended_after_gc(warehouse, cli, ingest_here, there):
    state = warehouse.path / "state/_millstream"
    assert_gone(run_and_kill(warehouse.events, lambda: any(state.glob(there))))
    swept = cli("gc", "--job", warehouse.job, *ALL_AGES)
    assert swept.code == exit_codes.OK, swept.err
    done = ingest_here("--job", warehouse.job)
    assert done.code == exit_codes.OK, done.err
    found = warehouse.events.expected()
    assert warehouse.records() == found.records
    assert warehouse.page_views() == page_views(found.records)
    assert not list(warehouse.path.rglob("*.staged"))
