"""Files of a Delta table, written anew without the rows that stand no more.

Delta has no way to change a file. Those that hold a row which does not stand are read, all their
other rows are written to new files, and one commit removes the old files and adds the new ones.
Rows flow through, some ten thousand at a time; what is held in memory is a row group for each
partition that is being written.
"""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction

from ..latest import KeyRange
from ..parquet import ParquetEncoder
from ..partitions import NULL, Partition, encode
from ..tables import BATCH_ROWS
from . import types
from .statistics import outside, statistics

FILE_BYTES = 100 << 20
"""Size from which on a data file is closed and another begun: deltalake's own."""
OPEN_FILES = 64
"""Data files that are written at a time; those written last stay."""

Stands = Callable[[pa.RecordBatch], np.ndarray]
"""Which rows of a batch stand (bool). Asked twice of the same rows, it answers the same."""

_READING = ds.ParquetFragmentScanOptions(pre_buffer=False)


class Survey:
    """The rows of a table as of the version that it was opened at, as columns of a load.

    Args:
        columns: those that tell which rows stand, in the types that the load has.
        within: ranges of columns, in all of which a row lies that does not stand: files without
            such rows are not read.
    """

    def __init__(
        self, table: DeltaTable, columns: pa.Schema, within: Mapping[str, KeyRange] | None = None
    ) -> None:
        dataset = table.to_pyarrow_dataset()
        unread = outside(table, within or {})
        self._fragments = [one for one in dataset.get_fragments() if one.path not in unread]
        self._schema = dataset.schema
        self._columns = columns

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The columns of all rows."""
        for fragment in self._fragments:
            yield from self._told(fragment)

    def touched(self, stands: Stands) -> list[ds.Fragment]:
        """The files that hold a row which does not stand. All files are looked at."""
        found = []
        for fragment in self._fragments:
            # Not any(): each batch is to be seen by what judges it.
            if sum(int((~stands(batch)).sum()) for batch in self._told(fragment)):
                found.append(fragment)
        return found

    def standing(
        self, fragments: Iterable[ds.Fragment], stands: Stands
    ) -> Iterator[pa.RecordBatch]:
        """The rows of files that stand, in the table's columns."""
        for fragment in fragments:
            for batch in self._read(fragment, self._schema.names):
                told = types.cast([batch], self._columns)
                yield from _some(batch.filter(pa.array(stands(next(told)))))

    def _told(self, fragment: Any) -> Iterator[pa.RecordBatch]:
        return types.cast(self._read(fragment, self._columns.names), self._columns)

    def _read(self, fragment: Any, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from fragment.to_batches(
            schema=self._schema,
            columns=list(names),
            batch_size=BATCH_ROWS,
            fragment_scan_options=_READING,
            use_threads=False,
        )


def removals(fragments: Iterable[Any]) -> list[RemoveAction]:
    """What takes files out of the table."""
    now = _now()
    return [RemoveAction(fragment.path, True, now) for fragment in fragments]


class DataFiles:
    """New data files, each of one partition. Nobody reads them before they are added.

    Args:
        place: where the table is.
        schema: the table's columns, in Arrow's types.
        partition_by: the table's partition columns, which are not in the files, but in the log.
        cut_by: what files are cut by besides: readers find them by their statistics.
    """

    def __init__(
        self,
        place: str,
        schema: pa.Schema,
        partition_by: Sequence[str],
        cut_by: Sequence[Partition] = (),
    ) -> None:
        self._store = pa_fs.PyFileSystem(DeltaStorageHandler(place))
        self._partitions = [Partition(name) for name in partition_by]
        self._cuts = [cut for cut in cut_by if cut not in self._partitions]
        kept = [field for field in schema if field.name not in partition_by]
        self._schema = pa.schema(kept)
        self._open: OrderedDict[tuple[Any, ...], _DataFile] = OrderedDict()
        self._added: list[AddAction] = []

    def write(self, batches: Iterable[pa.RecordBatch]) -> list[AddAction]:
        """Write rows; gives what adds their files to the table."""
        try:
            for batch in batches:
                for values, piece in _pieces(batch, [*self._partitions, *self._cuts]):
                    self._write(values, piece)
            for values in list(self._open):
                self._close(values)
        finally:
            for file in self._open.values():
                file.abandon()
        return self._added

    def _write(self, values: tuple[Any, ...], piece: pa.RecordBatch) -> None:
        declared = values[: len(self._partitions)]
        if values not in self._open and len(self._open) >= OPEN_FILES:
            values = declared  # not cut: better than many small files
        if values not in self._open:
            if len(self._open) > OPEN_FILES:
                self._close(next(iter(self._open)))
            self._open[values] = self._begun(declared)
        file = self._open[values]
        self._open.move_to_end(values)
        file.write(piece.select(self._schema.names))
        if file.bytes >= FILE_BYTES:
            self._close(values)

    def _begun(self, values: tuple[Any, ...]) -> _DataFile:
        """A new file of the partition that has these values."""
        said = dict(zip((p.column for p in self._partitions), map(_said, values), strict=True))
        folders = [f"{encode(name)}={NULL if v is None else encode(v)}" for name, v in said.items()]
        path = "/".join([*folders, f"part-{uuid.uuid4()}.zstd.parquet"])
        return _DataFile(self._store, path, self._schema, said)

    def _close(self, values: tuple[Any, ...]) -> None:
        self._added.append(self._open[values].close())
        del self._open[values]


def _pieces(
    batch: pa.RecordBatch, by: Sequence[Partition]
) -> Iterator[tuple[tuple[Any, ...], pa.RecordBatch]]:
    """A batch's rows by the values of their partitions."""
    if not by:
        yield (), batch
        return
    keys = {f"{i}": partition.values(batch) for i, partition in enumerate(by)}
    rows = pa.table({**keys, "row": np.arange(batch.num_rows)})
    groups = rows.group_by(list(keys), use_threads=False).aggregate([("row", "list")])
    members = groups["row_list"].combine_chunks()
    for i, values in enumerate(zip(*(groups[key].to_pylist() for key in keys), strict=True)):
        yield values, batch.take(members[i].values)


class _DataFile:
    """One data file, from its first row to the action that adds it."""

    def __init__(
        self,
        store: pa_fs.FileSystem,
        path: str,
        schema: pa.Schema,
        partition_values: dict[str, str | None],
    ) -> None:
        self._store = store
        self._path = path
        self._partition_values = partition_values
        self._stream = store.open_output_stream(path)
        self._encoder = ParquetEncoder(cast(Any, self._stream), schema)

    @property
    def bytes(self) -> int:
        """Bytes written so far; what the encoder still gathers is not among them."""
        return self._stream.tell()

    def write(self, batch: pa.RecordBatch) -> None:
        self._encoder.write(batch)

    def close(self) -> AddAction:
        self._encoder.close()
        size = self._stream.tell()
        self._stream.close()
        with self._store.open_input_file(self._path) as file:
            stats = statistics(pq.read_metadata(file))
        return AddAction(self._path, size, self._partition_values, _now(), True, stats)

    def abandon(self) -> None:
        """Let go of the file, which is never added: vacuuming the table deletes it."""
        self._encoder.close()
        self._stream.close()


def _said(value: Any) -> str | None:
    """A partition's value as the log has it.

    Rules: https://github.com/delta-io/delta/blob/master/PROTOCOL.md#partition-value-serialization
    """
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _some(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.num_rows:
        yield batch


def _now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
