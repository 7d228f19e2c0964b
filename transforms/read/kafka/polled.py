"""Messages as columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Message

Header = tuple[str, str | bytes | None]


@dataclass(frozen=True, slots=True)
class Polled:
    """What was read of one partition at once, in the order of offsets.

    Attributes:
        offsets: one a message, ``int64``.
        payloads: the messages' values, ``binary``; null where a message has none (a tombstone).
        next: the offset that is read next: behind the last message, and behind all that lies after
            it and is no message.
        messages: kept for what few ask for, if they are kept.
    """

    partition: int
    offsets: pa.Array
    payloads: pa.Array
    next: int
    messages: Sequence[Message]

    @property
    def rows(self) -> int:
        """Messages. There may be none, where ``next`` alone has moved."""
        return len(self.offsets)

    def timestamps(self) -> pa.Array:
        """Milliseconds since the epoch, ``int64``; null where a message has no time stamp."""
        pairs = list(map(Message.timestamp, self._kept()))
        times = np.fromiter(map(itemgetter(1), pairs), np.int64, len(pairs))
        kinds = np.fromiter(map(itemgetter(0), pairs), np.int8, len(pairs))
        return pa.array(times, mask=kinds == 0)

    def keys(self, rows: Iterable[int]) -> pa.Array:
        """The keys of some messages, by their numbers in the batch; ``binary``."""
        messages = self._kept()
        return pa.array([messages[row].key() for row in rows], pa.binary())

    def headers(self, rows: Iterable[int]) -> list[list[Header]]:
        """The headers of some messages, by their numbers in the batch."""
        messages = self._kept()
        return [_pairs(messages[row]) for row in rows]

    def upto(self, end: int) -> Polled:
        """What lies before an offset."""
        rows = int(np.searchsorted(self.offsets.to_numpy(), end))
        return Polled(
            self.partition,
            self.offsets[:rows],
            self.payloads[:rows],
            min(self.next, end),
            self.messages[:rows],
        )

    def _kept(self) -> Sequence[Message]:
        if len(self.messages) < self.rows:
            raise LookupError("of what was polled, the messages were not kept")
        return self.messages


def by_partition(messages: Sequence[Message]) -> dict[int, Sequence[Message]]:
    """Messages by their partitions, in the order in which they came."""
    n = len(messages)
    if not n:
        return {}
    partitions = np.fromiter(map(Message.partition, messages), np.int32, n)
    # A broker's answers come one after another, each of one partition: there are few pieces.
    cuts = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), n]
    pieces: dict[int, list[Sequence[Message]]] = {}
    for begin, end in itertools.pairwise(cuts):
        pieces.setdefault(int(partitions[begin]), []).append(messages[begin:end])
    return {
        partition: found[0] if len(found) == 1 else [m for piece in found for m in piece]
        for partition, found in pieces.items()
    }


def as_columns(
    partition: int, messages: Sequence[Message], next: int, *, keep: bool = True
) -> Polled:
    """Messages of one partition as columns.

    Args:
        next: the offset that is read next, if none of the messages is behind it.
        keep: the messages too.
    """
    offsets = _offsets(messages)
    values = pa.array(list(map(Message.value, messages)), pa.binary())
    if messages:
        next = max(next, offsets[-1].as_py() + 1)
    return Polled(partition, offsets, values, next, messages if keep else ())


def _pairs(message: Message) -> list[Header]:
    headers: Any = message.headers()
    return list(headers or ())


def _offsets(messages: Sequence[Message]) -> pa.Array:
    if not messages:
        return pa.array([], pa.int64())
    first, last = messages[0].offset() or 0, messages[-1].offset() or 0
    if last - first == len(messages) - 1:  # they only ever grow
        return pa.array(np.arange(first, last + 1))
    return pa.array(np.fromiter(map(Message.offset, messages), np.int64, len(messages)))
