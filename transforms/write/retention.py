"""What is committed, and older than its owner keeps it: tokens, partial states, dead letters.

None of it goes unless it is asked for. Tokens, and what runs had prepared, go only of runs that are
settled: their records stay, and answer for them when they are started again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import pyarrow.parquet as pq

from ...schemas.aggregates.spec import SESSION_END, SLICE_START
from .. import storage
from ..links import Links
from ..runs import RunStore
from .files import FilesDestination
from .garbage import Garbage, look_at
from .manifests import PRIVATE, read_manifest
from .tables import TableDestination

LETTER_TIME = "timestamp"
"""The column of dead letters that says when they were made."""
_COMPLETED_BY = ("prepared.json", ".note", ".parquet")
"""What the names end in of files that a run is completed with: what it has prepared, notes, rows
that were refused."""


def settled_runs(store: RunStore, before: float) -> frozenset[str]:
    """Run ids that were recorded before a time, and have nothing left to complete. The newest
    commit of a job that goes on is none: the next one begins with it.

    Args:
        before: seconds since the epoch.

    Raises:
        StorageError: a record cannot be read.
    """
    unfinished = {run_id for run_id, unfinished in store.runs().items() if unfinished}
    if newest := Links(store.home).newest():
        unfinished.add(newest[1].run_id)
    return frozenset(
        record.run_id
        for record in store.committed()
        if record.run_id not in unfinished
        and datetime.fromisoformat(record.finished_at) < datetime.fromtimestamp(before, UTC)
    )


def find_completed(store: RunStore, settled: Collection[str]) -> Iterator[Garbage]:
    """What settled runs were completed with. Their plans and records are not among it.

    Raises:
        StorageError: a folder cannot be listed.
    """
    runs = storage.join(store.home, PRIVATE, "runs")
    found: dict[str, list[str]] = {}
    for path in storage.list_files(runs, deep=True):
        match path.removeprefix(runs).strip("/").split("/"):
            case [run_id, _, name] if run_id in settled:
                found.setdefault(path.removesuffix(name), []).append(name)
    for folder, names in found.items():
        if "record.json" in names:
            for name in names:
                if name.endswith(_COMPLETED_BY):
                    yield look_at(folder + name, "of a recorded run")


def forget_tokens(
    to: TableDestination, settled: Collection[str], before: float, *, dry_run: bool = False
) -> int | None:
    """Delete the tokens of settled runs that are older than a time; gives how many.

    Tokens of all others stay, also of runs that nobody here knows: another job may need them.
    ``None`` where the service keeps its tokens by itself.

    Raises:
        DestinationError, Unavailable: the service does not do it.
    """
    old = to.old_tokens(before)
    if old is None:
        return None
    if dry_run:
        return sum(run_id in settled for run_id in old)
    return to.forget(before, [run_id for run_id in old if run_id not in settled])


def old_states(to: FilesDestination, runs: Mapping[str, bool], before: float) -> list[Garbage]:
    """Committed files of partial states of which every slice (of sessions: the end) lies before a
    time, by their statistics.

    Args:
        runs: what :meth:`.RunStore.runs` gave; states of others, and of runs that are to be
            completed, stay.

    Raises:
        StorageError: the manifest, or a file, cannot be read.
    """
    ended = [run_id for run_id, unfinished in runs.items() if not unfinished]
    return [
        look_at(path, "partial states")
        for path in _live(to, ended, "states")
        if (newest := _newest_us(path)) is not None and newest < before * 1_000_000
    ]


def old_letters(to: FilesDestination, settled: Collection[str]) -> list[Garbage]:
    """Committed files of dead letters of settled runs.

    Raises:
        StorageError: the manifest cannot be read, or a file is missing.
    """
    return [look_at(path, "dead letters") for path in _live(to, settled, "data")]


def withdraw(to: FilesDestination, gone: Sequence[Garbage]) -> None:
    """Have no manifest name files that are to be deleted."""
    home = storage.join(to.home, "")
    to.withdraw({garbage.path.removeprefix(home) for garbage in gone})


def _live(to: FilesDestination, runs: Collection[str], part: str) -> list[str]:
    return [
        storage.join(to.home, file.path)
        for entry in read_manifest(to.home).entries
        if entry.output == to.name and entry.run_id in runs
        for file in entry.files
        if file.part == part
    ]


def _newest_us(path: str) -> int | None:
    """The latest time in a file of states, in microseconds since the epoch; ``None`` if the file
    does not say."""
    with storage.named(path, "read"), storage.open_read(path) as file:
        found = pq.read_metadata(file)
    columns = {found.schema.column(i).path: i for i in range(found.num_columns)}
    at = columns.get(SESSION_END, columns.get(SLICE_START))
    if at is None:
        return None
    newest = []
    for group in range(found.num_row_groups):
        stated = found.row_group(group).column(at).statistics
        if stated is None or not stated.has_min_max:
            return None
        newest.append(stated.max_raw)
    return max(newest, default=None)
