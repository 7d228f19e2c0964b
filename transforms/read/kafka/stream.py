"""A topic as a stream of batches: its partitions are sources, its offsets are positions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pyarrow as pa

from ....schemas.arrow import PAYLOADS
from ...carry import SourceState
from ...errors import Unavailable
from ..streams.source import Polled, StreamReader, StreamSource
from .bounds import Topic
from .carried import KafkaCarried
from .inputs import KafkaInput, source_name
from .polled import Polled as PolledPartition
from .publisher import Publisher
from .reader import KafkaReader

ROWS = 50_000
"""Messages of a batch at most."""
DISCOVER_SECONDS = 10.0
"""How often it is asked whether partitions have been added."""


@dataclass(frozen=True)
class KafkaStream(StreamSource):
    """A topic, or the part of it whose partitions leave ``number`` when divided by ``parts``.

    ``topic_id`` is what the topic has to be, if anything.
    """

    input: KafkaInput
    topic_id: str = ""
    number: int = 0
    parts: int = 1

    def open(self, states: Mapping[str, SourceState]) -> StreamReader:
        return _Reader(self, states)

    def part(self, number: int, parts: int) -> StreamSource:
        return replace(self, number=number, parts=parts)

    def owns(self, source: str) -> bool:
        return self.partition(source) % self.parts == self.number

    def committed(self, states: Mapping[str, SourceState]) -> None:
        if self.input.group:
            at = {self.partition(source): state.next for source, state in states.items()}
            _publisher(self.input).publish(at)

    def partition(self, source: str) -> int:
        """The partition that is called so."""
        return int(source.rpartition("/")[2])

    def name(self, partition: int) -> str:
        """What a partition is called."""
        return source_name(self.input.topic, partition)


@cache
def _publisher(input: KafkaInput) -> Publisher:
    """One for all commits of a process."""
    return Publisher(input, Topic(input))


class _Reader(StreamReader):
    def __init__(self, stream: KafkaStream, states: Mapping[str, SourceState]) -> None:
        self._stream = stream
        at = {stream.partition(source): state.next for source, state in states.items()}
        self._reader = KafkaReader(stream.input, at, stream.topic_id)
        self._known = set(at)
        self._held: set[int] = set()
        self._discovered = time.monotonic()

    def close(self) -> None:
        self._reader.close()

    def poll(self, rows: int, seconds: float) -> Polled | None:
        found = self._reader.poll(rows, seconds)
        return self._together(found) if found else None

    def until(self, ends: Mapping[str, int]) -> Iterator[Polled]:
        by_partition = {self._stream.partition(source): end for source, end in ends.items()}
        waiting: list[PolledPartition] = []
        for some in self._reader.bounded(by_partition, ROWS):
            waiting.append(some)
            if sum(found.rows for found in waiting) >= ROWS // 2:
                yield self._together(waiting)
                waiting = []
        if waiting:
            yield self._together(waiting)

    def at_end(self) -> set[str]:
        return set(map(self._stream.name, self._reader.caught_up()))

    def hold(self, sources: set[str]) -> None:
        wanted = {self._stream.partition(source) for source in sources}
        if resumed := self._held - wanted:
            self._reader.resume(resumed)
        if paused := wanted - self._held:
            self._reader.pause(paused)
        self._held = wanted

    def discover(self) -> dict[str, int]:
        if time.monotonic() - self._discovered < DISCOVER_SECONDS:
            return {}
        self._discovered = time.monotonic()
        try:
            state = self._reader.state()
        except Unavailable:
            return {}  # reading will tell, if it lasts
        new = {
            partition: low
            for partition, (low, _) in state.partitions.items()
            if partition not in self._known and self._stream.owns(self._stream.name(partition))
        }
        self._reader.add(new)
        self._known.update(new)
        return {self._stream.name(partition): low for partition, low in new.items()}

    def _together(self, found: Sequence[PolledPartition]) -> Polled:
        """Messages of several partitions as one batch."""
        names = [self._stream.name(some.partition) for some in found]
        distinct = list(dict.fromkeys(names))
        numbers = {name: i for i, name in enumerate(distinct)}
        rows = [some.rows for some in found]
        indices = np.repeat(np.array([numbers[n] for n in names], np.int32), rows)
        sources = pa.DictionaryArray.from_arrays(indices, pa.array(distinct, pa.string()))
        columns = [
            sources,
            pa.concat_arrays([some.offsets for some in found]),
            pa.concat_arrays([some.payloads for some in found]),
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=PAYLOADS)
        return Polled(
            batch,
            {name: some.next for name, some in zip(names, found, strict=True)},
            carried=KafkaCarried(list(zip(names, found, strict=True))),
        )
