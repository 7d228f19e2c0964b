"""What a job does about drift: what it notices, which contract it goes by, and what it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import msgspec

from . import logs
from .logs import WARNING, say
from .names import DUPLICATES, RECORDS

if TYPE_CHECKING:
    from ..transforms.drift.evolved import Base
    from ..transforms.drift.report import DriftReport
    from ..transforms.drift.watch import Watch
    from ..transforms.write.destination import Output
    from .job import Job, Places
    from .run import Run

DriftPolicy = Literal["ignore", "warn", "quarantine", "evolve", "freeze"]
_REFUSE_UNKNOWN = ("quarantine", "evolve", "freeze")


def with_refusals(job: Job, places: Places) -> Job:
    """The job as its policy has it: all but ``warn`` make dead letters of unknown fields.

    Raises:
        JobError: it says otherwise too.
    """
    if job.drift not in _REFUSE_UNKNOWN:
        return job
    if job.unknown_fields == "keep":
        said = f"drift: {job.drift} makes dead letters of records with unknown fields, and so keeps"
        raise places.error(("unknown_fields",), f"{said} none: leave it out, or say drift: warn")
    return msgspec.structs.replace(job, unknown_fields="reject")


def drift_settings(job: Job) -> dict[str, str]:
    """What a plan says of drift: nothing, where that decides nothing of what comes out."""
    return {"drift": job.drift} if job.drift in _REFUSE_UNKNOWN else {}


def job_watch(
    job: Job, outputs: Sequence[Output], places: Places, *, going_on: bool
) -> Watch | None:
    """What judges drift before a commit; ``None`` if nothing does.

    Args:
        going_on: windows stay open from one commit to the next.

    Raises:
        JobError: contracts cannot be written, or the job's cannot be read.
    """
    if job.drift == "ignore":
        return None
    from ..transforms.drift.watch import Watch

    if job.drift == "evolve":
        _see_writer(places)
    base = _base(job)
    pinned = _pinned(job, outputs, going_on=going_on)
    return Watch(job.drift, None, base, pinned, shows_values=job.encrypt_dead_letters is None)


def _see_writer(places: Places) -> None:
    try:
        import ruamel.yaml  # noqa: F401
    except ImportError:
        hint = "install it with: pip install 'millstream[import]'"
        raise places.error(("drift",), f"evolve needs ruamel.yaml; {hint}") from None


def _base(job: Job) -> Base:
    from ..transforms.drift.evolved import Base
    from .job import read_text

    text = read_text(job.contract, "the contract")
    return Base(text, job.contract, job.schema, job.event_time, job.name)


def _pinned(job: Job, outputs: Sequence[Output], *, going_on: bool) -> str:
    """Why a column that is there must stay of its type."""
    from ..transforms.write.tables import TableDestination

    for output in outputs:
        if output.name in (RECORDS, DUPLICATES) and isinstance(
            output.destination, TableDestination
        ):
            return f"{output.uri} has a column of another type: change both"
    if job.steps:
        return "the steps of the job take it as it is: change both"
    if going_on and job.aggregates:
        return "windows are open that hold it: change it once they are closed"
    return ""


def contract_path(job: Job) -> str:
    """Where the document of a job's contract is: its own, or the newest that a run has made of it.

    Raises:
        JobError: it cannot be told.
    """
    if job.drift != "evolve":
        return job.contract
    from ..transforms.drift.evolved import versions
    from ..transforms.storage import StorageError
    from ..transforms.write.destination import DestinationError
    from .job import JobError
    from .outputs import state_folder

    try:
        state = state_folder(job)
        made = versions(state, _base(job)) if state else []
    except DestinationError:
        return job.contract  # which is told where outputs are looked at
    except StorageError as error:
        raise JobError(str(error)) from None
    return made[-1].path if made else job.contract


def as_begun(run: Run) -> Run:
    """The run by the contract that it was begun with, if it has made another of that since: the
    same command again is the same run."""
    if run.job.drift != "evolve":
        return run
    from ..transforms.drift.evolved import versions
    from ..transforms.storage import StorageError

    with suppress(StorageError):
        for version in reversed(versions(run.store.home, _base(run.job))):
            plan = msgspec.structs.replace(
                run.plan, contract_version=version.before, contract_digest=version.before_digest
            )
            token = plan.token(run.job.run_id)
            if version.by == str(token) and run.store.is_settled(token):
                return replace(run, plan=plan, token=token)
    return run


def report_drift(run: Run) -> None:
    """Show what a committed run has noticed, and what to do next."""
    if run.watch is None:
        return
    from ..schemas.problems import one_line
    from ..transforms.drift.report import lines, read_report, report_path

    report = read_report(run.store, run.token)
    if report is None:
        return
    for line in lines(report):
        print(line)
    print(f"drift report: {report_path(run.store, run.token)}")
    for line in _next(report):
        say(one_line(line), WARNING)
    said = msgspec.to_builtins(report)
    logs.event("drift", **{key: value for key, value in said.items() if key != "format"})


def _next(report: DriftReport) -> Iterator[str]:
    """What to do about it."""
    for path, reason in sorted(report.refused.items()):
        yield f"{path}: the contract cannot evolve by itself: {reason}"
    if made := report.evolved:
        yield f"contract {made.before} → {made.version}: {made.path}"
        for change in made.changes:
            yield f"  {change}"
        yield f"look at it: millstream contract diff {made.before_path} {made.path}"
        yield "the next run goes by it; millstream dead-letters replay brings these records in"
    elif report.policy == "warn":
        yield "drift is only counted: change the contract, or say drift: quarantine or evolve"
    else:
        yield "change the contract; then millstream dead-letters replay brings these records in"
