"""``millstream generate``: what it writes, and what it exits with."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from millstream.pipelines.cli import main
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.odcs import load_contract

CONTRACT = Path(__file__).parents[2] / "examples" / "clickstream" / "clickstream.odcs.yaml"


def generate(*arguments: str) -> int:
    return main(["generate", str(CONTRACT), *arguments])


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_json_lines_of_which_some_are_broken():
    assert generate("500", "--out", "a.jsonl", "--broken", "0.2") == 0
    assert generate("500", "--out", "a.jsonl.gz", "--broken", "0.2") == 0
    data = Path("a.jsonl").read_bytes()
    assert gzip.decompress(Path("a.jsonl.gz").read_bytes()) == data
    decoder = JsonDecoder(load_contract(CONTRACT), judge=True)
    decoded = decoder.decode(pa.array(data.splitlines(), pa.binary()))
    assert 50 < len(decoded.refused) < 150
    assert decoded.records.num_rows + len(decoded.refused) == 500
    assert sorted(path.name for path in Path().iterdir()) == ["a.jsonl", "a.jsonl.gz"]


def test_standard_output(capfdbinary):
    assert generate("3", "--broken", "0") == 0
    assert len(capfdbinary.readouterr().out.splitlines()) == 3


@pytest.mark.slow
def test_other_formats_hold_the_same_good_records():
    for ending in ("parquet", "csv", "avro"):
        assert generate("1200", "--out", f"a.{ending}") == 0
    table = pq.read_table("a.parquet")
    assert len(table) == 1200
    ids = table["event_id"].to_pylist()
    assert pc.read_csv("a.csv")["event_id"].to_pylist() == ids
    records = fastavro.reader(io.BytesIO(Path("a.avro").read_bytes()))
    assert [r["event_id"] for r in records if isinstance(r, dict)] == ids


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x"], "argument N: expected a number of records, got 'x'"),
        (["3", "--broken", "2"], "argument --broken: expected a part from 0 to 1, got '2'"),
        (["3", "--start", "soon"], "argument --start: expected a time such as"),
        (["3", "--out", "a.xml"], "--out: a.xml: expected a name that ends with .jsonl, .csv"),
        (
            ["3", "--out", "a.csv", "--broken", "0.5"],
            "--broken: csv files hold good records alone; write JSON lines",
        ),
        (["3", "--schema", "orders"], f"{CONTRACT}"),
    ],
)
def test_mistakes(arguments, said, capsys):
    assert generate(*arguments) == 2
    assert capsys.readouterr().err.startswith(f"millstream: {said}")


def test_a_folder_that_is_not_there(capsys):
    assert generate("3", "--out", "none/a.jsonl") == 1
    said = capsys.readouterr().err
    assert said == "millstream: cannot write none/a.jsonl: No such file or directory\n"


@pytest.mark.slow
def test_a_reader_that_has_seen_enough():
    """``millstream generate … | head -1`` ends in silence."""
    command = [sys.executable, "-m", "millstream.pipelines.cli", "generate", str(CONTRACT), "20000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
