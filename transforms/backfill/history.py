"""The records of the past, read back from the output that they were written to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.steps import RecordStep
from ..receipts import moment
from ..stored import between, open_stored
from ..write.destination import Output
from ..write.errors import DestinationError
from ..write.files import FilesDestination
from ..write.manifests import read_manifest
from .parts import Part

_WORD = (1 << 63) - 1


class Seen(msgspec.Struct, frozen=True):
    """What tells whether records of a span are those that were read before: how many there are, and
    the sum of their event times. A value that was changed where it lies does not show."""

    rows: int = 0
    times: int = 0

    def with_times(self, times: pa.Array) -> Seen:
        """With further records."""
        total = pc.sum(pc.cast(times.view(pa.int64()), pa.decimal128(38))).as_py() or 0
        return self.with_others(Seen(len(times), int(total) & _WORD))

    def with_others(self, others: Seen) -> Seen:
        """Of both."""
        return Seen(self.rows + others.rows, (self.times + others.times) & _WORD)


@dataclass(frozen=True)
class History:
    """Records in an output. Picklable.

    Attributes:
        output: which holds them.
        schema: their columns there.
        event_time: the column of their time.
        columns: those that aggregates need.
        derive: adds what metrics are of, if some are of expressions.

    All methods raise ``DestinationError``, ``Unavailable`` and ``StorageError``.
    """

    output: Output
    schema: pa.Schema
    event_time: str
    columns: tuple[str, ...]
    derive: RecordStep | None = None

    @property
    def place(self) -> str:
        """Where they lie."""
        return self.output.destination.place

    def version(self) -> int | None:
        """A number that changes with what is there; ``None`` where that cannot be told at once."""
        to = self.output.destination
        return read_manifest(to.home).version if isinstance(to, FilesDestination) else None

    def batches(self, part: Part) -> Iterator[pa.RecordBatch]:
        """The records of a span."""
        for batch in self._stored(part, self.columns):
            yield self._derived(batch) if self.derive else batch

    def seen(self, part: Part) -> Seen:
        """What is there of a span now."""
        found = Seen()
        for batch in self._stored(part, (self.event_time,)):
            found = found.with_times(batch.column(self.event_time))
        return found

    def _stored(self, part: Part, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        where = between(self.event_time, moment(part.start), moment(part.end))
        yield from open_stored(self.output, "data", self.schema).batches(columns, where)

    def _derived(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert self.derive is not None
        made = self.derive.attempt(batch)
        if made.failures:
            raise DestinationError(
                f"{self.place}: an expression of a metric fails on {len(made.failures)} records: "
                f"{type(made.failures[0].error).__name__}"
            )
        return made.records
