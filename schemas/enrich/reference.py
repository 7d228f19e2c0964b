"""Reference data in memory: the row that belongs to each key, as of a time where rows have one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ..keys import KeyColumnError, KeyHashes, hash_keys
from ..steps import wrong_values
from .index import NONE, KeyIndex
from .spec import Validity

NOT_THEN = -2
"""The row of a key that has rows, but none that is valid at the time."""

_PIECE = 4096
"""Rows hashed at a time: what is made on the way stays in the processor's cache."""
_FIRST_YEAR, _LAST_YEAR = -62135596800_000000, 253402300799_999999  # in microseconds
_EVER = np.iinfo(np.int64).min
_OPEN = np.iinfo(np.int64).max


class BadReference(ValueError):
    """Reference data that says two things of one key, or whose validity is none."""


class Reference:
    """Rows by key. A key with a null in it is equal to no key.

    Keys are equal as :mod:`millstream.schemas.keys` says, whatever the widths of integers, units of
    times and scales of decimals.

    Args:
        rows: of columns whose types fields of a contract have.
        key: the columns of the key; they are held only if they are in ``held`` too.
        held: the columns that can be taken.
        validity: where a key may have several rows, the columns that say when each is valid.

    Raises:
        BadReference: a key has several rows, or rows that are valid at one time. The message says
            how many such keys there are, and no values.
    """

    def __init__(
        self,
        rows: pa.Table,
        key: Sequence[str],
        held: Sequence[str],
        validity: Validity | None = None,
    ) -> None:
        hashes = hash_in_pieces(rows, key)
        numbers = np.arange(len(rows)) if hashes.rows is None else hashes.rows
        high, low = hashes.high, hashes.low
        if validity is None:
            order = np.lexsort((low, high))
        else:
            start, end = _bounds(rows, validity, numbers)
            high, low, numbers, start, end = _without_empty(high, low, numbers, start, end)
            order = np.lexsort((start, low, high))
            start, end = start[order], end[order]
        high, low = high[order], low[order]
        is_first = _is_first(high, low)
        firsts = np.flatnonzero(is_first)
        self._rows = numbers[order]
        self._spans: _Spans | None = None
        if validity is None:
            _refuse_twins(firsts, len(high))
        else:
            self._spans = _Spans(start, end, is_first, closes=validity.to is not None)
        self._index = KeyIndex(high[firsts], low[firsts])
        self._held = {name: _whole(rows[name]) for name in held}
        wrong = wrong_values(pa.table(self._held)) if self._held and len(rows) else []
        self._wrong = {failure.row: failure.error for failure in wrong}
        self._wrong_rows = np.array(sorted(self._wrong), np.int64)

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, the index included."""
        columns = sum(column.nbytes for column in self._held.values())
        spans = self._spans.nbytes if self._spans else 0
        return columns + self._index.nbytes + self._rows.nbytes + spans

    def find(self, keys: pa.RecordBatch, times: pa.Array | None = None) -> np.ndarray:
        """The row (int64) for each key, or what is negative: ``NONE``, or :data:`NOT_THEN`.

        Args:
            keys: the columns of the key, in its order.
            times: the time of each, ``timestamp[us]``, where rows have validity; at none (null) no
                row is valid.
        """
        hashes = hash_in_pieces(keys, keys.schema.names)
        found = self._index.find(hashes.high, hashes.low)
        if hashes.rows is not None:
            sparse = np.full(keys.num_rows, NONE)
            sparse[hashes.rows] = found
            found = sparse
        if self._spans is not None:
            assert times is not None
            found = self._spans.at(found, times)
        if not len(self._rows):
            return found
        return np.where(found < 0, found, self._rows.take(found, mode="clip"))

    def take(self, name: str, rows: np.ndarray) -> pa.Array:
        """The values of a held column in rows as :meth:`find` gave them: null for none."""
        column = self._held[name]
        missing = rows < 0
        taken = column.take(pa.array(rows, mask=missing) if missing.any() else pa.array(rows))
        return taken.cast(pa.string()) if pt.is_large_string(taken.type) else taken

    def errors(self, rows: np.ndarray) -> dict[int, Exception]:
        """Place in ``rows`` → why a value that is held there is one that no field can be."""
        if not len(self._wrong_rows):
            return {}
        places = np.flatnonzero(np.isin(rows, self._wrong_rows)).tolist()
        return {place: self._wrong[int(rows[place])] for place in places}


class _Spans:
    """When each row is valid, in order of key and time, and where each key's begin."""

    def __init__(
        self, start: np.ndarray, end: np.ndarray, is_first: np.ndarray, *, closes: bool
    ) -> None:
        follows = ~is_first[1:]  # whether a row and the next are of one key
        if not closes:
            end[:-1][follows] = start[1:][follows]
        doubtful = follows & ((start[1:] < end[:-1]) | (start[1:] == start[:-1]))
        if doubtful.any():
            count = len(np.unique(np.cumsum(is_first)[1:][doubtful]))
            raise BadReference(f"{_keys(count)} with rows whose validity overlaps")
        self._start = np.append(start, _OPEN)
        self._end = end
        self._firsts = np.append(np.flatnonzero(is_first), len(start))
        longest = int(np.diff(self._firsts).max(initial=0))
        self._steps = longest.bit_length()

    @property
    def nbytes(self) -> int:
        return self._start.nbytes + self._end.nbytes + self._firsts.nbytes

    def at(self, keys: np.ndarray, times: pa.Array) -> np.ndarray:
        """The place, in order of key and time, of the row of each key that is valid at a time."""
        known = np.flatnonzero(keys >= 0)
        moments = times.take(pa.array(known)).view(pa.int64())
        instants = moments.fill_null(0).to_numpy()
        first = self._firsts[keys[known]]
        low, high = first, self._firsts[keys[known] + 1]
        for _ in range(self._steps):  # bisection, of all at once
            middle = (low + high) // 2
            begun = (self._start[middle] <= instants) & (low < high)
            low, high = np.where(begun, middle + 1, low), np.where(begun, high, middle)
        place = low - 1
        valid = (place >= first) & (instants < self._end[place])
        if moments.null_count:
            valid &= moments.is_valid().to_numpy(zero_copy_only=False)
        found = keys.copy()
        found[known] = np.where(valid, place, NOT_THEN)
        return found


def hash_in_pieces(rows: pa.Table | pa.RecordBatch, key: Sequence[str]) -> KeyHashes:
    """The hashes of the keys of all rows: as :func:`.keys.hash_keys` of all at once, but faster."""
    keys = rows.select(list(key))
    table = pa.table(keys)
    parts = [
        (hash_keys(batch.slice(at, _PIECE), key), first + at)
        for first, batch in _numbered(table)
        for at in range(0, batch.num_rows, _PIECE)
    ]
    if not parts:
        return hash_keys(pa.RecordBatch.from_pylist([], keys.schema), key)
    rows_of = None
    if any(part.rows is not None for part, _ in parts):
        rows_of = np.concatenate(
            [(np.arange(len(p.high)) if p.rows is None else p.rows) + at for p, at in parts]
        )
    return KeyHashes(
        parts[0][0].kinds,
        np.concatenate([part.high for part, _ in parts]),
        np.concatenate([part.low for part, _ in parts]),
        rows_of,
    )


def check_comparable(record: pa.Field, reference: pa.Field) -> None:
    """See that values of a record's field can equal those of a reference's column.

    Raises:
        BadReference: they never can; the message names both.
    """
    kinds = []
    for field, whose in ((record, "the records"), (reference, "the reference")):
        empty = pa.RecordBatch.from_arrays([pa.array([], field.type)], [field.name])
        try:
            kinds += hash_keys(empty, [field.name]).kinds
        except KeyColumnError as error:
            raise BadReference(f"on: of {whose}, {error}") from None
    if kinds[0] != kinds[1]:
        raise BadReference(
            f"on: {record.name} of the records is of the type {record.type}, and "
            f"{reference.name} of the reference of the type {reference.type}: no two of their "
            "values are ever equal"
        )


def _numbered(table: pa.Table) -> list[tuple[int, pa.RecordBatch]]:
    found, first = [], 0
    for batch in table.to_batches():
        found.append((first, batch))
        first += batch.num_rows
    return found


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; of more text than 32-bit offsets reach, with longer ones."""
    if pt.is_string(column.type) and column.nbytes > _MOST_TEXT:
        column = column.cast(pa.large_string())
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


_MOST_TEXT = (1 << 31) - 1


def _is_first(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Which of sorted hashes are not the one before."""
    first = np.ones(len(high), bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return first


def _refuse_twins(firsts: np.ndarray, rows: int) -> None:
    repeated = int((np.diff(np.append(firsts, rows)) > 1).sum())
    if repeated:
        raise BadReference(
            f"{_keys(repeated)} in more than one row: which one is meant, nobody can tell. Have "
            "one row a key, or say with valid when each row is valid"
        )


def _keys(count: int) -> str:
    return "there is 1 key" if count == 1 else f"there are {count} keys"


def _bounds(
    rows: pa.Table, validity: Validity, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """When the numbered rows begin and end to be valid, in microseconds."""
    chosen = pa.array(numbers)
    start = _instants(rows[validity.start].take(chosen), validity.start, _EVER)
    if validity.to is None:
        return start, np.full(len(start), _OPEN)
    end = _instants(rows[validity.to].take(chosen), validity.to, _OPEN)
    backwards = int((start > end).sum())
    if backwards:
        raise BadReference(f"valid: in {backwards} rows {validity.start} lies after {validity.to}")
    return start, end


def _instants(column: pa.ChunkedArray, name: str, if_null: int) -> np.ndarray:
    if not (pt.is_timestamp(column.type) or pt.is_date(column.type)):
        raise BadReference(
            f"valid: {name} is of the type {column.type}; expected a time stamp or a date"
        )
    moments = column.cast(pa.timestamp("us", getattr(column.type, "tz", None))).cast(pa.int64())
    odd = pc.or_(pc.less(moments, _FIRST_YEAR), pc.greater(moments, _LAST_YEAR))
    if pc.any(odd).as_py():
        raise BadReference(f"valid: {name} has times outside of the years 1 to 9999")
    return pc.fill_null(moments, if_null).to_numpy()


def _without_empty(
    high: np.ndarray, low: np.ndarray, numbers: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Without the rows that are never valid."""
    lasts = start < end
    return tuple(part[lasts] for part in (high, low, numbers, start, end))
