"""The rows of one load become visible in a Delta table, with the token, in one commit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.types as pt
from deltalake import ColumnProperties, CommitProperties, DeltaTable, WriterProperties
from deltalake.exceptions import CommitFailedError, DeltaError

from ....schemas.table import Table
from ...read.ahead import read_ahead
from ..destination import Commit
from ..errors import Taken
from ..latest import winners
from ..parquet import GROUP_ROWS
from ..refusals import refuse
from ..statements import TOMBSTONES_SUFFIX
from ..tables import Load, Refused, held_by
from . import checks, types
from .files import DataFiles, Survey, removals
from .plans import Plan, Rows, marked, replacing, replacing_span, upserting
from .table import arrow_schema, delta_columns, made, opened
from .tokens import app_id, hold, read_held


@dataclass(frozen=True)
class TableCommit:
    """A load's commit to the version of its table that was opened.

    ``table`` has all columns of the load; ``loads`` are all that are committed under the token.
    """

    table: DeltaTable
    commit: Commit
    loads: Sequence[Load]
    load: Load

    def write(self) -> None:
        """Do it.

        Raises:
            Taken: the table holds the run already.
            DeltaError: it cannot be done; a CommitFailedError, if the table was changed meanwhile.
        """
        refused = checks.unpartitionable(self.table, self.load)
        if self.load.mode == "append" and not self.load.replaces:
            try:
                self._append(refused)
            except DeltaError as error:
                broken = {} if isinstance(error, CommitFailedError) else self._broken()
                if not broken:
                    raise
                self._append({**broken, **refused})
        else:
            self._put({**self._broken(), **refused})

    def make_visible(self, act: Callable[[], Any]) -> None:
        """Call what commits; before it readers see nothing of the load, after it they see all."""
        try:
            act()
        except DeltaError:
            newest = opened(self.load.name)
            if newest and newest.transaction_version(app_id(self._run_id)) is not None:
                raise Taken from None
            raise

    @property
    def _run_id(self) -> str:
        return self.commit.token.run_id

    def _broken(self) -> dict[int, str]:
        return checks.broken(self.table, self.load, delta_columns(self.load))

    def _hold(self, reasons: Mapping[int, str], retries: int | None = None) -> CommitProperties:
        """What the commit has to carry. Refused rows are written down."""
        refused = Refused("", 0)
        if reasons:
            rows = sorted(reasons)
            refused = refuse(self.commit, self.load, rows, [reasons[row] for row in rows])
        held = held_by(self.commit, self.loads, refused)
        return hold(self.table, self._run_id, held, retries=retries)

    def _append(self, refused: Mapping[int, str]) -> None:
        properties = self._hold(refused)
        schema = self._given()
        batches = self.load.batches(without=sorted(refused))
        rows = _Watched(read_ahead(types.cast(batches, schema)))
        reader = pa.RecordBatchReader.from_batches(schema, rows)
        with rows:
            self.make_visible(
                lambda: deltalake.write_deltalake(
                    self.table,
                    reader,
                    mode="append",
                    schema_mode="merge",  # or a column that the table makes itself would be missed
                    writer_properties=_written(schema),
                    commit_properties=properties,
                )
            )

    def _given(self) -> pa.Schema:
        """The columns that rows are written with: those that the table does not make itself."""
        names = self.load.schema.names
        columns = zip(self.table.schema().fields, arrow_schema(self.table), strict=True)
        return pa.schema(
            [
                column
                for field, column in columns
                if field.name in names or not types.is_made_by_delta(field)
            ]
        )

    def _put(self, refused: Mapping[int, str]) -> None:
        """Upsert the rows, or replace their partitions, or those of a span of time."""
        numbers = sorted(refused)

        def rows(names: Sequence[str] = self.load.schema.names) -> Iterator[pa.RecordBatch]:
            return checks.columns_of_load(self.load, names).batches(without=numbers)

        properties = self._hold(refused, retries=0)
        if self.load.replaces:
            plan = replacing_span(self.load.replaces, rows)
        elif self.load.mode == "replace":
            plan = replacing(self.load, rows, arrow_schema(self.table))
        else:
            plan = self._upserting(rows)
        self._rewrite(plan, properties)

    def _upserting(self, rows: Rows) -> Plan:
        load = self.load
        told = [*load.key, *load.order, *([load.deleted] if load.deleted else [])]
        latest = winners(rows(told), load.key, load.order, load.deleted)
        if load.deleted and load.order:
            graves = self._graves()
            for batch in Survey(graves.table, graves.load.schema).batches():
                latest.bury(batch)
            graves._bury(marked(load, rows))
        return upserting(load, rows, arrow_schema(self.table), latest)

    def _graves(self) -> TableCommit:
        """The table of deleted keys."""
        told = checks.columns_of_load(self.load, [*self.load.key, *self.load.order])
        load = dataclasses.replace(
            told,
            name=f"{self.load.name}{TOMBSTONES_SUFFIX}",
            table=Table(told.table.fields),
            deleted=None,
            partition_by=(),
        )
        return TableCommit(made(load), self.commit, self.loads, load)

    def _bury(self, rows: Rows) -> None:
        """Keep which keys are deleted, and as of when, unless the run has done so already."""
        if read_held(self.table, self._run_id) is not None:
            return
        latest = winners(rows(), self.load.key, self.load.order)
        plan = upserting(self.load, rows, arrow_schema(self.table), latest)
        try:
            self._rewrite(plan, self._hold({}, retries=0))
        except Taken:
            return  # by another process that does the same

    def _rewrite(self, plan: Plan, properties: CommitProperties) -> None:
        """Put files that hold what stands no more out of the table, and the load's rows into it."""
        schema = arrow_schema(self.table)
        by = self.table.metadata().partition_columns
        told = checks.columns_of_load(self.load, plan.told).schema
        survey = Survey(self.table, told, plan.within)
        touched = survey.touched(plan.stands) if plan.touches else []
        rows = chain(survey.standing(touched, plan.stands), types.cast(plan.added(), schema))
        added = DataFiles(self.load.name, schema, by, self.load.partition_by).write(rows)
        self.make_visible(
            lambda: self.table.create_write_transaction(
                [*added, *removals(touched)],
                mode="append",
                schema=self.table.schema(),
                partition_by=by,
                commit_properties=properties,
            )
        )


_DISTINCT = (pt.is_timestamp, pt.is_decimal, pt.is_floating)


def _written(schema: pa.Schema) -> WriterProperties:
    """How files are written: as deltalake does, but in row groups of which few are in memory, and
    without dictionaries of values that are nearly all different, which cost a third of the time and
    hardly save any space."""
    distinct = [field.name for field in schema if any(holds(field.type) for holds in _DISTINCT)]
    plain = ColumnProperties(dictionary_enabled=False)
    return WriterProperties(
        compression="SNAPPY",
        max_row_group_size=GROUP_ROWS,
        column_properties=dict.fromkeys(distinct, plain),
    )


class _Watched:
    """Batches whose error is raised as it is: what reads them makes a text of it."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except Exception as error:
            self._error = error
            raise

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and self._error is not None:
            raise self._error from None
