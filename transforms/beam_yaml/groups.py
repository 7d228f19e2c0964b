"""Rows that are compared or summed up with others."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import GoogleCloudOptions

from .. import storage
from ..schema_rows import FromSchemaRows, ToSchemaRows
from .options import GOOD, OptionError, load, names_of, refuse_missing

if TYPE_CHECKING:
    from ...schemas.sql.step import SqlStep


class MetricError(ValueError):
    """The expression of a metric fails on a row. The message holds no value."""


class Deduplicate(beam.PTransform):
    """Keep of bounded rows with one key the first by event time.

    Args:
        key: the names of the fields that the key consists of; else the contract's primary key.
        event_time: a field of time stamps; else the contract's. Without one any row may stay.
        contract: path of an ODCS document, or the document itself; its fields have its types.
        table: the contract's table, if it has several.
        duplicates: the name of an output for the other rows; the kept ones are ``good`` then.
        spill: a folder that all workers can reach, for what is compared. Else a folder under
            ``--temp_location``; and without that a local one, deleted when the program ends.
    """

    def __init__(
        self,
        key: str | list[str] | None = None,
        event_time: str | None = None,
        contract: str | Mapping[str, Any] | None = None,
        table: str | None = None,
        duplicates: str | None = None,
        spill: str | None = None,
    ) -> None:
        super().__init__()
        self._contract = None if contract is None else load(contract, table)
        given = names_of(key, "key") if key is not None else None
        self._key = given or list(self._contract.primary_key if self._contract else ())
        if not self._key:
            raise OptionError("key: expected names of fields, or a contract with a primary key")
        self._event_time = event_time or (self._contract and self._contract.event_time)
        self._duplicates = duplicates
        self._spill = spill

    def expand(self, rows: beam.PCollection[Any]) -> Any:
        from ..deduplicate import Deduplicate as DeduplicateBatches

        refuse_missing(self._key, rows, "key")
        if self._event_time:
            refuse_missing([self._event_time], rows, "event_time")
        batches = FromSchemaRows(self._contract, timestamps=True)
        schema = batches.schema_of(rows)
        _refuse_keyless(schema, self._key, self._event_time or None)
        spill = storage.absolute(self._spill or _spill_folder(rows.pipeline))
        compare = DeduplicateBatches(self._key, event_time=self._event_time or None, spill=spill)
        found: Any = rows | batches | "Compare" >> compare
        kept = found.records | "Rows" >> ToSchemaRows(schema)
        if self._duplicates is None:
            return kept
        others = found.duplicates | "Duplicates" >> ToSchemaRows(schema)
        return {GOOD: kept, self._duplicates: others}


def _refuse_keyless(schema: pa.Schema, key: list[str], event_time: str | None) -> None:
    """See that rows can be compared by these fields.

    Raises:
        OptionError: they cannot.
    """
    from ...schemas.keys import KeyColumnError, hash_keys
    from ..deduplicate.gather import event_times

    nothing = pa.RecordBatch.from_pylist([], schema)
    try:
        hash_keys(nothing, key)
        if event_time:
            event_times(nothing, event_time)
    except KeyColumnError as error:
        raise OptionError(str(error)) from None


def _spill_folder(pipeline: beam.Pipeline) -> str:
    shared = pipeline.options.view_as(GoogleCloudOptions).temp_location
    if shared:
        return storage.join(shared, f"millstream-{uuid.uuid4().hex}")
    folder = tempfile.mkdtemp(prefix="millstream-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Aggregate(beam.PTransform):
    """Aggregate bounded rows in windows over their event time.

    The rows that leave have ``window_start``, ``window_end``, the keys and the metrics.

    Args:
        contract: path of an ODCS document, or the document itself; it names the event time.
        metrics: name → metric, such as ``{events: count(), revenue: sum(amount * quantity)}``.
        window: ``{fixed: 1m}``, ``{sliding: 10m, every: 1m}``, ``{session: 30m}`` or
            ``{daily: Europe/Berlin}``.
        by: dotted paths of the fields to group by.
        event_time: a field of time stamps, where the contract names none or another.
        table: the contract's table, if it has several.
    """

    def __init__(
        self,
        contract: str | Mapping[str, Any],
        metrics: Mapping[str, str],
        window: Mapping[str, Any],
        by: str | list[str] | None = None,
        event_time: str | None = None,
        table: str | None = None,
    ) -> None:
        super().__init__()
        from ...schemas.aggregates.spec import aggregate_spec

        self._contract = load(contract, table, event_time)
        self._spec = aggregate_spec(
            "aggregate",
            window=window,
            by=names_of(by or [], "by"),
            metrics=metrics,
            contract=self._contract,
        )

    def expand(self, rows: beam.PCollection[Any]) -> Any:
        from ...schemas.aggregates.states import visible_schema
        from ..aggregate import Aggregate as AggregateBatches

        take = FromSchemaRows(self._contract)
        batches: Any = rows | take
        if derived := self._spec.derived:
            from ...schemas.sql.step import TABLE, SqlStep

            columns = ", ".join(f'(\n{text}\n) AS "{name}"' for name, text in derived.items())
            step = SqlStep(f"SELECT *, {columns} FROM {TABLE}", take.schema_of(rows))
            derive = beam.Map(_derived, step).with_output_types(pa.RecordBatch)
            batches |= "Derive" >> derive
        results: Any = batches | "Sum" >> AggregateBatches(self._spec)
        return results.visible | "Rows" >> ToSchemaRows(visible_schema(self._spec))


def _derived(batch: pa.RecordBatch, step: SqlStep) -> pa.RecordBatch:
    """The batch with what metrics are of. What DuckDB says of a failure may hold values."""
    from ...schemas.sql.tree import SqlError

    try:
        return step.apply(batch)
    except SqlError as error:
        kind = str(error).partition(":")[0]
        raise MetricError(
            f"metrics: an expression fails on a row ({kind}); which row is not told, as fields may "
            "be restricted. Leave such rows out before, with Validate or Step"
        ) from None
