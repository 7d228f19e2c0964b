"""Staging: batches become files that nobody reads yet, and receipts that say what they hold."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, cast

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ...schemas.arrow import HIDDEN, SOURCE, WATERMARK
from ...schemas.codes import Code
from .. import coder, storage  # coder: registers itself with Beam  # noqa: F401
from ..plan import Token
from ..receipts import Part, Receipt
from ..tallies import count_sources
from .destination import Destination, Output
from .formats import FORMATS, format_of
from .layout import Layout
from .partitions import check_partitions, split, stripped

OPEN_FILES = 64
"""Files of a bundle that are open at a time; those written last stay."""
GATHERED_BYTES = 256 << 20
"""What a bundle may hold of partitions' rows before it writes the largest of them."""
PIECE_BYTES = 4 << 10
"""What a piece of a batch takes in memory beside its values."""


class Stage(beam.PTransform):
    """Write batches to staged files: ``PCollection[pa.RecordBatch]`` → ``PCollection[Receipt]``.

    Args:
        output: where they will be committed; for ``dead_letters`` the batches are dead letters,
            and their column ``source`` is counted, for all others ``_source``.
        token: the run's token; only its run id names the files.
        part: ``states`` for partial states of aggregates; their column ``rows`` is added up.
        keep_identity: write ``_source``, ``_position`` and ``_payload`` too.
        target_bytes: the size from which on a file is closed and another begun; else the output's.
        format: of files that are read again before they are committed: they are cut by size alone.

    Raises:
        StorageError: in the pipeline, when a file cannot be written.
        DestinationError: in the pipeline, when batches lack a column to partition by.
    """

    def __init__(
        self,
        output: Output,
        token: Token,
        *,
        part: Part = "data",
        keep_identity: bool = False,
        target_bytes: int | None = None,
        format: str | None = None,
    ) -> None:
        super().__init__()
        self.fn = StageFn(output, token, part, keep_identity, target_bytes, format)

    def expand(self, pcoll: beam.PCollection) -> Any:
        # A receipt belongs to no window: what is committed together is the run.
        return (
            pcoll
            | "Unwindow" >> beam.WindowInto(GlobalWindows())
            | "Stage" >> beam.ParDo(self.fn).with_output_types(Receipt)
        )


class StageFn(beam.DoFn):
    """Gives a bundle's receipts only when the bundle is finished.

    So files of a bundle that failed have told nobody of themselves, and can be deleted. Rows of
    different time stamps, which on streams are of different slices, never share a file.
    """

    def __init__(
        self,
        output: Output,
        token: Token,
        part: Part,
        keep_identity: bool,
        target_bytes: int | None,
        format: str | None = None,
    ) -> None:
        dropped = (WATERMARK,) if keep_identity else HIDDEN
        self._make = (output, token, part, dropped, target_bytes, format)
        self._files: dict[Any, StagedFiles] = {}

    def start_bundle(self) -> None:
        self._forget()

    def process(self, element: pa.RecordBatch, timestamp: Any = beam.DoFn.TimestampParam) -> None:
        if timestamp not in self._files:
            self._files[timestamp] = StagedFiles(*self._make)
        self._files[timestamp].write(element)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        closed = [(time, files.close()) for time, files in self._files.items()]
        self._files = {}
        for timestamp, receipts in closed:
            for receipt in receipts:
                yield WindowedValue(receipt, timestamp, (GlobalWindow(),))

    def teardown(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Delete what a bundle left that was never finished."""
        for files in self._files.values():
            files.abandon()
        self._files = {}


class StagedFiles:
    """The files of one bundle: one at a time for each partition, closed at their target size.

    Rows of partitions are gathered, so that most of them are written in one go: neither many
    partitions nor long bundles hold more than ``GATHERED_BYTES`` and ``OPEN_FILES``.

    Args:
        dropped: columns that are not written; ``_source`` is counted all the same.
        target_bytes: else the output's own.
        format: else the output's own; if given, rows are not cut by partitions.
    """

    def __init__(
        self,
        output: Output,
        token: Token,
        part: Part = "data",
        dropped: Sequence[str] = (),
        target_bytes: int | None = None,
        format: str | None = None,
    ) -> None:
        layout = output.destination.layout or Layout()
        self._make = (output, token, part)
        self._format = format
        self._dropped = frozenset(dropped)
        self._partitions = layout.partition_by if part == "data" and not format else ()
        self._target_bytes = target_bytes or layout.target_bytes
        self._checked: pa.Schema | None = None
        self._gathered: dict[str, _Gathered] = {}  # by folder
        self._open: OrderedDict[str, Sink] = OrderedDict()  # by folder, the latest written last
        self._receipts: list[Receipt] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch's rows, each to the file of its partition.

        Raises:
            StorageError: a file cannot be written, or a partition's folder cannot have its name.
            DestinationError: the batch lacks a column to partition by.
        """
        if not batch.num_rows:
            return
        if not self._partitions:
            return self._write("", batch)
        # What is neither written nor counted need not be cut.
        uncut = [n for n in batch.schema.names if n in self._dropped and n != SOURCE]
        batch = batch.drop_columns(uncut) if uncut else batch
        self._check(batch.schema)
        for folder, piece in split(batch, self._partitions):
            self._gathered.setdefault(folder, _Gathered()).add(piece)
        if self._held() > GATHERED_BYTES:
            self._write_largest()

    def close(self) -> list[Receipt]:
        """End all files; they are on the disk when this returns."""
        for folder in [*self._open, *(f for f in self._gathered if f not in self._open)]:
            self._write_gathered(folder)
            self._close(folder)
        return self._receipts

    def abandon(self) -> None:
        """Delete all files, also those that are closed."""
        paths = [receipt.path for receipt in self._receipts]
        for sink in self._open.values():
            paths.append(sink.path)
            sink.abandon()
        self._open.clear()
        self._gathered.clear()
        self._receipts = []
        for path in paths:
            # Best effort: the commit clears the whole staging folder of the run.
            with suppress(storage.StorageError):
                storage.delete(path)

    def _check(self, schema: pa.Schema) -> None:
        if self._checked is None or schema != self._checked:
            written = [field for field in schema if field.name not in self._dropped]
            check_partitions(self._partitions, pa.schema(written))
            self._checked = schema

    def _held(self) -> int:
        return sum(gathered.bytes for gathered in self._gathered.values())

    def _write_largest(self) -> None:
        left = self._held()
        for folder in sorted(self._gathered, key=lambda f: self._gathered[f].bytes, reverse=True):
            if left <= GATHERED_BYTES // 2:
                return
            left -= self._gathered[folder].bytes
            self._write_gathered(folder)
            # Else the encoders would gather in their turn.
            self._open[folder].flush()

    def _write_gathered(self, folder: str) -> None:
        if gathered := self._gathered.pop(folder, None):
            for piece in gathered.pieces:
                self._write(folder, piece)

    def _write(self, folder: str, batch: pa.RecordBatch) -> None:
        gone = self._dropped | stripped(self._partitions)
        dropped = [name for name in batch.schema.names if name in gone]
        columns = batch.drop_columns(dropped) if dropped else batch
        sink = self._open.get(folder)
        if sink and (sink.bytes >= self._target_bytes or sink.schema != columns.schema):
            self._close(folder)
            sink = None
        if not sink:
            if len(self._open) >= OPEN_FILES:
                self._close(next(iter(self._open)))
            sink = self._open[folder] = Sink(*self._make, columns.schema, folder, self._format)
        self._open.move_to_end(folder)
        sink.write(columns, batch)

    def _close(self, folder: str) -> None:
        self._receipts.append(self._open[folder].close())
        del self._open[folder]


class _Gathered:
    """Rows of one partition that wait to be written."""

    def __init__(self) -> None:
        self.pieces: list[pa.RecordBatch] = []
        self.bytes = 0

    def add(self, piece: pa.RecordBatch) -> None:
        self.pieces.append(piece)
        self.bytes += piece.nbytes + PIECE_BYTES


class Sink:
    """One staged file, from its first batch to its receipt."""

    def __init__(
        self,
        output: Output,
        token: Token,
        part: Part,
        schema: pa.Schema,
        folder: str = "",
        format: str | None = None,
    ) -> None:
        format = format or format_of(output.destination.format, part)
        self.path = staged_path(output.destination, token.run_id, format)
        self.schema = schema
        self._folder = folder
        self._output = output
        self._part: Part = part
        self._rows = 0
        self._contributions = 0
        self._sources: Counter[str] = Counter()
        self._unreadable: list[str] = []
        self._file = Hashing(storage.open_write(self.path))
        try:
            self._encoder = FORMATS[format](cast(BinaryIO, self._file), schema)
        except BaseException:
            self._file.discard()
            storage.delete(self.path)
            raise

    @property
    def bytes(self) -> int:
        """Bytes written so far; what the encoder still gathers is not among them."""
        return self._file.bytes

    def flush(self) -> None:
        """Write what the encoder gathers."""
        with storage.named(self.path, "write"):
            self._encoder.flush()

    def write(self, columns: pa.RecordBatch, batch: pa.RecordBatch) -> None:
        """Write ``columns``, and count by ``batch``, which has the identity columns too."""
        with storage.named(self.path, "write"):
            self._encoder.write(columns)
        self._rows += batch.num_rows
        dead = self._output.kind == "dead_letters"
        self._sources.update(count_sources(batch, "source" if dead else SOURCE))
        if dead:
            self._unreadable += unreadable(batch)
        if self._part == "states":
            self._contributions += pc.sum(batch["rows"]).as_py() or 0

    def close(self) -> Receipt:
        """End the file; it is on the disk when this returns."""
        with storage.named(self.path, "write"):
            self._encoder.close()
            self._file.close()
        return Receipt(
            output=self._output.name,
            part=self._part,
            path=self.path,
            rows=self._rows,
            bytes=self._file.bytes,
            sha256=self._file.sha256,
            sources=dict(sorted(self._sources.items())),
            contributions=self._contributions,
            unreadable=tuple(sorted(self._unreadable)),
            folder=self._folder,
        )

    def abandon(self) -> None:
        """Let go of the file; what the encoder still holds is thrown away."""
        self._file.discard()
        with suppress(Exception):
            self._encoder.close()


class Hashing:
    """A file object that digests and counts what goes through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file: BinaryIO | None = file
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._file:
            self._digest.update(view)
            self._file.write(view)
            self.bytes += len(view)
        return len(view)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def tell(self) -> int:
        return self.bytes

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        pass  # on close, once

    def close(self) -> None:
        if not self.closed and self._file:
            self.closed = True
            self._file.close()

    def discard(self) -> None:
        """Close the file, and take what is still written without keeping it.

        An encoder that is collected may write an end: it must not fail where nobody can catch it.
        """
        with suppress(OSError):
            self.close()
        self._file = None


def staged_folder(destination: Destination, run_id: str) -> str:
    """Where the staged files of an output lie."""
    return storage.join(destination.staging, run_id, destination.name)


def staged_path(destination: Destination, run_id: str, format: str) -> str:
    """A new name, which no glob for the format's extension matches."""
    name = f"{uuid.uuid4().hex}.{format}.staged"
    return storage.join(staged_folder(destination, run_id), name)


def stage_batches(output: Output, token: Token, batches: Iterable[pa.RecordBatch]) -> list[Receipt]:
    """Stage without a pipeline: a file, or one for each partition; none if there are no rows."""
    files = StagedFiles(output, token)
    try:
        for batch in batches:
            files.write(batch)
        return files.close()
    except BaseException:
        files.abandon()
        raise


def restage(receipts: Sequence[Receipt], output: Output, token: Token) -> list[Receipt]:
    """Stage anew what was staged in brief files with its identity, as the output wants it.

    Raises:
        StorageError: a file cannot be read or written.
    """
    # Duplicates are written with their identity, in files too.
    keeps = output.tables or output.kind == "side"
    files = StagedFiles(output, token, dropped=(WATERMARK,) if keeps else HIDDEN)
    try:
        for receipt in receipts:
            with storage.named(receipt.path, "read"), storage.open_read(receipt.path) as file:
                for batch in pq.ParquetFile(file).iter_batches(use_threads=False):
                    files.write(batch)
        return files.close()
    except BaseException:
        files.abandon()
        raise


def unreadable(batch: pa.RecordBatch) -> list[str]:
    """``source @ position`` of the dead letters that stand for a region nobody could read."""
    codes = batch["codes"]
    parents = pc.list_parent_indices(codes)
    rows = pc.unique(parents.filter(pc.equal(codes.flatten(), Code.UNREADABLE.value)))
    if not len(rows):
        return []
    found = batch.select(["source", "position"]).take(rows).to_pylist()
    return [f"{row['source'] or ''} @ {row['position'] or '?'}" for row in found]
