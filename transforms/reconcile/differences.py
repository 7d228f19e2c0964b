"""Rows held against each other by their keys, as columns: what of both sides is alike, and what
becomes of the rest.

Of the rows of one key, those that are alike cancel each other out, one by one. Of what is left, as
many as both sides have are *changed*; the surplus is *missing* or *extra* if the other side has no
row of the key, else *fewer* or *more* than there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ALIKE, CHANGED, MISSING, FEWER, EXTRA, MORE = range(6)
KINDS = ("alike", "changed", "missing", "fewer", "extra", "more")
"""What a row can be, by its number. Changed rows are there on both sides; ``missing`` and ``fewer``
are of the source, ``extra`` and ``more`` of the destination."""


class Judged(NamedTuple):
    """What the rows of each side are, as numbers of :data:`KINDS`, and whether each is the first of
    its key on its side."""

    source: np.ndarray
    destination: np.ndarray
    source_first: np.ndarray
    destination_first: np.ndarray


def judge(source: np.ndarray, destination: np.ndarray) -> Judged:
    """Judge rows, arrays of :data:`.spill.ROW` that hold all rows of their keys."""
    both = np.concatenate([source, destination])
    is_there = np.zeros(len(both), bool)
    is_there[len(source) :] = True
    order = np.lexsort((is_there, both["row"], both["low"], both["high"]))
    rows, there = both[order], is_there[order]
    begins_key = _begins(rows["high"]) | _begins(rows["low"])
    begins_row = begins_key | _begins(rows["row"])
    key, row = np.cumsum(begins_key) - 1, np.cumsum(begins_row) - 1

    alike = np.minimum(_count(row, ~there), _count(row, there))
    left = _ranks(row, there) >= alike[row]
    left_here, left_there = _count(key, left & ~there), _count(key, left & there)
    changed = np.minimum(left_here, left_there)
    is_changed = left & (_ranks_among(key, there, left) < changed[key])

    has_here, has_there = _count(key, ~there) > 0, _count(key, there) > 0
    surplus = np.where(
        there,
        np.where(has_here[key], MORE, EXTRA),
        np.where(has_there[key], FEWER, MISSING),
    )
    kinds = np.where(left, np.where(is_changed, CHANGED, surplus), ALIKE)
    first = _ranks(key, there) == 0
    found = np.empty(len(both), np.int8)
    found[order] = kinds
    firsts = np.empty(len(both), bool)
    firsts[order] = first
    cut = len(source)
    return Judged(found[:cut], found[cut:], firsts[:cut], firsts[cut:])


def _begins(values: np.ndarray) -> np.ndarray:
    """Whether each value is another than the one before it."""
    found = np.ones(len(values), bool)
    found[1:] = values[1:] != values[:-1]
    return found


def _count(groups: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of each group, for how many the mask is true."""
    count = int(groups[-1]) + 1 if len(groups) else 0
    return np.bincount(groups[mask], minlength=count)


def _ranks(groups: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The place of each row among those of its group and side, from 0."""
    return _ranks_among(groups, there, np.ones(len(groups), bool))


def _ranks_among(groups: np.ndarray, there: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The same, among those for which the mask is true; of others it means nothing."""
    ranks = np.zeros(len(groups), np.int64)
    for side in (~there, there):
        ours = side & mask
        before = np.cumsum(ours) - ours  # of all groups
        counts = _count(groups, ours)
        begins = np.cumsum(counts) - counts
        ranks[ours] = before[ours] - begins[groups[ours]]
    return ranks
