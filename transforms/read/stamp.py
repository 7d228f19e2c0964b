"""Event time of files that keep arriving: files of one run come in no order, and so at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from ...schemas.arrow import WATERMARK_FIELD
from ...schemas.watermarks import NEVER
from ..carry import Reached, SourceState
from ..coder import RecordBatchCoder  # registers it  # noqa: F401

FILES = "files"
"""What all files of a job are called where positions and watermarks are kept."""
_REACHED = "reached"


class Stamped(NamedTuple):
    """Records with their watermark, and how far event time has come."""

    records: beam.PCollection[pa.RecordBatch]
    reached: beam.PCollection[Reached]


class StampFiles(beam.PTransform):
    """Give records of files the watermark that they are judged by: that of the runs before.

    So nothing in one run makes anything else in it late, in whatever order files are read.
    """

    def __init__(
        self, event_time: str, disorder_us: int, states: Mapping[str, SourceState]
    ) -> None:
        super().__init__()
        self._fn = _Stamp(event_time, states.get(FILES, SourceState()).watermark(disorder_us))

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> Stamped:
        outputs: Any = records | "Stamp" >> beam.ParDo(self._fn).with_outputs(
            _REACHED, main="records"
        )
        outputs.records.element_type = pa.RecordBatch
        outputs[_REACHED].element_type = Reached
        return Stamped(outputs.records, outputs[_REACHED])


class _Stamp(beam.DoFn):
    def __init__(self, event_time: str, watermark: int) -> None:
        self._event_time = event_time
        self._watermark = max(watermark, NEVER)

    def start_bundle(self) -> None:
        self._newest = NEVER

    def process(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        newest = pc.max(batch.column(self._event_time).view(pa.int64())).as_py()
        if newest is not None:
            self._newest = max(self._newest, newest)
        mark = pa.scalar(self._watermark, pa.int64()).cast(WATERMARK_FIELD.type)
        yield batch.append_column(WATERMARK_FIELD, pa.repeat(mark, batch.num_rows))

    def finish_bundle(self) -> Iterator[Any]:
        if self._newest > NEVER:
            reached = Reached(FILES, 0, 0, self._newest)
            yield TaggedOutput(_REACHED, GlobalWindows.windowed_value(reached))
