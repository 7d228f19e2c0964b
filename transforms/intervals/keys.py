"""The keys that a job has kept lately, from one commit to the next: added, merged and forgotten.

A record that is not later than one horizon is a duplicate only of keys that are at most two
horizons behind the watermark. So those are what a commit hands on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import storage
from ..carry import Carry, KeptKeys, KeyFile, NewKeys
from ..deduplicate.horizon import NO_KEYS, TimedKeys, is_worn, joined, to_merge
from ..deduplicate.index import shard_bounds
from ..deduplicate.key_files import read_keys, write_keys
from ..runs import RunStore
from ..write.garbage import Garbage, look_at
from ..write.manifests import PRIVATE
from .chain import Chain


@dataclass(frozen=True)
class Horizon:
    """Which records of a job are duplicates.

    Attributes:
        key: names of the fields that the key consists of.
        kinds: of which kind each of them is (``KeyHashes.kinds``).
        event_time: the field of event times.
        us: of two records of one key that are nearer, in microseconds, one is a duplicate.
    """

    key: tuple[str, ...]
    kinds: tuple[str, ...]
    event_time: str
    us: int

    def bound(self, watermark: int) -> int:
        """The event time up to which keys need not be known any more."""
        return watermark - 2 * self.us


def keys_folder(home: str) -> str:
    """The folder of a run store's home for files of kept keys. It is no run's own: these files
    outlive what is kept of the commits that wrote them."""
    return storage.join(home, PRIVATE, "keys")


def keep_keys(
    horizon: Horizon,
    carry: Carry,
    files: Iterable[KeyFile],
    new: Iterable[NewKeys],
    watermark: int,
    folder: str,
) -> KeptKeys:
    """The keys that a commit hands on.

    Args:
        carry: of the commit before.
        files: keys that were kept since, in files.
        new: keys that were kept since, at hand.
        watermark: of this commit.
        folder: where files are written to.
    """
    bound = horizon.bound(watermark)
    before = carry.keys.files if carry.keys else ()
    at_hand = joined([TimedKeys.of_bytes(part.keys) for part in new]).after(bound)
    cuts = np.searchsorted(at_hand.high, shard_bounds(carry.shards))
    kept: list[KeyFile] = []
    files = [file for file in (*before, *files) if file.newest > bound]
    for shard, (start, end) in enumerate(zip([0, *cuts], [*cuts, at_hand.rows], strict=True)):
        runs = [_Run(file.rows, file=file) for file in files if file.shard == shard]
        runs = [_made_anew(run, bound) for run in runs]
        if end > start:
            runs.append(_Run(int(end - start), keys=at_hand.of(np.arange(start, end))))
        older = len(runs) - to_merge([run.rows for run in runs])
        merged = _merged(runs[older:], bound)
        kept += [_written(run, shard, folder) for run in (*runs[:older], *merged)]
    return KeptKeys(key=horizon.key, kinds=horizon.kinds, files=tuple(kept))


class _Run(NamedTuple):
    """Keys that are in a file, or at hand."""

    rows: int
    file: KeyFile | None = None
    keys: TimedKeys | None = None

    def load(self) -> TimedKeys:
        if self.keys is not None:
            return self.keys
        return read_keys(self.file) if self.file else NO_KEYS


def _made_anew(run: _Run, bound: int) -> _Run:
    """A run without the keys that need not be known any more, if these are half of it."""
    if run.file is None or not is_worn(run.file.middle, bound):
        return run
    keys = run.load().after(bound)
    return _Run(keys.rows, keys=keys)


def _merged(runs: Sequence[_Run], bound: int) -> list[_Run]:
    if len(runs) < 2:
        return list(runs)
    keys = joined([run.load() for run in runs]).after(bound)
    return [_Run(keys.rows, keys=keys)] if keys.rows else []


def _written(run: _Run, shard: int, folder: str) -> KeyFile:
    if run.file is not None:
        return run.file
    return write_keys(run.load(), shard, folder)


def find_unnamed(store: RunStore, before: float) -> Iterator[Garbage]:
    """Files of keys that dead attempts left. Call it with the job's lock held.

    Args:
        before: a time in seconds since the epoch; what was written later is left alone.

    Raises:
        StorageError: a folder cannot be listed, or a commit cannot be read.
    """
    if any(store.runs().values()):
        return  # what is prepared and not yet the newest commit names files too
    carry = Chain(store).carry()
    named = carry.held_paths if carry else set[str]()
    for path in storage.list_files(keys_folder(store.home), ".keys"):
        if path not in named and (found := look_at(path, "kept by no commit")).modified < before:
            yield found
