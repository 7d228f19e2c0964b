"""Beam's own source of Pub/Sub, where a runner has a better one in its place: Dataflow does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.gcp.pubsub import PubsubMessage, ReadFromPubSub
from apache_beam.transforms.window import GlobalWindows

from ....schemas.arrow import PAYLOADS
from ...coder import RecordBatchCoder  # registers it  # noqa: F401
from .inputs import PubsubInput
from .pulled import numbers

BATCH_ROWS = 10_000
BATCH_BYTES = 8 << 20


class ReadFromPubsubNatively(beam.PTransform):
    """Read a subscription by the runner's own source into batches by
    ``millstream.schemas.arrow.PAYLOADS``.

    Positions are the messages' ids. The runner acknowledges, and gives each message once as far as
    it promises that: Dataflow does. A batch has the messages of one bundle, and no order.
    """

    def __init__(self, input: PubsubInput) -> None:
        super().__init__()
        self._input = input

    def expand(self, pbegin: Any) -> Any:
        messages = pbegin | "Read" >> ReadFromPubSub(
            subscription=self._input.path, with_attributes=True
        )
        batches: Any = messages | "Batch" >> beam.ParDo(_Batches(self._input.source))
        batches.element_type = pa.RecordBatch
        return batches


class _Batches(beam.DoFn):
    def __init__(self, source: str) -> None:
        self._source = source

    def start_bundle(self) -> None:
        self._messages: list[PubsubMessage] = []
        self._bytes = 0

    def process(self, element: PubsubMessage) -> Iterator[pa.RecordBatch]:
        self._messages.append(element)
        self._bytes += len(element.data or b"")
        if len(self._messages) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            yield self._taken()

    def finish_bundle(self) -> Iterator[Any]:
        if self._messages:
            yield GlobalWindows.windowed_value(self._taken())

    def _taken(self) -> pa.RecordBatch:
        messages = self._messages
        self.start_bundle()
        sources = pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(len(messages), np.int32)), pa.array([self._source])
        )
        ids = numbers([message.message_id or "" for message in messages])
        payloads = pa.array([message.data for message in messages], pa.binary())
        return pa.RecordBatch.from_arrays([sources, pa.array(ids), payloads], schema=PAYLOADS)
