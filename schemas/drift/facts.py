"""What was noticed of records that their contract does not foresee, as counts that merge in any
order.

Counts are of records, and exact. Of very many places, or of very many things seen at one place,
those are told that come first by name: so that counts merge exactly whatever they were counted in,
none is ever dropped and found again. ``more`` says that there were others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property, reduce
from itertools import takewhile
from operator import itemgetter
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from .shapes import Shape

Kind = Literal["field", "type", "value"]
"""An unknown field; a value of a wider type than its field's; a value that is none of the valid."""
Key = tuple[Kind, str]
"""A kind and the path of a field, as ``lines[].price``."""
Found = dict[Key, dict[str, list[tuple[int, Any]]]]
"""By what was seen there: rows of a batch, ascending, each with the value as JSON."""

PLACES = 500
"""Kinds and paths that are told of a run."""
SEEN = 100
"""Types or values that are told of a place."""
SAMPLES = 5
"""Samples of each of them: the first, by source and position."""
SHOWN = 80
"""Characters of a value that a sample repeats."""


class Sample(msgspec.Struct, frozen=True):
    """Where something was seen, and the value as JSON, cut short."""

    source: str
    position: str
    value: str

    @property
    def order(self) -> tuple[str, int, str, str]:
        """By source, then by position, which is a number or begins with one."""
        return self.source, len(self.position), self.position, self.value


class Seen(msgspec.Struct, frozen=True):
    """In how many records something was seen, and the first of them."""

    records: int
    samples: tuple[Sample, ...] = ()


class Place(msgspec.Struct, frozen=True):
    """What was seen at a path, in how many records. ``shape`` is that of an unknown field."""

    records: int
    seen: dict[str, Seen]
    more: bool = False
    shape: Shape | None = None


class Drift(msgspec.Struct, frozen=True):
    """What was noticed of some records, of which ``records`` drifted."""

    records: int
    places: dict[Key, Place]
    more: bool = False


NOTHING = Drift(0, {})


def renumbered(found: Found, rows: np.ndarray) -> Found:
    """What was found of some rows of a batch, by their numbers in it.

    Args:
        rows: the number of each of them.
    """
    return {
        key: {what: [(int(rows[i]), v) for i, v in pairs] for what, pairs in seen.items()}
        for key, seen in found.items()
    }


def extend(found: Found, more: Found) -> None:
    """Add what was found of other rows."""
    for key, seen in more.items():
        for what, pairs in seen.items():
            found.setdefault(key, {}).setdefault(what, []).extend(pairs)


def without(found: Found, rows: Collection[int]) -> Found | None:
    """What was found in other rows than these; ``None`` if nothing was."""
    if not rows:
        return found or None
    left: Found = {}
    for key, seen in found.items():
        kept = {what: [p for p in pairs if p[0] not in rows] for what, pairs in seen.items()}
        if kept := {what: pairs for what, pairs in kept.items() if pairs}:
            left[key] = kept
    return left or None


def merged(drifts: Iterable[Drift]) -> Drift:
    """What was noticed of the records of all: in any order, and split in any way, the same."""
    return reduce(_both, drifts, NOTHING)


def _both(a: Drift, b: Drift) -> Drift:
    if not a.records or not b.records:
        return a if a.records else b
    places = dict(a.places)
    for key, place in b.places.items():
        places[key] = _place(places[key], place) if key in places else place
    kept, more = _first(places, PLACES)
    return Drift(a.records + b.records, kept, a.more or b.more or more)


def _place(a: Place, b: Place) -> Place:
    seen = dict(a.seen)
    for what, other in b.seen.items():
        seen[what] = _seen(seen[what], other) if what in seen else other
    kept, more = _first(seen, SEEN)
    shape = a.shape.merged(b.shape) if a.shape and b.shape else a.shape or b.shape
    return Place(a.records + b.records, kept, a.more or b.more or more, shape)


def _seen(a: Seen, b: Seen) -> Seen:
    samples = sorted((*a.samples, *b.samples), key=lambda sample: sample.order)
    return Seen(a.records + b.records, tuple(samples[:SAMPLES]))


def _first(named: dict[Any, Any], most: int) -> tuple[dict[Any, Any], bool]:
    """The first by name, and whether that is not all."""
    if len(named) <= most:
        return named, False
    return {name: named[name] for name in sorted(named)[:most]}, True


class Rows:
    """Where the rows of a batch come from.

    Args:
        sources: of each row.
        positions: of each row.
    """

    def __init__(self, sources: pa.Array, positions: pa.Array) -> None:
        self._sources = sources
        self._positions = positions

    def sample(self, row: int, value: Any) -> Sample:
        """A row's sample of a value, which is JSON."""
        source, position = self._sources[row].as_py(), self._positions[row].as_py()
        text = value.decode() if isinstance(value, bytes) else value
        text = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
        return Sample(source or "", "" if position is None else str(position), text)

    @cached_property
    def ascend(self) -> bool:
        """Whether rows are in the order of samples."""
        if not pa.types.is_integer(self._positions.type) or self._positions.null_count:
            return False
        positions = self._positions.to_numpy()
        return len(self._sources.unique()) == 1 and bool(
            (np.diff(positions) > 0).all() and positions[0] >= 0
        )


def drift_of(found: Found, rows: Rows, shapes: Mapping[str, Shape] | None = None) -> Drift | None:
    """What was noticed of the rows of a batch, as counts; ``None`` if it was nothing.

    Args:
        shapes: of unknown fields, by their paths.
    """
    if not found:
        return None
    told_of, more_places = _first(found, PLACES)
    places = {}
    for key, seen in told_of.items():
        once = "[" not in key[1]  # in arrays, a record may have it several times
        kept, more = _first(seen, SEEN)
        told = {
            what: Seen(_records([pairs], once), _samples(pairs, rows))
            for what, pairs in kept.items()
        }
        shape = shapes.get(key[1]) if shapes and key[0] == "field" else None
        places[key] = Place(_records(list(seen.values()), once), told, more, shape)
    every = [pairs for seen in found.values() for pairs in seen.values()]
    once = len(found) == 1 and "[" not in next(iter(found))[1]
    return Drift(_records(every, once), places, more_places)


def _records(several: list[list[tuple[int, Any]]], once: bool) -> int:
    """In how many records something was seen.

    Args:
        once: no record is there twice.
    """
    if once:
        return sum(map(len, several))
    return len(set().union(*(map(itemgetter(0), pairs) for pairs in several)))


def _samples(pairs: list[tuple[int, Any]], rows: Rows) -> tuple[Sample, ...]:
    if len(pairs) > SAMPLES and rows.ascend:
        pairs = sorted(pairs, key=itemgetter(0))
        last = pairs[SAMPLES - 1][0]
        pairs = list(takewhile(lambda pair: pair[0] <= last, pairs))
    samples = sorted((rows.sample(*pair) for pair in pairs), key=lambda sample: sample.order)
    return tuple(samples[:SAMPLES])
