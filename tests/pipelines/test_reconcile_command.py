"""``millstream reconcile``: what differs is named; what is missing has a reason, or has none."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.reconcile_command import DIFFERS

from tests.pipelines.clicks import Done

pytestmark = pytest.mark.slow

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("ts", pa.timestamp("us", "UTC")),
        pa.field("price", pa.decimal128(10, 2)),
        pa.field("tags", pa.list_(pa.field("item", pa.string()))),
    ]
)
CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: string, required: true, primaryKey: true}
  - name: ts
    logicalType: timestamp
    required: true
    customProperties: [{property: eventTime, value: true}]
  - {name: price, logicalType: number, physicalType: "DECIMAL(10,2)"CLASSIFIED}
  - {name: tags, logicalType: array, items: {logicalType: string}}
  - {name: status, logicalType: string, logicalTypeOptions: {maxLength: 4}}
"""


def order(n: int) -> dict[str, Any]:
    """A row like no other."""
    tags = None if n % 5 == 0 else ["a"] * (n % 3)
    price = Decimal(n) / 4 if n % 7 else None
    return {"id": f"o{n}", "ts": NOON + timedelta(hours=n), "price": price, "tags": tags}


def tampered() -> list[dict[str, Any]]:
    """The first hundred rows, of which one lacks, one is other, one is twice, and a new one."""
    rows = [order(n) for n in range(100) if n != 11]
    rows[50] |= {"price": Decimal("99.50")}  # o51
    return [*rows, order(30), order(500)]


def write(place: str, folder: Path, rows: Iterable[dict[str, Any]]) -> str:
    """Write rows to a place; gives its URI."""
    table = pa.Table.from_pylist(list(rows), SCHEMA)
    path = folder / f"in-{place}"
    path.mkdir()
    if place == "duckdb":
        with duckdb.connect(str(path / "shop.db")) as db:
            db.execute("CREATE TABLE orders AS SELECT * FROM \"table\"")  # fmt: skip
        return f"duckdb:{path}/shop.db/orders"
    if place == "jsonl":
        lines = [json.dumps(_said(row), default=str) for row in table.to_pylist()]
        (path / "a.jsonl").write_text("".join(f"{line}\n" for line in lines))
    else:
        half = table.num_rows // 2
        pq.write_table(table[:half], path / "a.parquet")
        pq.write_table(table[half:], path / "b.parquet", row_group_size=7)
    return f"{place}:{path}"


def _said(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None} | {
        "ts": row["ts"].isoformat()
    }


def report(done: Done) -> dict[str, Any]:
    assert done.code in (exit_codes.OK, DIFFERS), done.err
    return json.loads(done.out)


def contract(folder: Path, classified: str = "") -> Path:
    path = folder / "orders.odcs.yaml"
    path.write_text(CONTRACT.replace("CLASSIFIED", classified))
    return path


PLACES = ("parquet", "jsonl", "duckdb")
NAMED = [
    ("changed", "o51", ["12.75", "99.50"]),
    ("extra", "o500", None),
    ("missing", "o11", None),
    ("more", "o30", None),
]


@pytest.mark.parametrize("destination", PLACES)
@pytest.mark.parametrize("source", PLACES)
def test_what_differs_is_named(cli, tmp_path, source, destination):
    (tmp_path / "there").mkdir()
    here = write(source, tmp_path, map(order, range(100)))
    there = write(destination, tmp_path / "there", tampered())
    untyped = "jsonl" in (source, destination)
    flags = ["--contract", contract(tmp_path)] if untyped else ["--key", "id"]
    done = cli("reconcile", here, there, "--json", *flags)
    assert done.code == DIFFERS
    found = report(done)
    rows = [(r["kind"], r["key"]["id"], r.get("changes", {}).get("price")) for r in found["rows"]]
    assert sorted(rows) == NAMED
    assert found["differences"] == {"missing": 1, "changed": 1, "extra": 1, "more": 1}
    assert found["changed_columns"] == {"price": 1}
    assert cli("reconcile", here, here, *flags).code == exit_codes.OK


@pytest.mark.parametrize("held", ["v::DOUBLE", "(v + 0.001)::DOUBLE", "day + INTERVAL 1 HOUR"])
def test_what_another_type_would_round_off_differs(cli, tmp_path, held):
    with duckdb.connect(str(tmp_path / "shop.db")) as db:
        db.execute(
            "CREATE TABLE a AS SELECT id, (id / 100)::DECIMAL(10, 2) v, DATE '2026-11-29' AS day "
            "FROM range(1000) numbers(id)"
        )
        name = "day" if "day" in held else "v"
        db.execute(f"CREATE TABLE b AS SELECT id, {held} AS {name} FROM a")
    places = [f"duckdb:{tmp_path}/shop.db/{table}" for table in "ab"]
    wanted = exit_codes.OK if held == "v::DOUBLE" else DIFFERS
    for one, other in (places, reversed(places)):
        assert cli("reconcile", one, other, "--key", "id").code == wanted


def test_partitions_are_told_apart(cli, tmp_path):
    here = write("parquet", tmp_path, map(order, range(100)))
    there = write("duckdb", tmp_path, (order(n) for n in range(100) if n != 11))
    done = cli("reconcile", here, there, "--contract", contract(tmp_path))
    assert done.code == DIFFERS
    assert "4 of 5 partitions are alike" in done.out
    assert "sum of price: 14.75 and 12.00" in done.out
    assert "  id=o11" in done.out
    found = report(cli("reconcile", here, there, "--key", "id", "--by", "ts:month", "--json"))
    november, december = found["partitions"]
    assert (november["name"], november["alike"]) == ("ts=2026-11", False)
    assert (december["name"], december["alike"]) == ("ts=2026-12", True)
    assert (november["source"]["rows"], november["destination"]["rows"]) == (36, 35)
    assert (november["source"]["keys"], november["destination"]["keys"]) == (36, 35)
    assert december["source"]["columns"]["price"]["max"] == "24.75"


def test_only_what_is_asked_for_is_compared(cli, tmp_path):
    here = write("parquet", tmp_path, map(order, range(100)))
    there = write("duckdb", tmp_path, tampered())
    flags = ["--key", "id", "--event_time", "ts", "--from", "2026-12-01", "--to", "2026-12-03"]
    found = report(cli("reconcile", here, there, "--json", *flags))
    assert found["differences"] == {"changed": 1}
    assert found["source"]["rows"] == 48
    flags += ["--columns", "tags"]
    assert cli("reconcile", here, there, *flags).code == exit_codes.OK


def test_as_many_rows_are_named_as_wanted(cli, tmp_path):
    here = write("parquet", tmp_path, map(order, range(100)))
    there = write("duckdb", tmp_path, map(order, range(0, 100, 2)))
    to = tmp_path / "report.json"
    done = cli("reconcile", here, there, "--key", "id", "--rows", "3", "--report", to)
    assert done.out.count("  id=o") == 3
    found = json.loads(to.read_text())
    assert len(found["rows"]) == 3
    assert found["differences"] == {"missing": 50}


def test_columns_of_one_side_are_told(cli, tmp_path):
    here = write("parquet", tmp_path, map(order, range(3)))
    with duckdb.connect(str(tmp_path / "shop.db")) as db:
        db.execute("CREATE TABLE orders (id TEXT, paid BOOLEAN)")
        db.execute("INSERT INTO orders VALUES ('o0', true), ('o1', true), ('o2', false)")
    done = cli("reconcile", here, f"duckdb:{tmp_path}/shop.db/orders", "--key", "id")
    assert done.code == exit_codes.OK
    assert "only in the source: ts, price, tags" in done.out
    assert "only in the destination: paid" in done.out


def test_folders_that_are_partitions_are_columns(cli, tmp_path):
    for country in ("NO", "SE"):
        (tmp_path / "p" / f"country={country}").mkdir(parents=True)
        pq.write_table(pa.table({"id": [country]}), tmp_path / "p" / f"country={country}/a.parquet")
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", "country"], ["NO", "NO"], ["SE", "DK"]])
    done = cli("reconcile", f"parquet:{tmp_path}/p", f"csv:{tmp_path}", "--by", "country", "--json")
    found = report(done)
    assert [p["name"] for p in found["partitions"]] == ["country=DK", "country=NO", "country=SE"]
    assert found["differences"] == {"missing": 1, "extra": 1}


def test_a_file_is_a_place(cli, tmp_path):
    here = write("parquet", tmp_path, map(order, range(8)))
    found = report(cli("reconcile", f"{here}/a.parquet", here, "--key", "id", "--json"))
    assert found["differences"] == {"extra": 4}


@pytest.mark.parametrize("json_too", [["--json"], []])
def test_classified_values_are_not_shown(cli, tmp_path, json_too):
    here = write("parquet", tmp_path, [order(3)])
    there = write("duckdb", tmp_path, [{**order(3), "price": Decimal("7.77")}])
    said = contract(tmp_path, ", classification: restricted")
    done = cli("reconcile", here, there, "--contract", said, *json_too)
    assert done.code == DIFFERS
    assert "price" in done.out
    assert "***" in done.out
    assert not any(value in done.out for value in ("7.77", "0.75"))
    refused = cli("reconcile", here, there, "--contract", said, "--by", "price")
    assert refused.code == exit_codes.USAGE
    assert "classified" in refused.err


def test_a_classified_event_time_names_no_partitions(cli, tmp_path):
    here = write("parquet", tmp_path, [order(3)])
    said = contract(tmp_path)
    text = said.read_text().replace("logicalType: timestamp", "logicalType: timestamp\n    CLASS")
    said.write_text(text.replace("CLASS", "classification: restricted"))
    done = cli("reconcile", here, here, "--contract", said, "--json")
    assert [partition["name"] for partition in report(done)["partitions"]] == ["all"]
    assert "2026-11-29" not in done.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--key", "idd"], "no column 'idd'; did you mean 'id'?"),
        (["--by", "ts:dy"], "did you mean 'day'?"),
        (["--by", "price:day"], "there is no day"),
        (["--columns", "prize"], "the source has no column 'prize'"),
        (["--from", "noon"], "expected a date or a time"),
        (["--from", "2026-11-29"], "say with --event_time"),
        (["--from", "0001-01-01T00:00+10:00"], "expected a date or a time"),
        (["--scratch", "gs://bucket/folder"], "name a folder of this machine"),
        (["--job", "job.yaml"], "not both"),
        (["--runner", "DirectRunner"], "unrecognized arguments"),
    ],
)
def test_mistakes_are_told(cli, tmp_path, flags, said):
    here = write("parquet", tmp_path, [order(3)])
    done = cli("reconcile", here, here, *flags)
    assert (done.code, said in done.err) == (exit_codes.USAGE, True), done.err


def test_places_that_cannot_be_read_are_told(cli, tmp_path):
    here = write("parquet", tmp_path, [order(3)])
    done = cli("reconcile", here, f"duckdb:{tmp_path}/none.db/orders")
    assert (done.code, "does not exist" in done.err) == (exit_codes.USAGE, True)
    lines = write("jsonl", tmp_path, [order(3)])
    done = cli("reconcile", lines, lines)
    assert (done.code, "--contract FILE" in done.err) == (exit_codes.USAGE, True)
    done = cli("reconcile", here, here, "--scratch", f"{here.partition(':')[2]}/a.parquet")
    assert (done.code, "could not be compared" in done.err) == (DIFFERS, True)
    done = cli("reconcile", here)
    assert (done.code, "name two places" in done.err) == (exit_codes.USAGE, True)
    (tmp_path / "in-parquet" / "a.parquet").write_bytes(b"PAR1 or not")
    done = cli("reconcile", here, here)
    assert (done.code, "a.parquet cannot be read" in done.err) == (exit_codes.USAGE, True)


# ------------------------------------------------------------------ jobs

JOB = """\
name: orders
contract: orders.odcs.yaml
input: [in-*.jsonl]
dead_letters: jsonl:dead
ledger: jsonl:ledger
progress: false
"""


class Job:
    """A job's folder: sixty orders in two files, two of them twice, and three that are refused."""

    def __init__(self, path: Path, cli: Callable[..., Done], more: str) -> None:
        self.path = path
        self._cli = cli
        contract(path)
        (path / "job.yaml").write_text(JOB + more)
        self.put("in-1.jsonl", [*range(30), 7])
        self.put("in-2.jsonl", [*range(30, 60), 31], status="shipped", bad=(33, 44, 55))

    def put(
        self, name: str, numbers: Sequence[int], status: str = "ok", bad: tuple[int, ...] = ()
    ) -> None:
        bad = bad or tuple(numbers)
        rows = [_said(order(n)) | ({"status": status} if n in bad else {}) for n in numbers]
        lines = (json.dumps(row, default=float) for row in rows)
        (self.path / name).write_text("".join(f"{line}\n" for line in lines))

    def run(self, command: str, *flags: Any) -> Done:
        name, *action = command.split()
        return self._cli(name, *action, "--job", self.path / "job.yaml", *flags)

    def ingest(self) -> None:
        done = self.run("ingest")
        assert done.code == exit_codes.OK, done.err

    def reconcile(self, *flags: Any) -> dict[str, Any]:
        done = self.run("reconcile", "--json", *flags)
        assert done.code in (exit_codes.OK, DIFFERS), done.err
        found = json.loads(done.out)
        assert (found["verdict"] == "alike") == (done.code == exit_codes.OK)
        return found

    def accept_all(self) -> None:
        path = self.path / "orders.odcs.yaml"
        path.write_text(path.read_text().replace("maxLength: 4", "maxLength: 8"))


@pytest.fixture(params=["parquet:out", "jsonl:out", "duckdb:shop.db/orders"])
def job(request, tmp_path, cli) -> Job:
    return Job(tmp_path, cli, f"output: {request.param}\ndeduplicate: run\n")


@pytest.fixture
def shop(tmp_path, cli) -> Job:
    """A job whose output can be tampered with."""
    return Job(tmp_path, cli, "output: duckdb:shop.db/orders\ndeduplicate: run\n")


def tamper(job: Job, statement: str) -> None:
    with duckdb.connect(str(job.path / "shop.db")) as db:
        db.execute(statement)


@pytest.mark.slow
def test_a_job_is_alike_where_all_that_is_missing_has_a_reason(job):
    job.ingest()
    found = job.reconcile()
    assert found["verdict"] == "alike"
    assert found["explained"] == {"duplicates": 2}
    assert found["job"]["refused"]["explained"] == {"dead letters (open)": 3}
    assert found["job"]["read"] == 62
    assert found["job"]["ledger"]["holds"]
    assert (found["source"]["rows"], found["destination"]["rows"]) == (59, 57)
    scratch = job.path / "scratch"
    done = job.run("reconcile", "--scratch", scratch)
    assert not list(scratch.iterdir())
    assert "of 62 records of the source:" in done.out
    assert "1 of 3 partitions are alike, 2 but for rows that have a reason" in done.out
    assert "  3  dead letters (open)" in done.out
    assert done.out.endswith("\nalike, but for 5 records that have a reason\n")


@pytest.mark.slow
def test_after_a_replay_nothing_is_missing(shop):
    shop.ingest()
    shop.accept_all()
    found = shop.reconcile()
    assert found["explained"] == {"duplicates": 2, "dead letters (open)": 3}
    assert found["verdict"] == "alike"
    assert shop.run("dead-letters replay").code == exit_codes.OK
    found = shop.reconcile()
    assert (found["explained"], found["verdict"]) == ({"duplicates": 2}, "alike")
    assert found["job"]["ledger"]["written"] == found["destination"]["rows"] == 60
    # What was replayed should be there.
    tamper(shop, "DELETE FROM orders WHERE id = 'o44'")
    found = shop.reconcile()
    assert (found["verdict"], found["unexplained"]) == ("differ", 1)
    assert [(r["kind"], r["key"]) for r in found["rows"]] == [("missing", {"id": "o44"})]


@pytest.mark.slow
def test_what_was_tampered_with_is_named(shop):
    shop.ingest()
    shop.run("dead-letters discard", "--where", "code=LENGTH", "--reason", "test")
    tamper(shop, "DELETE FROM orders WHERE id = 'o12'")
    tamper(shop, "UPDATE orders SET price = 1 WHERE id = 'o41'")
    tamper(shop, "INSERT INTO orders SELECT * FROM orders WHERE id = 'o20'")
    tamper(shop, "INSERT INTO orders BY NAME SELECT * REPLACE ('x' AS id) FROM orders LIMIT 1")
    found = shop.reconcile()
    assert found["verdict"] == "differ"
    assert found["explained"] == {"duplicates": 2}
    assert found["job"]["refused"]["explained"] == {"dead letters (discarded)": 3}
    assert not found["job"]["ledger"]["holds"]
    rows = {row["kind"]: row for row in found["rows"]}
    assert {kind: row["key"]["id"] for kind, row in rows.items()} == {
        "missing": "o12", "changed": "o41", "more": "o20", "extra": "x",
    }  # fmt: skip
    assert rows["missing"]["source"] == str(shop.path / "in-1.jsonl")
    assert rows["changed"]["changes"] == {"price": ["10.25", "1.00"]}
    assert found["unexplained"] == 4


@pytest.mark.slow
def test_streams_are_not_read_again(shop):
    done = shop.run("reconcile", "--input", "kafka://localhost:9/orders")
    assert (done.code, "is a stream" in done.err) == (exit_codes.USAGE, True), done.err


@pytest.mark.slow
def test_files_that_no_run_has_loaded_are_a_reason(shop):
    shop.ingest()
    shop.put("in-3.jsonl", range(80, 90), bad=(85,), status="shipped")
    found = shop.reconcile()
    assert found["verdict"] == "alike"
    name = "in files that no run has loaded yet"
    assert found["explained"] == {"duplicates": 2, name: 9}
    assert found["job"]["refused"]["explained"] == {"dead letters (open)": 3, name: 1}


@pytest.mark.slow
def test_what_is_refused_now_and_was_not_is_told(shop):
    shop.accept_all()
    shop.ingest()
    path = shop.path / "orders.odcs.yaml"
    path.write_text(path.read_text().replace("maxLength: 8", "maxLength: 4"))
    found = shop.reconcile()
    assert found["verdict"] == "differ"
    assert found["job"]["refused"]["unexplained"] == 3
    assert found["job"]["refused"]["rows"][0]["codes"] == ["LENGTH"]
    assert found["differences"]["extra"] == 3


@pytest.mark.slow
def test_steps_are_as_the_job_has_them(tmp_path, cli):
    steps = "steps: [{sql: \"SELECT *, price * 2 AS twice FROM records WHERE id <> 'o5'\"}]\n"
    job = Job(tmp_path, cli, f"output: 'parquet:out?partition_by=date(ts)'\n{steps}")
    job.ingest()
    found = job.reconcile()
    assert (found["verdict"], found["differences"]) == ("alike", {})
    assert found["job"]["filtered"] == 1
    assert "twice" in found["columns"]
    assert (found["by"], len(found["partitions"])) == (["ts:day"], 3)


@pytest.mark.slow
def test_quarantine_is_a_reason(tmp_path, cli):
    quality = "quality: {action: quarantine, quarantine: 'parquet:bad'}\n"
    job = Job(tmp_path, cli, f"output: 'parquet:out'\n{quality}")
    path = tmp_path / "orders.odcs.yaml"
    path.write_text(path.read_text() + "  quality: [{metric: rowCount, mustBeLessThan: 3}]\n")
    assert job.run("ingest").code == exit_codes.GATED
    found = job.reconcile()
    assert found["explained"] == {"in quarantine": 59}
    assert found["verdict"] == "alike"
    assert found["job"]["ledger"]["quarantined"] == 59


@pytest.mark.slow
def test_a_job_that_goes_on_and_upserts(tmp_path, cli):
    more = "output: 'duckdb:shop.db/orders?mode=upsert'\nuntil: now\n"
    job = Job(tmp_path, cli, more)
    job.ingest()
    job.put("in-3.jsonl", [5, 90])
    job.ingest()
    found = job.reconcile()
    assert found["verdict"] == "alike"
    assert (found["job"]["replaced"], found["differences"]) == (3, {})
    assert "ledger" not in found["job"]
    assert job.reconcile("--columns", "tags")["verdict"] == "alike"
    tamper(job, "UPDATE orders SET price = 7 WHERE id = 'o5'")
    job.put("in-4.jsonl", [6], status="new")
    found = job.reconcile()
    assert found["explained"] == {"in files that no run has loaded yet": 1}
    assert [(row["kind"], row["key"]["id"]) for row in found["rows"]] == [("changed", "o5")]


@pytest.mark.slow
@pytest.mark.service
def test_postgresql(tmp_path, cli):
    from tests.services.destinations import DESTINATIONS

    with DESTINATIONS["postgresql"].running_or_skip() as peer:
        job = Job(tmp_path, cli, f"output: {peer.uri('reconciled')}\nstate: state\n")
        job.ingest()
        assert job.reconcile()["verdict"] == "alike"
        here = write("parquet", tmp_path, map(order, [*range(33), *range(34, 44)]))
        flags = ["--key", "id", "--to", "2026-12-01T08:00", "--event_time", "ts"]
        found = report(cli("reconcile", here, peer.uri("reconciled"), "--json", *flags))
        assert found["destination_only"] == ["status"]
        rows = [(row["kind"], row["key"]["id"]) for row in found["rows"]]
        assert sorted(rows) == [("more", "o31"), ("more", "o7")]


@pytest.mark.slow
@pytest.mark.service
def test_what_the_destination_has_refused_is_a_reason(tmp_path, cli):
    from tests.services.destinations import DESTINATIONS

    with DESTINATIONS["postgresql"].running_or_skip() as peer:
        more = f"output: {peer.uri('refusing')}\nstate: state\nuntil: now\n"
        job = Job(tmp_path, cli, more)
        job.ingest()
        peer.refuse_negative("refusing", "price")
        job.put("in-3.jsonl", [-2, 100])
        job.ingest()
        found = job.reconcile()
        assert (found["verdict"], found["explained"]) == ("alike", {"dead letters (open)": 1})
