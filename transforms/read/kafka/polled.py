"""Messages as columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from confluent_kafka import Message


@dataclass(frozen=True, slots=True)
class Polled:
    """What was read of one partition at once, in the order of offsets.

    Attributes:
        offsets: one a message, ``int64``.
        payloads: the messages' values, ``binary``; null where a message has none (a tombstone).
        next: the offset that is read next: behind the last message, and behind all that lies after
            it and is no message.
        messages: kept for what few ask for.
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

    def keys(self, rows: Iterable[int]) -> pa.Array:
        """The keys of some messages, by their numbers in the batch; ``binary``."""
        return pa.array([self.messages[row].key() for row in rows], pa.binary())

    def message(self, offset: int) -> Message | None:
        """The message that has an offset."""
        if not self.messages:
            return None
        row = offset - (self.messages[0].offset() or 0)  # unless some are missing in between
        if not 0 <= row < self.rows or self.messages[row].offset() != offset:
            row = int(np.searchsorted(self.offsets.to_numpy(), offset))
        is_here = row < self.rows and self.messages[row].offset() == offset
        return self.messages[row] if is_here else None

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


def as_columns(partition: int, messages: Sequence[Message], next: int) -> Polled:
    """Messages of one partition as columns.

    Args:
        next: the offset that is read next, if none of the messages is behind it.
    """
    offsets = _offsets(messages)
    values = pa.array(list(map(Message.value, messages)), pa.binary())
    if messages:
        next = max(next, offsets[-1].as_py() + 1)
    return Polled(partition, offsets, values, next, messages)


def _offsets(messages: Sequence[Message]) -> pa.Array:
    if not messages:
        return pa.array([], pa.int64())
    first, last = messages[0].offset() or 0, messages[-1].offset() or 0
    if last - first == len(messages) - 1:  # they only ever grow
        return pa.array(np.arange(first, last + 1))
    return pa.array(np.fromiter(map(Message.offset, messages), np.int64, len(messages)))
