"""One side of a comparison: its rows read once, to summaries and to the hashes of rows."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ...schemas.arrow import POSITION, SOURCE
from ..stored.stored import Stored
from .columns import Compared
from .hashes import Hashes, hash_column, hash_rows
from .parts import Names, partitions
from .spill import KEYED, ROW, Spill
from .summary import Summary, summarise

BATCH_ROWS = 1 << 16
IDENTITY_SCHEMA = pa.schema([pa.field(SOURCE, pa.string()), pa.field(POSITION, pa.int64())])


class Hashed(NamedTuple):
    """The hashes of a batch: of its columns by name, of its rows, of their keys."""

    columns: dict[str, Hashes]
    rows: Hashes
    keys: Hashes


def hashed(batch: pa.RecordBatch, compared: Compared) -> Hashed:
    """The hashes of a batch that has the columns that are compared, and perhaps others."""
    names = compared.schema.names
    null_is_empty = compared.null_is_empty
    columns = {n: hash_column(batch.column(n), null_is_empty=null_is_empty) for n in names}
    rows = hash_rows([columns[name] for name in names])
    if not compared.key:
        return Hashed(columns, rows, Hashes(rows.high, rows.low & ~KEYED))
    keys = hash_rows([columns[name] for name in compared.key])
    keyed = np.ones(batch.num_rows, bool)
    for name in compared.key:
        if batch.column(name).null_count:
            keyed &= batch.column(name).is_valid().to_numpy(zero_copy_only=False)
    high = np.where(keyed, keys.high, rows.high)
    low = np.where(keyed, keys.low | KEYED, rows.low & ~KEYED)
    return Hashed(columns, rows, Hashes(high, low))


class Side:
    """What has been read of a side.

    Args:
        names: of partitions, and of sources; both sides share them.
        folder: where hashes wait.
    """

    def __init__(self, compared: Compared, names: Names, sources: Names, folder: str) -> None:
        self.summaries: dict[int, Summary] = {}
        self.spill = Spill(folder)
        self._compared = compared
        self._names = names
        self._sources = sources
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """All its rows."""
        return sum(summary.rows for summary in self.summaries.values())

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch. Several threads may."""
        found = hashed(batch, self._compared)
        numbers = partitions(batch, self._compared.by, self._names)
        shown = batch.select(self._compared.schema.names)
        summaries = summarise(shown, numbers, found.rows)
        rows = np.empty(batch.num_rows, ROW)
        rows["high"], rows["low"] = found.keys
        rows["row"] = found.rows.low
        rows["partition"] = numbers
        rows["source"], rows["position"] = self._identity(batch)
        with self._lock:
            for number, summary in summaries.items():
                self.summaries[number] = self.summaries.get(number, Summary()) + summary
        self.spill.add(rows)

    def _identity(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
        if SOURCE not in batch.schema.names:
            none = np.full(batch.num_rows, -1)
            return none, none
        encoded = batch.column(SOURCE).dictionary_encode()
        numbers = [self._sources.number(name) for name in encoded.dictionary.to_pylist()]
        places = encoded.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)
        positions = batch.column(POSITION).fill_null(-1).to_numpy(zero_copy_only=False)
        return np.array([*numbers, -1], np.int32)[places], positions


def read_side(stored: Stored, compared: Compared, side: Side, threads: int) -> None:
    """Read all rows of a place into a side; ``threads`` hash what this one reads.

    Raises:
        DestinationError: it cannot be read as these columns.
        Unavailable: the service does not answer.
        StorageError: a file cannot be read or written.
    """
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for batch in large(batches_of(stored, compared)):
            pending.append(pool.submit(side.add, batch))
            if len(pending) > 2 * threads:
                pending.popleft().result()
        for future in pending:
            future.result()
    side.spill.close()


def batches_of(stored: Stored, compared: Compared) -> Iterator[pa.RecordBatch]:
    """The rows that are compared, with where they are from if the place is asked for it."""
    held = [name for name in IDENTITY_SCHEMA.names if name in stored.schema.names]
    return stored.batches([*compared.schema.names, *held], compared.where)


def large(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Small batches put together, as what is done once a batch is not cheap; none is empty."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count >= BATCH_ROWS:
            yield _together(held)
            held, count = [], 0
    if count:
        yield _together(held)


def _together(held: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return held[0] if len(held) == 1 else pa.concat_batches(held)
