"""Which row of each key is the latest: for destinations without a MERGE of their own.

Keys are compared by their 128-bit hashes, what orders rows by its values: nulls are least, strings
and bytes go by their bytes. Memory is for keys and order alone, about 60 bytes a row of a load with
an event time and an identity, whatever else its rows hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ...schemas.keys import KeyColumnError, hash_keys


class KeyRange(NamedTuple):
    """The least and the greatest value of a key's column, as Python has them."""

    least: Any
    greatest: Any


class Winners:
    """The rows of a load that stand: of each key the latest one.

    A key with a null in it is equal to no other: such rows all stand, unless they are deletions.
    What else there is of the same keys, in the table and among its deletions, is shown to
    :meth:`judge` and :meth:`bury`; :meth:`standing` says what is left.

    Attributes:
        ranges: of each column of the key; empty if no row has a key.
    """

    def __init__(
        self, key: Sequence[str], order: Sequence[str], rows: _Rows, total: int, keyless: np.ndarray
    ) -> None:
        self.ranges: dict[str, KeyRange] = rows.ranges
        self._key = key
        self._order = order
        self._total = total
        self._keyless = keyless
        self._kinds = rows.kinds
        columns = rows.ordering()
        latest = _latest(rows.high, rows.low, columns)
        self._high, self._low = rows.high[latest], rows.low[latest]
        self._numbers, self._deleted = rows.numbers[latest], rows.deleted[latest]
        self._columns = [column.take(pa.array(latest)) for column in columns]
        self._beaten = np.zeros(len(latest), bool)

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._numbers)

    def judge(self, batch: pa.RecordBatch) -> np.ndarray:
        """Which of a table's rows stand (bool): those of other keys, and those that are newer than
        the load's. Of two that are neither, the load's stands.

        Args:
            batch: the key's and the order's columns, of the types that the load has.
        """
        stands = np.ones(batch.num_rows, bool)
        rows, ours = self._matches(batch)
        newer = self._newer(batch, rows, ours)
        self._beaten[ours[newer]] = True
        stands[rows[~newer]] = False
        return stands

    def bury(self, batch: pa.RecordBatch) -> None:
        """Take note of deletions: what is older than they are stands no more. Deletions of the load
        do: one that has been noted, but not carried out, must not hold up another."""
        rows, ours = self._matches(batch)
        newer = self._newer(batch, rows, ours)
        self._beaten[ours[newer & ~self._deleted[ours]]] = True

    def revive(self) -> None:
        """Forget what was judged and buried: the table is another now."""
        self._beaten[:] = False

    def standing(self) -> np.ndarray:
        """Which of the load's rows (bool, in their order) are to be in the table."""
        stands = np.zeros(self._total, bool)
        stands[self._keyless] = True
        stands[self._numbers[~self._beaten & ~self._deleted]] = True
        return stands

    def _matches(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of rows that have a key of the load, and whose winner each of them meets."""
        if not len(self) or not batch.num_rows:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        hashes = hash_keys(batch, self._key)
        if hashes.kinds != self._kinds:
            raise KeyColumnError(f"keys of {hashes.kinds} cannot be told from {self._kinds}")
        found = self._find(hashes.high, hashes.low)
        rows = np.flatnonzero(found >= 0)
        ours = found[rows]
        return (rows if hashes.rows is None else hashes.rows[rows]), ours

    def _find(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        """Where each hash is among ours, which are sorted; -1 where it is not."""
        found = np.full(len(high), -1)
        places = np.searchsorted(self._high, high)
        asked = np.arange(len(high))
        while len(asked):
            here = places[asked]
            within = here < len(self)
            asked, here = asked[within], here[within]
            alike = self._high[here] == high[asked]
            asked, here = asked[alike], here[alike]
            same = self._low[here] == low[asked]
            found[asked[same]] = here[same]
            asked = asked[~same]  # two keys share the upper half: ours may be the next
            places[asked] += 1
        return found

    def _newer(self, batch: pa.RecordBatch, rows: np.ndarray, ours: np.ndarray) -> np.ndarray:
        if not self._order:
            return np.zeros(len(rows), bool)
        theirs = [_plain(batch.column(name)).take(pa.array(rows)) for name in self._order]
        return _greater(theirs, [column.take(pa.array(ours)) for column in self._columns])


def winners(
    batches: Iterable[pa.RecordBatch],
    key: Sequence[str],
    order: Sequence[str],
    deleted: str | None = None,
) -> Winners:
    """The rows of a load that stand against each other.

    Args:
        batches: the load's rows; columns other than those named here are not looked at.
        order: what the latest row has the greatest values in, the weightiest first. Of equal rows,
            and without any order, the last stands. No floats: NaN has no place among them.
        deleted: a Boolean column: rows in which it is true delete their key.

    Raises:
        KeyColumnError: a column of the key is missing, or nested.
    """
    rows = _Rows(order)
    keyless: list[np.ndarray] = [np.empty(0, np.int64)]
    total = 0
    for batch in batches:
        gone = np.zeros(batch.num_rows, bool)
        if deleted is not None:
            gone = pc.fill_null(batch.column(deleted), False).to_numpy(zero_copy_only=False)
        without = rows.add(batch, key, gone, total)
        keyless.append(total + without[~gone[without]])
        total += batch.num_rows
    rows.end()
    return Winners(key, order, rows, total, np.concatenate(keyless))


class _Rows:
    """What is kept of the rows that have a key."""

    high: np.ndarray
    low: np.ndarray
    numbers: np.ndarray
    deleted: np.ndarray

    def __init__(self, order: Sequence[str]) -> None:
        self.kinds: tuple[str, ...] = ()
        self.ranges: dict[str, KeyRange] = {}
        self._order = order
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._columns: list[list[pa.Array]] = [[] for _ in order]

    def add(
        self, batch: pa.RecordBatch, key: Sequence[str], gone: np.ndarray, before: int
    ) -> np.ndarray:
        """Take a batch's rows; gives the numbers of those without a key."""
        hashes = hash_keys(batch, key)
        self.kinds = hashes.kinds
        keyed = np.arange(batch.num_rows) if hashes.rows is None else hashes.rows
        self._parts.append((hashes.high, hashes.low, before + keyed, gone[keyed]))
        for kept, name in zip(self._columns, self._order, strict=True):
            column = _encoded(batch.column(name))
            kept.append(column if hashes.rows is None else column.take(pa.array(keyed)))
        if len(keyed):
            self._widen(batch, key)
        return np.setdiff1d(np.arange(batch.num_rows), keyed, assume_unique=True)

    def end(self) -> None:
        """No more batches come."""
        none = (
            np.empty(0, np.uint64),
            np.empty(0, np.uint64),
            np.empty(0, np.int64),
            np.empty(0, bool),
        )
        parts = zip(*(self._parts or [none]), strict=True)
        self.high, self.low, self.numbers, self.deleted = map(np.concatenate, parts)
        self._parts.clear()

    def ordering(self) -> list[pa.Array]:
        """The order's columns, each in one piece."""
        if not len(self.numbers):
            return [pa.nulls(0) for _ in self._order]
        return [_joined(pieces) for pieces in self._columns]

    def _widen(self, batch: pa.RecordBatch, key: Sequence[str]) -> None:
        for name in key:
            column = batch.column(name)
            if pt.is_floating(column.type):
                continue  # NaN is between no two values
            least, greatest = pc.min_max(_plain(column)).as_py().values()
            held = self.ranges.get(name, KeyRange(least, greatest))
            self.ranges[name] = KeyRange(min(held.least, least), max(held.greatest, greatest))


def _latest(high: np.ndarray, low: np.ndarray, order: Sequence[pa.Array]) -> np.ndarray:
    """The number of the latest row of each key, by key.

    A tournament: of every two neighbours with one key the later one stays.
    """
    rows = np.lexsort((low, high))  # stable: of one key, what came last is last
    while True:
        first, second = high[rows], low[rows]
        alike = (first[1:] == first[:-1]) & (second[1:] == second[:-1])
        if not alike.any():
            return rows
        begins = np.flatnonzero(np.concatenate(([True], ~alike)))
        sizes = np.diff(np.append(begins, len(rows)))
        places = np.arange(len(rows)) - np.repeat(begins, sizes)
        left = np.flatnonzero(alike & (places[:-1] % 2 == 0))
        pair = [pa.array(rows[left]), pa.array(rows[left + 1])]
        older, newer = ([column.take(those) for column in order] for those in pair)
        stays = _greater(older, newer) if order else np.zeros(len(left), bool)
        rows = np.delete(rows, np.where(stays, left + 1, left))


def _greater(left: Sequence[pa.Array], right: Sequence[pa.Array]) -> np.ndarray:
    """Row by row, whether the values of ``left`` come after those of ``right``."""
    rows = len(left[0]) if left else 0
    greater, open = np.zeros(rows, bool), np.ones(rows, bool)
    for one, other in zip(map(_plain, left), map(_plain, right), strict=True):
        if not open.any():
            break
        here, there = _valid(one), _valid(other)
        greater |= open & (_truth(pc.greater(one, other)) | (here & ~there))
        open &= _truth(pc.equal(one, other)) | ~(here | there)
    return greater


def _truth(answers: pa.Array) -> np.ndarray:
    return pc.fill_null(answers, False).to_numpy(zero_copy_only=False)


def _valid(column: pa.Array) -> np.ndarray:
    return column.is_valid().to_numpy(zero_copy_only=False)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _encoded(column: pa.Array) -> pa.Array:
    """Strings as references to their different values: sources are few, and long."""
    is_text = pt.is_string(column.type) or pt.is_large_string(column.type)
    return column.dictionary_encode() if is_text else column


def _joined(pieces: Sequence[pa.Array]) -> pa.Array:
    column = pa.chunked_array(pieces)
    if pt.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks()
