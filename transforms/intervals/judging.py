"""Judging records of an endless stream by keys that are known: what all ways of it share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from ...schemas.arrow import POSITION, SOURCE
from ...schemas.keys import hash_keys
from .. import storage
from ..carry import Carry
from ..deduplicate.horizon import KnownKeys, TimedKeys, with_times
from ..deduplicate.key_files import read_keys
from ..deduplicate.restore import DUPLICATES
from ..tallies import Tally, count_sources
from .keys import Horizon
from .slices import FACTS

Committed = Callable[[], Carry | None]
"""Gives what the newest commit carries."""


def known_committed(horizon: Horizon, committed: Committed, shard: int | None) -> KnownKeys:
    """The keys that are committed: of a shard, or all.

    Raises:
        StorageError: they cannot be read.
    """
    carry = committed()
    while True:
        known = KnownKeys(horizon.us)
        files = carry.keys.files if carry and carry.keys else ()
        try:
            for file in files:
                if shard in (None, file.shard):
                    known.add(read_keys(file))
            return known
        except storage.StorageError:
            # A commit deletes the files that it does not go on with.
            newer = committed()
            if newer is None or carry is None or newer.sequence == carry.sequence:
                raise
            carry = newer


def keys_of(batch: pa.RecordBatch, horizon: Horizon) -> tuple[TimedKeys, np.ndarray]:
    """The keys of a batch with their times, and the numbers of their rows."""
    hashes, times = with_times(hash_keys(batch, horizon.key), batch, horizon.event_time)
    rows = np.arange(batch.num_rows) if hashes.rows is None else hashes.rows
    return TimedKeys(hashes.high, hashes.low, times), rows


def spans_of(batch: pa.RecordBatch) -> dict[str, tuple[int, int]]:
    """By source, the position of the first record, and that after the last."""
    sources, positions = batch.column(SOURCE), batch.column(POSITION).to_numpy()
    indices = sources.indices.to_numpy()
    found: dict[str, tuple[int, int]] = {}
    for i, source in enumerate(sources.dictionary.to_pylist()):
        those = positions[indices == i]
        if len(those):
            found[source] = int(those.min()), int(those.max()) + 1
    return found


def judged(batch: pa.RecordBatch, lost: np.ndarray) -> Iterator[Any]:
    """A batch's records without some rows; tagged, these rows, and how many they are."""
    if not len(lost):
        yield batch
        return
    stays = np.ones(batch.num_rows, bool)
    stays[lost] = False
    gone = batch.take(pa.array(lost))
    for source, rows in count_sources(gone, SOURCE).items():
        yield TaggedOutput(FACTS, Tally(source, "duplicate", rows))
    yield TaggedOutput(DUPLICATES, gone)
    if len(lost) < batch.num_rows:
        yield batch.filter(pa.array(stays))
