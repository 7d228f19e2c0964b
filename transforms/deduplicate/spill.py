"""Spill: batches to files, and an index of their keys beside each of them."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, cast

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ...schemas.keys import hash_keys
from .. import storage
from .gather import GatheredKeys
from .horizon import with_times
from .index import Slice

SPILL_ROWS = 1 << 20
"""Rows from which on a spill file is closed and another begun: 40 bytes each in memory."""
SPILL_BYTES = 256 << 20
"""Bytes from which on it is closed."""


def spilled(records: beam.PCollection[pa.RecordBatch], spill: SpillBatches) -> Any:
    """Bounded records to (shard, slice of an index).

    Raises:
        ValueError: they are not bounded.
    """
    if not records.is_bounded:
        raise ValueError("an unbounded PCollection has no end at which keys could be compared")
    return (
        records
        | "Unwindow" >> beam.WindowInto(GlobalWindows())
        | "Spill" >> beam.ParDo(spill).with_output_types(beam.typehints.KV[int, Slice])
    )


class SpillBatches(beam.DoFn):
    """Batches to (shard, slice of an index), when the bundle is finished.

    Each spill file gives a slice to every shard. Files of a bundle that failed have told nobody
    of themselves.

    Args:
        timed: keys are compared within a horizon, and those without a time are like none.
    """

    def __init__(
        self,
        key: Sequence[str],
        event_time: str | None,
        folder: str,
        shards: int,
        *,
        timed: bool = False,
    ) -> None:
        self._key = tuple(key)
        self._timed = timed
        self._event_time = event_time
        self._folder = folder
        self._shards = shards
        self._spill: _SpillFile | None = None
        self._paths: list[str] = []
        self._slices: list[Slice] = []

    def start_bundle(self) -> None:
        self._forget()

    def process(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        hashes = hash_keys(batch, self._key)
        if self._timed and self._event_time is not None:
            hashes, _ = with_times(hashes, batch, self._event_time)
        spill = self._spill
        if spill and (
            spill.rows >= SPILL_ROWS
            or spill.bytes >= SPILL_BYTES
            or not spill.schema.equals(batch.schema, check_metadata=True)
        ):
            self._close()
        if not self._spill:
            path = storage.join(self._folder, f"{uuid.uuid4().hex}.arrow")
            self._paths.append(path)
            keys = GatheredKeys(hashes.kinds, at_once=self._timed)
            self._spill = _SpillFile(path, batch.schema, keys)
        self._spill.keys.add_records(hashes, batch, self._event_time, self._spill.rows)
        self._spill.write(batch)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._spill:
            self._close()
        slices = self._slices
        self._paths, self._slices = [], []
        for part in slices:
            yield GlobalWindows.windowed_value((part.shard, part))

    def teardown(self) -> None:
        self._forget()

    def _close(self) -> None:
        spill = self._spill
        assert spill is not None
        spill.close()
        index = f"{spill.path}.index"
        self._paths.append(index)
        self._slices += spill.keys.write(index, spill.path, "the records", self._shards)
        self._spill = None

    def _forget(self) -> None:
        """Delete what a bundle left that was never finished."""
        if self._spill:
            self._spill.abandon()
        paths, self._spill, self._paths, self._slices = self._paths, None, [], []
        for path in paths:
            # Best effort: who gave the folder deletes it when the run has ended.
            with suppress(storage.StorageError):
                storage.delete(path)


class _SpillFile:
    """An Arrow IPC stream of batches, not compressed: that costs more time than it saves."""

    def __init__(self, path: str, schema: pa.Schema, keys: GatheredKeys) -> None:
        self.path = path
        self.schema = schema
        self.keys = keys
        self.rows = 0
        self._file = _Counted(storage.open_write(path))
        try:
            with storage.named(path, "write"):
                self._writer = pa.ipc.new_stream(self._file, schema)
        except BaseException:
            self.abandon()
            raise

    def write(self, batch: pa.RecordBatch) -> None:
        with storage.named(self.path, "write"):
            self._writer.write_batch(batch)
        self.rows += batch.num_rows

    @property
    def bytes(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        with storage.named(self.path, "write"):
            self._writer.close()
            self._file.close()

    def abandon(self) -> None:
        with suppress(Exception):  # a store's client has exceptions of its own
            self._file.close()


class _Counted(io.RawIOBase):
    """A file object that knows how far it is; that of a store need not know."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._file.write(cast(Any, view))
        self._bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self._bytes

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()
