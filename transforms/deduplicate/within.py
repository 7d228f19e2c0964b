"""DeduplicateWithin: of bounded records with one key, those stay that are a horizon apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from ..carry import KeyFile
from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from ..tallies import Tally
from .contest import twins
from .horizon import KnownKeys, TimedKeys, joined
from .index import Slice, check_parts
from .key_files import IndexKept, write_keys
from .resolve import (
    Contestants,
    Lost,
    bucket_ranges,
    check_kinds,
    highs_of,
    lost_before,
    ranks_of_all,
)
from .restore import RestoreBatches, restored
from .spill import SpillBatches, spilled

KEYS = "keys"
"""Tag of the output that carries files of keys that were kept."""


class WithinResult(NamedTuple):
    """The outputs of :class:`DeduplicateWithin`.

    ``records`` and ``duplicates`` are batches with the columns that came in: each record is in
    exactly one of them. ``tallies`` count the duplicates, by source. ``keys`` are files of the keys
    of records that stay.
    """

    records: beam.PCollection[pa.RecordBatch]
    duplicates: beam.PCollection[pa.RecordBatch]
    tallies: beam.PCollection[Tally]
    keys: beam.PCollection[KeyFile]


class DeduplicateWithin(beam.PTransform):
    """Keep of bounded records those that repeat no key within a horizon.

    Records of one key are taken in the order of event time, then ``_source``, then ``_position``,
    after those of the runs before. One is a duplicate if a record of its key was kept before it
    whose event time is less than the horizon away. Where all records of a key lie within a horizon
    that keeps one of them. A record with a null in its key, or without an event time, is never a
    duplicate.

    It works as :class:`~.Deduplicate` does, and has its errors.

    Args:
        key: names of the top-level fields that the key consists of.
        event_time: the name of a column of time stamps.
        horizon_us: the horizon, in microseconds.
        spill: a folder for what waits; see :class:`~.Deduplicate`.
        folder: where files of kept keys go.
        kept: those of the runs before; their keys are of ``kinds``.
        shards: parts that keys are divided into, each compared on its own.
    """

    def __init__(
        self,
        key: Sequence[str],
        *,
        event_time: str,
        horizon_us: int,
        spill: str,
        folder: str,
        kept: Sequence[KeyFile] = (),
        kinds: Sequence[str] = (),
        shards: int = 8,
    ) -> None:
        super().__init__()
        check_parts(key, shards)
        if horizon_us < 1:
            raise ValueError(f"horizon_us: expected at least 1, got {horizon_us}")
        self._kept = tuple(kept)
        self._index_kept = IndexKept(kinds, shards)
        self._spill = SpillBatches(key, event_time, spill, shards, timed=True)
        self._resolve = ResolveWithin(key, horizon_us, folder)
        self._restore = RestoreBatches(shards)

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> WithinResult:
        slices: Any = spilled(records, self._spill)
        if self._kept:
            kept: Any = (
                records.pipeline
                | "Kept" >> beam.Create(self._kept, reshuffle=False)
                | "Spread" >> beam.Reshuffle()
                | "IndexKept"
                >> beam.ParDo(self._index_kept).with_output_types(beam.typehints.KV[int, Slice])
            )
            slices = (slices, kept) | "Keys" >> beam.Flatten()
        resolved: Any = (
            slices
            | "ByShard" >> beam.GroupByKey()
            | "Resolve" >> beam.ParDo(self._resolve).with_outputs(KEYS, main="lost")
        )
        resolved.lost.element_type = beam.typehints.KV[str, Lost]
        resolved[KEYS].element_type = KeyFile
        return WithinResult(*restored(resolved.lost, self._restore), resolved[KEYS])


class ResolveWithin(beam.DoFn):
    """(shard, its slices) to (spill file, :class:`Lost`), for each spill file once; beside them
    files of the keys that stay."""

    def __init__(self, key: Sequence[str], horizon_us: int, folder: str) -> None:
        self._key = tuple(key)
        self._horizon_us = horizon_us
        self._folder = folder

    def process(self, element: tuple[int, Iterable[Slice]]) -> Iterator[Any]:
        shard, found = element
        slices = list(found)
        check_kinds(self._key, slices)
        lost = {part.file.spill: [lost_before(part)] for part in slices}
        filled = [part for part in slices if part.keys]
        for first, last in bucket_ranges(filled) if filled else ():
            kept, gone = self._resolved(filled, first, last)
            if kept.rows:
                yield TaggedOutput(KEYS, write_keys(kept, shard, self._folder))
            for spill, rows in gone:
                lost[spill].append(rows)
        lost.pop("", None)  # the keys of the runs before, which are in no spill file
        for spill, arrays in lost.items():
            yield spill, Lost(shard, np.concatenate(arrays).tobytes())

    def _resolved(
        self, slices: Sequence[Slice], first: int, last: int
    ) -> tuple[TimedKeys, list[tuple[str, np.ndarray]]]:
        """The keys that stay of some buckets, sorted, and the rows that spill files have lost."""
        highs = [highs_of(part, first, last) for part in slices]
        starts = np.cumsum([0, *map(len, highs)]).tolist()
        high = np.concatenate(highs)
        is_alike = _are_alike(high)
        # Of the keys of the runs before only those matter that a record has too.
        numbers = [
            np.arange(a, b) if part.file.spill else a + np.flatnonzero(is_alike[a:b])
            for part, a, b in zip(slices, starts, starts[1:], strict=False)
        ]
        held = [
            Contestants.of(part, part.bounds[first] + some - start)
            for part, some, start in zip(slices, numbers, starts, strict=False)
        ]
        is_new, times, sources, positions = ranks_of_all(held)
        every = np.concatenate(numbers)
        keys = TimedKeys(high[every], np.concatenate([some.low for some in held]), times)
        known = KnownKeys(self._horizon_us)
        known.add(keys.of(~is_new))
        ours = np.flatnonzero(is_new & is_alike[every])
        ours = ours[np.lexsort([positions[ours], sources[ours], times[ours]])]
        gone = np.zeros(keys.rows, bool)
        gone[ours], _ = known.judge(keys.of(ours))
        ends = np.cumsum([len(some) for some in numbers])
        parts = zip(slices, held, np.split(gone, ends[:-1]), strict=True)
        lost = [(part.file.spill, some.row[rows]) for part, some, rows in parts if part.file.spill]
        return joined([keys.of(is_new & ~gone)]), lost


def _are_alike(high: np.ndarray) -> np.ndarray:
    """Which values are there more than once."""
    order = np.argsort(high, kind="stable")  # quick where sorted runs lie one after the other
    alike = np.zeros(len(high), bool)
    alike[order[twins(high[order])]] = True
    return alike
