"""Measuring: batches of records, and of dead letters, to facts that the commit is judged by.

Records pass nobody here: what measures them stands beside their way. Facts leave when a bundle is
finished, so that one that is retried is counted once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ...schemas.arrow import HIDDEN
from ...schemas.contract import Contract
from ...schemas.keys import KeyHashes, hash_keys
from ...schemas.quality.checks import Check
from ...schemas.quality.duplicates import KeyRun
from ...schemas.quality.measures import Measure, Measured, merged, refusals_of
from .. import storage
from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from ..deduplicate.index import IndexFile, slices, write_index
from ..write.partitions import Partition, split
from .facts import Keys, SpilledRows

RUN_KEYS = 1 << 20
"""Keys that are gathered before they are a run, and written if they are many: 16 bytes each."""
INLINE_KEYS = 1 << 14
"""Keys of a run up to which it travels with the facts, and needs no file."""
_SAMPLE = 1024


class MeasureRecords(beam.PTransform):
    """Count by checks: ``PCollection[pa.RecordBatch]`` → facts of :data:`~.facts.MEASURED`.

    Args:
        partitions: count by the partition of the output that a record goes to.
        folder: where keys and records wait until they are judged; see :data:`RUN_KEYS`.
        spills: write the records down, for queries over all of them.

    Raises:
        StorageError: in the pipeline, when a file cannot be written.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        contract: Contract,
        *,
        folder: str,
        partitions: Sequence[Partition] = (),
        spills: bool = False,
    ) -> None:
        super().__init__()
        self._fn = _MeasureFn(tuple(checks), contract, folder, tuple(partitions), spills)

    def expand(self, pcoll: beam.PCollection[pa.RecordBatch]) -> Any:
        return (
            pcoll
            | "Unwindow" >> beam.WindowInto(GlobalWindows())
            | "Measure" >> beam.ParDo(self._fn).with_output_types(Any)
        )


class MeasureLetters(beam.PTransform):
    """Count dead letters by checks: batches of them → ``PCollection[Refusals]``."""

    def __init__(self, checks: Sequence[Check]) -> None:
        super().__init__()
        self._checks = tuple(checks)

    def expand(self, pcoll: beam.PCollection[pa.RecordBatch]) -> Any:
        return pcoll | "Count" >> beam.Map(refusals_of, self._checks).with_output_types(Any)


class _MeasureFn(beam.DoFn):
    """Rows of different time stamps, which on streams are of different slices, share no fact."""

    def __init__(
        self,
        checks: tuple[Check, ...],
        contract: Contract,
        folder: str,
        partitions: tuple[Partition, ...],
        spills: bool,
    ) -> None:
        self._make = (checks, contract, folder, partitions, spills)
        self._by_time: dict[Any, _Gathered] = {}
        self._measure: Measure | None = None
        self._schema: pa.Schema | None = None

    def start_bundle(self) -> None:
        self._forget()

    def process(self, element: pa.RecordBatch, timestamp: Any = beam.DoFn.TimestampParam) -> None:
        if not element.num_rows:
            return
        if self._measure is None or self._schema != element.schema:
            checks, contract, *_ = self._make
            self._measure, self._schema = Measure(checks, contract, element.schema), element.schema
        if timestamp not in self._by_time:
            checks, _, folder, partitions, spills = self._make
            self._by_time[timestamp] = _Gathered(checks, folder, partitions, spills)
        self._by_time[timestamp].add(element, self._measure)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        closed = [(time, list(found.close())) for time, found in self._by_time.items()]
        self._by_time = {}
        for timestamp, facts in closed:
            for fact in facts:
                yield WindowedValue(fact, timestamp, (GlobalWindow(),))

    def teardown(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Delete what a bundle left that was never finished."""
        for found in self._by_time.values():
            found.abandon()
        self._by_time = {}


class _Gathered:
    """What has been measured of a bundle's records of one time stamp."""

    def __init__(
        self,
        checks: Sequence[Check],
        folder: str,
        partitions: Sequence[Partition],
        spills: bool,
    ) -> None:
        self._checks = len(checks)
        self._partitions = partitions
        self._measured: dict[str, Measured] = {}
        self._keys = [
            _GatheredKeys(i, check.columns, folder)
            for i, check in enumerate(checks)
            if check.kind == "duplicateValues"
        ]
        self._spill = _SpillFile(folder) if spills else None

    def add(self, batch: pa.RecordBatch, measure: Measure) -> None:
        pieces = split(batch, self._partitions) if self._partitions else [("", batch)]
        for folder, piece in pieces:
            found = measure.of(piece, folder)
            held = self._measured.get(folder)
            self._measured[folder] = merged([held, found], self._checks, folder) if held else found
        for keys in self._keys:
            keys.add(batch)
        if self._spill:
            self._spill.write(batch)

    def close(self) -> Iterator[Any]:
        yield from self._measured.values()
        for keys in self._keys:
            yield from keys.close()
        if self._spill:
            yield self._spill.close()

    def abandon(self) -> None:
        for file in [*self._keys, *([self._spill] if self._spill else [])]:
            file.abandon()


class _GatheredKeys:
    """The keys of one check, written whenever they have become many."""

    def __init__(self, check: int, columns: tuple[str, ...], folder: str) -> None:
        self._check = check
        self._columns = columns
        self._folder = folder
        self._hashes: list[KeyHashes] = []
        self._held = 0
        self._found: list[Keys] = []

    def add(self, batch: pa.RecordBatch) -> None:
        hashes = hash_keys(_with_few_keys(batch.select(self._columns)), self._columns)
        if len(hashes.high):
            self._hashes.append(hashes)
            self._held += len(hashes.high)
        if self._held >= RUN_KEYS:
            self._flush()

    def close(self) -> list[Keys]:
        self._flush()
        return self._found

    def abandon(self) -> None:
        for keys in self._found:
            if keys.file:
                with suppress(storage.StorageError):
                    storage.delete(keys.file.file.path)

    def _flush(self) -> None:
        if not self._hashes:
            return
        kinds = self._hashes[0].kinds
        run = KeyRun.of(
            np.concatenate([hashes.high for hashes in self._hashes]),
            np.concatenate([hashes.low for hashes in self._hashes]),
        )
        self._hashes, self._held = [], 0
        if len(run.high) <= INLINE_KEYS:
            found = Keys(self._check, kinds, run.high.tobytes(), run.low.tobytes())
        else:
            path = storage.join(self._folder, f"{uuid.uuid4().hex}.keys")
            file = IndexFile(path, "", "the records", kinds, len(run.high))
            write_index(file, {"high": run.high, "low": run.low}, np.empty(0, np.int32), [])
            found = Keys(self._check, kinds, file=slices(file, run.high, 1)[0])
        self._found.append(found)


def _with_few_keys(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same with each value at most twice, where one column has few: to hash takes longer."""
    if batch.num_columns != 1 or batch.num_rows <= _SAMPLE:
        return batch
    [column] = batch.columns
    if pc.count_distinct(column.slice(0, _SAMPLE)).as_py() > _SAMPLE // 4:
        return batch
    counts = pc.value_counts(column)
    values = counts.field("values")
    again = values.filter(pc.greater(counts.field("counts"), 1))
    return pa.RecordBatch.from_arrays([pa.concat_arrays([values, again])], schema=batch.schema)


class _SpillFile:
    """Records as a Parquet file, made when there is one."""

    def __init__(self, folder: str) -> None:
        self._path = storage.join(folder, f"{uuid.uuid4().hex}.parquet")
        self._file: Any = None
        self._writer: pq.ParquetWriter | None = None
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        columns = batch.drop_columns([name for name in batch.schema.names if name in HIDDEN])
        with storage.named(self._path, "write"):
            writer = self._writer
            if writer is None:
                self._file = storage.open_write(self._path)
                writer = pq.ParquetWriter(self._file, columns.schema, compression="lz4")
                self._writer = writer
            writer.write_batch(columns)
        self._rows += batch.num_rows

    def close(self) -> SpilledRows:
        with storage.named(self._path, "write"):
            if self._writer is not None:
                self._writer.close()
                self._file.close()
        return SpilledRows(self._path, self._rows)

    def abandon(self) -> None:
        with suppress(Exception):  # a store's client has exceptions of its own
            self.close()
        with suppress(storage.StorageError):
            storage.delete(self._path)
