"""The steps of a job, opened: each knows what it is given, and all is checked before the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pyarrow as pa

from ..schemas.arrow import HIDDEN, REPAIRED, UNKNOWN, arrow_type, batch_schema, field_of_arrow
from ..schemas.contract import Contract, Field
from ..schemas.rules import classification_made_of
from ..schemas.table import Table, table_of_contract
from .job import Job, Places, StepJob

if TYPE_CHECKING:
    from ..schemas.aggregates.spec import AggregateSpec
    from ..schemas.steps import RecordStep


class Steps(NamedTuple):
    """The opened steps of a job; ``contract`` is what the records that leave the last one are."""

    steps: tuple[RecordStep, ...]
    schema: pa.Schema
    contract: Contract

    @property
    def references(self) -> dict[str, str]:
        """Number of a step that reads files as reference → their version."""
        from ..transforms.enrich import EnrichStep, reference_version

        versions = {
            str(i): reference_version(step.reference)
            for i, step in enumerate(self.steps)
            if isinstance(step, EnrichStep)
        }
        return {i: version for i, version in versions.items() if version}

    @property
    def table(self) -> Table:
        """The table of the records that leave the last step."""
        table = table_of_contract(self.contract)
        held = {field.name for field in table.fields}
        more = [Field(UNKNOWN, "json"), Field(REPAIRED, "string")]
        more = [f for f in more if f.name in self.schema.names and f.name not in held]
        return replace(table, fields=(*table.fields, *more)) if more else table


def open_steps(job: Job, contract: Contract, places: Places) -> Steps:
    """The steps of a job, each opened for what the one before it gives.

    Raises:
        JobError: a step cannot work; the message names it.
    """
    schema = given_schema(job, contract)
    steps: list[RecordStep] = []
    for i in range(len(job.steps)):
        steps.append(_open(job, i, schema, contract, places))
        schema = steps[-1].schema
    return Steps(tuple(steps), schema, _of(schema, contract) if steps else contract)


def given_schema(job: Job, contract: Contract) -> pa.Schema:
    """The columns of a job's records before its first step."""
    return batch_schema(
        contract,
        keep_unknown=job.unknown_fields == "keep",
        repaired=bool(job.repairs),
        watermark=bool(job.late and job.aggregates),
    )


def _open(job: Job, i: int, schema: pa.Schema, contract: Contract, places: Places) -> RecordStep:
    from ..schemas.steps import StepError
    from ..transforms.errors import Unavailable
    from ..transforms.read.errors import SourceError

    (kind,) = job.steps[i].kinds
    try:
        return _OPENERS[kind](job, job.steps[i], schema, contract)
    except (StepError, SourceError, Unavailable) as error:
        raise places.error(("steps", i, kind), str(error)) from None


def _open_sql(job: Job, step: StepJob, schema: pa.Schema, contract: Contract) -> RecordStep:
    from ..schemas.sql.step import SqlError, SqlStep
    from ..schemas.steps import StepError

    assert step.sql is not None
    try:
        return SqlStep(step.sql, schema)
    except SqlError as error:
        raise StepError(str(error)) from None


def _open_python(job: Job, step: StepJob, schema: pa.Schema, contract: Contract) -> RecordStep:
    from ..transforms.python_step import PythonStep

    assert step.python is not None
    _look_beside_the_job()
    return PythonStep(step.python, schema, step.over, step.adds or None)


def _open_enrich(job: Job, step: StepJob, schema: pa.Schema, contract: Contract) -> RecordStep:
    from ..transforms.enrich import EnrichStep
    from ..transforms.write.attempts import Attempts

    enrich = step.enrich
    assert enrich is not msgspec.UNSET
    return Attempts(job.retry_seconds).call(
        "the reference", lambda: EnrichStep(enrich, schema, contract)
    )


def _open_lookup(job: Job, step: StepJob, schema: pa.Schema, contract: Contract) -> RecordStep:
    from ..transforms.enrich import LookupStep

    assert step.lookup is not msgspec.UNSET
    _look_beside_the_job()
    return LookupStep(step.lookup, schema, contract)


_OPENERS = {
    "sql": _open_sql,
    "python": _open_python,
    "enrich": _open_enrich,
    "lookup": _open_lookup,
}
"""A step's kind → what opens it."""


def _look_beside_the_job() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a module may lie beside the job


def _of(schema: pa.Schema, contract: Contract) -> Contract:
    """What a contract says of the records after the steps: of fields that they left alone, all that
    it said; of others, their type, and that they may be made of what is classified."""
    before = {field.name: field for field in contract.fields}
    made = classification_made_of(contract.fields)
    fields = []
    for column in schema:
        if column.name in HIDDEN:
            continue
        field = before.get(column.name)
        if field is None or arrow_type(field) != column.type:
            field = replace(field_of_arrow(column.name, column.type), classification=made)
        fields.append(field)
    times = {field.name for field in fields if field.type == "timestamp"}
    event_time = contract.event_time if contract.event_time in times else None
    return replace(contract, fields=tuple(fields), event_time=event_time)


def derive(aggregates: Sequence[AggregateSpec], schema: pa.Schema) -> RecordStep | None:
    """The step that adds what the metrics of aggregates are of, if some are of expressions.

    Raises:
        SqlError: never, for aggregates that were made by the same schema.
    """
    derived = {name: text for spec in aggregates for name, text in spec.derived.items()}
    if not derived:
        return None
    from ..schemas.sql.step import TABLE, SqlStep

    columns = ", ".join(f'(\n{text}\n) AS "{name}"' for name, text in derived.items())
    return SqlStep(f"SELECT *, {columns} FROM {TABLE}", schema)
