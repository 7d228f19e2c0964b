"""Event time as records pass: what each is judged by, in the order of its partition."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from ..schemas.arrow import SOURCE, WATERMARK_FIELD
from ..schemas.watermarks import NEVER
from .carry import SourceState


class EventClock:
    """Stamps records with the watermark of their partition as it was before each of them.

    That is the greatest event time of the partition's records so far, less the disorder that the
    job allows. It depends on nothing but the order of the partition's records: however they are
    cut into batches, bundles and runs, each record gets the same verdict.

    Args:
        event_time: the column of event times.
        disorder_us: microseconds by which a record may come after a later one.
        states: where partitions stand, by source; others begin with nothing.
    """

    def __init__(
        self, event_time: str, disorder_us: int, states: Mapping[str, SourceState]
    ) -> None:
        self._event_time = event_time
        self._disorder_us = disorder_us
        self._floors = {source: state.floor for source, state in states.items()}
        self._newest = {source: state.newest for source, state in states.items()}

    def newest(self, source: str) -> int:
        """The greatest event time of a source so far."""
        return self._newest.get(source, NEVER)

    def raise_floor(self, source: str, watermark: int) -> None:
        """Let a source have at least this watermark from now on."""
        self._floors[source] = max(self._floors.get(source, NEVER), watermark)

    def stamp(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with the column ``_watermark``. Of each source, rows are in order."""
        times = batch.column(self._event_time).view(pa.int64())
        if times.null_count:
            times = times.fill_null(NEVER)  # which says nothing of how far time has come
        times = times.to_numpy()
        sources = batch.column(SOURCE)
        names = sources.dictionary.to_pylist()
        if len(names) == 1:
            marks = self._pass(names[0], times)
        else:
            indices = sources.indices.to_numpy()
            marks = np.empty(len(times), np.int64)
            for i, name in enumerate(names):
                rows = np.flatnonzero(indices == i)
                if len(rows):
                    marks[rows] = self._pass(name, times[rows])
        column = pa.array(marks).view(WATERMARK_FIELD.type)
        return batch.append_column(WATERMARK_FIELD, column)

    def _pass(self, source: str, times: np.ndarray) -> np.ndarray:
        before = self._newest.get(source, NEVER)
        if not len(times):
            return times
        reached = np.maximum.accumulate(times)
        newest = np.empty_like(reached)
        newest[0] = before
        newest[1:] = np.maximum(reached[:-1], before)
        self._newest[source] = max(before, int(reached[-1]))
        return np.maximum(newest - self._disorder_us, self._floors.get(source, NEVER))
