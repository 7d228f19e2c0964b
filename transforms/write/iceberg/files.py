"""Data files of Iceberg tables, written in bounded memory.

pyiceberg's own writer wants a file's rows in memory, and all files at once. Here rows are gathered
by partition, and written a row group at a time by pyiceberg's Parquet writer, whose statistics the
table gets. A file is named ``NUMBER-RUN-UUID.parquet``: what a dead attempt left can be told by its
run, belongs to no snapshot, and goes with Iceberg's own removal of orphan files.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from pyiceberg.io import FileIO
from pyiceberg.io.fileformat import FileFormatFactory
from pyiceberg.io.pyarrow import parquet_path_to_id_mapping, schema_to_pyarrow
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionField, PartitionFieldValue, PartitionKey
from pyiceberg.schema import Schema, sanitize_column_names
from pyiceberg.table import TableProperties
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.transforms import (
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    VoidTransform,
    YearTransform,
)
from pyiceberg.typedef import Record

GROUP_ROWS = 1 << 20
GROUP_BYTES = 64 << 20
"""Rows, and their bytes in memory, from which on a row group is written."""
GATHERED_BYTES = 192 << 20
"""What all partitions' waiting rows may take before the largest are written."""
OPEN_FILES = 64
SAMPLED_ROWS = 1 << 14
DIFFERENT = 0.9
"""Share of different values among the sampled ones from which on a column gets no dictionary: one
would be given up again, after it has cost a third of the time of writing, and some space."""


class Shape:
    """The columns of a table, in Arrow's types, and how they are called in its data files."""

    def __init__(self, schema: Schema) -> None:
        self.file_schema = sanitize_column_names(schema)
        self.arrow = _short(schema_to_pyarrow(schema, include_field_ids=False))
        self._stored = _short(schema_to_pyarrow(self.file_schema))

    def fit(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with the table's columns and types: what it lacks is null."""
        columns = []
        for column in self.arrow:
            if column.name not in batch.schema.names:
                columns.append(pa.nulls(batch.num_rows, column.type))
                continue
            values = batch.column(column.name)
            columns.append(values if values.type == column.type else values.cast(column.type))
        return pa.RecordBatch.from_arrays(columns, schema=self.arrow)

    def stored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows with the names and field ids that data files have."""
        return renamed(batch, self._stored)


def renamed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The same memory under a schema whose layout is the very same: names, metadata and what may be
    null are others."""
    return pa.record_batch(_Renamed(batch, schema))


class _Renamed:
    """A batch and its new schema, as Arrow's C interface asks for them."""

    def __init__(self, batch: pa.RecordBatch, schema: pa.Schema) -> None:
        self._batch = batch
        self._schema = schema

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[Any, Any]:
        return self._schema.__arrow_c_schema__(), self._batch.__arrow_c_array__()[1]


def _short(schema: pa.Schema) -> pa.Schema:
    """The schema with 32-bit offsets, as staged rows have them; pyiceberg says ``large_string``.

    What is nested may be null whatever the table says: Arrow wants a value for a required field of
    an object that is itself null.
    """
    return pa.schema([field.with_type(_short_type(field.type)) for field in schema])


def _short_type(type: Any) -> pa.DataType:
    if pt.is_large_string(type):
        return pa.string()
    if pt.is_large_binary(type):
        return pa.binary()
    if pt.is_large_list(type):
        return pa.list_(_inner(type.value_field))
    if pt.is_struct(type):
        return pa.struct([_inner(field) for field in type])
    if pt.is_map(type):
        key = type.key_field
        return pa.map_(key.with_type(_short_type(key.type)), _inner(type.item_field))
    return type


def _inner(field: pa.Field) -> pa.Field:
    return field.with_type(_short_type(field.type)).with_nullable(True)


class DataFiles:
    """New data files for a table's rows, of each partition one at a time.

    Args:
        metadata: the table's, with all columns that rows have.
        run_id: what the files' names carry.
    """

    def __init__(self, metadata: TableMetadata, io: FileIO, run_id: str) -> None:
        self.shape = Shape(metadata.schema())
        self.metadata = metadata
        self._io = io
        self._stem = f"{run_id}-{uuid.uuid4()}"
        self._places = load_location_provider(metadata.location, metadata.properties)
        target = metadata.properties.get(TableProperties.WRITE_TARGET_FILE_SIZE_BYTES)
        self._target = int(target or TableProperties.WRITE_TARGET_FILE_SIZE_BYTES_DEFAULT)
        self._gathered: dict[tuple[Any, ...], _Gathered] = {}
        self._held = 0
        self._open: dict[tuple[Any, ...], _File] = {}
        self._paths: list[str] = []
        self._done: list[DataFile] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Write rows that have the table's shape."""
        for values, piece in self._split(batch):
            gathered = self._gathered.setdefault(values, _Gathered())
            gathered.add(piece)
            self._held += piece.nbytes
            if gathered.rows >= GROUP_ROWS or gathered.bytes >= GROUP_BYTES:
                self._flush(values)
        if self._held > GATHERED_BYTES:
            for values in sorted(self._gathered, key=lambda v: -self._gathered[v].bytes):
                if self._held <= GATHERED_BYTES // 2:
                    break
                self._flush(values)

    def close(self) -> list[DataFile]:
        """End all files."""
        for values in [*self._open, *(v for v in self._gathered if v not in self._open)]:
            if values in self._gathered:
                self._flush(values)
            if values in self._open:
                self._close(values)
        return self._done

    def abandon(self) -> None:
        """Delete all files: no snapshot has them."""
        for file in self._open.values():
            file.abandon()
        self._open.clear()
        self._gathered.clear()
        for path in self._paths:
            with suppress(Exception):  # an orphan is harmless, and what went wrong is told
                self._io.delete(path)

    def _flush(self, values: tuple[Any, ...]) -> None:
        gathered = self._gathered.pop(values)
        self._held -= gathered.bytes
        if values not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._close(next(iter(self._open)))
            self._open[values] = self._begun(values)
        file = self._open[values] = self._open.pop(values)  # now the last to be closed
        file.write([self.shape.stored(piece) for piece in gathered.pieces])
        if file.bytes >= self._target:
            self._close(values)

    def _begun(self, values: tuple[Any, ...]) -> _File:
        spec = self.metadata.spec()
        key = None
        if values:
            said = zip(spec.fields, values, strict=True)
            key = PartitionKey(
                [PartitionFieldValue(field, value) for field, value in said],
                spec,
                self.metadata.schema(),
            )
        name = f"{len(self._paths):05d}-{self._stem}.parquet"
        path = self._places.new_data_location(name, key)
        self._paths.append(path)
        return _File(self, path, key)

    def _close(self, values: tuple[Any, ...]) -> None:
        self._done.append(self._open.pop(values).close())

    def _split(self, batch: pa.RecordBatch) -> Iterator[tuple[tuple[Any, ...], pa.RecordBatch]]:
        """A batch's rows by the values of their partition."""
        spec, schema = self.metadata.spec(), self.metadata.schema()
        if spec.is_unpartitioned():
            yield (), batch
            return
        keys = [pa.array(range(batch.num_rows), pa.int64())]
        keys += [_partition_values(field, schema, batch) for field in spec.fields]
        names = [str(number) for number in range(len(keys))]
        rows = pa.Table.from_arrays(keys, names)
        groups = rows.group_by(names[1:], use_threads=False).aggregate([("0", "list")])
        members = groups["0_list"].combine_chunks()
        values = [groups[name].to_pylist() for name in names[1:]]
        for key, rows_of in zip(zip(*values, strict=True), members, strict=True):
            yield key, batch if len(groups) == 1 else batch.take(rows_of.values)


class _Gathered:
    """Rows of one partition that wait to be written."""

    def __init__(self) -> None:
        self.pieces: list[pa.RecordBatch] = []
        self.rows = 0
        self.bytes = 0

    def add(self, piece: pa.RecordBatch) -> None:
        self.pieces.append(piece)
        self.rows += piece.num_rows
        self.bytes += piece.nbytes


class _File:
    """One data file, from its first row group to what the table is told of it."""

    def __init__(self, files: DataFiles, path: str, key: PartitionKey | None) -> None:
        self.bytes = 0
        self._path = path
        self._key = key
        self._paths = parquet_path_to_id_mapping(files.shape.file_schema)
        self._spec_id = files.metadata.default_spec_id
        self._output = files._io.new_output(path)
        model = FileFormatFactory.get(FileFormat.PARQUET)
        self._writer = model.create_writer(
            self._output, files.shape.file_schema, files.metadata.properties
        )

    def write(self, pieces: list[pa.RecordBatch]) -> None:
        if not self.bytes:
            # Not among the table's properties, which is all that pyiceberg lets one choose by.
            self._writer._parquet_writer_kwargs["use_dictionary"] = self._repeating(pieces[0])  # type: ignore[attr-defined]
        table = pa.Table.from_batches(pieces)
        self._writer.write(table)
        # In memory, as pyiceberg measures files too: on the disk they are smaller.
        self.bytes += table.nbytes

    def _repeating(self, batch: pa.RecordBatch) -> list[str]:
        """The columns that are worth a dictionary, by their paths in the file."""
        sample = batch.slice(0, SAMPLED_ROWS)
        different = {
            name
            for name, column in zip(sample.schema.names, sample.columns, strict=True)
            if not pt.is_nested(column.type)
            and pc.count_distinct(column).as_py() > DIFFERENT * sample.num_rows
        }
        return [path for path in self._paths if path not in different]

    def close(self) -> DataFile:
        statistics = self._writer.close()
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self._path,
            file_format=FileFormat.PARQUET,
            partition=self._key.partition if self._key else Record(),
            file_size_in_bytes=len(self._output),
            sort_order_id=None,
            spec_id=self._spec_id,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )

    def abandon(self) -> None:
        with suppress(Exception):
            self._writer.close()


def _partition_values(field: PartitionField, schema: Schema, batch: pa.RecordBatch) -> pa.Array:
    """The rows' values of a partition field, as Iceberg counts them: days or hours since 1970."""
    column = schema.find_column_name(field.source_id)
    assert column is not None
    first, *rest = [column] if column in batch.schema.names else column.split(".")
    values = pc.struct_field(batch.column(first), rest) if rest else batch.column(first)
    match field.transform:
        case IdentityTransform():
            return values
        case YearTransform() | MonthTransform() | DayTransform() | HourTransform():
            return _since_1970(field.transform, values)
        case VoidTransform():
            return pa.nulls(len(values))
    source = schema.find_field(field.source_id)
    return field.transform.pyarrow_transform(source.field_type)(values)


def _since_1970(transform: Any, values: pa.Array) -> pa.Array:
    # Arrow counts from the epoch in UTC whatever the zone: without it, no zone data is needed.
    instants = values.cast(pa.timestamp(values.type.unit if pt.is_timestamp(values.type) else "us"))
    match transform:
        case DayTransform():
            return instants.cast(pa.date32()).cast(pa.int32())
        case HourTransform():
            hours = pc.floor_temporal(instants, unit="hour").cast(pa.timestamp("s"))
            return pc.divide(hours.cast(pa.int64()), 3600).cast(pa.int32())
    years = pc.subtract(pc.year(instants), 1970)
    if isinstance(transform, YearTransform):
        return years.cast(pa.int32())
    return pc.add(pc.multiply(years, 12), pc.subtract(pc.month(instants), 1)).cast(pa.int32())
