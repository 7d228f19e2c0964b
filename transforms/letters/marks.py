"""What became of dead letters: marks, which are appended and never changed.

Each commit of marks is a file of its own in the job's state folder, written once::

    _millstream/marks/0000000007-<run id>.json

A letter is known by its id; ``attempt`` is that of the very letter that is marked. A replay that
fails on a record writes a new letter of the same id with the next attempt, and marks that one as
``failed``: what came before it stands no more. A letter whose attempt is later than all of its
marks is open. The job's lock is held while marks are written.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Literal, get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import storage
from ..plan import checked_name

FORMAT = "millstream.mark/1"
Outcome = Literal["replayed", "failed", "discarded"]
OPEN = "open"
STATUSES = (OPEN, *get_args(Outcome))


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One letter's mark in a file."""

    id: str
    attempt: int
    outcome: Outcome


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """Marks that were committed together. ``at`` is ISO 8601, UTC."""

    format: str = FORMAT
    run_id: str
    at: str
    reason: str = ""
    marks: tuple[Entry, ...]


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a letter. ``at`` is ISO 8601, UTC; ``reason`` is what a person gave."""

    id: str
    attempt: int
    outcome: Outcome
    run_id: str
    at: str
    reason: str


class Marks:
    """The marks of one job.

    Args:
        home: the job's state folder.

    All methods raise ``StorageError`` when a file cannot be read or written.
    """

    def __init__(self, home: str) -> None:
        self._folder = storage.join(storage.absolute(home), "_millstream", "marks")

    def append(
        self,
        run_id: str,
        entries: Iterable[Entry],
        *,
        reason: str = "",
        at: dt.datetime | None = None,
    ) -> bool:
        """Commit marks, once for a run id; ``False`` if it has committed its marks already.

        Call it with the job's lock held: the numbers of files say which mark is the newest.
        """
        checked_name(run_id, "run id")
        there = storage.list_files(self._folder, ".json")
        if any(_run_of(path) == run_id for path in there):
            return False
        moment = (at or dt.datetime.now(dt.UTC)).astimezone(dt.UTC)
        file = _File(
            run_id=run_id,
            at=moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            reason=reason,
            marks=tuple(entries),
        )
        number = _number_of(there[-1]) + 1 if there else 1
        path = storage.join(self._folder, f"{number:010d}-{run_id}.json")
        made = storage.write_once(path, msgspec.json.encode(file))
        for cached in ("_newest", "_outcomes"):
            self.__dict__.pop(cached, None)
        return made

    def of(self, letter_id: str) -> list[Mark]:
        """All marks of a letter, the newest last."""
        return [
            Mark(
                id=entry.id, attempt=entry.attempt, outcome=entry.outcome,
                run_id=file.run_id, at=file.at, reason=file.reason,
            )
            for file in self._files()
            for entry in file.marks
            if entry.id == letter_id
        ]  # fmt: skip

    def statuses(self, ids: pa.Array, attempts: pa.Array) -> pa.Array:
        """The status of letters, one of :data:`STATUSES` each; null where a later attempt of the
        letter is marked, so that this one stands no more.

        Args:
            attempts: null stands for 0.
        """
        places = self.places(ids, attempts)
        return pa.array(STATUSES).take(pa.array(places, mask=places < 0))

    def places(self, ids: pa.Array, attempts: pa.Array) -> np.ndarray:
        """:meth:`statuses` as places in :data:`STATUSES`; -1 stands for null."""
        found = np.full(len(ids), STATUSES.index(OPEN))
        newest, outcomes = self._newest, self._outcomes
        if not newest.num_rows or not len(ids):
            return found
        marks = pc.index_in(ids, newest["id"])
        rows = np.flatnonzero(marks.is_valid().to_numpy(zero_copy_only=False))
        taken = marks.drop_null().to_numpy()
        marked = newest["attempt"].to_numpy()[taken]
        ours = pc.fill_null(attempts.take(pa.array(rows)).cast(pa.int64()), 0).to_numpy()
        of_marked = np.where(ours == marked, outcomes[taken], -1)
        found[rows] = np.where(ours > marked, STATUSES.index(OPEN), of_marked)
        return found

    def count(self, ids: pa.Array, outcome: Outcome) -> int:
        """Of how many letters, whatever their attempts, the newest mark says this."""
        marked = pc.index_in(ids, self._newest["id"]).drop_null()
        return int((self._outcomes[marked.to_numpy()] == STATUSES.index(outcome)).sum())

    @property
    def is_empty(self) -> bool:
        """Whether no letter was ever marked."""
        return not self._newest.num_rows

    @cached_property
    def _newest(self) -> pa.Table:
        """Of each letter the newest mark: ``id``, ``attempt``, ``outcome``."""
        entries = [entry for file in self._files() for entry in file.marks]
        ids = pa.array([entry.id for entry in entries], pa.string())
        table = pa.table(
            {
                "id": ids,
                "attempt": pa.array([entry.attempt for entry in entries], pa.int64()),
                "outcome": pa.array([entry.outcome for entry in entries], pa.string()),
            }
        )
        codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
        # Of equal ones, the first of the reversed is the last.
        _, last = np.unique(codes[::-1], return_index=True)
        return table.take(pa.array(len(codes) - 1 - last, pa.int64())).combine_chunks()

    @cached_property
    def _outcomes(self) -> np.ndarray:
        """The outcomes of the newest marks, as places in :data:`STATUSES`."""
        return np.array([STATUSES.index(o) for o in self._newest["outcome"].to_pylist()], np.int64)

    def _files(self) -> Iterator[_File]:
        for path in storage.list_files(self._folder, ".json"):
            yield _read(path)


def _read(path: str) -> _File:
    try:
        found = msgspec.json.decode(storage.read_bytes(path), type=_File)
    except msgspec.DecodeError as error:
        raise storage.StorageError(f"cannot read {path}: no marks: {error}", path) from error
    if found.format != FORMAT:
        raise storage.StorageError(f"cannot read {path}: format {found.format!r}", path)
    return found


def _number_of(path: str) -> int:
    return int(path.rpartition("/")[2].partition("-")[0])


def _run_of(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json").partition("-")[2]
