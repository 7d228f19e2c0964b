"""Keys that are there more than once, counted exactly by 128-bit hashes (:mod:`..keys`).

Of a key that is repeated two hashes are as good as all: so runs of hashes hold each key at most
twice, and the repeated keys of several runs together are those of all records.

Nothing is sorted but the first halves of hashes, alone, which takes a sixth of the time that
sorting rows by them does: where no two are alike, as among keys, that is all there is to see.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

BUCKET_BITS = 10
"""So many first bits of hashes tell the bucket."""


class KeyRun(NamedTuple):
    """128-bit hashes as their halves (uint64), bucket by bucket, each at most twice."""

    high: np.ndarray
    low: np.ndarray

    @classmethod
    def of(cls, high: np.ndarray, low: np.ndarray) -> KeyRun:
        """The run of some hashes, in any order, each any number of times."""
        if len(rows := _third_ones(high, low)):
            kept = np.ones(len(high), bool)
            kept[rows] = False
            high, low = high[kept], low[kept]
        order = np.argsort(buckets_of(high), kind="stable")  # of 16 bits it is by radix
        return cls(high[order], low[order])

    @property
    def repeated(self) -> int:
        """The number of keys that are there more than once."""
        rows = _alike(self.high)
        if not len(rows):
            return 0
        _, is_second, is_third = _by_key(self.high[rows], self.low[rows])
        return int((is_second & ~is_third).sum())


def merged(runs: Iterable[KeyRun]) -> KeyRun:
    """The run of all keys of some runs."""
    return KeyRun.of(*_joined(runs))


def repeated_in(runs: Iterable[KeyRun]) -> int:
    """The number of keys that are there more than once in some runs together."""
    return KeyRun(*_joined(runs)).repeated


def buckets_of(high: np.ndarray) -> np.ndarray:
    """The bucket of each hash."""
    return (high >> np.uint64(64 - BUCKET_BITS)).astype(np.uint16)


def _joined(runs: Iterable[KeyRun]) -> tuple[np.ndarray, np.ndarray]:
    held = list(runs)
    nothing = np.empty(0, np.uint64)
    highs, lows = zip(*held, strict=True) if held else ((), ())
    return np.concatenate([nothing, *highs]), np.concatenate([nothing, *lows])


def _alike(high: np.ndarray) -> np.ndarray:
    """The rows whose first half another has too."""
    ordered = np.sort(high)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return np.empty(0, np.int64)
    repeated = repeated[np.concatenate([[True], repeated[1:] != repeated[:-1]])]
    at = np.minimum(np.searchsorted(repeated, high), len(repeated) - 1)
    return np.flatnonzero(repeated[at] == high)


def _by_key(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An order that puts equal keys side by side; which of them, so ordered, follow an equal one,
    and which of those follow two."""
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    is_second = np.zeros(len(order), bool)
    is_second[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    is_third = np.zeros(len(order), bool)
    is_third[1:] = is_second[1:] & is_second[:-1]
    return order, is_second, is_third


def _third_ones(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Rows that repeat a key that two others have already."""
    rows = _alike(high)
    if not len(rows):
        return rows
    order, _, is_third = _by_key(high[rows], low[rows])
    return rows[order[is_third]]
