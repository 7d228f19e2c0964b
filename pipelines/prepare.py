"""From a job file to a run that is ready: everything that can be wrong is found here.

In the order in which it is needed: helper processes start before Beam is imported, and so between
what needs no Beam (the contract, the input files) and the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from ..schemas.contract import Contract, ContractError
from ..transforms import storage
from ..transforms.plan import InputFile, Plan, PlanError
from ..transforms.storage import StorageError
from . import runners
from .job import AggregateJob, Format, Job, JobError, Places

if TYPE_CHECKING:
    import pyarrow as pa

    from ..schemas.aggregates.open_windows import Trigger
    from ..schemas.aggregates.spec import AggregateSpec
    from ..schemas.table import Table
    from ..transforms.intervals.keys import Horizon
    from ..transforms.receipts import Part
    from ..transforms.runs import RunStore
    from ..transforms.write.destination import Output, OutputKind
    from .graph import Run
    from .steps import Steps


def job_contract(job: Job) -> Contract:
    """The contract that a job names.

    Raises:
        JobError: it cannot be loaded.
    """
    from ..schemas.odcs import load_contract

    try:
        return load_contract(job.contract, schema=job.schema, event_time=job.event_time)
    except ContractError as error:
        raise JobError(str(error)) from None


def job_steps(job: Job, contract: Contract, places: Places) -> Steps:
    """The opened steps of a job, and what they make of its records.

    Raises:
        JobError: a step cannot work, or leaves out what is needed later.
    """
    from .steps import open_steps

    if job.deduplicate != "no" and not contract.primary_key:
        raise places.error(("deduplicate",), f"the contract {contract.name} has no primary key")
    if job.deduplicate == "horizon" and not contract.event_time:
        said = f"the contract {contract.name} has no event time, by which a horizon is measured"
        raise places.error(("deduplicate",), said)
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
    for source in [file.source for file in inputs] or job.input:  # of files that are still to come
        name = source.lower()
        for ending in (".gz", ".bz2", ".zst", ".zstd", ".xz"):
            name = name.removesuffix(ending)
        found.setdefault(_ENDINGS.get(name.rpartition(".")[2], "jsonl"), source)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        said = f"{first} looks like {one}, {second} like {other}: read each with a job of its own"
        raise places.error(("input",), f"{said}, or say format")
    return next(iter(found)) if found else "jsonl"


def job_aggregates(job: Job, contract: Contract, places: Places) -> list[AggregateSpec]:
    """The aggregates of a job, over records of ``contract``.

    Raises:
        JobError: one cannot be computed as it is written.
    """
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


def job_triggers(
    job: Job, aggregates: Sequence[AggregateSpec], going_on: bool, places: Places
) -> dict[str, Trigger]:
    """When each aggregate's windows are given, in a job that goes on.

    Raises:
        JobError: that cannot be had.
    """
    from ..schemas.aggregates.functions import AggregateError
    from ..schemas.aggregates.open_windows import trigger

    found = {}
    for i, (aggregate, spec) in enumerate(zip(job.aggregates, aggregates, strict=True)):
        asked = (aggregate.allowed_lateness, aggregate.early, aggregate.panes == "discarding")
        if not going_on and any(asked):
            said = "allowed_lateness, early and panes are for jobs that go on: say until: now"
            raise places.error(("aggregates", i), said)
        try:
            found[spec.name] = trigger(spec, *asked)
        except AggregateError as error:
            raise places.error(("aggregates", i), str(error)) from None
    return found


def job_duration(job: Job, key: str, places: Places) -> int:
    """Microseconds of a key that is a duration, or ``0s``.

    Raises:
        JobError: it is none.
    """
    from ..schemas.aggregates.functions import AggregateError
    from ..schemas.aggregates.windows import parse_duration

    text = getattr(job, key)
    if text in ("0", "0s"):
        return 0
    try:
        return parse_duration(text, key)
    except AggregateError as error:
        raise places.error((key,), str(error).removeprefix(f"{key}: ")) from None


def job_horizon(job: Job, contract: Contract, places: Places) -> Horizon | None:
    """Which records of a job are duplicates, if it goes by a horizon.

    Raises:
        JobError: it is no duration, or keys cannot be made of the contract's.
    """
    if job.deduplicate != "horizon" or contract.event_time is None:
        return None
    import pyarrow as pa

    from ..schemas.arrow import batch_schema
    from ..schemas.keys import KeyColumnError, hash_keys
    from ..transforms.intervals.keys import Horizon

    us = job_duration(job, "horizon", places)
    if us < 1:
        raise places.error(("horizon",), f"expected more than nothing, got {job.horizon!r}")
    try:
        nothing = pa.RecordBatch.from_pylist([], batch_schema(contract))
        hashes = hash_keys(nothing, contract.primary_key)
    except KeyColumnError as error:
        raise places.error(("deduplicate",), str(error)) from None
    return Horizon(contract.primary_key, hashes.kinds, contract.event_time, us)


def job_inputs(job: Job, places: Places) -> list[InputFile]:
    """The files that a job reads.

    Raises:
        JobError: a pattern matches none, or they cannot be looked at.
    """
    from ..transforms.read.files import NoFiles, match_files

    try:
        return match_files(job.input, job.allow_no_input)
    except NoFiles as error:
        raise places.error(("input",), f"{error} (--allow_no_input lets that pass)") from None
    except StorageError as error:
        raise places.error(("input",), str(error)) from None


def prepare(
    job: Job,
    contract: Contract,
    steps: Steps,
    aggregates: tuple[AggregateSpec, ...],
    inputs: tuple[InputFile, ...],
    places: Places,
    triggers: Mapping[str, Trigger] | None = None,
) -> Run:
    """The run, with everything that it writes looked at before its plan is written.

    Raises:
        JobError: an output cannot be used.
    """
    runners.quiet_beam()
    from ..transforms.write.destination import DestinationError
    from .graph import Run
    from .steps import derive

    _check_csv_header(job, contract, places)
    outputs, ledger, store = job_outputs(job, places, going_on=triggers is not None)
    results = {spec.name: _results(spec, triggers) for spec in aggregates}
    outputs = [
        replace(output, tables=_tables(output, contract, steps, aggregates, results))
        for output in outputs
    ]
    plan = _plan(job, contract, steps, inputs, outputs)
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
        store=store,
        token=token,
        outputs=tuple(outputs),
        ledger=ledger,
    )
    try:
        run.commit()
    except DestinationError as error:
        raise places.error_of_all(str(error)) from None
    _check_outputs(run, steps, results, places)
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


def _tables(
    output: Output,
    contract: Contract,
    steps: Steps,
    aggregates: tuple[AggregateSpec, ...],
    results: Mapping[str, pa.Schema],
) -> dict[Part, Table]:
    """The tables of an output: one, and of an aggregate that of its states too."""
    from ..schemas import dead_letters
    from ..schemas.aggregates.open_windows import REVISION
    from ..schemas.aggregates.states import state_schema
    from ..schemas.table import table_of_contract, table_of_schema
    from ..transforms.write.tables import TableDestination
    from .graph import DEAD_LETTERS, DUPLICATES, LATE, RECORDS

    if not isinstance(output.destination, TableDestination):
        return {}
    if output.name == DEAD_LETTERS:
        return {"data": table_of_schema(dead_letters.SCHEMA, ("id",))}
    if output.name == LATE:  # a record may be late for several aggregates
        return {"data": table_of_schema(dead_letters.SCHEMA)}
    if output.name == DUPLICATES:
        return {"data": table_of_contract(contract)}
    if output.name == RECORDS:
        return {"data": steps.table}
    (spec,) = [spec for spec in aggregates if spec.name == output.name]
    visible = results[spec.name]
    key = (*visible.names[:2], *(key.name for key in spec.keys))
    newer = REVISION if REVISION in visible.names else None
    return {
        "states": table_of_schema(state_schema(spec)),
        "data": table_of_schema(visible, key, newer),
    }


def _results(spec: AggregateSpec, triggers: Mapping[str, Trigger] | None) -> pa.Schema:
    """The columns of an aggregate's results."""
    from ..schemas.aggregates.open_windows import Trigger, given_schema

    return given_schema(spec, triggers[spec.name] if triggers else Trigger())


def _check_outputs(
    run: Run, steps: Steps, results: Mapping[str, pa.Schema], places: Places
) -> None:
    """Have every destination look at the columns that it will get.

    Raises:
        JobError: one cannot write them.
    """
    import pyarrow as pa

    from ..schemas import dead_letters
    from ..schemas.arrow import HIDDEN, batch_schema
    from ..transforms import ledger
    from ..transforms.write.attempts import Attempts
    from ..transforms.write.destination import DestinationError, Unavailable
    from .graph import DEAD_LETTERS, DUPLICATES, LATE, RECORDS

    fields = [field for field in steps.schema if field.name not in HIDDEN]
    schemas: dict[str, tuple[pa.Schema, tuple[str | int, ...]]] = {
        RECORDS: (pa.schema(fields), ("output",)),
        DUPLICATES: (batch_schema(run.contract), ("duplicates",)),
        DEAD_LETTERS: (dead_letters.SCHEMA, ("dead_letters",)),
        LATE: (dead_letters.SCHEMA, ("late",)),
        run.ledger.name: (ledger.SCHEMA, ("ledger",)),
    }
    for i, spec in enumerate(run.aggregates):
        schemas[spec.name] = (results[spec.name], ("aggregates", i, "output"))
    attempts = Attempts(run.job.retry_seconds)
    for output in (*run.outputs, run.ledger):
        schema, place = schemas[output.name]
        to = output.destination
        try:
            if output.tables:
                attempts.call(to.service, partial(to.check_tables, output.tables))
            else:
                to.check(schema)
        except (DestinationError, Unavailable) as error:
            raise places.error(place, str(error)) from None


def job_outputs(
    job: Job, places: Places, *, going_on: bool = False
) -> tuple[list[Output], Output, RunStore]:
    """What is committed, in this order, the ledger, and where runs are kept.

    Args:
        going_on: windows stay open from one commit to the next.

    Raises:
        JobError: a destination cannot be used.
    """
    from ..transforms import ledger as ledgers
    from ..transforms.runs import RunStore
    from ..transforms.write.commit import LEDGER
    from ..transforms.write.destination import DestinationError, Output
    from ..transforms.write.tables import TableDestination
    from .graph import DEAD_LETTERS, DUPLICATES, LATE, RECORDS

    def output(name: str, uri: str, kind: OutputKind, *steps: str | int) -> Output:
        try:
            return Output(name, uri, kind, state=state)
        except DestinationError as error:
            raise places.error(steps, str(error)) from None
        except PlanError as error:
            raise places.error((*steps[:-1], "name"), str(error)) from None

    state = storage.absolute(job.state) if job.state else ""
    ledger = output(LEDGER, job.ledger, "side", "ledger")
    if isinstance(ledger.destination, TableDestination):
        if not state:
            said = "the ledger goes to no folder of files: say with state: DIR where plans, run "
            raise places.error(("ledger",), said + "records and staged rows are kept")
        ledger = replace(ledger, tables={"data": ledgers.TABLE})
    else:
        state = state or ledger.destination.home
    found = [output(RECORDS, job.output, "records", "output")] if job.output else []
    if job.duplicates:
        found.append(output(DUPLICATES, job.duplicates, "side", "duplicates"))
    for i, a in enumerate(job.aggregates):
        found.append(output(a.name, a.output, "aggregates", "aggregates", i, "output"))
        to = found[-1].destination
        if isinstance(to, TableDestination) and to.options.mode == "upsert":
            if not going_on:
                said = "mode=upsert would put a run's own results in place of those of other runs "
                said += "for the same window; say append, or until: now"
                raise places.error(("aggregates", i, "output"), said)
            if a.panes == "discarding":
                said = "mode=upsert would put a part of a window in place of the whole"
                raise places.error(("aggregates", i, "panes"), f"{said}; say accumulating")
    if job.late:
        found.append(output(LATE, job.late, "side", "late"))
    found.append(output(DEAD_LETTERS, job.dead_letters, "dead_letters", "dead_letters"))
    return found, ledger, RunStore(state)


def _plan(
    job: Job,
    contract: Contract,
    steps: Steps,
    inputs: tuple[InputFile, ...],
    outputs: list[Output],
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
            **_repeated(a),
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
            **_widening(job, steps, uris),
        },
    )


def _widening(job: Job, steps: Steps, uris: dict[str, str]) -> dict[str, str]:
    """Settings of what a job need not have: those it has not leave its plan's digest alone."""
    from .graph import DUPLICATES, LATE

    settings = {}
    if job.late or job.until:
        settings["disorder"] = job.disorder
    if job.until:
        settings["until"] = job.until
    if job.close_windows:
        settings["close_windows"] = "true"
    if LATE in uris:
        settings["late"] = uris[LATE]
    if job.deduplicate != "no":
        settings["deduplicate"] = job.deduplicate
    if job.horizon:
        settings["horizon"] = job.horizon
    if DUPLICATES in uris:
        settings["duplicates"] = uris[DUPLICATES]
    if job.steps:
        settings["steps"] = msgspec.json.encode(job.steps).decode()
    if steps.references:
        settings["references"] = json.dumps(steps.references)
    if job.format == "csv":
        settings["csv"] = msgspec.json.encode(job.csv).decode()
    return settings


def _repeated(aggregate: AggregateJob) -> dict[str, Any]:
    """What a plan says of when an aggregate's windows are given, if that is out of the ordinary."""
    said = {"allowed_lateness": aggregate.allowed_lateness, "early": aggregate.early}
    said["panes"] = aggregate.panes if aggregate.panes != "accumulating" else ""
    return {key: value for key, value in said.items() if value}
