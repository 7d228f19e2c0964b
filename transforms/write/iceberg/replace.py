"""Replacing the partitions of an Iceberg table that a load's rows fall into."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, IsNull, Or
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.transforms import DayTransform, HourTransform, IdentityTransform

from ...read.ahead import read_ahead
from ...receipts import Span, moment
from ..deletions import columns_of
from ..partitions import Partition
from ..tables import Load
from .changes import Change, Files, both, range_of, stays, tasks_of
from .files import Shape
from .stored import read_stored


class Replace(Change):
    """The load's rows in place of all rows of the partitions that they fall into."""

    _fallen: _Fallen | None = None

    def plan(self, metadata: TableMetadata, io: FileIO) -> Files:
        load = self._load
        shape = Shape(metadata.schema().select(*(p.column for p in load.partition_by)))
        fallen = self._fallen_into(shape)
        files = self._begin(metadata, io)
        gone: list[DataFile] = []
        for task in tasks_of(metadata, io, fallen.asked()) if fallen.values else ():
            known = fallen.of_file(metadata, task.file)
            if known is None:
                stored = read_stored(metadata, io, task, shape)
                stands = [fallen.stands(batch) for batch in stored]
                goes = not stays(files, io, task, stands)
            else:
                goes = known in fallen.values
            if goes:
                gone.append(task.file)
        for batch in read_ahead(map(files.shape.fit, load.batches())):
            files.write(batch)
        return Files(gone, files.close())

    def _fallen_into(self, shape: Shape) -> _Fallen:
        load = self._load
        if self._fallen is None or self._fallen.schema != shape.arrow:
            self._fallen = _Fallen(load.partition_by, shape.arrow)
            for batch in columns_of(load, shape.arrow.names).batches():
                self._fallen.add(shape.fit(batch))
        return self._fallen


class ReplaceSpan(Change):
    """The load's rows in place of all rows of a span of time."""

    def __init__(self, load: Load, run_id: str, span: Span) -> None:
        super().__init__(load, run_id)
        self._span = span

    def plan(self, metadata: TableMetadata, io: FileIO) -> Files:
        span = self._span
        shape = Shape(metadata.schema().select(span.column))
        files = self._begin(metadata, io)
        gone: list[DataFile] = []
        asked = range_of(span.column, moment(span.start), moment(span.end))
        for task in tasks_of(metadata, io, asked):
            stands = [self._stands(batch) for batch in read_stored(metadata, io, task, shape)]
            if not stays(files, io, task, stands):
                gone.append(task.file)
        for batch in read_ahead(map(files.shape.fit, self._load.batches())):
            files.write(batch)
        return Files(gone, files.close())

    def _stands(self, batch: pa.RecordBatch) -> np.ndarray:
        times = batch.column(self._span.column).view(pa.int64())
        within = pc.and_(pc.greater_equal(times, self._span.start), pc.less(times, self._span.end))
        return ~pc.fill_null(within, False).to_numpy(zero_copy_only=False)


class _Fallen:
    """The partitions that a load's rows fall into."""

    def __init__(self, partitions: Sequence[Partition], schema: pa.Schema) -> None:
        self.schema = schema
        self.values: set[tuple[Any, ...]] = set()
        self._partitions = partitions

    def add(self, batch: pa.RecordBatch) -> None:
        self.values.update(value for value, _ in self._grouped(batch))

    def asked(self) -> BooleanExpression:
        """What a row of the table meets if it may be in one of the partitions."""
        found: BooleanExpression = AlwaysTrue()
        for partition, values in zip(self._partitions, zip(*self.values, strict=True), strict=True):
            known = [value for value in values if value is not None]
            within = [_within(partition, min(known), max(known))] if known else []
            null = [_null(partition.column)] if len(known) < len(values) else []
            found = both(found, _any([*within, *null]))
        return found

    def stands(self, batch: pa.RecordBatch) -> np.ndarray:
        """Which of a table's rows are in none of the partitions (bool)."""
        stands = np.ones(batch.num_rows, bool)
        for value, rows in self._grouped(batch):
            stands[rows] = value not in self.values
        return stands

    def of_file(self, metadata: TableMetadata, file: DataFile) -> tuple[Any, ...] | None:
        """The partition that all rows of a file are in, if the file's own one tells."""
        schema, spec = metadata.schema(), metadata.specs()[file.spec_id]
        said = {
            (schema.find_column_name(field.source_id), type(field.transform)): file.partition[place]
            for place, field in enumerate(spec.fields)
        }
        found = []
        for partition in self._partitions:
            place = (partition.column, _TRANSFORMS[partition.function])
            if place not in said:
                return None
            kind = self.schema.field(partition.column).type
            found.append(_as_python(partition, said[place], kind))
        return tuple(found)

    def _grouped(self, batch: pa.RecordBatch) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
        """The partitions of a batch's rows, each with the numbers of its rows."""
        columns = [partition.values(batch) for partition in self._partitions]
        names = [str(number) for number in range(len(columns))]
        rows = pa.Table.from_arrays([*columns, np.arange(batch.num_rows)], [*names, "row"])
        groups = rows.group_by(names, use_threads=False).aggregate([("row", "list")])
        values = zip(*(groups[name].to_pylist() for name in names), strict=True)
        for value, members in zip(values, groups["row_list"].combine_chunks(), strict=True):
            yield value, members.values.to_numpy()


_TRANSFORMS = {"": IdentityTransform, "date": DayTransform, "hour": HourTransform}
_LONGEST = {
    "date": dt.timedelta(days=1, microseconds=-1),
    "hour": dt.timedelta(hours=1, microseconds=-1),
}
"""From the first to the last instant of a day or an hour; a step further no year 9999 goes."""
_EPOCH = dt.datetime(1970, 1, 1)


def _as_python(partition: Partition, value: Any, kind: pa.DataType) -> Any:
    """A file's partition value, which counts days or hours, as :meth:`Partition.values` has it."""
    if value is None:
        return None
    if partition.function == "hour":
        return _EPOCH + dt.timedelta(hours=value)
    if partition.function == "date" or pa.types.is_date(kind):
        return _EPOCH.date() + dt.timedelta(days=value)
    return value


def _within(partition: Partition, least: dt.date, greatest: dt.date) -> BooleanExpression:
    """What values from the one partition to the other meet."""
    if not partition.function:
        return range_of(partition.column, least, greatest)
    last = _instant(greatest) + _LONGEST[partition.function]
    return range_of(partition.column, _instant(least), last)


def _instant(value: dt.date) -> dt.datetime:
    """When a day or an hour begins."""
    begin = value if isinstance(value, dt.datetime) else dt.datetime.combine(value, dt.time())
    return begin.replace(tzinfo=dt.UTC)


def _any(expressions: Sequence[BooleanExpression]) -> BooleanExpression:
    if len(expressions) == 1:
        return expressions[0]
    return Or(*expressions)  # pyright: ignore[reportCallIssue]


def _null(name: str) -> BooleanExpression:
    return IsNull(name)  # pyright: ignore[reportCallIssue]
