"""The steps of a job, opened: each knows what it is given, and all is checked before the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from ..schemas.arrow import HIDDEN, UNKNOWN, arrow_type, batch_schema, field_of_arrow
from ..schemas.contract import Contract, Field
from ..schemas.table import Table, table_of_contract
from .job import Job, Places

if TYPE_CHECKING:
    from ..schemas.aggregates.spec import AggregateSpec
    from ..schemas.steps import RecordStep


class Steps(NamedTuple):
    """The opened steps of a job; ``contract`` is what the records that leave the last one are."""

    steps: tuple[RecordStep, ...]
    schema: pa.Schema
    contract: Contract

    @property
    def table(self) -> Table:
        """The table of the records that leave the last step."""
        table = table_of_contract(self.contract)
        if UNKNOWN in self.schema.names and not any(f.name == UNKNOWN for f in table.fields):
            return replace(table, fields=(*table.fields, Field(UNKNOWN, "json")))
        return table


def open_steps(job: Job, contract: Contract, places: Places) -> Steps:
    """The steps of a job, each opened for what the one before it gives.

    Raises:
        JobError: a step cannot work; the message names it.
    """
    schema = batch_schema(
        contract,
        keep_unknown=job.unknown_fields == "keep",
        watermark=bool(job.late and job.aggregates),
    )
    steps: list[RecordStep] = []
    for i in range(len(job.steps)):
        steps.append(_open(job, i, schema, places))
        schema = steps[-1].schema
    return Steps(tuple(steps), schema, _of(schema, contract) if steps else contract)


def _open(job: Job, i: int, schema: pa.Schema, places: Places) -> RecordStep:
    from ..schemas.steps import StepError

    step = job.steps[i]
    if step.sql is not None:
        from ..schemas.sql.step import SqlError, SqlStep

        try:
            return SqlStep(step.sql, schema)
        except SqlError as error:
            raise places.error(("steps", i, "sql"), str(error)) from None
    from ..transforms.python_step import PythonStep

    assert step.python is not None
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a module may lie beside the job
    try:
        return PythonStep(step.python, schema, step.over, step.adds or None)
    except StepError as error:
        raise places.error(("steps", i, "python"), str(error)) from None


def _of(schema: pa.Schema, contract: Contract) -> Contract:
    """What a contract says of the records after the steps: of fields that they left alone, all that
    it said; of others, their type."""
    before = {field.name: field for field in contract.fields}
    fields = []
    for column in schema:
        if column.name in HIDDEN:
            continue
        field = before.get(column.name)
        if field is None or arrow_type(field) != column.type:
            field = field_of_arrow(column.name, column.type)
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
