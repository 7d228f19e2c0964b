"""Reading files of formats that are decoded where they are read: CSV, Avro, Parquet.

Such a file is not a row of payloads: what a record is only shows when a whole block is decoded. So
one transform reads and decodes, and the exact bytes of a record are taken only where somebody asks
for them. A format is one small class, a :class:`RecordReader`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from ...schemas.arrow import IDENTITY_FIELDS, PAYLOADS
from ...schemas.contract import Contract
from ...schemas.decoded import Decoded
from ...schemas.drift.facts import Rows, drift_of
from ..dead_letters import Origin, refused_batch
from ..error_handling import HandlesErrors
from ..plan import InputFile
from ..progress import PROGRESS
from ..tallies import DEAD_LETTERS, TALLIES
from .ahead import read_ahead
from .files import FileRange
from .lines import Oversize, Unreadable, source_column
from .ranges import ReadRangeFn, planned_files, read_ranges


class Piece(NamedTuple):
    """Records in a row, decoded.

    ``positions`` (int64) are those of all of them, good and refused; ``payloads`` gives the exact
    bytes (binary) of the rows whose numbers it is given.
    """

    decoded: Decoded
    positions: pa.Array
    payloads: Callable[[np.ndarray], pa.Array]


class RecordReader(Protocol):
    """Reads and decodes the files of one format. Picklable: it travels to the workers."""

    max_record_bytes: int
    """A record that is longer becomes an :class:`~.lines.Oversize`."""

    def ranges(self, files: Iterable[InputFile]) -> list[FileRange]:
        """Parts that can be read alone, and that together are the files."""
        ...

    def attributes(self, part: FileRange) -> dict[str, str]:
        """What it takes, besides the contract, to read a payload of this file again: its dead
        letters carry it. Asked for only where something was refused."""
        ...

    def read(self, part: FileRange) -> Iterator[Piece | Oversize | Unreadable]:
        """Everything in a part: records, and regions that are none or could not be read.

        Raises:
            StorageError: the file cannot be opened, or has changed since it was planned.
        """
        ...


class ReadRecords(HandlesErrors):
    """Read and decode files of one format: the base of ``ReadFromCsv`` and its like.

    Gives a :class:`~millstream.transforms.stage_result.StageResult`: ``records`` have the
    contract's columns, then ``_source``, ``_position`` and, if asked for, ``_payload``;
    ``dead_letters`` are records that do not fit (and, with ``judge`` in the reader, that break
    rules: those are of stage ``validate``), and regions that could not be read; ``tallies`` count
    what was read.

    Args:
        files: patterns, or files of a plan. Patterns are matched when the pipeline is built.
        contract: what the records must be.
        reader: of the format.
        payload: give each record's exact bytes beside it, for what comes later and may refuse it.
        allow_no_match: a pattern may match nothing.

    Raises:
        NoFiles: a pattern matches nothing.
        StorageError: when running, a file cannot be opened.
    """

    def __init__(
        self,
        files: str | Sequence[str | InputFile],
        contract: Contract,
        reader: RecordReader,
        *,
        payload: bool = True,
        allow_no_match: bool = False,
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        self._ranges = reader.ranges(planned_files(files, allow_no_match))
        self._fn = _ReadRecords(reader, payload, (origin or Origin("parse")).of(contract))

    def reading_by(self, change: Callable[[RecordReader], RecordReader]) -> ReadRecords:
        """The same with another reader, which is made of this one's."""
        self._fn = self._fn.reading_by(change)
        return self

    def expand(self, pbegin: Any) -> Any:
        return self.handled(read_ranges(pbegin, self._ranges, self._fn))


class _ReadRecords(ReadRangeFn):
    def __init__(self, reader: RecordReader, payload: bool, origin: Origin) -> None:
        super().__init__(origin, reader.max_record_bytes)
        self._reader = reader
        self._payload = payload

    def reading_by(self, change: Callable[[RecordReader], RecordReader]) -> _ReadRecords:
        changed = copy.copy(self)
        changed._reader = change(self._reader)
        return changed

    def process(self, part: FileRange) -> Iterator[Any]:
        source = part.file.source
        self.count(source, 0)
        attributes: dict[str, str] | None = None
        for piece in read_ahead(self._reader.read(part)):
            if isinstance(piece, Piece):
                self.count(source, len(piece.positions))
                if piece.decoded.records.num_rows:
                    yield self._with_identity(source, piece)
                if piece.decoded.noticed:
                    rows = Rows(source_column(source, len(piece.positions)), piece.positions)
                    drift = drift_of(piece.decoded.noticed, rows)
                    yield TaggedOutput(TALLIES, drift)
                if piece.decoded.refused:
                    PROGRESS.dead += len(piece.decoded.refused)
                    attributes = attributes or self._reader.attributes(part)
                    letters = self._letters(source, piece, attributes)
                    yield TaggedOutput(DEAD_LETTERS, letters)
            else:
                yield self.region(source, piece)

    def _with_identity(self, source: str, piece: Piece) -> pa.RecordBatch:
        records, kept = piece.decoded.records, piece.decoded.kept
        positions = piece.positions if kept is None else piece.positions.take(pa.array(kept))
        columns = [*records.columns, source_column(source, len(positions)), positions]
        fields = [*records.schema, *IDENTITY_FIELDS[:2]]
        if self._payload:
            rows = np.arange(len(positions)) if kept is None else kept
            columns.append(piece.payloads(rows))
            fields.append(IDENTITY_FIELDS[2])
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))

    def _letters(self, source: str, piece: Piece, attributes: dict[str, str]) -> pa.RecordBatch:
        decoded = piece.decoded
        rows = np.array(decoded.refused)
        identity = [
            source_column(source, len(rows)),
            piece.positions.take(pa.array(rows)),
            piece.payloads(rows),
        ]
        number = {row: i for i, row in enumerate(decoded.refused)}
        return refused_batch(
            pa.RecordBatch.from_arrays(identity, schema=PAYLOADS),
            [v._replace(row=number[v.row]) for v in decoded.violations],
            self._origin,
            stages=[
                "validate" if only_rules else self._origin.stage
                for only_rules in decoded.well_typed
            ],
            event_times=decoded.event_times,
            attributes=attributes,
        )
