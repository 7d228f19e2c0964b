"""The rows that a data file of an Iceberg table holds, for files that are to be written anew.

pyiceberg's own reader makes an empty array of a null array of objects, and would so change rows
that nobody has touched. Here Arrow reads the file; its columns, nested ones too, are given the
table's names by their field ids, and Arrow's casts do the rest.

Rules: https://iceberg.apache.org/spec/#column-projection
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import _read_all_delete_files, pyarrow_to_schema
from pyiceberg.manifest import DataFile, FileFormat
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import IcebergType, NestedField

from ..errors import DestinationError
from .files import Shape, renamed
from .schema import inner_fields

BATCH_ROWS = 1 << 16


def read_stored(
    metadata: TableMetadata, io: FileIO, task: FileScanTask, shape: Shape
) -> Iterator[pa.RecordBatch]:
    """A data file's rows, always in one order, without those that delete files name.

    Args:
        shape: the columns wanted; null where the table lacks one.

    Raises:
        DestinationError: the file is not of Parquet.
    """
    if task.file.file_format != FileFormat.PARQUET:
        raise DestinationError(
            f"the table has data files of {task.file.file_format.value}; only Parquet's are "
            "written anew"
        )
    gone = _deleted_rows(io, task)
    before = 0
    with io.new_input(task.file.file_path).open() as stream:
        stored = pq.ParquetFile(stream, pre_buffer=False, coerce_int96_timestamp_unit="us")
        columns = _Columns(metadata, task.file, stored.schema_arrow, shape)
        for batch in stored.iter_batches(BATCH_ROWS, columns=columns.read, use_threads=False):
            stands = _others(batch.num_rows, gone - before)
            before += batch.num_rows
            yield shape.fit(columns.named(batch).filter(stands))


def _deleted_rows(io: FileIO, task: FileScanTask) -> np.ndarray:
    """The numbers of rows that delete files take away from a data file, sorted."""
    deletes = _read_all_delete_files(io, [task]).get(task.file.file_path, [])
    if not deletes:
        return np.empty(0, np.int64)
    return np.unique(np.concatenate([rows.to_numpy() for rows in deletes])).astype(np.int64)


def _others(rows: int, gone: np.ndarray) -> pa.Array:
    stands = np.ones(rows, bool)
    stands[gone[(gone >= 0) & (gone < rows)]] = False
    return pa.array(stands)


class _Columns:
    """How a file's columns come to be the table's.

    Attributes:
        read: names of the file's columns that are wanted.
    """

    def __init__(
        self, metadata: TableMetadata, file: DataFile, stored: pa.Schema, shape: Shape
    ) -> None:
        table = metadata.schema()
        said = _said(metadata, file, stored)
        wanted = {f.field_id: f for f in table.fields if f.name in shape.arrow.names}
        read = [field for field in said.fields if field.field_id in wanted]
        self.read = [field.name for field in read]
        pairs = [(field, stored.field(field.name)) for field in read]
        self._schema = pa.schema(_renamed_fields(pairs, _names(table)))
        there = {field.field_id for field in said.fields}
        self._constant = {
            field.name: value
            for number, field in wanted.items()
            if number not in there and (value := _constant(field, metadata, file)) is not None
        }
        self._types = {field.name: field.type for field in shape.arrow}

    def named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch under the table's names, with the columns that are the same in all its rows."""
        batch = renamed(batch.select(self.read), self._schema)
        for name, value in self._constant.items():
            column = pa.repeat(pa.scalar(value, self._types[name]), batch.num_rows)
            batch = batch.append_column(name, column)
        return batch


def _said(metadata: TableMetadata, file: DataFile, stored: pa.Schema) -> Schema:
    """The file's columns with their field ids, by the table's name mapping if it has none."""
    try:
        return pyarrow_to_schema(
            stored,
            metadata.name_mapping(),
            downcast_ns_timestamp_to_us=True,
            format_version=metadata.format_version,
        )
    except ValueError as error:
        raise DestinationError(f"{file.file_path} cannot be written anew: {error}") from error


def _constant(field: NestedField, metadata: TableMetadata, file: DataFile) -> Any:
    """The value of a column that a file does not hold: its partition's, else the default."""
    for place, partition in enumerate(metadata.specs()[file.spec_id].fields):
        if partition.source_id == field.field_id and isinstance(
            partition.transform, IdentityTransform
        ):
            return file.partition[place]
    return field.initial_default


def _names(schema: Schema) -> dict[int, str]:
    """Field id → name, of nested fields too."""

    def walk(fields: Iterable[NestedField]) -> Iterator[tuple[int, str]]:
        for field in fields:
            yield field.field_id, field.name
            yield from walk(inner_fields(field.field_type))

    return dict(walk(schema.fields))


def _renamed_fields(
    fields: Iterable[tuple[NestedField, pa.Field]], names: Mapping[int, str]
) -> list[pa.Field]:
    """Arrow's fields under the names of their ids; what the table dropped is called by its id."""
    return [
        stored.with_name(names.get(said.field_id, f"#{said.field_id}")).with_type(
            _renamed_type(said.field_type, stored.type, names)
        )
        for said, stored in fields
    ]


def _renamed_type(said: IcebergType, stored: Any, names: Mapping[int, str]) -> pa.DataType:
    inner = _renamed_fields(zip(inner_fields(said), _arrow_within(stored), strict=True), names)
    if pt.is_struct(stored):
        return pa.struct(inner)
    if pt.is_map(stored):
        return pa.map_(inner[0], inner[1])
    if pt.is_large_list(stored):
        return pa.large_list(inner[0])
    if pt.is_list(stored):
        return pa.list_(inner[0])
    return stored


def _arrow_within(type: Any) -> list[pa.Field]:
    if pt.is_struct(type):
        return list(type)
    if pt.is_map(type):
        return [type.key_field, type.item_field]
    if pt.is_list(type) or pt.is_large_list(type):
        return [type.value_field]
    return []
