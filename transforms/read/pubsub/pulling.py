"""Pulling ahead: several pulls on their way at a time, and what they gave in a queue."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import SourceError, Unavailable
from .client import Subscription
from .leases import Lease, Leases
from .pulled import Pulled

PULLS = 4
"""Pulls that are on their way at a time."""
_AHEAD = 32
"""Answers that may wait to be read."""
_SHORTEST_PAUSE = 0.02
_IDLE_PAUSE = 0.2
_FULL_PAUSE = 0.05
_LONGEST_PAUSE = 10.0
_END_SECONDS = 1.0


class Answer(NamedTuple):
    """What a pull gave, and the lease of its messages."""

    pulled: Pulled
    lease: Lease


class Pulling:
    """Threads that pull, from :meth:`start` until it is closed.

    Args:
        waits: whether not to pull just now.
    """

    def __init__(self, client: Subscription, leases: Leases, waits: Callable[[], bool]) -> None:
        self._client = client
        self._leases = leases
        self._waits = waits
        self._answers: queue.Queue[Answer] = queue.Queue()
        self._stop = threading.Event()
        self._failure: SourceError | None = None
        self._fault: Unavailable | None = None
        self._heard = time.monotonic()
        self._threads: list[threading.Thread] = []

    def start(self, pull: Callable[[], list[Any]]) -> None:
        """Begin to pull; once it has begun, this does nothing."""
        while len(self._threads) < PULLS:
            thread = threading.Thread(
                target=self._run, args=[pull], name="millstream-pull", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def next(self, seconds: float) -> Answer | None:
        """What was pulled first; ``None`` if nothing comes in time.

        Raises:
            SourceError: the subscription cannot be read.
        """
        try:
            return self._answers.get(timeout=seconds) if seconds > 0 else self._answers.get_nowait()
        except queue.Empty:
            if self._failure:
                raise self._failure from None
            return None

    def silence(self) -> tuple[float, Unavailable | None]:
        """For how many seconds the service has not answered, and what it was that failed."""
        return time.monotonic() - self._heard, self._fault

    def ask(self) -> bool:
        """Ask whether there is something now; what there is can be read next.

        Raises:
            SourceError, Unavailable: as :meth:`Subscription.pull_now`.
        """
        received = self._client.pull_now()
        self._answered()
        if received:
            self._put(received)
        return bool(received) or not self._answers.empty()

    def close(self) -> None:
        """End the threads, and give back what was not read."""
        self._stop.set()
        # What a pull is given that is cut off is held for nobody until the deadline has passed.
        until = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        left = self._unread()
        with suppress(SourceError, Unavailable):  # they come again anyway, later
            self._client.extend([i for answer in left for i in answer.lease.ack_ids], 0)
        self._client.close()
        for thread in self._threads:
            thread.join(_END_SECONDS)
        self._unread()

    def _unread(self) -> list[Answer]:
        """Answers that nobody has read. They are not held any more."""
        found: list[Answer] = []
        with suppress(queue.Empty):
            while True:
                found.append(self._answers.get_nowait())
        self._leases.drop([answer.lease for answer in found])
        return found

    def _run(self, pull: Callable[[], list[Any]]) -> None:
        pause = _SHORTEST_PAUSE
        while not self._stop.is_set():
            if self._waits() or self._answers.qsize() >= _AHEAD:
                self._stop.wait(_FULL_PAUSE)
                continue
            try:
                received = pull()
            except SourceError as error:
                self._failure = error
                return
            except Unavailable as error:
                self._fault = error
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._answered()
            if received:
                self._put(received)
                pause = _SHORTEST_PAUSE
            else:
                self._stop.wait(pause)
                pause = min(2 * pause, _IDLE_PAUSE)

    def _answered(self) -> None:
        self._heard = time.monotonic()
        self._fault = None

    def _put(self, received: list[Any]) -> None:
        pulled = Pulled.of(received)
        lease = Lease(pulled.ack_ids, pulled.bytes)
        self._leases.add(lease)
        self._answers.put(Answer(pulled, lease))
