"""Slices of a stream, as they are read: how far each goes, and what its records are judged by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from apache_beam.pvalue import TaggedOutput
from millstream.schemas.arrow import PAYLOADS, SOURCE
from millstream.schemas.watermarks import NEVER
from millstream.transforms.carry import Carry, Reached, SourceState, Stopped, advanced
from millstream.transforms.read.streams import unbounded
from millstream.transforms.read.streams.reading import Decodes
from millstream.transforms.read.streams.source import Polled, StreamReader, StreamSource
from millstream.transforms.read.streams.tracker import StreamPart, StreamPosition
from millstream.transforms.read.streams.unbounded import REACHED, Pace, ReadStreamFn

from tests.transforms.slices_support import CONTRACT, ORIGIN, SECOND, Clock


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(unbounded, "time", made)
    return made


class Script(StreamSource):
    """A stream of which a test says what comes when."""

    def __init__(self) -> None:
        self.polls: list[dict[str, list[int]]] = []
        """Event times in seconds, by source, of each poll to come."""
        self.new: dict[str, int] = {}
        self.opened: list[dict[str, SourceState]] = []
        self.held: set[str] = set()
        self.ended: set[str] | None = None

    def open(self, states: Mapping[str, SourceState]) -> StreamReader:
        self.opened.append(dict(states))
        return _ScriptReader(self, states)

    def part(self, number: int, parts: int) -> StreamSource:
        return self

    def owns(self, source: str) -> bool:
        return True


class _ScriptReader(StreamReader):
    def __init__(self, script: Script, states: Mapping[str, SourceState]) -> None:
        self.script = script
        self.next = {source: state.next for source, state in states.items()}

    def close(self) -> None:
        return

    def poll(self, rows: int, seconds: float) -> Polled | None:
        unbounded.time.now += seconds  # pyright: ignore[reportAttributeAccessIssue]
        if not self.script.polls:
            return None
        batches = []
        for source, times in self.script.polls.pop(0).items():
            lines = [b'{"ts":"1970-01-01T00:%02d:%02dZ"}' % divmod(time, 60) for time in times]
            start = self.next[source]
            self.next[source] += len(times)
            indices = pa.array([0] * len(times), pa.int32())
            sources = pa.DictionaryArray.from_arrays(indices, pa.array([source]))
            positions = pa.array(range(start, self.next[source]), pa.int64())
            columns = [sources, positions, pa.array(lines, pa.binary())]
            batches.append(pa.RecordBatch.from_arrays(columns, schema=PAYLOADS))
        table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
        moved = {source: self.next[source] for b in batches for source in sources_of(b)}
        return Polled(table.to_batches()[0], moved)

    def until(self, ends: Mapping[str, int]) -> Iterator[Polled]:
        raise NotImplementedError

    def at_end(self) -> set[str]:
        return set(self.next) if self.script.ended is None else self.script.ended

    def hold(self, sources: set[str]) -> None:
        self.script.held = sources

    def discover(self) -> dict[str, int]:
        found, self.script.new = self.script.new, {}
        self.next |= found
        return found


def sources_of(batch: pa.RecordBatch) -> list[str]:
    return batch.column(SOURCE).dictionary.to_pylist()


class Live:
    """A stream that is read slice by slice, with what each says."""

    def __init__(self, script: Script, states: dict[str, SourceState], pace: Pace) -> None:
        self.script = script
        self.fn = ReadStreamFn(script, Decodes(CONTRACT, ORIGIN, disorder_us=0), pace)
        self.fn.setup()
        self.position = StreamPosition(sources=states)
        self.carry = Carry()

    def current_restriction(self) -> StreamPosition:
        return self.position

    def try_claim(self, position: StreamPosition) -> bool:
        self.claimed = position
        return True

    def defer_remainder(self) -> None:
        self.position = self.claimed

    def current_watermark(self) -> None:
        return None

    def set_watermark(self, at: Any) -> None:
        return

    def slice(self, *polls: dict[str, list[int]]) -> tuple[list[pa.RecordBatch], list[Reached]]:
        """Records of the next slice, in which these polls come; and how far it says to be."""
        self.script.polls = list(polls)
        part = StreamPart(0, 1, {})
        records, reached = [], []
        for output in self.fn.process(part, self, self):
            value = output.value
            if not isinstance(output, TaggedOutput):
                records.append(value)
            elif output.tag == REACHED:
                reached.append(value.value)
        return records, reached

    def watermark(self, reached: list[Reached]) -> int:
        """What a commit of all slices so far makes of it."""
        sources, watermark = advanced(self.carry, reached, 0)
        self.carry = msgspec.structs.replace(self.carry, sources=sources, watermark=watermark)
        return watermark // SECOND if watermark > NEVER else NEVER


PACE = Pace(slice_seconds=1.0, idle_seconds=3.0)


def live(*sources: str, pace: Pace = PACE) -> Live:
    return Live(Script(), {source: SourceState() for source in sources}, pace)


def marks(records: list[pa.RecordBatch]) -> list[int]:
    found = [mark for b in records for mark in b.column("_watermark").view(pa.int64()).to_pylist()]
    return [mark // SECOND if mark > NEVER else NEVER for mark in found]


def test_a_slice_tells_where_each_partition_began_and_ended(clock):
    stream = live("a", "b")
    _, reached = stream.slice({"a": [1, 2]}, {"a": [3]})
    assert [(r.source, r.start, r.end) for r in reached] == [("a", 0, 3), ("b", 0, 0)]
    _, reached = stream.slice({"b": [5]})
    assert [(r.source, r.start, r.end) for r in reached] == [("a", 3, 3), ("b", 0, 1)]
    assert len(stream.script.opened) == 1, "the reader stays open from slice to slice"


def test_another_worker_goes_on_from_the_position(clock):
    stream = live("a")
    stream.slice({"a": [1, 9]})
    stream.fn = ReadStreamFn(stream.script, Decodes(CONTRACT, ORIGIN, disorder_us=0), PACE)
    stream.fn.setup()
    records, reached = stream.slice({"a": [4]})
    assert marks(records) == [9]
    assert (reached[0].start, reached[0].end) == (2, 3)
    assert stream.script.opened[1]["a"].next == 2


def test_a_worker_that_is_given_an_older_position_opens_anew(clock):
    stream = live("a")
    before = stream.position
    first, _ = stream.slice({"a": [1, 9]})
    stream.position = before
    again, _ = stream.slice({"a": [1, 9]})
    assert first == again


def test_what_is_stopped_is_over(clock):
    stream = live("a")
    unbounded.STOP.set()
    try:
        _, facts = stream.slice({"a": [1]})
    finally:
        unbounded.STOP.clear()
    assert stream.claimed.over
    assert [type(fact) for fact in facts] == [Reached, Stopped]


def test_a_partition_that_is_idle_holds_nothing_back_and_is_judged_by_what_was_closed(clock):
    stream = live("a", "b")
    _, reached = stream.slice({"a": [10], "b": [7]})
    assert stream.watermark(reached) == 7
    stream.script.ended = {"b"}
    for time in range(11, 20):
        _, reached = stream.slice({"a": [time]})
        watermark = stream.watermark(reached)
    assert watermark == 19
    records, reached = stream.slice({"b": [8]})
    assert marks(records) == [19], "its window may have been closed meanwhile"
    assert stream.watermark(reached) == 19
    records, _ = stream.slice({"b": [30]}, {"b": [31]})
    assert marks(records) == [19, 30]


def test_a_partition_of_a_service_that_hangs_is_not_idle(clock):
    stream = live("a", "b")
    stream.script.ended = set()
    stream.slice({"a": [10], "b": [7]})
    for time in range(11, 20):
        _, reached = stream.slice({"a": [time]})
    assert stream.watermark(reached) == 7


def test_once_all_are_quiet_time_goes_on(clock):
    stream = live("a", "b")
    stream.slice({"a": [10], "b": [7]})
    found = []
    for _ in range(9):
        _, reached = stream.slice()
        found.append(stream.watermark(reached))
    assert found == sorted(found)
    assert found[0] == 7
    assert found[-1] > 12
    records, _ = stream.slice({"b": [9]})
    assert marks(records) == [found[-1]]


def test_a_partition_that_is_added_is_judged_by_what_was_closed(clock):
    stream = live("a")
    _, reached = stream.slice({"a": [10, 20]})
    assert stream.watermark(reached) == 20
    stream.script.new = {"b": 5}
    records, reached = stream.slice({"b": [3]})
    assert marks(records) == [20]
    assert ("b", 5, 6) in [(r.source, r.start, r.end) for r in reached]
    assert stream.watermark(reached) == 20


def test_partitions_that_run_ahead_wait(clock):
    stream = live("a", "b", pace=Pace(slice_seconds=1.0, ahead_us=100 * SECOND))
    stream.slice({"a": [200], "b": [50]})
    assert stream.script.held == {"a"}
    stream.slice({"b": [120]})
    assert stream.script.held == set()


def test_a_slice_ends_when_it_holds_enough(clock):
    stream = live("a", pace=Pace(slice_seconds=1e9, slice_rows=5))
    _, reached = stream.slice({"a": [1, 2, 3]}, {"a": [4, 5, 6]}, {"a": [7]})
    assert (reached[0].start, reached[0].end) == (0, 6)
    assert stream.script.polls == [{"a": [7]}]


def test_what_is_committed_is_not_read_again_after_going_back_to_a_checkpoint(clock):
    stream = live("a", "b")
    before = stream.position
    stream.slice({"a": [1, 9]}, {"b": [3]})
    committed = Carry(sources=stream.position.sources)
    decodes = Decodes(CONTRACT, ORIGIN, disorder_us=0)
    stream.fn = ReadStreamFn(stream.script, decodes, PACE, lambda: committed)
    stream.fn.setup()
    stream.position = before
    records, reached = stream.slice({"a": [4]})
    assert [(r.source, r.start, r.end) for r in reached] == [("a", 2, 3), ("b", 1, 1)]
    assert marks(records) == [9]
