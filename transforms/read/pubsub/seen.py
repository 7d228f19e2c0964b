"""Which messages have been read: sorted columns of ids, in memory, of so many at most."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Run(NamedTuple):
    """Messages by their ids, sorted: id, time of publishing, and the position that each was read
    at; all ``int64``."""

    ids: np.ndarray
    published: np.ndarray
    positions: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, published: np.ndarray, positions: np.ndarray) -> Run:
        """Columns in any order. Of one id, the last is kept: its number was given anew."""
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        last = np.append(ids[1:] != ids[:-1], np.ones(min(len(ids), 1), bool))
        return cls(ids[last], published[order][last], positions[order][last])

    def positions_of(self, ids: np.ndarray, published: np.ndarray) -> np.ndarray:
        """Where messages were read; -1 for those that are not among these."""
        if not len(self.ids):
            return np.full(len(ids), -1)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        is_here = (self.ids[at] == ids) & (self.published[at] == published)
        return np.where(is_here, self.positions[at], -1)


class SeenIds:
    """The ids of the messages that were read last: ``most`` of them, or up to twice as many.

    A message is known by its id and the time at which it was published.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._older: list[Run] = []
        self._newer: list[Run] = []

    def __len__(self) -> int:
        return sum(len(run.ids) for run in (*self._older, *self._newer))

    def add(self, ids: np.ndarray, published: np.ndarray, positions: np.ndarray) -> None:
        """Take note of messages."""
        if not len(ids):
            return
        runs = self._newer
        runs.append(Run.of(ids, published, positions))
        # Each run is more than twice as long as the next: there are few, and each is merged rarely.
        while len(runs) > 1 and len(runs[-2].ids) <= 2 * len(runs[-1].ids):
            last = runs.pop()
            runs[-1] = Run.of(*map(np.concatenate, zip(runs[-1], last, strict=True)))
        if sum(len(run.ids) for run in runs) >= self._most:
            self._older, self._newer = runs, []

    def find(self, ids: np.ndarray, published: np.ndarray) -> np.ndarray:
        """The positions at which messages were read, ``int64``; -1 where they were not."""
        found = np.full(len(ids), -1)
        for run in (*self._older, *self._newer):
            found = np.maximum(found, run.positions_of(ids, published))
        return found
