"""Rows to a destination, all or nothing."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.types as pt
from apache_beam.typehints.row_type import RowTypeConstraint

from ...schemas.table import Table, table_of_schema
from ..plan import Token, checked_name
from ..receipts import Receipt, content_digest
from ..schema_rows import FromSchemaRows
from ..write import Commit, Output, Stage
from ..write.attempts import Attempts
from ..write.commit import barrier
from .options import load, text_of


class WriteRecords(beam.PTransform):
    """Write rows to files or a table: staged first, and committed together, once.

    Gives one row, once they are committed: ``uri``, ``run_id`` and the number of ``rows``. A row
    that a table refuses fails the pipeline, and nothing is committed.

    Args:
        uri: any destination, such as ``parquet:DIR?partition_by=country,date(ts)``,
            ``jsonl:DIR``, ``postgresql://HOST/DATABASE/TABLE?mode=upsert`` or ``delta:PATH``.
        contract: path of an ODCS document, or the document itself: its fields have its types, and
            a table its key.
        table: the contract's table, if it has several.
        run_id: names this write. Run again under it, the same rows are written once, and others
            are refused. Without one every run writes anew.
        name: the first part of the files' names.
        state: the folder that rows are staged in, for destinations other than files.
    """

    def __init__(
        self,
        uri: str,
        contract: str | Mapping[str, Any] | None = None,
        table: str | None = None,
        run_id: str | None = None,
        name: str = "part",
        state: str = "",
    ) -> None:
        super().__init__()
        self._contract = None if contract is None else load(contract, table)
        # Fixed here, not on a worker: a bundle that is retried must stage under the same id.
        run = checked_name(str(run_id), "run_id") if run_id is not None else uuid.uuid4().hex
        self._token = Token(run, hashlib.sha256(run.encode()).hexdigest())
        self._output = Output(name, text_of(uri, "uri"), state=state)
        _ = self._output.destination.home  # refuses to be without a folder to stage in

    def expand(self, rows: beam.PCollection[Any]) -> Any:
        schema = pa.schema(list(map(_column, FromSchemaRows(self._contract).schema_of(rows))))
        output = replace(self._output, tables={"data": self._table(schema)})
        to = output.destination
        Attempts().call(to.service, partial(to.check_tables, output.tables))
        batches = rows | FromSchemaRows(schema)
        staged: Any = batches | "Stage" >> Stage(output, self._token)
        return barrier(staged) | "Commit" >> beam.Map(
            _commit, output, self._token
        ).with_output_types(_ROW)

    def _table(self, schema: pa.Schema) -> Table:
        if self._contract is None:
            return table_of_schema(schema)
        required = {field.name for field in self._contract.fields if field.required}
        columns = [field.with_nullable(field.name not in required) for field in schema]
        return table_of_schema(
            pa.schema(columns), self._contract.primary_key, self._contract.event_time
        )


def _column(field: pa.Field) -> pa.Field:
    """A column as tables have it: what is within it may be null."""
    return pa.field(field.name, _within(field.type), field.nullable)


def _within(type: pa.DataType) -> pa.DataType:
    if pt.is_struct(type):
        return pa.struct([_column(field).with_nullable(True) for field in type])
    if pt.is_list(type):
        return pa.list_(pa.field("item", _within(type.value_type)))
    return type


_ROW = RowTypeConstraint.from_fields([("uri", str), ("run_id", str), ("rows", int)])


def _commit(receipts: list[Receipt], output: Output, token: Token) -> Any:
    commit = Commit(token, content_digest(receipts), tuple(receipts), output.tables)
    to = output.destination
    Attempts().call(to.service, lambda: to.commit(commit))
    return beam.Row(uri=output.uri, run_id=token.run_id, rows=sum(r.rows for r in receipts))
