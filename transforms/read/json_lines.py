"""Reading JSON lines files, plain and compressed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..dead_letters import Origin
from ..error_handling import HandlesErrors
from ..plan import InputFile
from .files import RANGE_BYTES, Compression, FileRange, chunks, file_ranges
from .lines import Lines, cut_lines, payload_batch
from .ranges import ReadRangeFn, planned_files, read_ranges

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
        planned = planned_files(files, allow_no_match)
        self._ranges = file_ranges(planned, compression, range_bytes)
        self._fn = _ReadLines(origin or Origin("read"), max_record_bytes)

    def expand(self, pbegin: Any) -> Any:
        return self.handled(read_ranges(pbegin, self._ranges, self._fn))


class _ReadLines(ReadRangeFn):
    def process(self, part: FileRange) -> Iterator[Any]:
        source = part.file.source
        self.count(source, 0)
        for piece in cut_lines(chunks(part), part.start, part.end, self._max_record_bytes):
            if isinstance(piece, Lines):
                self.count(source, len(piece.payloads))
                yield payload_batch(source, piece)
            else:
                yield self.region(source, piece)
