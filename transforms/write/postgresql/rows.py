"""Rows of one load, brought into a table of PostgreSQL; and those found that it refuses.

An append to a table of the very types is copied into it. All else is copied into a temporary table,
and brought on from there by one statement. If rows are refused, all is rolled back and done again
with care: those that break a plain constraint are found first, all at once; then a function of the
server's cuts the rows into ever smaller parts, and each part is an attempt of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ....schemas.arrow import SOURCE
from ....schemas.contract import Field
from ....schemas.forms.ddl import quoted
from ...receipts import moment
from ..destination import Commit
from ..json_text import Kernel, json_kernel
from ..partitions import Partition
from ..refusals import refuse
from ..statements import (
    POSTGRESQL,
    bury,
    delete_span,
    insert,
    merge,
    winners,
    without_buried,
)
from ..tables import ROW, Load, Refused
from .constraints import take_broken
from .session import NUL_REASON, ROW_PATTERNS, Session, literal, refusal
from .table import LoadedTable

_TEMPORARY = "pg_temp."
_FAN = 16
"""Into how many parts rows are cut of which some are refused."""


@dataclass(frozen=True)
class Rows:
    """The rows of a load, on their way into its table."""

    table: LoadedTable

    @property
    def db(self) -> Session:
        return self.table.db

    @property
    def load(self) -> Load:
        return self.table.load

    def put(self) -> None:
        """Bring all rows into the table."""
        self._delete_replaced()
        if self.load.mode == "append" and self.table.is_native():
            self._copy(self.table.schema, self.table.name, as_text=False)
            return
        self._stage(as_text=False)
        if self.load.mode == "upsert":
            # A temporary table is never analyzed by itself; unless it is known how many keys there
            # are, each is looked up by itself.
            key = ", ".join(map(quoted, self.load.key))
            self.db.run(f"ANALYZE {self._name('stage')} ({key})")
        self._delete_partitions()
        for statement in self._statements(self._name("stage"), stored=bool(self.load.deleted)):
            self.db.run(statement)

    def put_carefully(self, commit: Commit) -> Refused:
        """Bring the rows into the table that it takes, and write the others down."""
        reasons = self._stage(as_text=True)
        reasons |= take_broken(self.table, self._name("stage"))
        self._delete_replaced()
        self._delete_partitions()
        self._make_function()
        self.db.run(f"SELECT {self._name('put')}($1, $2)", 0, self.load.rows)
        found = self.db.run(f"SELECT n, state, name, field FROM {self._name('refused')}")
        reasons |= {row: refusal(state, name, field) for row, state, name, field in found}
        rows = sorted(reasons)
        return refuse(commit, self.load, np.array(rows, np.int64), [reasons[row] for row in rows])

    def _copy(
        self, schema: str | None, name: str, *, as_text: bool, numbered: bool = False
    ) -> dict[int, str]:
        """Copy the rows; gives those that are left out since they cannot be copied, and why."""
        source = self.load.reader(numbered=numbered)
        convert = Conversion(self.load.table.fields, source.schema, as_text=as_text)
        bad: dict[int, str] = {}

        def converted() -> Iterator[pa.RecordBatch]:
            for batch in source:
                made = convert(batch)
                yield without_nul(made, bad) if as_text else made

        self.db.copy(schema, name, convert.schema, converted())
        return {row: NUL_REASON.format(column) for row, column in bad.items()}

    def _stage(self, *, as_text: bool) -> dict[int, str]:
        """Copy the rows, numbered, into a temporary table."""
        collations = {**self.table.collations(), SOURCE: POSTGRESQL.by_bytes}
        columns = [
            f"{quoted(field.name)} {_staged_type(field, as_text)}{collations.get(field.name, '')}"
            for field in self.load.table.fields
        ]
        columns.append(f"{quoted(ROW)} BIGINT NOT NULL")
        self.db.run(
            f"CREATE TEMP TABLE {self._name('stage')} ({', '.join(columns)}) ON COMMIT DROP"
        )
        name = self._name("stage").removeprefix(_TEMPORARY)
        return self._copy(None, name, as_text=as_text, numbered=True)

    def _delete_replaced(self) -> None:
        if span := self.load.replaces:
            start, end = (f"CAST(CAST(${n} AS TEXT) AS TIMESTAMPTZ)" for n in (1, 2))
            statement = delete_span(self.table.quoted, span.column, start, end)
            self.db.run(statement, moment(span.start).isoformat(), moment(span.end).isoformat())

    def _delete_partitions(self) -> None:
        """Delete the table's rows that lie in a partition that the load has rows of.

        Partitions are compared as texts, in which null is not the empty text: these can be hashed,
        so that the table is read once, however many partitions there are.
        """
        if self.load.mode != "replace":
            return
        condition = "FALSE"  # reads nothing, and asks whether rows may be deleted
        if self.load.rows:
            types = self.table.types()
            here = [_expression(partition) for partition in self.load.partition_by]
            there = [
                text if partition.function else f"CAST({text} AS {types[partition.column]})"
                for text, partition in zip(here, self.load.partition_by, strict=True)
            ]
            stage = f"SELECT DISTINCT ROW({', '.join(there)})::text FROM {self._name('stage')}"
            condition = f"ROW({', '.join(here)})::text IN ({stage})"
        self.db.run(f"DELETE FROM {self.table.quoted} WHERE {condition}")

    def _statements(self, source: str, *, stored: bool) -> list[str]:
        """What brings the source's rows into the table.

        Args:
            stored: keep what stands among the rows of each key in a table, since it is read twice.
        """
        table, load = self.table.quoted, self.load
        if load.mode != "upsert":
            return [insert(table, source, load)]
        # They are sorted by key, so that the index is gone through in its order.
        latest, newest = winners(source, load), self._name("newest")
        kind, end = ("TABLE", " ON COMMIT DROP") if stored else ("VIEW", "")
        self.db.run(f"CREATE TEMP {kind} {newest}{end} AS {latest}")
        if not load.deleted:
            return [merge(table, newest, load, POSTGRESQL)]
        tombstones, left = self.table.tombstones, self._name("left")
        query = without_buried(newest, tombstones, load, POSTGRESQL)
        self.db.run(f"CREATE TEMP VIEW {left} AS {query}")
        # What has just been buried is not older than itself: the view still has it.
        return [bury(tombstones, left, load, POSTGRESQL), merge(table, left, load, POSTGRESQL)]

    def _make_function(self) -> None:
        """Make the function that puts the rows of which the number is between two into the table.

        The rows are those of a view that reads the bounds from the session's settings: so the
        statements are planned once for all calls.
        """
        stage, part = self._name("stage"), self._name("part")
        self.db.run(f"CREATE UNIQUE INDEX ON {stage} ({quoted(ROW)})")
        for way in ("seqscan", "hashjoin", "mergejoin"):
            self.db.run(f"SET LOCAL enable_{way} = off")  # the plan is for few rows, not for all
        read = [
            f"CAST({quoted(f.name)} AS JSONB) AS {quoted(f.name)}" if is_json(f) else quoted(f.name)
            for f in self.load.table.fields
        ]
        low, high = (f"current_setting('millstream.{bound}')::bigint" for bound in ("low", "high"))
        self.db.run(
            f"CREATE TEMP VIEW {part} AS SELECT {', '.join(read)}, {quoted(ROW)} FROM {stage} "
            f"WHERE {quoted(ROW)} >= {low} AND {quoted(ROW)} < {high}"
        )
        refused = self._name("refused")
        columns = "n BIGINT, state TEXT, name TEXT, field TEXT"
        self.db.run(f"CREATE TEMP TABLE {refused} ({columns}) ON COMMIT DROP")
        statements = "; ".join(self._statements(part, stored=False))
        put = self._name("put")
        body = _BODY.format(
            put=put, statements=statements, states=ROW_PATTERNS, refused=refused, fan=_FAN
        )
        self.db.run(
            f"CREATE FUNCTION {put}(low BIGINT, high BIGINT) RETURNS VOID LANGUAGE plpgsql "
            f"AS {literal(body)}"
        )

    def _name(self, what: str) -> str:
        """The name of a temporary table or the like, which is gone when the transaction ends."""
        return f"{_TEMPORARY}_millstream_{self.load.part}_{what}"


_BODY = """
#variable_conflict use_column
DECLARE
    bad_state TEXT;
    bad_name TEXT;
    bad_field TEXT;
    step BIGINT;
BEGIN
    PERFORM set_config('millstream.low', low::text, true),
        set_config('millstream.high', high::text, true);
    BEGIN
        {statements};
        RETURN;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS bad_state = RETURNED_SQLSTATE,
            bad_name = CONSTRAINT_NAME, bad_field = COLUMN_NAME;
        IF NOT bad_state LIKE ANY (ARRAY[{states}]) THEN
            RAISE;
        END IF;
        IF high - low = 1 THEN
            INSERT INTO {refused} VALUES (low, bad_state, bad_name, bad_field);
            RETURN;
        END IF;
    END;
    step := (high - low + {fan} - 1) / {fan};
    FOR i IN 0 .. (high - low - 1) / step LOOP
        PERFORM {put}(low + i * step, least(low + (i + 1) * step, high));
    END LOOP;
END
"""


class Conversion:
    """Makes of a load's batches what is copied: JSON of what PostgreSQL keeps as JSONB.

    Args:
        as_text: JSON is copied as text, for it is not known that PostgreSQL takes it all.
    """

    def __init__(self, fields: Sequence[Field], schema: pa.Schema, *, as_text: bool) -> None:
        self._kernels: dict[str, Kernel] = {}
        columns = []
        for field, column in zip(fields, schema, strict=False):
            if field.type in ("object", "array"):
                self._kernels[field.name] = json_kernel(column.type, field.name)
            if is_json(field):
                column = column.with_type(pa.string() if as_text else pa.json_(pa.string()))
            columns.append(column)
        self.schema = pa.schema([*columns, *list(schema)[len(fields) :]])

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = [self._column(batch, field) for field in self.schema]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _column(self, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
        values = batch.column(field.name)
        if kernel := self._kernels.get(field.name):
            values = kernel(values).quoted()
        if isinstance(field.type, pa.JsonType):
            return pa.ExtensionArray.from_storage(field.type, values)
        return values


def _expression(partition: Partition) -> str:
    """A row's partition, in SQL."""
    patterns = {"": "{}", "date": POSTGRESQL.date, "hour": POSTGRESQL.hour}
    return patterns[partition.function].format(quoted(partition.column))


def _staged_type(field: Field, as_text: bool) -> str:
    return "TEXT" if as_text and is_json(field) else POSTGRESQL.type(field)


def is_json(field: Field) -> bool:
    """Whether PostgreSQL keeps the field as JSONB."""
    return field.type in ("object", "array", "json")


def without_nul(batch: pa.RecordBatch, found: dict[int, str]) -> pa.RecordBatch:
    """The batch without rows whose text has a NUL character; ``found`` gets their numbers, each
    with the column."""
    bad = None
    for field in batch.schema:
        if pt.is_string(field.type):
            mask = pc.fill_null(pc.match_substring(batch.column(field.name), "\0"), False)
            if pc.any(mask).as_py():
                for row in batch.column(ROW).filter(mask).to_pylist():
                    found.setdefault(row, field.name)
                bad = mask if bad is None else pc.or_(bad, mask)
    return batch if bad is None else batch.filter(pc.invert(bad))
