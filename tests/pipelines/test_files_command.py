"""``millstream files``: the committed files of an output, and none other."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pyarrow as pa
import pytest
from millstream.transforms.plan import Token
from millstream.transforms.receipts import content_digest
from millstream.transforms.write.destination import Commit, Output
from millstream.transforms.write.stage import StagedFiles, stage_batches

from tests.pipelines.clicks import Done, JobFolder


def write(uri, run_id, countries, states=False, name="clicks"):
    """Commit a row for each country; gives the output."""
    to, token = Output(name, uri, "aggregates"), Token(run_id, "a" * 64)
    n = list(range(len(countries)))
    receipts = stage_batches(
        to, token, [pa.RecordBatch.from_pydict({"country": countries, "n": n})]
    )
    if states:
        files = StagedFiles(to, token, "states")
        files.write(pa.RecordBatch.from_pydict({"rows": [3]}))
        receipts += files.close()
    to.destination.commit(Commit(token, content_digest(receipts), tuple(receipts)))
    return to


def test_paths_one_a_line(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("parquet:out", "r1", ["NO"], states=True)
    write("parquet:out", "r2", ["DE", "NO"])
    stage_batches(Output("clicks", "parquet:out"), Token("r3", "a" * 64), [BATCH])
    done = cli("files", "parquet:out")
    paths = done.out.splitlines()
    assert (done.code, done.err, len(paths)) == (0, "", 2)
    assert sorted(map(Path, paths)) == sorted((tmp_path / "out").glob("*.parquet"))
    assert duckdb.execute("select count(*) from read_parquet(?)", [paths]).fetchall() == [(3,)]


BATCH = pa.RecordBatch.from_pydict({"country": ["NO"], "n": [1]})


def test_long_and_json(cli, tmp_path):
    to = write(f"csv:{tmp_path}?partition_by=country", "r1", ["NO", "NO", None], states=True)
    done = cli("files", "--long", to.uri)
    lines = sorted(line.split("\t") for line in done.out.splitlines())
    null = "country=__HIVE_DEFAULT_PARTITION__"
    assert [line[1:] for line in lines] == [
        ["2", "6", "r1", "country=NO"],
        ["1", "4", "r1", null],
    ]
    assert all(Path(line[0]).parent == tmp_path / line[4] for line in lines)
    done = cli("files", "--json", to.uri)
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert {row["partition"] for row in rows} == {"country=NO", null}
    for row in rows:
        assert row["path"].startswith(str(tmp_path))
        assert row["bytes"] == Path(row["path"]).stat().st_size
        assert (row["output"], row["run_id"]) == ("clicks", "r1")
        assert list(row) == ["path", "rows", "bytes", "output", "run_id", "partition", "sha256"]


def test_states(cli, tmp_path):
    to = write(f"parquet:{tmp_path}?partition_by=country", "r1", ["NO"], states=True)
    done = cli("files", to.uri, "--part", "states", "--long")
    (line,) = done.out.splitlines()
    path, rows, _, run_id, partition = line.split("\t")
    assert path.startswith(str(tmp_path / "_millstream" / "states"))
    assert (rows, run_id, partition) == ("1", "r1", "")


def test_a_commit_of_no_rows_is_an_empty_list(cli, tmp_path):
    to = Output("clicks", f"parquet:{tmp_path}")
    to.destination.commit(Commit(Token("r1", "a" * 64), content_digest([]), ()))
    assert cli("files", to.uri) == Done(0, "", "")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("parquet:none", "there is no manifest in {}/none: nothing has been committed there"),
        ("out/clicks", "destination 'out/clicks' names no format; did you mean 'parquet:out"),
        ("parqet:out", "unknown destination scheme parqet:; did you mean parquet:?"),
        ("parquet:out?partition=a", "parquet: no option 'partition'; did you mean 'partition_by'?"),
    ],
)
def test_mistakes(cli, tmp_path, monkeypatch, uri, message):
    monkeypatch.chdir(tmp_path)
    done = cli("files", uri)
    assert (done.code, done.out) == (2, "")
    assert message.format(tmp_path) in done.err
    assert "Traceback" not in done.err


def test_a_manifest_that_cannot_be_read(cli, tmp_path):
    folder = tmp_path / "_millstream" / "manifests"
    folder.mkdir(parents=True)
    (folder / "00000001.json").write_text("{")
    done = cli("files", f"parquet:{tmp_path}")
    assert done.code == 1
    assert "00000001.json: not a manifest" in done.err


@pytest.mark.slow
def test_a_job_with_every_format(cli, tmp_path):
    """Partitioned CSV for records, Avro for dead letters, CSV for the ledger: nothing is lost."""
    folder = JobFolder.make(tmp_path / "job", events=2000)
    warehouse = tmp_path / "warehouse"
    outputs = {
        "output": f"csv:{warehouse}/clicks?partition_by=date(ts),event_type",
        "dead_letters": f"avro:{warehouse}/dead?partition_by=stage",
        "ledger": f"csv:{warehouse}/ledger?partition_by=run_id",
    }
    flags = [f"--{key}={uri}" for key, uri in outputs.items()]
    done = cli("ingest", "--job", folder.job, *flags, "--run_id=day")
    assert done.code == 0, done.err
    expected = folder.expected()
    paths, letters, ledger = (
        cli("files", outputs[key]).out.splitlines() for key in ("output", "dead_letters", "ledger")
    )
    found = duckdb.execute(
        "select event_id, event_type, ts_date from read_csv(?, hive_partitioning=true, "
        "hive_types={event_type: varchar, ts_date: varchar}, allow_quoted_nulls=false)",
        [paths],
    ).fetchall()
    assert Counter(found) == Counter(
        (row[0], row[3], row[1].date().isoformat()) for row in expected.records.elements()
    )
    rows: list[Any] = []
    for path in letters:
        rows += fastavro.reader(io.BytesIO(Path(path).read_bytes()))
    assert Counter(row["payloadBytes"] for row in rows) == Counter(
        letter.payload for letter in expected.letters.elements()
    )
    assert {Path(path).parent.name for path in letters} == {"stage=parse", "stage=validate"}
    assert {Path(path).parent.name for path in ledger} == {"run_id=day"}
    again = cli("ingest", "--job", folder.job, *flags, "--run_id=day")
    assert "has been committed already" in again.err
    swept = cli("gc", "--job", folder.job, *flags, "--older_than=0s")
    assert (swept.code, swept.out) == (0, "deleted 0 files, 0 bytes\n")
