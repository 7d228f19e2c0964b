"""How many keys are repeated among all records of a run: range by range of their hashes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...schemas.quality.duplicates import KeyRun, repeated_in
from ..deduplicate.index import IndexFile, Slice, open_index, slices
from ..deduplicate.resolve import bucket_ranges, check_kinds
from .facts import Keys

_HERE = "in memory"


def repeated_keys(columns: Sequence[str], found: Sequence[Keys]) -> int:
    """The number of keys that more than one record has.

    At most some millions of keys are in memory at once (``resolve.RESOLVE_KEYS``), whatever their
    number: hashes lie in buckets, and some of these are read of every file.

    Args:
        columns: what the keys consist of, as messages name them.

    Raises:
        KeyColumnError: keys cannot be compared, as strings with numbers.
        StorageError: a file cannot be read.
    """
    runs = [keys.file or _slice_of(keys) for keys in found]
    check_kinds(columns, runs)
    held = {id(run): _run_of(keys) for run, keys in zip(runs, found, strict=True)}
    filled = [run for run in runs if run.keys]
    if not filled:
        return 0
    return sum(
        repeated_in(_part(run, held[id(run)], first, last) for run in filled)
        for first, last in bucket_ranges(filled)
    )


def _slice_of(keys: Keys) -> Slice:
    high = np.frombuffer(keys.high, np.uint64)
    return slices(IndexFile(_HERE, "", "the records", keys.kinds, len(high)), high, 1)[0]


def _run_of(keys: Keys) -> KeyRun | None:
    if keys.file is not None:
        return None
    return KeyRun(np.frombuffer(keys.high, np.uint64), np.frombuffer(keys.low, np.uint64))


def _part(run: Slice, held: KeyRun | None, first: int, last: int) -> KeyRun:
    """The keys of a run in some buckets."""
    start, end = run.bounds[first], run.bounds[last]
    if held is not None:
        return KeyRun(held.high[start:end], held.low[start:end])
    with open_index(run.file) as index:
        return KeyRun(index.column("high", start, end), index.column("low", start, end))
