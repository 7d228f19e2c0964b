"""Where a job writes: its destinations, and the columns that each of them gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..schemas.contract import Contract
from ..transforms import storage
from ..transforms.plan import PlanError
from .job import Job, Places
from .names import DEAD_LETTERS, DUPLICATES, LATE, RECORDS

if TYPE_CHECKING:
    import pyarrow as pa

    from ..schemas.aggregates.open_windows import Trigger
    from ..schemas.aggregates.spec import AggregateSpec
    from ..schemas.table import Table
    from ..transforms.receipts import Part
    from ..transforms.runs import RunStore
    from ..transforms.write.destination import Output, OutputKind
    from .run import Run
    from .steps import Steps


def state_folder(job: Job) -> str:
    """The folder that a job keeps plans, run records, marks and staged rows in; empty if it has to
    say one: its ledger goes to no folder of files.

    Raises:
        DestinationError: the ledger's URI cannot be used.
    """
    from ..transforms.write.destination import destination
    from ..transforms.write.files import FilesDestination

    if job.state:
        return storage.absolute(job.state)
    ledger = destination(job.ledger, "ledger")
    return ledger.home if isinstance(ledger, FilesDestination) else ""


def required_state_folder(job: Job, places: Places) -> str:
    """:func:`state_folder`, which the job has to say where nothing else tells it.

    Raises:
        DestinationError: the ledger's URI cannot be used.
        JobError: the job does not say it.
    """
    if state := state_folder(job):
        return state
    said = "the ledger goes to no folder of files: say with state: DIR where plans, run records "
    raise places.error(("ledger",), said + "and staged rows are kept")


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
    from ..transforms.quality.scores import SCORES
    from ..transforms.runs import RunStore
    from ..transforms.write.commit import LEDGER
    from ..transforms.write.destination import DestinationError, Output
    from ..transforms.write.tables import TableDestination

    def output(name: str, uri: str, kind: OutputKind, *steps: str | int) -> Output:
        try:
            return Output(name, uri, kind, state=state)
        except DestinationError as error:
            raise places.error(steps, str(error)) from None
        except PlanError as error:
            raise places.error((*steps[:-1], "name"), str(error)) from None

    try:
        state = required_state_folder(job, places)
    except DestinationError as error:
        raise places.error(("ledger",), str(error)) from None
    ledger = output(LEDGER, job.ledger, "side", "ledger")
    if isinstance(ledger.destination, TableDestination):
        ledger = replace(ledger, tables={"data": ledgers.TABLE})
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
    if job.quality and job.quality.scores:
        found.append(output(SCORES, job.quality.scores, "side", "quality", "scores"))
    return found, ledger, RunStore(state)


def output_tables(
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
    from ..transforms.quality import scores as quality
    from ..transforms.write.tables import TableDestination

    if not isinstance(output.destination, TableDestination):
        return {}
    if output.name == DEAD_LETTERS:
        return {"data": table_of_schema(dead_letters.SCHEMA, ("id",))}
    if output.name == LATE:  # a record may be late for several aggregates
        return {"data": table_of_schema(dead_letters.SCHEMA)}
    if output.name == DUPLICATES:
        return {"data": table_of_contract(contract)}
    if output.name == quality.SCORES:
        return {"data": quality.TABLE}
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


def result_columns(spec: AggregateSpec, triggers: Mapping[str, Trigger] | None) -> pa.Schema:
    """The columns of an aggregate's results."""
    from ..schemas.aggregates.open_windows import Trigger, given_schema

    return given_schema(spec, triggers[spec.name] if triggers else Trigger())


def check_outputs(run: Run, steps: Steps, results: Mapping[str, pa.Schema], places: Places) -> None:
    """Have every destination look at the columns that it will get.

    Raises:
        JobError: one cannot write them.
    """
    import pyarrow as pa

    from ..schemas import dead_letters
    from ..schemas.arrow import HIDDEN, batch_schema
    from ..transforms import ledger
    from ..transforms.quality import scores as quality
    from ..transforms.write.attempts import Attempts
    from ..transforms.write.destination import DestinationError, Unavailable

    fields = [field for field in steps.schema if field.name not in HIDDEN]
    schemas: dict[str, tuple[pa.Schema, tuple[str | int, ...]]] = {
        RECORDS: (pa.schema(fields), ("output",)),
        DUPLICATES: (batch_schema(run.contract), ("duplicates",)),
        DEAD_LETTERS: (dead_letters.SCHEMA, ("dead_letters",)),
        LATE: (dead_letters.SCHEMA, ("late",)),
        quality.SCORES: (quality.SCHEMA, ("quality", "scores")),
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
