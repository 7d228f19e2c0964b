"""The circuit breaker of streams: when it opens, what it holds back, and how it closes."""

from __future__ import annotations

import pickle
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow import PAYLOADS
from millstream.transforms.progress import PROGRESS
from millstream.transforms.quality.breaker import (
    Breaker,
    BreakerSettings,
    GuardedReader,
    GuardedSource,
)
from millstream.transforms.read.streams.source import Polled

SETTINGS = BreakerSettings(dead=10, within_seconds=5, pause_seconds=30)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def breaker(clock: Clock, settings: BreakerSettings = SETTINGS) -> tuple[Breaker, list[str]]:
    states: list[str] = []
    return Breaker(settings, clock=clock, told=states.append), states


def test_a_burst_opens_it_and_a_good_trial_closes_it(clock):
    found, states = breaker(clock)
    found.saw(100, 9)
    assert found.lets_through()
    clock.now += 4
    found.saw(100, 1)
    assert (found.state, found.lets_through(), found.seconds_left) == ("open", False, 30)
    clock.now += 29
    assert not found.lets_through()
    clock.now += 1
    assert found.lets_through()
    found.saw(100, 0)
    assert states == ["open", "half-open", "closed"]


def test_dead_letters_that_are_far_apart_are_no_burst(clock):
    found, states = breaker(clock)
    for _ in range(20):
        found.saw(100, 9)
        clock.now += 5
    assert states == []


def test_a_bad_trial_opens_it_again_for_the_whole_pause(clock):
    found, states = breaker(clock)
    found.saw(10, 10)
    clock.now += 31
    assert found.lets_through()
    found.saw(10, 2)
    assert states == ["open", "half-open", "open"]
    assert found.seconds_left == 30


def test_a_trial_without_records_decides_nothing(clock):
    found, _ = breaker(clock)
    found.saw(10, 10)
    clock.now += 31
    assert found.lets_through()
    found.saw(0, 0)
    assert (found.state, found.lets_through()) == ("half-open", True)


def test_many_dead_letters_among_very_many_records_are_no_burst_by_ratio(clock):
    found, _ = breaker(clock, BreakerSettings(10, 5, 30, ratio=0.5))
    found.saw(1000, 100)
    assert found.state == "closed"
    found.saw(0, 500)
    assert found.state == "open"


def polled(rows: int, at: int = 0) -> Polled:
    payloads = [{"_source": "s", "_position": at + i, "_payload": b""} for i in range(rows)]
    return Polled(pa.RecordBatch.from_pylist(payloads, PAYLOADS), {"s": at + rows})


class Stream:
    """A stream in memory, with so many records."""

    def __init__(self, records: int) -> None:
        self.records = records
        self.at = 0
        self.told: list[Any] = []

    def open(self, states: Any) -> Stream:
        return self

    def part(self, number: int, parts: int) -> Stream:
        return self

    def owns(self, source: str) -> bool:
        return source == "s"

    def committed(self, states: Any) -> None:
        self.told.append(states)

    def remember(self, before: Any, receipts: Any) -> Any:
        return {"s": "cursor"}

    def acknowledge(self, receipts: Any) -> None:
        self.told.append(receipts)

    def poll(self, rows: int, seconds: float) -> Polled | None:
        count = min(rows, self.records - self.at)
        found = polled(count, self.at)
        self.at += count
        return found if count else None

    def until(self, ends: Any) -> Any:
        return iter([polled(1)])

    def at_end(self) -> set[str]:
        return {"s"} if self.at == self.records else set()

    def hold(self, sources: set[str]) -> None:
        self.told.append(sources)

    def discover(self) -> dict[str, int]:
        return {"t": 3}

    def close(self) -> None:
        self.told.append("closed")


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_whatever_is_dead_every_record_is_read_once_and_in_order(dead: list[int]):
    clock, stream = Clock(), Stream(200)
    reader = GuardedReader(stream, Breaker(SETTINGS, clock=clock), sleep=lambda seconds: None)  # type: ignore
    seen: list[int] = []
    for i in range(2000):
        found = reader.poll(20, 0.1)
        if found is not None:
            seen += found.batch["_position"].to_pylist()
            PROGRESS.dead += dead[i % len(dead)]
        clock.now += 1
        if len(seen) == 200:
            break
    assert seen == list(range(200))


def test_nothing_is_polled_while_it_is_open_and_it_waits_no_longer_than_it_may():
    clock, stream, slept = Clock(), Stream(100), []
    reader = GuardedReader(stream, Breaker(SETTINGS, clock=clock), sleep=slept.append)  # type: ignore
    assert reader.poll(20, 0.1) is not None
    PROGRESS.dead += 10
    assert reader.poll(20, 0.1) is None
    clock.now += 29.95
    assert reader.poll(20, 0.1) is None
    assert (stream.at, slept) == (20, [0.1, pytest.approx(0.05)])
    assert reader.at_end() == set()  # what waits in the service is not at its end
    clock.now += 1
    assert reader.poll(20, 0.1) is not None


def test_everything_else_is_the_streams_own():
    stream = Stream(5)
    source = GuardedSource(stream, SETTINGS)  # type: ignore[arg-type]
    assert source.owns("s")
    assert not source.owns("t")
    part = source.part(0, 2)
    assert isinstance(part, GuardedSource)
    assert part.settings == SETTINGS
    source.committed({})
    assert source.remember({}, ()) == {"s": "cursor"}
    source.acknowledge(("r",))
    with source.open({}) as reader:
        assert reader.discover() == {"t": 3}
        reader.hold({"s"})
        assert [p.next for p in reader.until({"s": 1})] == [{"s": 1}]
    assert stream.told == [{}, ("r",), {"s"}, "closed"]


def test_it_travels_to_workers():
    source = GuardedSource(Stream(1), SETTINGS)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(source)).settings == SETTINGS
