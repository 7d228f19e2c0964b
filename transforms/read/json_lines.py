"""Reading JSON lines files, plain and compressed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from ..dead_letters import Origin
from ..error_handling import HandlesErrors
from ..plan import InputFile
from ..progress import PROGRESS
from ..stage_result import StageResult
from ..tallies import DEAD_LETTERS, TALLIES, Tally
from .files import RANGE_BYTES, Compression, FileRange, chunks, file_ranges, match_files
from .lines import Lines, cut_lines, payload_batch
from .regions import region_letter

MAX_RECORD_BYTES = 16 << 20
"""A line longer than this is a dead letter by default."""


class ReadFromJsonLines(HandlesErrors):
    """Read files of lines into batches of payloads.

    Gives a :class:`~millstream.transforms.stage_result.StageResult`: ``records`` are batches with
    the columns of ``millstream.schemas.arrow.PAYLOADS``, of about 8 MB each; ``dead_letters`` are
    lines that are too long and regions that could not be read; ``tallies`` count what was read.

    Args:
        files: patterns, or files of a plan. Patterns are matched when the pipeline is built.
        allow_no_match: a pattern may match nothing.
        compression: ``auto`` goes by the name's ending (see :mod:`.compression`).

    Raises:
        NoFiles: a pattern matches nothing.
        StorageError: when running, a file cannot be opened.
    """

    def __init__(
        self,
        files: str | Sequence[str | InputFile],
        *,
        max_record_bytes: int = MAX_RECORD_BYTES,
        compression: Compression = "auto",
        range_bytes: int = RANGE_BYTES,
        allow_no_match: bool = False,
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        files = [files] if isinstance(files, str) else files
        planned = [f for f in files if isinstance(f, InputFile)]
        planned += match_files([f for f in files if isinstance(f, str)], allow_no_match)
        self._ranges = file_ranges(planned, compression, range_bytes)
        self._max_record_bytes = max_record_bytes
        self._origin = origin or Origin("read")

    def expand(self, pbegin: Any) -> Any:
        outputs = (
            pbegin
            | "Ranges" >> beam.Create(self._ranges, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "ReadRanges"
            >> beam.ParDo(_ReadRange(self._max_record_bytes, self._origin)).with_outputs(
                DEAD_LETTERS, TALLIES, main="records"
            )
        )
        return self.handled(StageResult.of(outputs, tallies=True))


class _ReadRange(beam.DoFn):
    def __init__(self, max_record_bytes: int, origin: Origin) -> None:
        self._max_record_bytes = max_record_bytes
        self._origin = origin

    def start_bundle(self) -> None:
        self._read: Counter[str] = Counter()

    def process(self, part: FileRange) -> Iterator[Any]:
        source = part.file.source
        self._read[source] += 0  # an empty file is in the ledger too
        for piece in cut_lines(chunks(part), part.start, part.end, self._max_record_bytes):
            if isinstance(piece, Lines):
                self._read[source] += len(piece.payloads)
                PROGRESS.records += len(piece.payloads)
                yield payload_batch(source, piece)
            else:
                self._read[source] += 1
                letter = region_letter(source, piece, self._origin, self._max_record_bytes)
                yield TaggedOutput(DEAD_LETTERS, letter)

    def finish_bundle(self) -> Iterator[Any]:
        for source, rows in self._read.items():
            tally = WindowedValue(Tally(source, "read", rows), 0, (GlobalWindow(),))
            yield TaggedOutput(TALLIES, tally)
