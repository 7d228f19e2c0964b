"""Judging before the commit: what is decided, what is written down, what may be committed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from millstream.schemas.odcs import parse_contract
from millstream.schemas.quality.checks import Check
from millstream.schemas.quality.loading import parse_checks
from millstream.schemas.quality.measures import Measured, Refusals
from millstream.transforms.ledger import LedgerRow
from millstream.transforms.plan import InputFile, Plan, Token
from millstream.transforms.quality.budget import Budget, Limit
from millstream.transforms.quality.gate import Gate, GateClosed
from millstream.transforms.quality.report import Report, read_report
from millstream.transforms.receipts import Receipt, content_digest
from millstream.transforms.runs import Prepared, PreparedOutput, RunStore
from millstream.transforms.write.destination import Output
from millstream.transforms.write.files import live_files

TEXT = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - name: n
    logicalType: integer
    quality:
    - {metric: nullValues, unit: percent, mustBeLessThan: 10}
    - {metric: invalidValues, mustBe: 0, arguments: {validValues: [1]}}
  quality:
  - {metric: rowCount, mustBeGreaterThan: 5, severity: warning}
"""
CONTRACT = parse_contract(TEXT, "c.yaml")
CHECKS = parse_checks(TEXT, "c.yaml", CONTRACT)


class Begun:
    """A run that has been begun and has balanced."""

    def __init__(self, folder: Path, dead: int = 0, sources: int = 1) -> None:
        self.folder = folder
        self.store = RunStore(str(folder / "ledger"))
        for country in ("NO", "SE"):
            (folder / country).write_text(country)
        files = (InputFile("a", 1, "1"),)
        plan = Plan("orders", "orders", "1.0.0", "c" * 64, files)
        self.token: Token = self.store.begin(plan, "r1").token
        receipts = tuple(
            Receipt(
                output="records",
                path=str(folder / country),
                rows=5,
                bytes=1,
                sha256=str(i) * 64,
                folder=f"country={country}",
            )
            for i, country in enumerate(("NO", "SE"))
        )
        self.prepared = Prepared(
            token=str(self.token),
            outputs=(
                PreparedOutput(
                    name="records", uri="parquet:/out", digest="d" * 64, receipts=receipts
                ),
                PreparedOutput(
                    name="dead_letters", uri="jsonl:/dead", digest="e" * 64, kind="dead_letters"
                ),
            ),
            ledger_uri=f"jsonl:{folder}/ledger",
            ledger=tuple(
                LedgerRow(run_id="r1", source=f"s{i}", output="records", read=10, dead=dead,
                          written=10 - dead)
                for i in range(sources)
            ),
        )  # fmt: skip

    def judge(self, gate: Gate, *facts: Any) -> Prepared:
        return gate.judge(self.store, self.prepared, facts)

    @property
    def report(self) -> Report:
        found = read_report(self.store, self.token)
        assert found is not None
        return found


@pytest.fixture
def begun(tmp_path) -> Begun:
    return Begun(tmp_path)


def measured(rows: int, nulls: int, partition: str = "", newest: int = 5) -> Measured:
    return Measured(rows, (nulls, 0, 0), newest, partition)


def test_what_keeps_all_is_committed_as_it_is(begun):
    facts = [measured(10, 0), measured(10, 1), Refusals(2, (0, 2, 0))]
    assert begun.judge(Gate(CONTRACT, CHECKS), *facts) == begun.prepared
    report = begun.report
    assert (report.decision, report.newest) == ("pass", 5)
    said = {v.check: (v.verdict, v.said) for v in report.verdicts}
    assert said == {
        "n nullValues": ("kept", "4.54545 percent (1 of 22)"),
        "n invalidValues": ("enforced", "2"),
        "rowCount": ("kept", "20"),
    }
    assert report.scores["completeness"] == pytest.approx(21 / 22)
    assert begun.store.record(begun.token) is None


def test_a_broken_check_closes_the_gate_and_the_run_has_failed(begun):
    with pytest.raises(GateClosed) as raised:
        begun.judge(Gate(CONTRACT, CHECKS), measured(10, 1))
    message = (
        "the gate is closed, and nothing was committed:\n"
        "  n nullValues: 10 percent (1 of 10), mustBeLessThan 10 percent "
        "(c.yaml:11 n.quality[0])"
    )
    assert str(raised.value) == message
    record = begun.store.record(begun.token)
    assert (record.status, record.error) == ("failed", message)
    assert record.ledger == begun.prepared.ledger
    assert begun.report.decision == "fail"
    assert begun.store.prepared(begun.token) is None


def test_a_warning_is_reported_and_committed(begun):
    assert begun.judge(Gate(CONTRACT, CHECKS), measured(3, 0)) == begun.prepared
    assert begun.report.decision == "warn"
    assert [v.action for v in begun.report.verdicts] == ["", "", "warn"]


def test_what_a_check_does_is_its_own_then_its_severitys(begun):
    [check, *others] = CHECKS
    own = replace(check, action="warn")
    gate = Gate(CONTRACT, (own, *others), {"error": "fail", "warning": "fail"})
    assert begun.judge(gate, measured(10, 9)) == begun.prepared
    with pytest.raises(GateClosed, match="rowCount: 3, mustBeGreaterThan 5"):
        begun.judge(gate, measured(3, 0))


def quarantining(begun: Begun, **rest: Any) -> Gate:
    actions: Any = {"error": "quarantine"}
    to = {"records": f"parquet:{begun.folder}/quarantine/records"}
    return Gate(CONTRACT, CHECKS, actions, quarantine=to, **rest)


def test_all_goes_to_quarantine_and_the_output_holds_nothing_of_the_run(begun):
    prepared = begun.judge(quarantining(begun), measured(10, 5))
    assert [(o.name, o.uri, len(o.receipts), o.kind) for o in prepared.outputs] == [
        ("records", "parquet:/out", 0, "records"),
        ("quarantine-records", f"parquet:{begun.folder}/quarantine/records", 2, "side"),
        ("dead_letters", "jsonl:/dead", 0, "dead_letters"),
    ]
    assert prepared.ledger == begun.prepared.ledger
    assert (begun.report.decision, begun.report.partitions) == ("quarantine", ())
    for output in prepared.outputs[:2]:
        assert output.digest == content_digest(output.receipts)
    # Copies: whoever commits what is left clears the folder of the others away.
    copies = [Path(receipt.path) for receipt in prepared.outputs[1].receipts]
    assert [path.read_text() for path in copies] == ["NO", "SE"]
    assert {path.parent for path in copies} != {begun.folder}


def test_a_partition_goes_to_quarantine_alone(begun):
    facts = [measured(50, 0, "country=NO"), measured(5, 1, "country=SE")]
    prepared = begun.judge(quarantining(begun, partitioned="records"), *facts)
    found = {o.name: [r.folder for r in o.receipts] for o in prepared.outputs}
    assert found["records"] == ["country=NO"]
    assert found["quarantine-records"] == ["country=SE"]
    assert begun.report.partitions == ("country=SE",)
    whole, *_, part = begun.report.verdicts
    assert (whole.verdict, whole.action) == ("kept", "")  # 1 of 55
    assert (part.verdict, part.partition, part.action) == ("broken", "country=SE", "quarantine")


def test_a_check_that_no_partition_breaks_by_itself_takes_all(begun):
    counted = replace(CHECKS[0], percent=False)  # at most nine, in all
    gate = replace(quarantining(begun, partitioned="records"), checks=(counted, *CHECKS[1:]))
    facts = [measured(50, 6, "country=NO"), measured(50, 6, "country=SE")]
    prepared = begun.judge(gate, *facts)
    assert not prepared.outputs[0].receipts
    assert begun.report.partitions == ()


def test_to_fail_is_sharper_than_quarantine(begun):
    gate = replace(quarantining(begun), actions={"error": "quarantine", "warning": "fail"})
    with pytest.raises(GateClosed, match="rowCount") as raised:
        begun.judge(gate, measured(2, 2))
    assert "nullValues" not in str(raised.value)


def test_a_run_without_a_record_is_judged_too(begun):
    with pytest.raises(GateClosed, match="rowCount: 0, mustBeGreaterThan 5"):
        begun.judge(Gate(CONTRACT, CHECKS, {"warning": "fail"}))
    assert begun.report.newest is None


@pytest.mark.parametrize(
    ("budget", "dead", "said"),
    [
        (Budget(Limit(dead=5)), 3, "6 dead letters, 5 are allowed"),
        (Budget(Limit(ratio=0.1)), 2, "4 of 20 records are dead letters, 20 percent; 0.1 is"),
        (Budget(source=Limit(dead=2)), 3, "s0: 3 dead letters, 2 are allowed"),
        (Budget(source=Limit(ratio=0.2)), 3, "s0: 3 of 10 records are dead letters, 30 percent"),
    ],
)
def test_over_budget(tmp_path, budget: Budget, dead: int, said: str):
    begun = Begun(tmp_path, dead, sources=2)
    with pytest.raises(GateClosed) as raised:
        begun.judge(Gate(CONTRACT, budget=budget), Measured(10, ()))
    assert f"over budget: {said}" in str(raised.value)
    assert begun.report.over_budget.startswith(said)


@pytest.mark.parametrize("limit", [Limit(dead=6), Limit(ratio=0.3), Limit()])
def test_a_budget_that_is_used_up_is_kept(tmp_path, limit: Limit):
    begun = Begun(tmp_path, 3, sources=2)
    assert begun.judge(Gate(CONTRACT, budget=Budget(limit)), Measured(9, ())) == begun.prepared


def scored(folder: Path) -> Gate:
    return Gate(CONTRACT, CHECKS, scores=Output("quality", f"jsonl:{folder}/scores", "side"))


def score_rows(folder: Path) -> list[dict[str, Any]]:
    paths = live_files(f"jsonl:{folder}/scores")
    return [msgspec.json.decode(line) for p in paths for line in Path(p).read_bytes().splitlines()]


def test_scores_are_prepared_with_the_run(begun, tmp_path):
    prepared = begun.judge(scored(tmp_path), measured(10, 0), Refusals(1, (0, 1, 0)))
    output = prepared.outputs[-1]
    assert (output.name, output.kind, output.receipts[0].rows) == ("quality", "side", 3)
    rows = [msgspec.json.decode(r) for r in Path(output.receipts[0].path).read_bytes().splitlines()]
    assert {row["check"]: row["verdict"] for row in rows} == {
        "n nullValues": "kept",
        "n invalidValues": "enforced",
        "rowCount": "kept",
    }
    assert {(r["run_id"], r["dataset"], r["contract_version"]) for r in rows} == {
        ("r1", "orders", "1.0.0")
    }
    again = begun.judge(scored(tmp_path), measured(10, 0), Refusals(1, (0, 1, 0)))
    assert again.outputs[-1].digest == output.digest  # whenever it is judged


def test_scores_of_a_run_that_fails_are_committed_once(begun, tmp_path):
    for _ in range(2):  # the bundle is repeated
        with pytest.raises(GateClosed):
            begun.judge(scored(tmp_path), measured(10, 5))
    rows = score_rows(tmp_path)
    assert {row["check"]: row["action"] for row in rows} == {
        "n nullValues": "fail",
        "n invalidValues": None,
        "rowCount": None,
    }
    assert [row["run_id"] for row in rows] == ["r1"] * 3
    assert rows[0]["value"] == 5
    assert rows[0]["score"] == 0.5


def test_files_wait_until_what_was_decided_is_written_down(begun, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from millstream.transforms.quality.facts import SpilledRows

    spill = tmp_path / "spill.parquet"
    pq.write_table(pa.table({"n": [1, 2, 3]}), spill)
    query = Check("sum", "sql", text='SELECT sum(n) FROM "orders"', population="kept")
    gate = Gate(CONTRACT, (query,))
    assert gate.spills
    facts = [Measured(3, (0,)), SpilledRows(str(spill), 3)]
    for _ in range(2):  # the bundle is repeated
        begun.judge(gate, *facts)
        assert [v.said for v in begun.report.verdicts] == ["6"]
    gate.forget(facts)
    assert not spill.exists()


def test_queries_read_what_was_staged_where_they_can(begun, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    staged = tmp_path / "part.parquet.staged"
    pq.write_table(pa.table({"n": [4, 5]}), staged)
    output = begun.prepared.outputs[0]
    receipt = msgspec.structs.replace(output.receipts[0], path=str(staged))
    begun.prepared = msgspec.structs.replace(
        begun.prepared, outputs=(msgspec.structs.replace(output, receipts=(receipt,)),)
    )
    query = Check("sum", "sql", text='SELECT sum(n) FROM "orders"', population="kept")
    gate = Gate(CONTRACT, (query,), staged="records")
    assert not gate.spills
    begun.judge(gate, Measured(2, (0,)))
    assert [v.said for v in begun.report.verdicts] == ["9"]
    assert staged.exists()
