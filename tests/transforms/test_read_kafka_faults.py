"""What becomes of a reader when its topic or its broker does not stay what it was."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest
from millstream.transforms.read.errors import SourceError, Unavailable

from tests.services import kafka
from tests.services.serving import free_port

pytest.importorskip("confluent_kafka", reason="pip install -e '.[dev]'")

from millstream.transforms.read.kafka import bounds
from millstream.transforms.read.kafka.bounds import starts, topic_state
from millstream.transforms.read.kafka.inputs import parse_input
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

_HEAD = struct.Struct(">qi")
"""What a batch of messages begins with in a broker's file: its first offset, and its length."""
_MAGIC, _PAYLOAD = 16, 70
"""Where in a batch its format is told, and where its first message is."""


@pytest.fixture(scope="module")
def broker() -> Iterator[kafka.Broker]:
    with broker_or_skip() as found:
        yield found


@pytest.fixture
def topic(broker) -> Topic:
    return Topic(broker)


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Questions that nobody answers are given up soon."""
    monkeypatch.setattr(bounds, "QUESTION_SECONDS", 1.0)


# ----------------------------------------------------------------------------- the topic


def test_messages_that_were_deleted_before_they_were_read(topic: Topic):
    topic.send([b"x"] * 100)
    topic.delete_before(60)
    said = r"50 offsets of partition 0 are gone \(10 to 59\): .* With start=earliest reading goes"
    input = topic.input("start=0:10")
    with pytest.raises(SourceError, match=said):
        starts(input, topic_state(input))
    with KafkaReader(input, {0: 10}) as reader, pytest.raises(SourceError, match=said):
        until_at(reader, p0=100)
    earliest = topic.input()
    assert starts(earliest, topic_state(earliest)) == {0: 60}


def test_messages_that_are_deleted_while_a_partition_is_paused(topic: Topic):
    topic.send([b"x"] * 100)
    with KafkaReader(topic.input(), {0: 0}) as reader:
        assert offsets(reader.poll(10, SECONDS)) == {0: [*range(10)]}
        reader.pause([0])
        topic.delete_before(60)
        reader.resume([0])
        with pytest.raises(SourceError, match=r"50 offsets of partition 0 are gone \(10 to 59\)"):
            until_at(reader, p0=100)


def test_an_offset_that_was_never_there(topic: Topic):
    topic.send([b"x"] * 10)
    said = "offset 500 of partition 0 is not there: its last is 9"
    with KafkaReader(topic.input(), {0: 500}) as reader, pytest.raises(SourceError, match=said):
        until_at(reader, p0=501)


def test_a_topic_that_is_deleted(topic: Topic):
    topic.send([b"x"] * 10)
    with KafkaReader(topic.input(), {0: 0}) as reader:
        until_at(reader, p0=10)
        topic.delete()
        with pytest.raises(SourceError, match="the topic was deleted while it was read"):
            until_at(reader, p0=11)
        with pytest.raises(SourceError, match="the topic was deleted while it was read"):
            reader.check()


@pytest.mark.parametrize("messages", [0, 5, 500])
def test_a_topic_that_is_deleted_and_made_again(topic: Topic, messages: int):
    """With fewer messages than were read, or more: the latter nobody would notice by offsets."""
    topic.send([b"old"] * 100)
    before = topic.state()
    with KafkaReader(topic.input(), {0: 0}) as reader:
        until_at(reader, p0=100)
        topic.delete()
        topic.make()
        topic.send([b"new"] * messages)
        with pytest.raises(SourceError, match="the topic was deleted and made again"):
            reader.check()
        with pytest.raises(SourceError, match="the topic was deleted and made again"):
            until_at(reader, p0=501)
    with pytest.raises(SourceError, match="the topic was deleted and made again"):
        KafkaReader(topic.input(), {0: 100}, before.topic_id)


def test_of_a_topic_that_is_made_again_nothing_is_taken_for_complete(topic: Topic, monkeypatch):
    """Though it be noticed no earlier: who reads up to an end looks there."""
    monkeypatch.setattr("millstream.transforms.read.kafka.reader.LOOK_SECONDS", 1e9)
    topic.send([b"old"] * 10)
    with KafkaReader(topic.input(), {0: 0}) as reader:
        found = reader.bounded({0: 20})
        assert next(found).rows == 10
        topic.delete()
        topic.make()
        topic.send([b"new"] * 20)
        with pytest.raises(SourceError, match="the topic was deleted and made again"):
            list(found)


@pytest.mark.parametrize(("codec", "at"), [("none", _PAYLOAD), ("lz4", _PAYLOAD), ("none", _MAGIC)])
def test_a_batch_that_is_broken(topic: Topic, codec: str, at: int):
    for n in range(5):
        topic.send([b"%d " % n * 100] * 10, compression_type=codec)
    spoil(topic, 20, at)
    said = "a batch in partition 0 that cannot be read, at offset 20: "
    with KafkaReader(topic.input(), {0: 0}) as reader:
        found = until_at(reader, p0=20)
        assert offsets(found) == {0: [*range(20)]}
        for _ in range(2):
            with pytest.raises(SourceError, match=said):
                until_at(reader, p0=21)
    if at == _PAYLOAD:  # else the broker itself does not find what lies behind it
        with KafkaReader(topic.input(), {0: 30}) as reader:
            assert payloads(reader.bounded({0: 50})) == [b"3 " * 100] * 10 + [b"4 " * 100] * 10


def spoil(topic: Topic, offset: int, at: int) -> None:
    """Change some bytes of the batch that begins at an offset, where the broker has it."""
    (path,) = (topic.broker.data / f"{topic.name}-0").glob("*.log")
    held = path.read_bytes()
    begin = 0
    while (head := _HEAD.unpack_from(held, begin))[0] != offset:
        begin += _HEAD.size + head[1]
    with path.open("r+b") as file:
        file.seek(begin + at)
        file.write(bytes(255 - byte for byte in held[begin + at : begin + at + 1]))


# ---------------------------------------------------------------------------- the broker


def test_a_broker_that_is_not_there():
    input = parse_input(f"kafka://127.0.0.1:{free_port()}/t")
    with pytest.raises(Unavailable, match="kafka://127"):
        topic_state(input)
    with pytest.raises(Unavailable, match="kafka://127"):
        KafkaReader(input, {0: 0})


def test_a_broker_that_hangs(topic: Topic, impatient):
    topic.send([b"x"] * 10)
    with KafkaReader(topic.input(), {0: 0}) as reader:
        until_at(reader, p0=10)
        assert reader.caught_up() == {0}
        with topic.broker.hanging():
            begun = time.monotonic()
            assert reader.poll(10, 0.3) == []
            assert time.monotonic() - begun < 5
            assert reader.caught_up() == set()
            with pytest.raises(Unavailable):
                reader.check()
            with pytest.raises(Unavailable):
                topic.state()
            with pytest.raises(Unavailable, match="partition 0 at 10 of 20"):
                list(reader.bounded({0: 20}, patience=0.5))
        topic.send([b"y"] * 10)
        assert payloads(reader.bounded({0: 20})) == [b"y"] * 10


def test_a_reader_is_closed_though_its_broker_hangs(topic: Topic):
    topic.send([b"x"] * 10)
    input = topic.input(f"group={topic.name}")
    reader = KafkaReader(input, {0: 0})
    until_at(reader, p0=10)
    with topic.broker.hanging():
        reader.publish({0: 10})
        begun = time.monotonic()
        reader.close()
        assert time.monotonic() - begun < SECONDS


def test_a_broker_that_is_killed_and_comes_back(broker):
    topic = Topic(broker, partitions=2)
    for partition in (0, 1):
        topic.send([b"%d" % n for n in range(1000)], partition)
    with KafkaReader(topic.input(), {0: 0, 1: 0}) as reader:
        found = reader.poll(300, SECONDS)
        broker.kill()
        assert reader.caught_up() == set()
        found += reader.poll(2000, 1.0)  # what had come before
        broker.start()
        for partition in (0, 1):
            topic.send([b"later"] * 10, partition)
        found += until_at(reader, p0=1010, p1=1010)
        reader.check()
    assert offsets(found) == {0: [*range(1010)], 1: [*range(1010)]}


def test_a_password_that_is_changed_while_it_is_read(topic: Topic, tmp_path):
    """Connections that are up stay up: it is noticed when the next is made, and known for certain
    when a reader is made."""
    path = tmp_path / "kafka.properties"
    secure = kafka.credentials(kafka.USER, kafka.PASSWORD)
    path.write_text("".join(f"{name}={value}\n" for name, value in secure.items()), "utf-8")
    topic.send([b"x"] * 10)
    input = parse_input(f"kafka://{topic.peer.address}/{topic.name}?config={path}")
    with KafkaReader(input, {0: 0}) as reader:
        until_at(reader, p0=10)
        with topic.broker.other_passwords():
            with pytest.raises(Unavailable, match="see the credentials in"):
                until(reader, lambda: False)
            with pytest.raises(SourceError, match="see the credentials in"):
                KafkaReader(input, reader.positions)
