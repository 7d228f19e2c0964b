"""The quality gates of a job: what it asks besides its contract, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from . import exit_codes
from .logs import WARNING, say
from .names import RECORDS

if TYPE_CHECKING:
    from ..schemas.contract import Contract
    from ..schemas.quality.checks import Check
    from ..schemas.steps import RecordStep
    from ..transforms.plan import Token
    from ..transforms.quality.budget import Budget, Limit
    from ..transforms.quality.gate import Gate
    from ..transforms.quality.report import Report
    from ..transforms.read.streams.source import StreamSource
    from ..transforms.runs import RunStore
    from ..transforms.write.destination import Output
    from .job import Job, Places
    from .run import Run
    from .steps import Steps

Action = Literal["warn", "quarantine", "fail"]
CLOSED = 6
"""The exit code of a run that a gate or its budget kept back, in whole or in part."""


class BreakerJob(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """When a stream is held back: at ``dead`` dead letters ``within`` a time, for ``pause``."""

    dead: int
    within: str = "10s"
    pause: str = "30s"
    ratio: float = 0.0


class QualityJob(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What broken checks do, and where what is said of checks goes.

    ``action`` is that of severities ``critical`` and ``error``; ``severities`` has others by name.
    A check's own custom property ``action`` goes before both.
    """

    action: Action = "fail"
    severities: dict[Literal["critical", "error", "warning", "info"], Action] = {}
    quarantine: str | None = None
    scores: str | None = None
    breaker: BreakerJob | None = None


class LimitJob(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How many dead letters there may be, and what part of the records that were read."""

    dead: int | None = None
    ratio: float | None = None


class BudgetJob(LimitJob, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The budget of a run, and of each of its sources."""

    source: LimitJob = LimitJob()


def job_checks(job: Job, contract: Contract) -> tuple[Check, ...]:
    """The quality checks of a job's contract.

    Raises:
        JobError: one cannot be made as it is written.
    """
    from ..schemas.quality.loading import load_checks, parse_checks
    from .job_parts import of_contract

    return of_contract(job, load_checks, parse_checks, contract)


def row_rules(checks: Sequence[Check], schema: Any) -> RecordStep | None:
    """The step that makes dead letters of records that break an expression of the contract.

    Raises:
        JobError: an expression is refused, or DuckDB is not installed.
    """
    rules = [check for check in checks if check.kind == "records" and check.is_enforced]
    if not rules:
        return None
    from ..schemas.quality.row_rules import RowRules
    from ..schemas.sql.tree import SqlError
    from .job import JobError

    try:
        return RowRules(rules, schema)
    except SqlError as error:
        raise JobError(str(error)) from None


def gate_settings(job: Job, checks: Sequence[Check]) -> dict[str, str]:
    """What a plan says of gates: nothing, where there are none."""
    from ..schemas.quality.checks import digest_of

    settings = {}
    if is_gated(job, checks):
        settings["checks"] = digest_of(checks)
    if job.quality is not None:
        settings["quality"] = msgspec.json.encode(job.quality, order="sorted").decode()
    if job.budget is not None:
        settings["budget"] = msgspec.json.encode(job.budget, order="sorted").decode()
    return settings


def is_gated(job: Job, checks: Sequence[Check]) -> bool:
    """Whether something is judged before the commit. Checks that the contract's own rules enforce
    need no gate: it would only score them, which a job asks for by ``quality``."""
    if job.quality is not None or job.budget is not None:
        return True
    return any(not check.is_enforced or check.kind == "records" for check in checks)


def job_gate(
    job: Job,
    contract: Contract,
    checks: Sequence[Check],
    outputs: Sequence[Output],
    steps: Steps,
    places: Places,
    *,
    going_on: bool,
) -> Gate | None:
    """What a run is held against before it is published; ``None`` if nothing.

    Args:
        contract: of the records before the job's steps.
        outputs: all of the job's.
        going_on: windows stay open from one commit to the next.

    Raises:
        JobError: what is asked cannot be done.
    """
    if not is_gated(job, checks):
        return None
    from ..transforms.quality.gate import Gate
    from ..transforms.quality.scores import SCORES

    said = job.quality or QualityJob()
    actions: dict[str, Action] = {"critical": said.action, "error": said.action, **said.severities}
    gate = Gate(
        contract=contract,
        checks=tuple(checks),
        actions=actions,
        budget=_budget(job.budget, places) if job.budget else None,
        scores=next((output for output in outputs if output.name == SCORES), None),
        staged=RECORDS if _can_query_staged(outputs, steps) else "",
        patience=job.retry_seconds,
    )
    _see_queries(checks)
    _see_measures(gate, contract)
    quarantining = [c for c in checks if not c.is_enforced and gate.action(c) == "quarantine"]
    if not quarantining:
        return gate
    from .quarantine import quarantine_places

    places_of = quarantine_places(said, quarantining[0], outputs, places, going_on=going_on)
    partitioned = RECORDS if _is_measured_by_partition(outputs, steps) else ""
    return replace(gate, quarantine=places_of, partitioned=partitioned)


def _budget(job: BudgetJob, places: Places) -> Budget:
    from ..transforms.quality.budget import Budget

    return Budget(
        _limit(job, ("budget",), places), _limit(job.source, ("budget", "source"), places)
    )


def _limit(job: LimitJob, at: tuple[str, ...], places: Places) -> Limit:
    from ..transforms.quality.budget import Limit

    if job.dead is not None and job.dead < 0:
        raise places.error((*at, "dead"), f"expected at least 0, got {job.dead}")
    if job.ratio is not None and not 0 <= job.ratio <= 1:
        raise places.error((*at, "ratio"), f"expected a part from 0 to 1, got {job.ratio}")
    return Limit(job.dead, job.ratio)


def _see_queries(checks: Sequence[Check]) -> None:
    """See that queries can be asked at all.

    Raises:
        JobError: they cannot.
    """
    query = next((check for check in checks if check.kind == "sql"), None)
    if query is None:
        return
    try:
        import duckdb  # noqa: F401
    except ImportError:
        from .job import JobError

        hint = "install it with: pip install 'millstream[sql]'"
        raise JobError(f"{query.place}: a query needs duckdb; {hint}") from None


def _see_measures(gate: Gate, contract: Contract) -> None:
    """See that expressions can be counted, and keys be made.

    Raises:
        JobError: they cannot.
    """
    import pyarrow as pa

    from ..schemas.arrow import batch_schema
    from ..schemas.keys import KeyColumnError, hash_keys
    from ..schemas.quality.measures import Measure
    from ..schemas.sql.tree import SqlError
    from .job import JobError

    schema = batch_schema(contract)
    try:
        Measure(gate.checks, contract, schema)
    except SqlError as error:
        raise JobError(str(error)) from None
    nothing = pa.RecordBatch.from_pylist([], schema)
    for check in gate.checks:
        try:
            if check.columns:
                hash_keys(nothing, check.columns)
        except KeyColumnError as error:
            raise JobError(f"{check.place}: {error}") from None


def _can_query_staged(outputs: Sequence[Output], steps: Steps) -> bool:
    """Whether the staged files of records are Parquet, and hold them as the contract has them."""
    from ..transforms.write.formats import BRIEF
    from ..transforms.write.partitions import stripped

    records = next((output for output in outputs if output.name == RECORDS), None)
    if records is None or steps.steps:
        return False
    layout = records.destination.layout
    whole = not layout or not stripped(layout.partition_by)
    return whole and records.destination.format in ("parquet", BRIEF)


def _is_measured_by_partition(outputs: Sequence[Output], steps: Steps) -> bool:
    """Whether records go to partitions that are known where they are measured, and nowhere else."""

    records = next((output for output in outputs if output.name == RECORDS), None)
    if records is None or steps.steps or any(output.kind == "aggregates" for output in outputs):
        return False
    layout = records.destination.layout
    return bool(layout and layout.partition_by)


def guarded(stream: StreamSource, job: Job) -> StreamSource:
    """A stream that a circuit breaker holds back, if the job asks for one."""
    breaker = job.quality.breaker if job.quality else None
    if breaker is None:
        return stream
    from ..schemas.aggregates.windows import parse_duration
    from ..transforms.quality.breaker import BreakerSettings, GuardedSource

    within, pause = (
        parse_duration(text, name) / 1e6
        for name, text in (("within", breaker.within), ("pause", breaker.pause))
    )
    return GuardedSource(stream, BreakerSettings(breaker.dead, within, pause, breaker.ratio))


def check_breaker(job: Job, places: Places) -> None:
    """See that a breaker's times are durations.

    Raises:
        JobError: one is not.
    """
    from ..schemas.aggregates.functions import AggregateError
    from ..schemas.aggregates.windows import parse_duration

    breaker = job.quality.breaker if job.quality else None
    if breaker is None:
        return
    at = ("quality", "breaker")
    if breaker.dead < 1:
        raise places.error((*at, "dead"), f"expected at least 1, got {breaker.dead}")
    for name in ("within", "pause"):
        try:
            parse_duration(getattr(breaker, name), name)
        except AggregateError as error:
            raise places.error((*at, name), str(error).removeprefix(f"{name}: ")) from None


def failure_code(store: RunStore, token: Token) -> int:
    """The exit code of a run that is recorded as failed before its commit."""
    from ..transforms.quality.report import read_report

    report = read_report(store, token)
    is_closed = report is not None and report.decision == "fail"
    return CLOSED if is_closed else exit_codes.UNBALANCED


def report_gate(run: Run) -> int:
    """Show what a gate decided of a committed run; gives the exit code that this alone would."""
    if run.gate is None:
        return exit_codes.OK
    from ..transforms.quality.report import read_report

    report = read_report(run.store, run.token)
    if report is None:
        return exit_codes.OK
    for line in report_lines(report):
        print(line)
    for verdict in report.verdicts:
        if verdict.action:
            where = f" in {verdict.partition}" if verdict.partition else ""
            said = f"{verdict.check}{where}: {verdict.said}, {verdict.threshold}"
            say(f"{verdict.action}: {said} ({verdict.place})", WARNING)
    if report.decision != "quarantine":
        return exit_codes.OK
    what = ", ".join(report.partitions) or "all records"
    say(f"quarantined, and not published: {what}", WARNING)
    for uri in run.gate.quarantine.values():
        say(f"  {uri}", WARNING)
    return CLOSED


def report_lines(report: Report) -> list[str]:
    """A report as lines of text: the scores, then a line for each check."""
    if not report.verdicts:
        return []
    by_dimension = [f"{name} {value:.4f}" for name, value in report.scores.items() if name]
    lines = [f"quality {report.scores.get('', 1.0):.4f} ({', '.join(by_dimension)})"]
    for v in report.verdicts:
        name = f"{v.check} [{v.partition}]" if v.partition else v.check
        lines.append(f"  {v.verdict:<8}  {v.severity:<8}  {name}: {v.said}, {v.threshold}")
    return lines
