"""A table or view of BigQuery, read by a query with parameters."""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from google.cloud import bigquery

from ..receipts import Part
from ..write.bigquery.destination import BigQueryDestination
from ..write.bigquery.jobs import RETRY, SECONDS, Jobs, connected, explained, finish
from ..write.bigquery.sql import quoted
from ..write.bigquery.tables import find
from ..write.destination import Output
from .filter import AnyItem, Compare, Condition, Filter, IsIn, Like
from .sql import Where
from .stored import Stored, table_name

_TYPES = {
    bool: "BOOL",
    int: "INT64",
    dt.datetime: "TIMESTAMP",
    dt.date: "DATE",
    str: "STRING",
}
_MOST_VALUES = 5_000
"""How many values a list may have that goes along with a query, which has to stay below 10 MB."""
_PAGE_ROWS = 10_000


class BigQuery:
    """BigQuery's SQL."""

    def quoted(self, name: str) -> str:
        return quoted(name)

    def value(self, value: Any, number: int) -> str:
        return f"@p{number}"

    def compare(self, left: str, operator: str, value: str, sample: Any) -> str:
        return f"{left} {operator} {value}"

    def among(self, left: str, values: str) -> str:
        return f"{left} IN UNNEST({values})"

    def like(self, left: str, pattern: str) -> str:
        return f"{left} LIKE {pattern}"

    def any_item(self, column: str, judge: Callable[[Callable[[str], str]], str]) -> str:
        met = judge(lambda name: f"item.{quoted(name)}")
        return f"EXISTS (SELECT 1 FROM UNNEST({column}) AS item WHERE {met})"


class StoredBigQuery(Stored):
    """The table ``PROJECT.DATASET.TABLE``. A null array is an empty one there."""

    pushes = (Compare, IsIn, Like, AnyItem)

    def __init__(
        self, place: str, asked: pa.Schema | None, to: BigQueryDestination, table: str
    ) -> None:
        super().__init__(place, asked)
        self._to = to
        self._table = table

    def can_push(self, condition: Condition) -> bool:
        if isinstance(condition, IsIn):
            return 0 < len(condition.values) <= _MOST_VALUES
        return super().can_push(condition)

    def find(self) -> pa.Schema | None:
        with self._jobs() as jobs:
            if find(jobs.client, self._table) is None:
                return None
            return (
                self._result(jobs, f"SELECT * FROM {quoted(self._table)} LIMIT 0", ())
                .to_arrow(create_bqstorage_client=False)
                .schema
            )

    def read(self, names: Collection[str], where: Filter) -> Iterator[pa.RecordBatch]:
        said = Where(BigQuery())
        columns = ", ".join(map(quoted, names))
        query = f"SELECT {columns} FROM {quoted(self._table)}{said.clause(where)}"
        with self._jobs() as jobs:
            yield from self._result(jobs, query, said.values).to_arrow_iterable()

    def _result(self, jobs: Jobs, query: str, values: Sequence[Any]) -> Any:
        parameters = [_parameter(f"p{number}", value) for number, value in enumerate(values)]
        config = bigquery.QueryJobConfig(query_parameters=parameters)
        job = jobs.client.query(
            query, job_config=config, location=jobs.location, retry=RETRY, timeout=SECONDS
        )
        finish(job, self.asked.names if self.asked is not None else ())
        return job.result(page_size=_PAGE_ROWS)

    @contextmanager
    def _jobs(self) -> Iterator[Jobs]:
        project, dataset = self._table.rpartition(".")[0].rsplit(".", 1)
        with explained(self.place), connected(project) as client:
            found = client.get_dataset(f"{project}.{dataset}", retry=RETRY, timeout=SECONDS)
            yield Jobs(client, self._to.options.own.get("location") or found.location or "US")


def _parameter(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return bigquery.ArrayQueryParameter(name, _TYPES[type(value[0])], value)
    return bigquery.ScalarQueryParameter(name, _TYPES[type(value)], value)


def open_stored(output: Output, part: Part, schema: pa.Schema | None) -> StoredBigQuery:
    """The table of a part."""
    to = output.destination
    assert isinstance(to, BigQueryDestination)
    return StoredBigQuery(to.place, schema, to, table_name(to, part))
