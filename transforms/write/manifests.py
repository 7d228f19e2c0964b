"""Manifests: numbered snapshots of what is live in a folder of files.

One is created only if its number is free: who finds it taken reads the newest and tries again. Of a
folder with many commits the entries of earlier ones are moved to files that are never changed, and
the manifest names these: so what a commit writes does not grow with all that were before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

import msgspec
import numpy as np
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from .. import storage
from ..receipts import Part

FORMAT = "millstream.manifest/1"
LAYERED_FORMAT = "millstream.manifest/2"
"""Of a manifest that names files of earlier entries."""
PRIVATE = "_millstream"
OLDER = "manifests/older"
KEEP = 16
"""How many manifests are kept for readers that have just listed them."""
FOLD_ENTRIES = 512
"""So many entries in a manifest are moved to a file of their own."""
MERGE_FILES = 8
"""So many such files become one of the next level."""


class ManifestFile(msgspec.Struct, frozen=True):
    """A live file. ``path`` is relative to the destination's folder, the partition's included."""

    path: str
    part: Part
    rows: int
    bytes: int
    sha256: str


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one run has committed to one output.

    ``replaced`` are the files that this commit put out of use; deleting them can be repeated.
    """

    output: str
    run_id: str
    token: str
    digest: str
    rows: int
    files: tuple[ManifestFile, ...] = ()
    replaced: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What only the latest entry counts of."""
        return self.output, self.run_id


class _Tagged(msgspec.Struct, frozen=True):
    format: str


class _Older(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of earlier manifests, in the order of their commits."""

    format: str = LAYERED_FORMAT
    entries: tuple[Entry, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is live in a folder, as of one version.

    ``older`` are names of files in ``_millstream/manifests/older`` with the entries of commits
    before, the oldest first. Of entries of one output and run the last one counts.
    """

    format: str
    version: int
    entries: tuple[Entry, ...]
    older: tuple[str, ...] = ()

    def entry(self, output: str, run_id: str) -> Entry | None:
        """What a run has committed to an output, of those that are not in older files."""
        return next((e for e in self.entries if e.key == (output, run_id)), None)


NOTHING = Manifest(format=FORMAT, version=0, entries=())
T = TypeVar("T")


def read_manifest(folder: str) -> Manifest:
    """All that is live in a folder, with what is in older files; version 0 if it has no manifest.

    Raises:
        StorageError: it cannot be read, or is of a later format.
    """
    manifest, entries = read_all(folder)
    return Manifest(format=FORMAT, version=manifest.version, entries=entries)


def read_all(folder: str) -> tuple[Manifest, tuple[Entry, ...]]:
    """The newest manifest as it is, and all entries, with those of older files.

    Raises:
        StorageError: it cannot be read, or is of a later format.
    """

    def look(found: Manifest) -> tuple[Manifest, tuple[Entry, ...]]:
        older = (e for name in found.older for e in _read_older(_older_path(folder, name)))
        return found, latest([*older, *found.entries])

    return _newest(folder, look)


def find_entry(folder: str, output: str, run_id: str) -> tuple[Manifest, Entry | None]:
    """The newest manifest, without what is in older files, and what a run has committed.

    Raises:
        StorageError: it cannot be read, or is of a later format.
    """

    def look(found: Manifest) -> tuple[Manifest, Entry | None]:
        return found, found.entry(output, run_id) or _in_older(folder, found, output, run_id)

    return _newest(folder, look)


def manifests(folder: str) -> list[str]:
    """Paths of a folder's manifests, the newest last."""
    return storage.list_files(storage.join(folder, PRIVATE, "manifests"), ".json")


def append(folder: str, manifest: Manifest, entries: Iterable[Entry]) -> bool:
    """Write the manifest that follows one, with more entries; ``False`` if its number is taken."""
    version, older = manifest.version + 1, manifest.older
    held = latest([*manifest.entries, *entries])
    if len(held) > FOLD_ENTRIES:
        older, held = _fold(folder, version, older, held), ()
    format = LAYERED_FORMAT if older else FORMAT
    following = Manifest(format=format, version=version, older=older, entries=held)
    path = storage.join(folder, PRIVATE, "manifests", f"{version:08d}.json")
    return storage.write_once(path, msgspec.json.encode(following))


def latest(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Of entries of one output and run the last one, in the order of the last ones."""
    found: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        found.pop(entry.key, None)
        found[entry.key] = entry
    return tuple(found.values())


def tidy_manifests(folder: str) -> None:
    """Delete manifests that no reader can just have listed, and older files that none names."""
    found = manifests(folder)
    for path in found[:-KEEP]:
        storage.delete(path)
    if found and _number(found[-1]) % KEEP == 0:  # not with each commit: it takes a listing
        for path in unused_older(folder):
            storage.delete(path)


def unused_older(folder: str) -> list[str]:
    """Paths of older files that no manifest names which is kept, or may still be written.

    A file carries the number of the manifest that it was written for. One of a lower number than
    those that are kept has come too late, if it ever comes: who writes it sees that, and begins
    again.
    """
    kept = manifests(folder)[-KEEP:]
    if not kept:
        return []
    first = _number(kept[0])
    named = set(_decode(kept[-1]).older)
    paths = storage.list_files(_older_folder(folder), ".json")
    unnamed = [p for p in paths if _parts(p)[1] < first and _name(p) not in named]
    if unnamed:
        named |= {name for path in kept for name in _decode(path).older}
    return [path for path in unnamed if _name(path) not in named]


def _newest(folder: str, look: Callable[[Manifest], T]) -> T:
    while True:
        paths = manifests(folder)
        if not paths:
            return look(NOTHING)
        try:
            return look(_decode(paths[-1]))
        except storage.StorageError:
            if manifests(folder)[-1:] == paths[-1:]:
                raise
            continue  # tidied away since we listed it: there is a newer one


def _in_older(folder: str, manifest: Manifest, output: str, run_id: str) -> Entry | None:
    for name in reversed(manifest.older):
        path = _older_path(folder, name)
        keys = _keys(path)
        key = np.uint64(_hashed(output, run_id))
        at = int(np.searchsorted(keys, key))
        if at < len(keys) and keys[at] == key:
            for entry in _read_older(path):
                if entry.key == (output, run_id):
                    return entry
    return None


@lru_cache(maxsize=256)
def _keys(path: str) -> np.ndarray:
    """Hashes of the keys of an older file's entries, sorted. Such a file is never changed: its name
    holds a hash of its content."""
    hashes = (_hashed(*entry.key) for entry in _read_older(path))
    return np.sort(np.fromiter(hashes, np.uint64))


def _hashed(output: str, run_id: str) -> int:
    return xxh3_64_intdigest(f"{output}\0{run_id}".encode())


def _fold(
    folder: str, version: int, older: Sequence[str], entries: Sequence[Entry]
) -> tuple[str, ...]:
    """The older files once they hold these entries too. Levels never rise from one to the next."""
    names, level = list(older), 0
    while True:
        same = [name for name in names if _parts(name)[0] == level]
        if len(same) + 1 < MERGE_FILES:
            break
        names = names[: -len(same)]
        before = [e for name in same for e in _read_older(_older_path(folder, name))]
        entries, level = latest([*before, *entries]), level + 1
    data = msgspec.json.encode(_Older(entries=tuple(entries)))
    name = f"{level}-{version:08d}-{xxh3_64_hexdigest(data)}.json"
    storage.write_replace(_older_path(folder, name), data)
    return (*names, name)


def _read_older(path: str) -> tuple[Entry, ...]:
    try:
        return msgspec.json.decode(storage.read_bytes(path), type=_Older).entries
    except msgspec.DecodeError as exc:
        raise storage.StorageError(f"cannot read {path}: not of a manifest: {exc}", path) from exc


def _older_folder(folder: str) -> str:
    return storage.join(folder, PRIVATE, OLDER)


def _older_path(folder: str, name: str) -> str:
    return storage.join(_older_folder(folder), name)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _parts(path: str) -> tuple[int, int]:
    """The level of an older file, and the version that it was written for."""
    level, version, _ = _name(path).split("-")
    return int(level), int(version)


def _number(path: str) -> int:
    """The version of a manifest, by its name."""
    return int(_name(path).removesuffix(".json"))


def _decode(path: str) -> Manifest:
    data = storage.read_bytes(path)
    try:
        format = msgspec.json.decode(data, type=_Tagged).format
        if format in (FORMAT, LAYERED_FORMAT):
            return msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as exc:
        raise storage.StorageError(f"cannot read {path}: not a manifest: {exc}", path) from exc
    raise storage.StorageError(f"cannot read {path}: format {format!r}", path)
