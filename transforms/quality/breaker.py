"""A circuit breaker for streams: a burst of dead letters holds the source back for a while.

``closed``: the stream is read. ``open``: after a burst nothing is polled; what comes waits in the
service, and nothing is lost. ``half-open``: after a pause one poll is let through; if it is good
the breaker closes by itself, else it opens again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..carry import SourceState
from ..progress import PROGRESS
from ..read.streams.source import Polled, StreamReader, StreamSource

State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a breaker opens: at ``dead`` dead letters within so many seconds, if they are at least
    ``ratio`` of what was read in that time; and for how many seconds it stays open."""

    dead: int
    within_seconds: float
    pause_seconds: float
    ratio: float = 0.0


class Breaker:
    """The state of one.

    Args:
        clock: seconds that only grow.
        told: is told of every new state.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        told: Callable[[State], None] | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._told = told or (lambda state: None)
        self._seen: deque[tuple[float, int, int]] = deque()  # when, records, dead letters
        self._opened_at = 0.0
        self.state: State = "closed"

    def lets_through(self) -> bool:
        """Whether to poll now."""
        if self.state == "open" and self.seconds_left <= 0:
            self._seen.clear()
            self._become("half-open")
        return self.state != "open"

    @property
    def seconds_left(self) -> float:
        """How long it stays open."""
        if self.state != "open":
            return 0.0
        return self._opened_at + self._settings.pause_seconds - self._clock()

    def saw(self, records: int, dead: int) -> None:
        """Take note of what was polled: so many records, of which so many became dead letters."""
        now = self._clock()
        if records or dead:
            self._seen.append((now, records, dead))
        while self._seen and self._seen[0][0] <= now - self._settings.within_seconds:
            self._seen.popleft()
        if self.state == "open":
            return
        if self._is_burst():
            self._opened_at = now
            self._become("open")
        elif self.state == "half-open" and records:
            self._become("closed")

    def _is_burst(self) -> bool:
        records = sum(count for _, count, _ in self._seen)
        dead = sum(count for _, _, count in self._seen)
        # On trial a share of a burst is enough: few records have come.
        enough = self._settings.dead if self.state == "closed" else 1
        needed = max(self._settings.ratio, 0.0 if self.state == "closed" else _ON_TRIAL)
        return dead >= enough and dead >= needed * records

    def _become(self, state: State) -> None:
        self.state = state
        self._told(state)


_ON_TRIAL = 0.1
"""The part of a poll on trial that may be dead letters, where the settings name no larger one."""


@dataclass(frozen=True)
class GuardedSource(StreamSource):
    """A stream that is not polled while a breaker is open. Picklable, if the stream is."""

    source: StreamSource
    settings: BreakerSettings

    def open(self, states: Mapping[str, SourceState]) -> StreamReader:
        return GuardedReader(self.source.open(states), Breaker(self.settings, told=_say))

    def part(self, number: int, parts: int) -> StreamSource:
        return GuardedSource(self.source.part(number, parts), self.settings)

    def owns(self, source: str) -> bool:
        return self.source.owns(source)

    def committed(self, states: Mapping[str, SourceState]) -> None:
        self.source.committed(states)

    def remember(
        self, before: Mapping[str, SourceState], receipts: Sequence[str]
    ) -> Mapping[str, str]:
        return self.source.remember(before, receipts)

    def acknowledge(self, receipts: Sequence[str]) -> None:
        self.source.acknowledge(receipts)


class GuardedReader(StreamReader):
    """A reader that a breaker holds back.

    How many dead letters its records became it learns from this process's progress.
    """

    def __init__(
        self,
        reader: StreamReader,
        breaker: Breaker,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reader = reader
        self._breaker = breaker
        self._sleep = sleep
        self._polled = 0
        self._dead = PROGRESS.dead

    def poll(self, rows: int, seconds: float) -> Polled | None:
        self._breaker.saw(self._polled, PROGRESS.dead - self._dead)
        self._polled, self._dead = 0, PROGRESS.dead
        if not self._breaker.lets_through():
            self._sleep(max(0.0, min(seconds, self._breaker.seconds_left)))
            return None
        polled = self._reader.poll(rows, seconds)
        self._polled = polled.batch.num_rows if polled else 0
        return polled

    def until(self, ends: Mapping[str, int]) -> Iterator[Polled]:
        return self._reader.until(ends)

    def at_end(self) -> set[str]:
        return self._reader.at_end()

    def hold(self, sources: set[str]) -> None:
        self._reader.hold(sources)

    def discover(self) -> dict[str, int]:
        return self._reader.discover()

    def close(self) -> None:
        self._reader.close()


def _say(state: State) -> None:
    import logging

    said = {
        "open": "a burst of dead letters: the stream is held back for a while",
        "half-open": "the stream is tried again after a burst of dead letters",
        "closed": "the stream is read again",
    }
    logging.getLogger(__name__).warning("%s", said[state])
