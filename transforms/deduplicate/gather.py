"""Keys gathered in memory, until they are written as an index."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ...schemas.arrow import POSITION, SOURCE
from ...schemas.keys import KeyColumnError, KeyHashes, column_number
from .contest import beaten, beaten_at_once, ranks_of, twins
from .index import IndexFile, Slice, slices, write_index

LAST = np.iinfo(np.int64).max
"""Time or position of a record that has none."""


class GatheredKeys:
    """Keys of one kind, in memory: 40 bytes each.

    Args:
        at_once: only records with one key and one time lose against one another; of those of
            several times it is not known yet which stay.
    """

    def __init__(self, kinds: tuple[str, ...], *, at_once: bool = False) -> None:
        self.kinds = kinds
        self._at_once = at_once
        self.keys = 0
        self._columns: defaultdict[str, list[np.ndarray]] = defaultdict(list)
        self._sources: dict[str, int] = {}

    def add(self, hashes: KeyHashes, **ranks: np.ndarray) -> None:
        """Add a batch's keys; ``ranks`` are columns of an index with a value for each key."""
        self.keys += len(hashes.high)
        for name, values in {"high": hashes.high, "low": hashes.low, **ranks}.items():
            self._columns[name].append(values)

    def add_records(
        self, hashes: KeyHashes, batch: pa.RecordBatch, event_time: str | None, first_row: int
    ) -> None:
        """Add the keys of a batch of records, of which the first is ``first_row`` in its file.

        Raises:
            KeyColumnError: there is no column ``event_time``, or it does not hold times.
        """
        rows = slice(None) if hashes.rows is None else hashes.rows
        self.add(
            hashes,
            time=_times(batch, event_time)[rows],
            source=self._source_numbers(batch)[rows],
            position=_positions(batch)[rows],
            row=np.arange(first_row, first_row + batch.num_rows, dtype=np.int32)[rows],
        )

    def write(self, path: str, spill: str, origin: str, shards: int) -> list[Slice]:
        """Write an index file, and give each shard's part of it. What was gathered is gone.

        Of records with one key (and one time) only the first goes into the index; the others have
        lost.

        Raises:
            StorageError: it cannot be written.
        """
        columns: dict[str, np.ndarray] = {}
        order = np.argsort(np.concatenate(self._columns["high"]))
        for name in list(self._columns):
            columns[name] = np.concatenate(self._columns.pop(name))[order]
        lost = np.empty(0, np.int32)
        alike = np.flatnonzero(twins(columns["high"]))
        if len(alike):
            gone = alike[self._beaten({name: column[alike] for name, column in columns.items()})]
            stays = np.ones(len(columns["high"]), bool)
            stays[gone] = False
            lost = columns["row"][gone] if spill else lost
            columns = {name: column[stays] for name, column in columns.items()}
        high = columns["high"]
        file = IndexFile(path, spill, origin, self.kinds, len(high), len(lost))
        write_index(file, columns, lost, list(self._sources))
        return slices(file, high, shards)

    def _beaten(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        ranks: list[np.ndarray] = []
        if "time" in columns:  # taken keys have no order
            sources = list(self._sources)
            rank = ranks_of(sources, sources)[columns["source"]]
            ranks = [columns["time"], rank, columns["position"]]
        if self._at_once:
            return beaten_at_once(columns["high"], columns["low"], ranks)
        return beaten(columns["high"], columns["low"], ranks)

    def _source_numbers(self, batch: pa.RecordBatch) -> np.ndarray:
        """Each row's source as its number in ``_sources``; none is the empty name."""
        if SOURCE not in batch.schema.names:
            number = self._sources.setdefault("", len(self._sources))
            return np.full(batch.num_rows, number, np.int32)
        column = batch.column(SOURCE)
        if not pt.is_dictionary(column.type):
            column = column.dictionary_encode()
        names = [name or "" for name in (*column.dictionary.to_pylist(), None)]
        numbers = [self._sources.setdefault(name, len(self._sources)) for name in names]
        codes = column.indices.fill_null(len(names) - 1).to_numpy()
        return np.array(numbers, np.int32)[codes]


def event_times(batch: pa.RecordBatch, event_time: str) -> tuple[np.ndarray, np.ndarray]:
    """Event times in microseconds, and which of them are known; the others are the last.

    Raises:
        KeyColumnError: there is no column ``event_time``, or it does not hold times.
    """
    column = batch.column(column_number(batch.schema, event_time))
    if not (pt.is_timestamp(column.type) or pt.is_date(column.type)):
        raise KeyColumnError(f"event time {event_time!r}: expected a timestamp, got {column.type}")
    times = column.cast(pa.timestamp("us"), safe=False).view(pa.int64())
    return _or_last(times), times.is_valid().to_numpy(zero_copy_only=False)


def _times(batch: pa.RecordBatch, event_time: str | None) -> np.ndarray:
    """Event times in microseconds; none is the last."""
    if event_time is None:
        return np.full(batch.num_rows, LAST)
    return event_times(batch, event_time)[0]


def _positions(batch: pa.RecordBatch) -> np.ndarray:
    if POSITION not in batch.schema.names:
        return np.full(batch.num_rows, LAST)
    return _or_last(batch.column(POSITION))


def _or_last(column: pa.Array) -> np.ndarray:
    return column.fill_null(LAST).to_numpy()
