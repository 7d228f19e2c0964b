"""What one commit hands on: watermarks that never fall, and partitions that hold nothing back."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.watermarks import NEVER
from millstream.transforms.carry import Carry, Reached, SourceState, advanced, raised

NAMES = ["a", "b", "c"]
TIMES = st.integers(-1000, 1000) | st.just(NEVER)
DISORDER = st.integers(0, 50)


@st.composite
def commits(draw) -> list[list[Reached]]:
    """What some commits read, each of every partition that is known by then."""
    at = dict.fromkeys(draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)), 0)
    found = []
    for _ in range(draw(st.integers(1, 6))):
        for name in draw(st.lists(st.sampled_from(NAMES), max_size=1)):
            at.setdefault(name, 0)
        facts = []
        for name, start in at.items():
            rows = draw(st.integers(0, 3))
            newest = draw(TIMES) if rows else NEVER
            facts.append(Reached(name, start, start + rows, newest, idle=not rows))
            at[name] = start + rows
        found.append(facts)
    return found


def after(carry: Carry, facts: list[Reached], disorder: int) -> Carry:
    sources, watermark = advanced(carry, facts, disorder)
    return msgspec.structs.replace(carry, sources=sources, watermark=watermark)


@given(runs=commits(), disorder=DISORDER)
def test_nothing_ever_goes_back(runs, disorder):
    carry = Carry()
    for facts in runs:
        next_carry = after(carry, facts, disorder)
        assert next_carry.watermark >= carry.watermark
        for name, state in carry.sources.items():
            later = next_carry.sources[name]
            assert (later.next, later.newest, later.floor) >= (
                state.next,
                state.newest,
                state.floor,
            )
            assert later.watermark(disorder) >= state.watermark(disorder)
        carry = next_carry


@given(runs=commits(), disorder=DISORDER, data=st.data())
def test_the_order_in_which_partitions_are_told_does_not_matter(runs, disorder, data):
    one, other = Carry(), Carry()
    for facts in runs:
        one = after(one, facts, disorder)
        other = after(other, data.draw(st.permutations(facts)), disorder)
        assert one == other


@given(runs=commits(), disorder=DISORDER)
def test_the_watermark_is_the_least_of_the_partitions_that_go_on(runs, disorder):
    carry = Carry()
    for facts in runs:
        next_carry = after(carry, facts, disorder)
        going_on = [fact.source for fact in facts if not fact.idle]
        marks = [next_carry.sources[name].watermark(disorder) for name in going_on]
        if marks:
            assert next_carry.watermark == max(carry.watermark, min(marks))
        carry = next_carry


@given(runs=commits(), disorder=DISORDER)
def test_no_partition_has_less_than_what_has_been_closed_unless_it_holds_it_back(runs, disorder):
    """So that what an idle one brings later is judged by what was closed meanwhile."""
    carry = Carry()
    for facts in runs:
        carry = after(carry, facts, disorder)
        for fact in facts:
            if fact.idle:
                assert carry.sources[fact.source].watermark(disorder) >= carry.watermark


def test_an_idle_partition_holds_nothing_back():
    carry = Carry()
    carry = after(carry, [Reached("a", 0, 5, 100), Reached("b", 0, 5, 20)], 10)
    assert carry.watermark == 10
    carry = after(carry, [Reached("a", 5, 9, 200), Reached("b", 5, 5, NEVER, idle=True)], 10)
    assert carry.watermark == 190
    assert carry.sources["b"] == SourceState(next=5, newest=20, floor=190)


def test_once_all_are_idle_time_has_come_as_far_as_anywhere():
    carry = after(Carry(), [Reached("a", 0, 5, 100), Reached("b", 0, 5, 20)], 10)
    idle = [Reached("a", 5, 5, NEVER, idle=True), Reached("b", 5, 5, NEVER, idle=True)]
    assert after(carry, idle, 10).watermark == 90


def test_an_idle_partition_that_was_told_a_watermark_is_counted_by_it():
    """Whoever reads it judges its records by that watermark alone."""
    idle = Reached("b", 0, 0, NEVER, idle=True, floor=70)
    carry = after(Carry(), [Reached("a", 0, 5, 100), idle], 10)
    assert carry.watermark == 70
    assert carry.sources["b"].watermark(10) == 70


def test_without_partitions_nothing_moves():
    carry = Carry(watermark=7)
    assert advanced(carry, [], 0) == ({}, 7)


def test_a_cursor_stays_until_there_is_another():
    carry = after(Carry(), [Reached("a", 0, 5, cursor="x")], 0)
    carry = after(carry, [Reached("a", 5, 5, idle=True)], 0)
    assert carry.sources["a"].cursor == "x"
    assert after(carry, [Reached("a", 5, 6, cursor="y")], 0).sources["a"].cursor == "y"


@given(floors=st.dictionaries(st.sampled_from(NAMES), TIMES), watermark=TIMES)
def test_raised_sources_have_at_least_the_watermark(floors, watermark):
    states = {name: SourceState(floor=floor) for name, floor in floors.items()}
    found = raised(states, watermark)
    assert {name: state.floor for name, state in found.items()} == {
        name: max(floor, watermark) for name, floor in floors.items()
    }
