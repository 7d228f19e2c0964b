"""Filling topics: all of a file at once, or so many events a second as they happen.

    python benchmarks/streams/feed.py --broker HOST:PORT --topic TOPIC --rate 20000 --seconds 60

What is sent at a rate has event times between now and ``--disorder`` before. Prints how many were
sent and how long it took, as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import events
import numpy as np
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 4
BAD = 0.01
TICK_SECONDS = 0.02
SECONDS = 60


def make(broker: str, topic: str) -> None:
    """Make a topic.

    Raises:
        KafkaException: it is there, or the broker does not answer.
    """
    admin = AdminClient({"bootstrap.servers": broker, "log_level": 3})
    (made,) = admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values()
    made.result(SECONDS)


def delete(broker: str, topic: str) -> None:
    """Delete a topic, and those that were made for it and have its name in theirs."""
    admin = AdminClient({"bootstrap.servers": broker, "log_level": 3})
    names = [name for name in admin.list_topics(timeout=SECONDS).topics if topic in name]
    for gone in admin.delete_topics(names).values() if names else ():
        gone.result(SECONDS)


def fill(broker: str, topic: str, lines: Iterable[bytes]) -> None:
    """Make a topic of these messages."""
    make(broker, topic)
    send(broker, topic, lines)


def send(broker: str, topic: str, lines: Iterable[bytes]) -> None:
    """Send messages, in turn to each partition."""
    producer = _producer(broker, linger_ms=20)
    for number, line in enumerate(lines):
        _send(producer, topic, line, number % PARTITIONS)
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush(SECONDS)


def committed(broker: str, topic: str, group: str) -> int:
    """How many messages a group has committed."""
    settings = {"bootstrap.servers": broker, "group.id": group, "enable.auto.commit": False}
    parts = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    with closing(Consumer(settings)) as consumer:
        return sum(max(0, part.offset) for part in consumer.committed(parts, timeout=SECONDS))


def lines_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            yield line.rstrip(b"\n")


def closing_lines(at: datetime) -> Iterator[bytes]:
    """Events of one time and of every group, in each partition: they close what is before them."""
    for event_type, country in itertools.product(events.EVENT_TYPES, events.COUNTRIES):
        event = {
            "event_id": "0" * 16,
            "user_id": "user-closing",
            "event_type": event_type,
            "page": "/",
            "ts": at.isoformat(),
            "amount": None,
            "country": country,
        }
        for _ in range(PARTITIONS):
            yield json.dumps(event).encode()


def dump(broker: str, topic: str, out: IO[bytes]) -> int:
    """Write all messages of a topic as lines; gives their number."""
    settings = {"bootstrap.servers": broker, "group.id": "dump", "enable.auto.commit": False}
    count = 0
    with closing(Consumer({**settings, "auto.offset.reset": "earliest"})) as consumer:
        parts = [TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
        total = sum(consumer.get_watermark_offsets(part, timeout=SECONDS)[1] for part in parts)
        consumer.assign(parts)
        while count < total:
            messages = consumer.consume(10_000, 1.0)
            for message in messages:
                if message.error():
                    raise KafkaException(message.error())
                out.write((message.value() or b"") + b"\n")
            count += len(messages)
    return count


def pace(broker: str, topic: str, rate: float, seconds: float, disorder: float) -> int:
    """Send events as they happen; gives how many."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    events.START = midnight  # from which the generator counts
    rng = np.random.default_rng(1)
    shape = events.Shape(pages=820)
    span = round(disorder * 1000)
    producer = _producer(broker, linger_ms=5)
    start, sent = time.time(), 0
    while (passed := time.time() - start) < seconds:
        due = int(passed * rate) - sent
        if due > 0:
            now = (datetime.now(UTC) - midnight) // timedelta(milliseconds=1)
            drawn = events.draw(rng, shape, due, BAD, now - span, span)
            for line in events.lines(rng, shape, drawn).tobytes().split(b"\n")[:-1]:
                _send(producer, topic, line, sent % PARTITIONS)
                sent += 1
            producer.poll(0)
        time.sleep(max(0.0, TICK_SECONDS - (time.time() - start - passed)))
    producer.flush(SECONDS)
    return sent


def _producer(broker: str, linger_ms: int) -> Producer:
    return Producer(
        {
            "bootstrap.servers": broker,
            "linger.ms": linger_ms,
            "batch.size": 1 << 20,
            "compression.type": "lz4",
            "enable.idempotence": True,  # else what is sent again comes in another order
            "queue.buffering.max.messages": 1_000_000,
            "log_level": 3,
        }
    )


def _send(producer: Producer, topic: str, line: bytes, partition: int) -> None:
    while True:
        try:
            return producer.produce(topic, line, partition=partition)
        except BufferError:
            producer.poll(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--broker", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True, help="events a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--disorder", type=float, default=1.5, help="seconds")
    args = parser.parse_args()
    start = time.monotonic()
    sent = pace(args.broker, args.topic, args.rate, args.seconds, args.disorder)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main()
