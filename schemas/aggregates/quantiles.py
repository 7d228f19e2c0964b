"""Quantiles, kept as KLL sketches that the same batches always make alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..contract import Field
from .functions import Function, Groups, doubles, lists_of

K = 200
"""Values up to which a quantile is exact, and the room of a sketch's highest level."""
RANK_ERROR = 0.0133
"""What a rank is off by at most, as a part of all values, in 99 of 100 sketches.

Source: ``get_normalized_rank_error(200)`` of Apache DataSketches' KLL sketch, whose levels have
the same room."""

_SHRINKING = 2 / 3
_LEAST_ROOM = 8
_LEVELS = 63  # an item of level 62 stands for more values than int64 counts
_ROOM = np.maximum(np.ceil(K * _SHRINKING ** np.arange(_LEVELS)), _LEAST_ROOM).astype(np.int64)
"""Items that a level should hold at most, by its distance from the highest."""
_ROOM_IN_ALL = np.cumsum(_ROOM)
"""Items that a sketch holds at most, by its highest level."""


class Quantile(Function):
    """``quantile(field, q)``: the least value that at least a share ``q`` of the values do not
    exceed, as SQL's ``PERCENTILE_DISC``: always one of the values. ``quantile(field, 0)`` is the
    minimum and ``quantile(field, 1)`` the maximum. float64, which values are taken as.

    It is exact of up to 200 (:data:`K`) values. Of more, a sketch keeps some hundred, and the
    result is exact for a share that differs from ``q`` by at most :data:`RANK_ERROR` with
    probability 0.99; minimum and maximum stay exact.

    The state is a sketch of Karnin, Lang and Liberty (2016): ``values``, ascending, and to each
    its level; a value of level ``h`` stands for ``2**h`` values. To make room a level is sorted
    and every second value of it kept, one level higher. Which of each two is a coin's decision.
    Apache DataSketches leaves it to chance; here a hash of what is halved decides, since a job
    that is restarted must write the same bytes again. That is as good as chance, unless data are
    made to defeat it. In another order of rows and merges results differ within the tolerance.

    Sorting every batch would be dear, so values are gathered first (the open part).
    """

    wanted = "the field and the quantile"
    example = "amount, 0.95"
    parameter = "a quantile from 0 to 1, such as 0.95"

    def __init__(self, q: float = 0.5) -> None:
        self._q = q

    def at(self, parameter: float) -> Quantile:
        if not 0 <= parameter <= 1:
            raise ValueError(f"expected {self.parameter}, got {parameter}")
        return Quantile(parameter)

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {"values": pa.list_(pa.float64()), "levels": pa.list_(pa.int8())}

    def open_parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {"gathered": pa.list_(pa.float64())}

    def result(self, field: Field | None) -> pa.DataType:
        return pa.float64()

    def partial(
        self, groups: Groups, column: pa.Array, field: Field | None, times: pa.Array
    ) -> list[pa.Array]:
        ids, values = groups.present(column)
        nothing = np.zeros(groups.count, np.int64)
        return [
            lists_of(nothing, pa.array([], pa.float64())),
            lists_of(nothing, pa.array([], pa.int8())),
            _gathered(groups.count, ids, doubles(values)),
        ]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        values, levels, gathered = states
        return [
            *_sketches(groups.count, _items(groups.ids, values, levels)),
            _gathered(groups.count, _spread(groups.ids, gathered), _flat(gathered)),
        ]

    def seal(self, states: list[pa.Array], longer_than: int) -> list[pa.Array]:
        values, levels, gathered = states
        lengths = gathered.value_lengths().to_numpy()
        long = lengths > longer_than
        if not long.any():
            return states
        numbers = np.arange(len(lengths))
        added = np.repeat(long, lengths)
        new = _Items(_spread(numbers, gathered), _flat(gathered), np.zeros(len(added), np.int8))
        return [
            *_sketches(len(lengths), _items(numbers, values, levels).and_(new.at(added))),
            lists_of(np.where(long, 0, lengths), pa.array(new.values[~added])),
        ]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        values, levels = states
        lengths = values.value_lengths().to_numpy()
        reached = np.cumsum(_weights(_flat(levels)))
        ends = np.concatenate([[0], reached])[np.cumsum(lengths)]
        totals = np.diff(ends, prepend=0)
        # Less the product's rounding error, so that 0.07 of 100 values are 7 and not 8.
        ranks = np.ceil(totals * (self._q * (1 - 2**-51))).astype(np.int64)
        places = np.searchsorted(reached, ends - totals + np.maximum(ranks, 1))
        return pa.array(_flat(values)).take(pa.array(places, mask=lengths == 0))


@dataclass(frozen=True, slots=True)
class _Items:
    """Values of groups, each with its level."""

    ids: np.ndarray
    values: np.ndarray
    levels: np.ndarray

    def at(self, rows: np.ndarray) -> _Items:
        return _Items(self.ids[rows], self.values[rows], self.levels[rows])

    def and_(self, other: _Items) -> _Items:
        return _Items(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.levels, other.levels]),
        )

    def sizes(self, count: int) -> np.ndarray:
        """Items of each group."""
        return np.bincount(self.ids, minlength=count)

    def highest(self, count: int) -> np.ndarray:
        """The highest level of each group."""
        highest = np.zeros(count, np.int64)
        # Without the cast numpy goes value by value, and takes ten times as long.
        np.maximum.at(highest, self.ids, self.levels.astype(np.int64))
        return highest

    def crowded(self, count: int) -> np.ndarray:
        """Which groups have more items than room."""
        return self.sizes(count) > _ROOM_IN_ALL[self.highest(count)]


def _items(ids: np.ndarray, values: pa.Array, levels: pa.Array) -> _Items:
    return _Items(_spread(ids, values), _flat(values), _flat(levels))


def _weights(levels: np.ndarray) -> np.ndarray:
    """How many values an item of each level stands for."""
    return np.int64(1) << levels.astype(np.int64)


def _flat(lists: pa.Array) -> np.ndarray:
    return lists.flatten().to_numpy()


def _spread(ids: np.ndarray, lists: pa.Array) -> np.ndarray:
    """For each item of the lists, the number of its list."""
    return np.repeat(ids, lists.value_lengths().to_numpy())


def _gathered(count: int, ids: np.ndarray, values: np.ndarray) -> pa.Array:
    """The values of each group, in their order."""
    values = values[_order_by_group(ids, count)]
    return lists_of(np.bincount(ids, minlength=count), pa.array(values))


def _order_by_group(ids: np.ndarray, count: int) -> np.ndarray:
    """The stable order by group, 16 bits at a time: those are what numpy sorts by radix."""
    order = np.argsort(ids.astype(np.uint16), kind="stable")
    for shift in range(16, (count - 1).bit_length(), 16):
        digits = (ids[order] >> shift).astype(np.uint16)
        order = order[np.argsort(digits, kind="stable")]
    return order


def _sketches(count: int, items: _Items) -> list[pa.Array]:
    """Values and levels of a sketch for each group, from items in any order."""
    values, levels = items.values + 0.0, items.levels  # -0.0 becomes 0.0
    items = _Items(items.ids, values, levels)
    # Of equal values too the order is settled, if they can differ in their levels.
    order = np.lexsort((levels, values)) if levels.any() else np.argsort(values)
    items = items.at(order[_order_by_group(items.ids[order], count)])
    crowded = items.crowded(count)[items.ids]
    if crowded.any():
        items = items.at(~crowded).and_(_thinned(count, items.at(crowded)))
        items = items.at(_order_by_group(items.ids, count))
    sizes = items.sizes(count)
    return [lists_of(sizes, pa.array(items.values)), lists_of(sizes, pa.array(items.levels))]


def _thinned(count: int, items: _Items) -> _Items:
    """Items, sorted by group and value, of which full levels are halved until there is room."""
    totals = np.bincount(items.ids, _weights(items.levels), count).astype(np.uint64)
    level = 0
    while (crowded := items.crowded(count)).any():
        rows = np.flatnonzero(items.levels == level)
        below = items.highest(count) - level
        room = np.where(below < 0, _LEVELS * K, _ROOM[np.maximum(below, 0)])
        full = crowded & (items.at(rows).sizes(count) >= room)
        rows = rows[full[items.ids[rows]]]
        if len(rows):
            items = _halved(items, rows, totals)
        level = (level + 1) % (int(items.levels.max()) + 1)
    return items


def _halved(items: _Items, rows: np.ndarray, totals: np.ndarray) -> _Items:
    """The items, of which at ``rows``, which hold whole levels, every second one remains, a level
    higher. An odd one stays as it is; so do, on the lowest level, the least and the greatest."""
    ids, level = items.ids[rows], int(items.levels[rows[0]])
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    sizes = np.diff(starts, append=len(ids))
    kept_apart = 1 if level == 0 else 0
    place = np.arange(len(ids)) - np.repeat(starts + kept_apart, sizes)
    pairs = (sizes - 2 * kept_apart) // 2
    paired = (place >= 0) & (place < np.repeat(2 * pairs, sizes))
    bits = np.add.reduceat(items.values[rows].view(np.uint64), starts)
    coins = _coins(bits, totals[ids[starts]], level)
    chosen = place % 2 == np.repeat(coins, sizes)
    levels = items.levels.copy()
    levels[rows[paired & chosen]] += 1
    remaining = np.ones(len(levels), bool)
    remaining[rows[paired & ~chosen]] = False
    return _Items(items.ids, items.values, levels).at(remaining)


def _coins(bits: np.ndarray, totals: np.ndarray, level: int) -> np.ndarray:
    """0 or 1 for each group, by a hash (MurmurHash3's finaliser) of what shall be halved.

    The number of values takes part, or a sketch to which like batches are added time and again
    would err to the same side each time.
    """
    mixed = bits ^ (totals * np.uint64(0x9E3779B97F4A7C15) + np.uint64(level))
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(factor)
    return (mixed >> np.uint64(63)).astype(np.int64)
