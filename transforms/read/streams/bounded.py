"""Reading intervals of a stream: from positions that are known to positions that are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import msgspec
from apache_beam.pvalue import TaggedOutput

from ....schemas.arrow import SOURCE
from ....schemas.watermarks import NEVER
from ...carry import Reached, SourceState, Unacknowledged
from ...coder import RecordBatchCoder  # registers it  # noqa: F401
from ...plan import Interval
from ...stage_result import StageResult
from ...tallies import DEAD_LETTERS, TALLIES, Tally, count_sources
from .reading import Decodes, Reading
from .source import StreamSource

REACHED = "reached"
"""Tag of the output that says how far partitions have been read."""


class Intervals(NamedTuple):
    """What is read of a stream, and how far."""

    result: StageResult
    reached: beam.PCollection[Reached]


class ReadIntervals(beam.PTransform):
    """Read intervals of a stream's partitions into records that keep the contract.

    Args:
        intervals: what to read; those that are empty are told as such.
        states: where event time stands in each partition.
        workers: over how many workers partitions are spread.

    Raises:
        SourceError: in the pipeline, when a partition cannot be read to its end.
        Unavailable: in the pipeline, when the service does not answer.
    """

    def __init__(
        self,
        source: StreamSource,
        intervals: Sequence[Interval],
        decodes: Decodes,
        states: Mapping[str, SourceState],
        *,
        workers: int,
    ) -> None:
        super().__init__()
        sized = sorted(intervals, key=lambda part: part.start - part.end)
        self._parts = [part for n in range(workers) if (part := tuple(sized[n::workers]))]
        self._fn = _ReadIntervals(source, decodes, dict(states))

    def expand(self, pbegin: Any) -> Intervals:
        outputs = (
            pbegin
            | "Intervals" >> beam.Create(self._parts, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "Read"
            >> beam.ParDo(self._fn).with_outputs(DEAD_LETTERS, TALLIES, REACHED, main="records")
        )
        outputs[REACHED].element_type = Reached
        return Intervals(StageResult.of(outputs, tallies=True), outputs[REACHED])


class _ReadIntervals(beam.DoFn):
    def __init__(
        self, source: StreamSource, decodes: Decodes, states: dict[str, SourceState]
    ) -> None:
        self._source = source
        self._decodes = decodes
        self._states = states

    def setup(self) -> None:
        self._decoding = self._decodes.open()

    def process(self, parts: Sequence[Interval]) -> Iterator[Any]:
        names = {part.source for part in parts}
        states = {s: state for s, state in self._states.items() if s in names}
        reading = Reading(self._decodes, self._decoding, self._decodes.clock(states))
        rows: Counter[str] = Counter(dict.fromkeys(names, 0))
        duplicates: Counter[str] = Counter()
        nexts = {part.source: part.start for part in parts}
        cursors: dict[str, str] = {}
        receipts: tuple[str, ...] = ()
        ends = {part.source: part.end for part in parts if part.end > part.start}
        if ends:
            starts = {
                part.source: msgspec.structs.replace(
                    states.get(part.source, SourceState()), next=part.start
                )
                for part in parts
                if part.source in ends
            }
            with self._source.open(starts) as reader:
                for polled in reader.until(ends):
                    rows.update(count_sources(polled.batch, SOURCE))
                    duplicates.update(polled.duplicates or {})
                    nexts.update(polled.next)
                    cursors.update(polled.cursors or {})
                    receipts += polled.receipts
                    yield from reading.put(polled)
            yield from reading.drain()
        for part in parts:
            newest = reading.clock.newest(part.source) if reading.clock else NEVER
            end = nexts[part.source] if part.is_open else part.end
            reached = Reached(part.source, part.start, end, newest, part.start == end)
            reached = reached._replace(cursor=cursors.get(part.source, ""))
            yield TaggedOutput(REACHED, reached)
        if receipts:
            yield TaggedOutput(REACHED, Unacknowledged(receipts))
        for source, count in rows.items():
            yield TaggedOutput(TALLIES, Tally(source, "read", count + duplicates[source]))
        for source, count in (+duplicates).items():
            yield TaggedOutput(TALLIES, Tally(source, "duplicate", count))
