"""What a load changes in an Iceberg table: the data files that go, and those that come.

Rows are replaced by copying: a data file with rows that stand no more is written anew without them.
Files that cannot have any, by the statistics or the partition that the table keeps of each, are not
read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    GreaterThanOrEqual,
    LessThanOrEqual,
)
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table import DataScan, FileScanTask
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.metadata import TableMetadata

from ...read.ahead import read_ahead
from ..deletions import columns_of
from ..errors import DestinationError
from ..latest import KeyRange, Winners, winners
from ..tables import Load
from .files import DataFiles, Shape
from .stored import read_stored


class Files(NamedTuple):
    """Data files that a commit takes out of a table, and those that it adds."""

    gone: list[DataFile]
    added: list[DataFile]


class Change(ABC):
    """A load on its way into a table: planned against what the table is, and anew if another
    commit was first.

    Args:
        run_id: what the names of data files carry.
    """

    def __init__(self, load: Load, run_id: str) -> None:
        self._load = load
        self._run_id = run_id
        self._files: DataFiles | None = None

    @abstractmethod
    def plan(self, metadata: TableMetadata, io: FileIO) -> Files:
        """Write the data files that the table needs. Those of an earlier plan that it does not
        need are deleted.

        Args:
            metadata: the table's, as it is, with the columns that the load adds.
        """

    def abandon(self) -> None:
        """Delete the data files of the last plan, which no snapshot has."""
        if self._files is not None:
            self._files.abandon()
            self._files = None

    def _begin(self, metadata: TableMetadata, io: FileIO) -> DataFiles:
        self.abandon()
        self._files = DataFiles(metadata, io, self._run_id)
        return self._files


class Append(Change):
    """The load's rows, and nothing else. Its data files outlive a conflict."""

    _written: Files | None = None

    def plan(self, metadata: TableMetadata, io: FileIO) -> Files:
        if self._files is None or self._written is None or not _alike(metadata, self._files):
            files = self._begin(metadata, io)
            for batch in read_ahead(map(files.shape.fit, self._load.batches())):
                files.write(batch)
            self._written = Files([], files.close())
        return self._written


def _alike(metadata: TableMetadata, files: DataFiles) -> bool:
    """Whether files that were written for a table are right for it as it is now."""
    then = files.metadata
    return (metadata.schema(), metadata.spec(), metadata.location) == (
        then.schema(),
        then.spec(),
        then.location,
    )


class Upsert(Change):
    """The load's rows that are the latest of their key, in place of the table's.

    Args:
        deletions: finds the table that remembers deletions, if there is one. It is asked after the
            table's own state is known: what was deleted up to then is remembered there.
    """

    def __init__(
        self, load: Load, run_id: str, deletions: Callable[[], IcebergTable | None]
    ) -> None:
        super().__init__(load, run_id)
        self._deletions = deletions
        self._winners: Winners | None = None
        self._compared: pa.Schema | None = None

    def plan(self, metadata: TableMetadata, io: FileIO) -> Files:
        load = self._load
        shape = Shape(metadata.schema().select(*load.key, *load.order))
        latest = self._latest(shape)
        files = self._begin(metadata, io)
        gone: list[DataFile] = []
        if len(latest):
            asked = _between(latest.ranges)
            if load.order and (deletions := self._deletions()):
                for task in tasks_of(deletions.metadata, deletions.io, asked):
                    for batch in read_stored(deletions.metadata, deletions.io, task, shape):
                        latest.bury(batch)
            for task in tasks_of(metadata, io, asked):
                stands = [latest.judge(b) for b in read_stored(metadata, io, task, shape)]
                if not stays(files, io, task, stands):
                    gone.append(task.file)
        standing = latest.standing()
        fitted = map(files.shape.fit, load.batches())
        for batch in read_ahead(filtered(fitted, standing)):
            files.write(batch)
        return Files(gone, files.close())

    def _latest(self, shape: Shape) -> Winners:
        if self._winners is None or self._compared != shape.arrow:
            load = self._load
            named = [*load.key, *load.order, *([load.deleted] if load.deleted else [])]
            self._winners = winners(_judged(load, named, shape), load.key, load.order, load.deleted)
            self._compared = shape.arrow
        self._winners.revive()
        return self._winners


def _judged(load: Load, names: Sequence[str], shape: Shape) -> Iterator[pa.RecordBatch]:
    """The load's columns of these names; those that are compared are of the table's types."""
    for batch in read_ahead(columns_of(load, names).batches()):
        fitted = shape.fit(batch)
        others = [name for name in batch.schema.names if name not in fitted.schema.names]
        for name in others:
            fitted = fitted.append_column(name, batch.column(name))
        yield fitted


def _between(ranges: Mapping[str, KeyRange]) -> BooleanExpression:
    """What a row of the table meets if it may have one of a load's keys."""
    found: BooleanExpression = AlwaysTrue()
    for name, (least, greatest) in ranges.items():
        found = both(found, range_of(name, least, greatest))
    return found


def range_of(name: str, least: Any, greatest: Any) -> BooleanExpression:
    least_of_all = GreaterThanOrEqual(name, least)  # pyright: ignore[reportCallIssue]
    return both(least_of_all, LessThanOrEqual(name, greatest))  # pyright: ignore[reportCallIssue]


def both(one: BooleanExpression, other: BooleanExpression) -> BooleanExpression:
    return And(one, other)  # pyright: ignore[reportCallIssue]


def tasks_of(
    metadata: TableMetadata, io: FileIO, asked: BooleanExpression
) -> Iterable[FileScanTask]:
    """The table's data files that may have rows which meet an expression."""
    scan = DataScan(table_metadata=metadata, io=io, row_filter=asked)
    try:
        return scan.plan_files()
    except TypeError:
        # pyiceberg 0.12 compares the null of a partition with what is asked for, and fails.
        return DataScan(table_metadata=metadata, io=io).plan_files()
    except ValueError as error:  # of equality deletes, which pyiceberg does not read
        raise DestinationError(f"the table's rows cannot be replaced: {error}") from error


def stays(files: DataFiles, io: FileIO, task: FileScanTask, answers: list[np.ndarray]) -> bool:
    """Whether a data file stays, since all of its rows stand. Else those that do are written.

    Args:
        answers: which of its rows stand, in their order.
    """
    stands = np.concatenate([*answers, np.empty(0, bool)])
    if stands.all():
        return True
    if stands.any():
        stored = read_stored(files.metadata, io, task, files.shape)
        for batch in filtered(stored, stands):
            files.write(batch)
    return False


def filtered(batches: Iterable[pa.RecordBatch], stands: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The rows that stand, of batches that have as many rows as there are answers."""
    before = 0
    for batch in batches:
        here = stands[before : before + batch.num_rows]
        before += batch.num_rows
        if here.all():
            yield batch
        elif here.any():
            yield batch.filter(pa.array(here))
    assert before == len(stands), "a file was read twice, and had other rows"
