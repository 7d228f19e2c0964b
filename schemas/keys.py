"""128-bit hashes of keys: keys that are equal have equal hashes, and others have different ones.

A key is the value of one or several top-level fields. Two keys are equal if their values are equal
one by one, whatever their Arrow encoding: strings and bytes by their bytes, integers, decimals,
dates, times and time stamps by value (of any width, scale and unit), -0.0 as 0.0, and NaN as NaN.
Values of different kinds (``1``, ``1.0``, ``"1"``) are never equal. As in SQL, a key with a null
in it is equal to no key, not even to itself.

The hash is XXH3 of a key's encoding, which no two keys share, seeded with the key's kinds. Among a
billion keys two have one hash by chance with a probability of 10^-21. The function is not
cryptographic: who chooses the keys could construct such a pair.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from xxhash import xxh3_128_digest

from .problems import did_you_mean


class KeyColumnError(ValueError):
    """A column of the key is missing, or of a type that no key or no other key has."""


class KeyHashes(NamedTuple):
    """The hashes of a batch's keys.

    ``high`` and ``low`` are the halves of each hash (uint64). ``rows`` holds the numbers of the
    rows that have a key, in order, or is ``None`` if all have: a row with a null in its key has
    no hash. Hashes can be compared only if their ``kinds`` are the same.
    """

    kinds: tuple[str, ...]
    high: np.ndarray
    low: np.ndarray
    rows: np.ndarray | None


def hash_keys(batch: pa.RecordBatch, key: Sequence[str]) -> KeyHashes:
    """Hash the keys of a batch that consist of the columns ``key``, in this order.

    130 ns a row for a short string, 190 ns for a string and two numbers.

    Raises:
        KeyColumnError: a column is missing, or is nested.
    """
    columns = [_plain(batch.column(column_number(batch.schema, name))) for name in key]
    kinds = tuple(_kind(name, column.type) for name, column in zip(key, columns, strict=True))
    rows = None
    if any(column.null_count for column in columns):
        whole = np.logical_and.reduce([_is_valid(column) for column in columns])
        rows = np.flatnonzero(whole)
        columns = [column.take(pa.array(rows)) for column in columns]
    # As strings of one column are their own encoding, only the seed tells "1" from b"1".
    seed = zlib.crc32(",".join(kinds).encode())
    digests = b"".join(map(xxh3_128_digest, _encoded(columns, kinds).to_pylist(), repeat(seed)))
    halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
    return KeyHashes(
        kinds, np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1]), rows
    )


def column_number(schema: pa.Schema, name: str) -> int:
    """Which column has this name.

    Raises:
        KeyColumnError: none has; the message names the nearest.
    """
    if name not in schema.names:
        raise KeyColumnError(f"no column {name!r}{did_you_mean(name, schema.names)}")
    return schema.names.index(name)


_KINDS: dict[str, Callable[[pa.DataType], bool]] = {
    "null": pt.is_null,
    "boolean": pt.is_boolean,
    "integer": pt.is_integer,
    "number": pt.is_floating,
    "decimal": pt.is_decimal,
    "string": lambda t: pt.is_string(t) or pt.is_large_string(t),
    "binary": lambda t: pt.is_binary(t) or pt.is_large_binary(t) or pt.is_fixed_size_binary(t),
    "date": pt.is_date,
    "timestamp": pt.is_timestamp,
    "time": pt.is_time,
    "duration": pt.is_duration,
}
"""What values have in common that can be equal."""


def _kind(name: str, type: pa.DataType) -> str:
    kind = next((kind for kind, holds in _KINDS.items() if holds(type)), None)
    if kind is None:
        raise KeyColumnError(f"column {name!r} is of type {type}, of which no key can be made")
    return kind


def _plain(column: pa.Array) -> pa.Array:
    """The values themselves, neither as references to a dictionary nor under an extension."""
    if isinstance(column, pa.ExtensionArray):
        return _plain(column.storage)
    if isinstance(column, pa.DictionaryArray):
        return _plain(column.dictionary_decode())
    if pt.is_string_view(column.type):
        return column.cast(pa.large_string())  # of views no rows can be taken
    if pt.is_binary_view(column.type):
        return column.cast(pa.large_binary())
    return column


def _is_valid(column: pa.Array) -> np.ndarray:
    return column.is_valid().to_numpy(zero_copy_only=False)


_BYTES = pa.large_binary()  # 32-bit offsets would end at 2 GB of keys


def _encoded(columns: Sequence[pa.Array], kinds: Sequence[str]) -> pa.Array:
    """The bytes that stand for each key.

    First comes what has the same width in every row: numbers, and the lengths of what has not,
    which then follows. A string alone needs no length.
    """
    fixed: list[np.ndarray] = []
    texts: list[pa.Array] = []
    for column, kind in zip(columns, kinds, strict=True):
        for part in _parts(column, kind):
            (fixed if isinstance(part, np.ndarray) else texts).append(part)
    if len(texts) == 1 and not fixed:
        return texts[0]
    fixed += [pc.binary_length(text).to_numpy(zero_copy_only=False) for text in texts]
    head = _side_by_side(fixed)
    if not texts:
        return head
    return pc.binary_join_element_wise(head, *texts, pa.scalar(b"", _BYTES))


def _side_by_side(columns: Sequence[np.ndarray]) -> pa.Array:
    width = sum(column.itemsize for column in columns)
    rows = np.empty((len(columns[0]), width), np.uint8)
    at = 0
    for column in columns:
        column = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
        rows[:, at : at + column.itemsize] = column.view(np.uint8).reshape(-1, column.itemsize)
        at += column.itemsize
    return pa.Array.from_buffers(
        pa.binary(width), len(rows), [None, pa.py_buffer(rows.reshape(-1))]
    ).cast(_BYTES)


def _parts(column: pa.Array, kind: str) -> Iterator[np.ndarray | pa.Array]:
    """A column without nulls as arrays of fixed width, and bytes of any length."""
    match kind:
        case "string" | "binary":
            yield column.cast(_BYTES)
        case "decimal":
            yield from _decimal_parts(column)
        case "number":
            numbers = column.cast(pa.float64()).to_numpy()
            one_nan = np.where(np.isnan(numbers), np.nan, numbers)  # there are many
            yield one_nan + 0.0  # makes -0.0 positive
        case "integer":
            numbers = column.to_numpy()
            yield numbers.astype(np.int64)
            yield numbers > np.iinfo(np.int64).max  # and so not equal to a negative one
        case "timestamp" | "time" | "duration":
            yield from _time_parts(column)
        case "date":
            yield column.cast(pa.date32()).view(pa.int32()).to_numpy()
        case "boolean" | "null":
            yield column.cast(pa.uint8()).to_numpy()


_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def _time_parts(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and nanoseconds: a common unit would be too coarse or too short."""
    per_second = _PER_SECOND[column.type.unit]
    ticks = column.view(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_numpy()
    seconds, rest = np.divmod(ticks.astype(np.int64), per_second)
    return seconds, (rest * (10**9 // per_second)).astype(np.int32)


def _decimal_parts(column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The exponent of ten, and the digits without the zeros at their end."""
    scale = column.type.scale
    column = column.cast(pa.decimal256(76, scale))
    whole = pa.Array.from_buffers(
        pa.decimal256(76, 0), len(column), column.buffers(), offset=column.offset
    ).cast(pa.string())
    digits = pc.utf8_rtrim(whole, "0")
    zeros = pc.subtract(pc.binary_length(whole), pc.binary_length(digits)).to_numpy()
    is_zero = pc.equal(digits, "").to_numpy(zero_copy_only=False)
    return np.where(is_zero, 0, zeros - scale).astype(np.int32), digits.cast(_BYTES)
