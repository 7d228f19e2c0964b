"""The keys of many records as files: sorted by hash, so that a part of all hashes is a range.

An index file holds one column after the other, each an array of its type below; then the lost
rows, and the sources' names as JSON. It is read only by the run that wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np

from .. import storage

_ROW = np.dtype("<i4")
COLUMNS = {
    "high": np.dtype("<u8"),
    "low": np.dtype("<u8"),
    "time": np.dtype("<i8"),
    "source": np.dtype("<i4"),
    "position": np.dtype("<i8"),
    "row": _ROW,
}
"""The columns of an index of records: 40 bytes a key. One of taken keys has only the hash, and
perhaps the time."""

BUCKETS = 1024
"""Equal parts of all hashes: the smallest that can be read alone, and the most shards."""
_BOUNDS = np.arange(1, BUCKETS, dtype=np.uint64) << np.uint64(64 - 10)


class IndexFile(NamedTuple):
    """An index file: of ``keys`` keys of records in the file ``spill``, or of taken keys.

    ``spill`` is empty for taken keys; ``origin`` says to a user where the keys are from. ``lost``
    rows have an earlier one with the same key in the same spill file: they are in no column.
    ``timed`` says whether taken keys have times.
    """

    path: str
    spill: str
    origin: str
    kinds: tuple[str, ...]
    keys: int
    lost: int = 0
    timed: bool = False


class Slice(NamedTuple):
    """A shard's part of an index file.

    ``bounds`` are the rows of the index between which the shard's buckets lie. The first shard
    answers for the lost rows of the whole file.
    """

    file: IndexFile
    shard: int
    bounds: tuple[int, ...]

    @property
    def keys(self) -> int:
        return self.bounds[-1] - self.bounds[0]


class IndexReader:
    """An open index file."""

    def __init__(self, file: IndexFile, handle: BinaryIO) -> None:
        self._file = file
        self._handle = handle
        self._starts: dict[str, int] = {}
        self._end = 0
        for name in _columns_of(file):
            self._starts[name] = self._end
            self._end += COLUMNS[name].itemsize * file.keys

    @property
    def names(self) -> list[str]:
        """Its columns."""
        return list(self._starts)

    def column(self, name: str, start: int, end: int) -> np.ndarray:
        """Some rows of a column."""
        size = COLUMNS[name].itemsize
        return np.frombuffer(
            self._read(self._starts[name] + start * size, (end - start) * size), COLUMNS[name]
        )

    def lost(self) -> np.ndarray:
        """The lost rows."""
        return np.frombuffer(self._read(self._end, self._file.lost * _ROW.itemsize), _ROW)

    def sources(self) -> list[str]:
        """The names that the column ``source`` refers to."""
        return msgspec.json.decode(self._read(self._end + self._file.lost * _ROW.itemsize, -1))

    def _read(self, start: int, size: int) -> bytes:
        self._handle.seek(start)
        data = self._handle.read(size)
        if len(data) < size:
            raise storage.StorageError(f"cannot read {self._file.path}: it is too short")
        return data


@contextmanager
def open_index(file: IndexFile) -> Iterator[IndexReader]:
    """An index file to read from.

    Raises:
        StorageError: it cannot be read.
    """
    with storage.named(file.path, "read"), storage.open_read(file.path) as handle:
        yield IndexReader(file, handle)


def write_index(
    file: IndexFile, columns: dict[str, np.ndarray], lost: np.ndarray, sources: Sequence[str]
) -> None:
    """Write an index file; ``columns`` are sorted by their ``high``.

    Raises:
        StorageError: it cannot be written.
    """
    arrays = [(columns[name], COLUMNS[name]) for name in _columns_of(file)]
    with storage.named(file.path, "write"), storage.open_write(file.path) as handle:
        for array, type in [*arrays, (lost, _ROW)]:
            handle.write(np.ascontiguousarray(array, type).view(np.uint8).data)
        handle.write(msgspec.json.encode(sources))


def _columns_of(file: IndexFile) -> list[str]:
    if file.spill:
        return list(COLUMNS)
    return ["high", "low", "time"] if file.timed else ["high", "low"]


def check_parts(key: Sequence[str], shards: int) -> None:
    """See that keys can be divided so.

    Raises:
        ValueError: no key; too few or too many shards.
    """
    if isinstance(key, str) or not key:
        raise ValueError(f"key: expected the names of one or more fields, got {key!r}")
    if not 1 <= shards <= BUCKETS:
        raise ValueError(f"shards: expected 1 to {BUCKETS}, got {shards}")


def slices(file: IndexFile, high: np.ndarray, shards: int) -> list[Slice]:
    """An index file's part for each shard, also for those for which it has no key."""
    ends = np.searchsorted(high, _BOUNDS)
    bounds = [0, *ends.tolist(), len(high)]
    cuts = _cuts(shards)
    return [
        Slice(file, shard, tuple(bounds[cuts[shard] : cuts[shard + 1] + 1]))
        for shard in range(shards)
    ]


def shard_bounds(shards: int) -> np.ndarray:
    """The first halves of hashes at which each shard but the first begins."""
    return _BOUNDS[[cut - 1 for cut in _cuts(shards)[1:-1]]]


def _cuts(shards: int) -> list[int]:
    """The bucket at which each shard begins, and the end of the last."""
    return [shard * BUCKETS // shards for shard in range(shards + 1)]
