"""The restriction of an endless stream: split by its own reading, and by nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.transforms.carry import SourceState
from millstream.transforms.read.streams.source import StreamSource
from millstream.transforms.read.streams.tracker import (
    PositionCoder,
    StreamPart,
    StreamParts,
    StreamPosition,
    StreamTracker,
    parts_of,
)

FRACTIONS = st.floats(0, 1, exclude_min=True)
STATES = st.builds(
    SourceState,
    next=st.integers(0, 1 << 62),
    newest=st.integers(-(1 << 62), 1 << 62),
    floor=st.integers(-(1 << 62), 1 << 62),
    cursor=st.text(),
)
POSITIONS = st.builds(
    StreamPosition, sources=st.dictionaries(st.text(), STATES, max_size=4), over=st.booleans()
)


def at(n: int) -> StreamPosition:
    return StreamPosition(sources={"a": SourceState(next=n)})


OVER = StreamPosition(sources={"a": SourceState(next=9)}, over=True)


@given(fraction=FRACTIONS)
def test_a_split_that_another_asks_for_is_refused(fraction):
    tracker = StreamTracker(at(0))
    assert tracker.try_split(fraction) is None
    assert tracker.try_claim(at(5))
    assert tracker.try_split(fraction) is None
    assert tracker.current_restriction() == at(0)


def test_its_own_split_goes_on_from_what_was_claimed():
    tracker = StreamTracker(at(0))
    assert tracker.try_claim(at(3))
    assert tracker.try_claim(at(5))
    split = tracker.try_split(0)
    assert split is not None
    done, rest = split
    assert rest == at(5)
    assert done.over
    assert tracker.current_restriction() == done
    assert tracker.check_done()


def test_what_is_done_is_not_split_again():
    tracker = StreamTracker(at(0))
    tracker.try_claim(at(5))
    assert tracker.try_split(0) is not None
    assert tracker.try_split(0) is None


def test_before_anything_is_claimed_there_is_nothing_to_split():
    assert StreamTracker(at(0)).try_split(0) is None


def test_a_stream_that_is_over_is_done():
    tracker = StreamTracker(at(0))
    assert tracker.try_claim(OVER)
    assert tracker.check_done()
    assert tracker.try_split(0) is None
    assert tracker.current_restriction() == OVER


def test_a_stream_that_goes_on_and_was_not_deferred_is_told():
    tracker = StreamTracker(at(0))
    with pytest.raises(ValueError, match="the stream goes on"):
        tracker.check_done()
    tracker.try_claim(at(5))
    with pytest.raises(ValueError, match="the stream goes on"):
        tracker.check_done()


def test_it_has_no_end_and_says_so():
    tracker = StreamTracker(at(0))
    assert not tracker.is_bounded()
    assert tracker.current_progress().remaining_work == 1
    tracker.try_claim(OVER)
    assert tracker.current_progress().remaining_work == 0


@given(position=POSITIONS)
def test_positions_are_stored_whole(position):
    coder = PositionCoder()
    encoded = coder.encode(position)
    assert coder.decode(encoded) == position
    assert coder.encode(coder.decode(encoded)) == encoded
    assert coder.is_deterministic()


def test_a_part_begins_where_its_partitions_stand():
    provider = StreamParts()
    part = StreamPart(0, 2, {"a": SourceState(next=7)})
    restriction = provider.initial_restriction(part)
    assert restriction == at(7)
    assert provider.create_tracker(restriction).current_restriction() == restriction
    assert provider.restriction_size(part, restriction) == 1
    assert provider.restriction_size(part, OVER) == 0
    assert isinstance(provider.restriction_coder(), PositionCoder)


class _Odd(StreamSource):
    """A source of which a part has the partitions that leave its number."""

    def __init__(self, number: int = 0, parts: int = 1) -> None:
        self._number, self._parts = number, parts

    def open(self, states):
        raise NotImplementedError

    def part(self, number: int, parts: int) -> StreamSource:
        return _Odd(number, parts)

    def owns(self, source: str) -> bool:
        return int(source) % self._parts == self._number


@given(names=st.sets(st.integers(0, 30)), parts=st.integers(1, 6))
def test_every_partition_is_in_one_part(names, parts):
    states = {str(name): SourceState(next=name) for name in names}
    divided = parts_of(_Odd(), states, parts)
    assert [(part.number, part.parts) for part in divided] == [(n, parts) for n in range(parts)]
    together = [item for part in divided for item in part.sources.items()]
    assert sorted(together, key=str) == sorted(states.items(), key=str)
