"""Aggregate: batches of records to partial states, and to the results that are made from them."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from ..schemas.aggregates.spec import SLICE_START, AggregateSpec
from ..schemas.aggregates.states import finalise, merge_states, partial_states, seal_states
from ..schemas.arrow import SOURCE
from .coder import RecordBatchCoder  # registers it  # noqa: F401
from .tallies import TALLIES, Tally, count_sources

VISIBLE = "visible"
"""Tag of the output that carries results."""

MAX_STATE_BYTES = 24 << 20
"""Bytes of states that a worker gathers before it merges them, and lets go what stays large."""
BATCH_ROWS = 100_000
"""Rows of a batch of states or results at most."""
BATCH_BYTES = 4 << 20
"""Bytes, about, of a batch of states on its way to the workers that merge them."""
_LONG = 256
"""Distinct values from which on a sketch is smaller than they are."""
_POOR = 0.8
"""Part of the states left by a merge from which on it is not worth its time."""


class AggregateResult(NamedTuple):
    """The outputs of :class:`Aggregate`.

    ``states`` are batches by :func:`~millstream.schemas.aggregates.states.state_schema`, each slice
    and group in exactly one row; ``visible`` are batches by
    :func:`~millstream.schemas.aggregates.states.visible_schema`; ``tallies`` count the records that
    went in, by source, as ``written`` to the output of the aggregate's name.
    """

    states: beam.PCollection[pa.RecordBatch]
    visible: beam.PCollection[pa.RecordBatch]
    tallies: beam.PCollection[Tally]


class Aggregate(beam.PTransform):
    """Aggregate bounded batches of records in event-time windows.

    Args:
        spec: what to aggregate; :func:`millstream.schemas.aggregates.spec.aggregate_spec` makes it.
        shards: parts that groups are divided into, by a hash of slice and keys, or of keys alone
            where windows are made of several slices; each is merged, and sorted, on its own.
        contribution: what the states call this run: its token.
        max_state_bytes: states that a worker gathers before it merges them.

    Raises:
        AggregateOverflow: in the pipeline, when a result does not fit its type.
        ValueError: in the pipeline, when a record has no event time.
    """

    def __init__(
        self,
        spec: AggregateSpec,
        *,
        shards: int = 4,
        contribution: str = "",
        max_state_bytes: int = MAX_STATE_BYTES,
    ) -> None:
        super().__init__()
        if shards < 1:
            raise ValueError(f"shards: expected at least 1, got {shards}")
        self._partial = PartialStates(spec, shards, contribution, max_state_bytes)
        self._merge = _MergeStates(spec, max_state_bytes)

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> AggregateResult:
        # The window is a column: Beam's own windows would only cut the groups once more.
        entered: Any = (
            records
            | "Unwindow" >> beam.WindowInto(GlobalWindows())
            | "PartialStates" >> beam.ParDo(self._partial).with_outputs(TALLIES, main="states")
        )
        entered.states.element_type = beam.typehints.KV[int, pa.RecordBatch]
        entered[TALLIES].element_type = Tally
        merged: Any = (
            entered.states
            | "ByShard" >> beam.GroupByKey()
            | "MergeStates" >> beam.ParDo(self._merge).with_outputs(VISIBLE, main="states")
        )
        merged.states.element_type = merged[VISIBLE].element_type = pa.RecordBatch
        return AggregateResult(merged.states, merged[VISIBLE], entered[TALLIES])


class Gathering:
    """Tables of states, merged whenever they have become many bytes."""

    def __init__(self, spec: AggregateSpec, max_bytes: int) -> None:
        self._spec = spec
        self._max_bytes = max_bytes
        self._bytes = 0
        self.tables: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        self.tables.append(table)
        self._bytes += table.nbytes

    def add_all(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Take in all there is, of which nothing can be let go."""
        for batch in batches:
            self.add(pa.Table.from_batches([batch]))
            if self.full and not self.compact():
                self.grow()  # room that grows keeps the number of merges small

    @property
    def full(self) -> bool:
        return self._bytes > self._max_bytes

    def compact(self) -> bool:
        """Merge, and say whether at least half of the room is free again."""
        if len(self.tables) > 1:
            self._replace([merge_states(self.tables, self._spec, open=True)])
        return self._bytes <= self._max_bytes // 2

    def compact_if_worthwhile(self) -> bool:
        """:meth:`compact`, unless the first two tables have too few groups in common."""
        if len(self.tables) > 2:
            first, second, *others = self.tables
            both = merge_states([first, second], self._spec, open=True)
            self._replace([both, *others])
            if len(both) > _POOR * (len(first) + len(second)):
                return self._bytes <= self._max_bytes // 2
        return self.compact()

    def grow(self) -> None:
        """Double the room."""
        self._max_bytes *= 2

    def take(self) -> list[pa.Table]:
        """All of them; nothing is left."""
        tables = self.tables
        self._replace([])
        return tables

    def _replace(self, tables: list[pa.Table]) -> None:
        self.tables = [seal_states(table, self._spec, _LONG) for table in tables]
        self._bytes = sum(table.nbytes for table in self.tables)


class PartialStates(beam.DoFn):
    """Batches to (shard, batch of open states), and the tallies of what came in."""

    def __init__(
        self, spec: AggregateSpec, shards: int, contribution: str, max_state_bytes: int
    ) -> None:
        self._spec = spec
        self._shards = shards
        self._contribution = contribution
        self._max_state_bytes = max_state_bytes

    def start_bundle(self) -> None:
        self._gathering = Gathering(self._spec, self._max_state_bytes)
        self._sources: Counter[str] = Counter()

    def process(self, batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        if not batch.num_rows:
            return
        self._sources.update(_count_sources(batch))
        self._gathering.add(partial_states(batch, self._spec, self._contribution, open=True))
        if self._gathering.full and not self._gathering.compact_if_worthwhile():
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        for element in self._rest():
            yield GlobalWindows.windowed_value(element)
        for source, rows in self._sources.items():
            tally = Tally(source, "written", rows, self._spec.name)
            yield TaggedOutput(TALLIES, GlobalWindows.windowed_value(tally))

    def _rest(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """What has been gathered and has not left yet."""
        self._gathering.compact_if_worthwhile()
        return self._flush()

    def _flush(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        tables = self._gathering.take()
        if not tables:
            return
        table = pa.concat_tables(tables).combine_chunks()
        ends = [len(table)]
        if self._shards > 1:
            shards = shard_of(table, self._spec, self._shards)
            table = table.take(pa.array(np.argsort(shards, kind="stable")))
            ends = np.cumsum(np.bincount(shards, minlength=self._shards)).tolist()
        step = max(1, min(BATCH_ROWS, len(table) * BATCH_BYTES // max(1, table.nbytes)))
        for shard, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            for batch in batches_of(table.slice(start, end - start), step):
                yield shard, batch


class _MergeStates(beam.DoFn):
    """A shard's states to batches of sealed states, each group once, and of results."""

    def __init__(self, spec: AggregateSpec, max_state_bytes: int) -> None:
        self._spec = spec
        self._max_state_bytes = max_state_bytes

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Any]:
        gathering = Gathering(self._spec, self._max_state_bytes)
        gathering.add_all(element[1])
        states = merge_states(gathering.tables, self._spec)
        results = finalise(states, self._spec, merged=True)
        yield from batches_of(states)
        for batch in batches_of(results):
            yield TaggedOutput(VISIBLE, batch)


def batches_of(table: pa.Table, rows: int = BATCH_ROWS) -> list[pa.RecordBatch]:
    """A table as batches of so many rows at most."""
    return table.combine_chunks().to_batches(max_chunksize=rows)


def _count_sources(batch: pa.RecordBatch) -> dict[str, int]:
    """Rows by source; those of no source count under the empty name."""
    return count_sources(batch, SOURCE) or {"": batch.num_rows}


_NULL = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(33)


def shard_of(table: pa.Table, spec: AggregateSpec, shards: int) -> np.ndarray:
    """The shard of each row of states: the same for the same slice and keys, on every worker.

    Windows that join slices (:attr:`.windows.Window.joins_slices`) have all those of a key in one.
    Each value enters as 64 bits: an integer, date or time as it is, a float by its bits, a string
    (and a decimal's text) by the CRC-32 of its UTF-8. Python's ``hash`` differs between processes.
    """
    if spec.window.joins_slices:
        hashed = np.zeros(len(table), np.uint64)
    else:
        hashed = _mixed(table[SLICE_START].combine_chunks().view(pa.uint64()).to_numpy())
    for key in spec.keys:
        column = table[key.name].combine_chunks()
        encoded = column.dictionary_encode(null_encoding="encode")
        values = _bits(encoded.dictionary)[encoded.indices.to_numpy()]
        hashed = _mixed(hashed * np.uint64(31) + values)
    return (hashed % np.uint64(shards)).astype(np.int64)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """The bits, spread over the whole word: a round of MurmurHash3's finaliser."""
    spread = (bits ^ (bits >> _SHIFT)) * _MIX
    return spread ^ (spread >> _SHIFT)


def _bits(values: pa.Array) -> np.ndarray:
    """64 bits of each of different values, of which one may be null."""
    null = values.is_null().to_numpy(zero_copy_only=False)
    if pt.is_string(values.type) or pt.is_decimal(values.type):
        texts = values.cast(pa.string()).cast(pa.binary()).fill_null(b"").to_pylist()
        bits = np.fromiter(map(zlib.crc32, texts), np.uint64, len(texts))
    elif pt.is_floating(values.type):
        bits = values.cast(pa.float64()).fill_null(0).view(pa.uint64()).to_numpy()
    else:
        if pt.is_date32(values.type):
            values = values.view(pa.int32())
        elif values.type.bit_width == 64:
            values = values.view(pa.int64())
        bits = values.cast(pa.int64()).fill_null(0).to_numpy().view(np.uint64)
    return np.where(null, _NULL, bits)
