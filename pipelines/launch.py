"""Launching the main job, from the plan to the run record.

The order matters for speed and for safety: everything that can be wrong with the job is found
first; helper processes start before Beam is imported; the plan is written before any work.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from ..schemas.contract import Contract, ContractError
from ..transforms.plan import InputFile, Plan, PlanError
from ..transforms.storage import StorageError
from . import exit_codes, runners
from .arguments import job_flags
from .job import KEYS, Job, JobError, Places, load_job

if TYPE_CHECKING:
    import argparse

    from ..schemas.aggregate_spec import AggregateSpec
    from ..transforms.runs import RunRecord
    from ..transforms.write.destination import Output, OutputKind
    from .graph import Run

_HELP_FROM_BYTES = 32 << 20
"""Input below this is decoded sooner than helpers have started."""


def run(arguments: argparse.Namespace, beam_flags: list[str]) -> int:
    """Run the job that parsed arguments describe; gives the exit code.

    Raises:
        JobError: the job cannot be run as it is written.
    """
    gc.disable()  # what is imported stays: looking through it for garbage costs a tenth
    try:
        return _launch(arguments, beam_flags, time.monotonic())
    finally:
        gc.unfreeze()
        gc.enable()


def _launch(arguments: argparse.Namespace, beam_flags: list[str], started: float) -> int:
    try:
        job, places = load_job(arguments.job, job_flags(arguments))
        contract = _contract(job)
        inputs = tuple(_inputs(job, places))
    except JobError:
        # what is missing may be what a misspelt flag was to say
        runners.refuse_unknown(beam_flags, job_flag_names())
        raise
    flags = runners.chosen(beam_flags)
    if runners.is_single_process(flags):
        runners.keep_freed_memory()
        job = msgspec.structs.replace(job, shards=job.shards or 1)  # nobody shares the work
    if count := _helper_count(job, inputs, flags):
        from ..transforms.decoding import attach_helpers

        with _interrupts_are_for_us_alone():
            attach_helpers(contract, job.unknown_fields, count, judge=True)
    try:
        aggregates = tuple(_aggregates(job, contract, places))
        if beam_flags:
            runners.refuse_unknown(flags, job_flag_names())
        run = _prepared(job, contract, aggregates, inputs, places)
        return _run(run, flags, started)
    except PlanError as error:
        raise JobError(str(error)) from None
    except StorageError as error:
        return _fail(str(error))
    finally:
        if count:
            from ..transforms.decoding import detach_helpers

            detach_helpers()


@contextmanager
def _interrupts_are_for_us_alone() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C, which a terminal sends to all; we end them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def job_flag_names() -> list[str]:
    """The flags that ``ingest`` has of its own."""
    return ["--job", *(f"--{key}" for key in KEYS)]


def _contract(job: Job) -> Contract:
    from ..schemas.odcs import load_contract

    try:
        return load_contract(job.contract, schema=job.schema, event_time=job.event_time)
    except ContractError as error:
        raise JobError(str(error)) from None


def _aggregates(job: Job, contract: Contract, places: Places) -> list[AggregateSpec]:
    from ..schemas.aggregate_spec import aggregate_spec
    from ..schemas.metric_functions import AggregateError

    specs = []
    for i, aggregate in enumerate(job.aggregates):
        try:
            specs.append(
                aggregate_spec(
                    aggregate.name,
                    window=aggregate.window,
                    by=aggregate.by,
                    metrics=aggregate.metrics,
                    contract=contract,
                )
            )
        except AggregateError as error:
            raise places.error(("aggregates", i), str(error)) from None
    return specs


def _inputs(job: Job, places: Places) -> list[InputFile]:
    from ..transforms.read.files import NoFiles, match_files

    try:
        return match_files(job.input, job.allow_no_input)
    except NoFiles as error:
        raise places.error(("input",), f"{error} (--allow_no_input lets that pass)") from None
    except StorageError as error:
        raise places.error(("input",), str(error)) from None


def _helper_count(job: Job, inputs: tuple[InputFile, ...], flags: list[str]) -> int:
    if not runners.is_single_process(flags):
        return 0
    if job.helpers is not None:
        return max(job.helpers, 0)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    large = sum(file.size for file in inputs) >= _HELP_FROM_BYTES
    return processors - 1 if large else 0  # this process decodes too


def _prepared(
    job: Job,
    contract: Contract,
    aggregates: tuple[AggregateSpec, ...],
    inputs: tuple[InputFile, ...],
    places: Places,
) -> Run:
    """The run, with everything that it writes looked at before its plan is written."""
    runners.quiet_beam()
    from ..transforms.runs import RunStore
    from ..transforms.write.destination import DestinationError
    from .graph import Run

    outputs, ledger = _outputs(job, places)
    plan = _plan(job, contract, inputs, outputs)
    try:
        token = plan.token(job.run_id)
    except PlanError as error:
        raise places.error(("run_id",), str(error)) from None
    store = RunStore(ledger.destination.home)
    run = Run(job, contract, aggregates, plan, store, token, tuple(outputs), ledger)
    try:
        run.commit()
    except DestinationError as error:
        raise places.error_of_all(str(error)) from None
    return run


def _outputs(job: Job, places: Places) -> tuple[list[Output], Output]:
    """What is committed, in this order, and the ledger."""
    from ..transforms.write.commit import LEDGER
    from ..transforms.write.destination import DestinationError, Output
    from .graph import DEAD_LETTERS, RECORDS

    def output(name: str, uri: str, kind: OutputKind, *steps: str | int) -> Output:
        try:
            return Output(name, uri, kind)
        except DestinationError as error:
            raise places.error(steps, str(error)) from None
        except PlanError as error:
            raise places.error((*steps[:-1], "name"), str(error)) from None

    found = [output(RECORDS, job.output, "records", "output")] if job.output else []
    for i, a in enumerate(job.aggregates):
        found.append(output(a.name, a.output, "aggregates", "aggregates", i, "output"))
    found.append(output(DEAD_LETTERS, job.dead_letters, "dead_letters", "dead_letters"))
    return found, output(LEDGER, job.ledger, "side", "ledger")


def _plan(
    job: Job, contract: Contract, inputs: tuple[InputFile, ...], outputs: list[Output]
) -> Plan:
    from .graph import DEAD_LETTERS, RECORDS

    # Places by their absolute names: the plan is the same wherever the job is started from.
    uris = {output.name: output.uri for output in outputs}
    aggregates = [
        {
            "name": a.name,
            "window": a.window,
            "by": a.by,
            "metrics": a.metrics,
            "output": uris[a.name],
        }
        for a in job.aggregates
    ]
    return Plan(
        job=job.name,
        contract_id=contract.id,
        contract_version=contract.version,
        contract_digest=contract.digest,
        inputs=inputs,
        settings={
            "output": uris.get(RECORDS, ""),
            "dead_letters": uris[DEAD_LETTERS],
            "aggregates": json.dumps(aggregates),
            "format": job.format,
            "compression": job.compression,
            "unknown_fields": job.unknown_fields,
            "max_record_bytes": str(job.max_record_bytes),
        },
    )


def _run(run: Run, flags: list[str], started: float) -> int:
    from ..transforms.lock import Locked, LockLost
    from ..transforms.runs import AlreadyCommitted
    from ..transforms.write.commit import complete
    from ..transforms.write.destination import CommitConflict

    job, store = run.job, run.store
    try:
        with store.lock(run.token.run_id, wait_seconds=job.wait) as lock:
            while True:
                decision = store.begin(run.plan, job.run_id, reprocess=job.reprocess)
                if decision.kind != "resume":
                    break
                assert decision.prepared is not None
                _say(f"completing what run {decision.token.run_id} had prepared")
                complete(store, decision.prepared, check=lock.check)
            if decision.kind == "done":
                assert decision.record is not None
                _say(f"run {decision.token.run_id} has been committed already: nothing to do")
                return _report(run, decision.record)
            if decision.kind == "replace":
                _say(f"run {decision.token.run_id} holds another plan, which this one replaces")
            return _execute(run, flags, started)
    except (AlreadyCommitted, Locked) as error:
        print(f"millstream: {error}", file=sys.stderr)
        return exit_codes.REFUSED
    except (CommitConflict, LockLost) as error:
        return _fail(str(error))


def _execute(run: Run, flags: list[str], started: float) -> int:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from .graph import build

    gc.freeze()
    gc.enable()
    try:
        pipeline = beam.Pipeline(options=PipelineOptions(flags))
        build(pipeline, run)
        state = pipeline.run().wait_until_finish()
    except Exception as error:
        return _explain_failure(run, error, started)
    record = run.store.record(run.token)
    if record is None or record.status != "committed":
        return _fail(record.error if record else f"the runner ended the job as {state}")
    return _report(run, record, started)


def _explain_failure(run: Run, error: Exception, started: float) -> int:
    from ..transforms.write.commit import clear_staging

    with suppress(StorageError):  # what could not be written cannot be deleted either
        clear_staging(run.store, run.token, run.outputs)
    record = run.store.record(run.token)
    if record is not None and record.status == "failed":
        print(f"millstream: {record.error}", file=sys.stderr)
        return exit_codes.UNBALANCED
    message = runners.root_message(error)
    if record is not None:
        _say(f"committed, although the runner failed afterwards: {message}")
        return _report(run, record, started)
    if message.startswith("KeyboardInterrupt"):  # Beam makes another exception of it
        raise KeyboardInterrupt from None
    if runners.TRACEBACK in os.environ:
        raise error
    if run.store.prepared(run.token):
        message += "; some of it may be visible, and the same command completes it"
    return _fail(message)


def _report(run: Run, record: RunRecord, started: float | None = None) -> int:
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
    if not record.unreadable:
        return exit_codes.OK
    for region in record.unreadable:
        print(f"millstream: could not be read to its end: {region}", file=sys.stderr)
    return exit_codes.INCOMPLETE


def _say(message: str) -> None:
    print(f"millstream: {message}", file=sys.stderr)


def _fail(message: str) -> int:
    print(f"millstream: the run failed: {message}", file=sys.stderr)
    return exit_codes.FAILED
