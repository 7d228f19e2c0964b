"""Resolve: the indexes of a shard to the rows that each spill file has lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import numpy as np

from ...schemas.keys import KeyColumnError
from .contest import beaten, ranks_of, twins
from .index import COLUMNS, Slice, open_index

RESOLVE_KEYS = 2 << 20
"""Keys that are held against each other at once, about: 30 bytes each, 100 if all are alike."""


class Lost(NamedTuple):
    """The numbers of the rows that a spill file has lost in one shard, as int32."""

    shard: int
    rows: bytes


class ResolveShard(beam.DoFn):
    """(shard, its slices) to (spill file, :class:`Lost`), for each spill file once."""

    def __init__(self, key: Sequence[str]) -> None:
        self._key = tuple(key)

    def process(self, element: tuple[int, Iterable[Slice]]) -> Iterator[tuple[str, Lost]]:
        shard, found = element
        slices = list(found)
        check_kinds(self._key, slices)
        lost = {part.file.spill: [lost_before(part)] for part in slices}
        filled = [part for part in slices if part.keys]
        # An index is without duplicates of its own.
        for first, last in bucket_ranges(filled) if len(filled) > 1 else ():
            for spill, rows in _lost_among(filled, first, last):
                lost[spill].append(rows)
        lost.pop("", None)  # the taken keys, which are in no spill file
        for spill, arrays in lost.items():
            yield spill, Lost(shard, np.concatenate(arrays).tobytes())


def check_kinds(key: Sequence[str], slices: Iterable[Slice]) -> None:
    """See that the keys of all slices can be compared.

    Raises:
        KeyColumnError: they cannot.
    """
    origins = {part.file.kinds: part.file.origin for part in slices if part.file.keys}
    if len(origins) > 1:
        said = (f"{', '.join(kinds)} in {origin}" for kinds, origin in origins.items())
        raise KeyColumnError(
            f"key ({', '.join(key)}): {'; '.join(sorted(said))}: such keys cannot be compared"
        )


def lost_before(part: Slice) -> np.ndarray:
    """Rows that were lost when the index was written; only the first shard answers for them."""
    if part.shard or not part.file.lost:
        return np.empty(0, np.int32)
    with open_index(part.file) as index:
        return index.lost()


def bucket_ranges(slices: Sequence[Slice]) -> Iterator[tuple[int, int]]:
    """Ranges of the shard's buckets with at most ``RESOLVE_KEYS`` keys, or of one bucket.

    Args:
        slices: those of a shard that hold keys, of which there are some.
    """
    first = held = 0
    counts = np.sum([np.diff(part.bounds) for part in slices], axis=0)
    for bucket, count in enumerate(counts.tolist()):
        if held and held + count > RESOLVE_KEYS:
            yield first, bucket
            first, held = bucket, 0
        held += count
    yield first, len(counts)


def _lost_among(slices: Sequence[Slice], first: int, last: int) -> Iterator[tuple[str, np.ndarray]]:
    """The spill files and the rows in them that have lost, by the keys of some buckets."""
    highs = [highs_of(part, first, last) for part in slices]
    starts = np.cumsum([0, *map(len, highs)])
    high = np.concatenate(highs)
    order = np.argsort(high, kind="stable")  # quick where sorted runs lie one after the other
    alike = np.sort(order[twins(high[order])])
    if not len(alike):
        return
    cuts = np.searchsorted(alike, starts)
    held = [
        Contestants.of(part, part.bounds[first] + alike[a:b] - start)
        for part, start, a, b in zip(slices, starts, cuts, cuts[1:], strict=False)
    ]
    gone = beaten(high[alike], np.concatenate([some.low for some in held]), ranks_of_all(held))
    for part, some, a, b in zip(slices, held, cuts, cuts[1:], strict=False):
        yield part.file.spill, some.row[gone[a:b]]


def highs_of(part: Slice, first: int, last: int) -> np.ndarray:
    """The first halves of the hashes of a slice's keys in some buckets."""
    start, end = part.bounds[first], part.bounds[last]
    if start == end:
        return np.empty(0, np.uint64)
    with open_index(part.file) as index:
        return index.column("high", start, end)


class Contestants(NamedTuple):
    """Keys of an index that have others like them."""

    taken: bool
    low: np.ndarray
    time: np.ndarray
    source: np.ndarray
    position: np.ndarray
    row: np.ndarray
    sources: list[str]

    @classmethod
    def of(cls, part: Slice, keys: np.ndarray) -> Contestants:
        """Some keys of a slice, by their numbers in the index, in order."""
        taken = not part.file.spill
        columns = {name: np.zeros(len(keys), type) for name, type in COLUMNS.items()}
        sources = [""]
        if len(keys):
            start, end = int(keys[0]), int(keys[-1]) + 1
            with open_index(part.file) as index:
                for name in index.names:
                    columns[name] = index.column(name, start, end)[keys - start]
                if not taken:
                    sources = index.sources()
        del columns["high"]
        return cls(taken, **columns, sources=sources)


def ranks_of_all(held: Sequence[Contestants]) -> list[np.ndarray]:
    """By what keys of one hash are ordered: taken ones first, then time, source and position."""
    names = {name for some in held for name in some.sources}
    return [
        np.concatenate([np.full(len(some.low), not some.taken) for some in held]),
        np.concatenate([some.time for some in held]),
        np.concatenate([ranks_of(some.sources, names)[some.source] for some in held]),
        np.concatenate([some.position for some in held]),
    ]
