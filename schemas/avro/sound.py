"""Which of many datums are just what a writer makes by its schema, told by their bytes alone.

Datums that come one by one are read fast only together, and of bytes that are wrong somewhere a
fast reader says no more than that. So all datums are walked at once, a field at a time: where each
value ends is computed for all of them by numpy. A datum is sound if its last value ends where it
does, and every branch, boolean, symbol, length and integer on the way is one, encoded as the
specification makes a writer encode it, arrays in one block. Of the others this knows nothing: they
are for :mod:`.values`, which is careful and slow.
"""

from __future__ import annotations

import numpy as np

from .types import AvroType

_FIXED = {"boolean": 1, "float": 4, "double": 8}
_INT_BYTES, _LONG_BYTES = 5, 10
_INT_TOP, _LONG_TOP = 0x0F, 0x01  # the most that the last byte of so many can be
_CONTINUED = np.uint64(0x8080808080808080)
_PADDING = bytes(24)  # what may be looked at behind the last datum
_MANY_ITEMS = 64
_FEW_DATUMS = 32
"""Arrays of more than ``_MANY_ITEMS`` are walked as long as so many datums have one: a numpy call
for each item of a few is slower than Python, which then reads them."""


def sound_datums(record: AvroType, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Whether each datum is surely sound (bool).

    Args:
        record: of a kind that :func:`.with_polars.is_readable` accepts.
        data: the bytes (uint8) that datums lie in.
        offsets: where each begins, and where the last one ends.
    """
    starts, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    if record.least_bytes > len(data):
        return np.zeros(len(starts), bool)
    return _Walk(data).past(record, starts, ends + 1) == ends


class _Walk:
    """Each way takes where values begin, and gives where they end.

    ``beyond`` is one byte behind the end of each value's datum. What is wrong ends there, and from
    there no way leads back.
    """

    def __init__(self, data: np.ndarray) -> None:
        self._octets = np.concatenate((data, np.frombuffer(_PADDING, np.uint8)))
        words = len(self._octets) - 7
        self._words = np.ndarray((words,), "<u8", self._octets, strides=(1,))  # one at each byte

    def past(self, type: AvroType, at: np.ndarray, beyond: np.ndarray) -> np.ndarray:
        """Past a value."""
        if type.null_branch is None:
            return self._past_value(type, at, beyond)
        branch, null = self._octets.take(at), 2 * type.null_branch
        there, absent = branch == 2 - null, branch == null
        after = _if(there | absent, at + 1, beyond)
        if there.all():
            return self._past_value(type, after, beyond)
        chosen = np.flatnonzero(there)
        after[chosen] = self._past_value(type, after.take(chosen), beyond.take(chosen))
        return after

    def _past_value(self, type: AvroType, at: np.ndarray, beyond: np.ndarray) -> np.ndarray:
        match type.kind:
            case "record":
                for _, of in type.fields:
                    at = self.past(of, at, beyond)
                return at
            case "array":
                assert type.items is not None
                return self._past_items(type.items, at, beyond)
            case "bytes":
                lengths, after = self._counts(at, beyond)
                return np.minimum(after + lengths, beyond)
            case "enum":
                symbols, after = self._counts(at, beyond)
                return _if(symbols < len(type.symbols), after, beyond)
            case "int":
                return self._past_integers(at, beyond, _INT_BYTES, _INT_TOP)
            case "long":
                return self._past_integers(at, beyond, _LONG_BYTES, _LONG_TOP)
            case "boolean":
                return _if(self._octets.take(at) <= 1, at + 1, beyond)
        size = min(type.size or _FIXED[type.kind], len(self._octets))
        return np.minimum(at + size, beyond)

    def _past_items(self, items: AvroType, at: np.ndarray, beyond: np.ndarray) -> np.ndarray:
        counts, at = self._counts(at, beyond)
        most = len(self._octets)  # of either: their product is an integer still
        least = np.minimum(counts, most) * min(items.least_bytes, most)
        at = _if(least < beyond - at, at, beyond)
        some = np.flatnonzero((counts > 0) & (at < beyond))
        if items.null_branch is None and items.kind in ("float", "double", "fixed"):
            at[some] += counts[some] * items.least_bytes
        else:
            self._walk_items(items, counts, some, at, beyond)
        closed = self._octets.take(at[some]) == 0
        at[some] = _if(closed, at[some] + 1, beyond[some])
        return at

    def _walk_items(
        self,
        items: AvroType,
        counts: np.ndarray,
        walking: np.ndarray,
        at: np.ndarray,
        beyond: np.ndarray,
    ) -> None:
        """Move ``at`` past so many items in each of the rows ``walking``."""
        walked = 0
        while len(walking):
            if walked >= _MANY_ITEMS and len(walking) < _FEW_DATUMS:
                at[walking] = beyond[walking]
                return
            at[walking] = self.past(items, at[walking], beyond[walking])
            walked += 1
            walking = walking[(counts[walking] > walked) & (at[walking] < beyond[walking])]

    def _past_integers(self, at: np.ndarray, beyond: np.ndarray, most: int, top: int) -> np.ndarray:
        sizes, last = self._sizes(at)
        good = (sizes < most) | ((sizes == most) & (last <= top))
        good &= (last > 0) | (sizes == 1)
        return _if(good, at + sizes, beyond)

    def _counts(self, at: np.ndarray, beyond: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integers that are not negative, and where they end; what is none is any and ends
        ``beyond``."""
        sizes, last = self._sizes(at)
        longest = min(int(sizes.max(initial=0)), _INT_BYTES)
        if longest <= 1:
            zigzag = last.astype(np.int64)
        else:
            words = self._words[at].astype(np.int64)
            zigzag = words & 127
            for place in range(1, longest):
                octets = (words >> (8 * place)) & 127
                zigzag |= np.where(sizes > place, octets << (7 * place), 0)
        good = (zigzag & 1 == 0) & (sizes <= _INT_BYTES)
        if longest > 1:
            good &= (last > 0) | (sizes == 1)
        return zigzag >> 1, _if(good, at + sizes, beyond)

    def _sizes(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many bytes integers take, 17 at most, and the last of these."""
        first = self._octets.take(at)
        if first.max(initial=0) < 128:
            return np.ones(len(at), np.int64), first
        sizes = _leading(self._words[at])
        longer = np.flatnonzero(sizes == 0)
        if len(longer):
            rest = _leading(self._words[at[longer] + 8])
            sizes[longer] = np.where(rest == 0, 17, rest + 8)
        return sizes, self._octets.take(at + sizes - 1)


def _leading(words: np.ndarray) -> np.ndarray:
    """How many bytes an integer at the beginning of eight takes; 0 if it goes on behind them."""
    last = ~words & _CONTINUED
    last &= ~last + np.uint64(1)  # the lowest bit alone, a power of two
    exponents = last.astype(np.float64).view(np.int64) >> 52
    return np.maximum((exponents - 1022) >> 3, 0)


def _if(good: np.ndarray, after: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """Where values end, if they are good and inside of their datums."""
    after = np.minimum(after, beyond)
    return after if good.all() else np.where(good, after, beyond)
