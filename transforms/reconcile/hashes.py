"""128-bit hashes of values and of rows, a column at a time.

Equal values of one Arrow type have equal hashes: -0.0 is 0.0, NaN is NaN, a null is like a null and
like nothing else, an empty list is not null. Hashes of columns of different types mean nothing to
each other. A hash has two halves that are made by different functions; that two of a billion rows
have one hash by chance has a probability of 10^-21. The functions are not cryptographic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from xxhash import xxh3_128_digest

Words = tuple[np.ndarray, np.ndarray]
"""64 bits of each value, for each half of a hash."""


class Hashes(NamedTuple):
    """The halves of the hash of each value or row, as uint64."""

    high: np.ndarray
    low: np.ndarray


class _Half(NamedTuple):
    """A mixing function that maps 64 bits one to one: that of splitmix64, or of MurmurHash3."""

    seed: np.uint64
    null: np.uint64
    shifts: tuple[np.uint64, np.uint64, np.uint64]
    factors: tuple[np.uint64, np.uint64]

    def mix(self, words: np.ndarray) -> np.ndarray:
        """Mix words in place."""
        first, second, third = self.shifts
        words ^= words >> first
        words *= self.factors[0]
        words ^= words >> second
        words *= self.factors[1]
        words ^= words >> third
        return words


def _half(seed: int, shifts: tuple[int, int, int], factors: tuple[int, int]) -> _Half:
    first, second, third = map(np.uint64, shifts)
    one, two = map(np.uint64, factors)
    return _Half(np.uint64(seed), np.uint64(seed ^ 0xFF), (first, second, third), (one, two))


_HALVES = (
    _half(0x9E3779B97F4A7C15, (30, 27, 31), (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)),
    _half(0xC2B2AE3D27D4EB4F, (33, 33, 33), (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)),
)


def hash_rows(columns: Sequence[Hashes]) -> Hashes:
    """The hashes of rows by those of their columns, of which there is at least one; the order of
    columns counts."""
    return _folded([(column.high, column.low) for column in columns])


def hash_column(column: pa.Array, *, null_is_empty: bool = False) -> Hashes:
    """The hashes of a column's values.

    About 15 ns a number, 15 ns for each eight bytes of a text.

    Args:
        null_is_empty: a null in the place of a list is like an empty one.

    Raises:
        TypeError: it is of a type that is not compared.
    """
    column = _plain(column)
    found = _folded(_words(column, null_is_empty))
    if column.null_count and not (null_is_empty and _is_list(column.type)):
        nulls = column.is_null().to_numpy(zero_copy_only=False)
        for half, words in zip(_HALVES, found, strict=True):
            words[nulls] = half.null
    return found


def can_hash(type: Any) -> bool:
    """Whether values of a type can be hashed."""
    if pt.is_struct(type):
        return all(can_hash(field.type) for field in type)
    if _is_list(type):
        return can_hash(type.value_type)
    return any(is_kind(type) for is_kind, _ in _KINDS)


def _folded(parts: Sequence[Words]) -> Hashes:
    halves = []
    for i, half in enumerate(_HALVES):
        held = parts[0][i] ^ half.seed
        half.mix(held)
        for part in parts[1:]:
            held ^= part[i]
            half.mix(held)
        halves.append(held)
    return Hashes(*halves)


def _plain(column: Any) -> Any:
    if isinstance(column, pa.ExtensionArray):
        return _plain(column.storage)
    if pt.is_dictionary(column.type):
        return _plain(column.dictionary_decode())
    if pt.is_string_view(column.type) or pt.is_binary_view(column.type):
        return column.cast(pa.large_binary())
    return column


def _words(column: Any, null_is_empty: bool) -> list[Words]:
    """What stands for each value; of nulls it is anything, and of lists what stands for none."""
    if pt.is_struct(column.type):
        return _structs(column, null_is_empty)
    if _is_list(column.type):
        return _lists(column, null_is_empty)
    for is_kind, words in _KINDS:
        if is_kind(column.type):
            return words(column)
    raise TypeError(f"of the type {column.type}, which is not compared")


def _same(words: np.ndarray) -> list[Words]:
    return [(words, words)]


def _integers(column: Any) -> list[Words]:
    numbers = column.fill_null(0).to_numpy(zero_copy_only=False)
    wide = numbers if numbers.dtype == np.uint64 else numbers.astype(np.int64)
    return _same(wide.view(np.uint64))


def _booleans(column: Any) -> list[Words]:
    return _integers(column.cast(pa.uint8()))


def _floats(column: Any) -> list[Words]:
    numbers = column.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
    one_nan = np.where(np.isnan(numbers), np.nan, numbers)  # there are many
    return _same((one_nan + 0.0).view(np.uint64))  # which makes -0.0 positive


def _times(column: Any) -> list[Words]:
    return _integers(column.view(pa.int32() if column.type.bit_width == 32 else pa.int64()))


def _decimals(column: Any) -> list[Words]:
    width = column.type.bit_width // 64
    data = np.frombuffer(column.buffers()[1], np.uint64)
    rows = data[column.offset * width : (column.offset + len(column)) * width].reshape(-1, width)
    return [(word, word) for word in np.ascontiguousarray(rows.T)]


_LONGEST = 96
"""Bytes of a text that are mixed here, eight at a time; XXH3 takes longer ones, one by one."""
_KEPT = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)


def _texts(column: Any) -> list[Words]:
    if pt.is_fixed_size_binary(column.type):
        column = column.cast(pa.binary())
    begins, lengths, data = _bytes_of(column)
    sizes = lengths.astype(np.uint64)
    held = _folded([(sizes, sizes)])
    # Any eight bytes as a number, wherever they begin.
    numbers = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
    left = np.where(lengths > _LONGEST, 0, lengths)
    for at in range(0, int(left.max(initial=0)), 8):
        is_longer = left > at
        # Most often all are, and none need be picked out.
        rows: Any = slice(None) if is_longer.all() else np.flatnonzero(is_longer)
        words = numbers[begins[rows] + at]
        words &= _KEPT[np.minimum(left[rows] - at, 8)]
        for half, state in zip(_HALVES, held, strict=True):
            state[rows] = half.mix(state[rows] ^ words)
    long = np.flatnonzero(lengths > _LONGEST)
    if len(long):
        values = column.take(pa.array(long)).cast(pa.large_binary()).fill_null(b"").to_pylist()
        digests = np.frombuffer(b"".join(map(xxh3_128_digest, values)), "<u8").reshape(-1, 2)
        for state, digest in zip(held, digests.T, strict=True):
            state[long] = digest
    return [(held.high, held.low)]


def _bytes_of(column: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each text begins in the bytes of all, how long it is, and these, with zeros behind."""
    _, ends, values = column.buffers()
    is_large = pt.is_large_string(column.type) or pt.is_large_binary(column.type)
    bounds = np.frombuffer(ends, np.int64 if is_large else np.int32) if ends else np.zeros(1, int)
    bounds = bounds[column.offset : column.offset + len(column) + 1].astype(np.int64)
    first, last = (int(bounds[0]), int(bounds[-1])) if len(bounds) else (0, 0)
    data = np.zeros(last - first + 8, np.uint8)
    if last > first:
        data[: last - first] = np.frombuffer(values, np.uint8)[first:last]
    return bounds[:-1] - first, np.diff(bounds), data


def _structs(column: Any, null_is_empty: bool) -> list[Words]:
    inner = [hash_column(part, null_is_empty=null_is_empty) for part in column.flatten()]
    return [(part.high, part.low) for part in inner] or _nothing(column)


def _lists(column: Any, null_is_empty: bool) -> list[Words]:
    """The length, and the sum of what an item and its place in the list are mixed to."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths.astype(np.int64))
    starts = ends - lengths
    places = np.arange(ends[-1] if len(ends) else 0) - np.repeat(starts, lengths)
    items = hash_column(column.flatten(), null_is_empty=null_is_empty)
    numbers = places.astype(np.uint64)
    mixed = _folded([(numbers, numbers), (items.high, items.low)])
    sums = [np.concatenate([np.zeros(1, np.uint64), np.cumsum(words)]) for words in mixed]
    sizes = lengths.astype(np.uint64)
    return [(sizes, sizes), (sums[0][ends] - sums[0][starts], sums[1][ends] - sums[1][starts])]


def _nothing(column: Any) -> list[Words]:
    return _same(np.zeros(len(column), np.uint64))


def _is_text(type: pa.DataType) -> bool:
    return (
        pt.is_string(type)
        or pt.is_large_string(type)
        or pt.is_binary(type)
        or pt.is_large_binary(type)
        or pt.is_fixed_size_binary(type)
    )


def _is_time(type: pa.DataType) -> bool:
    return pt.is_date(type) or pt.is_timestamp(type) or pt.is_time(type) or pt.is_duration(type)


def _is_list(type: pa.DataType) -> bool:
    return pt.is_list(type) or pt.is_large_list(type)


_KINDS: list[tuple[Callable[[pa.DataType], bool], Callable[[Any], list[Words]]]] = [
    (pt.is_integer, _integers),
    (_is_text, _texts),
    (_is_time, _times),
    (pt.is_floating, _floats),
    (pt.is_decimal, _decimals),
    (pt.is_boolean, _booleans),
    (pt.is_null, _nothing),
]
