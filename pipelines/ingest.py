"""``millstream ingest``: run the main job, from the plan to the run record.

The order matters for speed and for safety: everything that can be wrong with the job is found
first; helper processes start before Beam is imported; the plan is written before any work.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

from ..schemas.contract import Contract, ContractError
from ..transforms.plan import InputFile, Plan, PlanError
from ..transforms.storage import StorageError
from . import exit_codes, runners
from .arguments import Parser, add_ingest, job_flags
from .job import Job, JobError, load_job

if TYPE_CHECKING:
    import argparse

    from ..schemas.states import AggregateSpec
    from ..transforms.runs import RunRecord
    from .graph import Run

_HELP_FROM_BYTES = 32 << 20
"""Input below this is decoded sooner than helpers have started."""


def run(arguments: argparse.Namespace, beam_flags: list[str]) -> int:
    """Run the job that parsed arguments describe; gives the exit code.

    Raises:
        JobError: the job cannot be run as it is written.
    """
    started = time.monotonic()
    job = load_job(arguments.job, job_flags(arguments))
    contract, aggregates = _contract(job), ()
    inputs = tuple(_inputs(job))
    flags = runners.chosen(beam_flags)
    if count := _helper_count(job, inputs, flags):
        from ..transforms.decoding import attach_helpers

        attach_helpers(contract, job.unknown_fields, count)
    try:
        aggregates = tuple(_aggregates(job, contract))
        runners.refuse_unknown(flags, job_flag_names())
        return _run(job, contract, aggregates, inputs, flags, started)
    except PlanError as error:
        raise JobError(str(error)) from None
    except StorageError as error:
        return _fail(str(error))
    finally:
        if count:
            from ..transforms.decoding import detach_helpers

            detach_helpers()


def job_flag_names() -> list[str]:
    """The flags that ``ingest`` has of its own."""
    from .job import KEYS

    return ["--job", *(f"--{key}" for key in KEYS)]


def _contract(job: Job) -> Contract:
    from ..schemas.odcs import load_contract

    try:
        return load_contract(job.contract, schema=job.schema, event_time=job.event_time)
    except ContractError as error:
        raise JobError(str(error)) from None


def _aggregates(job: Job, contract: Contract) -> list[AggregateSpec]:
    from ..schemas.metrics import AggregateError
    from ..schemas.states import aggregate_spec

    specs = []
    for aggregate in job.aggregates:
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
            raise JobError(f"aggregate {aggregate.name}: {error}") from None
    return specs


def _inputs(job: Job) -> list[InputFile]:
    from ..transforms.read.files import NoFiles, match_files

    try:
        return match_files(job.input, job.allow_no_input)
    except NoFiles as error:
        raise JobError(f"input: {error} (--allow_no_input lets that pass)") from None
    except StorageError as error:
        raise JobError(f"input: {error}") from None


def _helper_count(job: Job, inputs: tuple[InputFile, ...], flags: list[str]) -> int:
    if not runners.is_single_process(flags):
        return 0
    if job.helpers is not None:
        return max(job.helpers, 0)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    large = sum(file.size for file in inputs) >= _HELP_FROM_BYTES
    return processors if processors > 1 and large else 0


def _plan(job: Job, contract: Contract, inputs: tuple[InputFile, ...]) -> Plan:
    decisive = {
        "output": job.output or "",
        "dead_letters": job.dead_letters,
        "aggregates": json.dumps(
            [
                {
                    "name": a.name,
                    "window": a.window,
                    "by": a.by,
                    "metrics": a.metrics,
                    "output": a.output,
                }
                for a in job.aggregates
            ]
        ),
        "format": job.format,
        "compression": job.compression,
        "unknown_fields": job.unknown_fields,
        "max_record_bytes": str(job.max_record_bytes),
    }
    return Plan(
        job=job.name,
        contract_id=contract.id,
        contract_version=contract.version,
        contract_digest=contract.digest,
        inputs=inputs,
        settings=decisive,
    )


def _run(
    job: Job,
    contract: Contract,
    aggregates: tuple[AggregateSpec, ...],
    inputs: tuple[InputFile, ...],
    flags: list[str],
    started: float,
) -> int:
    runners.quiet_beam()
    from ..transforms.lock import Locked
    from ..transforms.runs import AlreadyCommitted, RunStore
    from ..transforms.write.commit import LEDGER, complete
    from ..transforms.write.destination import CommitConflict, DestinationError, Output
    from .graph import Run

    plan = _plan(job, contract, inputs)
    try:
        store = RunStore(Output(LEDGER, job.ledger, "side").destination.home)
        prepared_run = Run(job, contract, aggregates, inputs, store, plan.token(job.run_id))
        _ = prepared_run.outputs  # every URI is looked at before the plan is written
    except DestinationError as error:
        raise JobError(str(error)) from None
    try:
        with store.lock(prepared_run.token.run_id, wait_seconds=job.wait) as lock:
            while True:
                decision = store.begin(plan, job.run_id, reprocess=job.reprocess)
                if decision.kind != "resume":
                    break
                assert decision.prepared is not None
                _say(f"completing what run {decision.token.run_id} had prepared")
                complete(store, decision.prepared, check=lock.check)
            if decision.kind == "done":
                assert decision.record is not None
                _say(f"run {decision.token.run_id} has been committed already: nothing to do")
                return _report(prepared_run, decision.record, started)
            if decision.kind == "replace":
                _say(f"run {decision.token.run_id} holds another plan, which this one replaces")
            return _execute(prepared_run, flags, started)
    except (AlreadyCommitted, Locked) as error:
        print(f"millstream: {error}", file=sys.stderr)
        return exit_codes.REFUSED
    except CommitConflict as error:
        return _fail(str(error))


def _execute(run: Run, flags: list[str], started: float) -> int:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from .graph import build

    try:
        pipeline = beam.Pipeline(options=PipelineOptions(flags))
        build(pipeline, run)
        state = pipeline.run().wait_until_finish()
    except KeyboardInterrupt:
        return _fail("interrupted; nothing of this run is visible unless it had begun to commit")
    except Exception as error:
        return _explain_failure(run, error)
    record = run.store.record(run.token)
    if record is None or record.status != "committed":
        return _fail(record.error if record else f"the runner ended the job as {state}")
    return _report(run, record, started)


def _explain_failure(run: Run, error: Exception) -> int:
    record = run.store.record(run.token)
    if record is not None and record.status == "failed":
        print(f"millstream: {record.error}", file=sys.stderr)
        return exit_codes.UNBALANCED
    if os.environ.get("MILLSTREAM_TRACEBACK"):
        raise error
    return _fail(runners.root_message(error))


def _report(run: Run, record: RunRecord, started: float) -> int:
    from ..transforms.ledger import render

    print(render(record.ledger))
    print()
    for output in run.outputs:
        print(f"{output.name:<16} {record.rows.get(output.name, 0):>12,} rows  {output.uri}")
    print(f"run {record.run_id}: {record.status} in {time.monotonic() - started:.1f} s")
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


def main(argv: list[str] | None = None) -> int:
    """``python -m millstream.pipelines.ingest``: the same as ``millstream ingest``."""
    parser = Parser(prog="millstream ingest", epilog=exit_codes.HELP, allow_abbrev=False)
    add_ingest(parser)
    try:
        return run(*parser.parse_known_args(argv))
    except JobError as error:
        print(f"millstream: {error}", file=sys.stderr)
        return exit_codes.USAGE


if __name__ == "__main__":
    sys.exit(main())
