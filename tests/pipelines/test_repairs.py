"""Repairs of whole jobs: rescued records are as they should have been, marked, and counted."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pyarrow as pa
import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.job import JobError, load_job
from millstream.pipelines.job_parts import job_contract
from millstream.pipelines.repairs import job_repair
from millstream.schemas.arrow import REPAIRED
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.odcs import load_contract
from millstream.schemas.repairs.payloads import JsonPayloads
from millstream.schemas.repairs.rescue import rescued
from millstream.transforms.read.generated.samples import GeneratedLines
from millstream.transforms.read.generated.stream import began_us, partition_of
from millstream.transforms.write.files import live_files

from tests.pipelines.clicks import Done, rows_of
from tests.pipelines.test_stream_jobs import StreamJob, any_open

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
  - name: country
    logicalType: string
    required: true
    quality: [{metric: invalidValues, mustBe: 0, arguments: {validValues: [GB, NO]}}]
  - name: amount
    logicalType: integer
    required: true
    logicalTypeOptions: {minimum: 0, maximum: 100}
"""
JOB = """\
name: orders
contract: orders.odcs.yaml
input: [in-*]
output: parquet:out
dead_letters: jsonl:dead
ledger: jsonl:ledger
progress: false
"""
REPAIRS = """\
repairs:
- {field: amount, cast: true}
- {field: amount, clamp: true}
- {field: country, trim: true}
- {field: country, map: {UK: GB}}
- {field: ts, date_format: "%d/%m/%Y %H:%M", timezone: UTC}
"""


def order(i: int, **rest: Any) -> dict[str, Any]:
    return {"id": f"o{i}", "ts": f"2026-01-01T00:{i:02}:00Z", "country": "NO", "amount": i, **rest}


CLEAN = [order(i) for i in range(6)]
CAME = [
    order(0),
    order(1, amount="1"),
    order(2, country=" NO"),
    order(3, ts="01/01/2026 00:03", amount="3.0"),
    order(4),
    order(5, amount=5.0),
    order(6, amount="many"),
]
MARKS = {
    "o1": "amount: cast",
    "o2": "country: trim",
    "o3": "amount: cast; ts: date format",
    "o5": "amount: cast",
}


class Folder:
    """A job's folder, and what the job made there."""

    def __init__(self, path: Path, cli: Callable[..., Done]) -> None:
        self.path = path
        self._cli = cli
        path.mkdir(exist_ok=True)
        (path / "orders.odcs.yaml").write_text(CONTRACT)

    def put(self, records: list[dict[str, Any]], name: str = "in-0.jsonl") -> None:
        (self.path / name).write_text("".join(f"{json.dumps(record)}\n" for record in records))

    def job(self, more: str = "", **changed: str) -> str:
        text = JOB
        for key, value in changed.items():
            text = "".join(
                f"{key}: {value}\n" if line.startswith(f"{key}:") else line
                for line in text.splitlines(keepends=True)
            )
        (self.path / "job.yaml").write_text(text + more)
        return str(self.path / "job.yaml")

    def run(self, more: str = "", *flags: str, **changed: str) -> Done:
        return self.ok("ingest", "--job", self.job(more, **changed), *flags)

    def ok(self, *arguments: str) -> Done:
        done = self._cli(*arguments)
        assert done.code == exit_codes.OK, done
        return done

    def rows(self, output: str = "parquet:{}/out") -> list[dict[str, Any]]:
        return sorted(rows_of(output.format(self.path)), key=lambda row: row["id"])

    def dead(self) -> list[dict[str, Any]]:
        return rows_of(f"jsonl:{self.path}/dead")

    def ledger(self) -> dict[str, int]:
        """Its counts over all rows of the output of records; each balances."""
        found = [r for r in rows_of(f"jsonl:{self.path}/ledger") if r["output"] == "records"]
        for row in found:
            gone = sum(row[name] for name in ("written", "dead", "duplicate", "filtered", "late"))
            assert row["open_before"] + row["read"] == gone + row["open_after"], row
        names = ("read", "written", "dead", "repaired")
        return {name: sum(row[name] or 0 for row in found) for name in names}

    def assert_as_it_should_have_been(self, clean: Folder) -> None:
        rows = self.rows()
        marks = {row["id"]: mark for row in rows if (mark := row.pop(REPAIRED))}
        assert rows == clean.rows()
        assert marks == MARKS


@pytest.fixture
def folder(tmp_path, cli) -> Folder:
    return Folder(tmp_path / "job", cli)


@pytest.fixture
def clean(tmp_path, cli) -> Folder:
    """What comes of the records as they should have been, of a job without repairs."""
    made = Folder(tmp_path / "clean", cli)
    made.put(CLEAN)
    made.run()
    assert REPAIRED not in made.rows()[0]
    return made


@pytest.mark.slow
def test_json_lines(folder, clean):
    folder.put(CAME)
    done = folder.run(REPAIRS)
    folder.assert_as_it_should_have_been(clean)
    assert folder.ledger() == {"read": 7, "written": 6, "dead": 1, "repaired": 4}
    assert done.out.splitlines()[0].split() == ["records", "read", "repaired", "written", "dead"]
    (letter,) = folder.dead()
    assert json.loads(letter["payloadString"]) == CAME[-1]


@pytest.mark.slow
def test_csv(folder, clean):
    lines = [",".join(CAME[0]), *(",".join(map(str, row.values())) for row in CAME)]
    (folder.path / "in-0.csv").write_text("\n".join(lines))
    folder.run(REPAIRS)
    rows = folder.rows()
    marks = {row["id"]: mark for row in rows if (mark := row.pop(REPAIRED))}
    assert rows == clean.rows()
    assert marks == {name: mark for name, mark in MARKS.items() if name != "o1"}  # 1 is 1 in CSV
    assert folder.ledger() == {"read": 7, "written": 6, "dead": 1, "repaired": 3}


@pytest.mark.slow
def test_a_replay_tries_the_repairs_that_a_job_has_by_now(folder, clean):
    folder.put(CAME)
    folder.run()
    assert len(folder.rows()) == 2
    assert len(folder.dead()) == 5
    folder.job(REPAIRS)
    done = folder.ok("dead-letters", "replay", "--job", str(folder.path / "job.yaml"))
    assert "replaying 5 dead letters" in done.err
    rows = folder.rows()
    marks = {row["id"]: mark for row in rows if (mark := row.pop(REPAIRED, None))}
    assert (rows, marks) == (clean.rows(), MARKS)
    assert folder.ledger() == {"read": 12, "written": 6, "dead": 6, "repaired": 4}
    again = [row for row in folder.dead() if row["attempt"]]
    assert [json.loads(row["payloadString"]) for row in again] == [CAME[-1]]


GOING_ON = """\
until: now
late: jsonl:late
aggregates:
- name: sums
  window: {fixed: 1h}
  by: [country]
  metrics: {orders: count(), amount: sum(amount), last: last(id)}
  output: parquet:sums
"""


@pytest.mark.slow
def test_a_job_that_goes_on_and_its_aggregates(folder, tmp_path, cli):
    clean = Folder(tmp_path / "clean", cli)
    for made, records, repairs in ((clean, CLEAN, ""), (folder, CAME, REPAIRS)):
        for i, part in enumerate((records[:3], records[3:])):
            made.put(part, f"in-{i}.jsonl")
            made.run(GOING_ON + repairs, *(["--close_windows=true"] if i else []))
    folder.assert_as_it_should_have_been(clean)
    assert folder.ledger() == {"read": 7, "written": 6, "dead": 1, "repaired": 4}
    sums = [rows_of(f"parquet:{made.path}/sums") for made in (folder, clean)]
    assert sums[0] == sums[1]


LATER = {"id": "late", "ts": "31/12/2025 10:00", "country": "UK", "amount": "7"}


@pytest.mark.slow
def test_a_rescued_record_that_is_late_comes_into_its_window_by_a_replay(folder):
    folder.put(CAME[:5])
    folder.run(GOING_ON + REPAIRS, "--close_windows=true")
    folder.put([LATER], "in-1.jsonl")
    folder.run(GOING_ON + REPAIRS)
    assert [row["id"] for row in folder.rows()] == ["late", "o0", "o1", "o2", "o3", "o4"]
    assert len(rows_of(f"jsonl:{folder.path}/late")) == 1
    folder.ok("dead-letters", "replay", "--late", "--job", str(folder.path / "job.yaml"))
    sums = rows_of(f"parquet:{folder.path}/sums")
    assert sorted((row["country"], row["amount"]) for row in sums) == [("GB", 7), ("NO", 10)]


@pytest.mark.slow
def test_steps_see_what_was_repaired_and_may_drop_it(folder):
    folder.put(CAME)
    steps = f"steps:\n- sql: SELECT id, {REPAIRED} IS NOT NULL AS mended FROM records\n"
    folder.run(REPAIRS + steps)
    assert {row["id"] for row in folder.rows() if row["mended"]} == set(MARKS)
    assert set(folder.rows()[0]) == {"id", "mended"}


@pytest.mark.slow
def test_a_budget_and_gates_count_what_remains_dead(folder):
    folder.put(CAME)
    quality = "quality: {scores: 'jsonl:scores'}\nbudget: {dead: 1}\n"
    done = folder.run(REPAIRS + quality)
    assert "invalidValues" in done.out
    assert len(folder.rows()) == 6


@pytest.mark.slow
@pytest.mark.parametrize("output", ["jsonl:out", "csv:out", "avro:out", "duckdb:lake.db/orders"])
def test_every_output_holds_the_marks(folder, output):
    folder.put([*CAME, CAME[1]])
    twice = "duckdb:lake.db/twice" if output.startswith("duckdb") else "parquet:twice"
    more = f"deduplicate: run\nduplicates: {twice}\nunknown_fields: keep\n"
    folder.run(REPAIRS + more, output=output)
    found = marks_in(folder.path, output)
    assert {name: mark for name, mark in found if mark} == MARKS
    assert len(found) == 6
    with duckdb.connect(str(folder.path / "lake.db")) as lake:
        held = "twice" if twice.startswith("duckdb") else f"'{folder.path}/twice/*.parquet'"
        assert lake.execute(f"SELECT id FROM {held}").fetchall() == [("o1",)]


def marks_in(path: Path, output: str) -> list[tuple[Any, ...]]:
    """Ids and marks of what an output holds."""
    scheme, place = output.split(":")
    if scheme == "duckdb":
        with duckdb.connect(str(path / "lake.db")) as lake:
            return lake.execute(f"SELECT id, {REPAIRED} FROM orders").fetchall()
    (file,) = live_files(f"{scheme}:{path / place}")
    if scheme == "jsonl":
        rows: Any = map(json.loads, Path(file).read_text().splitlines())
    elif scheme == "csv":
        rows = csv.DictReader(Path(file).read_text().splitlines())
    else:
        rows = fastavro.reader(io.BytesIO(Path(file).read_bytes()))
    return [(row["id"], row[REPAIRED] or None) for row in rows]


@pytest.mark.slow
def test_a_table_and_a_ledger_that_are_there_get_their_new_columns(folder):
    tables = {"output": "duckdb:lake.db/orders", "ledger": "duckdb:lake.db/ledger"}
    folder.put(CLEAN[:2])
    folder.run("state: state\n", **tables)
    with duckdb.connect(str(folder.path / "lake.db")) as lake:
        lake.execute("ALTER TABLE ledger DROP COLUMN repaired")  # as an older version made it
    folder.put(CAME[2:], "in-1.jsonl")
    folder.run("state: state\n" + REPAIRS, "--input", str(folder.path / "in-1.jsonl"), **tables)
    with duckdb.connect(str(folder.path / "lake.db")) as lake:
        orders = lake.execute(f"SELECT id, {REPAIRED} FROM orders ORDER BY id").fetchall()
        ledger = lake.execute("SELECT read, repaired FROM ledger ORDER BY read").fetchall()
    assert [mark for _, mark in orders] == [None, None, *(MARKS.get(f"o{i}") for i in range(2, 6))]
    assert ledger == [(2, None), (5, 3)]


STREAM = "generate://?rate=0&count=20000&broken=0.2&disorder=1s"
OF_CLICKS = """\
idle: 1s
repairs:
- {field: page, default: /}
- {field: page, cast: true}
- {field: page, map: {"": /}}
- {field: event_type, default: view}
- {field: quantity, cast: true}
- {field: quantity, clamp: true}
- {field: amount, clamp: true}
- {field: user_id, map: {x: u0}}
"""


@pytest.mark.slow
def test_a_stream_rescues_what_its_records_say_should_be(prism, tmp_path):
    job = StreamJob.make(tmp_path / "job", STREAM, OF_CLICKS)
    with job.live(prism) as live:
        live.until(lambda: job.chain.newest() > 0 and not any_open(job), 120)
    assert live.code == exit_codes.OK, live.said
    job.assert_balanced()
    wanted = rescued_of(job)
    found = Counter((row["event_id"], row[REPAIRED]) for row in job.folder.table())
    assert found == wanted
    repaired = sum(count for (_, mark), count in wanted.items() if mark)
    assert repaired > 100
    ledger = [row for row in job.folder.ledger() if row["output"] == "records"]
    assert sum(row["repaired"] or 0 for row in ledger) == repaired
    assert len(job.folder.table("dead_letters", "jsonl")) == 20_000 - wanted.total()
    late = len({row["id"] for row in job.folder.table("late", "jsonl")})
    views = job.folder.table("page_views")
    assert sum(row["events"] for row in views) == wanted.total() - late


def rescued_of(job: StreamJob) -> Counter[tuple[str, str | None]]:
    """Ids and marks of all records of a stream that are good, or can be made so."""
    contract = load_contract(str(job.folder.path / "clickstream.odcs.yaml"))
    entries = load_job(job.folder.job, {})[0].repairs
    decoder, how = JsonDecoder(contract, judge=True), JsonPayloads(contract, entries)
    began = began_us(job.carry.sources)
    assert began is not None
    lines = GeneratedLines(contract, job.input, began)
    found: Counter[tuple[str, str | None]] = Counter()
    for source, state in job.carry.sources.items():
        payloads = lines.lines(partition_of(source), 0, state.next)
        decoded = decoder.decode(payloads)
        good = rescued(decoded, payloads.take(pa.array(decoded.refused)), how).records
        ids = good.column("event_id").to_pylist()
        found.update(zip(ids, good.column(REPAIRED).to_pylist(), strict=True))
    return found


# ------------------------------------------------------------------- seen to before the run


@pytest.fixture
def written(tmp_path) -> Callable[..., str]:
    """Writes a job with repairs; gives what is said of it."""

    def said(more: str, **changed: str) -> str:
        folder = Folder(tmp_path / "job", lambda *_: Done(0, "", ""))
        job, places = load_job(folder.job(more, **changed), {})
        with pytest.raises(JobError) as error:
            job_repair(job, job_contract(job), places)
        return str(error.value)

    return said


@pytest.mark.parametrize(
    ("repairs", "said"),
    [
        ("[{field: amont, cast: true}]", "job.yaml:8 repairs[0].field: the contract has no field"),
        ("[{field: amount}]", "job.yaml:8 repairs[0]: expected 'trim', 'cast'"),
        ("[{field: amount, default: 500}]", "repairs[0].default: does not keep the contract"),
    ],
)
def test_a_mistake_is_said_with_its_place(written, repairs, said):
    assert said in written(f"repairs: {repairs}\n")


def test_a_key_that_is_misspelt(tmp_path):
    folder = Folder(tmp_path, lambda *_: Done(0, "", ""))
    with pytest.raises(JobError, match=r"repairs\[0\].trimm: no such key: trimm; did you mean"):
        load_job(folder.job("repairs: [{field: country, trimm: true}]\n"), {})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"input": "kafka://h:1/t?format=avro&registry=http://r"}, "Avro messages of a stream"),
        ({"input": "[in-*]\nformat: csv\ncsv: {encoding: utf-16}"}, "CSV in utf-16"),
    ],
)
def test_what_cannot_be_repaired_is_refused(written, changed, said):
    assert said in written(REPAIRS, **changed)


def test_a_contract_may_not_have_the_column_itself(written, monkeypatch):
    named = CONTRACT.replace("name: country", f"name: {REPAIRED}")
    monkeypatch.setattr("tests.pipelines.test_repairs.CONTRACT", named)
    assert f"the contract has a field {REPAIRED}" in written(REPAIRS)


def test_without_repairs_a_plan_says_nothing_of_them(tmp_path):
    from millstream.pipelines.repairs import repair_settings

    folder = Folder(tmp_path, lambda *_: Done(0, "", ""))
    job, _ = load_job(folder.job(), {})
    assert repair_settings(job) == {}
    job, _ = load_job(folder.job(REPAIRS), {})
    (text,) = repair_settings(job).values()
    assert json.loads(text)[0] == {"field": "amount", "cast": True}  # and no defaults
