"""Keys with their times: which of them are repeated within a horizon.

A key is repeated if one like it, whose time is less than the horizon away, was kept before it. So
the times at which a key is kept are at least a horizon apart.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ...schemas.keys import KeyHashes
from .contest import twins
from .gather import event_times

MOST_KEYS = 4 << 20
"""Keys of a run that is merged with no other: 24 bytes each."""


class TimedKeys(NamedTuple):
    """Hashes of keys, by halves (uint64), and their event times in microseconds (int64)."""

    high: np.ndarray
    low: np.ndarray
    time: np.ndarray

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.high)

    def of(self, rows: np.ndarray) -> TimedKeys:
        """Some of them, by their numbers or a mask."""
        return TimedKeys(self.high[rows], self.low[rows], self.time[rows])

    def after(self, bound: int) -> TimedKeys:
        """Those whose time is after a bound."""
        later = self.time > bound
        return self if later.all() else self.of(later)

    def to_bytes(self) -> bytes:
        """24 bytes a key, little-endian: all of one column, then of the next."""
        columns = zip(self, _TYPES, strict=True)
        return b"".join(np.ascontiguousarray(column, type).tobytes() for column, type in columns)

    @classmethod
    def of_bytes(cls, data: bytes) -> TimedKeys:
        """What :meth:`to_bytes` gave."""
        rows = len(data) // 24
        return cls(*(np.frombuffer(data, t, rows, 8 * rows * i) for i, t in enumerate(_TYPES)))


_TYPES = (np.dtype("<u8"), np.dtype("<u8"), np.dtype("<i8"))
NO_KEYS = TimedKeys.of_bytes(b"")


def with_times(
    hashes: KeyHashes, batch: pa.RecordBatch, event_time: str
) -> tuple[KeyHashes, np.ndarray]:
    """The keys of a batch that have a time, and their times.

    Without one nobody can tell how far a record is from another, and so it is like none.

    Raises:
        KeyColumnError: there is no column ``event_time``, or it does not hold times.
    """
    times, is_known = event_times(batch, event_time)
    if hashes.rows is not None:
        times, is_known = times[hashes.rows], is_known[hashes.rows]
    if is_known.all():
        return hashes, times
    rows = np.flatnonzero(is_known) if hashes.rows is None else hashes.rows[is_known]
    kept = KeyHashes(hashes.kinds, hashes.high[is_known], hashes.low[is_known], rows)
    return kept, times[is_known]


def joined(parts: Iterable[TimedKeys]) -> TimedKeys:
    """All keys of several, sorted by their hashes' first half."""
    some = list(parts)
    if not some:
        return NO_KEYS
    high = np.concatenate([part.high for part in some])
    order = np.argsort(high, kind="stable")  # quick where sorted runs lie one after the other
    low, time = (np.concatenate(column) for column in list(zip(*some, strict=True))[1:])
    return TimedKeys(high[order], low[order], time[order])


def _repeated(keys: TimedKeys, rows: np.ndarray, horizon_us: int) -> np.ndarray:
    """Which of some rows hold keys that are repeated by those of others among them; first come
    those of the lowest numbers."""
    rows = rows[np.lexsort((rows, keys.low[rows], keys.high[rows]))]
    some = keys.of(rows)
    begins = np.ones(len(rows), bool)
    begins[1:] = (some.high[1:] != some.high[:-1]) | (some.low[1:] != some.low[:-1])
    # The first of each key is kept, and so all near it are repeated: mostly these are all.
    group = np.cumsum(begins) - 1
    first = some.time[np.flatnonzero(begins)][group]
    near = np.abs(some.time - first) < horizon_us
    near[begins] = False
    far = np.flatnonzero(~near & ~begins)
    near[far] = list(_repeated_one_by_one(group[far].tolist(), some.time[far].tolist(), horizon_us))
    return rows[near]


def _repeated_one_by_one(
    groups: Sequence[int], times: Sequence[int], horizon_us: int
) -> Iterator[bool]:
    """Which keys are repeated by others of their group before them; groups lie one by one."""
    last, kept = -1, []
    for group, time in zip(groups, times, strict=True):
        if group != last:
            last, kept = group, []
        at = bisect_left(kept, time)
        is_near = any(abs(other - time) < horizon_us for other in kept[max(at - 1, 0) : at + 1])
        if not is_near:
            insort(kept, time)
        yield is_near


def to_merge(rows: Sequence[int]) -> int:
    """How many of the newest runs of keys to make one of, by the sizes of all, the oldest first.

    So there are few runs, and a key is written anew only as often as their sizes double.
    """
    if not rows:
        return 0
    count, held = 1, rows[-1]
    while count < len(rows):
        older = rows[-1 - count]
        if older > 2 * held or older + held > MOST_KEYS:
            break
        count, held = count + 1, held + older
    return count


def is_worn(middle: int, bound: int) -> bool:
    """Whether a run of keys is to be made anew, for half of its times are not after a bound."""
    return middle <= bound


def middle_of(keys: TimedKeys) -> int:
    """A time that about half of the keys are not after."""
    at = (keys.rows - 1) // 2
    return int(np.partition(keys.time, at)[at])


class _Run(NamedTuple):
    """Keys sorted by their hashes' first half, of which there are some."""

    keys: TimedKeys
    newest: int
    middle: int

    @classmethod
    def made(cls, keys: TimedKeys) -> _Run:
        return cls(keys, int(keys.time.max()), middle_of(keys))


class KnownKeys:
    """Keys that were kept, in sorted runs, the oldest first: 24 bytes each.

    Args:
        horizon_us: a key is repeated if one like it is nearer than so many microseconds.
    """

    def __init__(self, horizon_us: int) -> None:
        self._horizon_us = horizon_us
        self._runs: list[_Run] = []

    @property
    def rows(self) -> int:
        """How many are held."""
        return sum(run.keys.rows for run in self._runs)

    def add(self, keys: TimedKeys) -> None:
        """Add keys, in any order."""
        if not keys.rows:
            return
        sizes = [*(run.keys.rows for run in self._runs), keys.rows]
        older = len(sizes) - to_merge(sizes)
        merged = joined([*(run.keys for run in self._runs[older:]), keys])
        self._runs[older:] = [_Run.made(merged)]

    def expire(self, bound: int) -> None:
        """Forget keys whose time is not after a bound; some of them may stay for a while, up to as
        many as there are others."""
        runs = [run for run in self._runs if run.newest > bound]
        self._runs = [
            _Run.made(run.keys.after(bound)) if is_worn(run.middle, bound) else run for run in runs
        ]

    def judge(self, keys: TimedKeys) -> tuple[np.ndarray, TimedKeys]:
        """Which of some keys, in the order in which they come, are repeated; and the others, sorted
        by their ``high``."""
        order = np.argsort(keys.high)  # what is searched for in order is found several times sooner
        sought = keys.of(order)
        near = np.zeros(keys.rows, bool)
        for run in self._runs:
            near |= self._near(sought, run.keys)
        lost = np.empty(keys.rows, bool)
        lost[order] = near
        alike = order[twins(sought.high) & ~near]
        if len(alike):
            lost[_repeated(keys, alike, self._horizon_us)] = True
        return lost, sought.of(~lost[order])

    def _near(self, sought: TimedKeys, held: TimedKeys) -> np.ndarray:
        found = np.zeros(sought.rows, bool)
        at = np.searchsorted(held.high, sought.high)
        rows = np.arange(sought.rows)
        while True:  # once more than any key is held, which mostly is once
            inside = at < held.rows
            at, rows = at[inside], rows[inside]
            same = held.high[at] == sought.high[rows]
            at, rows = at[same], rows[same]
            if not len(at):
                return found
            is_near = np.abs(held.time[at] - sought.time[rows]) < self._horizon_us
            found[rows[is_near & (held.low[at] == sought.low[rows])]] = True
            at = at + 1
