"""Comparing two places: what is asked, and what has come of it."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ..transforms import storage
from . import runners
from .job import JobError

if TYPE_CHECKING:
    from ..schemas.contract import Contract
    from ..schemas.masking import Masking
    from ..transforms.reconcile import By, Compared, Reconciled
    from ..transforms.reconcile.places import Place
    from ..transforms.reconcile.reasons import Refused
    from ..transforms.runs import RunStore
    from ..transforms.write.destination import Output


_PREFIX = "millstream-reconcile-"


@dataclass(frozen=True)
class Question:
    """What is asked of two places; ``None`` and nothing stand for what goes without saying."""

    key: tuple[str, ...] = ()
    by: tuple[By, ...] = ()
    columns: tuple[str, ...] = ()
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    rows: int = 10
    scratch: str | None = None

    @property
    def is_partial(self) -> bool:
        """Whether rows are left out by their event time."""
        return self.start is not None or self.end is not None

    def columns_needed(self, key: Sequence[str], event_time: str | None) -> list[str] | None:
        """The columns to compare, and those without which they cannot be; ``None`` for all."""
        if not self.columns:
            return None
        times = [event_time] if event_time and self.is_partial else []
        needed = (*key, *times, *(by.column for by in self.by), *self.columns)
        return list(dict.fromkeys(needed))


class LedgerCheck(NamedTuple):
    """What the ledger says of an output.

    Attributes:
        runs: that have committed.
        written: rows that they have written.
        quarantined: of these, rows that a gate has kept back.
        rows: that the output holds.
        gone: files that they have read, and are not among the input any more.
        of_gone: rows that they have written of these.
    """

    runs: int
    written: int
    quarantined: int
    rows: int
    gone: int
    of_gone: int

    @property
    def holds(self) -> bool:
        """Whether the output has as many rows as were written to it."""
        return self.written - self.quarantined == self.rows


class OfJob(NamedTuple):
    """What only a job's comparison tells.

    Attributes:
        read, filtered: records that came in, and that steps have left out.
        replaced: records that others of their key take the place of, with ``mode=upsert``.
        refused: what became of records that the job refuses now.
        ledger: ``None`` where the output need not have as many rows as were written: some take the
            place of others, or not all are looked at.
    """

    name: str
    read: int
    filtered: int
    replaced: int
    refused: Refused
    ledger: LedgerCheck | None


@dataclass(frozen=True)
class Outcome:
    """What a comparison has come to, and who may see which values of it."""

    source: str
    destination: str
    result: Reconciled
    masking: Masking | None = None
    job: OfJob | None = None

    @property
    def is_alike(self) -> bool:
        """Whether there is a reason for everything in which the sides differ."""
        if self.result.unexplained:
            return False
        job = self.job
        return job is None or (not job.refused.bare and (job.ledger is None or job.ledger.holds))


def reconcile_places(
    source: str,
    destination: str,
    question: Question,
    contract: Contract | None = None,
    event_time: str | None = None,
    masking: Masking | None = None,
) -> Outcome:
    """Compare two places.

    Args:
        contract: gives types, key and event time, as far as nothing else does.

    Raises:
        ValueError: they cannot be compared so.
        DestinationError: one cannot be read back.
        Unavailable: a service does not answer.
        StorageError: a file cannot be read or written.
    """
    from ..schemas.arrow import record_schema
    from ..transforms.reconcile import reconcile
    from ..transforms.reconcile.places import Place, open_places
    from ..transforms.write.destination import Output

    event_time = event_time or (contract.event_time if contract else None)
    key = question.key or (contract.primary_key if contract else ())
    there = Place(Output("destination", destination), any_name=True)
    opened = open_places(
        Place(Output("source", source), any_name=True),
        there,
        typed=record_schema(contract) if contract else None,
        columns=question.columns_needed(key, event_time),
    )
    how = compared(opened.compared, question, key, event_time, there, masking)
    if question.scratch and storage.is_remote(question.scratch):
        raise JobError("--scratch: name a folder of this machine, on which places are compared")
    with _local_scratch(question.scratch) as folder:
        found = reconcile(opened.source, opened.destination, how, folder, rows=question.rows)
    return Outcome(opened.source.place, opened.destination.place, found, masking)


def compared(
    common: Compared,
    question: Question,
    key: Sequence[str],
    event_time: str | None,
    destination: Place,
    masking: Masking | None,
) -> Compared:
    """What is compared, by what was asked, or by what the destination and the contract say.

    Raises:
        JobError: it cannot be.
    """
    from ..transforms.stored import between

    names = common.schema.names
    if question.is_partial and not event_time:
        raise JobError("--from and --to are event times: say with --event_time which column has it")
    by = question.by
    if hidden := [each for each in by if masking and masking.is_hidden(each.column)]:
        raise JobError(f"--by: {hidden[0].column} is classified, and would name partitions")
    if not by:
        own = [each for each in _own_partitions(destination.output) if each.column in names]
        by = () if masking and any(masking.is_hidden(b.column) for b in own) else tuple(own)
    if not by and event_time in names and event_time is not None:
        from ..transforms.reconcile import By

        by = () if masking and masking.is_hidden(event_time) else (By(event_time, "day"),)
    where = common.where
    if event_time and question.is_partial:
        where = between(event_time, question.start, question.end)
    if not question.key and not set(names).issuperset(key):
        key = ()
    found = replace(common, key=tuple(key), by=by, where=where)
    found.check()
    return found


def _own_partitions(output: Output) -> Iterator[By]:
    """What an output is partitioned by."""
    from ..transforms.reconcile import By
    from ..transforms.write.tables import TableDestination

    to = output.destination
    if isinstance(to, TableDestination):
        partitions = to.options.partition_by
    else:
        partitions = to.layout.partition_by if to.layout else ()
    units = {"": "", "date": "day", "hour": "hour"}
    for partition in partitions:
        yield By(partition.column, units[partition.function])


@contextmanager
def scratch_folder(asked: str | None, store: RunStore, beam_flags: list[str]) -> Iterator[str]:
    """A folder that the workers reach, and that is deleted afterwards."""
    if asked is None and not runners.works_here(runners.chosen(runners.bounded(beam_flags))):
        asked = storage.join(store.home, "_millstream", "reconcile")
    if asked is None or not storage.is_remote(asked):
        with _local_scratch(asked) as folder:
            yield folder
        return
    folder = storage.join(asked, f"{_PREFIX}{uuid.uuid4().hex}")
    try:
        yield folder
    finally:
        with suppress(storage.StorageError):
            for path in storage.list_files(folder, deep=True):
                storage.delete(path)


def _local_scratch(asked: str | None) -> tempfile.TemporaryDirectory[str]:
    """A folder that nobody else may look into."""
    if asked is not None:
        os.makedirs(asked, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=_PREFIX, dir=asked and storage.absolute(asked))
