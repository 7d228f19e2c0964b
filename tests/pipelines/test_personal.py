"""Personal data: no value of a classified field is seen but where it belongs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipelines.people import JOB, LATER, MAIL, MARK, ONCE, WRONG, Folder, holds_secret, person

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, cli) -> Folder:
    return Folder(tmp_path, cli)


def test_no_value_of_a_classified_field_is_seen(folder):
    folder.job(JOB + ONCE)
    folder.table()
    folder.run("ingest")
    said = folder.letters()
    codes = {code for row in said for code in row["codes"]}
    assert {row["stage"] for row in said} == {"read", "parse", "validate", "step", "write"}
    assert codes == {"TYPE", "FORMAT", "LENGTH", "RANGE", "ITEMS", "PRECISION", "UNKNOWN_FIELD",
                     "MALFORMED", "ENCODING", "OVERSIZE", "REQUIRED", "STEP",
                     "DESTINATION"}  # fmt: skip
    assert len(said) >= len(WRONG) + 3
    for row in said:
        shown = {k: v for k, v in row.items() if k not in ("payloadString", "payloadBytes")}
        assert not holds_secret(json.dumps(shown, default=str)), shown
    assert sum(holds_secret(row["payloadBytes"] or b"") for row in said) > len(WRONG)

    folder.run("dead-letters", "list", "--samples", "100")
    folder.run("dead-letters", "list", "--samples", "100", "--json")
    for row in said:
        folder.run("dead-letters", "show", row["id"])
    assert not holds_secret(folder.seen)
    assert '"mail": "***"' in folder.seen
    assert "query: a value not shown, mustBe x" in folder.seen
    assert not any(map(holds_secret, _without_letters(folder.files("ledger"))))
    letter = next(row["id"] for row in said if row["codes"] == ["STEP"])
    revealed = folder.run("dead-letters", "show", letter, "--reveal")
    assert "shown as it is" in revealed.err
    assert holds_secret(revealed.out)


def _without_letters(files: Iterator[bytes]) -> list[bytes]:
    return [data for data in files if b"payloadBytes" not in data]


def test_nor_of_a_job_that_goes_on(folder):
    folder.job(JOB + LATER)
    folder.run("ingest")
    (folder.path / "in2.jsonl").write_text(json.dumps(person(200, ts="2020-01-01T00:00:00Z")))
    folder.run("ingest")
    (row,) = folder.letters("late")
    assert holds_secret(row.pop("payloadString"))
    row.pop("payloadBytes")
    assert not holds_secret(str(row))
    folder.run("dead-letters", "show", row["id"], "--late")
    folder.run("dead-letters", "list", "--late")
    assert not holds_secret(folder.seen)


def test_nor_when_something_happened(folder):
    contract = folder.path / "people.odcs.yaml"
    text = contract.read_text("utf-8")
    contract.write_text(text.replace("name: ts\n", "name: ts\n    classification: pii\n"), "utf-8")
    folder.job(JOB + LATER)
    folder.run("ingest")
    (folder.path / "in2.jsonl").write_text(json.dumps(person(200, ts="2020-01-01T00:00:00Z")))
    folder.run("ingest")
    (row,) = folder.letters("late")
    folder.run("dead-letters", "show", row["id"], "--late")
    folder.run("dead-letters", "list", "--late")
    assert "event_time      ***" in folder.seen
    assert "2020-01-01" not in folder.seen
    assert "2020-01-01" in folder.run("dead-letters", "show", row["id"], "--late", "--reveal").out


def test_nor_of_columns_that_steps_have_made(folder):
    job = JOB.replace("SELECT *,", "SELECT *, mail AS address, 9000000000000000000 AS many,")
    aggregate = LATER.partition("disorder: 0s\n")[2].replace("[note]", "[address]")
    folder.job(job + aggregate.replace("count()", "sum(many)"))
    said = folder.run("ingest", code=1).err
    assert "address (a value not shown)" in said
    assert "cannot be represented" in said
    assert not holds_secret(folder.seen)


def test_nor_of_other_formats(folder):
    folder.job(JOB.replace("in*.jsonl", "in.csv").replace("reject", "ignore"))
    cells = [
        "p1,2026-01-01T00:00:00Z,{0},1,2000-01-01,1.00,x",
        "p2,2026-01-01T00:00:00Z,{0},{0},{0},{0},x",
        "p3,2026-01-01T00:00:00Z,{0}@example.org,{0},{0},{0},sql",
        "p4,{0}",
        '"p5,{0}',
    ]
    lines = "\n".join(["id,ts,mail,phone,born,pay,note", *cells]).replace("{0}", MARK)
    (folder.path / "in.csv").write_text(lines)
    folder.run("ingest")
    headless = JOB.replace("in*.jsonl", "none.csv").replace("people\ncon", "none\ncon")
    (folder.path / "none.csv").write_text(f"{MARK},{MARK},3\n1,2,3\n")
    folder.run("dead-letters", "list", "--samples", "9")
    for row in folder.letters():
        row.pop("payloadString")
        assert holds_secret(row.pop("payloadBytes"))
        assert not holds_secret(str(row))
        folder.run("dead-letters", "show", row["id"])
    assert "p1,2026-01-01T00:00:00Z,***,***,***,***,x" in folder.seen
    for line in folder.seen.splitlines():
        assert not holds_secret(line), line
    folder.job(headless.replace("ledger: jsonl:ledger", "ledger: jsonl:other"))
    folder.run("ingest", code=4)
    (row,) = [row for row in folder.letters() if row["pipeline"] == "none"]
    assert not holds_secret(row["errorMessage"])
    assert not holds_secret(folder.seen)


@pytest.mark.parametrize("form", ["parquet", "avro"])
def test_nor_of_columns(folder, form):
    rows = [
        {"id": "p1", "ts": "2026-01-01T00:00:00Z", "mail": MARK, "phone": MARK, "aliases": [MARK]},
        {"id": "p2", "ts": "2026-01-01T00:00:00Z", "mail": MAIL, "phone": None,
         "aliases": [MARK, MARK]},
    ]  # fmt: skip
    path = folder.path / f"in.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        text = ["null", "string"]
        kinds: dict[str, Any] = {"aliases": {"type": "array", "items": "string"}}
        fields = [{"name": name, "type": kinds.get(name, text)} for name in rows[0]]
        schema: Any = {"type": "record", "name": "person", "fields": fields}
        with path.open("wb") as file:
            fastavro.writer(file, fastavro.parse_schema(schema), rows)
    folder.job(JOB.replace("in*.jsonl", path.name).replace("reject", "ignore"))
    folder.run("ingest")
    said = folder.letters()
    assert len(said) == 2
    for row in said:
        row.pop("payloadString")
        assert holds_secret(row.pop("payloadBytes"))
        assert not holds_secret(str(row))
        folder.run("dead-letters", "show", row["id"])
    assert folder.seen.count('"mail":"***"') == 2
    assert not holds_secret(folder.seen)


def test_equal_values_can_be_told_equal(folder, monkeypatch):
    folder.job(JOB + "mask_key: SALT\n")
    monkeypatch.setenv("SALT", "an example of a secret")
    folder.run("ingest")
    done = folder.run("dead-letters", "list", "--samples", "100")
    hashes = Counter(word for word in done.out.split('"') if word.startswith("hmac:"))
    assert max(hashes.values()) > 3
    monkeypatch.setenv("SALT", "short")
    assert "at least 16 bytes" in folder.run("ingest", code=2).err
