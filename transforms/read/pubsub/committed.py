"""Which messages are committed: Parquet files of their ids, named by the commit that they are of.

A commit writes the ids that are new to a file, and merges it with files that are hardly larger: so
there are few files, and an id is rarely written again. The commit's cursor names its files. A file
that no cursor names, since its commit was not made or a later one has merged it, is deleted after
an hour.
"""

from __future__ import annotations

import time
import uuid
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ... import storage

MOST = 4_000_000
"""Ids that are kept at most, about, however long the horizon is."""
_OLD_SECONDS = 3600.0
_SCHEMA = pa.schema([("id", pa.int64()), ("published", pa.int64()), ("committed", pa.int64())])


class Ids(NamedTuple):
    """Ids of messages, when they were published in microseconds, and when they were committed in
    seconds since the epoch; all ``int64``, the oldest commit first."""

    ids: np.ndarray
    published: np.ndarray
    committed: np.ndarray

    def newest(self, most: int, since: float) -> Ids:
        """The last so many, and of those, what was committed since a time."""
        first = max(len(self.ids) - most, int(np.searchsorted(self.committed, since)))
        return Ids(*(column[first:] for column in self))


class CommittedIds:
    """The files of a subscription, in a folder of their own.

    All methods raise ``StorageError`` when a file cannot be read or written.
    """

    def __init__(self, folder: str, horizon: float, most: int = MOST) -> None:
        self._folder = folder
        self._horizon = horizon
        self._most = most

    def add(self, cursor: str, ids: np.ndarray, published: np.ndarray) -> str:
        """Write down what is being committed; gives the cursor to be committed with it.

        Args:
            cursor: of the commit before.
        """
        if not len(ids):
            return cursor
        now = int(time.time())
        found = Ids(ids, published, np.full(len(ids), now))
        names = [name for name in cursor.split() if _newest(name) >= now - self._horizon]
        total = sum(map(_rows, names)) + len(ids)
        merged: list[Ids] = [found]
        rows = len(ids)
        while names and (_rows(names[-1]) <= 2 * rows or total > self._most * 5 // 4):
            rows += _rows(names[-1])
            merged.insert(0, self._read(names.pop()))
        together = Ids(*map(np.concatenate, zip(*merged, strict=True)))
        kept = together.newest(self._most, now - self._horizon)
        return " ".join([*names, self._write(kept, now)])

    def read(self, cursor: str) -> Ids:
        """All ids that a cursor names."""
        found = [self._read(name) for name in cursor.split()]
        if not found:
            return Ids(*(np.zeros(0, np.int64) for _ in Ids._fields))
        return Ids(*map(np.concatenate, zip(*found, strict=True)))

    def tidy(self, cursor: str) -> None:
        """Delete old files that the newest cursor does not name."""
        named = set(cursor.split())
        before = time.time() - _OLD_SECONDS
        for path in storage.list_files(self._folder, ".parquet"):
            name = path.rpartition("/")[2].removesuffix(".parquet")
            if name not in named and _newest(name) < before:
                storage.delete(path)

    def _read(self, name: str) -> Ids:
        path = self._path(name)
        with storage.named(path, "read"):
            table = pq.read_table(pa.BufferReader(storage.read_bytes(path)), use_threads=False)
        return Ids(*(column.to_numpy() for column in table.columns))

    def _write(self, ids: Ids, now: int) -> str:
        name = f"{now}-{len(ids.ids)}-{uuid.uuid4().hex}"
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.table([pa.array(column) for column in ids], schema=_SCHEMA),
            sink,
            compression="zstd",
            use_dictionary=False,
            column_encoding=dict.fromkeys(_SCHEMA.names, "DELTA_BINARY_PACKED"),
        )
        storage.write_replace(self._path(name), sink.getvalue().to_pybytes())
        return name

    def _path(self, name: str) -> str:
        return storage.join(self._folder, f"{name}.parquet")


def _newest(name: str) -> int:
    """When the newest ids of a file were committed, in seconds since the epoch."""
    return int(name.split("-")[0])


def _rows(name: str) -> int:
    return int(name.split("-")[1])
