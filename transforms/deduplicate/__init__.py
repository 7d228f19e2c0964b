"""Deduplicate: of the records with one key, the first stays; the others go another way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa

from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from ..tallies import Tally
from .index import Slice, check_parts
from .resolve import Lost, ResolveShard
from .restore import RestoreBatches, restored
from .spill import SpillBatches, spilled
from .taken import IndexTaken


class DeduplicateResult(NamedTuple):
    """The outputs of :class:`Deduplicate`.

    ``records`` and ``duplicates`` are batches with the columns that came in: each record is in
    exactly one of them. ``tallies`` count the duplicates, by source.
    """

    records: beam.PCollection[pa.RecordBatch]
    duplicates: beam.PCollection[pa.RecordBatch]
    tallies: beam.PCollection[Tally]


class Deduplicate(beam.PTransform):
    """Keep of bounded records with one key the first.

    First is the one with the earliest event time (compared in microseconds; none is the latest),
    then with the least ``_source``, then with the least ``_position``. So the same records stay
    however they are cut into batches and bundles. Without these columns it is any one of them.
    Which keys are equal says :mod:`millstream.schemas.keys`.

    Records wait in files, and only their keys are compared, shard by shard: no record passes
    through the runner, and memory does not grow with the input. Through a ``GroupByKey`` go only
    references to files, and four bytes for each duplicate.

    Args:
        key: names of the top-level fields that the key consists of.
        event_time: the name of a column of time stamps, or ``None``.
        spill: a folder for these files, local or remote, which every worker can reach. Delete it
            when the pipeline has ended (``storage.delete_folder``): a bundle that is retried may
            read them again. It takes the size of the records in memory and 40 bytes a record.
        taken: Parquet files with keys that are taken: all records with them are duplicates.
        shards: parts that keys are divided into, each compared on its own.

    Raises:
        KeyColumnError: in the pipeline, when a column is missing or of a type that cannot be, or
            when keys cannot be compared, as strings with numbers.
        StorageError: in the pipeline, when a file cannot be written or read.
        ValueError: the input is unbounded; no key; too few or too many shards.
    """

    def __init__(
        self,
        key: Sequence[str],
        *,
        event_time: str | None,
        spill: str,
        taken: Sequence[str] = (),
        shards: int = 8,
    ) -> None:
        super().__init__()
        check_parts(key, shards)
        self._taken = tuple(taken)
        self._index_taken = IndexTaken(key, spill, shards)
        self._spill = SpillBatches(key, event_time, spill, shards)
        self._resolve = ResolveShard(key)
        self._restore = RestoreBatches(shards)

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> DeduplicateResult:
        slices: Any = spilled(records, self._spill)
        if self._taken:
            slices = (slices, self._slices_of_taken(records.pipeline)) | "Keys" >> beam.Flatten()
        lost: Any = (
            slices
            | "ByShard" >> beam.GroupByKey()
            | "Resolve" >> beam.ParDo(self._resolve).with_output_types(beam.typehints.KV[str, Lost])
        )
        return DeduplicateResult(*restored(lost, self._restore))

    def _slices_of_taken(self, pipeline: beam.Pipeline) -> Any:
        return (
            pipeline
            | "Taken" >> beam.Create(self._taken, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "IndexTaken"
            >> beam.ParDo(self._index_taken).with_output_types(beam.typehints.KV[int, Slice])
        )
