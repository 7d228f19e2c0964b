"""Quality gates of whole jobs: what is committed, what is kept back, and what is said of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from millstream.pipelines.cli import main
from millstream.pipelines.gates import CLOSED
from millstream.transforms.write.files import live_files

from tests.pipelines.clicks import Done

pytestmark = pytest.mark.slow

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - name: id
    logicalType: string
    required: true
    primaryKey: true
    quality: [{metric: duplicateValues, mustBeLessOrEqualTo: 1}]
  - name: ts
    logicalType: timestamp
    required: true
    customProperties: [{property: eventTime, value: true}]
  - name: status
    logicalType: string
    quality:
    - {metric: invalidValues, unit: percent, mustBeLessThan: 20, arguments: {validValues: [ok]}}
  - {name: amount, logicalType: integer, quality: [{metric: nullValues, mustBeLessThan: 3}]}
  - {name: total, logicalType: integer}
  - name: country
    logicalType: string
    required: true
    quality: [{type: sql, query: "SELECT count(DISTINCT {property}) FROM {object}", mustBe: 2}]
  quality:
  - {metric: rowCount, mustBeGreaterThan: 10}
  - {type: custom, engine: millstream, name: within, implementation: "amount <= total"}
  - {type: custom, engine: millstream, name: small, implementation: "amount < 50",
     mustBeLessThan: 1, severity: warning}
"""
JOB = """\
name: orders
contract: orders.odcs.yaml
input: [in-*.jsonl]
dead_letters: jsonl:dead
ledger: jsonl:ledger
progress: false
"""


def order(i: int, **rest: Any) -> dict[str, Any]:
    moment = f"2026-01-01T00:{i // 60:02}:{i % 60:02}Z"
    country = "NO" if i % 2 else "SE"
    made = {"id": f"o{i}", "ts": moment, "status": "ok", "amount": 5, "total": 9}
    return {**made, "country": country, **rest}


GOOD = [order(i) for i in range(40)]


class Folder:
    """A job's folder, and what it made there."""

    def __init__(self, path: Path, ingest: Callable[..., Done]) -> None:
        self.path = path
        self._ingest = ingest
        (path / "orders.odcs.yaml").write_text(CONTRACT)
        self.put(GOOD)

    def put(self, rows: Sequence[dict[str, Any] | str], name: str = "in-0.jsonl") -> None:
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (self.path / name).write_text("".join(f"{line}\n" for line in lines))

    def run(self, job: str = "", *flags: str, output: str | None = "parquet:out") -> Done:
        text = JOB + (f"output: {output}\n" if output else "") + job
        (self.path / "job.yaml").write_text(text)
        return self._ingest("--job", str(self.path / "job.yaml"), *flags)

    def check(self, old: str, new: str) -> None:
        """Write a check of the contract anew."""
        text = (self.path / "orders.odcs.yaml").read_text()
        assert text.count(old) == 1
        (self.path / "orders.odcs.yaml").write_text(text.replace(old, new))

    def ids(self, folder: str = "out") -> list[str]:
        paths = live_files(f"parquet:{self.path / folder}")
        return sorted(id for p in paths for id in pq.read_table(p)["id"].to_pylist())

    def lines(self, folder: str) -> list[dict[str, Any]]:
        paths = live_files(f"jsonl:{self.path / folder}")
        return [json.loads(line) for p in paths for line in Path(p).read_text().splitlines()]

    def scores(self) -> dict[str, dict[str, Any]]:
        return {row["check"]: row for row in self.lines("scores")}


@pytest.fixture
def folder(tmp_path, ingest_here) -> Folder:
    return Folder(tmp_path, ingest_here)


def test_good_records_are_committed_and_every_check_is_shown(folder):
    done = folder.run("quality: {scores: 'jsonl:scores'}\n")
    assert done.code == 0, done
    assert folder.ids() == sorted(row["id"] for row in GOOD)
    assert "quality 1.0000 (" in done.out
    assert "  kept      error     country query: 2, mustBe 2" in done.out
    assert {name: row["verdict"] for name, row in folder.scores().items()} == dict.fromkeys(
        [
            "id duplicateValues",
            "status invalidValues",
            "amount nullValues",
            "country query",
            "rowCount",
            "within",
            "small",
        ],
        "kept",
    )


def test_what_was_measured_is_what_came_in(folder):
    rows = [
        *GOOD,
        order(40, status="bad"),
        order(41, status=7),  # a dead letter, and invalid
        order(42, id="o1"),  # one repeated key
        order(43, amount=None),
        order(44, amount=10),  # more than its total: a dead letter of an expression
        order(45, amount=60, total=70),  # warned about
        "no JSON",  # invalid in every field
    ]
    folder.put(rows)
    done = folder.run("quality: {scores: 'jsonl:scores'}\n")
    assert done.code == 0, done
    found = {n: (r["value"], r["records"], r["verdict"]) for n, r in folder.scores().items()}
    assert found == {
        "id duplicateValues": (1, 44, "kept"),
        "status invalidValues": (3, 47, "kept"),
        "amount nullValues": (1, 47, "kept"),
        "country query": (2, 44, "kept"),
        "rowCount": (44, 44, "kept"),
        "within": (1, 47, "enforced"),
        "small": (1, 47, "broken"),
    }
    letters = {row["position"]: row for row in folder.lines("dead")}
    assert len(letters) == 3
    [broken] = [row for row in letters.values() if row["stage"] == "validate"]
    assert broken["errorMessage"] == "within: expected amount <= total"
    assert "warn: small: 1, mustBeLessThan 1 (" in done.err


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([order(40 + i, status="bad") for i in range(20)], "status invalidValues: 33.3333 percent"),
        ([order(40 + i, amount=None) for i in range(3)], "amount nullValues: 3, mustBeLessThan 3"),
        ([order(41, id="o1"), order(42, id="o2")], "id duplicateValues: 2, mustBeLessOrEqualTo 1"),
        ([order(43, country="DK")], "country query: 3, mustBe 2"),
    ],
)
def test_a_broken_check_keeps_everything_back(folder, bad: list[Any], said: str):
    folder.put([*GOOD, *bad])
    done = folder.run("quality: {scores: 'jsonl:scores'}\n")
    assert done.code == CLOSED, done
    assert "the gate is closed, and nothing was committed:" in done.err
    assert said in done.err
    assert "orders.odcs.yaml:" in done.err
    assert folder.ids() == []
    assert folder.lines("dead") == []
    assert folder.lines("ledger") == []
    broken = [row for row in folder.lines("scores") if row["verdict"] == "broken"]
    assert [row["action"] for row in broken] == ["fail"]
    assert not list(folder.path.rglob("*.staged"))


def test_it_fails_the_same_way_again_and_passes_once_the_data_are_mended(folder):
    folder.put([*GOOD, order(40, country="DK")])
    assert [folder.run().code for _ in range(2)] == [CLOSED, CLOSED]
    folder.put(GOOD)
    assert folder.run().code == 0
    assert len(folder.ids()) == len(GOOD)


def test_too_few_records_and_none_at_all(folder):
    folder.put(GOOD[:5])
    assert "rowCount: 5, mustBeGreaterThan 10" in folder.run().err
    folder.put([])
    done = folder.run()
    assert done.code == CLOSED
    assert "rowCount: 0, mustBeGreaterThan 10" in done.err


def test_to_warn_commits(folder):
    folder.put([*GOOD, order(40, country="DK")])
    done = folder.run("quality: {action: warn}\n")
    assert done.code == 0
    assert "warn: country query: 3, mustBe 2" in done.err
    assert len(folder.ids()) == len(GOOD) + 1


def test_a_contract_without_checks_of_its_own_is_not_measured(folder):
    text = CONTRACT[: CONTRACT.index("  quality:\n")].replace("quality:", "tags:")
    lines = [line for line in text.splitlines() if "metric" not in line and "tags:" not in line]
    lines.append("  - {name: amount, logicalType: integer}")
    (folder.path / "orders.odcs.yaml").write_text("\n".join(lines))
    done = folder.run()
    assert done.code == 0, done
    assert "quality" not in done.out
    assert not list(folder.path.rglob("quality.json"))


def test_duplicates_that_the_job_leaves_out_are_no_duplicates(folder):
    folder.put([*GOOD, order(41, id="o1"), order(42, id="o2")])
    done = folder.run("deduplicate: run\nquality: {scores: 'jsonl:scores'}\n")
    assert done.code == 0, done
    assert folder.scores()["id duplicateValues"]["value"] == 0


@pytest.mark.parametrize("output", ["jsonl:out", "parquet:out?partition_by=country", None])
def test_queries_where_staged_files_do_not_hold_the_records(folder, output: str | None):
    aggregates = (
        "aggregates: [{name: n, window: {fixed: 1m}, metrics: {n: count()}, output: 'parquet:n'}]\n"
    )
    folder.put([*GOOD, order(40, country="DK")])
    done = folder.run("" if output else aggregates, output=output)
    assert done.code == CLOSED
    assert "country query: 3, mustBe 2" in done.err


def test_checks_are_of_the_records_before_the_jobs_steps(folder):
    steps = "steps: [{sql: \"SELECT id, 'x' AS country FROM records WHERE false\"}]\n"
    done = folder.run(steps + "quality: {scores: 'jsonl:scores'}\n")
    assert done.code == 0, done
    assert folder.ids() == []
    assert folder.scores()["rowCount"]["value"] == len(GOOD)
    assert folder.scores()["country query"]["value"] == 2


def test_all_goes_to_quarantine_and_the_ledger_balances(folder):
    folder.put([*GOOD, order(40, country="DK"), "no JSON"])
    done = folder.run("quality: {action: quarantine, quarantine: 'parquet:aside'}\n")
    assert done.code == CLOSED
    assert "quarantined, and not published: all records" in done.err
    assert folder.ids() == []
    assert len(folder.ids("aside/records")) == len(GOOD) + 1
    assert len(folder.lines("dead")) == 1
    [row] = folder.lines("ledger")
    assert (row["read"], row["written"], row["dead"]) == (42, 41, 1)
    assert "balanced" in done.out
    again = folder.run("quality: {action: quarantine, quarantine: 'parquet:aside'}\n")
    assert "has been committed already: nothing to do" in again.err
    assert again.code == CLOSED  # what it holds back it still does


def test_a_partition_goes_to_quarantine_alone(folder):
    folder.put([*GOOD, *(order(41 + 2 * i, status="bad") for i in range(8))])
    done = folder.run(
        "quality: {action: quarantine, quarantine: 'parquet:aside'}\n",
        output="parquet:out?partition_by=country",
    )
    assert done.code == CLOSED
    assert "quarantined, and not published: country=NO" in done.err
    assert len(folder.ids()) == 20
    assert len(folder.ids("aside/records")) == 28
    [row] = folder.lines("ledger")
    assert (row["read"], row["written"]) == (48, 48)
    folders = Counter(Path(p).parent.name for p in live_files(f"parquet:{folder.path}/out"))
    assert set(folders) == {"country=SE"}


KILLED = """
import os, signal, sys
from millstream.pipelines.cli import main
from millstream.transforms import storage

left = int(sys.argv[1])

def dying(change):
    def changing(*given, **how):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*given, **how)
    return changing

for name in ("write_once", "write_replace", "move"):
    setattr(storage, name, dying(getattr(storage, name)))
sys.exit(main(["ingest", "--job", sys.argv[2]]))
"""
"""Ingests, and is killed before so many changes that it would make."""


@pytest.mark.parametrize("changes", [2, 3, 4, 6, 8, 10])
def test_killed_between_judging_and_committing(folder, changes: int):
    """From before the verdicts are written to when all but the run's record is."""
    folder.put([*GOOD, *(order(41 + 2 * i, status="bad") for i in range(8))])
    (folder.path / "job.yaml").write_text(
        JOB + "output: parquet:out?partition_by=country\n"
        "quality: {action: quarantine, quarantine: 'parquet:aside'}\n"
    )
    job = str(folder.path / "job.yaml")
    command = [sys.executable, "-c", KILLED, str(changes), job]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    assert main(["ingest", "--job", job, "--wait=90"]) == CLOSED
    assert (len(folder.ids()), len(folder.ids("aside/records"))) == (20, 28)
    [row] = folder.lines("ledger")
    assert (row["read"], row["written"]) == (48, 48)
    assert main(["gc", "--job", job, "--older_than=0s"]) == 0
    assert not list(folder.path.rglob("*.staged"))
    assert (len(folder.ids()), len(folder.ids("aside/records"))) == (20, 28)


def test_gc_knows_where_quarantined_rows_are(folder):
    quality = "quality: {action: quarantine, quarantine: 'parquet:aside'}\n"
    folder.put([*GOOD, order(40, country="DK")])
    assert folder.run(quality).code == CLOSED
    committed = live_files(f"parquet:{folder.path / 'aside/records'}")
    named = Path(committed[0])
    left = named.with_name(f"{named.name.rpartition('-')[0]}-{'0' * 16}.parquet")
    left.write_bytes(named.read_bytes())  # as an attempt leaves it that died
    assert main(["gc", "--job", str(folder.path / "job.yaml"), "--older_than=0s"]) == 0
    assert (left.exists(), named.exists()) == (False, True)


def test_rows_of_a_table_go_to_quarantine_as_parquet(folder):
    pytest.importorskip("duckdb")
    folder.put([*GOOD, order(40, country="DK")])
    quality = "{action: quarantine, quarantine: 'parquet:aside', scores: 'duckdb:q.db/scores'}"
    done = folder.run(f"quality: {quality}\n", output="duckdb:w.db/orders")
    assert done.code == CLOSED, done
    import duckdb

    with duckdb.connect(str(folder.path / "w.db")) as db:
        assert db.sql("SELECT count(*) FROM orders").fetchall() == [(0,)]
    with duckdb.connect(str(folder.path / "q.db")) as db:
        found = db.sql("SELECT verdict, action FROM scores WHERE \"check\" = 'country query'")
        assert found.fetchall() == [("broken", "quarantine")]
    assert len(folder.ids("aside/records")) == len(GOOD) + 1


def test_what_a_check_does_is_its_own_then_its_severitys_then_the_jobs(folder):
    folder.check("mustBe: 2}]", "mustBe: 2, customProperties: [{property: action, value: warn}]}]")
    folder.put([*GOOD, order(40, country="DK")])
    assert folder.run().code == 0
    folder.check("mustBeLessThan: 1, severity: warning", "mustBeLessThan: 1, severity: info")
    folder.put([*GOOD, order(40, amount=60, total=70)])
    done = folder.run("quality: {severities: {info: fail}}\n")
    assert done.code == CLOSED
    assert "small: 1, mustBeLessThan 1" in done.err


@pytest.mark.parametrize(
    ("budget", "dead", "code"),
    [
        ("{dead: 5}", 5, 0),
        ("{dead: 5}", 6, CLOSED),
        ("{ratio: 0.2}", 10, 0),
        ("{ratio: 0.2}", 11, CLOSED),
        ("{source: {dead: 3}}", 3, 0),
        ("{source: {dead: 3}}", 4, CLOSED),
    ],
)
def test_a_budget(folder, budget: str, dead: int, code: int):
    folder.put(["{}"] * dead, "in-1.jsonl")
    done = folder.run(f"budget: {budget}\n")
    assert done.code == code, done
    assert len(folder.ids()) == (40 if code == 0 else 0)
    if code:
        assert "over budget" in done.err


def test_a_job_that_goes_on_is_judged_run_by_run(folder):
    job = "until: now\n"
    assert folder.run(job).code == 0
    folder.put([order(100 + i, country="DK") for i in range(20)], "in-1.jsonl")
    done = folder.run(job)
    assert done.code == CLOSED
    assert "country query: 1, mustBe 2" in done.err
    assert len(folder.ids()) == 40
    folder.check("mustBe: 2", "mustBeLessThan: 3")
    assert folder.run(job).code == 0
    assert len(folder.ids()) == 60


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("quality: {action: stop}\n", "job.yaml:8 quality.action: expected 'warn', 'quarantine'"),
        ("quality: {acton: warn}\n", "no such key: acton; did you mean 'action'?"),
        (
            "quality: {action: quarantine}\n",
            "job.yaml:8 quality: id duplicateValues (",
        ),
        (
            "quality: {action: quarantine, quarantine: 'jsonl:aside'}\n",
            "quality.quarantine: output 'records' is staged as parquet: say parquet:DIR",
        ),
        (
            "quality: {action: quarantine, quarantine: 'duckdb:a.db/t'}\n",
            "quality.quarantine: expected a folder of files, as parquet:DIR",
        ),
        ("quality: {scores: aside}\n", "quality.scores: destination"),
        (
            "quality: {breaker: {dead: 5, pause: soon}}\n",
            "quality.breaker.pause: expected a duration",
        ),
        ("quality: {breaker: {}}\n", "quality.breaker: dead is not given"),
        ("budget: {dead: -1}\n", "job.yaml:8 budget.dead: expected at least 0, got -1"),
        ("budget: {source: {ratio: 2}}\n", "budget.source.ratio: expected a part from 0 to 1"),
    ],
)
def test_a_mistake_is_found_before_anything_is_run(folder, job: str, message: str):
    done = folder.run(job)
    assert done.code == 2, done
    assert message in done.err
    assert not (folder.path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("amount <= total", "amuont <= total", "orders.quality[1] within: "),
        ("amount < 50", "amount", "expected an expression that is true or false"),
        ("mustBeGreaterThan: 10", "mustBeGreaterThan: ten", "mustBeGreaterThan"),
    ],
)
def test_a_mistake_in_the_contract_is_found_too(folder, old: str, new: str, message: str):
    folder.check(old, new)
    done = folder.run()
    assert done.code == 2, done
    assert message in done.err
    assert "orders.odcs.yaml:" in done.err


def test_flags_say_it_too(folder):
    folder.put([*GOOD, order(40, country="DK")])
    assert folder.run("", "--quality", "action: warn").code == 0


QUALITY = """\
        quality:
          - {metric: nullValues, mustBeLessThan: 100, unit: percent}
    quality:
      - {metric: rowCount, mustBeGreaterThan: 10000000, severity: warning}
      - {type: sql, query: "SELECT count(*) FROM {object}", mustBeLessThan: 0, severity: warning}
      - {metric: duplicateValues, mustBe: 0, arguments: {properties: [event_id]}}
      - {type: custom, engine: millstream, name: cheap, implementation: "amount < 1",
         mustBeGreaterThan: 0, severity: warning}
slaProperties:
"""


def stream_job(path: Path, uri: str, quality: str) -> Any:
    """The example's job over made-up records, with checks of all kinds."""
    from tests.pipelines.test_stream_jobs import StreamJob

    job = StreamJob.make(path, uri, lines=f"idle: 1s\n{quality}")
    contract = job.folder.path / "clickstream.odcs.yaml"
    text = contract.read_text()
    assert text.count("slaProperties:\n") == 1
    contract.write_text(text.replace("slaProperties:\n", QUALITY))
    return job


@pytest.mark.slow
def test_every_commit_of_a_stream_is_judged(prism, tmp_path):
    uri = "generate://?rate=2000&broken=0.02&disorder=1s"
    job = stream_job(tmp_path / "job", uri, "quality: {scores: 'jsonl:warehouse/scores'}\n")
    with job.live(prism) as live:
        live.until(job.commits(3), 120)
    assert live.code == 0, live.said
    assert job.run("--close_windows") == 0
    expected = job.assert_exact()
    rows = job.folder.table("scores", "jsonl")
    assert {row["run_id"] for row in rows} == {row["run_id"] for row in job.folder.ledger()}
    totals: Counter[str] = Counter()
    for row in rows:
        totals[row["check"]] += int(row["value"])
    kept, dead = expected.written.total(), expected.letters.total()
    assert totals["rowCount"] == totals["query"] == kept
    assert totals["duplicateValues"] == 0
    populations = [row["records"] for row in rows if row["check"] == "cheap"]
    assert sum(populations) == kept + dead
    assert not list(job.folder.path.rglob("*.keys"))


@pytest.mark.slow
def test_a_burst_holds_a_stream_back_and_nothing_is_lost(prism, tmp_path):
    uri = "generate://?rate=2000&broken=0.5&disorder=1s"
    quality = "quality: {breaker: {dead: 100, within: 1m, pause: 2s}}\n"
    job = stream_job(tmp_path / "job", uri, quality)
    with job.live(prism) as live:
        live.until(lambda: live.said.count("the stream is tried again") >= 2, 120)
    assert live.code == 0, live.said
    assert "a burst of dead letters: the stream is held back for a while" in live.said
    assert job.run("--close_windows") == 0
    job.assert_exact()
