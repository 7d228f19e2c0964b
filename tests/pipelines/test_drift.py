"""Drift in whole jobs: what each policy commits, says, and makes of the contract."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from millstream.pipelines import exit_codes
from millstream.schemas.odcs import load_contract
from millstream.transforms.write.files import live_files

from tests.pipelines.clicks import Done

pytestmark = pytest.mark.slow

CONTRACT = """\
# What the shop sends.
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: string, required: true, primaryKey: true}
  - name: status
    logicalType: string
    quality:
    - metric: invalidValues
      mustBe: 0
      arguments: {validValues: [new, paid]}  # ours
  - name: qty
    logicalType: integer
    logicalTypeOptions: {format: i32}
  - name: device
    logicalType: object
    properties:
    - {name: os, logicalType: string}
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
    return {"id": f"o{i}", "status": "new", "qty": i, "device": {"os": "linux"}, **rest}


GOOD = [order(i) for i in range(20)]
UNKNOWN = [order(100, coupon="SPRING"), order(101, coupon=None), order(102, device={"v": 2})]
WIDER = [order(200, qty=2**40)]
VALUES = [order(300, status="void"), order(301, status="void", coupon="X")]
DRIFTING = [*UNKNOWN, *WIDER, *VALUES]
HOPELESS = [order(400, qty="many"), order(401, device={"os": 3})]


class Folder:
    """A job's folder, and what it made there."""

    def __init__(self, path: Path, cli: Callable[..., Done]) -> None:
        self.path = path
        self._cli = cli
        (path / "orders.odcs.yaml").write_text(CONTRACT)

    def put(self, rows: Sequence[dict[str, Any]], name: str = "in-0.jsonl") -> None:
        (self.path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def run(self, policy: str, *flags: str, output: str = "parquet:out", job: str = "") -> Done:
        text = f"{JOB}drift: {policy}\noutput: {output}\n{job}"
        (self.path / "job.yaml").write_text(text)
        return self._cli("ingest", "--job", str(self.path / "job.yaml"), *flags)

    def replay(self) -> Done:
        return self._cli("dead-letters", "replay", "--job", str(self.path / "job.yaml"))

    def cli(self, *arguments: str) -> Done:
        return self._cli(*arguments)

    def rows(self) -> list[dict[str, Any]]:
        tables = [pq.read_table(p) for p in live_files(f"parquet:{self.path / 'out'}")]
        found = pa.concat_tables(tables, promote_options="permissive").to_pylist() if tables else []
        return sorted(found, key=lambda row: row["id"])

    def ids(self) -> set[str]:
        return {row["id"] for row in self.rows()}

    def dead(self) -> dict[str, list[str]]:
        paths = live_files(f"jsonl:{self.path / 'dead'}")
        found = (json.loads(line) for p in paths for line in Path(p).read_text().splitlines())
        return {json.loads(row["payloadString"])["id"]: row["codes"] for row in found}

    def report(self) -> dict[str, Any]:
        [path] = self.path.glob("ledger/_millstream/runs/*/*/drift.json")
        return json.loads(path.read_text())

    def counts(self) -> dict[tuple[str, str], dict[str, int]]:
        return {
            (place["kind"], place["path"]): {s["what"]: s["records"] for s in place["seen"]}
            for place in self.report()["places"]
        }

    def contracts(self) -> list[str]:
        return sorted(p.name for p in self.path.glob("ledger/_millstream/contracts/*"))


SEEN = {
    ("field", "coupon"): {"string": 2, "null": 1},
    ("field", "device.v"): {"integer": 1},
    ("type", "qty"): {"int64": 1},
    ("value", "status"): {'"void"': 2},
}


@pytest.fixture
def folder(tmp_path, cli) -> Folder:
    return Folder(tmp_path, cli)


def ids(rows: Sequence[dict[str, Any]]) -> set[str]:
    return {row["id"] for row in rows}


def test_to_ignore_drift_is_the_default_and_tells_nothing(folder):
    folder.put([*GOOD, *DRIFTING])
    done = folder.run("ignore")
    assert done.code == 0, done
    assert "drift:" not in done.out
    assert "drift report" not in done.out
    assert not list(folder.path.glob("ledger/**/drift.json"))
    assert folder.ids() == ids([*GOOD, *UNKNOWN])


def test_warn_counts_exactly_and_commits_what_ignore_commits(folder):
    folder.put([*GOOD, *DRIFTING])
    done = folder.run("warn")
    assert done.code == 0, done
    assert folder.ids() == ids([*GOOD, *UNKNOWN])
    assert folder.dead() == {"o200": ["RANGE"], "o300": ["ENUM"], "o301": ["ENUM"]}
    assert folder.counts() == SEEN
    assert folder.report()["records"] == 6
    assert "drift: 6 records are not as the contract foresees" in done.out
    assert "drift.json" in done.out
    assert "drift is only counted" in done.err


def test_a_run_under_warn_is_the_run_under_ignore(folder):
    folder.put([*GOOD, *DRIFTING])
    folder.run("ignore")
    done = folder.run("warn")
    assert done.code == 0, done
    assert "has been committed already" in done.err


def test_warn_counts_what_is_kept(folder):
    folder.put([*GOOD, *DRIFTING])
    done = folder.run("warn", "--unknown_fields=keep")
    assert done.code == 0, done
    assert folder.counts() == SEEN


def test_quarantine_makes_dead_letters_of_unknown_fields(folder):
    folder.put([*GOOD, *DRIFTING])
    done = folder.run("quarantine")
    assert done.code == 0, done
    assert folder.ids() == ids(GOOD)
    assert folder.dead()["o102"] == ["UNKNOWN_FIELD"]
    assert folder.dead()["o301"] == ["UNKNOWN_FIELD", "ENUM"]
    assert folder.counts() == SEEN


def test_what_is_quarantined_cannot_be_kept(folder):
    folder.put(GOOD)
    done = folder.run("quarantine", job="unknown_fields: keep\n")
    assert done.code == exit_codes.USAGE
    assert "job.yaml:9 unknown_fields: drift: quarantine makes dead letters" in done.err


def test_freeze_commits_nothing_and_names_the_fields(folder):
    folder.put([*GOOD, *DRIFTING])
    done = folder.run("freeze")
    assert done.code == exit_codes.GATED, done
    assert folder.ids() == set()
    for path in ("coupon", "device.v", "qty", "status"):
        assert path in done.err
    assert folder.counts() == SEEN
    folder.put(GOOD)
    assert folder.run("freeze").code == 0
    assert folder.ids() == ids(GOOD)


def test_a_contract_evolves_and_dead_letters_come_back_whole(folder):
    folder.put([*GOOD, *DRIFTING, *HOPELESS])
    done = folder.run("evolve")
    assert done.code == 0, done
    assert folder.ids() == ids(GOOD)
    assert folder.contracts() == ["orders-1.1.0.odcs.yaml"]
    assert "qty: the contract cannot evolve by itself: no wider type of int32 takes string" in (
        done.err
    )
    assert "device.os: the contract cannot evolve by itself" in done.err

    folder.put([order(500, coupon="NEXT", status="void")], "in-1.jsonl")
    done = folder.run("evolve", "--input", str(folder.path / "in-1.jsonl"))
    assert done.code == 0, done
    assert {row["id"]: row["coupon"] for row in folder.rows() if "coupon" in row}["o500"] == "NEXT"
    assert folder.replay().code == 0
    assert folder.ids() == ids([*GOOD, *DRIFTING]) | {"o500"}


def test_evolved_contract_takes_what_died_of_drift_alone(folder):
    folder.put([*GOOD, *DRIFTING])
    assert folder.run("evolve").code == 0
    evolved = folder.path / "ledger/_millstream/contracts/orders-1.1.0.odcs.yaml"
    said = evolved.read_text()
    assert "# What the shop sends." in said
    assert "# ours" in said
    contract = load_contract(evolved)
    assert contract.version == "1.1.0"
    assert contract.field("coupon").type == "string"
    assert contract.field("device.v").type == "integer"
    assert contract.field("qty").storage == "int64"
    done = folder.replay()
    assert done.code == 0, done
    assert folder.ids() == ids([*GOOD, *DRIFTING])
    by_id = {row["id"]: row for row in folder.rows()}
    assert by_id["o100"]["coupon"] == "SPRING"
    assert by_id["o102"]["device"] == {"os": None, "v": 2}
    assert by_id["o200"]["qty"] == 2**40
    own = str(folder.path / "orders.odcs.yaml")
    assert folder.cli("contract", "compatible", own, str(evolved)).code == 0


def test_the_same_command_again_is_the_same_run(folder):
    folder.put([*GOOD, *DRIFTING])
    assert folder.run("evolve").code == 0
    done = folder.run("evolve")
    assert done.code == 0, done
    assert "has been committed already" in done.err
    assert "contract 1.0.0 → 1.1.0" in done.err
    assert folder.contracts() == ["orders-1.1.0.odcs.yaml"]


def test_a_contract_that_somebody_has_changed_is_gone_by(folder):
    folder.put([*GOOD, *DRIFTING])
    assert folder.run("evolve").code == 0
    text = CONTRACT.replace("version: 1.0.0", "version: 2.0.0")
    (folder.path / "orders.odcs.yaml").write_text(text)
    folder.put([order(600, other=1)], "in-1.jsonl")
    assert folder.run("evolve", "--input", str(folder.path / "in-1.jsonl")).code == 0
    assert folder.contracts() == ["orders-1.1.0.odcs.yaml", "orders-2.1.0.odcs.yaml"]
    contract = load_contract(folder.path / "ledger/_millstream/contracts/orders-2.1.0.odcs.yaml")
    assert [f.name for f in contract.fields] == ["id", "status", "qty", "device", "other"]


def test_a_table_gets_the_new_column_and_keeps_its_types(folder):
    folder.put([*GOOD, *DRIFTING])
    table = f"duckdb:{folder.path / 'shop.duckdb'}/orders"
    done = folder.run("evolve", output=table)
    assert done.code == 0, done
    assert "qty: the contract cannot evolve by itself: int32 would become int64" in done.err
    assert folder.replay().code == 0
    folder.put([order(500, coupon="NEXT")], "in-1.jsonl")
    done = folder.run("evolve", "--input", str(folder.path / "in-1.jsonl"), output=table)
    assert done.code == 0, done
    with duckdb.connect(str(folder.path / "shop.duckdb")) as connection:
        found = connection.sql("SELECT id, coupon FROM orders WHERE coupon IS NOT NULL").fetchall()
    assert sorted(found) == [("o100", "SPRING"), ("o301", "X"), ("o500", "NEXT")]


def test_collectors_get_an_event(folder):
    folder.put([*GOOD, *DRIFTING])
    done = folder.run("warn", "--log_format=json")
    events = [json.loads(line) for line in done.err.splitlines()]
    [event] = [event for event in events if event["message"] == "drift"]
    assert event["records"] == 6
    assert {place["path"] for place in event["places"]} == {"coupon", "device.v", "qty", "status"}


def test_values_of_classified_fields_are_told_nowhere(folder):
    text = CONTRACT.replace(
        "- name: qty\n", "- {name: mail, logicalType: string, classification: pii}\n  - name: qty\n"
    )
    (folder.path / "orders.odcs.yaml").write_text(text)
    folder.put([*GOOD, order(1000, phone="555-0199"), order(1001, mail=5550111)])
    done = folder.run("evolve")
    assert done.code == 0, done
    told = done.out + done.err + json.dumps(folder.report())
    assert "5550" not in told.replace("-", "")
    [path] = folder.path.glob("ledger/_millstream/contracts/*")
    assert load_contract(path).field("phone").classification == "restricted"
    assert "555" not in path.read_text().replace("-", "").split("schema:")[1]
