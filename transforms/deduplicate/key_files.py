"""Kept keys in files: what later commits hold records against.

A file holds the keys of one shard, sorted by the first half of their hashes, as an index of taken
keys with times (:mod:`.index`): 24 bytes a key.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np

from .. import storage
from ..carry import KeyFile
from .horizon import TimedKeys, middle_of
from .index import IndexFile, Slice, open_index, slices, write_index

_NO_ROWS = np.empty(0, np.int32)


def write_keys(keys: TimedKeys, shard: int, folder: str) -> KeyFile:
    """Write some keys, sorted by their ``high``, to a file of their own.

    Raises:
        StorageError: it cannot be written.
    """
    path = storage.join(folder, f"{shard}-{uuid.uuid4().hex}.keys")
    write_index(_index(path, keys.rows), keys._asdict(), _NO_ROWS, [])
    newest = int(keys.time.max())
    return KeyFile(path=path, shard=shard, rows=keys.rows, middle=middle_of(keys), newest=newest)


def read_keys(file: KeyFile) -> TimedKeys:
    """The keys of a file, sorted by their ``high``.

    Raises:
        StorageError: it cannot be read.
    """
    with open_index(_index(file.path, file.rows)) as index:
        return TimedKeys(*(index.column(name, 0, file.rows) for name in TimedKeys._fields))


class IndexKept(beam.DoFn):
    """Files of kept keys to (shard, slice of an index)."""

    def __init__(self, kinds: Sequence[str], shards: int) -> None:
        self._kinds = tuple(kinds)
        self._shards = shards

    def process(self, file: KeyFile) -> Iterator[tuple[int, Slice]]:
        index = _index(file.path, file.rows, self._kinds)
        with open_index(index) as reader:
            high = reader.column("high", 0, file.rows)
        for part in slices(index, high, self._shards):
            if part.keys:
                yield part.shard, part


def _index(path: str, rows: int, kinds: tuple[str, ...] = ()) -> IndexFile:
    return IndexFile(path, "", "the keys of the runs before", kinds, rows, timed=True)
