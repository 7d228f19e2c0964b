"""``millstream check``: what is told of service levels and of the last run, and its exit codes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from millstream.pipelines import check_command, cli, exit_codes
from millstream.pipelines.check_command import BROKEN, UNKNOWN, Answer, exit_code

pytestmark = pytest.mark.slow

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: integer, required: true}
  - name: ts
    logicalType: timestamp
    required: true
    customProperties: [{property: eventTime, value: true}]
  - {name: paid_at, logicalType: timestamp}
"""
CHECKS = """\
  quality:
  - {metric: rowCount, mustBeGreaterThan: 3, customProperties: [{property: action, value: ACTION}]}
"""
JOB = """\
name: orders
contract: orders.odcs.yaml
input: [in.jsonl]
dead_letters: jsonl:dead
ledger: jsonl:ledger
progress: false
"""


class Folder:
    """A job's folder, with records that are so old."""

    def __init__(self, path: Path, cli: Callable[..., Any]) -> None:
        self.path = path
        self._cli = cli
        self.put(timedelta(minutes=10), timedelta(hours=5))
        self.job("output: parquet:out\n")
        self.contract("")

    def job(self, text: str) -> None:
        (self.path / "job.yaml").write_text(JOB + text)

    def contract(self, *levels: str, checks: str = "") -> None:
        said = "".join(f"- {{{level}}}\n" for level in levels if level)
        sla = f"slaProperties:\n{said}" if said else ""
        (self.path / "orders.odcs.yaml").write_text(CONTRACT + checks + sla)

    def put(self, *ages: timedelta, dead: int = 0) -> None:
        now = datetime.now(UTC)
        rows = [{"id": i, "ts": (now - age).isoformat()} for i, age in enumerate(ages)]
        lines = [json.dumps(row) for row in rows] + ["{}"] * dead
        (self.path / "in.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def ingest(self) -> int:
        return self._cli("ingest", "--job", self.path / "job.yaml").code

    def check(self, *flags: str) -> Any:
        """The exit code, and the answers by name."""
        job = str(self.path / "job.yaml")
        parser = argparse.ArgumentParser()
        check_command.add_parser(parser.add_subparsers())
        arguments = parser.parse_args(["check", "--job", job, *flags])
        return check_command.run(arguments)

    def answers(self, capfd: Any) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        code = self.check("--json")
        found = json.loads(capfd.readouterr().out)
        return code, {answer["name"]: answer for answer in found["checks"]}


@pytest.fixture
def folder(tmp_path, cli) -> Folder:
    return Folder(tmp_path, cli)


@pytest.mark.parametrize(
    ("level", "name", "verdict"),
    [
        ("property: latency, value: 1, unit: h", "latency", "kept"),
        ("property: latency, value: 5, unit: min", "latency", "broken"),
        ("property: freshness, value: 1, unit: h, element: orders.ts", "freshness", "kept"),
        ("property: freshness, value: 5m", "freshness", "broken"),
        ("property: frequency, value: 1, unit: d", "frequency", "kept"),
        ("property: frequency, value: 1, unit: ms", "frequency", "broken"),
        ("property: retention, value: 1, unit: d", "retention", "kept"),
        ("property: retention, value: 4, unit: h", "retention", "broken"),
        ("property: errorRate, value: 50, unit: percent", "errorRate", "kept"),
        ("property: errorRate, value: 0.1", "errorRate", "broken"),
        ("property: freshness, value: 1, unit: h, element: orders.paid_at", "freshness", "unknown"),
    ],
)
def test_a_level(folder, capfd, monkeypatch, level: str, name: str, verdict: str):
    folder.put(timedelta(minutes=10), timedelta(hours=5), dead=1)
    folder.contract(level)
    assert folder.ingest() == 0
    code, answers = folder.answers(capfd)
    assert answers[name]["verdict"] == verdict, answers
    assert answers["last run"]["verdict"] == "kept"
    assert code == {"kept": 0, "broken": BROKEN, "unknown": UNKNOWN}[verdict]
    assert "orders.odcs.yaml:15 slaProperties[0]" in answers[name]["place"]


def test_of_a_job_that_has_never_run_nothing_can_be_told(folder, capfd):
    folder.contract("property: latency, value: 1", "property: frequency, value: 1")
    code, answers = folder.answers(capfd)
    assert code == UNKNOWN
    assert {answer["verdict"] for answer in answers.values()} == {"unknown"}
    assert not (folder.path / "ledger").exists()


def test_nothing_is_promised_and_the_last_run_was_committed(folder, capfd):
    assert folder.ingest() == 0
    capfd.readouterr()
    assert folder.check() == 0
    out = capfd.readouterr().out
    assert out.startswith("kept      last run  ")
    assert out.endswith("orders: kept\n")


def test_a_job_without_records_knows_its_newest_event_by_its_gate(folder, capfd):
    checks = CHECKS.replace("ACTION", "warn")
    folder.contract(
        "property: latency, value: 1, unit: h", "property: retention, value: 1", checks=checks
    )
    folder.job(
        "aggregates: [{name: n, window: {fixed: 1m}, metrics: {n: count()}, output: 'parquet:n'}]\n"
    )
    assert folder.ingest() == 0
    code, answers = folder.answers(capfd)
    assert code == UNKNOWN
    assert answers["latency"]["verdict"] == "kept"
    assert answers["retention"]["found"] == "the job publishes no records, only aggregates"


@pytest.mark.parametrize(
    ("action", "code", "verdict", "found"),
    [
        ("warn", 0, "kept", "2 (broken, warn)"),
        ("fail", BROKEN, "broken", "2 (broken, fail)"),
    ],
)
def test_the_checks_of_the_last_run(
    folder, capfd, action: str, code: int, verdict: str, found: str
):
    folder.contract(checks=CHECKS.replace("ACTION", action))
    folder.ingest()
    ended, answers = folder.answers(capfd)
    assert ended == code
    assert (answers["rowCount"]["verdict"], answers["rowCount"]["found"]) == (verdict, found)
    assert answers["last run"]["verdict"] == verdict
    if code:
        assert "the gate is closed" in answers["last run"]["found"]


def test_a_later_run_speaks_for_the_job(folder, capfd):
    folder.contract(checks=CHECKS.replace("ACTION", "fail"))
    folder.ingest()
    folder.put(*[timedelta(minutes=1)] * 5)
    assert folder.ingest() == 0
    code, answers = folder.answers(capfd)
    assert (code, answers["rowCount"]["found"]) == (0, "5 (kept)")


def test_a_replay_does_not_speak_for_the_source(folder, capfd):
    """All that it read are dead letters again, and nobody judged it."""
    folder.put(*[timedelta(minutes=1)] * 5, dead=1)
    checks = CHECKS.replace("ACTION", "fail")
    folder.contract("property: errorRate, value: 50, unit: percent", checks=checks)
    assert folder.ingest() == 0
    before = folder.answers(capfd)
    assert cli.main(["dead-letters", "replay", "--job", str(folder.path / "job.yaml")]) == 0
    capfd.readouterr()
    after = folder.answers(capfd)
    assert after[1].pop("last run") != before[1].pop("last run")
    assert after == before
    assert before[1]["rowCount"]["found"] == "5 (kept)"


def test_a_mistake_in_a_level_is_one_of_usage(folder):
    from millstream.pipelines.job import JobError

    folder.contract("property: latency, value: soon")
    with pytest.raises(
        JobError, match=r"orders\.odcs\.yaml:15 slaProperties\[0\]\.value: expected"
    ):
        folder.check()


def test_broken_outranks_what_cannot_be_told():
    def answers(*judged: Any) -> list[Answer]:
        return [Answer("a", judgement, "", "") for judgement in judged]

    assert exit_code(answers("kept", "unknown", "broken")) == BROKEN
    assert exit_code(answers("kept", "unknown")) == UNKNOWN
    assert exit_code(answers("kept")) == exit_code([]) == exit_codes.OK
