"""Laws of reading topics that need no broker: a consumer that is played gives what one could."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.transforms.read.errors import SourceError, Unavailable
from millstream.transforms.read.kafka.inputs import KafkaInput

pytest.importorskip("confluent_kafka", reason="pip install -e '.[dev]'")

from confluent_kafka import KafkaError, Message
from millstream.transforms.read.kafka import reader as reading
from millstream.transforms.read.kafka.polled import Polled, as_columns, by_partition
from millstream.transforms.read.kafka.reader import KafkaReader
from read_kafka_support import offsets

INPUT = KafkaInput("nowhere:9", "t")
Log = list[bool]
"""A partition: at each offset a message, or something that no reader is given (a marker, a message
that compaction or an abortion took away)."""

logs = st.lists(st.lists(st.booleans(), max_size=30), min_size=1, max_size=4)


def message(partition: int, offset: int) -> Message:
    value = None if offset % 7 == 3 else b"%d/%d" % (partition, offset)
    return Message(
        topic="t", partition=partition, offset=offset, key=b"k%d" % offset, value=value,
        timestamp=(offset % 2, offset * 10), headers=[("n", b"%d" % offset)] if offset else None,
    )  # fmt: skip


def event(partition: int, offset: int, code: int) -> Message:
    return Message(topic="t", partition=partition, offset=offset, error=KafkaError(code, "said"))


@dataclass
class Played:
    """A consumer of some logs, and all that a reader asks besides.

    ``sizes`` are how many messages of one partition come one after another.
    """

    logs: Sequence[Log]
    sizes: Iterator[int]
    broken: dict[int, int] = field(default_factory=dict)
    at: dict[int, int] = field(default_factory=dict)
    told: dict[int, int] = field(default_factory=dict)

    def incremental_assign(self, partitions: Sequence[Any]) -> None:
        self.at.update({p.partition: p.offset for p in partitions})

    def incremental_unassign(self, partitions: Sequence[Any]) -> None:
        for p in partitions:
            del self.at[p.partition]

    def consume(self, most: int, seconds: float) -> list[Message]:
        found: list[Message] = []
        for partition in sorted(self.at):
            found += self._come(partition, min(next(self.sizes), most - len(found)))
        return found

    def _come(self, partition: int, most: int) -> Iterator[Message]:
        log, broken = self.logs[partition], self.broken.get(partition)
        for _ in range(most):
            at = self.at[partition]
            while at < len(log) and not log[at] and at != broken:
                at += 1
            self.at[partition] = at
            if at == broken:
                yield event(partition, -1, KafkaError._BAD_MSG)
                self.at[partition] += 1
            elif at < len(log):
                yield message(partition, at)
                self.at[partition] += 1
            elif self.told.get(partition) != at:
                self.told[partition] = at
                yield event(partition, at, KafkaError._PARTITION_EOF)

    def close(self) -> None: ...

    # What makes clients, and the topic.

    def consumer(self, defaults: Any, **ours: Any) -> Played:
        return self

    def check(self, topic_id: str, partitions: Any) -> str:
        return "id"

    def forget(self) -> None: ...

    def raise_refusal(self) -> None: ...


@contextmanager
def played(consumer: Played, positions: dict[int, int]) -> Iterator[KafkaReader]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "LOOK_SECONDS", 1e9)
        patch.setattr(reading, "client_of", lambda input: consumer)
        patch.setattr(reading, "Topic", lambda input: consumer)
        with KafkaReader(INPUT, positions) as reader:
            yield reader


def held(log: Log, begin: int, end: int) -> list[int]:
    return [offset for offset in range(begin, min(end, len(log))) if log[offset]]


@given(st.lists(st.lists(st.integers(0, 5), max_size=10).map(sorted)), st.randoms())
def test_messages_are_sorted_by_their_partitions(pieces: list[list[int]], random: Any):
    found = [message(p, n) for n, p in enumerate(p for piece in pieces for p in piece)]
    sorted_ = by_partition(found)
    assert sum(map(len, sorted_.values())) == len(found)
    for partition, ours in sorted_.items():
        assert list(ours) == [m for m in found if m.partition() == partition]


@given(st.sets(st.integers(0, 60)).map(sorted), st.integers(0, 70), st.integers(0, 70))
def test_columns_have_what_messages_have(given_: list[int], next: int, end: int):
    polled = as_columns(3, [message(3, offset) for offset in given_], next)
    assert polled.next == max([next, *(offset + 1 for offset in given_)])
    for some, expected in ((polled, given_), (polled.upto(end), [n for n in given_ if n < end])):
        messages = [message(3, offset) for offset in expected]
        assert some.offsets.to_pylist() == expected
        assert some.payloads.to_pylist() == [m.value() for m in messages]
        assert some.keys(range(some.rows)).to_pylist() == [m.key() for m in messages]
        for offset in range(-1, 62):
            found = some.message(offset)
            offset_of = None if found is None else found.offset()
            assert offset_of == (offset if offset in expected else None)
    assert polled.upto(end).next == min(polled.next, end)


@given(logs, st.data(), st.integers(1, 40))
def test_all_that_lies_between_two_offsets_is_read_once(logs: list[Log], data: Any, rows: int):
    begin = {p: data.draw(st.integers(0, len(log))) for p, log in enumerate(logs)}
    ends = {p: data.draw(st.integers(0, len(log))) for p, log in enumerate(logs)}
    with played(Played(logs, sizes(data)), begin) as reader:
        found = list(reader.bounded(ends, rows))
        assert reader.positions == {}
    assert offsets(found) == {
        p: ours for p, log in enumerate(logs) if (ours := held(log, begin[p], ends[p]))
    }
    last = {some.partition: some.next for some in found}
    assert last == {p: end for p, end in ends.items() if begin[p] < end}


@given(logs, st.data())
def test_positions_are_where_the_next_reader_goes_on(logs: list[Log], data: Any):
    """Whoever stops anywhere, and begins anew where it was, has all and nothing twice."""
    positions = dict.fromkeys(range(len(logs)), 0)
    found = []
    for _ in range(data.draw(st.integers(0, 5))):
        with played(Played(logs, sizes(data)), positions) as reader:
            found += reader.poll(data.draw(st.integers(1, 40)), 0)
            assert reader.positions == positions | {p.partition: p.next for p in found}
            positions = reader.positions
    ends = {p: len(log) for p, log in enumerate(logs)}
    with played(Played(logs, sizes(data)), positions) as reader:
        found += reader.bounded(ends)
    assert offsets(found) == {
        p: ours for p, log in enumerate(logs) if (ours := held(log, 0, len(log)))
    }


def sizes(data: Any) -> Iterator[int]:
    """At times none comes, but not for ever."""
    return itertools.chain(
        data.draw(st.lists(st.integers(0, 12), max_size=20)), itertools.repeat(3)
    )


@given(logs, st.data())
def test_what_lies_before_a_broken_batch_is_given_first(logs: list[Log], data: Any):
    bad = data.draw(st.integers(0, len(logs) - 1))
    at = data.draw(st.integers(0, len(logs[bad])))
    consumer = Played(logs, sizes(data), {bad: at})
    found: list[Polled] = []
    said = f"partition {bad} that cannot be read, at offset "
    with played(consumer, dict.fromkeys(range(len(logs)), 0)) as reader:
        for _ in range(2):  # and no more is given afterwards
            with pytest.raises(SourceError, match=said):
                found.extend(p for _ in range(100) for p in reader.poll(40, 0))
    assert offsets(found).get(bad, []) == held(logs[bad], 0, at)
    for partition, ours in offsets(found).items():
        assert ours == held(logs[partition], 0, len(logs[partition]))[: len(ours)]


def test_a_next_message_that_never_comes():
    consumer = Played([[True]], itertools.repeat(1))
    with played(consumer, {0: 0}) as reader:
        begun = reader.bounded({0: 5}, patience=0)
        assert next(begun).offsets.to_pylist() == [0]
        with pytest.raises(
            Unavailable, match="nothing has come for 0 seconds; partition 0 at 1 of"
        ):
            next(begun)
