"""Reading a stream without an end.

What Beam takes for event time here is the time at which a slice of the stream is read: it says
which records are committed together, and nothing else. The runner so has no reason to drop a
record, whatever its own time is; that is a column, and judged by us.

A slice is what one call of the splittable DoFn reads, of all partitions of its part. It tells where
each partition began and ended in it, and so what is committed is known by positions alone.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from ....schemas.arrow import SOURCE
from ....schemas.watermarks import NEVER
from ...carry import Carry, Reached, SourceState, Stopped, Unacknowledged
from ...coder import RecordBatchCoder  # registers it  # noqa: F401
from ...stage_result import StageResult
from ...tallies import DEAD_LETTERS, TALLIES, Tally, count_sources
from .bounded import REACHED, Intervals
from .reading import Decodes, Reading
from .source import Polled, StreamReader, StreamSource
from .tracker import StreamParts, StreamPosition, parts_of

STOP = threading.Event()
"""Set in the process of the workers, it ends every stream: what has been read is committed."""


Committed = Callable[[], Carry | None]


@dataclass(frozen=True)
class Pace:
    """How a stream is read.

    Attributes:
        slice_seconds: how long a slice takes at most, where records come as they are made.
        drain_seconds: how long it takes at most while more are there than can be taken at once:
            to begin one has its price.
        slice_rows: how many records a slice has, about, at most.
        poll_rows: how many records are taken at once.
        idle_seconds: a partition without a record for so long holds nothing back.
        ahead_us: a partition that is ahead of others by more event time than that waits.
    """

    slice_seconds: float = 0.2
    drain_seconds: float = 1.0
    slice_rows: int = 500_000
    poll_rows: int = 50_000
    idle_seconds: float = 5.0
    ahead_us: int = 300 * 10**6


class ReadStream(beam.PTransform):
    """Read a stream into records that keep the contract, for as long as the pipeline runs.

    Elements have the time at which their slice began as their time stamp.

    Args:
        states: where partitions stand.
        parts: by how many workers at once it is read. On Prism say 1: it takes the watermark of
            whichever part was read last for that of all.
        committed: gives what the newest commit carries; what lies before it is not read again.

    Raises:
        SourceError: in the pipeline, when a partition cannot be read on.
    """

    def __init__(
        self,
        source: StreamSource,
        decodes: Decodes,
        states: dict[str, SourceState],
        *,
        parts: int = 1,
        pace: Pace | None = None,
        committed: Committed | None = None,
    ) -> None:
        super().__init__()
        self._parts = parts_of(source, states, parts)
        self._fn = ReadStreamFn(source, decodes, pace or Pace(), committed)

    def expand(self, pbegin: Any) -> Intervals:
        outputs = (
            pbegin
            | "Begin" >> beam.Impulse()
            # Not beam.Create: it names its steps by where they stand in Beam's own source, and a
            # stream is replaced by one of another version only if its steps have the same names.
            | "Parts" >> beam.FlatMap(_parts, self._parts)
            | "Spread" >> beam.Reshuffle()
            | "Read"
            >> beam.ParDo(self._fn).with_outputs(DEAD_LETTERS, TALLIES, REACHED, main="records")
        )
        outputs[REACHED].element_type = Reached
        return Intervals(StageResult.of(outputs, tallies=True), outputs[REACHED])


def _parts(_: bytes, parts: list[Any]) -> list[Any]:
    return parts


_TRACKER = beam.DoFn.RestrictionParam(StreamParts())
_WATERMARK = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())


class ReadStreamFn(beam.DoFn):
    """Reads a slice of a part of a stream at each call, and defers the rest."""

    def __init__(
        self, source: StreamSource, decodes: Decodes, pace: Pace, committed: Committed | None = None
    ) -> None:
        self._source = source
        self._committed = committed
        self._decodes = decodes
        self._pace = pace
        self._open: dict[int, _OpenPart] = {}

    def setup(self) -> None:
        self._decoding = self._decodes.open()

    def teardown(self) -> None:
        for part in self._open.values():
            part.close()
        self._open.clear()

    @beam.DoFn.unbounded_per_element()
    def process(
        self, element: Any, tracker: Any = _TRACKER, watermark: Any = _WATERMARK
    ) -> Iterator[Any]:
        position = tracker.current_restriction()
        if position.over:
            return
        began = _now(watermark)
        part = self._part(element, position)
        begun = StreamPosition(sources=part.states)
        for output in part.read(self._pace):
            yield _at(began, output)
        over = STOP.is_set()
        after = StreamPosition(sources=part.states, over=over)
        # No claim is ever refused: nothing but this call can have split the restriction.
        tracker.try_claim(after)
        for fact in part.facts(begun, after):
            yield _at(began, fact)
        if over:
            yield _at(began, TaggedOutput(REACHED, Stopped(element.number)))
        if not over:
            watermark.set_watermark(_now(watermark))
            tracker.defer_remainder()

    def _part(self, element: Any, position: StreamPosition) -> _OpenPart:
        """The part, open at a position; it is opened anew where it is not the one that was left."""
        held = self._open.get(element.number)
        if held is not None and held.states == position.sources:
            return held
        if held is not None:
            held.close()
        source = self._source.part(element.number, element.parts)
        states = self._not_committed(position.sources)
        found = _OpenPart(source, self._decodes, self._decoding, states)
        self._open[element.number] = found
        return found

    def _not_committed(self, states: dict[str, SourceState]) -> dict[str, SourceState]:
        """Where to go on: a runner that has gone back to a checkpoint may ask for what has been
        committed since."""
        carry = self._committed() if self._committed else None
        if carry is None:
            return states
        return {
            source: held
            if (held := carry.sources.get(source)) and held.next > state.next
            else state
            for source, state in states.items()
        }


class _OpenPart:
    """A part of a stream that is being read by this worker."""

    def __init__(
        self,
        source: StreamSource,
        decodes: Decodes,
        decoding: Any,
        states: dict[str, SourceState],
    ) -> None:
        self.states = dict(states)
        """Where the partitions go on."""
        self._reader: StreamReader = source.open(self.states)
        self._reading = Reading(decodes, decoding, decodes.clock(self.states))
        self._rows: Counter[str] = Counter()
        self._duplicates: Counter[str] = Counter()
        self._receipts: tuple[str, ...] = ()
        self._quiet_since: dict[str, float] = {}
        self._looked = 0.0
        self._all_quiet: tuple[float, int] | None = None  # since when, and the watermark then
        self._disorder_us = decodes.disorder_us or 0
        self._at_end: set[str] = set()

    def close(self) -> None:
        self._reader.close()

    def read(self, pace: Pace) -> Iterator[Any]:
        """A slice: records, and tagged dead letters."""
        self._discover()
        self._rows, self._duplicates = Counter(), Counter()
        began = time.monotonic()
        until = began + pace.slice_seconds
        moved: dict[str, int] = {}
        self._receipts = ()
        cursors: dict[str, str] = {}
        while (left := until - time.monotonic()) > 0 and not STOP.is_set():
            polled = self._reader.poll(pace.poll_rows, min(left, 0.1))
            if polled is None:
                continue
            moved.update(polled.next)
            cursors.update(polled.cursors or {})
            self._receipts += polled.receipts
            self._count(polled)
            yield from self._reading.put(polled)
            if self._rows.total() >= pace.slice_rows:
                break
            if polled.batch.num_rows >= pace.poll_rows:
                until = began + pace.drain_seconds
        yield from self._reading.drain()
        self._advance(moved, cursors, pace)

    def facts(self, before: StreamPosition, after: StreamPosition) -> Iterator[TaggedOutput]:
        """What was read in the slice, and how far."""
        for source, state in after.sources.items():
            begun = before.sources.get(source, state).next
            idle = source in self._at_end and begun == state.next
            yield TaggedOutput(
                REACHED,
                Reached(
                    source,
                    begun,
                    state.next,
                    state.newest,
                    idle,
                    state.floor,
                    state.cursor,
                    source not in before.sources,
                ),
            )
        for source, rows in (self._rows + self._duplicates).items():
            yield TaggedOutput(TALLIES, Tally(source, "read", rows))
        for source, rows in (+self._duplicates).items():
            yield TaggedOutput(TALLIES, Tally(source, "duplicate", rows))
        if self._receipts:
            yield TaggedOutput(REACHED, Unacknowledged(self._receipts))

    def _discover(self) -> None:
        if found := self._reader.discover():
            new = {s: SourceState(next=first) for s, first in found.items() if s not in self.states}
            self.states |= self._raised(new, new, self._least(self.states.values()))

    def _count(self, polled: Polled) -> None:
        self._rows.update(count_sources(polled.batch, SOURCE))
        self._duplicates.update(polled.duplicates or {})

    def _advance(self, moved: dict[str, int], cursors: dict[str, str], pace: Pace) -> None:
        now = time.monotonic()
        self._see_quiet(moved, now, pace)
        clock = self._reading.clock
        states = {}
        for source, state in self.states.items():
            newest = clock.newest(source) if clock else NEVER
            states[source] = msgspec.structs.replace(
                state,
                next=moved.get(source, state.next),
                newest=newest,
                cursor=cursors.get(source, state.cursor),
            )
        self.states = self._flowing(states, now)
        self._hold_back(pace)

    def _flowing(self, states: dict[str, SourceState], now: float) -> dict[str, SourceState]:
        """A partition that is quiet has at least the watermark of those that go on: what they close
        is closed for it too. Once all are quiet, event time goes on with the clock from where it
        stands: so the last windows close too, whenever the events were."""
        if not states or not self._at_end.issuperset(states):
            self._all_quiet = None
            going_on = [state for source, state in states.items() if source not in self._at_end]
            return self._raised(states, self._at_end, self._least(going_on))
        if self._all_quiet is None:
            mark = max(state.watermark(self._disorder_us) for state in states.values())
            self._all_quiet = now, mark
        since, mark = self._all_quiet
        if mark <= NEVER:
            return states
        return self._raised(states, states, mark + round((now - since) * 1e6))

    def _least(self, states: Iterable[SourceState]) -> int:
        """The least watermark of partitions, and so one that no window was closed beyond."""
        return min((state.watermark(self._disorder_us) for state in states), default=NEVER)

    def _raised(
        self, states: dict[str, SourceState], those: Iterable[str], floor: int
    ) -> dict[str, SourceState]:
        """States of which those have at least a watermark, by which their records are judged."""
        found = dict(states)
        for source in those:
            state = states[source]
            found[source] = msgspec.structs.replace(state, floor=max(state.floor, floor))
            if self._reading.clock is not None:
                self._reading.clock.raise_floor(source, floor)
        return found

    def _see_quiet(self, moved: dict[str, int], now: float, pace: Pace) -> None:
        """Which partitions have had nothing for a while, and have nothing more."""
        for source in self.states:
            if source in moved:
                self._quiet_since.pop(source, None)
                self._at_end.discard(source)
            else:
                self._quiet_since.setdefault(source, now)
        quiet = {s for s, since in self._quiet_since.items() if now - since >= pace.idle_seconds}
        if not quiet:
            self._at_end = set()
        elif now - self._looked >= min(1.0, pace.idle_seconds):
            self._looked = now
            self._at_end = self._reader.at_end() & quiet

    def _hold_back(self, pace: Pace) -> None:
        """Have partitions wait for those that are far behind them."""
        newest = {
            source: state.newest
            for source, state in self.states.items()
            if source not in self._at_end and state.newest > NEVER
        }
        if len(newest) < 2:
            return self._reader.hold(set())
        bound = min(newest.values()) + pace.ahead_us
        self._reader.hold({source for source, time in newest.items() if time > bound})


def _next(state: SourceState) -> int:
    return state.next


def _at(time: Timestamp, output: Any) -> Any:
    """An output, perhaps tagged, with a time stamp."""
    if isinstance(output, TaggedOutput):
        return TaggedOutput(output.tag, TimestampedValue(output.value, time))
    return TimestampedValue(output, time)


def _now(watermark: Any) -> Timestamp:
    """The time, not before the watermark: a clock may be set back."""
    now = Timestamp.of(time.time())
    current = watermark.current_watermark()
    return max(now, current) if current is not None else now
