"""A subscription as a stream of batches, each message once.

Pub/Sub gives messages in no order, and some again. Here a position is a count of messages read:
intervals of it are contiguous, and say nothing of which messages they hold. Which messages are
committed is written down by their ids, with the very commit (:mod:`.committed`), for a horizon. So:

- What is read is acknowledged after the commit. Should that fail, the message comes again, is
  known, and is acknowledged then; the ledger counts it as a duplicate.
- A process that dies has acknowledged nothing that is not committed: it all comes again.
- What two processes read at once is committed by one of them: see :meth:`PubsubStream.remember`.

So it is on every runner, also on Dataflow, which puts a source of its own in the place of Beam's
``ReadFromPubSub``. That one acknowledges a message once the runner holds it, which is before it is
committed: from then on it is nowhere but in the state of one job. A job that is cancelled, as it is
when we are told to stop, or whose pipeline cannot be updated, would take it along, and no ledger
would tell, for ids leave no gap. What is read here comes again instead.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ... import storage
from ...carry import SourceState
from ...intervals.chain import Chain, Overtaken
from ..errors import SourceError, Unavailable
from ..streams.source import Polled, StreamReader, StreamSource
from .client import EMULATOR, Subscription
from .committed import MOST, CommittedIds
from .inputs import SCHEME, PubsubInput
from .leases import Leases
from .reader import PubsubReader
from .receipts import delivered
from .seen import SeenIds

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PubsubStream(StreamSource):
    """A subscription. It is read by one part of the stream; others have nothing to read.

    Attributes:
        chain: the commits of the job that reads it.
    """

    input: PubsubInput
    chain: Chain
    number: int = 0

    def open(self, states: Mapping[str, SourceState]) -> StreamReader:
        state = states.get(self.input.source)
        if state is None:
            return _Nothing()
        # A runner that has gone back to a checkpoint knows an older commit than there is.
        newest = self._newest()
        if newest.next > state.next:
            state = newest
        leases = _leases_of(self)
        leases.ask_committed = lambda: self._newest().next
        leases.raise_committed(newest.next)
        client = Subscription(self.input)
        left = leases.take_all()  # by a reader before this one, whose slices are not committed
        with suppress(Unavailable):
            client.extend(left, 0)
        seen = SeenIds(self._most)
        known = self._ids.read(state.cursor)
        seen.add(known.ids, known.published, np.zeros(len(known.ids), np.int64))
        return PubsubReader(self.input, client, leases, seen, state.next)

    def part(self, number: int, parts: int) -> StreamSource:
        return replace(self, number=number)

    def owns(self, source: str) -> bool:
        return self.number == 0 and source == self.input.source

    def remember(
        self, before: Mapping[str, SourceState], receipts: Sequence[str]
    ) -> dict[str, str]:
        source = self.input.source
        cursor = before.get(source, SourceState()).cursor
        found = delivered(receipts)
        new = ~found.again
        ids, published = found.ids[new], found.published[new]
        known = self._known(cursor)
        self._refuse_twice(known.find(ids, published) >= 0)
        after = self._ids.add(cursor, ids, published)
        known.add(ids, published, np.zeros(len(ids), np.int64))
        _KNOWN[self._folder] = after, known
        if found.again.any():
            again = known.find(found.ids[found.again], found.published[found.again])
            self._refuse_twice(again < 0)
        return {source: after} if after else {}

    def acknowledge(self, receipts: Sequence[str]) -> None:
        ack_ids = delivered(receipts).ack_ids
        if not ack_ids:
            return
        try:
            client = Subscription(self.input)
            try:
                client.acknowledge_all(ack_ids)
            finally:
                client.close()
        except (SourceError, Unavailable) as error:
            _LOG.warning("%s; what is committed comes again, and is known then", error)

    def committed(self, states: Mapping[str, SourceState]) -> None:
        state = states.get(self.input.source)
        if state is not None:
            _leases_of(self).raise_committed(state.next)
            self._ids.tidy(state.cursor)

    @property
    def _folder(self) -> str:
        home, name = self.chain.store.home, self.input.subscription
        return storage.join(home, "_millstream", "read", SCHEME, self.input.project, name)

    @property
    def _ids(self) -> CommittedIds:
        return CommittedIds(self._folder, self.input.horizon, self._most)

    @property
    def _most(self) -> int:
        return max(MOST, 2 * self.input.max_messages)

    def _known(self, cursor: str) -> SeenIds:
        """The ids that are committed by a cursor."""
        held = _KNOWN.pop(self._folder, None)
        if held is not None and held[0] == cursor:
            return held[1]
        found, known = self._ids.read(cursor), SeenIds(self._most)
        known.add(found.ids, found.published, np.zeros(len(found.ids), np.int64))
        return known

    def _refuse_twice(self, wrong: np.ndarray) -> None:
        if wrong.any():
            raise Overtaken(
                f"{self.input.place}: {int(wrong.sum())} messages were read by another process "
                "too, and this one has committed none of them; a subscription is read by one job"
            )

    def _newest(self) -> SourceState:
        """Where the newest commit stands."""
        carry = self.chain.carry()
        return (carry.sources if carry else {}).get(self.input.source, SourceState())


_KNOWN: dict[str, tuple[str, SeenIds]] = {}
"""Of each subscription that this process commits: the newest cursor, and the ids by it."""
_LEASES: dict[tuple[str, str], Leases] = {}
_LOCK = threading.Lock()


def _leases_of(stream: PubsubStream) -> Leases:
    """The leases of a subscription in this process."""
    input = stream.input
    key = os.environ.get(EMULATOR, ""), input.path
    with _LOCK:
        if key not in _LEASES:
            _LEASES[key] = Leases(partial(Subscription, input), input.max_extension)
        return _LEASES[key]


class _Nothing(StreamReader):
    """Reads no source at all."""

    def close(self) -> None:
        return

    def poll(self, rows: int, seconds: float) -> Polled | None:
        time.sleep(seconds)
        return None

    def until(self, ends: Mapping[str, int]) -> Iterator[Polled]:
        return iter(())

    def at_end(self) -> set[str]:
        return set()

    def hold(self, sources: set[str]) -> None:
        return

    def discover(self) -> dict[str, int]:
        return {}
