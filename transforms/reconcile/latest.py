"""The rows of a place that stand where they are upserted: of each key the latest one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from ..stored.filter import Filter
from ..stored.stored import Stored
from ..write.latest import winners


class Latest(Stored):
    """Rows of a place that gives them in the same order each time.

    Which of them stand is found by their keys first, of which some 60 bytes a row are in memory.

    Args:
        held: the place, with these columns and those of ``asked``.
        key, order, deleted: see :func:`..write.latest.winners`.
    """

    def __init__(
        self,
        held: Stored,
        asked: pa.Schema,
        key: Sequence[str],
        order: Sequence[str],
        deleted: str | None = None,
    ) -> None:
        super().__init__(held.place, asked)
        self._held = held
        self._key = key
        self._order = order
        self._deleted = deleted

    def find(self) -> pa.Schema | None:
        return self._held.found

    def read(self, names: Collection[str], where: Filter) -> Iterator[pa.RecordBatch]:
        assert not where, "nothing is pushed: rows are told by their numbers"
        at = 0
        for batch in self._held.batches(list(names)):
            yield batch.filter(pa.array(self._standing[at : at + batch.num_rows]))
            at += batch.num_rows

    @property
    def replaced(self) -> int:
        """How many rows do not stand."""
        return len(self._standing) - int(self._standing.sum())

    @cached_property
    def _standing(self) -> np.ndarray:
        deleted = [self._deleted] if self._deleted else []
        columns = list(dict.fromkeys((*self._key, *self._order, *deleted)))
        if self._held.found is None:
            return np.empty(0, bool)
        rows = self._held.batches(columns)
        return winners(rows, self._key, self._order, self._deleted).standing()
