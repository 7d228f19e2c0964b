"""What the tests of reading topics have in common: a broker of their own, and topics in it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from millstream.transforms.read.errors import SourceError, Unavailable
from millstream.transforms.read.kafka.bounds import TopicState, topic_state
from millstream.transforms.read.kafka.inputs import KafkaInput, parse_input
from millstream.transforms.read.kafka.polled import Polled
from millstream.transforms.read.kafka.reader import KafkaReader

from tests.services import kafka
from tests.services.serving import or_skip

SECONDS = 60.0
"""How long anything may take."""
_NUMBERS = itertools.count()

Offsets = dict[int, list[int]]
"""Offsets by partition."""


@contextmanager
def broker_or_skip() -> Iterator[kafka.Broker]:
    """A broker of one's own; where there can be none, tests are skipped and say why."""
    with or_skip("kafka", kafka.why_not, kafka.breakable) as broker:
        yield broker


@dataclass
class Topic:
    """A topic that nobody has used."""

    broker: kafka.Broker
    partitions: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"topic-{next(_NUMBERS)}")

    def __post_init__(self) -> None:
        self.make()

    @property
    def peer(self) -> kafka.Kafka:
        return self.broker.peer

    def make(self) -> None:
        """Make it, and wait until it is known; one of the same name may just have been deleted."""
        from confluent_kafka import KafkaException

        deadline = time.monotonic() + SECONDS
        made = False
        while True:
            try:
                if not made:
                    self.peer.make(self.name, self.partitions, **self.settings)
                    made = True
                self.state()
                return
            except (KafkaException, SourceError, Unavailable):
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def delete(self) -> None:
        admin = self.peer.admin()
        for answer in admin.delete_topics([self.name]).values():
            answer.result(SECONDS)

    def delete_before(self, offset: int) -> None:
        """Have the first messages of partition 0 vanish, as the broker does with old ones."""
        from confluent_kafka import TopicPartition

        admin = self.peer.admin()
        for answer in admin.delete_records([TopicPartition(self.name, 0, offset)]).values():
            answer.result(SECONDS)

    def grow(self, partitions: int) -> TopicState:
        """Have it have more partitions; gives what there is once they are known."""
        from confluent_kafka.admin import NewPartitions

        admin = self.peer.admin()
        for answer in admin.create_partitions([NewPartitions(self.name, partitions)]).values():
            answer.result(SECONDS)
        deadline = time.monotonic() + SECONDS
        while len((state := self.state()).partitions) < partitions:
            assert time.monotonic() < deadline
        return state

    def allow(self, operation: str) -> None:
        """Give a stranger a right to it."""
        from confluent_kafka.admin import (
            AclBinding,
            AclOperation,
            AclPermissionType,
            ResourcePatternType,
            ResourceType,
        )

        rule = AclBinding(
            ResourceType.TOPIC, self.name, ResourcePatternType.LITERAL,
            f"User:{kafka.STRANGER}", "*", AclOperation[operation], AclPermissionType.ALLOW,
        )  # fmt: skip
        admin = self.peer.admin()
        for answer in admin.create_acls([rule]).values():
            answer.result(SECONDS)

    def producer(self, **settings: Any) -> Any:
        from confluent_kafka import Producer

        ours = {"bootstrap.servers": self.peer.inner, "linger.ms": 5, "log_level": 0}
        return Producer({**ours, **{k.replace("_", "."): v for k, v in settings.items()}})

    def send(
        self, values: Iterable[bytes | None], partition: int = 0, key: bytes = b"k", **settings: Any
    ) -> None:
        """Send messages, and wait until they are there."""
        producer = self.producer(**settings)
        for value in values:
            producer.produce(self.name, value, key, partition)
        assert producer.flush(SECONDS) == 0

    @contextmanager
    def transaction(
        self, producer: Any, values: Sequence[bytes], *, commit: bool
    ) -> Iterator[None]:
        """Messages that are sent when the block begins, and decided upon when it ends."""
        producer.begin_transaction()
        for value in values:
            producer.produce(self.name, value, None, 0)
        assert producer.flush(SECONDS) == 0
        yield
        end = producer.commit_transaction if commit else producer.abort_transaction
        end(SECONDS)

    def input(self, query: str = "") -> KafkaInput:
        uri = f"kafka://{self.peer.inner}/{self.name}"
        return parse_input(f"{uri}?{query}" if query else uri)

    def state(self) -> TopicState:
        return topic_state(self.input())


def until(reader: KafkaReader, done: Callable[[], bool], rows: int = 1000) -> list[Polled]:
    """What comes until something is so."""
    found: list[Polled] = []
    deadline = time.monotonic() + SECONDS
    while not done():
        found += reader.poll(rows, 0.1)
        assert time.monotonic() < deadline, reader.positions
    return found


def until_at(reader: KafkaReader, **positions: int) -> list[Polled]:
    """What comes until partitions (``p0=…``) are at offsets."""
    wanted = {int(name[1:]): offset for name, offset in positions.items()}
    return until(reader, lambda: reader.positions.items() >= wanted.items())


def offsets(polled: Iterable[Polled]) -> Offsets:
    """All offsets, by partition, in the order in which they came."""
    found: Offsets = {}
    for some in polled:
        found.setdefault(some.partition, []).extend(some.offsets.to_pylist())
    return {partition: said for partition, said in found.items() if said}


def payloads(polled: Iterable[Polled]) -> list[bytes | None]:
    """All payloads of a topic of one partition."""
    return [payload for some in polled for payload in some.payloads.to_pylist()]
