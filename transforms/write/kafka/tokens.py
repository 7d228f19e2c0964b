"""The topic of tokens: what runs have committed, in the transaction that brought their rows.

Keys are ``TOPIC/RUN``, values a :class:`..tables.Held`. All lie in partition 0, so that whoever
looks for one has to read no other. A token is the last that a transaction writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as Partition

from ...kafka.client import SECONDS, UNKNOWN_TOPIC, Client
from ..errors import Unavailable
from ..tables import Held
from .topics import Topic

TOKENS = "_millstream_commits"
"""The topic of tokens, if no other is named."""
PARTITION = 0
PATIENCE_SECONDS = 5.0
"""How long a token is waited for that nobody knows of whether it is held: who commits needs some
milliseconds."""
_MESSAGES = 10_000
_POLL_SECONDS = 0.5
"""How long the next message is waited for before the clock is looked at."""
_SEPARATOR = "/"
"""Between topic and run: no topic has it in its name."""


class Undecided(Unavailable):
    """Nobody knows yet whether a token is held."""


def tokens_topic(name: str) -> Topic:
    """The topic, as it has to be."""
    return Topic(name, compacted=True, partitions=1, kept=True)


def token_key(topic: str, run_id: str) -> bytes:
    """What a token is held under."""
    return f"{topic}{_SEPARATOR}{run_id}".encode()


def find_token(client: Client, tokens: str, topic: str, run_id: str) -> Held | None:
    """What is held for a run, ``None`` if nothing is.

    A reader of committed messages sees none that lie behind a transaction that is still open, and
    that may be anybody's. So all messages are looked at first, and if any is the run's, then it is
    waited for until those are decided. Nobody else's transaction is waited for.

    Raises:
        KafkaException: the broker does not answer.
        Undecided: a transaction is still open, of who writes the token or of somebody before it.
    """
    key = token_key(topic, run_id)
    ours = [m.offset() for m in _messages(client, tokens, "read_uncommitted") if m.key() == key]
    if not ours:
        return None
    found = None
    try:
        for message in _messages(client, tokens, "read_committed", ours[0], ours[-1] + 1):
            if message.key() == key:
                found = message.value()
    except KafkaException as error:
        if error.args[0].code() == KafkaError._TIMED_OUT:
            raise Undecided("a transaction on the topic of tokens is still open") from error
        raise
    return Held.from_json(found) if found else None


def tokens_before(client: Client, tokens: str, topic: str, before: float) -> list[str]:
    """The runs whose tokens are older than a time (seconds since the epoch). Those that lie behind
    somebody's open transaction are not among them yet.

    Raises:
        KafkaException: the broker does not answer.
    """
    newest = {message.key(): message for message in _messages(client, tokens, "read_committed")}
    begin = token_key(topic, "")
    return sorted(
        key.removeprefix(begin).decode()
        for key, message in newest.items()
        if key.startswith(begin) and message.value() and message.timestamp()[1] < before * 1000
    )


def forget_tokens(client: Client, tokens: str, topic: str, run_ids: Iterable[str]) -> None:
    """Delete the tokens of runs: their keys get messages without a value (tombstones), and the
    brokers delete both when they compact the topic.

    Raises:
        KafkaException: the broker does not answer, or refuses it.
    """
    failures: list[KafkaError] = []
    producer = client.producer(Producer, {}, enable_idempotence=True)
    for run_id in run_ids:
        gone = (tokens, None, token_key(topic, run_id), PARTITION, _noting(failures))
        try:
            producer.produce(*gone)
        except BufferError:
            producer.flush(SECONDS)
            producer.produce(*gone)
    if producer.flush(SECONDS):
        failures.append(KafkaError(KafkaError._TIMED_OUT, "tokens are not deleted yet"))
    if failures:
        raise KafkaException(failures[0])


def _noting(failures: list[KafkaError]) -> Callable[[Any, Any], None]:
    def note(error: KafkaError | None, message: Any) -> None:
        if error is not None:
            failures.append(error)

    return note


def _messages(
    client: Client,
    topic: str,
    isolation: str,
    first: int = OFFSET_BEGINNING,
    end: int | None = None,
) -> Iterator[Any]:
    """The partition's messages from the first offset on. If there is no topic, there are none.

    Args:
        end: where to stop, at the earliest; if it cannot be read so far yet, it is waited for. If
            not given, what the end is now.
    """
    consumer = client.consumer(
        isolation_level=isolation, enable_partition_eof=True, fetch_wait_max_ms=20
    )
    with closing(consumer):
        partition = Partition(topic, PARTITION, first)
        try:
            _, now = consumer.get_watermark_offsets(partition, SECONDS)
        except KafkaException as error:
            if error.args[0].code() in UNKNOWN_TOPIC:
                return
            raise
        consumer.assign([partition])
        yield from _until(consumer, now if end is None else end)


def _until(consumer: Consumer, end: int) -> Iterator[Any]:
    """Messages, up to an end of what can be read that is not before ``end``."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        for message in _come(consumer):
            deadline = time.monotonic() + PATIENCE_SECONDS
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                if (message.offset() or 0) >= end:
                    return
            elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:  # it is not made use of
                raise KafkaException(error)
        if time.monotonic() > deadline:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no end of tokens in time"))


def _come(consumer: Consumer) -> list[Any]:
    """What comes next, and all that has come with it: whoever asks for many waits for many."""
    first = consumer.consume(1, _POLL_SECONDS)
    return first + consumer.consume(_MESSAGES, 0) if first else first
