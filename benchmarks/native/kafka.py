"""Kafka: a bare transactional producer, with messages that are ready, and with rows that it has to
make into JSON first, as users have to. Read back by a consumer, of committed messages alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from columns import KEY
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from native import Held, Way
from native.json_messages import Message, messages_of, rows_of

SECONDS = 60
PARTITIONS = 3
_PRODUCER = {
    "batch.num.messages": 100_000,
    "compression.type": "lz4",
    "linger.ms": 50,
    "queue.buffering.max.kbytes": 131_072,
    "queue.buffering.max.messages": 500_000,
}


def produce_ready(place: str, rows: pa.Table) -> Callable[[], None]:
    messages = list(messages_of(rows))
    return lambda: _produce(place, messages)


def produce_rows(place: str, rows: pa.Table) -> Callable[[], None]:
    return lambda: _produce(place, messages_of(rows))


WAYS = (
    Way("a transactional producer and msgspec", produce_rows),
    Way("a transactional producer, messages made beforehand", produce_ready, asked=False),
)


def prepare(place: str) -> None:
    admin = AdminClient(_settings(place))
    (made,) = admin.create_topics([NewTopic(_topic(place), PARTITIONS)]).values()
    made.result(SECONDS)


def read(place: str) -> Held:
    keys, values = [], []
    for message in _consumed(place):
        keys.append(message.key())
        values.append(message.value())
    rows = rows_of(values)
    if rows[KEY].to_pylist() != [key.decode() for key in keys]:
        raise ValueError("the keys of messages are not those of their rows")
    return Held(rows, {})


def drop(place: str) -> None:
    admin = AdminClient(_settings(place))  # which must not be gone before its answer comes
    (gone,) = admin.delete_topics([_topic(place)]).values()
    gone.result(SECONDS)


def _produce(place: str, messages: Iterable[Message]) -> None:
    topic = _topic(place)
    producer = Producer({**_settings(place), **_PRODUCER, "transactional.id": topic})
    producer.init_transactions(SECONDS)
    producer.begin_transaction()
    produce, poll = producer.produce, producer.poll
    for n, (key, value) in enumerate(messages):
        while True:
            try:
                produce(topic, value, key)
                break
            except BufferError:
                poll(0.05)
        if not n % 10_000:
            poll(0)
    producer.commit_transaction(SECONDS)


def _consumed(place: str) -> Iterator:
    consumer = Consumer(
        {
            **_settings(place), "group.id": "benchmarks", "isolation.level": "read_committed",
            "enable.auto.commit": False, "enable.partition.eof": True,
        }
    )  # fmt: skip
    topic = _topic(place)
    partitions = consumer.list_topics(topic, timeout=SECONDS).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    ended = set()
    try:
        while len(ended) < len(partitions):
            for message in consumer.consume(10_000, timeout=1):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()


def _settings(place: str) -> dict[str, Any]:
    """The brokers, and what stands in the file that the environment names."""
    lines = Path(os.environ["MILLSTREAM_KAFKA_CONFIG"]).read_text("utf-8").splitlines()
    servers = place.removeprefix("kafka://").partition("/")[0]
    return {"bootstrap.servers": servers, **dict(line.split("=", 1) for line in lines if line)}


def _topic(place: str) -> str:
    return place.rpartition("/")[2]
