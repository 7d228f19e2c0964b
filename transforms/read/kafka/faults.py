"""What a stream may say instead of giving messages, and what comes of it."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException, Message

from ...kafka.client import UNKNOWN_TOPIC, Client
from ..errors import SourceError, Unavailable
from .bounds import Topic, beyond, gone
from .inputs import KafkaInput

PASSING = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError.GROUP_AUTHORIZATION_FAILED,  # the group is for others to look at
}
"""What the client tries again by itself, or what does not matter."""
_CORRUPT = {
    KafkaError._BAD_COMPRESSION,
    KafkaError._BAD_MSG,
    KafkaError._NOT_IMPLEMENTED,  # a format of messages that there is not
    KafkaError.INVALID_MSG,
}
"""What is told of a batch that is broken. What the client says after it means nothing: it reads on
in the middle of the batch."""


class Faults:
    """What the errors in a stream of messages mean.

    Args:
        topic_id: the topic that is being read.
    """

    def __init__(self, input: KafkaInput, client: Client, topic: Topic, topic_id: str) -> None:
        self._input = input
        self._client = client
        self._topic = topic
        self._topic_id = topic_id

    def of(self, message: Message, error: KafkaError, position: int) -> Exception | None:
        """What has to be raised for an error of a partition, if anything.

        Args:
            position: the offset that was to be read next.
        """
        try:
            self._raise(message, error, position)
        except (SourceError, Unavailable) as found:
            return found
        return None

    def _raise(self, message: Message, error: KafkaError, position: int) -> None:
        code, partition = error.code(), message.partition() or 0
        if code in PASSING:
            return
        if code in _CORRUPT:
            raise SourceError(
                f"{self._input.place}: the broker has a batch in partition {partition} that cannot "
                f"be read, at offset {position}: {error.str()}. Begin behind it with "
                f"start={partition}:OFFSET, or mend the broker's copy"
            )
        if code in UNKNOWN_TOPIC:
            # A broker that has just come up does not know all topics yet.
            self._topic.check(self._topic_id, [partition])
        elif code == KafkaError._AUTO_OFFSET_RESET:
            self._topic.check(self._topic_id, [partition])
            self._raise_out_of_range(partition, position)
        else:
            with self._client.explained():
                raise KafkaException(error)

    def _raise_out_of_range(self, partition: int, position: int) -> None:
        low = self._topic.lows([partition])[partition]
        if position < low:
            raise gone(self._input, partition, position, low)
        high = self._topic.highs([partition], decided=False)[partition]
        if position > high:
            raise beyond(self._input, partition, position, high)
        raise Unavailable(
            f"{self._input.place}: the broker did not have offset {position} of partition "
            f"{partition}, and has it now"
        )
