"""Messages as columns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ....schemas.arrow import PAYLOADS

_POSITIVE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Pulled:
    """Messages that were pulled, in the order in which they came.

    Attributes:
        ids: the messages' ids as numbers, ``int64``.
        published: when they were published, in microseconds since the epoch, ``int64``. A message
            that is given again has the same; an emulator that is started anew gives ids anew.
        ack_ids: what each is acknowledged by.
        received: the messages themselves, kept for what few ask for.
    """

    ids: np.ndarray
    published: np.ndarray
    ack_ids: Sequence[str]
    received: Sequence[Any]

    @classmethod
    def of(cls, received: Sequence[Any]) -> Pulled:
        """Messages as the service gives them."""
        messages = [one.message for one in received]
        times = [message.publish_time for message in messages]
        seconds = np.fromiter((time.seconds for time in times), np.int64, len(times))
        nanos = np.fromiter((time.nanos for time in times), np.int64, len(times))
        ids = numbers([message.message_id for message in messages])
        ack_ids = [one.ack_id for one in received]
        return cls(ids, seconds * 1_000_000 + nanos // 1000, ack_ids, received)

    def __len__(self) -> int:
        return len(self.received)

    @property
    def bytes(self) -> int:
        """What they take in memory, about."""
        return sum(len(one.message.data) for one in self.received) + 500 * len(self)

    def take(self, rows: np.ndarray) -> Pulled:
        """Some of them, by their numbers, which ascend."""
        if len(rows) == len(self):
            return self
        ack_ids, received = (
            list(map(column.__getitem__, rows.tolist())) for column in (self.ack_ids, self.received)
        )
        return Pulled(self.ids[rows], self.published[rows], ack_ids, received)

    def batch(self, source: str) -> pa.RecordBatch:
        """Their payloads, by ``millstream.schemas.arrow.PAYLOADS``; positions are ids."""
        sources = pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(len(self), np.int32)), pa.array([source])
        )
        payloads = pa.array([one.message.data for one in self.received], pa.binary())
        return pa.RecordBatch.from_arrays([sources, pa.array(self.ids), payloads], schema=PAYLOADS)

    def messages(self, ids: Sequence[int]) -> list[Any]:
        """The messages that have some ids, which are all there."""
        order = np.argsort(self.ids)
        rows = order[np.searchsorted(self.ids, np.array(ids, np.int64), sorter=order)]
        return [self.received[row].message for row in rows.tolist()]


def concat(pieces: Sequence[Pulled]) -> Pulled:
    """Messages one after another."""
    if len(pieces) == 1:
        return pieces[0]
    ack_ids = [ack_id for piece in pieces for ack_id in piece.ack_ids]
    received = [one for piece in pieces for one in piece.received]
    none = [np.zeros(0, np.int64)]
    return Pulled(
        np.concatenate([piece.ids for piece in pieces] or none),
        np.concatenate([piece.published for piece in pieces] or none),
        ack_ids,
        received,
    )


def numbers(ids: Sequence[str]) -> np.ndarray:
    """Ids as numbers. Pub/Sub's are decimal numbers of at most 19 digits; of what is none, or is
    too large, it is 63 bits of a hash."""
    try:
        return np.fromiter(map(int, ids), np.int64, len(ids))
    except (ValueError, OverflowError):
        return np.fromiter(map(_number, ids), np.int64, len(ids))


def _number(text: str) -> int:
    if text.isascii() and text.isdigit() and (number := int(text)) <= _POSITIVE:
        return number
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & _POSITIVE
