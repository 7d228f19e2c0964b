"""Launching the main job, from the plan to the run record.

The order matters for speed and for safety: everything that can be wrong with the job is found
first; helper processes start before Beam is imported; the plan is written before any work.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from ..schemas.contract import Contract, ContractError
from ..transforms import storage
from ..transforms.plan import InputFile, Plan, PlanError
from ..transforms.storage import StorageError
from . import exit_codes, logs, progress, runners
from .arguments import job_flags
from .job import KEYS, Format, Job, JobError, Places, load_job
from .logs import ERROR, WARNING, say

if TYPE_CHECKING:
    import argparse

    from ..schemas.aggregates.spec import AggregateSpec
    from ..transforms.runs import RunRecord
    from ..transforms.write.destination import Output, OutputKind
    from .graph import Run
    from .steps import Steps

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
        logs.use(job.log_format)
        contract = _contract(job)
        storage.use_options(beam_flags)
        inputs = tuple(_inputs(job, places))
    except JobError:
        # what is missing may be what a misspelt flag was to say
        runners.refuse_unknown(beam_flags, job_flag_names())
        raise
    flags = runners.chosen(beam_flags)
    if runners.is_single_process(flags):
        runners.keep_freed_memory()
        job = msgspec.structs.replace(job, shards=job.shards or 1)  # nobody shares the work
    job = msgspec.structs.replace(job, format=input_format(job, inputs, places))
    if count := _helper_count(job, inputs, flags):
        from ..transforms.decoding import attach_helpers

        with _interrupts_are_for_us_alone():
            attach_helpers(contract, job.unknown_fields, count, judge=True)
    try:
        steps = _steps(job, contract, places)
        aggregates = tuple(_aggregates(job, steps.contract, places))
        if beam_flags:
            runners.refuse_unknown(flags, job_flag_names())
        run = _prepared(job, contract, steps, aggregates, inputs, places)
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


def _steps(job: Job, contract: Contract, places: Places) -> Steps:
    from .steps import open_steps

    if job.deduplicate != "no" and not contract.primary_key:
        raise places.error(("deduplicate",), f"the contract {contract.name} has no primary key")
    if job.duplicates and job.deduplicate == "no":
        raise places.error(("duplicates",), "nothing is a duplicate without deduplicate: run")
    if job.deduplicate == "committed" and not (job.output or "").startswith("parquet:"):
        said = "committed keys are read from Parquet: the job needs output: parquet:DIR"
        raise places.error(("deduplicate",), said)
    steps = open_steps(job, contract, places)
    if job.aggregates and contract.event_time and not steps.contract.event_time:
        said = f"the steps do not leave {contract.event_time}, the event time, as a time stamp"
        raise places.error(("steps",), f"{said}, and the aggregates need it")
    return steps


_ENDINGS: dict[str, Format] = {"csv": "csv", "tsv": "csv", "avro": "avro", "parquet": "parquet"}


def input_format(job: Job, inputs: tuple[InputFile, ...], places: Places) -> Format:
    """The format of the input: the job's, or what the names of its files say.

    Raises:
        JobError: they say several things.
    """
    if job.format != "auto":
        return job.format
    found: dict[Format, str] = {}
    for file in inputs:
        name = file.source.lower()
        for ending in (".gz", ".bz2", ".zst", ".zstd", ".xz"):
            name = name.removesuffix(ending)
        found.setdefault(_ENDINGS.get(name.rpartition(".")[2], "jsonl"), file.source)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        said = f"{first} looks like {one}, {second} like {other}: read each with a job of its own"
        raise places.error(("input",), f"{said}, or say format")
    return next(iter(found)) if found else "jsonl"


def _aggregates(job: Job, contract: Contract, places: Places) -> list[AggregateSpec]:
    from ..schemas.aggregates.functions import AggregateError
    from ..schemas.aggregates.spec import aggregate_spec

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
    if job.format != "jsonl" or not runners.is_single_process(flags):
        return 0
    if job.helpers is not None:
        return max(job.helpers, 0)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    large = sum(file.size for file in inputs) >= _HELP_FROM_BYTES
    return processors - 1 if large else 0  # this process decodes too


def _prepared(
    job: Job,
    contract: Contract,
    steps: Steps,
    aggregates: tuple[AggregateSpec, ...],
    inputs: tuple[InputFile, ...],
    places: Places,
) -> Run:
    """The run, with everything that it writes looked at before its plan is written."""
    runners.quiet_beam()
    from ..transforms.runs import RunStore
    from ..transforms.write.destination import DestinationError
    from .graph import Run
    from .steps import derive

    _check_csv_header(job, contract, places)
    outputs, ledger = job_outputs(job, places)
    plan = _plan(job, contract, inputs, outputs)
    try:
        token = plan.token(job.run_id)
    except PlanError as error:
        raise places.error(("run_id",), str(error)) from None
    derived = derive(aggregates, steps.schema)
    run = Run(
        job=job,
        contract=contract,
        steps=(*steps.steps, derived) if derived else steps.steps,
        derived=tuple(n for n in derived.schema.names if n not in steps.schema.names)
        if derived
        else (),
        aggregates=aggregates,
        plan=plan,
        store=RunStore(ledger.destination.home),
        token=token,
        outputs=tuple(outputs),
        ledger=ledger,
    )
    try:
        run.commit()
    except DestinationError as error:
        raise places.error_of_all(str(error)) from None
    _check_outputs(run, steps, places)
    if job.deduplicate == "committed":
        _check_committed_keys(run, steps, places)
    return run


def _check_csv_header(job: Job, contract: Contract, places: Places) -> None:
    if job.format == "csv" and not isinstance(job.csv.header, bool):
        from ..schemas.csv.decoder import HeaderError
        from ..transforms.read.csv import CsvReader

        try:
            CsvReader(contract, job.csv)
        except HeaderError as error:
            raise places.error(("csv", "header"), f"the file {error}") from None


def _check_committed_keys(run: Run, steps: Steps, places: Places) -> None:
    """See that the files of the output will hold the primary key, for later runs to find.

    Raises:
        JobError: they will not.
    """
    from ..schemas.arrow import arrow_type
    from .graph import RECORDS

    (output,) = [output for output in run.outputs if output.name == RECORDS]
    layout = output.destination.layout
    in_folders = {p.column for p in layout.partition_by if not p.function} if layout else set()
    for name in run.contract.primary_key:
        if name in in_folders:
            said = f"the output is partitioned by {name}, so that its files do not hold the key"
        elif name not in steps.schema.names or steps.schema.field(name).type != arrow_type(
            run.contract.field(name)
        ):
            said = f"the steps do not leave {name}, a field of the key, as it is"
        else:
            continue
        raise places.error(("deduplicate",), f"committed keys cannot be compared: {said}")


def _check_outputs(run: Run, steps: Steps, places: Places) -> None:
    """Have every destination look at the columns that it will get.

    Raises:
        JobError: one cannot write them.
    """
    import pyarrow as pa

    from ..schemas import dead_letters
    from ..schemas.aggregates.states import visible_schema
    from ..schemas.arrow import IDENTITY, batch_schema
    from ..transforms.write.destination import DestinationError
    from .graph import DEAD_LETTERS, DUPLICATES, RECORDS

    fields = [field for field in steps.schema if field.name not in IDENTITY]
    schemas: dict[str, tuple[pa.Schema, tuple[str | int, ...]]] = {
        RECORDS: (pa.schema(fields), ("output",)),
        DUPLICATES: (batch_schema(run.contract), ("duplicates",)),
        DEAD_LETTERS: (dead_letters.SCHEMA, ("dead_letters",)),
    }
    for i, spec in enumerate(run.aggregates):
        schemas[spec.name] = (visible_schema(spec), ("aggregates", i, "output"))
    for output in run.outputs:
        schema, place = schemas[output.name]
        try:
            output.destination.check(schema)
        except DestinationError as error:
            raise places.error(place, str(error)) from None


def job_outputs(job: Job, places: Places) -> tuple[list[Output], Output]:
    """What is committed, in this order, and the ledger.

    Raises:
        JobError: a destination cannot be used.
    """
    from ..transforms.write.commit import LEDGER
    from ..transforms.write.destination import DestinationError, Output
    from .graph import DEAD_LETTERS, DUPLICATES, RECORDS

    def output(name: str, uri: str, kind: OutputKind, *steps: str | int) -> Output:
        try:
            return Output(name, uri, kind)
        except DestinationError as error:
            raise places.error(steps, str(error)) from None
        except PlanError as error:
            raise places.error((*steps[:-1], "name"), str(error)) from None

    found = [output(RECORDS, job.output, "records", "output")] if job.output else []
    if job.duplicates:
        found.append(output(DUPLICATES, job.duplicates, "side", "duplicates"))
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
            **_widening(job, uris),
        },
    )


def _widening(job: Job, uris: dict[str, str]) -> dict[str, str]:
    """Settings of what a job need not have: those it has not leave its plan's digest alone."""
    from .graph import DUPLICATES

    settings = {}
    if job.deduplicate != "no":
        settings["deduplicate"] = job.deduplicate
    if DUPLICATES in uris:
        settings["duplicates"] = uris[DUPLICATES]
    if job.steps:
        settings["steps"] = msgspec.json.encode(job.steps).decode()
    if job.format == "csv":
        settings["csv"] = msgspec.json.encode(job.csv).decode()
    return settings


def _run(run: Run, flags: list[str], started: float) -> int:
    from ..transforms.lock import Locked, LockLost
    from ..transforms.runs import AlreadyCommitted
    from ..transforms.write.commit import complete
    from ..transforms.write.destination import CommitConflict

    job, store = run.job, run.store
    logs.of_run(run.token.run_id)
    try:
        with store.lock(run.token.run_id, wait_seconds=job.wait) as lock:
            while True:
                decision = store.begin(run.plan, job.run_id, reprocess=job.reprocess)
                if decision.kind != "resume":
                    break
                assert decision.prepared is not None
                say(f"completing what run {decision.token.run_id} had prepared")
                complete(store, decision.prepared, check=lock.check)
            if decision.kind == "done":
                assert decision.record is not None
                say(f"run {decision.token.run_id} has been committed already: nothing to do")
                return _report(run, decision.record)
            if decision.kind == "replace":
                say(f"run {decision.token.run_id} holds another plan, which this one replaces")
            return _execute(run, flags, started)
    except (AlreadyCommitted, Locked) as error:
        say(str(error), ERROR)
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
        with progress.shown(sum(f.size for f in run.plan.inputs), wanted=run.job.progress):
            state = pipeline.run().wait_until_finish()
    except Exception as error:
        return _explain_failure(run, error, started)
    finally:
        if run.job.deduplicate != "no":
            _clear_spill(run)
    record = run.store.record(run.token)
    if record is None or record.status != "committed":
        return _fail(record.error if record else f"the runner ended the job as {state}")
    return _report(run, record, started)


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
    logs.event(f"{record.status} {when}", rows=record.rows, ledger=record.ledger)
    if not record.unreadable:
        return exit_codes.OK
    for region in record.unreadable:
        say(f"could not be read to its end: {region}", WARNING)
    return exit_codes.INCOMPLETE


def _fail(message: str) -> int:
    say(f"the run failed: {message}", ERROR)
    return exit_codes.FAILED
