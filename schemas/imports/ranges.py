"""How far values reach, and whether all of them differ: mergeable, a batch at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ..contract import Rule
from .imported import Notes, Path

_HASHES = 20_000_000
"""Values up to which it is found out whether all differ."""
_LEAST_KEY = 10
"""Values from which on it is worth a word that all differ."""


class Different:
    """Whether all values of a column differ: sure if it says no, by 64 bits of a hash else."""

    def __init__(self) -> None:
        self._seen: list[np.ndarray] | None = []
        self._count = 0
        self._next = 1 << 17

    def add(self, values: pa.Array) -> None:
        """Take values, none of them null."""
        if self._seen is None:
            return
        if len(pc.unique(values)) < len(values) or self._count > _HASHES:
            self._seen = None
            return
        if pt.is_integer(values.type):
            hashes = values.to_numpy(zero_copy_only=False).astype(np.int64)
        else:
            hashes = np.fromiter(map(hash, values.to_pylist()), np.int64, len(values))
        self._seen.append(hashes)
        self._count += len(values)
        if self._count > self._next:
            self._next *= 2
            self._look()

    def _look(self) -> None:
        if self._seen:
            every = np.concatenate(self._seen)
            every.sort()  # of a million, ten times as fast as np.unique
            self._seen = None if (every[1:] == every[:-1]).any() else [every]

    def all(self) -> bool:
        """Whether all values differed, of so many that it means something."""
        self._look()
        return self._seen is not None and self._count >= _LEAST_KEY


class Numbers:
    """Integers, or numbers: their range, and whether all differ."""

    def __init__(self) -> None:
        self.count = 0
        self.low: Any = None
        self.high: Any = None
        self.different = Different()

    def add(self, values: pa.Array) -> None:
        """Take values, none of them null."""
        bounds = pc.min_max(values).as_py()
        self.add_range(len(values), bounds["min"], bounds["max"])
        self.different.add(values)

    def add_range(self, count: int, low: Any, high: Any) -> None:
        """Take values of which only the ends are known."""
        self.count += count
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)


def range_rules(numbers: Numbers, path: Path, notes: Notes, tight: bool) -> tuple[Rule, ...]:
    """The rules that a range makes: of numbers that are never below zero, that; or both its ends.

    What was seen is noted.
    """
    if numbers.low is None:
        return ()
    low, high = numbers.low, numbers.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return ()
    notes.add(path, f"{low:,} to {high:,}")
    if tight and all(v == 0 or 1e-300 < abs(v) < 1e300 for v in (low, high)):
        return (Rule("minimum", low), Rule("maximum", high))
    return (Rule("minimum", type(low)(0)),) if low >= 0 else ()
