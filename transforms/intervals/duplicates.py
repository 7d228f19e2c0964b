"""Duplicates of an endless stream: each record is held against the keys of those before it.

What has to be remembered is in two places. Keys that are committed are in files that the newest
commit names. Those that are not are in the runner's state, with the positions up to which their
records lie. Both are also in the memory of the worker that judges, which needs to read neither
while it is the only one to do so.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import BytesCoder, PickleCoder
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from ...schemas.keys import hash_keys
from ..carry import Carry, NewKeys
from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from ..deduplicate.horizon import KnownKeys, TimedKeys
from ..deduplicate.index import shard_bounds
from ..deduplicate.restore import DUPLICATES
from .judge_here import JudgeHere
from .judging import Committed, judged, keys_of, known_committed, spans_of
from .keys import Horizon
from .slices import FACTS

LOOK_AT = 64
"""Pieces of the stream whose keys are in the runner's state, before it is looked whether they are
committed."""


class DistinctSlices(NamedTuple):
    """The outputs of :class:`DeduplicateSlices`.

    ``records`` and ``duplicates`` are batches with the columns that came in. ``facts`` are tallies
    of duplicates, and :class:`~.carry.NewKeys` of what was kept.
    """

    records: beam.PCollection[pa.RecordBatch]
    duplicates: beam.PCollection[pa.RecordBatch]
    facts: beam.PCollection[Any]


class DeduplicateSlices(beam.PTransform):
    """Keep of an endless stream the records that repeat no key within a horizon.

    A record is a duplicate if one of its key was kept before it whose event time is less than the
    horizon away. Keys are remembered until the watermark of all that is committed is two horizons
    past their event time. So every record that is not later than one horizon behind the watermark
    is judged exactly, however the stream is cut into commits; one that is later still may pass. A
    record with a null in its key, or without an event time, is never a duplicate.

    Of records that come by several partitions it is the runner's affair which comes first. Where
    one worker reads the stream, it can judge too, and the records need not be sent to another.

    Outputs leave with the batch that they are of, and so with the time of its slice.

    Args:
        committed: gives what the newest commit carries.
        shards: by how many workers at once keys are compared: 1, or as many as the carry has.
        reader: a name of this run of the pipeline, if the one worker that reads the stream is to
            judge it, without states of the runner: see :class:`~.judge_here.JudgeHere`.

    Raises:
        StorageError: in the pipeline, when committed keys cannot be read.
    """

    def __init__(
        self, horizon: Horizon, committed: Committed, *, shards: int = 1, reader: str = ""
    ) -> None:
        super().__init__()
        self._here = JudgeHere(horizon, committed, reader) if reader else None
        self._split = SplitKeys(horizon, shards)
        self._judge = JudgeKeys(horizon, committed, shards)

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> DistinctSlices:
        keyed = beam.typehints.KV[int, bytes]
        elements: Any = records
        if self._here is None:
            elements = records | "Split" >> beam.ParDo(self._split).with_output_types(keyed)
        judge = beam.ParDo(self._here or self._judge)
        outputs: Any = elements | "Judge" >> judge.with_outputs(DUPLICATES, FACTS, main="records")
        outputs.records.element_type = outputs[DUPLICATES].element_type = pa.RecordBatch
        return DistinctSlices(outputs.records, outputs[DUPLICATES], outputs[FACTS])


class SplitKeys(beam.DoFn):
    """Batches to (shard, the part of the batch whose keys are of the shard)."""

    def __init__(self, horizon: Horizon, shards: int) -> None:
        self._horizon = horizon
        self._bounds = shard_bounds(shards)

    def process(self, batch: pa.RecordBatch) -> Iterator[tuple[int, bytes]]:
        if not batch.num_rows:
            return
        if not len(self._bounds):
            yield 0, packed(batch)
            return
        hashes = hash_keys(batch, self._horizon.key)
        shards = np.zeros(batch.num_rows, np.int64)  # without a key it is all the same
        rows = slice(None) if hashes.rows is None else hashes.rows
        shards[rows] = np.searchsorted(self._bounds, hashes.high, side="right")
        order = np.argsort(shards, kind="stable")
        ends = np.cumsum(np.bincount(shards, minlength=len(self._bounds) + 1))
        for shard, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if end > start:
                yield shard, packed(batch.take(pa.array(order[start:end])))


_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)


def packed(batch: pa.RecordBatch) -> bytes:
    """A batch as an Arrow IPC stream. On its way to the worker that judges it is copied a dozen
    times, which takes longer than to compress it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_COMPRESSED) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def unpacked(data: bytes) -> pa.RecordBatch:
    """The batch that :func:`packed` was given."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_next_batch()


class _Piece(NamedTuple):
    """Keys that were kept of a batch, and the position after its last record, by source."""

    ends: dict[str, int]
    keys: bytes

    @classmethod
    def made(cls, batch: pa.RecordBatch, new: TimedKeys) -> _Piece:
        ends = {source: end for source, (_, end) in spans_of(batch).items()}
        return cls(ends, new.to_bytes())

    def is_committed(self, carry: Carry) -> bool:
        """Whether a commit holds all records of the batch."""
        return all(
            (state := carry.sources.get(source)) is not None and state.next >= end
            for source, end in self.ends.items()
        )


class _Shard:
    """What a worker knows of a shard: all keys, and which of them are in the runner's state."""

    def __init__(self, known: KnownKeys, pieces: list[_Piece], version: bytes | None) -> None:
        self.known = known
        self.pieces = pieces
        self.version = version
        self.look_at = max(LOOK_AT, 2 * len(pieces))


_WAITING_PARAM = beam.DoFn.StateParam(BagStateSpec("waiting", PickleCoder()))
_VERSION_PARAM = beam.DoFn.StateParam(ReadModifyWriteStateSpec("version", BytesCoder()))


class JudgeKeys(beam.DoFn):
    """(shard, packed batch) to records; beside them duplicates, and facts.

    That a runner may do things twice changes nothing, as long as it gives a key to one worker at a
    time. Prism does not, where it splits a bundle: two workers begin with one version of the state.
    That is seen when their facts are to be committed, and the pipeline fails.

    - A bundle that fails, or a runner that goes back to a checkpoint, undoes what the state has
      been given since, ``version`` with it. A worker whose memory is of another version forgets it,
      and reads anew what the state holds and what is committed.
    - What is read again of a slice that is not committed is held against the state as it was before
      it, and against commits that the slice is not part of. It may be given another verdict than
      the first time, by what was committed meanwhile; the first is gone with all its facts.
    - A slice that is committed already may be judged again: then its own keys are among those that
      are committed, and all its records seem to be duplicates. Its facts are passed over when they
      come to be committed, as all of such a slice are.
    - No key is lost between the two places. A piece leaves the state only when the newest commit
      holds all of it; whoever comes later reads that commit, or a later one.
    """

    def __init__(self, horizon: Horizon, committed: Committed, shards: int) -> None:
        self._horizon = horizon
        self._committed = committed
        self._parts = shards
        self._shards: dict[int, _Shard] = {}

    def process(
        self,
        element: tuple[int, bytes],
        waiting: Any = _WAITING_PARAM,
        version: Any = _VERSION_PARAM,
    ) -> Iterator[Any]:
        number, batch = element[0], unpacked(element[1])
        held = self._shards.pop(number, None)
        if held is None or held.version != version.read():
            # This worker is new to it, or what it did last has been undone.
            held = self._opened(number, list(waiting.read()), version.read())
        keys, rows = keys_of(batch, self._horizon)
        repeated, new = held.known.judge(keys)
        before = held.version or b"%d" % number
        if new.rows:
            self._remember(held, new, _Piece.made(batch, new), waiting)
            version.write(held.version)
        self._shards[number] = held  # only now are the runner's state and ours alike
        if new.rows:
            yield TaggedOutput(FACTS, NewKeys(new.to_bytes(), version=before))
        yield from judged(batch, rows[repeated])

    def _remember(self, held: _Shard, new: TimedKeys, piece: _Piece, waiting: Any) -> None:
        held.known.add(new)
        held.pieces.append(piece)
        waiting.add(piece)
        held.version = uuid.uuid4().bytes
        if len(held.pieces) >= held.look_at:
            self._settle(held, waiting)

    def _opened(self, number: int, pieces: list[_Piece], version: bytes | None) -> _Shard:
        shard = None if self._parts == 1 else number
        known = known_committed(self._horizon, self._committed, shard)
        for piece in pieces:
            known.add(TimedKeys.of_bytes(piece.keys))
        return _Shard(known, pieces, version)

    def _settle(self, held: _Shard, waiting: Any) -> None:
        """Have the state forget what is committed, and the memory what is long past."""
        carry = self._committed()
        if carry is not None:
            held.known.expire(self._horizon.bound(carry.watermark))
            left = [piece for piece in held.pieces if not piece.is_committed(carry)]
            if len(left) < len(held.pieces):
                held.pieces = left
                waiting.clear()
                for piece in left:
                    waiting.add(piece)
        held.look_at = max(LOOK_AT, 2 * len(held.pieces))
