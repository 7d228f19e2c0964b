"""Rows in and rows out: between record batches and elements that are one record each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import msgspec
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from ..schemas.arrow import HIDDEN, PAYLOADS


class ToPayloads(beam.PTransform):
    """Single raw records to batches of payloads, as Parse takes them.

    Takes ``bytes``, ``str``, or dicts, which are written as JSON: what :class:`ToRows` gives can be
    parsed again. JSON has no NaN and no infinity; a dict that holds one is refused by Parse.
    Rows have no position, so records with the same bytes cannot be told apart. Batches do not
    outlive a bundle.

    Args:
        source: what to call the place they come from.
        batch_bytes: emit a batch when so many bytes have gathered.
    """

    def __init__(self, source: str = "rows", batch_bytes: int = 4 << 20) -> None:
        super().__init__()
        self._source = source
        self._batch_bytes = batch_bytes

    def expand(self, rows: beam.PCollection[Any]) -> beam.PCollection[pa.RecordBatch]:
        gather = _GatherPayloads(self._source, self._batch_bytes)
        batches: Any = rows | "Gather" >> beam.ParDo(gather).with_output_types(pa.RecordBatch)
        return batches


class _GatherPayloads(beam.DoFn):
    def __init__(self, source: str, batch_bytes: int) -> None:
        self._source = source
        self._batch_bytes = batch_bytes

    def start_bundle(self) -> None:
        self._waiting: dict[Any, list[bytes]] = {}
        self._bytes = 0
        self._latest: Any = None

    def process(
        self,
        row: Any,
        window: Any = beam.DoFn.WindowParam,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[WindowedValue]:
        payload = _payload(row)
        self._waiting.setdefault(window, []).append(payload)
        self._bytes += len(payload)
        self._latest = timestamp
        if self._bytes >= self._batch_bytes:
            yield from self.finish_bundle()
            self.start_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for window, payloads in self._waiting.items():
            sources = pa.array([self._source] * len(payloads)).dictionary_encode()
            positions = pa.nulls(len(payloads), pa.int64())
            columns = [sources, positions, pa.array(payloads, pa.binary())]
            batch = pa.RecordBatch.from_arrays(columns, schema=PAYLOADS)
            when = self._latest if isinstance(window, GlobalWindow) else window.max_timestamp()
            yield WindowedValue(batch, when, (window,))


def _payload(row: Any) -> bytes:
    if isinstance(row, bytes):
        return row
    if isinstance(row, str):
        return row.encode()
    payload = _encode(row)
    if b"null" in payload and not _is_finite(row):
        # a null in its place would be another record, and perhaps a valid one
        return json.dumps(row, default=str).encode()
    return payload


_encode = msgspec.json.Encoder(decimal_format="number").encode


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


class ToRows(beam.PTransform):
    """Record batches to dicts, one a record, with Python values.

    Args:
        identity: keep the columns ``_source``, ``_position`` and ``_payload``.
    """

    def __init__(self, identity: bool = False) -> None:
        super().__init__()
        self._identity = identity

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[dict[str, Any]]:
        rows: Any = batches | "Rows" >> beam.FlatMap(_rows, self._identity).with_output_types(
            dict[str, Any]
        )
        return rows


def _rows(batch: pa.RecordBatch, identity: bool) -> list[dict[str, Any]]:
    if not identity:
        batch = batch.select([n for n in batch.schema.names if n not in HIDDEN])
    return batch.to_pylist()
