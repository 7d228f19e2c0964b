"""Two places held against each other: partitions by their summaries, and of those that differ the
rows by their keys.

Each side is read once. Only where partitions differ are hashes of rows compared, and both sides
read again for the values of the few rows that are named.
"""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..stored.filter import Compare, Filter
from ..stored.stored import Stored
from .columns import Compared
from .differences import ALIKE, CHANGED, EXTRA, FEWER, KINDS, MISSING, MORE, Judged, judge
from .named import MOST_CHANGED, NamedRow, Sample, look
from .parts import Names
from .side import Side, read_side
from .spill import bucket_ranges
from .summary import Summary

_JUDGED_ROWS = 1 << 20
"""Rows that are held against each other at once: some 200 bytes each."""


class Explains(Protocol):
    """Says why rows of the source are not in the destination as they are."""

    def __call__(
        self, rows: np.ndarray, kinds: np.ndarray, sources: Sequence[str]
    ) -> Sequence[str]:
        """The reason for each row; empty where there is none.

        Args:
            rows: an array of :data:`.spill.ROW`.
            kinds: numbers of :data:`.differences.KINDS`: ``missing``, ``fewer`` or ``changed``.
            sources: the names of sources by their numbers.
        """
        ...


@dataclass
class Partition:
    """A partition of both sides. ``kinds`` counts the rows that differ, by :data:`KINDS`, and
    ``explained`` those of them that have a reason; keys are how many different ones each side has,
    where the partition has been looked into."""

    name: str
    source: Summary
    destination: Summary
    kinds: Counter[str] = field(default_factory=Counter)
    explained: int = 0
    source_keys: int = 0
    destination_keys: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether there is a reason for every row that differs."""
        return self.kinds.total() == self.explained

    @property
    def is_alike(self) -> bool:
        """Whether both sides have the same rows."""
        return self.source.is_like(self.destination)


@dataclass
class Reconciled:
    """What the comparison of two places has come to.

    Attributes:
        partitions: all of them, by name.
        reasons: rows of the source that are not in the destination for a reason, by that.
        explained: the same rows, by what they are.
        named: some of the rows that differ for none.
        changed: of changed rows, in how many each column differs; ``looked_at`` says of how many.
    """

    compared: Compared
    partitions: list[Partition]
    reasons: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    named: list[NamedRow] = field(default_factory=list)
    changed: Mapping[str, int] = field(default_factory=dict)
    looked_at: int = 0

    @property
    def kinds(self) -> Counter[str]:
        """Rows that differ, by what they are; those with a reason are among them."""
        return sum((partition.kinds for partition in self.partitions), Counter())

    @property
    def unexplained(self) -> int:
        """Rows that differ for no reason that is known."""
        return self.kinds.total() - self.reasons.total()

    @property
    def source_rows(self) -> int:
        """The rows of the source."""
        return sum(partition.source.rows for partition in self.partitions)

    @property
    def destination_rows(self) -> int:
        """The rows of the destination."""
        return sum(partition.destination.rows for partition in self.partitions)


def reconcile(
    source: Stored,
    destination: Stored,
    compared: Compared,
    folder: str,
    *,
    rows: int = 10,
    explain: Explains | None = None,
    threads: int | None = None,
) -> Reconciled:
    """Hold two places against each other.

    Args:
        source, destination: opened for the columns that are compared, the source perhaps with
            ``_source`` and ``_position`` besides.
        folder: for hashes that wait, 40 bytes a row; delete it afterwards.
        rows: how many rows of a kind are named, at most.
        threads: that hash rows, for each side; else half of the processors.

    Raises:
        ValueError: rows cannot be compared so.
        DestinationError: a side cannot be read as these columns.
        Unavailable: a service does not answer.
        StorageError: a file cannot be read or written.
    """
    compared.check()
    names, sources = Names(), Names()
    sides = [Side(compared, names, sources, folder) for _ in range(2)]
    count = threads or max(1, _processors() // 2)
    with ThreadPoolExecutor(2) as pool:
        read = [
            pool.submit(read_side, stored, compared, side, count)
            for stored, side in zip((source, destination), sides, strict=True)
        ]
        for future in read:
            future.result()
    none = Summary()
    partitions = [
        Partition(name, sides[0].summaries.get(number, none), sides[1].summaries.get(number, none))
        for number, name in enumerate(names.all)
    ]
    looking = _Looking(partitions, rows, explain, sources.all)
    if not all(partition.is_alike for partition in partitions):
        looking.at(*sides)
    again = _narrowed(compared, [p for p in partitions if not p.is_alike])
    found = look(source, destination, again, looking.samples, looking.changed)
    return Reconciled(
        compared,
        sorted(partitions, key=lambda partition: partition.name),
        looking.reasons,
        looking.explained,
        [_placed(*row, names.all, sources.all) for row in found.rows],
        found.columns,
        found.looked_at,
    )


def _narrowed(compared: Compared, partitions: Sequence[Partition]) -> Compared:
    """The same, of the rows between the least and the most of what these partitions hold of what
    they are divided by: files and row groups without such are passed over."""
    where = compared.where
    for name in dict.fromkeys(by.column for by in compared.by):
        held = [
            summary.columns[name]
            for partition in partitions
            for summary in (partition.source, partition.destination)
            if summary.rows
        ]
        ends = [end for column in held for end in (column.least, column.most)]
        is_plain = all(isinstance(end, str | int | dt.date) for end in ends)
        if ends and is_plain and not any(column.nulls for column in held):
            bounds = (Compare(name, ">=", min(ends)), Compare(name, "<=", max(ends)))
            where = where & Filter(bounds)
    return replace(compared, where=where)


def _placed(
    sample: Sample,
    key: Mapping[str, Any],
    changes: Mapping[str, tuple[Any, Any]],
    names: Sequence[str],
    sources: Sequence[str],
) -> NamedRow:
    return NamedRow(
        kind=KINDS[sample.kind],
        partition=names[sample.partition],
        key=key,
        changes=changes,
        source=sources[sample.source] if sample.source >= 0 else "",
        position=sample.position if sample.position >= 0 else None,
    )


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Looking:
    """Looks into the partitions that differ.

    Attributes:
        samples: rows to be named: those that have no reason, of each kind the first by their keys'
            hashes, which are the same whatever the order of rows.
        changed: keys of changed rows.
    """

    def __init__(
        self,
        partitions: Sequence[Partition],
        rows: int,
        explain: Explains | None,
        sources: Sequence[str],
    ) -> None:
        self.reasons: Counter[str] = Counter()
        self.explained: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.changed: list[tuple[int, int]] = []
        self._partitions = partitions
        self._differs = np.array([not partition.is_alike for partition in partitions])
        self._lacking = dict.fromkeys((CHANGED, MISSING, FEWER, EXTRA, MORE), rows)
        self._explain = explain
        self._sources = sources

    def at(self, source: Side, destination: Side) -> None:
        """Hold all rows of these partitions against each other."""
        sizes = source.spill.sizes + destination.spill.sizes
        for first, last in bucket_ranges(sizes, _JUDGED_ROWS):
            ours = self._differing(source.spill.read(first, last))
            theirs = self._differing(destination.spill.read(first, last))
            if len(ours) or len(theirs):
                self._take(ours, theirs, judge(ours, theirs))

    def _differing(self, rows: np.ndarray) -> np.ndarray:
        rows = rows[self._differs[rows["partition"]]]
        return rows[np.argsort(rows["high"], kind="stable")]  # so that samples are the first

    def _take(self, ours: np.ndarray, theirs: np.ndarray, found: Judged) -> None:
        self._count(ours, found.source)
        self._count(theirs[found.destination != CHANGED], _others(found.destination))
        for number, keys in enumerate(self._keys(ours, found.source_first)):
            self._partitions[number].source_keys += keys
        for number, keys in enumerate(self._keys(theirs, found.destination_first)):
            self._partitions[number].destination_keys += keys
        bare = self._without_reason(ours, found.source)
        self._sample(ours[bare], found.source[bare])
        is_surplus = (found.destination == EXTRA) | (found.destination == MORE)
        self._sample(theirs[is_surplus], found.destination[is_surplus])
        changed = ours[bare[found.source[bare] == CHANGED]][: MOST_CHANGED - len(self.changed)]
        self.changed += zip(changed["high"].tolist(), changed["low"].tolist(), strict=True)

    def _count(self, rows: np.ndarray, kinds: np.ndarray) -> None:
        counts = np.bincount(
            rows["partition"].astype(np.int64) * len(KINDS) + kinds,
            minlength=len(self._partitions) * len(KINDS),
        ).reshape(-1, len(KINDS))
        for number, kind in zip(*np.nonzero(counts), strict=True):
            if kind != ALIKE:
                self._partitions[number].kinds[KINDS[kind]] += int(counts[number, kind])

    def _keys(self, rows: np.ndarray, first: np.ndarray) -> list[int]:
        found = np.bincount(rows["partition"][first], minlength=len(self._partitions))
        return found.tolist()

    def _without_reason(self, rows: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """The places of rows of the source that differ, and for which there is no reason."""
        gone = np.flatnonzero(kinds != ALIKE)
        told = [""] * len(gone)
        if self._explain and len(gone):
            told = list(self._explain(rows[gone], kinds[gone], self._sources))
        self.reasons.update(reason for reason in told if reason)
        is_bare = np.array([not reason for reason in told], bool)
        for number, count in enumerate(np.bincount(rows["partition"][gone[~is_bare]]).tolist()):
            self._partitions[number].explained += count
        for kind, count in enumerate(np.bincount(kinds[gone[~is_bare]]).tolist()):
            self.explained[KINDS[kind]] += count
        return gone[is_bare]

    def _sample(self, rows: np.ndarray, kinds: np.ndarray) -> None:
        for kind, lacking in self._lacking.items():
            for row in rows[kinds == kind][:lacking]:
                high, low, half, partition, source, position = row.tolist()
                self.samples.append(Sample(kind, high, low, half, partition, source, position))
                self._lacking[kind] -= 1


def _others(kinds: np.ndarray) -> np.ndarray:
    """Without changed rows, which are counted where they are from."""
    return kinds[kinds != CHANGED]
