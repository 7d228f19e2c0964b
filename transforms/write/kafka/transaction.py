"""One transaction of a producer: what it sends is visible all at once, or never."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import repeat
from operator import length_hint
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from ...kafka.client import FENCED, SECONDS, Client
from ..errors import DestinationError
from .messages import Messages
from .topics import broker_setting

TIMEOUT_MS = 900_000
"""How long a transaction may take, if brokers do not allow less (15 minutes)."""
_TIMEOUT = "transaction.timeout.ms"
_DEFAULTS = {
    "batch.num.messages": 100_000,
    "compression.type": "lz4",
    "linger.ms": 50,
    # As Java's producers do: who joins topics needs equal keys in partitions of equal numbers.
    "partitioner": "murmur2_random",
    "queue.buffering.max.kbytes": 65_536,
    "queue.buffering.max.messages": 500_000,
}
"""What the file of settings may say otherwise."""
_BATCH_BYTES = 1_000_000
_MESSAGE_MS = 180_000
"""How long a message may wait for its broker."""
_LEAST_BYTES = 1000
"""The least that the client takes for the greatest message."""
_FAILED = {KafkaError._STATE, KafkaError._FATAL}
_WAIT_SECONDS = 0.05


class TransactionalProducer(Producer):
    """confluent-kafka's producer, under a name of our own."""


class Fenced(Exception):
    """Another producer with the transactional id has begun: this one can do nothing any more."""


class Transaction:
    """A transaction that is open. All methods may raise ``KafkaException`` and :class:`Fenced`."""

    def __init__(self, producer: TransactionalProducer) -> None:
        self._producer = producer

    def send(self, topic: str, messages: Messages) -> None:
        """Send messages, when there is room for them."""
        values, keys = messages.values.to_pylist(), messages.keys.to_pylist()
        times, headers = messages.times.tolist(), messages.headers or repeat(None)
        left = iter(values)
        # One loop in C, and no names of arguments: else what calls costs as much as the call.
        calls = map(
            self._producer.produce, repeat(topic), left, keys, repeat(-1), repeat(None),
            repeat(None), times, headers,
        )  # fmt: skip
        while True:
            try:
                deque(calls, 0)
                break
            except BufferError:
                # The message is taken, and was not sent.
                n = len(values) - length_hint(left) - 1
                said = messages.headers and messages.headers[n]
                self._send_later(topic, values[n], keys[n], -1, None, None, times[n], said)
        self._producer.poll(0)

    def commit(self, tokens: str, partition: int, key: bytes, token: str) -> None:
        """Hold a token, and make it and all that was sent visible.

        The token goes when all else has arrived: the shorter others have to wait behind it.
        """
        while self._producer.flush(SECONDS):
            pass
        self._producer.produce(tokens, token, key, partition)
        deadline = time.monotonic() + 6 * SECONDS
        while True:
            try:
                return self._producer.commit_transaction(SECONDS)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise

    def _send_later(self, *message: Any) -> None:
        """Send a message that there was no room for."""
        while True:
            self._producer.poll(_WAIT_SECONDS)
            with suppress(BufferError):
                return self._producer.produce(*message)


def timeout_ms(client: Client) -> int:
    """How long a transaction may take: what the settings say, or what the brokers allow.

    Raises:
        KafkaException: no broker answers.
    """
    said = client.settings().get(_TIMEOUT, "")
    if said.isdecimal():
        return int(said)
    allowed = broker_setting(client.admin(), "transaction.max.timeout.ms")
    return min(TIMEOUT_MS, int(allowed)) if allowed else TIMEOUT_MS


@contextmanager
def transaction(
    client: Client, transactional_id: str, timeout: int, message_bytes: int, topic: str
) -> Iterator[Transaction]:
    """A transaction, once every earlier one of the transactional id is over: what was open of it is
    undone, and who began it can do nothing any more. What is not committed is undone at the end.

    Args:
        timeout: how long it may take, in milliseconds.
        message_bytes: the greatest batch of messages that all its topics take.
        topic: any that is there.

    Raises:
        Fenced: another producer with the transactional id has begun meanwhile.
        DestinationError: it took too long.
        KafkaException: the rest.
    """
    defaults = {
        **_DEFAULTS,
        "batch.size": min(_BATCH_BYTES, message_bytes),
        "message.timeout.ms": min(_MESSAGE_MS, timeout),
        _TIMEOUT: timeout,
    }
    producer = client.producer(
        TransactionalProducer,
        defaults,
        transactional_id=transactional_id,
        message_max_bytes=max(_LEAST_BYTES, message_bytes),
    )
    with _telling_why(timeout), _closing(producer):
        _take_over(producer, topic)
        producer.begin_transaction()
        try:
            yield Transaction(producer)
        except KafkaException as error:
            if error.args[0].code() in _FAILED:
                # Who wants to send is merely told that it has failed. This says why, and cannot
                # succeed.
                producer.commit_transaction(SECONDS)
            raise


@contextmanager
def _closing(producer: TransactionalProducer) -> Iterator[None]:
    """Undo what is not committed, and give everything back."""
    try:
        yield
    except BaseException:
        # What a producer that is fenced off leaves is undone by others; closing it is noisy.
        with suppress(KafkaException):
            producer.abort_transaction(SECONDS)
            producer.close()
        raise
    producer.close()


def end_transaction(client: Client, transactional_id: str, topic: str) -> None:
    """End whatever the transactional id is at: what is not committed is undone.

    Args:
        topic: any that is there.

    Raises:
        KafkaException: no broker answers, or it is not allowed.
    """
    producer = client.producer(TransactionalProducer, {}, transactional_id=transactional_id)
    with _closing(producer):
        _take_over(producer, topic)


def _take_over(producer: TransactionalProducer, topic: str) -> None:
    """Begin with the transactional id, and end what others are at with it."""
    # Whoever is not connected yet waits half a second before it looks for its coordinator again.
    producer.list_topics(topic, SECONDS)
    producer.init_transactions(3 * SECONDS)


@contextmanager
def _telling_why(timeout: int) -> Iterator[None]:
    """Raise what it means when a producer is fenced off."""
    begun = time.monotonic()
    try:
        yield
    except KafkaException as error:
        if error.args[0].code() not in FENCED:
            raise
        if time.monotonic() - begun < timeout / 1000:
            raise Fenced from error
        raise DestinationError(
            f"the transaction took longer than {_TIMEOUT}={timeout}, and Kafka has "
            "undone it; raise it, and the broker's transaction.max.timeout.ms, or commit less at "
            "a time"
        ) from error
