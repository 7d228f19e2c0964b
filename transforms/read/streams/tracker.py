"""The restriction of an endless stream: where each partition of it goes on.

It is split in one way only, by ourselves: what has been read is done, and the rest goes on from
there. A runner that asks for another split (Prism halves a range that has no end) is refused.
"""

from __future__ import annotations

import msgspec
from apache_beam.coders import Coder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.transforms.core import RestrictionProvider

from ...carry import SourceState
from .source import StreamSource


class StreamPosition(msgspec.Struct, frozen=True, kw_only=True):
    """Where partitions go on, by source; ``over`` if nothing is to be read any more."""

    sources: dict[str, SourceState] = {}
    over: bool = False


class StreamPart(msgspec.Struct, frozen=True):
    """One part of a stream, read by one worker at a time, and where its partitions begin."""

    number: int
    parts: int
    sources: dict[str, SourceState]


class StreamTracker(RestrictionTracker):
    """Claims positions: what has been read up to one is given, whatever happens."""

    def __init__(self, position: StreamPosition) -> None:
        self._position = position
        self._claimed: StreamPosition | None = None

    def current_restriction(self) -> StreamPosition:
        return self._position

    def try_claim(self, position: StreamPosition) -> bool:
        self._claimed = position
        if position.over:
            self._position = position
        return True

    def try_split(
        self, fraction_of_remainder: float
    ) -> tuple[StreamPosition, StreamPosition] | None:
        if fraction_of_remainder != 0 or self._claimed is None or self._position.over:
            return None
        rest, self._position = self._claimed, StreamPosition(over=True)
        return self._position, rest

    def check_done(self) -> bool:
        if not self._position.over:
            raise ValueError("the stream goes on, and nobody was told where")
        return True

    def is_bounded(self) -> bool:
        return False

    def current_progress(self) -> RestrictionProgress:
        done = self._position.over
        return RestrictionProgress(fraction=float(done))


class PositionCoder(Coder):
    """Positions as JSON."""

    def encode(self, value: StreamPosition) -> bytes:
        return msgspec.json.encode(value)

    def decode(self, encoded: bytes) -> StreamPosition:
        return msgspec.json.decode(encoded, type=StreamPosition)

    def is_deterministic(self) -> bool:
        return True


class StreamParts(RestrictionProvider):
    """Begins each part of a stream where its partitions stand."""

    def initial_restriction(self, element: StreamPart) -> StreamPosition:
        return StreamPosition(sources=element.sources)

    def create_tracker(self, restriction: StreamPosition) -> StreamTracker:
        return StreamTracker(restriction)

    def restriction_size(self, element: StreamPart, restriction: StreamPosition) -> int:
        return 0 if restriction.over else 1

    def restriction_coder(self) -> Coder:
        return PositionCoder()


def parts_of(source: StreamSource, states: dict[str, SourceState], parts: int) -> list[StreamPart]:
    """A stream, divided for so many workers."""
    divided = []
    for number in range(parts):
        part = source.part(number, parts)
        divided.append(StreamPart(number, parts, {s: v for s, v in states.items() if part.owns(s)}))
    return divided
