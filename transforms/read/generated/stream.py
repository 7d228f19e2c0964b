"""Made-up records as a stream, paced by the clock: its partitions take turns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from ....schemas.arrow import PAYLOADS
from ....schemas.contract import Contract
from ...carry import SourceState
from ..errors import SourceError
from ..streams.source import Polled, StreamReader, StreamSource
from .inputs import GeneratedInput
from .samples import GeneratedLines

ROWS = 50_000
"""Records of a batch at most."""


@dataclass(frozen=True)
class GeneratedStream(StreamSource):
    """Records of a contract, or the part of them whose partitions leave ``number`` when divided by
    ``parts``.

    The ``cursor`` of each partition's state is when the stream began, in microseconds since
    1970-01-01 UTC.
    """

    input: GeneratedInput
    contract: Contract
    number: int = 0
    parts: int = 1

    def open(self, states: Mapping[str, SourceState]) -> StreamReader:
        return _Reader(self, states)

    def part(self, number: int, parts: int) -> StreamSource:
        return replace(self, number=number, parts=parts)

    def owns(self, source: str) -> bool:
        return partition_of(source) % self.parts == self.number


def partition_of(source: str) -> int:
    """The partition that is called so."""
    return int(source.rpartition(":")[2])


def began_us(states: Mapping[str, SourceState]) -> int | None:
    """When a stream began, as its partitions know it; ``None`` if it has not."""
    return next((int(state.cursor) for state in states.values() if state.cursor), None)


def now_us() -> int:
    """The time, in microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


class _Reader(StreamReader):
    def __init__(self, stream: GeneratedStream, states: Mapping[str, SourceState]) -> None:
        began = began_us(states)
        if states and began is None:
            raise SourceError("it is not known when the stream of generated records began")
        self._input = stream.input
        self._began = began or 0
        self._lines = GeneratedLines(stream.contract, stream.input, self._began)
        self._next = {partition_of(source): state.next for source, state in states.items()}
        self._held: set[int] = set()

    def close(self) -> None:
        return

    def poll(self, rows: int, seconds: float) -> Polled | None:
        due = self._due()
        if (missing := rows - sum(due.values())) > 0:
            wait = missing / self._input.rate if self._input.rate else seconds
            time.sleep(min(wait, seconds))
            due = self._due()
        return self._take(due, rows)

    def until(self, ends: Mapping[str, int]) -> Iterator[Polled]:
        ends_of = {partition_of(source): end for source, end in ends.items()}
        while True:
            left = {p: end - self._next[p] for p, end in ends_of.items() if end > self._next[p]}
            polled = self._take(left, ROWS)
            if polled is None:
                return
            yield polled

    def at_end(self) -> set[str]:
        due = self._due(held=True)
        return {self._input.source_name(p) for p in self._next if p not in due}

    def hold(self, sources: set[str]) -> None:
        self._held = set(map(partition_of, sources))

    def discover(self) -> dict[str, int]:
        return {}

    def _due(self, *, held: bool = False) -> dict[int, int]:
        """How many records there are now, of each partition that has some."""
        due = self._input.due(self._began, now_us())
        found = {
            partition: self._input.due_of(partition, due) - at
            for partition, at in self._next.items()
            if held or partition not in self._held
        }
        return {partition: rows for partition, rows in found.items() if rows > 0}

    def _take(self, due: Mapping[int, int], rows: int) -> Polled | None:
        """The next records of partitions, of each as many."""
        if not due:
            return None
        share = -(-rows // len(due))
        spans = {p: (self._next[p], self._next[p] + min(n, share)) for p, n in due.items()}
        names = [self._input.source_name(partition) for partition in spans]
        sizes = [stop - start for start, stop in spans.values()]
        indices = np.repeat(np.arange(len(names), dtype=np.int32), sizes)
        columns = [
            pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string())),
            pa.array(np.concatenate([np.arange(*span) for span in spans.values()]), pa.int64()),
            pa.concat_arrays([self._lines.lines(p, *span) for p, span in spans.items()]),
        ]
        self._next.update({partition: stop for partition, (_, stop) in spans.items()})
        batch = pa.RecordBatch.from_arrays(columns, schema=PAYLOADS)
        return Polled(
            batch, {name: stop for name, (_, stop) in zip(names, spans.values(), strict=True)}
        )
