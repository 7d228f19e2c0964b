"""Keeping messages from being given again while they wait for their commit.

What a pull gives is given again to anybody once the subscription's deadline has passed, which is
ten seconds by default: long before a commit. So deadlines are extended in a thread of their own,
from the pull until the commit, or until it has taken too long. The thread outlives the reader: a
run that ends is committed after its reader is closed. A process that dies extends nothing, and its
messages come again after ``LEASE_SECONDS``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...storage import StorageError
from ..errors import SourceError, Unavailable
from .client import Subscription

LEASE_SECONDS = 60
"""For how long a deadline is extended at once."""
_RENEW_SECONDS = 25.0
_TICK_SECONDS = 1.0
_ASK_SECONDS = 5.0
"""How often the newest commit is looked for."""
_FAR = 1 << 62
_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Lease:
    """Messages of one pull.

    Attributes:
        end: the position behind them, once they have been read.
        due: when it is to be extended next.
    """

    ack_ids: Sequence[str]
    bytes: int
    end: int = _FAR
    pulled: float = field(default_factory=time.monotonic)
    due: float = 0.0

    @property
    def is_read(self) -> bool:
        """Whether its messages have been read, and wait for their commit."""
        return self.end != _FAR


class Leases:
    """The leases of one subscription in this process.

    Args:
        connect: makes a connection, for the thread.
        most_seconds: for how long messages are held in all.
    """

    def __init__(
        self,
        connect: Callable[[], Subscription],
        most_seconds: float,
    ) -> None:
        self._connect = connect
        self.ask_committed: Callable[[], int] = lambda: 0
        """Gives the position up to which all is committed, as it is written down."""
        self._most_seconds = most_seconds
        self._lock = threading.Condition()
        self._leases: set[Lease] = set()
        self._settled: list[str] = []  # acknowledgement ids of what is committed
        self._committed = 0
        self._waiting = (0, 0)
        self._asked = time.monotonic()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        """Hold messages that have just been pulled."""
        with self._lock:
            self._leases.add(lease)
            self._start()

    def drop(self, leases: Sequence[Lease]) -> None:
        """Hold messages no more."""
        with self._lock:
            self._leases.difference_update(leases)

    def acknowledge(self, ack_ids: Sequence[str]) -> None:
        """Acknowledge messages that are known to be committed."""
        with self._lock:
            self._settled += ack_ids
            self._start()
            self._lock.notify()

    def raise_committed(self, position: int) -> None:
        """Note that all before a position is committed."""
        with self._lock:
            self._committed = max(self._committed, position)
            self._leases = {lease for lease in self._leases if lease.end > self._committed}
            self._count()

    @property
    def committed(self) -> int:
        """The position up to which all is known to be committed."""
        return self._committed

    def set_read(self, leases: Sequence[Lease], end: int) -> None:
        """Note that messages have been read, up to a position."""
        with self._lock:
            for lease in leases:
                lease.end = end
            self._count()

    def waiting(self) -> tuple[int, int]:
        """How many messages wait for their commit, and how many bytes they have."""
        return self._waiting

    def take_all(self) -> list[str]:
        """End all leases; gives what their messages are acknowledged by."""
        with self._lock:
            found = [ack_id for lease in self._leases for ack_id in lease.ack_ids]
            self._leases.clear()
            self._count()
        return found

    def _count(self) -> None:
        read = [lease for lease in self._leases if lease.is_read]
        size = sum(lease.bytes for lease in read)
        self._waiting = sum(len(lease.ack_ids) for lease in read), size

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="millstream-leases", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        client: Subscription | None = None
        try:
            while self._goes_on():
                with self._lock:
                    settled, self._settled = self._settled, []
                try:
                    client = client or self._connect()
                    client.acknowledge(settled)
                    self._look()
                    self._extend(client)
                except (SourceError, Unavailable, StorageError) as error:
                    # What is not extended or acknowledged comes again, and is known then.
                    _LOG.debug("leases are not extended: %s", error)
                with self._lock:
                    if not self._settled:
                        self._lock.wait(_TICK_SECONDS)
        finally:
            if client is not None:
                client.close()

    def _goes_on(self) -> bool:
        with self._lock:
            if self._leases or self._settled:
                return True
            self._thread = None
            return False

    def _look(self) -> None:
        """See now and then what another process has committed."""
        with self._lock:
            if not any(lease.is_read for lease in self._leases):
                return
        if time.monotonic() - self._asked >= _ASK_SECONDS:
            self._asked = time.monotonic()
            self.raise_committed(self.ask_committed())

    def _extend(self, client: Subscription) -> None:
        now = time.monotonic()
        with self._lock:
            over = {lease for lease in self._leases if now - lease.pulled > self._most_seconds}
            self._leases -= over
            self._count()
            due = [lease for lease in self._leases if lease.due <= now]
        if over:
            _LOG.warning(
                "%d messages have waited for a commit for more than %.0f seconds, and are held no "
                "more: Pub/Sub gives them again",
                sum(len(lease.ack_ids) for lease in over),
                self._most_seconds,
            )
        for lease in due:
            lease.due = now + _RENEW_SECONDS
        client.extend([ack_id for lease in due for ack_id in lease.ack_ids], LEASE_SECONDS)
