"""Input that is read anew, a chunk of files at a time: of each part of a backfill the states.

Files are not laid out by event time, so that a chunk holds records of any part. Below the
backfill's folder, ``chunks/<digest>.json`` says that a chunk has been read, and names its files of
states, one for each part and aggregate that it has records of.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from ...schemas.aggregates.spec import AggregateSpec
from ...schemas.aggregates.states import merge_states, partial_states, state_schema
from .. import coder, storage  # coder: registers itself with Beam  # noqa: F401
from ..aggregate import MAX_STATE_BYTES, Gathering, batches_of
from ..plan import InputFile
from ..write.commit import barrier
from .history import Seen
from .markers import read_marker
from .parts import Part
from .units import Pace, Unit, Units, check_held

FORMAT = "millstream.backfill-chunk/1"
CHUNK_BYTES = 64 << 20
"""Bytes of the files of a chunk, unless one is larger."""


class ChunkStates(msgspec.Struct, frozen=True):
    """The states of one part and aggregate: a file in the folder of chunks."""

    part: int
    aggregate: str
    file: str


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that has been read. ``seen`` are its records, by the start of their part."""

    format: str = FORMAT
    seen: dict[int, Seen] = {}
    states: tuple[ChunkStates, ...] = ()


def chunks_of(files: Iterable[InputFile], *, whole: bool) -> list[tuple[InputFile, ...]]:
    """Files in chunks; with ``whole`` in one, since their records are compared with each other."""
    found: list[tuple[InputFile, ...]] = []
    waiting: list[InputFile] = []
    for file in sorted(files):
        waiting.append(file)
        if not whole and sum(each.size for each in waiting) >= CHUNK_BYTES:
            found.append(tuple(waiting))
            waiting = []
    return [*found, tuple(waiting)] if waiting else found


def digest_of(files: Iterable[InputFile]) -> str:
    """What a chunk of these files is called."""
    return hashlib.sha256(msgspec.json.encode(sorted(files))).hexdigest()[:16]


class Chunks:
    """The chunks of one backfill, in its folder. Picklable. All methods raise ``StorageError``."""

    def __init__(self, folder: str) -> None:
        self._folder = storage.join(folder, "chunks")

    def find(self, digest: str) -> Chunk | None:
        """A chunk that has been read."""
        return read_marker(self._marker(digest), Chunk, FORMAT)

    def write(self, digest: str, chunk: Chunk) -> None:
        """Write down that a chunk has been read."""
        storage.write_replace(self._marker(digest), msgspec.json.encode(chunk))

    def write_states(self, part: int, spec: AggregateSpec, table: pa.Table) -> ChunkStates:
        """Write states, which count once a chunk names them."""
        name = f"{spec.name}-{part}-{uuid.uuid4().hex}.parquet"
        path = storage.join(self._folder, name)
        with storage.named(path, "write"), storage.open_write(path) as file:
            pq.write_table(table, file)
        return ChunkStates(part, spec.name, name)

    def read_states(self, states: ChunkStates, spec: AggregateSpec) -> pa.Table:
        """States that were written."""
        path = storage.join(self._folder, states.file)
        with storage.named(path, "read"), storage.open_read(path) as file:
            return pq.read_table(file, use_threads=False).cast(state_schema(spec))

    def delete(self) -> None:
        """Delete all of them."""
        storage.delete_folder(self._folder)

    def _marker(self, digest: str) -> str:
        return storage.join(self._folder, f"{digest}.json")


@dataclass(frozen=True)
class ChunkWork:
    """Makes units of what all chunks have of a part. Picklable.

    Args:
        read: the chunks, all of which have been read.
    """

    folder: str
    specs: tuple[AggregateSpec, ...]
    read: tuple[Chunk, ...]

    def seen(self, part: Part) -> Seen:
        """The records of a part."""
        found = Seen()
        for chunk in self.read:
            found = found.with_others(chunk.seen.get(part.start, Seen()))
        return found

    def __call__(self, part: Part) -> Unit:
        """Do a unit, unless it is done and of the same records.

        Raises:
            StorageError: states cannot be read or written.
            LostRecords: they do not hold as many records as were read.
        """
        units, seen = Units(self.folder), self.seen(part)
        found = units.find(part)
        if found is not None and found.seen == seen:
            return found
        return units.write(part, seen, [(s, self._states(part, s, seen)) for s in self.specs])

    def _states(self, part: Part, spec: AggregateSpec, seen: Seen) -> pa.Table:
        chunks = Chunks(self.folder)
        tables = [
            chunks.read_states(states, spec)
            for chunk in self.read
            for states in chunk.states
            if (states.part, states.aggregate) == (part.start, spec.name)
        ]
        return check_held(merge_states(tables, spec), spec, seen.rows)


class WriteChunk(beam.PTransform):
    """Batches of records, bounded → their states by part, written down.

    Args:
        starts: where parts begin, in order, without gaps.
        end: where the last one ends: records beyond are left out.
        rows_per_second: how many rows one worker may read.
    """

    def __init__(
        self,
        folder: str,
        digest: str,
        specs: Sequence[AggregateSpec],
        starts: Sequence[int],
        end: int,
        rows_per_second: float | None = None,
    ) -> None:
        super().__init__()
        chunks = Chunks(folder)
        self._states = _StatesByPart(specs, starts, end, rows_per_second)
        self._write = _WriteStates(chunks, specs)
        self._mark = (chunks, digest)

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> Any:
        made: Any = (
            records
            | "LeaveWindows" >> beam.WindowInto(GlobalWindows())
            | "StatesByPart" >> beam.ParDo(self._states).with_outputs(_SEEN, main="states")
        )
        made.states.element_type = beam.typehints.KV[str, pa.RecordBatch]
        made[_SEEN].element_type = tuple
        written = (
            made.states
            | "ByPart" >> beam.GroupByKey()
            | "WriteStates" >> beam.ParDo(self._write).with_output_types(ChunkStates)
        )
        facts: Any = (written, made[_SEEN]) | beam.Flatten()
        return barrier(facts) | "Mark" >> beam.Map(_mark, *self._mark)


_SEEN = "seen"


class _StatesByPart(beam.DoFn):
    """Batches to ("part/aggregate", batch of open states), and what was seen of each part."""

    def __init__(
        self,
        specs: Sequence[AggregateSpec],
        starts: Sequence[int],
        end: int,
        rows_per_second: float | None,
    ) -> None:
        self._specs = specs
        self._starts = np.array(starts)
        self._end = end
        self._rate = rows_per_second

    def setup(self) -> None:
        self._pace = Pace(self._rate)

    def start_bundle(self) -> None:
        self._gathered: dict[tuple[int, str], Gathering] = {}
        self._seen: dict[int, Seen] = {}

    def process(self, batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
        self._pace.take(batch.num_rows)
        times = batch.column(self._specs[0].event_time)
        instants = times.view(pa.int64()).to_numpy()
        parts = np.searchsorted(self._starts, instants, "right") - 1
        parts[instants >= self._end] = -1
        for part in np.unique(parts[parts >= 0]).tolist():
            mask = parts == part
            rows = batch if mask.all() else batch.filter(pa.array(mask))
            start = int(self._starts[part])
            column = rows.column(self._specs[0].event_time)
            self._seen[start] = self._seen.get(start, Seen()).with_times(column)
            for spec in self._specs:
                key = (start, spec.name)
                if key not in self._gathered:
                    self._gathered[key] = Gathering(spec, MAX_STATE_BYTES // 8)
                gathering = self._gathered[key]
                gathering.add(partial_states(rows, spec, open=True))
                if gathering.full and not gathering.compact_if_worthwhile():
                    yield from self._flushed(key)

    def finish_bundle(self) -> Iterator[Any]:
        for key, gathering in self._gathered.items():
            gathering.compact_if_worthwhile()
            for element in self._flushed(key):
                yield GlobalWindows.windowed_value(element)
        for start, seen in self._seen.items():
            told = TaggedOutput(_SEEN, GlobalWindows.windowed_value((start, seen.rows, seen.times)))
            yield told

    def _flushed(self, key: tuple[int, str]) -> Iterator[tuple[str, pa.RecordBatch]]:
        tables = self._gathered[key].take()
        if tables:
            for batch in batches_of(pa.concat_tables(tables)):
                yield f"{key[0]}/{key[1]}", batch


class _WriteStates(beam.DoFn):
    def __init__(self, chunks: Chunks, specs: Sequence[AggregateSpec]) -> None:
        self._chunks = chunks
        self._specs = {spec.name: spec for spec in specs}

    def process(self, element: tuple[str, Iterable[pa.RecordBatch]]) -> Iterator[ChunkStates]:
        start, _, name = element[0].partition("/")
        spec = self._specs[name]
        gathering = Gathering(spec, MAX_STATE_BYTES)
        gathering.add_all(element[1])
        yield self._chunks.write_states(int(start), spec, merge_states(gathering.tables, spec))


def _mark(facts: Iterable[Any], chunks: Chunks, digest: str) -> None:
    seen: dict[int, Seen] = {}
    states = []
    for fact in facts:
        if isinstance(fact, ChunkStates):
            states.append(fact)
        else:
            start, rows, times = fact
            seen[start] = seen.get(start, Seen()).with_others(Seen(rows, times))
    chunks.write(digest, Chunk(seen=seen, states=tuple(states)))
