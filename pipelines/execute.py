"""Running a planned job's pipeline to its end, and saying how it ended."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..transforms import storage
from ..transforms.storage import StorageError
from . import exit_codes, logs, progress, runners
from .logs import ERROR, WARNING, say

if TYPE_CHECKING:
    from ..transforms.runs import RunRecord
    from .graph import Run

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
    """Run a planned job's pipeline, and report; gives the exit code."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from .graph import build

    collect_seldom()
    try:
        pipeline = beam.Pipeline(options=PipelineOptions(flags))
        build(pipeline, run)
        with progress.shown(sum(f.size for f in run.plan.inputs), wanted=run.job.progress):
            state = pipeline.run().wait_until_finish()
    except Exception as error:
        return _explain_failure(run, error, started)
    finally:
        if run.job.deduplicate != "no":
            _clear_spill(run)
    record = run.store.record(run.token)
    if record is None or record.status != "committed":
        return fail(record.error if record else f"the runner ended the job as {state}")
    return report(run, record, started)


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
        return exit_codes.UNBALANCED
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
    print(f"run {record.run_id}: {record.status} {when}")
    logs.event(f"{record.status} {when}", rows=record.rows, ledger=record.ledger)
    if not record.unreadable:
        return exit_codes.OK
    for region in record.unreadable:
        say(f"could not be read to its end: {region}", WARNING)
    return exit_codes.INCOMPLETE


def fail(message: str) -> int:
    """Say that the run failed; gives the exit code."""
    say(f"the run failed: {message}", ERROR)
    return exit_codes.FAILED
