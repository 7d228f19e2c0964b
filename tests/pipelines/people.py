"""A job whose records are personal, and every way in which they can be refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from tests.pipelines.clicks import Done, rows_of

MARK, NUMBER = "ZZSECRETZZ", 4242424242
CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: people
version: 1.0.0
schema:
- name: people
  properties:
  - {name: id, logicalType: string, required: true, primaryKey: true}
  - name: ts
    logicalType: timestamp
    required: true
    customProperties: [{property: eventTime, value: true}]
  - name: mail
    logicalType: string
    classification: PII
    logicalTypeOptions: {format: email, maxLength: 40}
    quality: [{metric: duplicateValues, mustBe: 0}]
  - name: phone
    logicalType: integer
    classification: confidential
    logicalTypeOptions: {maximum: 1000}
  - {name: born, logicalType: date, classification: restricted}
  - {name: pay, logicalType: number, physicalType: "decimal(6,2)", classification: sensitive}
  - name: person
    logicalType: object
    classification: restricted
    properties:
    - {name: name, logicalType: string, logicalTypeOptions: {maxLength: 12}}
    - {name: nick, logicalType: array, items: {logicalType: string}}
  - name: aliases
    logicalType: array
    logicalTypeOptions: {uniqueItems: true}
    items: {logicalType: string, classification: pii, logicalTypeOptions: {maxLength: 20}}
  - {name: note, logicalType: string}
  quality:
  - {type: sql, query: "SELECT max(mail) FROM {object}", mustBe: x}
  - {type: custom, engine: millstream, name: allowed, implementation: "note <> 'ruled'"}
"""
JOB = """\
name: people
contract: people.odcs.yaml
input: [in*.jsonl]
output: duckdb:w.duckdb/people
dead_letters: jsonl:dead
ledger: jsonl:ledger
unknown_fields: reject
max_record_bytes: 3000
progress: false
quality: {action: warn, scores: jsonl:scores}
steps:
- sql: "SELECT *, CASE WHEN note = 'sql' THEN CAST(mail AS INTEGER) END AS number FROM records"
- python: tests.pipelines.people:refuse
  over: row
"""
ONCE = "deduplicate: run\nduplicates: parquet:duplicates\n"
LATER = """\
until: now
late: jsonl:late
disorder: 0s
aggregates:
- name: notes
  window: {fixed: 1m}
  by: [note]
  metrics: {people: count()}
  output: parquet:notes
"""
MAIL = f"{MARK}@example.org"


def refuse(record: dict[str, Any]) -> dict[str, Any]:
    """A step that tells in its error what it should not."""
    if record["note"] == "python":
        raise ValueError(f"cannot use {record['mail']}")
    return record


def person(i: int, **rest: Any) -> dict[str, Any]:
    moment = f"2026-01-01T00:{i // 60:02}:{i % 60:02}Z"
    return {"id": f"p{i}", "ts": moment, "mail": MAIL, "note": "fine", **rest}


WRONG: list[dict[str, Any]] = [
    {"mail": MARK},
    {"mail": MARK * 5 + "@example.org"},
    {"mail": NUMBER},
    {"mail": [MARK]},
    {"phone": MARK},
    {"phone": NUMBER},
    {"phone": NUMBER**3},
    {"born": MARK},
    {"pay": MARK},
    {"pay": NUMBER},
    {"person": MARK},
    {"person": {"name": MARK * 2}},
    {"person": {"name": NUMBER}},
    {"person": {"nick": [NUMBER]}},
    {"person": {"nick": MARK}},
    {"aliases": MARK},
    {"aliases": [MARK, MARK]},
    {"aliases": [MARK * 3]},
    {"aliases": [NUMBER]},
    {"other": MARK},
    {"note": "sql"},
    {"note": "python"},
    {"note": "ruled"},
    {"note": "checked"},
]
LINES = [
    *(json.dumps(person(i)) for i in range(3)),
    json.dumps(person(1)),  # a duplicate
    *(json.dumps(person(i, **wrong)) for i, wrong in enumerate(WRONG, 10)),
    f'{{"id": "p100", "mail": {NUMBER}, "mail": "{MAIL}"}}',
    f'{{"id": "p101", "mail": "{MAIL}"',
    f'"{MARK}"',
    MARK,
    json.dumps(person(102, note=MARK * 400)),  # too long
]


class Folder:
    """A job's folder, and what may be seen of it."""

    def __init__(self, path: Path, cli: Any) -> None:
        self.path = path
        self._cli = cli
        self.seen = ""
        path.mkdir(exist_ok=True)
        (path / "people.odcs.yaml").write_text(CONTRACT)
        (path / "in.jsonl").write_bytes("\n".join(LINES).encode() + b"\n\xff" + MARK.encode())

    def job(self, text: str) -> None:
        (self.path / "job.yaml").write_text(text)

    def table(self) -> None:
        """A table that refuses a record."""
        with duckdb.connect(str(self.path / "w.duckdb")) as db:
            db.execute("CREATE TABLE people (mail VARCHAR, note VARCHAR, "
                       "CHECK (note <> 'checked' OR length(mail) < 3))")  # fmt: skip

    def run(self, *arguments: str, code: int = 0) -> Done:
        """A command of the job's; whatever it says is kept."""
        command, *rest = arguments
        at = 1 if command == "dead-letters" else 0
        flags = (*rest[:at], "--job", str(self.path / "job.yaml"), *rest[at:])
        done = self._cli(command, *flags)
        self.seen += done.out + done.err
        assert done.code == code, done.err
        return done

    def letters(self, output: str = "dead") -> list[dict[str, Any]]:
        return rows_of(f"jsonl:{self.path}/{output}")

    def files(self, *folders: str) -> Iterator[bytes]:
        """What files of folders hold, Parquet as its columns."""
        for folder in folders:
            for path in (self.path / folder).rglob("*"):
                if path.is_file() and ".parquet" in path.name:
                    yield str(pq.read_table(path).to_pylist()).encode()
                elif path.is_file():
                    yield path.read_bytes()


def holds_secret(data: bytes | str) -> bool:
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    return MARK in text or str(NUMBER) in text
