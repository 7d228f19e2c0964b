"""Reading topics of a real broker."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from millstream.transforms.read.errors import SourceError

from tests.services import kafka

pytest.importorskip("confluent_kafka", reason="pip install -e '.[dev]'")

from millstream.transforms.read.kafka.bounds import ends, starts, topic_state
from millstream.transforms.read.kafka.carried import KafkaCarried
from millstream.transforms.read.kafka.inputs import KafkaInput, parse_input
from millstream.transforms.read.kafka.polled import Polled
from millstream.transforms.read.kafka.reader import KafkaReader
from read_kafka_support import (
    SECONDS,
    Topic,
    broker_or_skip,
    offsets,
    payloads,
    until,
    until_at,
)

pytestmark = pytest.mark.service

KEPT = {"retention_ms": "-1", "message_timestamp_before_max_ms": str(2**62)}
DAY = dt.datetime(2026, 11, 29, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def broker() -> Iterator[kafka.Broker]:
    with broker_or_skip() as found:
        yield found


@pytest.fixture
def topic(broker) -> Topic:
    return Topic(broker)


def bounded(input: KafkaInput, **options: Any) -> list[Polled]:
    """All that there is of an input now."""
    state = topic_state(input)
    with KafkaReader(input, starts(input, state), state.topic_id) as reader:
        return list(reader.bounded(ends(input, state), **options))


# ------------------------------------------------------------------------------- messages


def test_messages_come_with_all_that_they_have(topic: Topic):
    producer = topic.producer()
    said: list[tuple[bytes | None, bytes | None, int, Any]] = [
        (b"one", b"k1", 1000, [("a", b"1"), ("a", None)]),
        (None, b"k2", 2000, None),
        (b"", None, 3000, []),
        (b"\xff\x00", b"", 4000, None),
    ]
    for value, key, ms, headers in said:
        producer.produce(topic.name, value, key, 0, None, None, ms, headers)
    assert producer.flush(SECONDS) == 0
    (found,) = bounded(topic.input())
    assert (found.partition, found.next) == (0, 4)
    assert found.offsets.to_pylist() == [0, 1, 2, 3]
    assert found.payloads.to_pylist() == [value for value, *_ in said]
    assert KafkaCarried([("s", found)]).attributes(["s"] * 4, [3, 0, 2, 1]) == [
        [("kafka.key", ""), ("kafka.timestamp", "4000")],
        [
            ("kafka.key", "k1"), ("kafka.timestamp", "1000"),
            ("kafka.header.a", "1"), ("kafka.header.a", None),
        ],
        [("kafka.timestamp", "3000")],
        [("kafka.key", "k2"), ("kafka.timestamp", "2000")],
    ]  # fmt: skip


@pytest.mark.parametrize("rows", [7, 5000])
def test_each_partition_has_its_own_batches(broker, rows: int):
    topic = Topic(broker, partitions=4)
    for n, partition in enumerate((0, 1, 3, 1, 0)):
        topic.send([b"%d" % n] * 1000, partition)
    found = bounded(topic.input(), max_rows=rows)
    assert offsets(found) == {0: [*range(2000)], 1: [*range(2000)], 3: [*range(1000)]}
    assert {some.partition: some.next for some in found} == {0: 2000, 1: 2000, 3: 1000}
    assert max(some.rows for some in found) <= rows


def test_an_empty_topic_is_at_its_end_at_once(topic: Topic):
    assert bounded(topic.input()) == []
    with KafkaReader(topic.input(), {0: 0}) as reader:
        assert reader.poll(10, 0.3) == []
        assert reader.caught_up() == {0}


def test_messages_of_any_size(broker):
    topic = Topic(broker, settings={"max_message_bytes": "20000000"})
    sizes = [1, 6_000_000, 18_000_000, 2, 1_500_000]
    noise = random.Random(1)
    topic.send(map(noise.randbytes, sizes), message_max_bytes=20_000_000)
    assert [len(payload or b"") for payload in payloads(bounded(topic.input()))] == sizes


def test_of_large_messages_few_are_taken_at_once(broker, monkeypatch):
    monkeypatch.setattr("millstream.transforms.read.kafka.reader._MOST_BYTES", 10_000)
    topic = Topic(broker)
    topic.send([b"x" * 1000] * 50)
    topic.send([b"x" * 20_000] * 12)
    with KafkaReader(topic.input(), {0: 0}) as reader:
        rows = [some.rows for some in reader.poll(10, SECONDS)]
        rows += [some.rows for some in reader.bounded({0: 62}, 40)]
    assert sum(rows) == 62
    assert max(rows) <= 10
    assert rows[-3:] == [1, 1, 1]


# --------------------------------------------------------------------------- transactions


def test_only_what_is_committed_is_read(topic: Topic):
    producer = topic.producer(transactional_id=topic.name)
    producer.init_transactions(SECONDS)
    for value, commit in ((b"a", True), (b"gone", False), (b"b", True), (b"gone too", False)):
        with topic.transaction(producer, [value] * 2, commit=commit):
            pass
    # Each transaction ends with a marker, which takes an offset.
    assert topic.state().partitions == {0: (0, 12)}
    found = bounded(topic.input())
    assert payloads(found) == [b"a", b"a", b"b", b"b"]
    assert offsets(found) == {0: [0, 1, 6, 7]}
    assert found[-1].next == 12
    everything = bounded(topic.input("isolation=read_uncommitted"))
    assert offsets(everything) == {0: [0, 1, 3, 4, 6, 7, 9, 10]}
    assert everything[-1].next == 12


def test_the_end_is_before_a_transaction_that_is_open(topic: Topic):
    topic.send([b"before"])
    producer = topic.producer(transactional_id=topic.name)
    producer.init_transactions(SECONDS)
    with topic.transaction(producer, [b"open"], commit=True):
        topic.send([b"after"])
        assert topic.state().partitions == {0: (0, 1)}
        assert topic_state(topic.input("isolation=read_uncommitted")).partitions == {0: (0, 3)}
        found = bounded(topic.input())
        assert payloads(found) == [b"before"]
        assert found[-1].next == 1
        # Whoever has read it uncommitted is further, and may go on there.
        behind = topic.input("start=0:3")
        assert starts(behind, topic_state(behind)) == {0: 3}
        with KafkaReader(topic.input(), {0: 0}) as reader:
            assert payloads(until_at(reader, p0=1)) == [b"before"]
            assert reader.caught_up() == {0}
    assert payloads(bounded(topic.input())) == [b"before", b"open", b"after"]


def test_positions_move_over_what_is_no_message(topic: Topic):
    """At the end of a partition, and while it is waited there."""
    producer = topic.producer(transactional_id=topic.name)
    producer.init_transactions(SECONDS)
    with KafkaReader(topic.input(), {0: 0}) as reader:
        for n in range(1, 4):
            with topic.transaction(producer, [b"gone"] * 4, commit=False):
                pass
            found = until_at(reader, p0=n * 5)
            assert [(some.rows, some.next) for some in found] == [(0, n * 5)]
            assert reader.caught_up() == {0}
        topic.send([b"here"])
        assert offsets(until_at(reader, p0=16)) == {0: [15]}


def test_ends_inside_of_what_is_no_message(topic: Topic):
    producer = topic.producer(transactional_id=topic.name)
    producer.init_transactions(SECONDS)
    topic.send([b"a"])
    with topic.transaction(producer, [b"gone"] * 4, commit=False):
        pass
    topic.send([b"b"])
    for end in range(8):
        found = bounded(topic.input(f"until=0:{end}"))
        assert payloads(found) == [b"a", b"b"][: (end > 0) + (end > 6)]
        assert [some.next for some in found[-1:]] == [end][: end > 0]


def test_a_topic_that_is_compacted(broker):
    compacting = {
        "cleanup_policy": "compact", "segment_ms": "1", "min_cleanable_dirty_ratio": "0",
        "delete_retention_ms": "0",
    }  # fmt: skip
    topic = Topic(broker, settings=compacting)
    topic.send([b"old"] * 50, key=b"a")
    topic.send([None], key=b"b")
    topic.send([b"new"], key=b"a")
    deadline = time.monotonic() + SECONDS
    read = [49]
    while 49 in read:
        topic.send([b"last"], key=b"c")  # what is compacted lies before the last segment
        found = bounded(topic.input())
        read = offsets(found)[0]
        assert time.monotonic() < deadline, "the broker does not compact"
    assert min(read) in (50, 51)
    assert 51 in read
    assert found[-1].next == topic.state().partitions[0][1]
    # Beginning and ending in the gap.
    with KafkaReader(topic.input(), {0: 7}) as reader:
        (some,) = reader.bounded({0: 30})
    assert (some.rows, some.next) == (0, 30)


# ------------------------------------------------------------------------ where to begin


@pytest.fixture
def timed(broker) -> Topic:
    """Two partitions with messages of hours 0 to 9, and one without any."""
    topic = Topic(broker, partitions=3, settings=KEPT)
    producer = topic.producer()
    for hour in range(10):
        moment = round((DAY + dt.timedelta(hours=hour)).timestamp() * 1000)
        producer.produce(topic.name, b"%d" % hour, None, hour % 2, None, None, moment)
    assert producer.flush(SECONDS) == 0
    return topic


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", {0: 0, 1: 0, 2: 0}),
        ("start=latest", {0: 5, 1: 5, 2: 0}),
        ("start=2026-11-29T04:00:00Z", {0: 2, 1: 2, 2: 0}),
        ("start=2026-11-29T04:00:00.001Z", {0: 3, 1: 2, 2: 0}),
        ("start=2026-11-28T00:00:00Z", {0: 0, 1: 0, 2: 0}),
        ("start=2026-11-29T09:00:00Z", {0: 5, 1: 4, 2: 0}),
        ("start=2027-11-29T09:00:00Z", {0: 5, 1: 5, 2: 0}),
        ("start=1:3", {0: 0, 1: 3, 2: 0}),
        ("start=0:5,1:0,2:0", {0: 5, 1: 0, 2: 0}),
        ("start=committed&group=nobody", {0: 0, 1: 0, 2: 0}),
    ],
)
def test_starts(timed: Topic, query: str, said: dict[int, int]):
    input = timed.input(query)
    assert starts(input, topic_state(input)) == said


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", {0: 5, 1: 5, 2: 0}),
        ("until=now", {0: 5, 1: 5, 2: 0}),
        ("until=2026-11-29T03:00:00Z", {0: 2, 1: 1, 2: 0}),
        ("until=2099-11-29T03:00:00Z", {0: 5, 1: 5, 2: 0}),
        ("until=0:2", {0: 2, 1: 5, 2: 0}),
        ("until=0:700", {0: 700, 1: 5, 2: 0}),
    ],
)
def test_ends(timed: Topic, query: str, said: dict[int, int]):
    input = timed.input(query)
    assert ends(input, topic_state(input)) == said


def test_what_comes_between_two_questions_is_left_for_later(timed: Topic):
    """A time is looked for later than what there is: nothing lies beyond that all the same."""
    moment = "2099-01-01T00:00:00Z"
    input = timed.input(f"start={moment}&until={moment}")
    state = topic_state(input)
    producer = timed.producer()
    producer.produce(timed.name, b"later", None, 0, None, None, 4_070_908_800_000)
    assert producer.flush(SECONDS) == 0
    assert starts(input, state) == ends(input, state) == {0: 5, 1: 5, 2: 0}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("start=7:1", "start=7:1: there is no partition 7; they are numbered from 0 to 2"),
        ("until=7:1", "until=7:1: there is no partition 7"),
        ("start=0:6", "offset 6 of partition 0 is not there: its last is 4"),
    ],
)
def test_bounds_that_cannot_be(timed: Topic, query: str, said: str):
    input = timed.input(query)
    state = topic_state(input)
    with pytest.raises(SourceError, match=said):
        ends(input, state) if input.until else starts(input, state)


def test_what_a_group_has_published_is_where_it_begins(broker):
    topic = Topic(broker, partitions=2)
    for partition in (0, 1):
        topic.send([b"x"] * 10, partition)
    input = topic.input(f"group={topic.name}&start=committed")
    with KafkaReader(input, {0: 0}) as reader:
        reader.publish({0: 7})
    assert starts(input, topic_state(input)) == {0: 7, 1: 0}
    with KafkaReader(input, {}) as reader:  # whoever has read nothing can publish too
        reader.publish({1: 3})
    assert starts(input, topic_state(input)) == {0: 7, 1: 3}
    topic.delete_before(9)
    with pytest.raises(SourceError, match=r"2 offsets of partition 0 are gone \(7 to 8\)"):
        starts(input, topic_state(input))


def test_without_a_group_nothing_is_published(topic: Topic):
    topic.send([b"x"])
    with KafkaReader(topic.input(), {0: 0}) as reader:
        reader.publish({0: 1})
    listed = topic.peer.admin().list_consumer_groups(request_timeout=SECONDS).result()
    assert "millstream" not in {group.group_id for group in listed.valid}


def test_publishing_that_fails_is_logged_and_no_more(topic: Topic, caplog):
    topic.send([b"x"])
    with KafkaReader(topic.input(f"group={topic.name}"), {0: 0}) as reader:
        reader.publish({99: 1})
        until_at(reader, p0=1)
        until(reader, lambda: bool(caplog.records))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"positions of group {topic.name} are not published: " in record.message


# ----------------------------------------------------------------------- while it is read


def test_partitions_that_are_paused_go_on_where_they_were(broker):
    topic = Topic(broker, partitions=2)
    for partition in (0, 1):
        topic.send([b"%d" % n for n in range(100)], partition)
    with KafkaReader(topic.input(), {0: 0, 1: 0}) as reader:
        found = reader.poll(30, SECONDS)
        reader.pause([0])
        found += until_at(reader, p1=100)
        paused = reader.positions
        topic.send([b"later"], 1)
        found += until_at(reader, p1=101)
        assert reader.positions == paused | {1: 101}
        reader.resume([0])
        found += until_at(reader, p0=100)
    assert offsets(found) == {0: [*range(100)], 1: [*range(101)]}


def test_a_partition_that_is_added(topic: Topic):
    topic.send([b"old"])
    with KafkaReader(topic.input(), {0: 0}) as reader:
        until_at(reader, p0=1)
        topic.grow(3)
        state = reader.state()
        assert state.topic_id == reader.topic_id
        assert state.partitions == {0: (0, 1), 1: (0, 0), 2: (0, 0)}
        topic.send([b"new"] * 3, 2)
        reader.add({1: 0, 2: 0})
        assert offsets(until_at(reader, p2=3)) == {2: [0, 1, 2]}
        assert reader.caught_up() == {0, 1, 2}
        reader.check()


def test_partitions_that_are_removed_come_no_more(broker):
    topic = Topic(broker, partitions=2)
    with KafkaReader(topic.input(), {0: 0, 1: 0}) as reader:
        reader.remove([0])
        for partition in (0, 1):
            topic.send([b"x"] * 10, partition)
        assert offsets(until_at(reader, p1=10)) == {1: [*range(10)]}
        assert reader.positions == {1: 10}


def test_who_has_more_to_read_is_not_caught_up(broker):
    topic = Topic(broker, partitions=2)
    topic.send([b"x"] * 10, 1)
    with KafkaReader(topic.input(), {0: 0, 1: 5}) as reader:
        assert reader.caught_up() == {0}
        until_at(reader, p1=10)
        assert reader.caught_up() == {0, 1}
        topic.send([b"x"])
        assert reader.caught_up() == {1}


def test_several_readers_of_one_group_hinder_each_other_in_nothing(broker):
    topic = Topic(broker, partitions=2)
    for partition in (0, 1):
        topic.send([b"x"] * 10, partition)
    input = topic.input("group=several")
    with KafkaReader(input, {0: 0}) as one, KafkaReader(input, {0: 0, 1: 0}) as other:
        assert offsets(until_at(one, p0=10)) == {0: [*range(10)]}
        assert offsets(until_at(other, p0=10, p1=10)) == {0: [*range(10)], 1: [*range(10)]}


# -------------------------------------------------------------------------- being let in


def outside(topic: Topic, folder: Any, **settings: str) -> KafkaInput:
    """The topic, for those who are asked who they are."""
    path = folder / "kafka.properties"
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), "utf-8")
    return parse_input(f"kafka://{topic.peer.address}/{topic.name}?config={path}")


def test_a_file_of_settings_lets_us_in(topic: Topic, tmp_path):
    topic.send([b"x"])
    own = {"acks": "all", "linger.ms": "5", "queued.min.messages": "10"}
    input = outside(topic, tmp_path, **kafka.credentials(kafka.USER, kafka.PASSWORD), **own)
    assert payloads(bounded(input)) == [b"x"]


def test_a_wrong_password_is_said_and_not_shown(topic: Topic, tmp_path, capfd):
    input = outside(topic, tmp_path, **kafka.credentials(kafka.USER, "wrong-and-secret"))
    for ask in (lambda: topic_state(input), lambda: KafkaReader(input, {0: 0})):
        with pytest.raises(SourceError, match="see the credentials in") as said:
            ask()
        assert "wrong-and-secret" not in str(said.value) + "".join(capfd.readouterr())


def test_rights_that_are_missing(topic: Topic, tmp_path):
    input = outside(topic, tmp_path, **kafka.credentials(kafka.STRANGER, kafka.PASSWORD))
    with pytest.raises(SourceError, match="allow Read and Describe on the topic"):
        topic_state(input)
    topic.allow("DESCRIBE")
    topic.send([b"x"])
    assert topic_state(input).partitions == {0: (0, 1)}
    with KafkaReader(input, {0: 0}) as reader:
        with pytest.raises(SourceError, match="allow Read and Describe on the topic"):
            until_at(reader, p0=1)
        reader.publish({0: 1})  # without a group
    topic.allow("READ")
    assert payloads(bounded(input)) == [b"x"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("isolation.level", "read_uncommitted", "sets isolation.level; leave it out"),
        ("sasl.mechanism", "hunter2", "Unsupported SASL mechanism: …"),
        ("fetch.max.bytes", "hunter2", 'Invalid value for configuration property "fetch.max.b'),
        ("stats_cb", "hunter2", "expected stats_cb property as a callable"),
    ],
)
def test_settings_that_cannot_be(topic: Topic, tmp_path, name: str, value: str, said: str):
    secure = kafka.credentials(kafka.USER, kafka.PASSWORD)
    input = outside(topic, tmp_path, **{**secure, name: value})
    with pytest.raises(SourceError, match=said) as raised:
        KafkaReader(input, {0: 0})
    assert "hunter2" not in str(raised.value)


def test_a_topic_that_is_not_there(topic: Topic):
    input = parse_input(f"kafka://{topic.peer.inner}/{topic.name}s")
    said = f"there is no topic '{topic.name}s'; did you mean 'topic-"
    with pytest.raises(SourceError, match=said):
        topic_state(input)
    with pytest.raises(SourceError, match=said):
        KafkaReader(input, {0: 0})


def test_a_partition_that_is_not_there(topic: Topic):
    with pytest.raises(SourceError, match="there is no partition 5"):
        KafkaReader(topic.input(), {0: 0, 5: 0})
