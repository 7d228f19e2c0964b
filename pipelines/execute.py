"""Running a planned job's pipeline to its end, and saying how it ended."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING, Any

from ..transforms import storage
from ..transforms.storage import StorageError
from . import exit_codes, gates, logs, progress, runners
from .drift import report_drift
from .logs import ERROR, WARNING, say
from .runners import dataflow

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.runners.runner import PipelineResult

    from ..transforms.runs import RunRecord
    from .run import Run

_COLLECTED = (100_000, 20, 20)
"""How many objects more there have to be before garbage is looked for: a batch of messages is tens
of thousands of objects for a moment, none of them garbage."""


def settled(work: Callable[[], int]) -> int:
    """The exit code of work on a job's runs; what stands in its way is said."""
    from ..transforms.intervals.chain import Overtaken
    from ..transforms.lock import Locked, LockLost
    from ..transforms.runs import AlreadyCommitted
    from ..transforms.write.commit import Unbalanced
    from ..transforms.write.destination import CommitConflict, DestinationError, Unavailable

    try:
        return work()
    except (AlreadyCommitted, Locked, Overtaken) as error:
        say(str(error), ERROR)
        return exit_codes.REFUSED
    except Unbalanced as error:
        say(str(error), ERROR)
        return exit_codes.UNBALANCED
    except (CommitConflict, DestinationError, LockLost, Unavailable) as error:
        return fail(str(error))


def execute(run: Run, flags: list[str], started: float) -> int:
    """Run a planned job's pipeline, and report; gives the exit code.

    An unattended one is only submitted: its workers do the rest.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from .graph import build
    from .runners.dataflow_service import OutOfSight

    collect_seldom()
    goes_on = run.unattended
    try:
        pipeline = beam.Pipeline(options=PipelineOptions(flags))
        build(pipeline, run)
        if run.unattended:
            return submitted(run, begun(pipeline, flags))
        with progress.shown(sum(f.size for f in run.plan.inputs), wanted=run.job.progress):
            state = ended(begun(pipeline, flags), flags)
    except OutOfSight as error:
        goes_on = True  # and what is staged is needed
        return fail(str(error))
    except Exception as error:
        return _explain_failure(run, error, started)
    finally:
        if (run.job.deduplicate != "no" or run.gate is not None) and not goes_on:
            _clear_spill(run)
    record = run.store.record(run.token)
    if record is None or record.status != "committed":
        return fail(record.error if record else f"the runner ended the job as {state}")
    return report(run, record, started)


def begun(pipeline: beam.Pipeline, flags: list[str]) -> PipelineResult:
    """Begin to run a pipeline.

    Raises:
        DataflowError: that is where it should have run, and it was not taken.
    """
    if dataflow.is_used(flags):
        from .runners.dataflow_service import submit

        return submit(pipeline, flags)
    return pipeline.run()


def ended(result: Any, flags: list[str], stop: Event | None = None) -> str:
    """Wait for a pipeline to end; gives its last state. One on Dataflow is cancelled by ``stop``.

    Raises:
        DataflowError: it ran there, and has failed.
        OutOfSight: it runs there, and cannot be asked for its state.
    """
    if dataflow.is_used(flags):
        from .runners.dataflow_service import watch

        return watch(result, flags, stop)
    try:
        return result.wait_until_finish()
    except KeyboardInterrupt:
        if not runners.works_here(flags):  # it is not to go on when nobody waits any more
            with suppress(Exception):  # not all runners can
                result.cancel()
            runners.cancelled(flags)
        raise


def submitted(run: Run, result: PipelineResult) -> int:
    """Say how a job that has been handed over is known; gives the exit code."""
    if job_id := _job_id(result):
        say(f"submitted as job {job_id}; nothing waits for it here")
    else:  # to a template's launcher, which starts it
        say("handed over; nothing waits for it here")
    logs.event("submitted", job_id=job_id)
    print(f"run {run.token.run_id}: submitted {job_id}".rstrip())
    return exit_codes.OK


def _job_id(result: Any) -> str:
    """What the service calls the job; nothing if it has not been given one."""
    if result_id := getattr(result, "_job_id", ""):  # of a job server
        return result_id
    return result.job_id() if getattr(result, "has_job", False) else ""  # of Dataflow


def collect_seldom() -> None:
    """Begin to look for garbage, in what comes from now on."""
    gc.freeze()
    gc.set_threshold(*_COLLECTED)
    gc.enable()


def _clear_spill(run: Run) -> None:
    """Delete what waited while keys were compared: no restart reads it."""
    with suppress(StorageError):
        storage.delete_folder(run.spill)
        storage.delete_folder(os.path.dirname(run.spill))


def _explain_failure(run: Run, error: Exception, started: float) -> int:
    from ..transforms.write.commit import clear_staging

    with suppress(StorageError):  # what could not be written cannot be deleted either
        clear_staging(run.store, run.token, run.outputs)
    record = run.store.record(run.token)
    if record is not None and record.status == "failed":
        say(record.error, ERROR)
        return gates.failure_code(run.store, run.token)
    message = runners.root_message(error)
    if record is not None:
        say(f"committed, although the runner failed afterwards: {message}")
        return report(run, record, started)
    if message.startswith("KeyboardInterrupt"):  # Beam makes another exception of it
        raise KeyboardInterrupt from None
    if runners.TRACEBACK in os.environ:
        raise error
    if run.store.prepared(run.token):
        message += "; some of it may be visible, and the same command completes it"
    return fail(message)


def report(run: Run, record: RunRecord, started: float | None = None) -> int:
    """Show how a run ended; ``started`` is when, if it is the one that has just ended."""
    from ..transforms.ledger import render

    print(render(record.ledger))
    print()
    for output in run.outputs:
        print(f"{output.name:<16} {record.rows.get(output.name, 0):>12,} rows  {output.uri}")
    when = (
        f"at {record.finished_at}" if started is None else f"in {time.monotonic() - started:.1f} s"
    )
    report_drift(run)
    code = gates.report_gate(run)
    print(f"run {record.run_id}: {record.status} {when}")
    logs.event(f"{record.status} {when}", rows=record.rows, ledger=record.ledger)
    if not record.unreadable:
        return code
    for region in record.unreadable:
        say(f"could not be read to its end: {region}", WARNING)
    return code or exit_codes.INCOMPLETE


def fail(message: str) -> int:
    """Say that the run failed; gives the exit code."""
    say(f"the run failed: {message}", ERROR)
    return exit_codes.FAILED
