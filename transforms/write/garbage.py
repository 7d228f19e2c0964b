"""What dead attempts left behind: found, and deleted, without what a restart could need.

Only files that belong to runs of one run store are looked at: of others nobody here knows whether
they are still at work. A run that has prepared its commit and not ended it keeps everything.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from .. import storage
from .files import FilesDestination, run_of
from .manifests import KEEP, PRIVATE, manifests, read_manifest, unused_older

_STATES = f"{PRIVATE}/states"
_STAGED = "staged, never committed"
_HALF_WRITTEN = "half written"


class Garbage(NamedTuple):
    """A file that nobody needs. ``modified`` is in seconds since the epoch."""

    path: str
    bytes: int
    modified: float
    reason: str


def find_garbage(
    destination: FilesDestination, runs: Mapping[str, bool], before: float
) -> Iterator[Garbage]:
    """What of a folder of files can be deleted. Call it with the job's lock held.

    Args:
        runs: what :meth:`.RunStore.runs` gave.
        before: a time in seconds since the epoch; what was written later is left alone. Old
            manifests are garbage at any age.

    Raises:
        StorageError: a folder cannot be listed, or the manifest cannot be read.
    """
    yield from _older(_staged(destination.staging, runs, destination.name), before, _STAGED)
    private = storage.join(destination.home, PRIVATE)
    yield from _older(storage.list_temporaries(private), before, _HALF_WRITTEN)
    yield from _older(_unnamed(destination, runs), before, "in no manifest")
    yield from _older(manifests(destination.home)[:-KEEP], math.inf, "old manifest")
    yield from _older(unused_older(destination.home), before, "in no manifest")


def find_leftovers(home: str, runs: Mapping[str, bool], before: float) -> Iterator[Garbage]:
    """What of a run store's own folder can be deleted. Call it with the job's lock held.

    All that is staged for tables lies there, of whatever output, and what waited while keys were
    compared. Args and errors are those of :func:`find_garbage`.

    Args:
        home: :attr:`.RunStore.home`.
    """
    private = storage.join(home, PRIVATE)
    yield from _older(_staged(staging_of(home), runs), before, _STAGED)
    yield from _older(storage.list_temporaries(private), before, _HALF_WRITTEN)
    # Refused rows whose writer died. Another attempt writes its own, so that even a run that is to
    # be completed does not need them.
    staged = storage.list_files(storage.join(private, "runs"), ".staged", deep=True)
    yield from _older(staged, before, _HALF_WRITTEN)
    yield from _given_up(storage.join(private, "backfills"), before)


def _given_up(backfills: str, before: float) -> Iterator[Garbage]:
    """What backfills have read that nobody has gone on with; their reports stay."""
    folders: dict[str, list[str]] = {}
    for path in storage.list_files(backfills, deep=True):
        if not path.endswith("/report.json"):
            name = path.removeprefix(backfills).strip("/").partition("/")[0]
            folders.setdefault(name, []).append(path)
    for paths in folders.values():
        # What says that a unit is done goes before what it names: half of it is nothing.
        paths.sort(key=lambda path: not path.endswith(".json"))
        found = list(_older(paths, before, "of a backfill that was not published"))
        if len(found) == len(paths):
            yield from found


def staging_of(home: str) -> str:
    """The folder of a run store's home that rows are staged in."""
    return storage.join(home, PRIVATE, "staging")


def unknown_staged(staging: str, runs: Mapping[str, bool]) -> list[str]:
    """Staged files of runs that the run store does not know, which are left alone."""
    return [path for path, run_id, _ in _staged_files(staging) if run_id not in runs]


def delete_garbage(home: str, garbage: Garbage) -> None:
    """Delete a file, and the folders in ``home`` that are empty without it."""
    storage.delete(garbage.path)
    folder = garbage.path.rpartition("/")[0]
    while folder.startswith(storage.join(home, "")):
        storage.delete_empty_folder(folder)
        folder = folder.rpartition("/")[0]


def look_at(path: str, reason: str) -> Garbage:
    """A file that is to go.

    Raises:
        StorageError: it cannot be looked at, or is not there.
    """
    return Garbage(path, storage.size(path), storage.modified(path), reason)


def _older(paths: Iterable[str], before: float, reason: str) -> Iterator[Garbage]:
    for path in paths:
        try:
            found = look_at(path, reason)
        except storage.StorageError as exc:
            if exc.errno != errno.ENOENT:
                raise
            continue  # someone else was faster
        if found.modified < before:
            yield found


def _staged_files(staging: str) -> Iterator[tuple[str, str, str]]:
    """Path, run id and output of each staged file."""
    for path in storage.list_files(staging, deep=True):
        match path.removeprefix(staging).strip("/").split("/"):
            case [run_id, output, _, *_]:
                yield path, run_id, output


def _staged(staging: str, runs: Mapping[str, bool], name: str | None = None) -> Iterator[str]:
    """Staged files of runs that have nothing left to complete; of one output, or of all."""
    for path, run_id, output in _staged_files(staging):
        if name in (None, output) and runs.get(run_id) is False:
            yield path


def _unnamed(destination: FilesDestination, runs: Mapping[str, bool]) -> Iterator[str]:
    """Final files that a crash left between their move and their manifest."""
    home = storage.join(destination.home, "")
    # Listed before the manifest is read: so what is committed meanwhile is in the manifest.
    listed = [path.removeprefix(home) for path in storage.list_files(destination.home, deep=True)]
    live = {file.path for entry in read_manifest(destination.home).entries for file in entry.files}
    needed = [f"-{run_id}-" for run_id, unfinished in runs.items() if unfinished]
    others = {path.partition(f"/{PRIVATE}/")[0] for path in listed if f"/{PRIVATE}/" in path}
    for path in listed:
        folder, _, name = path.rpartition("/")
        if path in live or not _holds_final_files(folder, others):
            continue
        # By name a file may be of two runs (output a-b, run c; output a, run b-c): it stays if any
        # run that it could be of is unfinished.
        if run_of(name, destination.name) in runs and not any(run in name for run in needed):
            yield home + path


def _holds_final_files(folder: str, others: set[str]) -> bool:
    """Whether a folder is the destination's own, and neither private nor another destination's."""
    if folder in ("", _STATES):
        return True
    segments = folder.split("/")
    within = {"/".join(segments[: i + 1]) for i in range(len(segments))}
    return all("=" in segment for segment in segments) and not within & others
