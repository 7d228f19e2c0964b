"""A job's input as its records are now: the job itself, run with other sinks.

Everything up to its output of records runs as in the job, on whatever runner; what it writes lies
in a folder that is deleted afterwards. Duplicates stay in: which of them the job has kept depends
on its runs, and is seen by the keys that both sides have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..transforms import storage
from . import job_secrets, progress, runners
from .job import Job, Places
from .job_parts import input_format, job_contract, job_inputs, job_steps
from .names import DEAD_LETTERS, RECORDS
from .prepare import prepare

if TYPE_CHECKING:
    import pyarrow as pa

    from ..schemas.contract import Contract
    from ..schemas.table import Table
    from ..transforms.letters import Letters
    from ..transforms.reconcile.places import Place
    from ..transforms.write.destination import Output
    from .run import Run


class Unread(RuntimeError):
    """The input could not be read: the pipeline failed, and the message says why."""


class Staged(NamedTuple):
    """What a job's input is now.

    Attributes:
        records: where they lie, with their identity.
        columns, table: those of the records; a table has a key, too.
        contract: of the records as they leave the steps, with the key that they have.
        refused: dead letters of what the job would refuse.
        read, filtered: records that came in, and that steps have left out.
        sources: the files.
    """

    records: Place
    columns: pa.Schema
    table: Table
    contract: Contract
    refused: Letters
    read: int
    filtered: int
    sources: frozenset[str]


def staged(job: Job, places: Places, folder: str, beam_flags: list[str]) -> Staged:
    """Read a job's input to where its records can be read again.

    Args:
        folder: where to; every worker has to reach it.

    Raises:
        JobError: the job cannot be run as it is written, or reads no files.
        Unread: the pipeline failed.
        StorageError: a file cannot be read or written.
    """
    if job.stream is not None:
        said = "is a stream, which is not read again from its beginning: name what it is to be "
        raise places.error(("input",), f"{said}compared with by URI, as parquet:DIR")
    flags = runners.chosen(runners.bounded(beam_flags))
    flags = job_secrets.for_workers(job, runners.ready(flags, False, job.name), places)
    if beam_flags:
        runners.refuse_unknown(flags, [])
    job = _with_other_sinks(job, folder)
    if runners.is_single_process(flags):
        runners.keep_freed_memory()
        job = msgspec.structs.replace(job, shards=job.shards or 1)
    inputs = tuple(job_inputs(job, places))
    job = msgspec.structs.replace(job, format=input_format(job, inputs, places))
    contract = job_contract(job)
    steps = job_steps(job, contract, places)
    run = prepare(job, contract, steps, (), inputs, places)
    run = replace(run, gate=None, outputs=_with_identity(run, steps.table))
    _read(run, flags)
    return _found(run, steps.contract)


def _with_other_sinks(job: Job, folder: str) -> Job:
    """The job up to its output of records, and nothing else of it."""
    return msgspec.structs.replace(
        job,
        output=f"parquet:{storage.join(folder, 'records')}",
        dead_letters=f"parquet:{storage.join(folder, 'refused')}",
        ledger=f"jsonl:{storage.join(folder, 'ledger')}",
        state=storage.join(folder, "state"),
        duplicates=None,
        late=None,
        aggregates=[],
        deduplicate="no",
        horizon=None,
        until="",
        close_windows=False,
        quality=None,
        budget=None,
        drift="ignore",
        run_id="reconcile",
        reprocess=True,
    )


def _with_identity(run: Run, table: Table) -> tuple[Output, ...]:
    """The outputs; what has a table keeps where its rows are from."""

    return tuple(
        replace(output, tables={"data": table}) if output.name == RECORDS else output
        for output in run.outputs
    )


def _read(run: Run, flags: list[str]) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from .execute import begun, collect_seldom, ended
    from .graph import build

    collect_seldom()
    with run.store.lock(run.token.run_id):
        run.store.begin(run.plan, run.token.run_id, reprocess=True)
        try:
            pipeline = beam.Pipeline(options=PipelineOptions(flags))
            build(pipeline, run)
            size = sum(file.size for file in run.plan.inputs)
            with progress.shown(size, wanted=run.job.progress):
                state = ended(begun(pipeline, flags), flags)
        except Exception as error:
            message = runners.root_message(error)
            if message.startswith("KeyboardInterrupt"):  # Beam makes another exception of it
                raise KeyboardInterrupt from None
            raise Unread(f"the input could not be read: {message}") from error
    record = run.store.record(run.token)
    if record is None or record.status != "committed":
        raise Unread(record.error if record else f"the runner ended the pipeline as {state}")


def _found(run: Run, contract: Contract) -> Staged:
    import pyarrow as pa

    from ..schemas.arrow import HIDDEN
    from ..transforms.letters import letters_of
    from ..transforms.reconcile.places import Place

    outputs = {output.name: output for output in run.outputs}
    record = run.store.record(run.token)
    assert record is not None
    ours = [row for row in record.ledger if row.output == RECORDS]
    table = outputs[RECORDS].tables["data"]
    return Staged(
        Place(outputs[RECORDS], has_identity=True, may_lack=True),
        pa.schema([f.with_nullable(True) for f in table.schema if f.name not in HIDDEN]),
        table,
        contract,
        letters_of(outputs[DEAD_LETTERS]),
        sum(row.read for row in ours),
        sum(row.filtered for row in ours),
        frozenset(file.source for file in run.plan.inputs),
    )
