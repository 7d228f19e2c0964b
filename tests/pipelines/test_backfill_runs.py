"""Backfills beside other runs of the job: what these bring in meanwhile is neither lost nor counted
twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.backfill_sources import FromInput
from millstream.transforms.backfill import publish
from millstream.transforms.backfill.comparing import Comparing

from tests.pipelines.clicks import JobFolder
from tests.pipelines.test_backfill import DAY, GOING_ON, Job, lake_rows

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """In the place of SIGKILL."""


@pytest.fixture
def job(tmp_path) -> Job:
    path = JobFolder.make(tmp_path / "job", events=300).path
    (path / "later").mkdir()
    found = Job(path)
    for file in found.files[14:]:
        shutil.move(file, path / "later" / file.name)
    return found


@pytest.fixture
def backfill(cli, job):
    def run(*flags: str):
        return cli("backfill", "--job", job.job, "--parallel", "1", *DAY, *flags)

    return run


def run_of_later_files(job: Job, cli) -> None:
    """Another run, of files that nobody has read, with records in the same windows."""
    later = sorted(map(str, (job.path / "later").iterdir()))
    done = cli("ingest", "--job", job.job, "--input", *later)
    assert done.code == exit_codes.OK, done.err


def test_a_run_completes_what_a_killed_backfill_had_prepared(job, cli, backfill, monkeypatch):
    """Else the rows that it brings would go with those that are replaced."""
    for name in ("clicks", "page_views"):
        job.replace(f"parquet:warehouse/{name}", f"duckdb:warehouse/lake.duckdb/{name}")
    job.add("state: warehouse/state\n")
    lake = job.path / "warehouse" / "lake.duckdb"
    lake.parent.mkdir()
    assert cli("ingest", "--job", job.job).code == exit_codes.OK
    with monkeypatch.context() as patch:
        patch.setattr(publish, "complete", killed)
        with pytest.raises(Killed):
            backfill("--publish")
    run_of_later_files(job, cli)
    before = lake_rows(lake)
    done = backfill()
    assert done.code == exit_codes.OK, done.err
    assert lake_rows(lake) == before
    assert sum(row[3] * rows for row, rows in before.items()) == records_of_all(job)
    assert backfill("--publish").code == exit_codes.OK
    assert sum(row[3] * rows for row, rows in lake_rows(lake).items()) == records_of_all(job)


def test_what_a_backfill_completes_is_compared_again(job, cli, backfill, monkeypatch):
    """A part that was the same before an interrupted run of it was completed may not be after."""
    assert cli("ingest", "--job", job.job).code == exit_codes.OK
    with monkeypatch.context() as patch:
        patch.setattr(publish, "complete", killed)
        with pytest.raises(Killed):
            backfill("--publish")
    compared = []
    known = Comparing.__call__
    monkeypatch.setattr(
        Comparing, "__call__", lambda self, part: compared.append(part) or known(self, part)
    )
    assert backfill("--publish").code == exit_codes.OK
    assert len(compared) == 2 * 3


def test_files_that_a_run_reads_meanwhile_are_not_left_out(job, cli, backfill, monkeypatch):
    assert cli("ingest", "--job", job.job).code == exit_codes.OK
    job.replace("sum(amount)", "max(amount)")
    ready = FromInput.begin

    def begin(self, *arguments) -> None:
        ready(self, *arguments)
        monkeypatch.setattr(FromInput, "begin", ready)
        run_of_later_files(job, cli)

    monkeypatch.setattr(FromInput, "begin", begin)
    whole = ("--input", str(job.path / "events" / "*"), str(job.path / "later" / "*"))
    done = backfill("--source", "input", "--publish", *whole)
    assert done.code == exit_codes.FAILED
    assert "have come or gone" in done.err
    assert backfill("--source", "input", "--publish", *whole).code == exit_codes.OK
    assert sum(row["events"] for row in job.table("page_views")) == records_of_all(job)
    done = backfill("--source", "input")
    later = len(list((job.path / "later").iterdir()))
    assert f"{later:,} files that runs have read are not among the input" in done.err


def test_a_job_that_goes_on_and_has_read_nothing_has_no_history(job, cli, backfill):
    job.add(GOING_ON)
    for file in job.files:
        file.unlink()
    (job.path / "events" / "empty.jsonl").touch()
    for _ in range(2):
        done = backfill()
        assert done.code == exit_codes.USAGE
        assert "has not committed a record yet" in done.err
        assert cli("ingest", "--job", job.job, "--allow_no_input").code == exit_codes.OK


def killed(*_: object, **__: object) -> None:
    raise Killed


def records_of_all(job: Job) -> int:
    """Records of all files that keep the contract, wherever they lie."""
    from tests.pipelines.clicks import expected

    files = [*job.files, *Path(job.path / "later").iterdir()]
    return sum(expected(files).records.values())


def test_a_run_whose_windows_were_made_anew_is_not_replaced(job, cli, backfill, tmp_path):
    """Its records would be counted twice; without the aggregate it is, and a backfill follows."""
    clean = Job(Path(shutil.copytree(job.path, tmp_path / "clean")))
    assert cli("ingest", "--job", job.job, "--run_id", "night").code == exit_codes.OK
    assert backfill("--publish").code == exit_codes.OK
    before = job.live()
    job.put("corrected.jsonl", job.files[0].read_bytes().splitlines()[0])
    done = cli("ingest", "--job", job.job, "--run_id", "night")
    assert done.code == exit_codes.FAILED
    assert "records of run night are counted" in done.err
    assert {path for path in before if "/runs/" not in path} <= job.live().keys()
    text = Path(job.job).read_text("utf-8")
    Path(job.job).write_text(text[: text.index("aggregates:")], "utf-8")
    assert cli("ingest", "--job", job.job, "--run_id", "night").code == exit_codes.OK
    Path(job.job).write_text(text, "utf-8")
    assert backfill("--publish").code == exit_codes.OK
    clean.put("corrected.jsonl", clean.files[0].read_bytes().splitlines()[0])
    assert cli("ingest", "--job", clean.job).code == exit_codes.OK
    assert job.records() == clean.records()
    assert job.counted("page_views") == clean.counted("page_views")


def test_what_the_output_refused_is_brought_in_first(job, cli, backfill):
    """It is in the windows since it was read, and not in the output that history is read from."""
    job.replace("parquet:warehouse/clicks\n", "duckdb:lake.duckdb/clicks\n")
    with duckdb.connect(str(job.path / "lake.duckdb")) as lake:
        lake.execute("CREATE TABLE clicks (event_type VARCHAR, CHECK (event_type <> 'view'))")
    assert cli("ingest", "--job", job.job).code == exit_codes.OK
    before = job.live()
    done = backfill("--publish")
    assert done.code == exit_codes.USAGE
    assert "records that the output has refused are open" in done.err
    assert job.live() == before
    assert backfill("--source", "input", "--publish").code == exit_codes.OK
    discard = ("discard", "--where", "code=DESTINATION", "--reason", "not wanted")
    assert cli("dead-letters", *discard, "--job", job.job).code == exit_codes.OK
    assert backfill("--publish").code == exit_codes.OK
    kinds = {row["event_type"] for row in job.table("page_views")}
    assert "view" not in kinds
    assert kinds


def test_what_a_source_does_not_tell_is_said(job, cli, backfill):
    """Rows that others have taken the place of, and a gate's verdict."""
    job.replace("parquet:warehouse/clicks\n", "duckdb:lake.duckdb/clicks?mode=upsert\n")
    job.add("quality: {action: quarantine, quarantine: 'parquet:aside'}\n")
    contract = job.path / "clickstream.odcs.yaml"
    quality = "    quality:\n    - {metric: rowCount, mustBe: 1}\nslaProperties:"
    contract.write_text(contract.read_text("utf-8").replace("slaProperties:", quality), "utf-8")
    assert cli("ingest", "--job", job.job).code == exit_codes.GATED
    done = backfill("--source", "input")
    assert "records are in quarantine, and in the input" in done.err
    done = backfill()
    assert "holds no record that another has taken the place of" in done.err
    assert "quarantine" not in done.err
