"""Rows to batches that have an identity, as stages want them that may refuse a record."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa

from ...schemas.arrow import IDENTITY_FIELDS, WATERMARK, WATERMARK_FIELD
from ...schemas.contract import Contract
from ..schema_rows import TIMESTAMP, FromSchemaRows
from ..write.json_text import json_kernel, json_keys, json_object

SOURCE_NAME = "rows"
"""What dead letters call the place that rows come from: no more is known."""


class Identified(beam.PTransform):
    """Rows to batches of their columns, then ``_source``, ``_position`` (null), ``_payload``: the
    row as JSON; and its time stamp, in the column that travels along with those.

    ``schema`` is known once it has been applied.
    """

    schema: pa.Schema

    def __init__(self, columns: Contract | None) -> None:
        super().__init__()
        self._from = FromSchemaRows(columns, timestamps=True)

    def expand(self, rows: beam.PCollection[Any]) -> Any:
        self.records = self._from.schema_of(rows)
        self.schema = pa.schema([*self.records, *IDENTITY_FIELDS, WATERMARK_FIELD])
        identify = beam.Map(_identified, self.schema).with_output_types(pa.RecordBatch)
        return rows | self._from | "Identify" >> identify


def _identified(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    records = batch.drop_columns([TIMESTAMP])
    size = batch.num_rows
    kernels = [json_kernel(field.type, field.name) for field in records.schema]
    texts = [kernel(column) for kernel, column in zip(kernels, records.columns, strict=True)]
    payloads = json_object(json_keys(records.schema.names), texts, size, "").cast(pa.binary())
    sources = pa.DictionaryArray.from_arrays(pa.array([0] * size, pa.int32()), [SOURCE_NAME])
    identity = [sources, pa.nulls(size, pa.int64()), payloads, batch.column(TIMESTAMP)]
    return pa.RecordBatch.from_arrays([*records.columns, *identity], schema=schema)


class Restamped(beam.PTransform):
    """Batches whose time stamps travelled along, for ``ToSchemaRows`` to give back."""

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Any:
        return batches | "Rename" >> beam.Map(_restamped).with_output_types(pa.RecordBatch)


def _restamped(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.rename_columns([_RENAMED.get(name, name) for name in batch.schema.names])


_RENAMED = {WATERMARK: TIMESTAMP}
