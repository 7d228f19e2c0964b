"""What Kafka's messages carry beside their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from ...dead_letters import Attributes
from ..streams.attributes import attribute
from ..streams.source import Carried
from .polled import Polled


@dataclass(frozen=True)
class KafkaCarried(Carried):
    """Keys, headers and time stamps of what was polled; see :mod:`.inputs` for their names.

    Attributes:
        pieces: source, and what was polled of it.
    """

    pieces: Sequence[tuple[str, Polled]]

    def attributes(self, sources: Sequence[str], positions: Sequence[int]) -> list[Attributes]:
        by_source: dict[str, list[Polled]] = {}
        for source, polled in self.pieces:
            by_source.setdefault(source, []).append(polled)
        return [
            _attributes(_message(by_source[source], offset))
            for source, offset in zip(sources, positions, strict=True)
        ]


def _message(pieces: Sequence[Polled], offset: int) -> Message:
    """The message that has an offset, which one of the pieces holds."""
    return next(message for piece in pieces if (message := piece.message(offset)) is not None)


def _attributes(message: Message) -> Attributes:
    found = []
    if (key := message.key()) is not None:
        found.append(attribute("kafka.key", key))
    kind, ms = message.timestamp()
    if kind != TIMESTAMP_NOT_AVAILABLE:
        found.append(attribute("kafka.timestamp", str(ms)))
    return [*found, *_headers(message)]


def _headers(message: Message) -> Attributes:
    try:
        headers: Any = message.headers()
    except SystemError:
        # The client cannot make a text of a name. To ask again would give a tuple with a hole in
        # it, and whoever looks there ends the process.
        return [("kafka.headers", None)]
    return [attribute("kafka.header", value, name) for name, value in headers or ()]
