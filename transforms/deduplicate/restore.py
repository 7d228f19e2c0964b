"""Restore: spill files to the records that stay, and the duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from ...schemas.arrow import SOURCE
from .. import storage
from ..tallies import TALLIES, Tally, count_sources
from .resolve import Lost

DUPLICATES = "duplicates"
"""Tag of the output that carries duplicates."""


def restored(lost: Any, restore: RestoreBatches) -> tuple[Any, Any, Any]:
    """What spill files have lost to records, duplicates and tallies of these."""
    outputs: Any = (
        lost
        | "BySpillFile" >> beam.GroupByKey()
        | "Restore" >> beam.ParDo(restore).with_outputs(DUPLICATES, TALLIES, main="records")
    )
    outputs.records.element_type = outputs[DUPLICATES].element_type = pa.RecordBatch
    outputs[TALLIES].element_type = Tally
    return outputs.records, outputs[DUPLICATES], outputs[TALLIES]


class RestoreBatches(beam.DoFn):
    """(spill file, what it lost in each shard) to batches, as they came, without what was lost."""

    def __init__(self, shards: int) -> None:
        self._shards = shards

    def start_bundle(self) -> None:
        self._counts: Counter[str] = Counter()

    def process(self, element: tuple[str, Iterable[Lost]]) -> Iterator[Any]:
        path, found = element
        lost = _all_lost(path, list(found), self._shards)
        first = 0
        for batch in _read_spilled(path):
            start, end = np.searchsorted(lost, [first, first + batch.num_rows])
            kept, gone = _split(batch, lost[start:end] - first)
            first += batch.num_rows
            if kept is not None:
                yield kept
            if gone is not None:
                self._counts.update(count_sources(gone, SOURCE) or {"": gone.num_rows})
                yield TaggedOutput(DUPLICATES, gone)

    def finish_bundle(self) -> Iterator[Any]:
        for source, rows in self._counts.items():
            tally = Tally(source, "duplicate", rows)
            yield TaggedOutput(TALLIES, GlobalWindows.windowed_value(tally))


def _all_lost(path: str, found: list[Lost], shards: int) -> np.ndarray:
    """The rows lost in all shards, sorted.

    A runner may run a bundle again, but what follows must see the output of one attempt: with a
    part of each, records would be lost or come twice.
    """
    if sorted(lost.shard for lost in found) != list(range(shards)):
        raise RuntimeError(
            f"{path}: expected what it lost in each of {shards} shards, got that of "
            f"{sorted(lost.shard for lost in found)}; the runner has mixed attempts of a bundle"
        )
    return np.sort(np.concatenate([np.frombuffer(lost.rows, np.int32) for lost in found]))


def _split(
    batch: pa.RecordBatch, lost: np.ndarray
) -> tuple[pa.RecordBatch | None, pa.RecordBatch | None]:
    """A batch without some of its rows, and these rows."""
    if not len(lost):
        return batch, None
    if len(lost) == batch.num_rows:
        return None, batch
    kept = np.ones(batch.num_rows, bool)
    kept[lost] = False
    return batch.filter(pa.array(kept)), batch.take(pa.array(lost))


def _read_spilled(path: str) -> Iterator[pa.RecordBatch]:
    with storage.open_read(path) as file:
        with storage.named(path, "read"):
            reader = pa.ipc.open_stream(file)
        while True:
            with storage.named(path, "read"):
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            yield batch
