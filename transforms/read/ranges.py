"""What readers of files share: ranges that are spread over workers, and the count of records."""

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
from ..plan import InputFile
from ..progress import PROGRESS
from ..stage_result import StageResult
from ..tallies import DEAD_LETTERS, TALLIES, Tally
from .files import FileRange, match_files
from .lines import Oversize, Unreadable
from .regions import region_letter


def planned_files(
    files: str | Sequence[str | InputFile], allow_no_match: bool = False
) -> list[InputFile]:
    """Patterns, or files of a plan, as files. Patterns are matched now.

    Raises:
        NoFiles: a pattern matches nothing, and that is not allowed.
    """
    files = [files] if isinstance(files, str) else files
    planned = [f for f in files if isinstance(f, InputFile)]
    return planned + match_files([f for f in files if isinstance(f, str)], allow_no_match)


def read_ranges(pbegin: Any, ranges: Sequence[FileRange], fn: ReadRangeFn) -> StageResult:
    """Have ranges of files read, spread over the workers."""
    outputs = (
        pbegin
        | "Ranges" >> beam.Create(ranges, reshuffle=False)
        | "Spread" >> beam.Reshuffle()
        | "ReadRanges" >> beam.ParDo(fn).with_outputs(DEAD_LETTERS, TALLIES, main="records")
    )
    return StageResult.of(outputs, tallies=True)


class ReadRangeFn(beam.DoFn):
    """Reads ranges, and tallies what was read of each file. A subclass says how, in ``process``."""

    def __init__(self, origin: Origin, max_record_bytes: int) -> None:
        self._origin = origin
        self._max_record_bytes = max_record_bytes

    def start_bundle(self) -> None:
        self._read: Counter[str] = Counter()

    def count(self, source: str, records: int) -> None:
        """Note so many records of a file; none of an empty one, which is in the ledger too."""
        self._read[source] += records
        PROGRESS.records += records

    def region(self, source: str, region: Oversize | Unreadable) -> TaggedOutput:
        """Count a region as one record; gives its dead letter."""
        self.count(source, 1)
        origin = self._origin._replace(stage="read")
        letter = region_letter(source, region, origin, self._max_record_bytes)
        return TaggedOutput(DEAD_LETTERS, letter)

    def finish_bundle(self) -> Iterator[Any]:
        for source, rows in self._read.items():
            tally = WindowedValue(Tally(source, "read", rows), 0, (GlobalWindow(),))
            yield TaggedOutput(TALLIES, tally)
