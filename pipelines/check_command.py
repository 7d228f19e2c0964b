"""``millstream check``: whether a job keeps what its contract promises, by its runs and its data.

Service levels (``slaProperties``) are held against the run store and the output of records; the
quality checks are those of the last run. It reads, and changes nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from . import exit_codes, job_secrets, logs
from .arguments import add_ingest, job_flags
from .job import Job, load_job
from .logs import ERROR, say
from .names import RECORDS

if TYPE_CHECKING:
    from ..schemas.contract import Contract
    from ..schemas.quality.levels import Level
    from ..transforms.plan import Token
    from ..transforms.quality.report import Report
    from ..transforms.runs import RunRecord, RunStore
    from ..transforms.write.destination import Output

BROKEN = 1
"""A promise is not kept."""
UNKNOWN = 3
"""None is broken, and of one it cannot be told."""

Judgement = Literal["kept", "broken", "unknown"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether one promise is kept, and what was found."""

    name: str
    judgement: Judgement
    promised: str
    found: str
    place: str = ""


def add_parser(subparsers: Any) -> None:
    """Add the command ``check`` to the subparsers of ``millstream``."""
    parser = subparsers.add_parser(
        "check",
        help="say whether a job keeps what its contract promises",
        description="Hold a job's runs and the records that it has published against the service "
        "levels of its contract (latency, frequency, freshness, retention, errorRate), and show "
        "how the quality checks of its last run ended. Give it the job as ingest gets it.",
        epilog="exit codes: 0 all is kept; 1 something is broken; 2 a mistake in flags, job or "
        "contract; 3 nothing is known to be broken, and of something it cannot be told",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="as one line of JSON")
    add_ingest(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run ``check``; returns its exit code.

    Raises:
        JobError: the job or its contract cannot be used.
    """
    job, places = load_job(arguments.job, job_flags(arguments))
    logs.use(job.log_format)
    job_secrets.fetch(job, places)
    from ..schemas.quality.levels import load_levels, parse_levels
    from .gates import job_checks
    from .job_parts import job_contract, of_contract

    contract = job_contract(job)
    levels = of_contract(job, load_levels, parse_levels, contract)
    job_checks(job, contract)  # a mistake in them is one in any case
    from .runners import quiet_beam

    quiet_beam()
    from ..transforms.storage import StorageError
    from .outputs import job_outputs

    outputs, _, store = job_outputs(job, places, going_on=True)
    try:
        answers = list(_answers(store, outputs, contract, levels, datetime.now(UTC)))
    except StorageError as error:
        say(str(error), ERROR)
        return UNKNOWN
    (_print_json if arguments.json else _print_text)(job, answers)
    return exit_code(answers)


def exit_code(answers: Sequence[Answer]) -> int:
    """What a scheduler decides by."""
    judged = {answer.judgement for answer in answers}
    if "broken" in judged:
        return BROKEN
    return UNKNOWN if "unknown" in judged else exit_codes.OK


@dataclass(frozen=True)
class _Ended:
    """A run that has ended, and what a gate said of it."""

    token: Token
    record: RunRecord
    report: Report | None


def _answers(
    store: RunStore,
    outputs: Sequence[Output],
    contract: Contract,
    levels: Sequence[Level],
    now: datetime,
) -> Iterator[Answer]:
    runs = ended_runs(store)
    committed = [run for run in runs if run.record.status == "committed"]
    evidence = _Evidence(committed, _newest_of_input(store, committed), outputs, contract, now)
    for level in levels:
        yield evidence.answer(level)
    yield _last_run(runs)
    if (last := _newest_of_input(store, runs)) and (report := last.report):
        for verdict in report.verdicts:
            is_bad = verdict.verdict in ("broken", "unknown")
            stops = is_bad and verdict.action not in ("", "warn")
            name = f"{verdict.check} [{verdict.partition}]" if verdict.partition else verdict.check
            judgement: Judgement = "broken" if stops else "kept"
            came = f"{verdict.verdict}, {verdict.action}" if verdict.action else verdict.verdict
            found = f"{verdict.said} ({came})"
            yield Answer(name, judgement, verdict.threshold, found, verdict.place)


def _newest_of_input(store: RunStore, runs: Sequence[_Ended]) -> _Ended | None:
    """The last run that read anything new: replays and backfills tell nothing of the source."""
    from ..transforms.plan import BACKFILL, REPLAY

    for run in reversed(runs):
        plan = store.plan(run.token)
        if plan is None or not {REPLAY, BACKFILL} & plan.settings.keys():
            return run
    return None


def _last_run(runs: Sequence[_Ended]) -> Answer:
    if not runs:
        return Answer("last run", "unknown", "committed", "the job has never run")
    record = runs[-1].record
    said = f"{record.run_id} {record.status} at {record.finished_at}"
    if record.status == "committed":
        return Answer("last run", "kept", "committed", said)
    return Answer("last run", "broken", "committed", f"{said}: {' '.join(record.error.split())}")


def ended_runs(store: RunStore) -> list[_Ended]:
    """All runs that have ended, in the order in which they did.

    Raises:
        StorageError: the run store cannot be read.
    """
    from ..transforms import storage
    from ..transforms.plan import Token
    from ..transforms.quality.report import read_report
    from ..transforms.runs import RunRecord

    folder = storage.join(store.home, "_millstream", "runs")
    found = []
    for path in storage.list_files(folder, ".json", deep=True):
        if path.endswith(("/record.json", "/failed.json")):
            try:
                record = msgspec.json.decode(storage.read_bytes(path), type=RunRecord)
            except msgspec.DecodeError as error:
                raise storage.StorageError(f"cannot read {path}: {error}", path) from error
            token = Token(record.run_id, record.plan_digest)
            found.append(_Ended(token, record, read_report(store, token)))
    return sorted(found, key=lambda run: (_moment(run.record.finished_at), run.record.run_id))


class _Evidence:
    """What runs and data tell of service levels."""

    def __init__(
        self,
        committed: Sequence[_Ended],
        last: _Ended | None,
        outputs: Sequence[Output],
        contract: Contract,
        now: datetime,
    ) -> None:
        self._committed = committed
        self._last = last
        self._outputs = outputs
        self._contract = contract
        self._now = now
        self._times: dict[str, tuple[datetime | None, datetime | None] | str] = {}

    def answer(self, level: Level) -> Answer:
        """Whether a level is kept."""
        found = getattr(self, f"_{level.kind.lower()}")(level)
        promised = f"at most {level.said}"
        if isinstance(found, str):
            return Answer(level.kind, "unknown", promised, found, level.place)
        value, words = found
        judgement: Judgement = "kept" if value <= level.limit else "broken"
        return Answer(level.kind, judgement, promised, words, level.place)

    def _frequency(self, level: Level) -> tuple[Fraction, str] | str:
        if self._last is None:
            return "no run has been committed"
        last = self._last.record
        return self._since(_moment(last.finished_at), f"run {last.run_id} was committed")

    def _errorrate(self, level: Level) -> tuple[Fraction, str] | str:
        if self._last is None:
            return "no run has been committed"
        last = self._last.record
        by_source: dict[str, tuple[int, int]] = {}
        for row in last.ledger:  # every output has rows of all sources
            dead, read = by_source.get(row.source, (0, 0))
            by_source[row.source] = max(dead, row.dead), max(read, row.read)
        dead, read = (sum(counts[i] for counts in by_source.values()) for i in (0, 1))
        part = Fraction(dead, read) if read else Fraction(0)
        said = f"{dead:,} of {read:,} records of run {last.run_id} are dead letters"
        return part, f"{said}, {float(part):.6g}"

    def _freshness(self, level: Level) -> tuple[Fraction, str] | str:
        newest = self._newest(level)
        return newest if isinstance(newest, str) else self._since(newest, "the newest event")

    def _retention(self, level: Level) -> tuple[Fraction, str] | str:
        times = self._event_times(level)
        if isinstance(times, str):
            return times
        oldest = times[0]
        return self._since(oldest, "the oldest event") if oldest else "there are no records"

    def _latency(self, level: Level) -> tuple[Fraction, str] | str:
        last = self._last
        if last is None:
            return "no run has been committed"
        newest: datetime | str
        if not level.field and last.report and last.report.newest is not None:
            newest = datetime.fromtimestamp(last.report.newest / 1e6, UTC)
        else:
            newest = self._newest(level)
        if isinstance(newest, str):
            return newest
        committed = _moment(last.record.finished_at)
        seconds = Fraction(max(0.0, (committed - newest).total_seconds()))
        return seconds, f"{_lasted(seconds)} from the newest event to its commit"

    def _newest(self, level: Level) -> datetime | str:
        times = self._event_times(level)
        if not isinstance(times, str):
            return times[1] or "there are no records"
        known = [run.report.newest for run in self._committed if run.report]
        told = [newest for newest in known if newest is not None]
        if level.field or not told:
            return times
        return datetime.fromtimestamp(max(told) / 1e6, UTC)

    def _event_times(self, level: Level) -> tuple[datetime | None, datetime | None] | str:
        """The oldest and the newest time of the published records, or why they are not known."""
        name = level.field or self._contract.event_time
        if name is None:
            return "the contract has no event time, and the level no element"
        if name not in self._times:
            self._times[name] = self._look(name)
        return self._times[name]

    def _look(self, name: str) -> tuple[datetime | None, datetime | None] | str:
        from ..transforms.write.errors import DestinationError, Unavailable

        output = next((output for output in self._outputs if output.name == RECORDS), None)
        if output is None:
            return "the job publishes no records, only aggregates"
        try:
            return _bounds(output, self._contract, name)
        except (DestinationError, Unavailable) as error:
            return str(error)

    def _since(self, moment: datetime, what: str) -> tuple[Fraction, str]:
        seconds = Fraction((self._now - moment).total_seconds())
        return seconds, f"{_lasted(seconds)} since {what}"


def _bounds(
    output: Output, contract: Contract, name: str
) -> tuple[datetime | None, datetime | None]:
    """The least and the greatest time of a column of an output's committed rows.

    Raises:
        DestinationError: it cannot be read back.
        Unavailable: the service does not answer.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from ..schemas.arrow import arrow_type
    from ..transforms.stored import open_stored

    schema = pa.schema([pa.field(name, arrow_type(contract.field(name)))])
    oldest = newest = None
    for batch in open_stored(output, schema=schema).batches():
        found = pc.min_max(batch.column(name)).as_py()
        if found["min"] is not None:
            oldest = found["min"] if oldest is None else min(oldest, found["min"])
            newest = found["max"] if newest is None else max(newest, found["max"])
    return oldest, newest


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _lasted(seconds: Fraction) -> str:
    """A time in the largest unit that it has one of."""
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= size:
            return f"{float(seconds / size):.1f} {word}"
    return f"{float(seconds):.1f} s"


def _print_text(job: Job, answers: Sequence[Answer]) -> None:
    width = max(len(answer.name) for answer in answers)
    for answer in answers:
        said = f"{answer.judgement:<8}  {answer.name:<{width}}  {answer.found}"
        said += f"; promised: {answer.promised}" if answer.promised else ""
        print(f"{said} ({answer.place})" if answer.place else said)
    print(f"{job.name}: {_WORDS[exit_code(answers)]}")


_WORDS = {exit_codes.OK: "kept", BROKEN: "broken", UNKNOWN: "cannot be told"}


def _print_json(job: Job, answers: Sequence[Answer]) -> None:
    found = [
        {
            "name": answer.name,
            "verdict": answer.judgement,
            "promised": answer.promised,
            "found": answer.found,
            "place": answer.place,
        }
        for answer in answers
    ]
    print(json.dumps({"job": job.name, "verdict": _WORDS[exit_code(answers)], "checks": found}))
