"""Staging: batches become files that nobody reads yet, and receipts that say what they hold."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, cast

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ...schemas.arrow import IDENTITY, SOURCE
from ...schemas.codes import Code
from .. import coder, storage  # coder: registers itself with Beam  # noqa: F401
from ..plan import Token
from ..receipts import Part, Receipt
from .destination import Destination, Output
from .formats import FORMATS

TARGET_BYTES = 256 << 20
"""The size from which on a staged file is closed and another begun."""


class Stage(beam.PTransform):
    """Write batches to staged files: ``PCollection[pa.RecordBatch]`` → ``PCollection[Receipt]``.

    Args:
        output: where they will be committed; for ``dead_letters`` the batches are dead letters,
            and their column ``source`` is counted, for all others ``_source``.
        token: the run's token; only its run id names the files.
        part: ``states`` for partial states of aggregates; their column ``rows`` is added up.
        keep_identity: write ``_source``, ``_position`` and ``_payload`` too.
        target_bytes: the size from which on a file is closed and another begun.

    Raises:
        StorageError: in the pipeline, when a file cannot be written.
    """

    def __init__(
        self,
        output: Output,
        token: Token,
        *,
        part: Part = "data",
        keep_identity: bool = False,
        target_bytes: int = TARGET_BYTES,
    ) -> None:
        super().__init__()
        self.fn = StageFn(output, token, part, keep_identity, target_bytes)

    def expand(self, pcoll: beam.PCollection) -> Any:
        # A receipt belongs to no window: what is committed together is the run.
        return (
            pcoll
            | "Unwindow" >> beam.WindowInto(GlobalWindows())
            | "Stage" >> beam.ParDo(self.fn).with_output_types(Receipt)
        )


class StageFn(beam.DoFn):
    """Gives a bundle's receipts only when the bundle is finished.

    So files of a bundle that failed have told nobody of themselves, and can be deleted.
    """

    def __init__(
        self, output: Output, token: Token, part: Part, keep_identity: bool, target_bytes: int
    ) -> None:
        self._output = output
        self._token = token
        self._part: Part = part
        self._drop = () if keep_identity else IDENTITY
        self._target_bytes = target_bytes
        self._sink: Sink | None = None
        self._receipts: list[Receipt] = []

    def start_bundle(self) -> None:
        self._forget()

    def process(self, element: pa.RecordBatch) -> None:
        if not element.num_rows:
            return
        dropped = [name for name in self._drop if name in element.schema.names]
        columns = element.drop_columns(dropped) if dropped else element
        if self._sink and (
            self._sink.bytes >= self._target_bytes or self._sink.schema != columns.schema
        ):
            self._close()
        if not self._sink:
            self._sink = Sink(self._output, self._token, self._part, columns.schema)
        self._sink.write(columns, element)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._sink:
            self._close()
        receipts, self._receipts = self._receipts, []
        for receipt in receipts:
            yield GlobalWindows.windowed_value(receipt)

    def teardown(self) -> None:
        self._forget()

    def _close(self) -> None:
        assert self._sink is not None
        self._receipts.append(self._sink.close())
        self._sink = None

    def _forget(self) -> None:
        """Delete what a bundle left that was never finished."""
        paths = [receipt.path for receipt in self._receipts]
        if self._sink:
            paths.append(self._sink.path)
            self._sink.abandon()
        self._sink, self._receipts = None, []
        for path in paths:
            # Best effort: the commit clears the whole staging folder of the run.
            with suppress(storage.StorageError):
                storage.delete(path)


class Sink:
    """One staged file, from its first batch to its receipt."""

    def __init__(self, output: Output, token: Token, part: Part, schema: pa.Schema) -> None:
        destination = output.destination
        self.path = staged_path(destination, token.run_id)
        self.schema = schema
        self._output = output
        self._part: Part = part
        self._rows = 0
        self._contributions = 0
        self._sources: Counter[str] = Counter()
        self._unreadable: list[str] = []
        self._file = _Hashing(storage.open_write(self.path))
        try:
            self._encoder = FORMATS[destination.format](cast(BinaryIO, self._file), schema)
        except BaseException:
            self._file.discard()
            storage.delete(self.path)
            raise

    @property
    def bytes(self) -> int:
        """Bytes written so far; what the encoder still gathers is not among them."""
        return self._file.bytes

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
        )

    def abandon(self) -> None:
        """Let go of the file; what the encoder still holds is thrown away."""
        self._file.discard()
        with suppress(Exception):
            self._encoder.close()


class _Hashing:
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


def staged_path(destination: Destination, run_id: str) -> str:
    """A new name, which no glob for the format's extension matches."""
    name = f"{uuid.uuid4().hex}.{destination.format}.staged"
    return storage.join(staged_folder(destination, run_id), name)


def stage_batches(output: Output, token: Token, batches: Iterable[pa.RecordBatch]) -> list[Receipt]:
    """Stage without a pipeline: one file, or none if there are no rows."""
    sink: Sink | None = None
    for batch in batches:
        if batch.num_rows:
            sink = sink or Sink(output, token, "data", batch.schema)
            sink.write(batch, batch)
    return [sink.close()] if sink else []


def count_sources(batch: pa.RecordBatch, column: str) -> dict[str, int]:
    """Rows by source; a null counts under the empty name. Nothing if there is no such column."""
    if column not in batch.schema.names:
        return {}
    counts = pc.value_counts(batch[column])
    return {v["values"] or "": v["counts"] for v in counts.to_pylist()}


def unreadable(batch: pa.RecordBatch) -> list[str]:
    """``source @ position`` of the dead letters that stand for a region nobody could read."""
    codes = batch["codes"]
    parents = pc.list_parent_indices(codes)
    rows = pc.unique(parents.filter(pc.equal(codes.flatten(), Code.UNREADABLE.value)))
    if not len(rows):
        return []
    found = batch.select(["source", "position"]).take(rows).to_pylist()
    return [f"{row['source'] or ''} @ {row['position'] or '?'}" for row in found]
