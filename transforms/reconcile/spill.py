"""Hashes of a side's rows, sorted in runs: in memory if they are few, else in files.

A row takes 40 bytes. A run is sorted by the first half of the keys' hashes, so that a part of all
keys is a range of each run.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .. import storage

ROW = np.dtype(
    [
        ("high", "<u8"),
        ("low", "<u8"),
        ("row", "<u8"),
        ("partition", "<i4"),
        ("source", "<i4"),
        ("position", "<i8"),
    ]
)
"""A row: the hash of its key; half of that of all its columns, which is compared only among rows of
one key; its partition; the number of its source and its position there, or -1."""
KEYED = np.uint64(1)
"""Bit of ``low`` that is set if the key is one: not where there is no key, or a null in it, so that
the row itself stands for it."""

RUN_ROWS = 1 << 19
_BUCKETS = 256
_BOUNDS = np.arange(1, _BUCKETS, dtype=np.uint64) << np.uint64(64 - 8)


class _Run(NamedTuple):
    """Rows, or the file that has them, and where each bucket begins."""

    rows: np.ndarray | None
    path: str
    bounds: np.ndarray


class Spill:
    """The rows of one side. Threads may add to it.

    Args:
        folder: where files go; delete it afterwards.

    Methods raise ``StorageError`` when a file cannot be written or read.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._held: list[np.ndarray] = []
        self._rows = 0
        self._runs: list[_Run] = []

    def add(self, rows: np.ndarray) -> None:
        """Add rows, an array of :data:`ROW`."""
        with self._lock:
            self._held.append(rows)
            self._rows += len(rows)
            if self._rows < RUN_ROWS:
                return
            held, self._held, self._rows = self._held, [], 0
        run = self._written(_sorted(held))
        with self._lock:
            self._runs.append(run)

    def close(self) -> None:
        """Say that there are no more rows."""
        if self._held:
            rows = _sorted(self._held)
            self._runs.append(_Run(rows, "", _bounds(rows)))
            self._held = []

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each bucket."""
        none = np.zeros(_BUCKETS, np.int64)
        return sum((np.diff(run.bounds) for run in self._runs), none)

    def read(self, first: int, last: int) -> np.ndarray:
        """The rows of some buckets."""
        parts = [
            self._part(run, int(run.bounds[first]), int(run.bounds[last])) for run in self._runs
        ]
        return np.concatenate(parts) if parts else np.empty(0, ROW)

    def _part(self, run: _Run, start: int, end: int) -> np.ndarray:
        if run.rows is not None:
            return run.rows[start:end]
        with storage.named(run.path, "read"), storage.open_read(run.path) as file:
            file.seek(start * ROW.itemsize)
            data = file.read((end - start) * ROW.itemsize)
        return np.frombuffer(data, ROW)

    def _written(self, rows: np.ndarray) -> _Run:
        path = storage.join(self._folder, f"{uuid.uuid4().hex}.rows")
        with storage.named(path, "write"), storage.open_write(path) as file:
            file.write(rows.view(np.uint8).data)
        return _Run(None, path, _bounds(rows))


def bucket_ranges(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of buckets that hold at most so many rows, or are a single bucket."""
    first = held = 0
    for bucket, size in enumerate(sizes.tolist()):
        if held and held + size > most:
            yield first, bucket
            first, held = bucket, 0
        held += size
    if held:
        yield first, len(sizes)


def _sorted(parts: list[np.ndarray]) -> np.ndarray:
    rows = np.concatenate(parts)
    return rows[np.argsort(rows["high"])]


def _bounds(rows: np.ndarray) -> np.ndarray:
    inner = np.searchsorted(rows["high"], _BOUNDS)
    return np.concatenate([[0], inner, [len(rows)]]).astype(np.int64)
