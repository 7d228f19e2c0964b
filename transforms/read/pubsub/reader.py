"""Reading a subscription: batches of messages that were not read before."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from ..errors import Unavailable
from ..streams.source import Polled, StreamReader
from .carried import PubsubCarried
from .client import Subscription
from .inputs import PubsubInput
from .leases import Leases
from .pulled import concat
from .pulling import Answer, Pulling
from .receipts import receipt
from .seen import SeenIds

ROWS = 20_000
"""Messages of a batch of :meth:`PubsubReader.until`, about."""
PATIENCE_SECONDS = 60.0
"""How long :meth:`PubsubReader.until` waits for a service that does not answer."""
_QUIET_SECONDS = 1.0
_EMPTY = 3
"""Answers in a row without a message, after which a subscription that is quiet has no more."""
_LOG = logging.getLogger(__name__)


class PubsubReader(StreamReader):
    """Reads a subscription; to be used in a ``with`` block.

    A message that comes again is not given again: if it is committed, it is acknowledged at once;
    if it waits for its commit, it is once that is made. Positions count the messages that were not
    read before.

    Args:
        client: it is closed with the reader.
        leases: of the subscription.
        seen: what is committed lately.
        position: how many messages have been read.
    """

    def __init__(
        self,
        input: PubsubInput,
        client: Subscription,
        leases: Leases,
        seen: SeenIds,
        position: int,
    ) -> None:
        self._input = input
        self._client = client
        self._pulling = Pulling(client, leases, partial(is_full, input, leases))
        self._leases = leases
        self._seen = seen
        self.position = position

    def close(self) -> None:
        self._pulling.close()

    def poll(self, rows: int, seconds: float) -> Polled | None:
        # One that waits hears of a message at once.
        self._pulling.start(self._client.pull)
        if is_full(self._input, self._leases):
            time.sleep(min(seconds, 0.1))
            return None
        room = self._input.max_messages - self._leases.waiting()[0]
        answers = self._gathered(min(rows, room), seconds)
        return self._polled(answers) if answers else None

    def until(self, ends: Mapping[str, int]) -> Iterator[Polled]:
        """All that the subscription has, or about up to an end; see ``max_messages``."""
        # A pull that waits, and is given up at the end, would take messages from the next run.
        self._pulling.start(self._client.pull_now)
        end = ends.get(self._input.source, 0)
        quiet_since = time.monotonic()
        while self.position < end:
            if is_full(self._input, self._leases):
                _LOG.warning(
                    "%s: %d messages wait for their commit, and no more are read before it; the "
                    "next run goes on (max_messages, max_mb)",
                    self._input.place,
                    self._leases.waiting()[0],
                )
                return
            if polled := self.poll(ROWS, 0.2):
                yield polled
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > _QUIET_SECONDS and self._has_no_more():
                return

    def at_end(self) -> set[str]:
        try:
            return set() if self._pulling.ask() else {self._input.source}
        except Unavailable:
            return set()

    def hold(self, sources: set[str]) -> None:
        """There is one source, which waits for no other."""

    def discover(self) -> dict[str, int]:
        return {}

    def _has_no_more(self) -> bool:
        """Whether the service says so, several times.

        Raises:
            Unavailable: it has not answered for too long.
        """
        try:
            return not any(self._pulling.ask() for _ in range(_EMPTY))
        except Unavailable as error:
            silent, _ = self._pulling.silence()
            if silent > PATIENCE_SECONDS:
                raise
            _LOG.debug("asked again: %s", error)
            time.sleep(0.5)
            return False

    def _gathered(self, rows: int, seconds: float) -> list[Answer]:
        deadline = time.monotonic() + seconds
        found: list[Answer] = []
        count = 0
        while count < rows:
            answer = self._pulling.next(deadline - time.monotonic())
            if answer is None:
                break
            found.append(answer)
            count += len(answer.pulled)
        return found

    def _polled(self, answers: list[Answer]) -> Polled:
        pulled = concat([answer.pulled for answer in answers])
        places = self._seen.find(pulled.ids, pulled.published)
        fresh = np.flatnonzero(places < 0)
        first = np.sort(fresh[np.unique(pulled.ids[fresh], return_index=True)[1]])
        committed = (places >= 0) & (places < self._leases.committed)
        again = np.ones(len(pulled), bool)
        again[first] = False
        self._leases.acknowledge(pulled.take(np.flatnonzero(committed)).ack_ids)
        new = pulled.take(first)
        self._seen.add(new.ids, new.published, np.arange(len(new)) + self.position)
        self.position += len(new)
        self._leases.set_read([answer.lease for answer in answers], self.position)
        waiting = np.flatnonzero(again & ~committed)
        given = ((new, False), (pulled.take(waiting), True))
        source = self._input.source
        return Polled(
            new.batch(source),
            {source: self.position},
            receipts=tuple(receipt(some, is_again) for some, is_again in given if len(some)),
            duplicates={source: int(again.sum())},
            carried=PubsubCarried(new),
        )


def is_full(input: PubsubInput, leases: Leases) -> bool:
    """Whether so much waits for its commit that no more is to be read."""
    messages, size = leases.waiting()
    return messages >= input.max_messages or size >= input.max_mb << 20
