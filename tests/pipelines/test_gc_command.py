"""``millstream gc``: what it deletes, what it says, when it refuses."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
from millstream.transforms.plan import InputFile, Plan
from millstream.transforms.receipts import Receipt
from millstream.transforms.runs import Prepared, PreparedOutput, RunStore
from millstream.transforms.write.destination import Output
from millstream.transforms.write.stage import stage_batches

from tests.pipelines.clicks import Done

JOB = """\
name: clicks
contract: clicks.odcs.yaml
input: [events/*.jsonl]
output: parquet:out/clicks
dead_letters: jsonl:out/dead_letters
ledger: jsonl:out/ledger
aggregates:
  - {name: pages, window: {fixed: 1m}, metrics: {n: count()}, output: "csv:out/pages"}
"""


@pytest.fixture
def store(tmp_path, monkeypatch) -> RunStore:
    """The run store of a job whose file is in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    return RunStore("out/ledger")


def staged(store, run_id, name, uri, days, staged_in=None):
    """What a run that began so many days ago has staged."""
    token = store.begin(Plan("clicks", "c", "1", "d", (InputFile(run_id, 1, "1"),)), run_id).token
    batch = pa.RecordBatch.from_pydict({"n": [1, 2, 3]})
    output = Output(name, uri, state=os.path.abspath(staged_in or store.home))
    (receipt,) = stage_batches(output, token, [batch])
    when = time.time() - days * 86400
    os.utime(receipt.path, (when, when))
    return receipt


def prepare(store, run_id, receipt: Receipt, uri):
    token = store.begin(Plan("clicks", "c", "1", "d", (InputFile(run_id, 1, "1"),)), run_id).token
    output = PreparedOutput(name="records", uri=uri, digest="0", receipts=(receipt,))
    store.prepare(
        Prepared(token=str(token), outputs=(output,), ledger_uri="jsonl:out/ledger", ledger=())
    )


def files(folder="out"):
    return [str(path) for path in Path(folder).rglob("*.staged")]


def test_old_files_are_deleted_and_named(cli, store):
    one = staged(store, "r1", "records", "parquet:out/clicks", days=8)
    two = staged(store, "r1", "pages", "csv:out/pages", days=30)
    young = staged(store, "r1", "pages", "csv:out/pages", days=6)
    said = cli("gc", "--job", "job.yaml", "--dry_run")
    assert (said.code, said.err, len(files())) == (0, "", 3)
    done = cli("gc", "--job", "job.yaml")
    assert (done.code, done.err) == (0, "")
    for receipt in (one, two):
        (line,) = [line for line in done.out.splitlines() if receipt.path in line]
        assert line in said.out
        assert line.split()[0] == f"{receipt.bytes:,}"
        assert line.endswith("(staged, never committed)")
    assert young.path not in done.out
    assert done.out.splitlines()[-1] == f"deleted 2 files, {one.bytes + two.bytes:,} bytes"
    assert said.out.splitlines()[-1] == f"would delete 2 files, {one.bytes + two.bytes:,} bytes"
    assert [Path(path).name for path in files()] == [Path(young.path).name]
    assert not Path("out/clicks/_millstream").exists()


def test_an_age_of_ones_own(cli, store):
    staged(store, "r1", "records", "parquet:out/clicks", days=0.1)
    assert cli("gc", "--job", "job.yaml", "--older_than", "3h").out == "deleted 0 files, 0 bytes\n"
    assert "deleted 1 file, " in cli("gc", "--job", "job.yaml", "--older_than=2h").out
    assert files() == []


@pytest.mark.parametrize("state", ["out/ledger", "elsewhere"])
def test_what_waited_for_its_keys_to_be_compared(cli, store, state):
    """A run that was killed while it looked for duplicates leaves all of its records."""
    Path("job.yaml").write_text(f"{JOB}state: {state}\n")
    staged(RunStore(state), "r1", "records", "parquet:out/clicks", days=1)
    spill = Path(f"{state}/_millstream/staging/r1/_deduplicate/0.arrow")
    spill.parent.mkdir(parents=True)
    spill.write_bytes(b"records")
    assert "deleted 0 files" in cli("gc", "--job", "job.yaml").out
    os.utime(spill, (0, 0))
    assert str(spill) in cli("gc", "--job", "job.yaml").out
    assert not spill.exists()


@pytest.mark.parametrize("output", ["duckdb:w.duckdb/clicks", "parquet:out/clicks"])
@pytest.mark.parametrize("letters", ["duckdb:w.duckdb/letters", "jsonl:out/letters"])
@pytest.mark.parametrize("state", ["out/ledger", "elsewhere"])
def test_tables_and_files_in_any_mix(cli, store, output, letters, state):
    flags = ("--job", "job.yaml", "--output", output, "--dead_letters", letters, "--state", state)
    store = RunStore(state)
    places = {"records": output, "dead_letters": letters, "pages": "csv:out/pages"}
    gone = [staged(store, "r1", name, uri, 8).path for name, uri in places.items()]
    kept = [staged(store, "r1", name, uri, 6).path for name, uri in places.items()]
    strange = staged(RunStore("another"), "r9", "records", output, 8, staged_in=state).path
    done = cli("gc", *flags)
    assert done.code == 0
    assert sorted(line.split()[3] for line in done.out.splitlines()[:-1]) == sorted(gone)
    assert done.err.count("1 staged files of runs that this job's ledger does not know") == 1
    assert sorted(map(os.path.abspath, files("."))) == sorted([*kept, strange])
    assert not Path("w.duckdb").exists(), "no service is asked for what it need not know"


def test_a_prepared_run_keeps_its_files(cli, store):
    receipt = staged(store, "r1", "records", "parquet:out/clicks", days=99)
    prepare(store, "r1", receipt, "parquet:out/clicks")
    gone = staged(store, "r2", "records", "parquet:out/clicks", days=99)
    done = cli("gc", "--job", "job.yaml", "--older_than", "0s")
    assert done.code == 0
    assert "run r1 has not committed all that it prepared, and keeps its files" in done.err
    assert gone.path in done.out
    assert [os.path.abspath(path) for path in files()] == [receipt.path]


def test_flags_override_the_job_file(cli, store):
    staged(store, "r1", "records", "parquet:other", days=99)
    assert "deleted 0 files" in cli("gc", "--job", "job.yaml").out
    assert "deleted 1 file" in cli("gc", "--job", "job.yaml", "--output", "parquet:other").out


def test_strangers_are_counted_and_left(cli, store):
    staged(store, "r1", "records", "parquet:out/clicks", days=99)
    staged(RunStore("another/ledger"), "r9", "records", "parquet:out/clicks", days=99)
    done = cli("gc", "--job", "job.yaml")
    assert "deleted 1 file" in done.out
    assert "out/clicks/_millstream/staging: 1 staged files of runs that this job's" in done.err
    assert len(files()) == 1


def test_a_run_under_way_is_not_disturbed(cli, store):
    staged(store, "r1", "records", "parquet:out/clicks", days=99)
    with store.lock("r1"):
        done = cli("gc", "--job", "job.yaml")
    assert (done.code, done.out) == (5, "")
    assert "another run of this job is at work: run r1" in done.err
    assert len(files()) == 1


def test_no_run_yet(cli, store):
    done = cli("gc", "--job", "job.yaml")
    said = f"no run of this job was ever begun in {store.home}: nothing to delete\n"
    assert done == Done(0, said, "")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "name is not given"),
        (("--job", "none.yaml"), "none.yaml: cannot read the job file"),
        (("--job", "job.yaml", "--older_than", "7"), "expected an age as 12h or 7d, got '7'"),
        (("--job", "job.yaml", "--older_than", "-1d"), "expected one argument"),
        (("--job", "job.yaml", "--older_than", "36501d"), "an age of at most 36500d, got '36501d'"),
        (("--job", "job.yaml", "--tokens_older_than", "x"), "expected an age as 12h or 7d"),
        (("--job", "job.yaml", "--states_older_than", "1y"), "expected an age as 12h or 7d"),
        (("--job", "job.yaml", "--dead_letters_older_than"), "expected one argument"),
        (("--job", "job.yaml", "--ledger", "jsnl:x"), "did you mean jsonl:?"),
        (("--job", "job.yaml", "--dry-run"), "unrecognized arguments: --dry-run"),
    ],
)
def test_mistakes(cli, store, flags, message):
    done = cli("gc", *flags)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_file_that_cannot_be_deleted_is_named(cli, store, monkeypatch):
    from millstream.transforms import storage

    receipt = staged(store, "r1", "records", "parquet:out/clicks", days=99)

    def refuse(path):
        raise storage.StorageError(f"cannot delete {path}: permission denied", path)

    monkeypatch.setattr(storage, "delete", refuse)
    done = cli("gc", "--job", "job.yaml")
    assert done.code == 1
    assert f"cannot delete {receipt.path}: permission denied" in done.err
