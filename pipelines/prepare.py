"""From a job and its parts to a run that is ready.

What can be wrong with its outputs is found here, before a plan is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..schemas.contract import Contract
from ..transforms.plan import InputFile, PlanError
from . import runners
from .job import Job, Places
from .names import RECORDS

if TYPE_CHECKING:
    from ..schemas.aggregates.open_windows import Trigger
    from ..schemas.aggregates.spec import AggregateSpec
    from .run import Run
    from .steps import Steps


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
    from .drift import job_watch
    from .encryption import check_secret_keys
    from .gates import check_breaker, job_checks, job_gate, row_rules
    from .outputs import check_outputs, job_outputs, output_tables, result_columns
    from .planned import job_plan
    from .repairs import job_repair
    from .run import Run
    from .steps import derive, given_schema

    _check_csv_header(job, contract, places)
    check_secret_keys(job, places)
    check_breaker(job, places)
    repair = job_repair(job, contract, places)
    checks = job_checks(job, contract)
    outputs, ledger, store = job_outputs(job, places, going_on=triggers is not None)
    results = {spec.name: result_columns(spec, triggers) for spec in aggregates}
    outputs = [
        replace(output, tables=output_tables(output, contract, steps, aggregates, results))
        for output in outputs
    ]
    plan = job_plan(job, contract, steps, inputs, outputs, checks)
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
        gate=job_gate(job, contract, checks, outputs, steps, places, going_on=triggers is not None),
        watch=job_watch(job, outputs, places, going_on=triggers is not None),
        row_rules=row_rules(checks, given_schema(job, contract)),
        repair=repair,
    )
    try:
        run.commit()
    except DestinationError as error:
        raise places.error_of_all(str(error)) from None
    check_outputs(run, steps, results, places)
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
