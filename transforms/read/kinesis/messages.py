"""Decoding of a stream's records; those that are several in one are told as such.

The Kinesis Producer Library puts several records into one, which begins with four bytes of its own.
Source: https://github.com/awslabs/kinesis-aggregation, KPL Aggregated Record Format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....schemas.arrow import PAYLOAD
from ....schemas.codes import Code
from ....schemas.contract import Contract
from ....schemas.decoded import Decoded, UnknownFields
from ....schemas.rules import Violation
from ...dead_letters import Origin, refused_batch
from ...decoding import Decoding, Task, open_decoding
from ..streams.reading import DecoderOf

AGGREGATED = b"\xf3\x89\x9a\xc2"
_MESSAGE = (
    "is an aggregated record of the Kinesis Producer Library, which is several in one; have the "
    "producer send each by itself (AggregationEnabled=false)"
)


@dataclass(frozen=True)
class KinesisMessages:
    """Makes the decoding of a stream's records, on a worker. Picklable.

    Args:
        inner: makes the decoding of all that is not aggregated; without one, that of JSON.
    """

    contract: Contract
    unknown_fields: UnknownFields
    inner: DecoderOf | None = None

    def __call__(self, origin: Origin) -> Decoding:
        if self.inner is not None:
            return _Apart(self.inner(origin), origin)
        json = open_decoding(self.contract, self.unknown_fields, judge=True, origin=origin)
        return _Apart(json, origin)


class _Apart:
    """A decoding that is not given aggregated records."""

    def __init__(self, inner: Decoding, origin: Origin) -> None:
        self._inner = inner
        self._origin = origin

    def put(self, task: Task) -> Iterator[tuple[Task, Decoded]]:
        batch, *rest = task
        aggregated = pc.fill_null(pc.starts_with(batch.column(PAYLOAD), AGGREGATED), False)
        if pc.any(aggregated).as_py():
            refused = batch.filter(aggregated)
            yield (refused, *rest), self._refused(refused)
            batch = batch.filter(pc.invert(aggregated))
        yield from self._inner.put((batch, *rest))

    def drain(self) -> Iterator[tuple[Task, Decoded]]:
        return self._inner.drain()

    def _refused(self, batch: pa.RecordBatch) -> Decoded:
        rows = list(range(batch.num_rows))
        violations = [Violation(row, "", Code.MALFORMED, _MESSAGE) for row in rows]
        letters = refused_batch(batch, violations, self._origin)
        none = pa.RecordBatch.from_arrays([], schema=pa.schema([]))
        kept, times = np.zeros(0, np.int64), pa.nulls(len(rows), pa.timestamp("us", "UTC"))
        return Decoded(none, kept, rows, [], [False] * len(rows), times, letters)
