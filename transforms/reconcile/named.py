"""The rows that are named: their keys and values, read again by the hashes of their keys."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..stored.stored import Stored
from .columns import Compared
from .differences import CHANGED, FEWER, MISSING
from .side import batches_of, hashed, large
from .summary import value_of

MOST_CHANGED = 20_000
"""Of how many changed rows it is counted which columns differ: they are all in memory."""

_Key = tuple[int, int]


class Sample(NamedTuple):
    """A row that is to be named, as :mod:`.spill` has it."""

    kind: int
    high: int
    low: int
    row: int
    partition: int
    source: int
    position: int

    @property
    def key(self) -> _Key:
        """The hash of its key."""
        return self.high, self.low


@dataclass(frozen=True)
class NamedRow:
    """A row that differs.

    Attributes:
        kind: one of :data:`.differences.KINDS`.
        key: the values of its key; of all columns, where rows have no key.
        changes: of a changed row, the columns that differ → the values of both sides.
        source, position: where the row is from, as far as that is known.
    """

    kind: str
    partition: str
    key: Mapping[str, Any]
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    source: str = ""
    position: int | None = None


class Looked(NamedTuple):
    """Samples that were found → key and changes of each; changed rows by the columns that differ,
    and how many of them have been looked at."""

    rows: list[tuple[Sample, Mapping[str, Any], Mapping[str, tuple[Any, Any]]]]
    columns: Counter[str]
    looked_at: int


def look(
    source: Stored,
    destination: Stored,
    compared: Compared,
    samples: Sequence[Sample],
    changed: Sequence[_Key],
) -> Looked:
    """Read the rows again that have been sampled, and all of the keys of changed rows."""
    if not samples and not changed:
        return Looked([], Counter(), 0)
    of_source = [s.key for s in samples if s.kind in (CHANGED, MISSING, FEWER)]
    of_destination = [s.key for s in samples if s.kind not in (MISSING, FEWER)]
    here = _Rows.read(source, compared, [*of_source, *changed])
    there = _Rows.read(destination, compared, [*of_destination, *changed])
    columns: Counter[str] = Counter()
    pairs: dict[tuple[_Key, int], tuple[int, int]] = {}
    for key in dict.fromkeys([*changed, *(s.key for s in samples if s.kind == CHANGED)]):
        for one, other in _pairs(key, here, there):
            pairs[key, here.hashes[one]] = one, other
            columns.update(_differing(one, other, here, there, compared))
    named = []
    for sample in samples:
        if sample.kind == CHANGED:
            if pair := pairs.get((sample.key, sample.row)):
                named.append((sample, here.key(pair[0]), _changes(*pair, here, there, compared)))
            continue
        side = here if sample.kind in (MISSING, FEWER) else there
        for place in side.places[sample.key]:
            if side.hashes[place] == sample.row:
                named.append((sample, side.key(place), {}))
                break
    return Looked(named, columns, len(pairs))


class _Rows:
    """Rows of some keys of a side, all in memory."""

    def __init__(self, compared: Compared) -> None:
        self.places: defaultdict[_Key, list[int]] = defaultdict(list)
        self.hashes: list[int] = []
        self.columns: dict[str, list[int]] = {name: [] for name in compared.schema.names}
        self._batches: list[pa.RecordBatch] = []
        self._shown = compared.key or tuple(compared.schema.names)

    @classmethod
    def read(cls, stored: Stored, compared: Compared, keys: Sequence[_Key]) -> _Rows:
        """The rows of these keys."""
        rows = cls(compared)
        if not keys:
            return rows
        wanted = np.unique(np.array([high for high, _ in keys], np.uint64))
        known = set(keys)
        for batch in large(batches_of(stored, compared)):
            found = hashed(batch, compared)
            places = np.flatnonzero(np.isin(found.keys.high, wanted))
            if not len(places):
                continue
            some = zip(
                found.keys.high[places].tolist(), found.keys.low[places].tolist(), strict=True
            )
            kept = [place for place, key in zip(places.tolist(), some, strict=True) if key in known]
            rows._add(batch, found, np.array(kept, np.int64))
        return rows

    def key(self, place: int) -> dict[str, Any]:
        """The values of a row's key."""
        return {name: self.value(name, place) for name in self._shown}

    def value(self, name: str, place: int) -> Any:
        """A value of a row."""
        return value_of(self._table[name][place])

    @cached_property
    def _table(self) -> pa.Table:
        return pa.Table.from_batches(self._batches)

    def _add(self, batch: pa.RecordBatch, found: Any, places: np.ndarray) -> None:
        first = len(self.hashes)
        highs, lows = (half[places].tolist() for half in found.keys)
        for number, key in enumerate(zip(highs, lows, strict=True)):
            self.places[key].append(first + number)
        self.hashes += found.rows.low[places].tolist()
        for name, column in found.columns.items():
            self.columns[name] += column.low[places].tolist()
        self._batches.append(batch.take(pa.array(places)))


def _pairs(key: _Key, here: _Rows, there: _Rows) -> list[tuple[int, int]]:
    """Rows of a key that stand for each other: what is alike on both sides has none."""
    ours, theirs = here.places[key], there.places[key]
    held = Counter(here.hashes[i] for i in ours) & Counter(there.hashes[i] for i in theirs)
    left = [_left(rows, places, Counter(held)) for rows, places in ((here, ours), (there, theirs))]
    return list(zip(*left, strict=False))


def _left(rows: _Rows, places: Sequence[int], alike: Counter[int]) -> list[int]:
    """The rows that nothing is like, by their hashes."""
    left = []
    for place in sorted(places, key=lambda place: rows.hashes[place]):
        if alike[rows.hashes[place]]:
            alike[rows.hashes[place]] -= 1
        else:
            left.append(place)
    return left


def _differing(one: int, other: int, here: _Rows, there: _Rows, compared: Compared) -> list[str]:
    return [
        name
        for name in compared.schema.names
        if here.columns[name][one] != there.columns[name][other]
    ]


def _changes(
    one: int, other: int, here: _Rows, there: _Rows, compared: Compared
) -> dict[str, tuple[Any, Any]]:
    return {
        name: (here.value(name, one), there.value(name, other))
        for name in _differing(one, other, here, there, compared)
    }
