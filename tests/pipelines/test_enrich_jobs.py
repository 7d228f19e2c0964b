"""Whole jobs whose records are enriched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
status: active
schema:
  - name: orders
    properties:
      - {name: id, logicalType: integer, required: true}
      - {name: country, logicalType: string}
      - {name: ts, logicalType: timestamp}
"""
JOB = """\
name: orders
contract: contract.yaml
event_time: ts
input: in.jsonl
steps:
  - enrich:
      from: csv:names.csv
      on: {country: code}
      add: {country_name: name}
      missing: dead
  - enrich:
      from: jsonl:rates.jsonl
      on: {country: code}
      add: {rate: rate}
      valid: {from: since}
      refresh: 1h
  - lookup:
      python: "tests.pipelines.test_enrich_jobs:score"
      on: [country_name]
      adds: {score: integer}
      missing: filter
output: jsonl:out
dead_letters: jsonl:dead
ledger: jsonl:ledger
progress: false
"""
RATES = [
    {"code": "DE", "rate": 1.5, "since": "2024-01-01T00:00:00Z"},
    {"code": "DE", "rate": 2.5, "since": "2024-03-01T00:00:00Z"},
]


def score(keys: pa.RecordBatch) -> pa.Table:
    """What the lookup asks: it knows all names but one."""
    names = [name for name in keys["country_name"].to_pylist() if name != "France"]
    return pa.table(
        {"country_name": pa.array(names, pa.string()), "score": [len(name) for name in names]}
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "contract.yaml").write_text(CONTRACT)
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "names.csv").write_text("code,name\nDE,Germany\nFR,France\n")
    (tmp_path / "rates.jsonl").write_text("\n".join(map(json.dumps, RATES)))
    orders = [
        {"id": i, "country": country, "ts": f"2024-0{i + 1}-01T00:00:00Z"}
        for i, country in enumerate(["DE", "FR", "XX", "DE", None])
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, orders)))
    return tmp_path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_records_are_enriched_and_all_are_accounted_for(folder, ingest_here: Callable[..., Any]):
    done = ingest_here("--job", folder / "job.yaml")
    assert done.code == 0, done.err
    assert "balanced" in done.out
    added = [
        (row["id"], row["country_name"], row["rate"], row["score"])
        for row in rows_of(folder / "out")
    ]
    assert added == [(0, "Germany", 1.5, 7), (3, "Germany", 2.5, 7)]
    letters = rows_of(folder / "dead")
    assert [letter["codes"] for letter in letters] == [["UNMATCHED"], ["UNMATCHED"]]
    assert letters[0]["errorMessage"].endswith("names.csv has nothing for country 'XX'")
    assert [letter["violations"][0]["field"] for letter in letters] == ["country", "country"]


@pytest.mark.slow
def test_other_reference_files_are_another_plan(folder, ingest_here):
    assert ingest_here("--job", folder / "job.yaml").code == 0
    assert "committed already" in ingest_here("--job", folder / "job.yaml").err
    with (folder / "names.csv").open("a") as file:
        file.write("IT,Italy\n")
    done = ingest_here("--job", folder / "job.yaml")
    assert done.code == 5
    assert "has already committed" in done.err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("from: csv:", "frm: csv:", "job.yaml:7 steps[0].enrich.frm: no such key: frm; did you"),
        ("from: csv:names", "from: csv:nams", "nams.csv: no file matches"),
        ("valid: {from", "valid: {form", "job.yaml:15 steps[1].enrich.valid.form: no such key"),
        ("missing: dead", "missing: ded", "expected 'keep', 'dead' or 'filter', got 'ded'; did"),
        ("refresh: 1h", "refresh: 1y", "steps[1].enrich: refresh: expected a duration"),
        ("[country_name]", "[country_nam]", "no field country_nam; did you mean 'country_name'?"),
        ("jobs:score", "jobs:scor", "has no 'scor'; did you mean 'score'?"),
        ("  - lookup:", "  - sql: SELECT 1\n    lookup:", "expected sql, python, enrich or lookup"),
    ],
)
def test_a_mistake_in_a_step(folder, ingest_here, old, new, said):
    (folder / "job.yaml").write_text(JOB.replace(old, new))
    done = ingest_here("--job", folder / "job.yaml")
    assert done.code != 0
    assert said in done.err
